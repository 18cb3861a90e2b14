"""The dispatcher, on both databases. Each test names the rule that it holds (PROTOCOL)."""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError

from integrator import gate
from integrator.clock import EPOCH, after
from integrator.dispatch import (
    PROBE_SIZE,
    PUBLISH_PAUSE_SECONDS,
    QUEUES,
    Dispatcher,
    QueuePauses,
    due_gates,
    mark,
)
from integrator.ledger import transitions
from integrator.ledger.engine import Ledger
from integrator.ledger.gate_listing import gate_listing
from integrator.ledger.limits import write_plan
from integrator.ledger.records import Rung
from integrator.ledger.schema import CAUSES, IN_FLIGHT, Priority, State, gates, syncs
from integrator.plans import PlanFile
from tests.support import World, deliver, delivery, make_tenant, order, sync_row

BOTH = pytest.mark.parametrize("state", [State.PENDING, State.RETRYING])


class Bells:
    """Publishes into a list, and fails on command."""

    def __init__(self) -> None:
        self.rung: list[int] = []
        self.batches: list[int] = []
        self.fails: Callable[[Rung], bool] = lambda _one: False

    def __call__(self, rung: list[Rung]) -> list[Rung]:
        self.batches.append(len(rung))
        failed = [one for one in rung if self.fails(one)]
        self.rung += [one.sync_id for one in rung if one not in failed]
        return failed


class Clock:
    """A clock that the test moves."""

    at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def bells() -> Bells:
    return Bells()


@pytest.fixture
def dispatcher(ledger: Ledger, bells: Bells) -> Dispatcher:
    return Dispatcher(ledger, bells)


@pytest.fixture
def clock(dispatcher: Dispatcher) -> Clock:
    clock = Clock()
    dispatcher._pauses = QueuePauses(clock)
    return clock


def keep(ledger: Ledger, world: World, count: int, *, first: int = 1) -> list[int]:
    """Keep that many orders; their syncs' ids."""
    batch = [delivery(world, order(str(number))) for number in range(first, first + count)]
    return [one.sync_id for one in deliver(ledger, *batch) if one.sync_id is not None]


def force(ledger: Ledger, sync_ids: list[int], **values: Any) -> None:
    with ledger.write() as connection:
        connection.execute(update(syncs).where(syncs.c.id.in_(sync_ids)).values(**values))


def shut(ledger: Ledger, world: World, **causes: Any) -> None:
    with ledger.write() as connection:
        connection.execute(update(gates).where(gates.c.id == world.gate_id).values(**causes))


def in_flight(ledger: Ledger) -> int:
    with ledger.read() as connection:
        return connection.execute(select(func.count()).where(IN_FLIGHT)).scalar_one()


def states(ledger: Ledger, sync_ids: list[int]) -> list[str]:
    return [sync_row(ledger, sync_id).state for sync_id in sync_ids]


def claim(ledger: Ledger, sync_id: int) -> None:
    with ledger.write() as connection:
        assert transitions.claim(connection, "acme", sync_id, worker="w")


def end(ledger: Ledger, sync_id: int) -> None:
    """Claim and finish a queued sync."""
    claim(ledger, sync_id)
    row = sync_row(ledger, sync_id)
    with ledger.write() as connection:
        assert transitions.finish(
            connection, sync_id, row.claim, row.wanted, reason="x", seen_updated_at=None, seen_digest="d"
        )


# P1: the window


def test_p1_given_more_than_the_window_when_dispatched_then_the_window_and_no_more(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells
) -> None:
    world = make_tenant(ledger, window=3)
    ids = keep(ledger, world, 5)
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [3, 0]
    assert bells.rung == ids[:3]
    assert states(ledger, ids) == [State.QUEUED] * 3 + [State.PENDING] * 2
    claim(ledger, ids[0])
    assert dispatcher.dispatch() == 0, "a running sync keeps its place"
    end(ledger, ids[1])
    assert dispatcher.dispatch() == 1
    assert bells.rung == ids[:4]


def test_p1_given_a_bell_when_rung_then_it_says_what_the_message_needs(
    ledger: Ledger, dispatcher: Dispatcher
) -> None:
    world = make_tenant(ledger, "globex")
    (sync_id,) = keep(ledger, world, 1)
    keep(ledger, world, 1)
    seen: list[Rung] = []
    dispatcher._publish = lambda rung: seen.extend(rung) or []  # type: ignore[func-returns-value]
    dispatcher.dispatch()
    row = sync_row(ledger, sync_id)
    assert seen == [Rung("globex", sync_id, 2, "order", world.gate_id, row.queued_at)]
    assert (row.lease_until - row.queued_at).total_seconds() == 30
    assert row.claim is None


def test_p1_given_priorities_and_times_when_dispatched_then_the_urgent_and_the_oldest_first(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells
) -> None:
    world = make_tenant(ledger, window=7)
    due = [
        (Priority.BACKFILL, -900),
        (Priority.STOCK, -10),
        (Priority.LIVE, -5),
        (Priority.STOCK, -20),
        (Priority.INVOICE, -1),
        (Priority.LIVE, -300),
        (Priority.BACKFILL, -901),
    ]
    ids = keep(ledger, world, len(due))
    for sync_id, (priority, seconds) in zip(ids, due, strict=True):
        force(ledger, [sync_id], priority=priority, due_at=after(seconds), accepted_at=after(-600))
    dispatcher.dispatch()
    assert bells.rung == [ids[place] for place in (5, 2, 4, 3, 1)]


@BOTH
def test_p1_given_a_time_to_come_when_dispatched_then_it_waits(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, state: State
) -> None:
    world = make_tenant(ledger)
    later, due = keep(ledger, world, 2)
    force(ledger, [later], state=state, due_at=after(5))
    force(ledger, [due], state=state, due_at=after(-0.001))
    dispatcher.dispatch()
    assert bells.rung == [due]


@pytest.mark.parametrize("state", [State.DONE, State.HELD, State.DEAD])
def test_p1_given_an_ended_sync_when_dispatched_then_no_bell(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, state: State
) -> None:
    force(ledger, keep(ledger, make_tenant(ledger), 1), state=state, applied=1, error_remedy="act")
    assert (dispatcher.dispatch([1]), bells.batches) == (0, [])


@pytest.mark.parametrize("cause", CAUSES)
def test_p1_given_a_shut_gate_when_dispatched_then_its_work_waits_and_others_go(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, cause: str
) -> None:
    world, other = make_tenant(ledger), make_tenant(ledger, "globex")
    mine, theirs = keep(ledger, world, 3), keep(ledger, other, 2)
    shut(ledger, world, **{cause: after(60)})
    assert dispatcher.dispatch([world.gate_id, other.gate_id]) == 2
    assert bells.rung == theirs
    shut(ledger, world, **{cause: after(-1)} if cause != "credentials_until" else {cause: EPOCH})
    assert dispatcher.dispatch() == 3
    assert bells.rung == theirs + mine


def test_p1_given_a_gate_that_shuts_after_its_due_work_was_seen_when_locked_then_nothing_of_it_is_marked(
    ledger: Ledger,
) -> None:
    world = make_tenant(ledger)
    ids = keep(ledger, world, 2)
    shut(ledger, world, paused_until=after(60))
    with ledger.write() as connection:
        assert mark(connection, [world.gate_id], kinds=QUEUES) == []
    assert states(ledger, ids) == [State.PENDING] * 2


def test_p1_given_many_gates_when_dispatched_then_each_has_its_own_window(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells
) -> None:
    worlds = [make_tenant(ledger, f"tenant-{number}", window=1 + number % 2) for number in range(60)]
    for world in worlds:
        keep(ledger, world, 3)
    assert dispatcher.dispatch() == 90
    assert bells.batches == [75, 15], "50 gates a round"


def test_p1_given_another_dispatcher_at_the_same_gate_when_it_commits_then_the_window_is_exact(
    ledger: Ledger, bells: Bells
) -> None:
    world = make_tenant(ledger, window=4)
    keep(ledger, world, 10)
    started = threading.Event()

    def second() -> list[Rung]:
        with ledger.write(lock_timeout_ms=20_000) as connection:
            started.set()
            return mark(connection, [world.gate_id], kinds=QUEUES)

    with ThreadPoolExecutor(1) as pool:
        with ledger.write() as connection:
            first = mark(connection, [world.gate_id], kinds=QUEUES)
            waiting = pool.submit(second)
            # On SQLite the second can't even begin; on PostgreSQL it waits for the gate.
            assert ledger.on_sqlite or started.wait(10)
            assert not wait([waiting], timeout=0.2).done
        assert len(first) == 4
        assert waiting.result(20) == []
    assert in_flight(ledger) == 4


def test_p1_given_two_dispatchers_that_never_rest_when_work_flows_then_never_more_than_the_window(
    postgresql_ledger: Ledger,
) -> None:
    ledger = postgresql_ledger
    world = make_tenant(ledger, window=3)
    keep(ledger, world, 30)
    over: list[int] = []
    todo, done = Bells(), threading.Event()
    others = [Ledger(ledger.url.render_as_string(hide_password=False)) for _ in range(2)]

    def dispatch_for_ever(mine: Ledger) -> None:
        dispatcher = Dispatcher(mine, todo)
        while not done.is_set():
            dispatcher.dispatch([world.gate_id], skip_locked=True)
            over.extend(count for count in [in_flight(mine)] if count > 3)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(dispatch_for_ever, other) for other in others]
        while sum(states(ledger, list(range(1, 31))).count(state) for state in (State.PENDING, State.QUEUED)):
            for sync_id in sorted(set(todo.rung)):
                if sync_row(ledger, sync_id).state == State.QUEUED:
                    end(ledger, sync_id)
        done.set()
        for one in running:
            one.result(20)
    assert over == []
    assert sorted(todo.rung) == list(range(1, 31)), "each was rung once"
    for other in others:
        other.close()


def test_p1_given_a_locked_gate_when_dispatched_then_it_waits_200_ms_or_skips_it(
    postgresql_ledger: Ledger, bells: Bells
) -> None:
    ledger = postgresql_ledger
    world, other = make_tenant(ledger), make_tenant(ledger, "globex")
    keep(ledger, world, 1)
    theirs = keep(ledger, other, 1)
    dispatcher = Dispatcher(ledger, bells)
    with ledger.write() as connection:
        connection.execute(select(gates).where(gates.c.id == world.gate_id).with_for_update())
        began = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"):
            dispatcher.dispatch([world.gate_id, other.gate_id])
        assert time.monotonic() - began < 3
        assert dispatcher.dispatch(skip_locked=True) == 1
    assert bells.rung == theirs
    assert dispatcher.dispatch() == 1


def test_p1_given_a_delivery_at_the_same_gate_when_dispatched_then_neither_waits_for_the_other(
    postgresql_ledger: Ledger, bells: Bells
) -> None:
    ledger = postgresql_ledger
    world = make_tenant(ledger)
    locked, free = keep(ledger, world, 2)
    with ledger.write() as connection:
        connection.execute(select(syncs).where(syncs.c.id == locked).with_for_update())
        connection.execute(
            select(gates).where(gates.c.id == world.gate_id).with_for_update(key_share=True, read=True)
        )
        assert Dispatcher(ledger, bells).dispatch() == 1
        connection.execute(text("SET LOCAL lock_timeout = 200"))
        keep(ledger, world, 1, first=3)
    assert bells.rung == [free]


@pytest.mark.parametrize(("window", "others"), [(1, 1), (2, 1), (3, 1), (8, 6)])
def test_p6_given_a_backlog_when_it_fills_the_window_then_a_live_order_still_finds_a_place(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, window: int, others: int
) -> None:
    world = make_tenant(ledger, window=window)
    backlog = keep(ledger, world, 10)
    force(ledger, backlog, priority=Priority.BACKFILL)
    assert dispatcher.dispatch() == others
    live = keep(ledger, world, 3, first=100)
    assert dispatcher.dispatch() == window - others
    assert bells.rung[others:] == live[: window - others]
    assert in_flight(ledger) == window


def run_at(ledger: Ledger, world: World, seconds: float, **plan: Any) -> None:
    """Let the gate's runs take so long, under such a plan."""
    with ledger.write() as connection:
        connection.execute(update(gates).where(gates.c.id == world.gate_id).values(run_seconds=seconds))
        write_plan(connection, world.gate_id, PlanFile.model_validate(plan).columns())


@pytest.mark.parametrize(
    ("seconds", "plan", "places"),
    [
        (0.2, {}, 4),
        (0.21, {}, 5),
        (5.0, {}, 8),
        (1.0, {"per_second": 0.5}, 3),
        (1.0, {"per_second": 4}, 6),
        (0.1, {"per_second": 2_000}, 8),
    ],
)
def test_p6_given_how_long_runs_take_when_dispatched_then_no_more_than_the_rate_can_use(
    ledger: Ledger, dispatcher: Dispatcher, seconds: float, plan: dict[str, Any], places: int
) -> None:
    world, other = make_tenant(ledger), make_tenant(ledger, "globex")
    run_at(ledger, world, seconds, **plan)
    ids = keep(ledger, world, 10)
    keep(ledger, other, 10)
    assert dispatcher.dispatch() == places + 8, "the other's runs have not been seen yet"
    with ledger.read() as connection:
        assert [one.window for one in gate_listing(connection)] == [places, 8]
    end(ledger, ids[0])
    assert dispatcher.dispatch() == 1


def test_p6_given_a_window_that_shrinks_below_what_is_in_flight_when_dispatched_then_it_waits_until_there_is_room(
    ledger: Ledger, dispatcher: Dispatcher
) -> None:
    world = make_tenant(ledger)
    ids = keep(ledger, world, 10)
    assert dispatcher.dispatch() == 8
    run_at(ledger, world, 0.1)
    for sync_id in ids[:5]:
        assert dispatcher.dispatch() == 0
        end(ledger, sync_id)
    assert dispatcher.dispatch() == 0
    end(ledger, ids[5])
    assert dispatcher.dispatch() == 1


def end_all(ledger: Ledger, bells: Bells) -> None:
    """Let all that was rung run."""
    for sync_id in [one for one in bells.rung if sync_row(ledger, one).state == State.QUEUED]:
        end(ledger, sync_id)


@pytest.mark.parametrize("seconds", [0.1, 5.0], ids=["a small window", "a whole window"])
def test_p6_given_a_backlog_of_an_outage_when_the_gate_opens_then_live_orders_pass_it(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, seconds: float
) -> None:
    world = make_tenant(ledger)
    shut(ledger, world, breaker_until=after(3_600))
    run_at(ledger, world, seconds)
    old = keep(ledger, world, 30)
    force(ledger, old, accepted_at=after(-6 * 3_600), due_at=after(-6 * 3_600))
    live = keep(ledger, world, 5, first=100)
    assert dispatcher.dispatch() == 0
    shut(ledger, world, breaker_until=EPOCH)
    while dispatcher.dispatch() and not set(live) <= set(bells.rung):
        end_all(ledger, bells)
    assert bells.rung[:3] == live[:3]
    assert [one for one in bells.rung if one in live] == live
    for number in range(10):
        end_all(ledger, bells)
        dispatcher.dispatch()
        came = keep(ledger, world, 1, first=200 + number)
        dispatcher.dispatch()
        assert bells.rung[-1:] == came, "one that comes while the backlog runs finds its place at once"
    assert len(set(bells.rung).intersection(old)) >= 10, "which goes on beside"


def test_f2_given_credentials_on_trial_when_dispatched_then_one_probe(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells
) -> None:
    world = make_tenant(ledger)
    ids = keep(ledger, world, 5)
    shut(ledger, world, credentials_until=after(-1))
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [1, 0]
    end(ledger, ids[0])
    with ledger.write() as connection:
        gate.accept_credentials(connection, world.gate_id, 1)
    assert dispatcher.dispatch() == 4


# P2: one at a time


class Slow(Dispatcher):
    """Notes what each dispatch was asked for, and lasts until told."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger, Bells())
        self.asked: list[set[int]] = []
        self.go_on, self.began = threading.Semaphore(0), threading.Semaphore(0)

    def dispatch(self, gate_ids: Any = None, *, skip_locked: bool = False) -> int:
        self.asked.append(set(gate_ids))
        self.began.release()
        assert self.go_on.acquire(timeout=20)
        return 0


def test_p2_given_requests_during_a_dispatch_when_it_ends_then_one_more_for_all_of_them(
    sqlite_ledger: Ledger,
) -> None:
    dispatcher = Slow(sqlite_ledger)
    dispatcher.request(1)
    assert dispatcher.began.acquire(timeout=20)
    for gate_id in (2, 3, 2, 1):
        dispatcher.request(gate_id)
    dispatcher.go_on.release(2)
    assert dispatcher.began.acquire(timeout=20)
    assert not dispatcher.began.acquire(timeout=0.1)
    assert dispatcher.asked == [{1}, {1, 2, 3}]


def test_given_a_request_for_later_when_its_time_comes_then_it_is_served_and_others_do_not_wait_for_it(
    sqlite_ledger: Ledger,
) -> None:
    dispatcher = Slow(sqlite_ledger)
    dispatcher.go_on.release(10)
    dispatcher.request(1, after_seconds=3_600)
    dispatcher.request(2, after_seconds=0.2)
    dispatcher.request(3)
    for _ in range(2):
        assert dispatcher.began.acquire(timeout=20)
    dispatcher.request(4, after_seconds=0.2)
    dispatcher.request(4)  # and it is served then all the same: its gate may be shut now
    for _ in range(2):
        assert dispatcher.began.acquire(timeout=20)
    assert dispatcher.asked == [{3}, {2}, {4}, {4}]


def test_p2_given_a_dispatch_that_publishes_when_another_thread_dispatches_then_it_waits(ledger: Ledger) -> None:
    worlds = [make_tenant(ledger), make_tenant(ledger, "globex")]
    ids = [sync_id for world in worlds for sync_id in keep(ledger, world, 1)]
    publishing, go_on = threading.Event(), threading.Event()

    def publish(_rung: list[Rung]) -> list[Rung]:
        publishing.set()
        assert go_on.wait(20)
        return []

    dispatcher = Dispatcher(ledger, publish)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(dispatcher.dispatch, [worlds[0].gate_id])
        assert publishing.wait(20)
        second = pool.submit(dispatcher.dispatch, [worlds[1].gate_id])
        assert not wait([second], timeout=0.2).done
        assert states(ledger, ids) == [State.QUEUED, State.PENDING]
        go_on.set()
        assert [first.result(20), second.result(20)] == [1, 1]


def test_p2_given_a_ledger_that_fails_when_requested_again_then_it_dispatches(
    ledger: Ledger, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_tenant(ledger)
    keep(ledger, world, 2)
    failed, rung, really = threading.Event(), threading.Event(), dispatcher.dispatch

    def dispatch(gate_ids: Any = None, *, skip_locked: bool = False) -> int:
        if not failed.is_set():
            failed.set()
            raise OperationalError("SELECT", None, Exception("down"))
        count = really(gate_ids, skip_locked=skip_locked)
        rung.set()
        return count

    monkeypatch.setattr(dispatcher, "dispatch", dispatch)
    dispatcher.request(world.gate_id)
    assert failed.wait(20)
    dispatcher.request(world.gate_id)
    assert rung.wait(20)
    assert in_flight(ledger) == 2


# P3: publishing that fails


def test_p3_given_bells_that_did_not_go_out_when_published_then_they_are_put_back_at_once(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells
) -> None:
    ids = keep(ledger, make_tenant(ledger), 4)
    bells.fails = lambda one: one.sync_id in ids[2:]
    assert dispatcher.dispatch() == 2
    assert states(ledger, ids) == [State.QUEUED] * 2 + [State.PENDING] * 2
    row = sync_row(ledger, ids[3])
    assert (row.queued_at, row.lease_until, row.attempts) == (None, None, 0)


def test_p3_given_a_message_that_went_out_all_the_same_when_put_back_then_its_claim_stands(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells
) -> None:
    ids = keep(ledger, make_tenant(ledger), 2)

    def claimed_meanwhile(one: Rung) -> bool:
        if one.sync_id == ids[0]:
            claim(ledger, one.sync_id)
        return True

    bells.fails = claimed_meanwhile
    assert dispatcher.dispatch() == 0
    assert states(ledger, ids) == [State.RUNNING, State.PENDING]


def test_p3_given_a_queue_that_fails_on_when_dispatched_then_pauses_double_from_1_to_30_s(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, clock: Clock
) -> None:
    ids = keep(ledger, make_tenant(ledger), 2)
    bells.fails = lambda _one: True
    tries = []
    for _ in range(2_000):
        before = len(bells.batches)
        dispatcher.dispatch()
        if len(bells.batches) > before:
            tries.append(clock.at)
        clock.at += 0.1
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(tries)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30][: len(pauses)]
    assert len(pauses) >= 8
    assert states(ledger, ids) == [State.PENDING] * 2


def test_p3_given_a_pause_that_ended_when_dispatched_then_one_batch_probes_and_success_opens_all(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, clock: Clock
) -> None:
    worlds = [make_tenant(ledger, f"tenant-{number}", window=8) for number in range(4)]
    for world in worlds:
        keep(ledger, world, 8)
    bells.fails = lambda _one: True
    assert dispatcher.dispatch() == 0
    clock.at += 1
    assert dispatcher.dispatch() == 0
    clock.at += 2
    bells.fails = lambda _one: False
    assert dispatcher.dispatch() == 10
    assert dispatcher.dispatch() == 22
    assert bells.batches == [32, 10, 10, 22]
    assert in_flight(ledger) == 32


def test_p3_given_a_recovery_when_the_queue_fails_again_then_the_pause_starts_at_one_second() -> None:
    clock = Clock()
    pauses = QueuePauses(clock)
    for _ in range(4):
        pauses.record("orders", failed=True)
    pauses.record("orders", failed=False)
    assert pauses.usable("orders")
    assert not pauses.on_trial("orders")
    pauses.record("orders", failed=True)
    clock.at += 0.9
    assert not pauses.usable("orders")
    assert pauses.usable("stock")
    clock.at += 0.2
    assert pauses.usable("orders")


# P4: shut gates cost nothing


def test_p4_given_gates_of_all_sorts_when_asked_then_the_open_ones_with_due_work(ledger: Ledger) -> None:
    due, idle, later, paused, busy = (
        make_tenant(ledger, name) for name in ("due", "idle", "later", "paused", "busy")
    )
    keep(ledger, due, 1)
    force(ledger, keep(ledger, later, 1), due_at=after(60))
    keep(ledger, paused, 1)
    shut(ledger, paused, paused_until=after(60))
    (running,) = keep(ledger, busy, 1)
    with ledger.write() as connection:
        transitions.ring(connection, [running])
    with ledger.read() as connection:
        assert due_gates(connection) == [due.gate_id]
    assert idle.gate_id


# P5: bells that were lost


@pytest.mark.parametrize(("messages", "rung"), [(5, 0), (4, 0), (3, 1), (1, 3), (0, 3)])
def test_p5_given_expired_bells_when_messages_are_counted_then_the_missing_ring_again(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, messages: int, rung: int
) -> None:
    ids = keep(ledger, make_tenant(ledger), 5)
    dispatcher.dispatch()
    claim(ledger, ids[4])
    force(ledger, ids[:3], lease_until=after(-1))
    bells.rung.clear()
    assert dispatcher.ring_missing("order", messages) == rung
    assert bells.rung == ids[:rung]
    assert dispatcher.ring_missing("order", 0) == 0, "none has expired now"


def test_p5_given_a_queue_on_trial_when_many_are_missing_then_one_batch_probes(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells, clock: Clock
) -> None:
    ids = keep(ledger, make_tenant(ledger, window=30), PROBE_SIZE + 2)
    dispatcher.dispatch()
    force(ledger, ids, lease_until=after(-1))
    dispatcher._pauses.record("orders", failed=True)
    clock.at += PUBLISH_PAUSE_SECONDS[0]
    assert dispatcher.ring_missing("order", 0) == PROBE_SIZE


def test_p5_given_the_missing_when_their_bells_fail_then_they_are_put_back(
    ledger: Ledger, dispatcher: Dispatcher, bells: Bells
) -> None:
    ids = keep(ledger, make_tenant(ledger), 2)
    dispatcher.dispatch()
    force(ledger, ids, lease_until=after(-1))
    bells.fails = lambda _one: True
    assert dispatcher.ring_missing("order", 0) == 0
    assert states(ledger, ids) == [State.PENDING] * 2
