"""Remote control and events over a real Redis, tasks on SQS: every command, and every way Redis fails."""

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from celery.worker.control import Panel
from kombu.exceptions import OperationalError

from integrator.config import settings
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State
from sandbox.shop import ShopSimulation
from sandbox.system_ports import free_port
from sandbox.system_process import Process, answers
from tasks import app, remote_commands
from tasks.control_plane import NoControlPlane
from tests.redis_server import PASSWORD, RedisServer, black_hole
from tests.workers import QUEUE, Plant, control, served, until

TASK = "tasks.orders.sync_order"
FEW_EVENTS = 5


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis that is not started yet, and settings that name it."""
    server = RedisServer(tmp_path)
    monkeypatch.setenv("INTEGRATOR_CONTROL_PLANE_URL", server.url)
    settings.cache_clear()
    yield server
    server.kill()
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def plant(tmp_path: Path, sqlite_ledger: Ledger, redis: RedisServer) -> Iterator[Plant]:
    with ExitStack() as stack:
        sqs = stack.enter_context(served(tmp_path, "sandbox.sqs", f"--queue={QUEUE}:120:10"))
        erp = stack.enter_context(served(tmp_path, "sandbox.erp", f"--file={tmp_path / 'erp.sqlite3'}"))
        shop = stack.enter_context(ShopSimulation(30, seed=3))
        plant = Plant(tmp_path, sqlite_ledger, sqs, erp, shop)
        plant.apply()
        yield plant
        plant.close()


def worker_of(plant: Plant, redis: RedisServer) -> Process:
    """A worker with this control plane, that is ready."""
    worker = plant.worker(INTEGRATOR_CONTROL_PLANE_URL=redis.url, INTEGRATOR_CONTROL_PLANE_EVENTS=str(FEW_EVENTS))
    worker.wait_ready()
    return worker


def ask(command: str, **arguments: Any) -> Any:
    """The only worker's answer; None when there is none."""
    replies = app.control.broadcast(command, arguments=arguments, reply=True, timeout=8, limit=1)
    return next(iter(replies[0].values())) if replies else None


def pings() -> bool:
    """Whether the worker answers by now."""
    try:
        return bool(app.control.broadcast("ping", reply=True, timeout=2, limit=1) == [{name(): {"ok": "pong"}}])
    except NoControlPlane:
        return False


def name() -> str:
    return f"celery@{os.uname().nodename}"


def work(plant: Plant, orders: int) -> None:
    """Orders come, and all are done."""
    plant.deliver(orders)

    def done() -> bool:
        plant.dispatch()
        return set(plant.states()) == {State.DONE}

    until(done)
    with plant.ledger.read() as connection:
        assert audit(connection) == []


REFUSED = object()
OK = object()
COMMANDS: list[tuple[str, dict[str, Any], Any]] = [
    ("ping", {}, {"ok": "pong"}),
    ("active", {}, []),
    ("reserved", {}, []),
    ("scheduled", {}, []),
    ("revoked", {}, []),
    ("registered", {}, [TASK]),
    ("registered", {"taskinfoitems": ["ignore_result"]}, [f"{TASK} [ignore_result=True]"]),
    ("query_task", {"ids": ["1:1"]}, {}),
    ("clock", {}, dict),
    ("stats", {}, dict),
    ("conf", {}, dict),
    ("conf", {"with_defaults": True}, dict),
    ("report", {}, OK),
    ("memsample", {}, str),
    ("memdump", {}, str),
    ("objgraph", {}, REFUSED),
    ("hello", {"from_node": "other"}, dict),
    ("rate_limit", {"task_name": TASK, "rate_limit": "100/s"}, OK),
    ("rate_limit", {"task_name": TASK, "rate_limit": ""}, OK),
    ("rate_limit", {"task_name": "nonesuch", "rate_limit": "1/s"}, REFUSED),
    ("time_limit", {"task_name": TASK, "soft": 1, "hard": 2}, REFUSED),
    ("cancel_consumer", {"queue": "nonesuch"}, REFUSED),
    ("cancel_consumer", {"queue": QUEUE}, OK),
    ("active_queues", {}, []),
    ("add_consumer", {"queue": "nonesuch"}, REFUSED),
    ("add_consumer", {"queue": QUEUE}, OK),
    ("active_queues", {}, list),
    ("pool_grow", {"n": 1}, REFUSED),
    ("pool_shrink", {"n": 1}, REFUSED),
    ("autoscale", {"max": 3, "min": 1}, REFUSED),
    ("pool_restart", {}, REFUSED),
    ("disable_events", {}, {"ok": "task events disabled"}),
    ("disable_events", {}, {"ok": "task events already disabled"}),
    ("enable_events", {}, {"ok": "task events enabled"}),
    ("revoke", {"task_id": "1:1"}, REFUSED),
    ("revoke", {"task_id": ["1:1"], "terminate": True, "signal": "KILL"}, REFUSED),
    ("revoke_by_stamped_headers", {"headers": {"a": ["b"]}}, REFUSED),
    ("terminate", {"signal": "KILL", "task_id": ["1:1"]}, REFUSED),
    ("election", {"id": "1", "topic": "x"}, REFUSED),
    ("heartbeat", {}, None),
    ("ping", {"nonesuch": 1}, {"ok": "pong"}),
    ("nonesuch", {}, REFUSED),
    ("shutdown", {}, OK),
]


def fits(answer: Any, expected: Any) -> bool:
    if expected is REFUSED:
        return isinstance(answer, dict) and set(answer) == {"error"} and bool(answer["error"])
    if expected is OK:
        return isinstance(answer, dict) and set(answer) == {"ok"}
    return isinstance(answer, expected) if isinstance(expected, type) else bool(answer == expected)


def test_given_every_command_of_celery_when_sent_then_it_works_or_says_that_nothing_was_done(
    plant: Plant, redis: RedisServer
) -> None:
    assert {command for command, _, _ in COMMANDS} >= set(Panel.meta), "each has a row above"
    redis.start()
    worker = worker_of(plant, redis)
    until(pings)
    wrong = []
    for command, arguments, expected in COMMANDS[:-1]:
        answer = ask(command, **arguments)
        if not fits(answer, expected):
            wrong.append((command, arguments, answer))
        for secret in (PASSWORD, plant.keys, "t0ken"):
            assert secret not in repr(answer), command
    assert wrong == []
    work(plant, 3)
    assert fits(ask("shutdown"), OK)
    until(lambda: not worker.alive)
    assert worker.exit_code == 0
    assert "worker_draining" in worker.said(), "it ended as SIGTERM ends it"


def test_given_the_command_line_when_used_then_it_finds_the_workers_without_naming_redis(
    plant: Plant, redis: RedisServer
) -> None:
    redis.start()
    worker_of(plant, redis)
    until(pings)
    environment = {**plant.environment, "INTEGRATOR_CONTROL_PLANE_URL": redis.url}

    def celery(*arguments: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "celery", "-A", "tasks", *arguments]
        ran = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return ran.returncode, ran.stdout + ran.stderr

    assert f"{name()}: OK" in celery("status", "--timeout=5")[1]
    code, said = celery("inspect", "--timeout=5", "--json", "registered")
    assert (code, orjson.loads(said)) == (0, {name(): [TASK]})
    code, said = celery("control", "--timeout=5", "pool_grow", "1")
    assert (code, "INTEGRATOR_WORKER_THREADS" in said) == (1, True), "refused, and a script learns of it"
    environment["INTEGRATOR_CONTROL_PLANE_URL"] = redis.url.replace(PASSWORD, "another")
    code, said = celery("status")
    assert (code, "invalid username-password" in said, PASSWORD in said) == (69, True, False)
    environment["INTEGRATOR_CONTROL_PLANE_URL"] = redis.url
    redis.kill()
    for command in (("status",), ("events", "--dump")):
        code, said = celery(*command)
        assert (code, f"Redis at 127.0.0.1:{redis.port} does not answer" in said) == (69, True), said
        assert "INTEGRATOR_CONTROL_PLANE_URL" in said.splitlines()[-1]
        assert PASSWORD not in said
        assert "Traceback" not in said
    del environment["INTEGRATOR_CONTROL_PLANE_URL"]
    code, said = celery("status")
    assert (code, "INTEGRATOR_CONTROL_PLANE_URL is not set" in said) == (69, True)


def test_given_runs_under_way_when_inspected_then_no_argument_and_no_message_is_shown(
    plant: Plant, redis: RedisServer
) -> None:
    redis.start()
    worker_of(plant, redis)
    until(pings)
    control(plant.erp_url, latency_ms=4_000)
    plant.deliver(4)
    plant.dispatch()
    until(lambda: len(ask("active")) == 2)
    shown = [*ask("active"), *ask("reserved"), *(info for _, info in ask("query_task", ids=["1:1"]).values())]
    assert len(shown) >= 3
    assert {(one["args"], one["kwargs"]) for one in shown} == {("(…)", "{}")}
    assert {tuple(sorted(one["delivery_info"])) for one in shown} <= {
        ("exchange", "redelivered", "routing_key"),
        ("exchange", "routing_key"),
    }
    assert "acme" not in repr(shown)


# Events


@pytest.fixture
def events(redis: RedisServer) -> Iterator[list[dict[str, Any]]]:
    """What events were received since the test began, as `celery events` and Flower receive them."""
    received: list[dict[str, Any]] = []
    redis.start()
    receiver = app.events.Receiver(None, handlers={"*": received.append})

    def receive() -> None:
        try:
            receiver.capture()
        except ConnectionError:
            return

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    yield received
    receiver.should_stop = True
    thread.join(20)


def test_c7_given_a_system_that_fails_once_when_events_are_received_then_retry_becomes_success_under_one_id(
    plant: Plant, redis: RedisServer, events: list[dict[str, Any]]
) -> None:
    worker = worker_of(plant, redis)
    control(plant.erp_url, down=True)
    plant.deliver(1)
    plant.dispatch()
    until(lambda: "task-retried" in [event["type"] for event in events])
    control(plant.erp_url, down=False)

    def succeeded() -> bool:
        plant.dispatch()
        return "task-succeeded" in [event["type"] for event in events]

    until(succeeded)
    until(lambda: "worker-heartbeat" in [event["type"] for event in events])
    worker.terminate()
    until(lambda: events[-1]["type"] == "worker-offline")
    of_task = [event for event in events if event["type"].startswith("task-")]
    assert {event["uuid"] for event in of_task} == {"1:1"}
    types = [event["type"] for event in of_task]
    assert (types[0], types[-1]) == ("task-received", "task-succeeded")
    assert {event["args"] for event in of_task if "args" in event} == {"(…)"}
    assert not any(event.get("traceback") for event in of_task)
    body = orjson.loads(plant.shop.lives[0].events[0].body)
    for secret in ("acme", "t0ken", str(body["email"]), PASSWORD):
        assert secret not in repr(events)


# Failing open


def away_dead(redis: RedisServer, stack: ExitStack) -> None:
    redis.kill()


def away_hanging(redis: RedisServer, stack: ExitStack) -> None:
    redis.hang()
    stack.callback(redis.kill)


def away_swallowing(redis: RedisServer, stack: ExitStack) -> None:
    redis.kill()
    stack.enter_context(black_hole(redis.port))


@pytest.mark.parametrize("fail", [away_dead, away_hanging, away_swallowing])
def test_given_a_redis_that_fails_and_comes_back_when_orders_flow_then_all_are_done_and_control_is_back_by_itself(
    plant: Plant, redis: RedisServer, fail: Callable[[RedisServer, ExitStack], None]
) -> None:
    redis.start()
    worker = worker_of(plant, redis)
    until(pings)
    with ExitStack() as stack:
        fail(redis, stack)
        work(plant, 12)
        with pytest.raises(NoControlPlane):
            ask("ping")
    redis.start()
    until(pings)
    until(lambda: ask("stats")["events"]["waiting"] <= 1)
    counted = ask("stats")["events"]
    assert counted["dropped"] > 0, "the queue holds five"
    work(plant, 15)
    assert ask("stats")["events"]["sent"] > counted["sent"]
    assert (worker.starts, worker.alive) == (1, True)


@pytest.mark.parametrize("swallowing", [False, True])
def test_given_no_redis_when_a_worker_starts_then_it_works_and_is_found_when_redis_comes(
    plant: Plant, redis: RedisServer, swallowing: bool
) -> None:
    with ExitStack() as stack:
        if swallowing:
            stack.enter_context(black_hole(redis.port))
        worker = worker_of(plant, redis)
        work(plant, 6)
        until(lambda: "control_plane_away" in worker.said())
    redis.start()
    until(pings)
    assert worker.starts == 1
    assert worker.said().count("control_plane_away") == 1, "an outage is one line, not one for each try"
    worker.terminate()
    assert worker.exit_code == 0


def test_given_a_redis_that_hangs_when_the_worker_is_told_to_stop_then_it_stops(
    plant: Plant, redis: RedisServer
) -> None:
    redis.start()
    worker = worker_of(plant, redis)
    until(pings)
    redis.hang()
    worker.terminate()
    assert worker.exit_code == 0


def test_given_an_sqs_that_fails_and_comes_back_when_asked_then_the_worker_still_answers(
    plant: Plant, redis: RedisServer
) -> None:
    redis.start()
    worker_of(plant, redis)
    until(pings)
    control(plant.sqs_url, unavailable="503")
    until(lambda: "EndpointFailed" in plant.workers[0].said())
    control(plant.sqs_url, unavailable=False)
    until(pings)
    work(plant, 3)


def test_given_no_control_plane_when_a_worker_runs_then_it_is_the_same(plant: Plant) -> None:
    worker = plant.worker()
    worker.wait_ready()
    work(plant, 3)
    worker.terminate()
    assert worker.exit_code == 0
    assert "control_plane" not in worker.said()


def test_given_a_refusal_when_read_then_it_names_what_does_it() -> None:
    assert issubclass(NoControlPlane, OperationalError), "Flower knows that one"
    assert "celery -A tasks pause" in remote_commands.NOT_CANCELLED


# Flower


def flower(plant: Plant, redis: RedisServer, **env: str) -> tuple[Process, str]:
    port = free_port()
    environment = {**plant.environment, "INTEGRATOR_CONTROL_PLANE_URL": redis.url, **env}
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "flower", f"--port={port}"]
    url = f"http://127.0.0.1:{port}"
    process = Process("flower", argv, environment, plant.folder / "flower.log", answers(f"{url}/healthcheck"))
    plant.workers.append(process)
    process.start()
    return process, url


def fetch(url: str, *, post: bool = False, user: str | None = "operator:pw") -> tuple[int, str]:
    headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"} if user else {}
    request = urllib.request.Request(url, b"{}" if post else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("env", "says"),
    [({}, "FLOWER_BASIC_AUTH"), ({"INTEGRATOR_CONTROL_PLANE_URL": ""}, "INTEGRATOR_CONTROL_PLANE_URL")],
)
def test_given_no_password_or_no_redis_when_flower_starts_then_it_refuses_with_one_line(
    plant: Plant, redis: RedisServer, env: dict[str, str], says: str
) -> None:
    process, _ = flower(plant, redis, **env)
    until(lambda: not process.alive)
    assert process.exit_code == 1
    (line,) = process.said().splitlines()
    assert says in line


def test_given_flower_when_looked_at_then_tasks_are_shown_behind_a_password_and_none_can_be_sent(
    plant: Plant, redis: RedisServer
) -> None:
    redis.start()
    worker_of(plant, redis)
    process, url = flower(plant, redis, FLOWER_BASIC_AUTH="operator:pw")
    process.wait_ready()
    with pytest.raises(ConnectionRefusedError):  # at loopback only, unless told otherwise
        socket.create_connection(("127.0.0.2", urlsplit(url).port or 0), timeout=5)
    for path in ("/", "/tasks", "/metrics", "/broker", "/api/workers", "/api/tasks"):
        assert fetch(f"{url}{path}", user=None)[0] == 401, path
        assert fetch(f"{url}{path}", user="operator:wrong")[0] == 401, path
    sending = [f"/api/task/{how}/{TASK}" for how in ("apply", "async-apply", "send-task")]
    for path in (*sending, "/api/task/abort/1:1", "/api/task/revoke/1:1"):
        assert fetch(f"{url}{path}", post=True, user=None)[0] == 401, path
        assert fetch(f"{url}{path}", post=True)[0] == 403, path
    for path in ("/broker", "/api/queues/length"):
        assert fetch(f"{url}{path}")[0] == 403, path
    redis.kill()
    redis.start()
    until(pings)
    control(plant.erp_url, down=True)
    plant.deliver(1)
    plant.dispatch()
    until(lambda: states(url) == {"1:1": "RETRY"})
    control(plant.erp_url, down=False)
    until(lambda: (plant.dispatch(), states(url) == {"1:1": "SUCCESS"})[1])
    assert name() in orjson.loads(fetch(f"{url}/api/workers?refresh=1")[1])
    for path in ("/workers", f"/worker/{name()}", "/tasks", "/task/1:1", "/api/tasks", "/api/workers"):
        status, page = fetch(f"{url}{path}")
        assert status == 200, path
        for secret in (PASSWORD, plant.keys, "t0ken"):
            assert secret not in page, path


def states(url: str) -> dict[str, str]:
    """Flower's tasks by id."""
    return {task: shown["state"] for task, shown in orjson.loads(fetch(f"{url}/api/tasks")[1]).items()}
