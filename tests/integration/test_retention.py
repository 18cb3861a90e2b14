"""What is old leaves, but never what an open sync needs."""

from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, update

from integrator.clock import after, now
from integrator.erps.base import StepKind
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.retention import Walk, drop_old_keys, old_attempts, old_deliveries, old_requests
from integrator.ledger.schema import State, StepState, attempts, deliveries, delivery_keys, steps, syncs, tenants
from tests.integration.test_converge import Bench
from tests.plans import analyze, plans
from tests.support import deliver, delivery, make_tenant, order


def walked(connection: Connection, walk: Walk) -> int:
    """Walk once from the first row to the last that is old; how many rows were looked at."""
    return sum(iter(lambda: walk.go_on(connection), 0))


def test_given_old_and_new_deliveries_when_dropped_then_only_old_ones_of_finished_syncs_leave(
    ledger: Ledger,
) -> None:
    world = make_tenant(ledger)
    kept = [deliver(ledger, delivery(world, order(str(number)), event=str(number)))[0] for number in range(3)]
    finished_old, open_old, finished_new = (one.sync_id for one in kept)
    with ledger.write() as connection:
        done = {"state": State.DONE, "applied": 1}
        connection.execute(update(syncs).where(syncs.c.id.in_([finished_old, finished_new])).values(**done))
        old = deliveries.c.sync_id != finished_new
        connection.execute(update(deliveries).where(old).values(received_at=after(-31 * 86_400)))
        assert walked(connection, old_deliveries(30)) == 3
        assert drop_old_keys(connection, keep_days=30) == 0, "young keys still know a repeat"
        connection.execute(update(delivery_keys).values(received_at=after(-31 * 86_400)))
        assert drop_old_keys(connection, keep_days=30) == 3
        left = connection.execute(select(deliveries.c.sync_id).order_by(deliveries.c.id)).scalars().all()
        assert left == [open_old, finished_new]
        assert connection.execute(select(func.count()).select_from(delivery_keys)).scalar_one() == 0
        assert audit(connection) == []


@pytest.mark.parametrize(("batch", "default"), [(2, 30), (100, 30), (2, 5)])
def test_given_tenants_that_keep_more_and_less_when_old_things_leave_then_each_by_its_own_days(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, batch: int, default: int
) -> None:
    monkeypatch.setattr("integrator.ledger.retention.BATCH", batch)
    keep = {"long": 400, "short": 7, "unsaid": None}
    sync_of = {}
    for slug, days in keep.items():
        bench = Bench(ledger, make_tenant(ledger, slug))
        sync_of[slug] = [bench.deliver(order(f"{slug}{number}")) for number in range(3)]
        for sync_id in sync_of[slug]:
            bench.run(sync_id)
        bench.deliver(order(f"{slug}2", minute=1))  # the third is open
        with ledger.write() as connection:
            connection.execute(update(tenants).where(tenants.c.slug == slug).values(keep_days=days))
    with ledger.write() as connection:
        ten_days, first = after(-10 * 86_400), deliveries.c.version == 1
        connection.execute(update(deliveries).where(first).values(received_at=ten_days))
        connection.execute(update(steps).values(intended_at=ten_days))
        connection.execute(update(attempts).values(ended_at=ten_days))

        for walk in (old_deliveries(default), old_requests(default), old_attempts(default, 0)):
            walked(connection, walk)

        leave = {*sync_of["short"][:2], *(sync_of["unsaid"][:2] if default == 5 else [])}
        everyone = {sync_id for several in sync_of.values() for sync_id in several}
        for left in (
            select(deliveries.c.sync_id).where(first),
            select(steps.c.sync_id).where(func.length(steps.c.body) > 0),
            select(attempts.c.sync_id),
        ):
            assert set(connection.execute(left).scalars()) == everyone - leave, left
        assert len(connection.execute(select(steps.c.id)).all()) == len(everyone), "a step is history, and stays"
        assert audit(connection) == []


OLD = after(-31 * 86_400)


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger, make_tenant(ledger))


def bodies(bench: Bench) -> list[bool]:
    """Whether each step still has its request."""
    with bench.ledger.read() as connection:
        return [bool(body) for body in connection.execute(select(steps.c.body).order_by(steps.c.id)).scalars()]


def test_given_old_requests_when_emptied_then_only_those_of_finished_syncs_and_all_else_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrator.ledger.retention.BATCH", 2)
    old_ids = [bench.deliver(order(str(number))) for number in range(4)]
    for sync_id in old_ids:
        bench.run(sync_id)
    with bench.ledger.write() as connection:
        connection.execute(update(steps).values(intended_at=OLD))
        open_again = syncs.c.id == old_ids[3]
        connection.execute(update(syncs).where(open_again).values(state=State.PENDING, applied=0))
    bench.run(bench.deliver(order("new")))

    with bench.ledger.write() as connection:
        kept = select(steps.c.key, steps.c.digest, steps.c.remote_id, steps.c.applied_at).order_by(steps.c.id)
        before = connection.execute(kept).all()
        walk = old_requests(30)
        assert [walk.go_on(connection) for _ in range(5)] == [2, 2, 0, 2, 0], "what stays is passed again, once"
        assert connection.execute(kept).all() == before

    assert bodies(bench) == [False, False, False, True, True]


@pytest.mark.parametrize("state", [StepState.INTENDED, StepState.IN_DOUBT])
def test_given_a_step_whose_end_nobody_knows_when_old_requests_are_emptied_then_its_own_stays(
    bench: Bench, state: StepState
) -> None:
    bench.run(bench.deliver(order()))
    with bench.ledger.write() as connection:
        unknown = {"state": state, "applied_at": None, "doubted_at": OLD}
        connection.execute(update(steps).values(intended_at=OLD, **unknown))
        walked(connection, old_requests(30))
    assert bodies(bench) == [True]


@pytest.mark.parametrize("by_key", [True, False])
def test_given_emptied_requests_when_the_order_lives_on_then_every_step_is_as_before(
    bench: Bench, by_key: bool
) -> None:
    bench.erp.by_key = by_key
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    with bench.ledger.write() as connection:
        connection.execute(update(steps).values(intended_at=OLD))
        assert walked(connection, old_requests(30)) == 1

    for document in (order(minute=1), order(minute=2, quantity=3), order(minute=3, quantity=3, cancelled=True)):
        bench.deliver(document)
        assert bench.run(sync_id).finished == State.DONE

    assert bench.erp.sends() == ["create", "update/1", "cancel"]
    assert bodies(bench) == [False, True, True]
    assert bench.clean()


def test_given_many_attempts_when_dropped_then_open_syncs_and_the_latest_of_each_keep_theirs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrator.ledger.retention.BATCH", 3)
    done, waits = bench.deliver(order("1")), bench.deliver(order("2"))
    for number in range(4):
        bench.deliver(order("1", minute=number))
        bench.deliver(order("2", minute=number))
        bench.run(done)
        bench.run(waits)
    bench.deliver(order("2", minute=9))
    with bench.ledger.write() as connection:
        connection.execute(update(attempts).where(attempts.c.claim < 4).values(ended_at=OLD))

    old = old_attempts(30, keep_latest=2)
    with bench.ledger.write() as connection:
        walk = [old.go_on(connection) for _ in range(4)]
        left = connection.execute(select(attempts.c.sync_id, attempts.c.claim).order_by(attempts.c.id)).all()

    assert walk == [3, 3, 0, 3]
    assert [claim for sync_id, claim in left if sync_id == done] == [3, 4]
    assert [claim for sync_id, claim in left if sync_id == waits] == [1, 2, 3, 4]
    assert bench.clean()


def test_given_much_that_stays_when_old_things_leave_then_by_an_index_and_never_through_the_table(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    step: dict[str, Any] = {
        "sync_id": sync_id,
        "kind": StepKind.UPDATE,
        "method": "POST",
        "path": "/",
        "body": b"",
    }
    step |= {"state": StepState.APPLIED, "claim": 1, "sends": 1, "digest": "d", "remote_id": "1"}
    attempt = {"sync_id": sync_id, "wanted": 1, "worker": "w", "outcome": "done"}
    webhook: dict[str, Any] = {"shop_id": bench.world.shop_id, "sync_id": sync_id, "topic": "t", "headers": {}}
    webhook |= {"body": b"", "body_hash": "h"}
    with bench.ledger.write() as connection:
        keys = [{"key": str(number)} for number in range(5_000)]
        connection.execute(insert(steps).values(**step, intended_at=OLD, applied_at=now()), keys)
        claims = [{"claim": number} for number in range(2, 5_000)]
        connection.execute(update(steps).values(intended_at=OLD))
        connection.execute(insert(attempts).values(**attempt, started_at=OLD, ended_at=OLD), claims)
        versions = [{"version": number} for number in range(2, 5_000)]
        connection.execute(insert(deliveries).values(**webhook, received_at=OLD), versions)
    analyze(bench.ledger)

    emptied = plans(bench.ledger, old_requests(30).go_on, about="steps")
    dropped = plans(bench.ledger, old_attempts(30, 5).go_on, about="attempts")

    left = plans(bench.ledger, old_deliveries(30).go_on, about="deliveries")

    assert "ix_steps_has_body" in emptied[0].plan, emptied
    assert len(left) == 2
    assert not any(plan.scans("deliveries") for plan in left), left
    assert len(emptied) == len(dropped) == 2
    assert not any(plan.scans("steps") for plan in emptied), emptied
    assert not any(plan.scans("attempts") for plan in dropped), dropped
