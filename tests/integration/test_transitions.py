"""The transitions of a sync, on both databases. Each test names the rule that it holds (PROTOCOL)."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, delete, event, insert, select, update

from integrator import gate
from integrator.clock import after, now
from integrator.ledger import leases, transitions
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Claimed, Failure
from integrator.ledger.schema import Priority, State, StepState, attempts, deliveries, gates, steps, syncs
from tests.support import World, deliver, delivery, make_tenant, order, sync_row

FAILURE = Failure("Unmapped", "abc", "no SKU", "", "add it")


@pytest.fixture
def world(ledger: Ledger) -> World:
    return make_tenant(ledger)


def keep(ledger: Ledger, world: World, **kwargs: Any) -> int:
    (accepted,) = deliver(ledger, delivery(world, order(**kwargs)))
    assert accepted.sync_id is not None
    return accepted.sync_id


def ring(ledger: Ledger, sync_id: int) -> None:
    with ledger.write() as connection:
        assert [one.sync_id for one in transitions.ring(connection, [sync_id])] == [sync_id]


def claim(ledger: Ledger, sync_id: int, tenant: str = "acme") -> Claimed | None:
    with ledger.write() as connection:
        return transitions.claim(connection, tenant, sync_id, worker="w")


def claimed(ledger: Ledger, world: World) -> Claimed:
    sync_id = keep(ledger, world)
    ring(ledger, sync_id)
    won = claim(ledger, sync_id)
    assert won is not None
    return won


def finish(ledger: Ledger, won: Claimed) -> str | None:
    with ledger.write() as connection:
        return transitions.finish(
            connection, won.sync_id, won.claim, won.wanted, reason="created", seen_updated_at=None, seen_digest="d"
        )


def stop(ledger: Ledger, won: Claimed, state: State = State.HELD) -> bool:
    with ledger.write() as connection:
        return transitions.stop(connection, won.sync_id, won.claim, FAILURE, state=state)


def test_given_good_and_unreadable_deliveries_in_one_batch_when_kept_then_each_by_its_own_state(
    ledger: Ledger, world: World
) -> None:
    good, again = (delivery(world, order(external_id="1", minute=minute)) for minute in (1, 2))
    bad = replace(delivery(world, order(external_id="2")), external_id="delivery:x", failure=FAILURE)

    kept = deliver(ledger, good, bad, again)

    assert [one.version for one in kept] == [1, 1, 2]
    assert kept[0].sync_id == kept[2].sync_id
    rows = [sync_row(ledger, one.sync_id) for one in kept[:2] if one.sync_id is not None]
    assert [(row.state, row.wanted, row.error_class) for row in rows] == [
        (State.PENDING, 2, None),
        (State.HELD, 1, "Unmapped"),
    ]
    assert {(row.applied, row.claims, row.attempts, row.vanished, row.throttled) for row in rows} == {(0,) * 5}


def force(ledger: Ledger, sync_id: int, **values: Any) -> None:
    with ledger.write() as connection:
        connection.execute(update(syncs).where(syncs.c.id == sync_id).values(**values))


def take_over(ledger: Ledger) -> list[tuple[int, str]]:
    with ledger.write() as connection:
        return transitions.take_over(connection, random.Random(1).random())


def findings(ledger: Ledger) -> list[str]:
    with ledger.read() as connection:
        return [one.finding for one in audit(connection)]


def test_given_a_first_delivery_when_kept_then_a_pending_sync_wants_version_one(
    ledger: Ledger, world: World
) -> None:
    row = sync_row(ledger, keep(ledger, world))
    assert (row.state, row.wanted, row.applied, row.priority) == (State.PENDING, 1, 0, Priority.LIVE)


def test_given_the_same_event_twice_when_kept_then_one_is_a_duplicate(ledger: Ledger, world: World) -> None:
    twice = delivery(world, order(), event="e1")
    first, second = deliver(ledger, twice, twice)
    (third,) = deliver(ledger, twice)
    assert [first.duplicate, second.duplicate, third.duplicate] == [False, True, True]
    named = {first.correlation_id, second.correlation_id, third.correlation_id}
    assert named == {twice.correlation_id}
    (fourth,) = deliver(ledger, replace(twice, correlation_id="fresh"))
    assert (fourth.duplicate, fourth.correlation_id) == (True, twice.correlation_id)
    assert first.sync_id is not None
    assert sync_row(ledger, first.sync_id).wanted == 1


def test_p6_given_bells_that_did_not_start_when_taken_back_then_what_is_queued_of_that_tenant_is_pending(
    ledger: Ledger, world: World
) -> None:
    running = claimed(ledger, world).sync_id
    queued, others, done = (keep(ledger, world, external_id=str(number)) for number in (2, 3, 4))
    ring(ledger, queued)
    ring(ledger, others)
    with ledger.write() as connection:
        bells = [("acme", running), ("acme", queued), ("globex", others), ("acme", done), ("acme", 999)]
        assert transitions.unring(connection, bells) == 1
    states = [sync_row(ledger, sync_id).state for sync_id in (running, queued, others, done)]
    assert states == [State.RUNNING, State.PENDING, State.QUEUED, State.PENDING]
    row = sync_row(ledger, queued)
    assert (row.attempts, row.claims, row.lease_until, row.queued_at) == (0, 0, None, None)
    ring(ledger, queued)
    assert findings(ledger) == []


def test_given_no_event_id_when_kept_twice_then_wanted_rises_twice(ledger: Ledger, world: World) -> None:
    one = delivery(world, order())
    results = deliver(ledger, one, delivery(world, order("2")), one)
    assert [result.version for result in results] == [1, 1, 2]
    with ledger.read() as connection:
        versions = connection.execute(
            select(deliveries.c.version).where(deliveries.c.sync_id == results[0].sync_id)
        ).scalars()
        assert sorted(versions) == [1, 2]


def test_given_another_shop_with_the_same_event_and_id_when_kept_then_nothing_crosses(
    ledger: Ledger, world: World
) -> None:
    other = make_tenant(ledger, "globex")
    (mine,) = deliver(ledger, delivery(world, order(), event="e"))
    (theirs,) = deliver(ledger, delivery(other, order(), event="e"))
    assert not theirs.duplicate
    assert mine.sync_id != theirs.sync_id
    assert mine.sync_id is not None
    ring(ledger, mine.sync_id)
    assert claim(ledger, mine.sync_id, tenant="globex") is None
    assert sync_row(ledger, mine.sync_id).state == State.QUEUED


@pytest.mark.parametrize("state", [State.DONE, State.HELD, State.DEAD])
def test_d1_given_an_ended_sync_when_a_delivery_comes_then_it_starts_over(
    ledger: Ledger, world: World, state: State
) -> None:
    won = claimed(ledger, world)
    force(ledger, won.sync_id, attempts=4, vanished=1, throttled=2)
    assert finish(ledger, won) if state is State.DONE else stop(ledger, won, state)
    force(ledger, won.sync_id, attempts=4, vanished=1, throttled=2)
    keep(ledger, world)
    row = sync_row(ledger, won.sync_id)
    assert (row.state, row.wanted, row.attempts, row.vanished, row.throttled) == (State.PENDING, 2, 0, 0, 0)
    assert row.error_class is None


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_d1_given_a_sync_in_flight_when_a_delivery_comes_then_only_wanted_rises(
    ledger: Ledger, world: World, state: State
) -> None:
    sync_id = keep(ledger, world)
    ring(ledger, sync_id)
    if state is State.RUNNING:
        claim(ledger, sync_id)
    before = sync_row(ledger, sync_id)
    keep(ledger, world)
    after_it = sync_row(ledger, sync_id)
    assert after_it.wanted == 2
    for name in ("state", "lease_until", "queued_at", "claim", "due_at", "priority"):
        assert getattr(after_it, name) == getattr(before, name)


def test_d1_given_a_retrying_sync_when_a_delivery_comes_then_its_time_stays(ledger: Ledger, world: World) -> None:
    won = claimed(ledger, world)
    with ledger.write() as connection:
        assert transitions.retry(connection, won.sync_id, won.claim, FAILURE, burns="attempts", delay_seconds=600)
    before = sync_row(ledger, won.sync_id)
    keep(ledger, world)
    row = sync_row(ledger, won.sync_id)
    assert (row.state, row.due_at, row.attempts, row.wanted) == (State.RETRYING, before.due_at, 1, 2)


def test_d1_given_a_pending_backfill_when_a_live_delivery_comes_then_it_is_urgent(
    ledger: Ledger, world: World
) -> None:
    sync_id = keep(ledger, world)
    force(ledger, sync_id, priority=Priority.BACKFILL)
    keep(ledger, world)
    assert sync_row(ledger, sync_id).priority == Priority.LIVE


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_given_a_released_sync_in_flight_when_a_live_delivery_comes_then_its_next_run_is_urgent(
    ledger: Ledger, world: World, state: State
) -> None:
    sync_id = keep(ledger, world)
    force(ledger, sync_id, priority=Priority.BACKFILL)
    ring(ledger, sync_id)
    if state is State.RUNNING:
        claim(ledger, sync_id)
    keep(ledger, world)
    assert sync_row(ledger, sync_id).priority == Priority.LIVE


def test_p5_given_a_shut_gate_when_a_bell_expired_then_it_waits_in_the_ledger(
    ledger: Ledger, world: World
) -> None:
    sync_id = keep(ledger, world)
    ring(ledger, sync_id)
    force(ledger, sync_id, lease_until=after(-1))
    with ledger.write() as connection:
        gate.pause(connection, [world.gate_id])
    with ledger.write() as connection:
        assert transitions.ring_again(connection, "order", 1) == []
    assert sync_row(ledger, sync_id).state == State.PENDING


def test_given_new_credentials_of_a_shop_when_hurried_then_only_what_waits_for_them_is_due(
    ledger: Ledger, world: World
) -> None:
    waiting, other = keep(ledger, world), keep(ledger, world, external_id="2")
    force(ledger, waiting, error_class="Unauthorized", due_at=after(900))
    force(ledger, other, error_class="Transient", due_at=after(900))
    with ledger.write() as connection:
        assert transitions.hurry(connection, [world.shop_id]) == 1
        due = connection.execute(select(syncs.c.id).where(syncs.c.due_at <= after(0))).scalars().all()
    assert due == [waiting]


def test_c1_given_a_claimed_sync_when_its_message_comes_again_then_it_ends(ledger: Ledger, world: World) -> None:
    won = claimed(ledger, world)
    assert (won.claim, won.wanted) == (1, 1)
    assert claim(ledger, won.sync_id) is None
    assert sync_row(ledger, won.sync_id).claim == 1


@pytest.mark.parametrize("state", [State.PENDING, State.DONE])
def test_c1_given_a_sync_that_is_not_queued_when_claimed_then_nothing_happens(
    ledger: Ledger, world: World, state: State
) -> None:
    if state is State.PENDING:
        sync_id = keep(ledger, world)
    else:
        won = claimed(ledger, world)
        finish(ledger, won)
        sync_id = won.sync_id
    assert claim(ledger, sync_id) is None
    assert sync_row(ledger, sync_id).state == state


def test_c1_given_a_gate_that_opens_within_the_claim_when_claimed_then_pending_and_not_queued_without_a_message(
    ledger: Ledger, world: World
) -> None:
    sync_id = keep(ledger, world)
    ring(ledger, sync_id)
    with ledger.write() as connection:
        gate.pause(connection, [world.gate_id])

        first = iter([True])

        def open_after_the_first(*_arguments: Any) -> None:
            if next(first, False):
                gate.resume(connection, [world.gate_id])

        event.listen(connection, "after_cursor_execute", open_after_the_first)
        assert transitions.claim(connection, "acme", sync_id, worker="w") is None
    assert sync_row(ledger, sync_id).state == State.PENDING


def test_c1_given_a_shut_gate_when_claimed_then_pending_and_no_attempt(ledger: Ledger, world: World) -> None:
    sync_id = keep(ledger, world)
    ring(ledger, sync_id)
    with ledger.write() as connection:
        gate.pause(connection, [world.gate_id])
    assert claim(ledger, sync_id) is None
    assert sync_row(ledger, sync_id).state == State.PENDING
    with ledger.read() as connection:
        assert connection.execute(select(attempts)).all() == []


def test_c2_given_a_newer_claim_when_the_old_holder_writes_then_nothing_changes(
    ledger: Ledger, world: World
) -> None:
    old = claimed(ledger, world)
    force(ledger, old.sync_id, lease_until=after(-1))
    assert take_over(ledger) == [(old.sync_id, State.PENDING)]
    force(ledger, old.sync_id, due_at=after(-1))
    ring(ledger, old.sync_id)
    new = claim(ledger, old.sync_id)
    assert new is not None
    assert new.claim == old.claim + 1
    before = sync_row(ledger, old.sync_id)
    with ledger.write() as connection:
        assert leases.renew(connection, [(old.sync_id, old.claim)]) == set()
        assert not leases.hold_fence(connection, old.sync_id, old.claim)
        assert not transitions.release(connection, old.sync_id, old.claim)
        assert not transitions.retry(connection, old.sync_id, old.claim, FAILURE, burns="attempts")
    assert finish(ledger, old) is None
    assert not stop(ledger, old)
    assert sync_row(ledger, old.sync_id) == before


def test_c2_given_a_write_to_steps_when_a_sweep_comes_meanwhile_then_the_sync_is_not_taken_over_within_it(
    ledger: Ledger, world: World
) -> None:
    if ledger.on_sqlite:
        pytest.skip("the write lock stands for all row locks")
    won = claimed(ledger, world)
    force(ledger, won.sync_id, lease_until=after(-1))
    with ledger.write() as writing:
        assert leases.hold_fence(writing, won.sync_id, won.claim)
        assert take_over(ledger) == []
    assert take_over(ledger) == [(won.sync_id, State.PENDING)]


def test_c3_given_a_run_near_its_end_when_renewed_then_ninety_seconds_bound_it(
    ledger: Ledger, world: World
) -> None:
    won = claimed(ledger, world)
    force(ledger, won.sync_id, claimed_at=after(-80))
    with ledger.write() as connection:
        assert leases.renew(connection, [(won.sync_id, won.claim)]) == {(won.sync_id, won.claim)}
    row = sync_row(ledger, won.sync_id)
    assert (row.lease_until - row.claimed_at).total_seconds() == pytest.approx(90, abs=0.01)


def test_c4_given_vanished_workers_when_swept_then_the_third_in_a_row_is_held(
    ledger: Ledger, world: World
) -> None:
    won = claimed(ledger, world)
    states = []
    for _ in range(3):
        force(ledger, won.sync_id, lease_until=after(-1))
        states += take_over(ledger)
        if sync_row(ledger, won.sync_id).state == State.PENDING:
            force(ledger, won.sync_id, due_at=after(-1))
            ring(ledger, won.sync_id)
            claim(ledger, won.sync_id)
    assert [state for _, state in states] == [State.PENDING, State.PENDING, State.HELD]
    row = sync_row(ledger, won.sync_id)
    assert (row.vanished, row.error_class) == (3, transitions.KILLS_ITS_WORKER)
    assert row.error_remedy
    with ledger.read() as connection:
        outcomes = connection.execute(select(attempts.c.outcome)).scalars().all()
    assert outcomes == ["vanished"] * 3


@pytest.mark.parametrize(("vanished", "seconds"), [(0, 30), (1, 60)])
def test_c4_given_a_vanished_worker_when_swept_then_due_after_its_last_sign_of_life(
    ledger: Ledger, world: World, vanished: int, seconds: int
) -> None:
    won = claimed(ledger, world)
    force(ledger, won.sync_id, vanished=vanished, lease_until=after(-1))
    lease_until = sync_row(ledger, won.sync_id).lease_until
    take_over(ledger)
    waited = (sync_row(ledger, won.sync_id).due_at - lease_until).total_seconds() + 30
    assert seconds <= waited <= seconds * 1.1 + 0.01


def test_c4_s2_given_a_vanished_worker_when_swept_late_then_its_attempt_ended_with_its_lease(
    ledger: Ledger, world: World
) -> None:
    won = claimed(ledger, world)
    force(ledger, won.sync_id, lease_until=after(-500))
    lease_until = sync_row(ledger, won.sync_id).lease_until
    take_over(ledger)
    with ledger.read() as connection:
        assert connection.execute(select(attempts.c.ended_at)).scalar_one() == lease_until


@pytest.mark.parametrize(("seconds", "time"), [(60, 600), (600, 60)])
def test_f1_given_a_wait_and_a_time_when_it_runs_again_then_at_the_later(
    ledger: Ledger, world: World, seconds: float, time: float
) -> None:
    won = claimed(ledger, world)
    with ledger.write() as connection:
        at = connection.execute(select(after(time))).scalar_one()
        assert transitions.retry(
            connection, won.sync_id, won.claim, FAILURE, burns="attempts", delay_seconds=seconds, not_before=at
        )
    late = (sync_row(ledger, won.sync_id).due_at - at).total_seconds()
    assert late == pytest.approx(max(seconds - time, 0), abs=5)


def test_f1_given_refusals_for_haste_when_another_failure_comes_between_then_counting_starts_anew(
    ledger: Ledger, world: World
) -> None:
    won = claimed(ledger, world)
    force(ledger, won.sync_id, throttled=19)
    with ledger.write() as connection:
        assert transitions.retry(connection, won.sync_id, won.claim, FAILURE, burns="attempts")
    row = sync_row(ledger, won.sync_id)
    assert (row.throttled, row.attempts) == (0, 1)


def test_c4_given_an_attempt_that_ended_when_the_next_vanishes_then_counting_starts_anew(
    ledger: Ledger, world: World
) -> None:
    won = claimed(ledger, world)
    force(ledger, won.sync_id, vanished=2)
    with ledger.write() as connection:
        assert transitions.release(connection, won.sync_id, won.claim)
    assert sync_row(ledger, won.sync_id).vanished == 0


def test_c5_given_a_newer_version_when_finished_then_pending_at_once(ledger: Ledger, world: World) -> None:
    won = claimed(ledger, world)
    keep(ledger, world)
    assert finish(ledger, won) == State.PENDING
    row = sync_row(ledger, won.sync_id)
    assert (row.applied, row.wanted, row.claim, row.lease_until) == (1, 2, None, None)


def test_c5_given_nothing_newer_when_finished_then_done_and_counters_reset(ledger: Ledger, world: World) -> None:
    won = claimed(ledger, world)
    force(ledger, won.sync_id, attempts=3, throttled=1)
    assert finish(ledger, won) == State.DONE
    row = sync_row(ledger, won.sync_id)
    assert (row.applied, row.attempts, row.throttled, row.reason) == (1, 0, 0, "created")


def test_p3_given_a_claimed_sync_when_put_back_then_the_claim_stands(ledger: Ledger, world: World) -> None:
    sync_id = keep(ledger, world)
    with ledger.write() as connection:
        rung = transitions.ring(connection, [sync_id])
    claim(ledger, sync_id)
    with ledger.write() as connection:
        assert transitions.put_back(connection, rung) == 0
    assert sync_row(ledger, sync_id).state == State.RUNNING


def test_p3_given_a_second_bell_when_the_first_is_put_back_then_the_second_stands(
    ledger: Ledger, world: World
) -> None:
    sync_id = keep(ledger, world)
    with ledger.write() as connection:
        first = transitions.ring(connection, [sync_id])
    force(ledger, sync_id, queued_at=after(1))
    with ledger.write() as connection:
        assert transitions.put_back(connection, first) == 0
    force(ledger, sync_id, queued_at=first[0].queued_at)
    with ledger.write() as connection:
        assert transitions.put_back(connection, first) == 1
    assert sync_row(ledger, sync_id).state == State.PENDING


@pytest.mark.parametrize(("missing", "rung"), [(0, 0), (1, 1), (3, 2)])
def test_p5_given_expired_bells_when_swept_then_only_the_missing_ring_again(
    ledger: Ledger, world: World, missing: int, rung: int
) -> None:
    ids = [keep(ledger, world, external_id=str(number)) for number in range(3)]
    for age, sync_id in zip((200, 100, 0), ids, strict=True):
        ring(ledger, sync_id)
        force(ledger, sync_id, queued_at=after(-age), lease_until=after(-1 if age else 20))
    with ledger.write() as connection:
        again = transitions.ring_again(connection, "order", missing)
    assert [one.sync_id for one in again] == ids[:rung]
    rows = [sync_row(ledger, sync_id) for sync_id in ids]
    assert all(row.state == State.QUEUED for row in rows)
    assert findings(ledger) == []


def test_p5_given_a_bell_of_over_fifteen_minutes_when_swept_then_it_rings_regardless(
    ledger: Ledger, world: World
) -> None:
    sync_id = keep(ledger, world)
    ring(ledger, sync_id)
    force(ledger, sync_id, queued_at=after(-901), lease_until=after(-1))
    with ledger.write() as connection:
        assert [one.sync_id for one in transitions.ring_again(connection, "order", 0)] == [sync_id]


def test_f4_given_a_held_sync_when_requeued_then_it_starts_over_behind_live_orders(
    ledger: Ledger, world: World
) -> None:
    won = claimed(ledger, world)
    stop(ledger, won)
    with ledger.write() as connection:
        assert transitions.requeue(connection, syncs.c.error_class == "Unmapped", mass=True) == 1
    row = sync_row(ledger, won.sync_id)
    assert (row.state, row.priority, row.error_class) == (State.PENDING, Priority.BACKFILL, None)


def test_f2_given_newer_credentials_when_the_old_are_refused_then_the_gate_stays_open(
    ledger: Ledger, world: World
) -> None:
    with ledger.write() as connection:
        connection.execute(update(gates).values(credentials_version=2))
        assert not gate.refuse_credentials(connection, world.gate_id, 1)
        assert gate.ask(connection, world.gate_id).open
        assert gate.refuse_credentials(connection, world.gate_id, 2)
    with ledger.read() as connection:
        shut = gate.ask(connection, world.gate_id)
    assert (shut.open, shut.cause) == (False, "the credentials were refused")


def test_f2_given_newer_credentials_when_the_old_are_taken_then_the_newer_ones_refusal_stands(
    ledger: Ledger, world: World
) -> None:
    with ledger.write() as connection:
        connection.execute(update(gates).values(credentials_version=2))
        assert gate.refuse_credentials(connection, world.gate_id, 2)
        gate.accept_credentials(connection, world.gate_id, 1)
        assert not gate.ask(connection, world.gate_id).open
        gate.accept_credentials(connection, world.gate_id, 2)
        assert gate.ask(connection, world.gate_id).open


def test_g1_given_two_causes_when_resumed_then_the_other_stands(ledger: Ledger, world: World) -> None:
    with ledger.write() as connection:
        gate.pause(connection, [world.gate_id])
        gate.wait(connection, world.gate_id, 60)
        assert gate.ask(connection, world.gate_id).cause == "paused by an operator"
        gate.resume(connection, [world.gate_id])
        found = gate.ask(connection, world.gate_id)
    assert (found.open, found.cause) == (False, "the system asked to wait")


def test_g1_given_a_longer_wait_when_a_shorter_comes_then_the_longer_stands(ledger: Ledger, world: World) -> None:
    with ledger.write() as connection:
        gate.wait(connection, world.gate_id, 600)
        first = gate.ask(connection, world.gate_id).opens_at
        gate.wait(connection, world.gate_id, 1)
        assert gate.ask(connection, world.gate_id).opens_at == first


def test_given_rows_in_limbo_when_audited_then_each_is_named(ledger: Ledger, world: World) -> None:
    won = claimed(ledger, world)
    queued = keep(ledger, world, external_id="2")
    ring(ledger, queued)
    assert findings(ledger) == []
    force(ledger, won.sync_id, lease_until=after(-200))
    force(ledger, queued, lease_until=after(-200))
    other = make_tenant(ledger, "globex")
    late = keep(ledger, other)
    force(ledger, late, due_at=after(-200))
    found = findings(ledger)
    assert len(found) == 3
    assert {text.split()[0].rstrip(",") for text in found} == {"queued", "running", "due"}


def a_step(connection: Connection, sync_id: int, **values: Any) -> None:
    row = {
        "sync_id": sync_id,
        "kind": "create",
        "key": "k",
        "method": "POST",
        "path": "/",
        "body": b"",
        "claim": 1,
    }
    connection.execute(insert(steps).values(**row, sends=1, digest="d", intended_at=now(), **values))


OPEN = {"ended_at": None, "outcome": None}
ENDED = {"ended_at": now(), "outcome": "done"}
IN_DOUBT = {"state": StepState.IN_DOUBT, "doubted_at": now()}
TO_VERIFY = {"state": StepState.APPLIED, "applied_at": now(), "remote_id": "1", "verify_at": now()}


@pytest.mark.parametrize(
    ("ends", "breaks", "named"),
    [
        (True, lambda c, sync_id: a_step(c, sync_id, **IN_DOUBT), "done with a step whose outcome is not known"),
        (
            True,
            lambda c, sync_id: a_step(c, sync_id, **TO_VERIFY),
            "done with a create that was not looked at again",
        ),
        (True, lambda c, _: c.execute(update(attempts).values(**OPEN)), "not running, but an attempt of it"),
        (False, lambda c, _: c.execute(update(attempts).values(**ENDED)), "running without an open attempt"),
        (False, lambda c, _: c.execute(delete(deliveries)), "its newest delivery is missing"),
        (True, lambda c, _: c.execute(update(syncs).values(changed_at=after(500))), "changed in the future"),
    ],
)
def test_given_a_row_that_no_constraint_refuses_when_audited_then_it_is_named(
    ledger: Ledger, world: World, ends: bool, breaks: Callable[[Connection, int], Any], named: str
) -> None:
    won = claimed(ledger, world)
    if ends:
        finish(ledger, won)
    assert findings(ledger) == []
    with ledger.write() as connection:
        breaks(connection, won.sync_id)
    (found,) = findings(ledger)
    assert found.startswith(named)
