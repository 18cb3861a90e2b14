"""Celery on SQS: what a message says, how publishing fails, and the life and death of real worker processes."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery
from kombu.transport import SQS
from sqlalchemy import text, update

from integrator.clock import after
from integrator.ledger import transitions
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Rung
from integrator.ledger.schema import State, syncs
from integrator.secrets import new_key
from sandbox.shop import ShopSimulation
from sandbox.system_process import Process
from tasks.publishing import publisher
from tests.support import sync_row
from tests.workers import QUEUE, Plant, celery_for, control, depth, messages, opened, served, sqs, until

SHORT_DRAIN = """
import sys
from celery.__main__ import main
import tasks
sys.modules["tasks.app"].SHUTDOWN_SECONDS = 1
sys.argv[0] = "celery"
main()
"""
"""A worker that lets its runs finish for one second only."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """An SQS endpoint with the queue as it must be, and one as it must not."""
    with served(tmp_path, "sandbox.sqs", f"--queue={QUEUE}", "--queue=bare-orders:5") as url:
        yield url


@pytest.fixture
def plant(broker: str, tmp_path: Path, sqlite_ledger: Ledger) -> Iterator[Plant]:
    erp = served(tmp_path, "sandbox.erp", f"--file={tmp_path / 'erp.sqlite3'}")
    with erp as erp_url, ShopSimulation(6, seed=3) as shop:
        plant = Plant(tmp_path, sqlite_ledger, broker, erp_url, shop)
        plant.apply()
        yield plant
        plant.close()


@pytest.fixture
def celery(broker: str) -> Iterator[Celery]:
    app = celery_for(broker)
    yield app
    app.close()


def rung(count: int, tenant: str = "acme") -> list[Rung]:
    return [Rung(tenant, number, 3, "order", 1, datetime.now(UTC)) for number in range(1, count + 1)]


def ended(worker: Process) -> int | None:
    """Wait until it has ended by itself; its exit code."""
    until(lambda: not worker.alive)
    return worker.exit_code


# Publishing


def test_c7_given_a_bell_when_published_then_the_message_holds_ids_only(broker: str, celery: Celery) -> None:
    assert publisher(celery)(rung(1)) == []
    (message,) = messages(broker)
    assert message["Attributes"]["MessageGroupId"] == "acme"
    assert not message.get("MessageAttributes")
    envelope, (args, kwargs, embed) = opened(message)
    assert (args, kwargs) == (["acme", 1], {})
    assert set(embed.values()) == {None}
    headers = envelope["headers"]
    assert (headers["id"], headers["task"]) == ("1:3", "tasks.orders.sync_order")
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(…)", "{}")
    assert (headers["eta"], headers["expires"], headers["retries"]) == (None, None, 0)
    assert (envelope["content-type"], envelope["content-encoding"]) == ("application/json", "utf-8")
    assert not {"DelaySeconds", "delay_seconds"} & envelope["properties"].keys()
    assert depth(broker) == {"visible": 0, "in flight": 1}


def test_p3_given_nobody_at_the_endpoint_when_published_then_all_come_back_at_once() -> None:
    app = celery_for("http://127.0.0.1:9")
    began = time.monotonic()
    assert publisher(app)(rung(40)) == rung_ids(40)
    assert time.monotonic() - began < 4
    app.close()


class rung_ids:  # noqa: N801 - reads as a value
    """Equal to bells with the ids from one to a count, in order."""

    def __init__(self, count: int) -> None:
        self.ids = list(range(1, count + 1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and [one.sync_id for one in other] == self.ids

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("fault", ["hang", "503"])
def test_p3_given_an_endpoint_that_fails_when_published_then_all_come_back_in_one_timeout_and_then_it_recovers(
    broker: str, celery: Celery, fault: str
) -> None:
    publish = publisher(celery)
    control(broker, unavailable=fault)
    began = time.monotonic()
    assert publish(rung(40)) == rung_ids(40)
    assert time.monotonic() - began < 5, "3 s a batch, not 3 s a message"
    assert sum(control(broker)["requests"].values()) == 1, "and nothing is repeated"
    control(broker, unavailable=False)
    assert publish(rung(2)) == []
    assert depth(broker)["visible"] == 2


def test_p3_given_many_bells_when_published_then_ten_go_in_a_call(broker: str, celery: Celery) -> None:
    assert publisher(celery)(rung(25)) == []
    asked = control(broker)["requests"]
    assert {name: times for name, times in asked.items() if "Send" in name} == {"SendMessageBatch": 3}
    assert depth(broker)["visible"] == 25


def test_p3_given_an_endpoint_that_fails_midway_when_published_then_the_rest_comes_back(
    broker: str, celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def clock() -> float:
        asked.append(0.0)
        if len(asked) == 2:  # before the second call
            control(broker, unavailable="503")
        return 0.0

    monkeypatch.setattr("tasks.publishing.boottime", clock)
    failed = publisher(celery)(rung(35))
    assert [one.sync_id for one in failed] == list(range(11, 36))
    control(broker, unavailable=False)
    assert depth(broker)["visible"] == 10


def test_p3_given_messages_that_the_endpoint_refuses_when_published_then_just_those_come_back(
    broker: str, celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        """A client whose endpoint refuses the third message of each call."""

        def __init__(self, client: Any) -> None:
            self.client = client

        def send_message_batch(self, **given: Any) -> dict[str, Any]:
            entries = given.pop("Entries")
            answer: dict[str, Any] = self.client.send_message_batch(**given, Entries=entries[:2] + entries[3:])
            return answer | {"Failed": [{"Id": entries[2]["Id"], "Code": "InternalError", "SenderFault": False}]}

        def __getattr__(self, name: str) -> Any:
            return getattr(self.client, name)

    really: Any = SQS.Channel.sqs
    monkeypatch.setattr(SQS.Channel, "sqs", lambda *args: refusing.setdefault("one", Refusing(really(*args))))
    refusing: dict[str, Refusing] = {}
    assert [one.sync_id for one in publisher(celery)(rung(13))] == [3, 13]
    assert depth(broker)["visible"] == 11


def test_p3_given_an_endpoint_that_answers_slowly_when_published_then_what_is_left_after_3_s_comes_back(
    broker: str, celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([0.0, 2.9, 3.1])
    monkeypatch.setattr("tasks.publishing.boottime", lambda: next(ticks))
    assert [one.sync_id for one in publisher(celery)(rung(45))] == list(range(21, 46))
    assert depth(broker)["visible"] == 20


# Refusing to start


def test_given_what_must_not_be_when_a_worker_starts_then_one_line_says_what_to_do(plant: Plant) -> None:
    old = plant.folder / "old.sqlite3"
    old.write_bytes((plant.folder / "ledger.sqlite3").read_bytes())
    with Ledger(f"sqlite:///{old}").write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    refusals = {
        "flask --app web ledger upgrade": {"INTEGRATOR_LEDGER_URL": f"sqlite:///{old}"},
        "can't be used": {"INTEGRATOR_LEDGER_URL": "postgresql+psycopg://u:s3cret@127.0.0.1:9/x"},
        "INTEGRATOR_SECRET_KEYS is not set": {"INTEGRATOR_SECRET_KEYS": ""},
        "None of the keys in INTEGRATOR_SECRET_KEYS": {"INTEGRATOR_SECRET_KEYS": new_key()},
        "missing-orders can't be read": {"INTEGRATOR_SQS_QUEUE_PREFIX": "missing-"},
        "VisibilityTimeout is 5 instead of 120": {"INTEGRATOR_SQS_QUEUE_PREFIX": "bare-"},
    }
    workers = {says: plant.worker(**env) for says, env in refusals.items()}
    for says, worker in workers.items():
        assert ended(worker) == 1
        (line,) = [line for line in worker.said().splitlines() if not line.startswith("{")]
        assert says in line
        assert "s3cret" not in line


# Working


def test_given_orders_when_a_worker_runs_then_done_and_its_log_is_json_without_what_they_hold(
    plant: Plant,
) -> None:
    ids = plant.deliver(3)
    app = celery_for(plant.sqs_url)
    app.send_task("tasks.orders.unknown", args=("ana@example.com",), queue=QUEUE)
    app.send_task("tasks.orders.sync_order", args=("acme",), queue=QUEUE)
    app.close()
    sqs(plant.sqs_url).send_message(
        QueueUrl=f"{plant.sqs_url}/000000000000/{QUEUE}", MessageBody="ana@example.com"
    )
    plant.dispatch()
    worker = plant.worker()
    until(lambda: plant.states() == [State.DONE] * 3)
    until(lambda: depth(plant.sqs_url)["visible"] == 0)
    worker.terminate()
    assert worker.exit_code == 0
    assert len(plant.orders()) == 3
    lines = [orjson.loads(line) for line in worker.said().splitlines()]
    assert {line["event"] for line in lines} >= {"step_applied", "sync_finished", "worker_draining", "task_broke"}
    finished = [line for line in lines if line["event"] == "sync_finished"]
    assert {(line["sync_id"], line["tenant"], line["correlation_id"]) for line in finished} == {
        (sync_id, "acme", sync_row(plant.ledger, sync_id).correlation_id) for sync_id in ids
    }
    succeeded = [line["event"] for line in lines if " succeeded in " in line["event"]]
    assert [f"[{sync_id}:1]" in str(succeeded) for sync_id in ids] == [True] * 3
    said = worker.said()
    for personal in ("ana@example.com", "t0ken", *_personal(plant)):
        assert personal not in said


def _personal(plant: Plant) -> list[str]:
    bodies = [orjson.loads(life.events[0].body) for life in plant.shop.lives[:3]]
    return [str(body[name]) for body in bodies for name in ("email", "phone") if body.get(name)]


def test_f3_given_a_system_that_is_down_when_a_worker_runs_then_retry_is_shown_and_nothing_is_published(
    plant: Plant,
) -> None:
    control(plant.erp_url, down=True)
    (sync_id,) = plant.deliver(1)
    plant.dispatch()
    worker = plant.worker()
    until(lambda: sync_row(plant.ledger, sync_id).attempts == 1)
    until(lambda: " retry: runs again later" in worker.said())
    assert depth(plant.sqs_url) == {"visible": 0, "in flight": 0}
    assert sync_row(plant.ledger, sync_id).state == State.RETRYING
    assert not [name for name in control(plant.sqs_url)["requests"] if name.startswith("ChangeMessage")]


def test_c7_given_messages_of_other_versions_when_a_worker_runs_then_they_are_answered(plant: Plant) -> None:
    ids = plant.deliver(2)
    with plant.ledger.write() as connection:
        assert len(transitions.ring(connection, ids)) == 2
    app = celery_for(plant.sqs_url)
    send = {"name": "tasks.orders.sync_order", "queue": QUEUE}
    app.send_task(args=("acme", ids[0]), kwargs={"newer": {"a": 1}}, task_id="any id", **send)
    app.send_task(kwargs={"tenant": "acme", "sync_id": ids[1]}, **send)
    app.close()
    plant.worker()
    until(lambda: plant.states() == [State.DONE] * 2)


# Stopping and dying


def test_given_sigterm_during_runs_when_they_can_finish_then_they_do_and_the_worker_exits_with_zero(
    plant: Plant,
) -> None:
    plant.deliver(6)
    control(plant.erp_url, latency_ms=4_000)
    plant.dispatch()
    worker = plant.worker()
    until(lambda: control(plant.erp_url)["requests"].get("create", 0) == 2)
    worker.ask_to_end()
    until(lambda: depth(plant.sqs_url) == {"visible": plant.states().count(State.QUEUED), "in flight": 0})
    assert plant.states().count(State.RUNNING) == 2, "what will not be begun is there for others meanwhile"
    assert ended(worker) == 0
    states = plant.states()
    assert State.RUNNING not in states
    assert states.count(State.DONE) >= 2
    queued = states.count(State.QUEUED)
    assert queued >= 1
    assert sum(depth(plant.sqs_url).values()) == queued, "what was prefetched is not lost"
    assert control(plant.sqs_url)["requests"]["ChangeMessageVisibilityBatch"] >= 1, "and is released"


def test_given_sigterm_during_a_run_when_a_bell_is_rung_meanwhile_then_it_stays_for_another_worker(
    plant: Plant,
) -> None:
    plant.deliver(1)
    control(plant.erp_url, latency_ms=5_000)
    plant.dispatch()
    worker = plant.worker()
    until(lambda: control(plant.erp_url)["requests"].get("create", 0) == 1)
    worker.ask_to_end()
    until(lambda: "worker_draining" in worker.said())
    time.sleep(2)  # it gives up listening; were that later, it would work on what comes
    plant.deliver(2)
    assert plant.dispatch() == 1
    assert worker.alive
    assert ended(worker) == 0
    assert depth(plant.sqs_url) == {"visible": plant.states().count(State.QUEUED), "in flight": 0}


def test_given_sigterm_during_runs_when_they_can_not_finish_then_they_are_given_back_and_run_elsewhere(
    plant: Plant,
) -> None:
    plant.deliver(2)
    control(plant.erp_url, latency_ms=2_500)
    plant.dispatch()
    worker = plant.worker(program=SHORT_DRAIN)
    until(lambda: control(plant.erp_url)["requests"].get("create", 0) == 2)
    worker.ask_to_end()
    until(lambda: plant.states() == [State.PENDING] * 2)
    assert worker.alive, "the calls are still under way"
    assert ended(worker) == 0
    control(plant.erp_url, latency_ms=0)
    plant.dispatch()
    plant.worker()
    until(lambda: plant.states() == [State.DONE] * 2)
    assert [sync_row(plant.ledger, sync_id).vanished for sync_id in (1, 2)] == [0, 0]
    assert len(plant.orders()) == 2, "one effect each: they went out twice under one key"


def test_c4_given_a_worker_that_is_killed_after_the_effect_when_taken_over_then_another_finishes_it(
    plant: Plant,
) -> None:
    (sync_id,) = plant.deliver(1)
    plant.dispatch()
    killed = plant.worker(INTEGRATOR_FAILPOINTS="worker.answered=1")
    assert ended(killed) == -9
    row = sync_row(plant.ledger, sync_id)
    assert (row.state, row.claim) == (State.RUNNING, 1)
    assert len(plant.orders()) == 1
    with plant.ledger.write() as connection:
        connection.execute(update(syncs).values(lease_until=after(-5)))
        assert transitions.take_over(connection, 0.5) == [(sync_id, State.PENDING)]
    plant.dispatch()
    plant.worker()
    until(lambda: plant.states() == [State.DONE])
    assert (sync_row(plant.ledger, sync_id).claims, len(plant.orders())) == (2, 1)
    with plant.ledger.read() as connection:
        assert audit(connection) == []
