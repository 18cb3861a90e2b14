"""The scheduler: what it does and how often, what it survives, and that two are harmless (PROTOCOL P4, P5, C4)."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from integrator.clock import after
from integrator.config import settings
from integrator.dispatch import Dispatcher
from integrator.ledger import transitions
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Rung
from integrator.ledger.schema import State, syncs
from tasks import queues, scheduler
from tasks.queues import QUEUES, QueueMismatch
from tasks.scheduler import Chore, chores
from tests.log_lines import Lines, log_lines
from tests.support import World, deliver, delivery, make_tenant, order, sync_row


class Bells:
    """Publishes into a list; threads share it."""

    def __init__(self) -> None:
        self.rung: list[int] = []

    def __call__(self, rung: list[Rung]) -> list[Rung]:
        self.rung += [one.sync_id for one in rung]
        return []


class Sqs:
    """An SQS client that knows attributes only."""

    def __init__(self, **attributes: str) -> None:
        self.attributes = attributes
        self.error: Exception | None = None

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:  # noqa: N803
        assert QueueUrl.removesuffix("-dlq") == settings().queue_url("orders")
        if self.error:
            raise self.error
        wanted = self.attributes if AttributeNames == ["All"] else AttributeNames
        return {"Attributes": {name: self.attributes[name] for name in wanted if name in self.attributes}}


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Sqs:
    sqs = Sqs(ApproximateNumberOfMessages="0", ApproximateNumberOfMessagesNotVisible="0")
    monkeypatch.setattr(queues, "client", lambda: sqs)
    return sqs


@pytest.fixture
def lines() -> Iterator[Lines]:
    with log_lines("INFO") as written:
        yield written


def keep(ledger: Ledger, world: World, count: int) -> list[int]:
    batch = [delivery(world, order(str(number))) for number in range(count)]
    return [one.sync_id for one in deliver(ledger, *batch) if one.sync_id is not None]


def force(ledger: Ledger, sync_ids: list[int], **values: Any) -> None:
    with ledger.write() as connection:
        connection.execute(update(syncs).where(syncs.c.id.in_(sync_ids)).values(**values))


def named(todo: list[Chore], name: str) -> Chore:
    (found,) = (chore for chore in todo if chore.name.startswith(name))
    return found


def test_given_the_scheduler_when_it_starts_then_it_does_this_this_often(sqlite_ledger: Ledger) -> None:
    todo = chores(sqlite_ledger, Dispatcher(sqlite_ledger, Bells()))
    assert {chore.name: chore.every_seconds for chore in todo} == {
        "take over expired runs": 1,
        "dispatch": 1,
        **{f"ring again on {queue.name}": 10 for queue in QUEUES},
        "drop old deliveries": 60,
        "drop old keys": 60,
        "empty old requests": 60,
        "drop old attempts": 60,
        "read the ledger's gauges": 15,
        "measure the ledger's disk": 15,
        "read the queues' gauges": 15,
    }


def test_given_a_chore_when_time_passes_then_it_is_done_each_time_it_is_due() -> None:
    done: list[float] = []
    chore = Chore("x", 10, lambda: done.append(now))
    for now in (0.0, 1.0, 9.9, 10.0, 15.0, 25.0, 26.0, 100.0, 101.0):
        chore.run_if_due(now)
    assert done == [0, 10, 25, 100], "what was missed is not made up for"


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (OperationalError("SELECT", None, Exception("ana@example.com")), "chore_failed"),
        (EndpointConnectionError(endpoint_url="http://ana@example.com"), "chore_failed"),
        (ZeroDivisionError("ana@example.com"), "chore_broke"),
    ],
)
def test_given_a_chore_that_fails_when_due_then_told_without_its_text_and_done_again(
    lines: Lines, error: Exception, event: str
) -> None:
    def fail() -> None:
        raise error

    chore = Chore("x", 1, fail)
    chore.run_if_due(0)
    chore.run_if_due(1)
    assert [line["event"] for line in lines()] == [event] * 2
    assert "ana@" not in str(lines())


def test_given_a_loop_when_a_chore_fails_then_the_others_go_on_until_told_to_stop(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    stop, done = threading.Event(), threading.Semaphore(0)

    def fail() -> None:
        raise ZeroDivisionError

    todo = [Chore("bad", 0, fail), Chore("good", 0, done.release)]
    monkeypatch.setattr(scheduler, "chores", lambda *_: todo)
    monkeypatch.setattr(scheduler, "TICK_SECONDS", 0.01)
    loop = threading.Thread(target=scheduler.run, args=(sqlite_ledger, None, stop))
    loop.start()
    for _ in range(3):
        assert done.acquire(timeout=20)
    stop.set()
    loop.join(20)
    assert not loop.is_alive()
    assert lines.named("scheduler_ready")


def test_given_due_work_when_a_round_is_run_then_it_is_rung_and_locked_gates_are_left(
    postgresql_ledger: Ledger, sqs: Sqs
) -> None:
    ledger, bells = postgresql_ledger, Bells()
    locked, free = make_tenant(ledger), make_tenant(ledger, "globex")
    keep(ledger, locked, 1)
    theirs = keep(ledger, free, 2)
    todo = chores(ledger, Dispatcher(ledger, bells))
    with ledger.write() as connection:
        connection.exec_driver_sql("SELECT 1 FROM gates WHERE id = 1 FOR UPDATE")
        named(todo, "dispatch").run_if_due(0)
    assert bells.rung == theirs


def test_c4_given_expired_runs_when_swept_then_taken_over_once_and_told(ledger: Ledger, lines: Lines) -> None:
    world = make_tenant(ledger)
    expired, alive = keep(ledger, world, 2)
    with ledger.write() as connection:
        transitions.ring(connection, [expired, alive])
        for sync_id in (expired, alive):
            assert transitions.claim(connection, "acme", sync_id, worker="w")
    force(ledger, [expired], lease_until=after(-0.1))
    assert [scheduler.take_over_expired(ledger), scheduler.take_over_expired(ledger)] == [1, 0]
    assert [sync_row(ledger, sync_id).state for sync_id in (expired, alive)] == [State.PENDING, State.RUNNING]
    (line,) = lines.named("worker_vanished")
    row = sync_row(ledger, expired)
    named = (line["tenant"], line["external_id"], line["correlation_id"])
    assert (line["sync_id"], line["state"]) == (expired, "pending")
    assert named == ("acme", row.external_id, row.correlation_id)


@pytest.mark.parametrize(
    ("counts", "rung"),
    [
        ({}, 3),
        ({"ApproximateNumberOfMessages": "2"}, 1),
        ({"ApproximateNumberOfMessagesNotVisible": "2"}, 1),
        ({"ApproximateNumberOfMessages": "1", "ApproximateNumberOfMessagesNotVisible": "1"}, 1),
        ({"ApproximateNumberOfMessages": "1", "ApproximateNumberOfMessagesDelayed": "2"}, 0),
    ],
)
def test_p5_given_expired_bells_when_the_queue_holds_some_then_only_the_missing_ring(
    ledger: Ledger, sqs: Sqs, lines: Lines, counts: dict[str, str], rung: int
) -> None:
    bells = Bells()
    dispatcher = Dispatcher(ledger, bells)
    ids = keep(ledger, make_tenant(ledger), 3)
    dispatcher.dispatch()
    force(ledger, ids, lease_until=after(-1))
    sqs.attributes.update(counts)
    bells.rung.clear()
    named(chores(ledger, dispatcher), "ring again").run_if_due(0)
    assert bells.rung == ids[:rung]
    assert [line["count"] for line in lines.named("bells_rung_again")] == ([rung] if rung else [])


def test_p5_given_a_queue_that_is_away_when_bells_expired_then_none_rings(ledger: Ledger, sqs: Sqs) -> None:
    bells = Bells()
    dispatcher = Dispatcher(ledger, bells)
    ids = keep(ledger, make_tenant(ledger), 2)
    dispatcher.dispatch()
    force(ledger, ids, lease_until=after(-1))
    sqs.error = EndpointConnectionError(endpoint_url="http://sqs")
    bells.rung.clear()
    named(chores(ledger, dispatcher), "ring again").run_if_due(0)
    assert bells.rung == []
    assert {sync_row(ledger, sync_id).state for sync_id in ids} == {State.QUEUED}


def test_given_two_schedulers_when_both_do_everything_then_each_bell_rings_once(ledger: Ledger, sqs: Sqs) -> None:
    worlds = [make_tenant(ledger, f"tenant-{number}") for number in range(3)]
    running = keep(ledger, worlds[0], 3)
    with ledger.write() as connection:
        transitions.ring(connection, running)
        for sync_id in running:
            assert transitions.claim(connection, "tenant-0", sync_id, worker="w")
    force(ledger, running, lease_until=after(-4))
    waiting = [sync_id for world in worlds[1:] for sync_id in keep(ledger, world, 4)]
    bells, ready = Bells(), threading.Barrier(2)
    others = [Ledger(ledger.url.render_as_string(hide_password=False)) for _ in range(2)]

    def schedule(mine: Ledger) -> None:
        todo = chores(mine, Dispatcher(mine, bells))
        ready.wait(20)
        for now in range(0, 40, 10):
            for chore in todo:
                chore.run_if_due(now)

    threads = [threading.Thread(target=schedule, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for other in others:
        other.close()
    assert sorted(bells.rung) == sorted([*running, *waiting])
    assert {sync_row(ledger, sync_id).vanished for sync_id in running} == {1}


# The queues' attributes, compared at start

GOOD = {
    "VisibilityTimeout": "120",
    "DelaySeconds": "0",
    "RedrivePolicy": '{"deadLetterTargetArn":"arn:aws:sqs:x:0:integrator-orders-dlq","maxReceiveCount":10}',
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"RedrivePolicy": GOOD["RedrivePolicy"].replace("10", "25")}, None),
        ({"RedrivePolicy": GOOD["RedrivePolicy"].replace("10", '"10"')}, None),
        ({"VisibilityTimeout": "30"}, "VisibilityTimeout is 30 instead of 120"),
        ({"DelaySeconds": "5"}, "DelaySeconds is 5 instead of 0"),
        ({"RedrivePolicy": GOOD["RedrivePolicy"].replace("10", "3")}, "maxReceiveCount is 3 instead of 10"),
        ({"RedrivePolicy": ""}, "maxReceiveCount is 0 instead of 10"),
        ({"RedrivePolicy": ""}, "deadLetterTargetArn is  instead of dlq"),
    ],
)
def test_given_a_queues_attributes_when_compared_then_each_difference_is_named(
    sqs: Sqs, change: dict[str, str], says: str | None
) -> None:
    sqs.attributes = {**GOOD, **change}
    check: Callable[[], None] = lambda: queues.check(QUEUES[0], settings())  # noqa: E731
    if says is None:
        check()
    else:
        with pytest.raises(QueueMismatch, match=says):
            check()


def test_given_a_queue_that_can_not_be_read_when_compared_then_what_to_look_at(sqs: Sqs) -> None:
    sqs.error = EndpointConnectionError(endpoint_url="http://sqs")
    with pytest.raises(QueueMismatch, match=r"can't be read .*INTEGRATOR_SQS_ENDPOINT_URL"):
        queues.check(QUEUES[0], settings())
