"""What is done to which part, how one sees that it was felt, and how the part comes back: a line each.

A fault lasts its seconds, and longer until it was felt: one that nobody noticed proves nothing. All but those that
are restarts must leave every other process as it was.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sandbox.system_process import says
from tests.e2e.faults.postgres import SEGMENT_BYTES
from tests.e2e.faults.rig import SHIFT_FOLDER, Moment, Rig, control, until

Back = Callable[[], object]
Felt = Callable[[Rig, Moment], bool]

SHIFT = timedelta(hours=1)


@dataclass(frozen=True)
class Scenario:
    """One fault.

    - `strike` does it and gives what ends it; `seconds`: how long it lasts, at most so in the long form.
    - `felt`: whether it was noticed, since the moment before it.
    - `after`: what must be seen once it is over.
    - `replaces`: the parts that it restarts itself. `unfailing`: no request of a shop may fail meanwhile.
    """

    name: str
    strike: Callable[[Rig], Back]
    felt: Felt
    seconds: tuple[float, float] = (1.0, 6.0)
    after: Felt = lambda _rig, _since: True
    replaces: frozenset[str] = frozenset()
    unfailing: bool = False


# How one sees it


def said(pattern: str, parts: str = "") -> Felt:
    """A part whose name begins so has written this."""
    return lambda rig, since: rig.said(pattern, since, parts)


def answered(kind: str) -> Felt:
    """A shop was answered with this status."""
    return lambda rig, since: rig.failed(kind, since) > 0


def away(rig: Rig, _since: Moment) -> bool:
    """A worker misses its control plane."""
    return rig.last("worker-1", "control_plane_away|control_plane_back") == "control_plane_away"


def back(rig: Rig, _since: Moment) -> bool:
    """It has it again."""
    return rig.last("worker-1", "control_plane_away|control_plane_back") == "control_plane_back"


# SQS


def sqs_stopped(rig: Rig) -> Back:
    """The endpoint is gone with all its messages."""
    sqs = rig.system.processes["sqs"]
    sqs.kill()

    def back() -> None:
        sqs.start()
        sqs.wait_ready()

    return back


def sqs_fault(**fault: object) -> Callable[[Rig], Back]:
    """The endpoint does what `sandbox.sqs` can be told to."""

    def strike(rig: Rig) -> Back:
        control(rig.system.sqs_url, **fault)
        return lambda: control(rig.system.sqs_url, throttling=0, latency_ms=0, latency_p99_ms=0, unavailable=False)

    return strike


# Redis


def redis_stopped(rig: Rig) -> Back:
    """The server is gone."""
    rig.redis.kill()
    return rig.redis.start


def redis_hanging(rig: Rig) -> Back:
    """It takes connections and answers nothing."""
    rig.redis.hang()
    return rig.redis.go_on


# PostgreSQL


def database_restarted(rig: Rig) -> Back:
    """It ends at once, as `pg_ctl -m immediate` has it, and recovers."""
    rig.primary.crash()
    return rig.primary.start


def database_hanging(rig: Rig) -> Back:
    """The network between it and everybody swallows what is sent."""
    rig.database.hold()
    return rig.database.release


def commits_hanging(rig: Rig) -> Back:
    """The standby stands still, so that no commit returns."""
    rig.standby.freeze()
    return rig.standby.thaw


def database_failing_over(rig: Rig) -> Back:
    """The primary is gone for good, and the standby takes over."""
    rig.primary.crash()
    rig.database.cut()
    return rig.take_over


def disk_full(rig: Rig) -> Back:
    """Its largest table finds no room for another page.

    A limit on the size of files stands in for a full disk, which would need a disk of its own, and the right to
    mount it. The table is made the largest file beforehand, by a transaction that is rolled back.
    """
    insert = (
        "INSERT INTO deliveries (shop_id, sync_id, version, topic, body_hash, headers, body, received_at) "
        "SELECT shop_id, sync_id, -n, topic, body_hash, headers, sha256(n::text::bytea), received_at "
        "FROM (SELECT * FROM deliveries LIMIT 1) AS one, generate_series(1, 4000) AS n"
    )
    size = "SELECT pg_relation_size('deliveries')"
    while (limit := int(rig.primary.ask(size))) < 1.2 * SEGMENT_BYTES:
        rig.primary.ask("BEGIN", insert, "ROLLBACK")
    rig.primary.limit_files(limit)
    return lambda: rig.primary.limit_files(-1)


# Ours


def worker_stopped(rig: Rig) -> Back:
    """A worker stands still between a request and its answer, and wakes up after its lease."""
    for url in rig.erps.values():
        control(url, latency_ms=300)
    process = rig.system.processes["worker-2"]
    assert process.pid is not None
    pid = process.pid

    def stopped() -> bool:
        if rig.in_effect("worker-2"):
            os.kill(pid, signal.SIGSTOP)
            if rig.in_effect("worker-2"):
                return True
            os.kill(pid, signal.SIGCONT)  # the answer came between the look and the stop
        return False

    until(stopped)
    for url in rig.erps.values():
        control(url, latency_ms=0)
    return lambda: os.kill(pid, signal.SIGCONT)


def two_schedulers(rig: Rig) -> Back:
    """Both dispatch, take over and ring again."""
    rig.twin("scheduler", {}, says("scheduler_ready"))
    return lambda: rig.drop_twin("scheduler")


def rolling_restart(rig: Rig) -> Back:
    """A new version comes: every part is asked to end, one after the other, and its successor started."""
    rig.succeed_receiver()
    reload_receiver(rig)
    for name in ("worker-1", "worker-2", "scheduler"):
        rig.renew(name)
    return lambda: None


def reload_receiver(rig: Rig) -> None:
    """Have gunicorn replace its processes, as `kill -HUP` does."""
    before = rig.ids()["receiver"]
    os.kill(before[0], signal.SIGHUP)
    until(lambda: len(now := rig.ids()["receiver"]) == len(before) and not {*now[1:]} & {*before[1:]}, 60)


def clocks_shifted(rig: Rig) -> Back:
    """One worker's clock is an hour ahead, one scheduler's an hour behind."""
    seconds = SHIFT.total_seconds()
    for name, shift in (("worker-1", seconds), ("scheduler", -seconds)):
        rig.renew(name, {"PYTHONPATH": str(SHIFT_FOLDER), "SHIFTED_SECONDS": str(shift)})

    def back() -> None:
        for name in ("worker-1", "scheduler"):
            rig.renew(name, {"PYTHONPATH": "", "SHIFTED_SECONDS": "0"})

    return back


def worked_ahead(rig: Rig, since: Moment) -> bool:
    """Whether a worker has finished a sync an hour ahead of us."""
    hour = f"{datetime.now(UTC) + SHIFT:%Y-%m-%dT%H}"
    return rig.said(rf'"sync_finished".*"timestamp": ?"{hour}', since, "worker-1")


SCENARIOS = (
    Scenario("sqs-stopped", sqs_stopped, said("publish_failed")),
    Scenario("sqs-throttling", sqs_fault(throttling=0.3), said("publish_failed|EndpointFailed")),
    Scenario("sqs-slow", sqs_fault(latency_ms=1_500, latency_p99_ms=8_000), said("publish_slow|publish_failed")),
    Scenario("sqs-hanging", sqs_fault(unavailable="hang"), said("publish_failed")),
    Scenario("redis-stopped", redis_stopped, away, after=back),
    Scenario("redis-hanging", redis_hanging, away, after=back),
    Scenario("database-restarted", database_restarted, answered("503")),
    Scenario("database-hanging", database_hanging, answered("503")),
    Scenario("commits-hanging", commits_hanging, answered("503")),
    Scenario("disk-full", disk_full, answered("503")),
    Scenario("database-failing-over", database_failing_over, answered("503"), (1.0, 3.0)),
    Scenario(
        "worker-stopped",
        worker_stopped,
        said("worker_vanished", "scheduler"),
        (35.0, 60.0),
        said("LeaseLost|does not fit into|outcome_not_written", "worker-2"),
    ),
    Scenario("two-schedulers", two_schedulers, lambda _rig, _since: True),
    Scenario(
        "rolling-restart",
        rolling_restart,
        lambda _rig, _since: True,
        replaces=frozenset({"receiver", "worker-1", "worker-2", "scheduler"}),
        unfailing=True,
    ),
    Scenario("clocks-shifted", clocks_shifted, worked_ahead, replaces=frozenset({"worker-1", "scheduler"})),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
