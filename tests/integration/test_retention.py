"""What is old leaves, but never what an open sync needs."""

from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from integrator.clock import after, now
from integrator.erps.base import StepKind
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.retention import OldAttempts, drop_old_deliveries, drop_old_keys, empty_old_requests
from integrator.ledger.schema import State, StepState, attempts, deliveries, delivery_keys, steps, syncs
from tests.integration.test_converge import Bench
from tests.plans import analyze, plans
from tests.support import deliver, delivery, make_tenant, order


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
        connection.execute(update(delivery_keys).values(received_at=after(-31 * 86_400)))
        assert drop_old_deliveries(connection, keep_days=30) == 1
        assert drop_old_deliveries(connection, keep_days=30) == 0
        assert drop_old_keys(connection, keep_days=30) == 3
        left = connection.execute(select(deliveries.c.sync_id).order_by(deliveries.c.id)).scalars().all()
        assert left == [open_old, finished_new]
        assert connection.execute(select(func.count()).select_from(delivery_keys)).scalar_one() == 0
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
        assert [empty_old_requests(connection, keep_days=30) for _ in range(3)] == [2, 1, 0]
        assert connection.execute(kept).all() == before

    assert bodies(bench) == [False, False, False, True, True]


@pytest.mark.parametrize("by_key", [True, False])
def test_given_emptied_requests_when_the_order_lives_on_then_every_step_is_as_before(
    bench: Bench, by_key: bool
) -> None:
    bench.erp.by_key = by_key
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    with bench.ledger.write() as connection:
        connection.execute(update(steps).values(intended_at=OLD))
        assert empty_old_requests(connection, keep_days=30) == 1

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

    old = OldAttempts(keep_days=30, keep_latest=2)
    with bench.ledger.write() as connection:
        walk = [old.drop(connection) for _ in range(4)]
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
    with bench.ledger.write() as connection:
        keys = [{"key": str(number)} for number in range(5_000)]
        connection.execute(insert(steps).values(**step, intended_at=OLD, applied_at=now()), keys)
        claims = [{"claim": number} for number in range(2, 5_000)]
        connection.execute(update(steps).values(intended_at=OLD))
        connection.execute(insert(attempts).values(**attempt, started_at=OLD, ended_at=OLD), claims)
    analyze(bench.ledger)

    emptied = plans(bench.ledger, lambda connection: empty_old_requests(connection, keep_days=30), about="steps")
    walked = plans(bench.ledger, OldAttempts(30, 5).drop, about="attempts")

    assert "ix_steps_has_body" in emptied[0].plan, emptied
    assert len(emptied) == len(walked) == 2
    assert not any(plan.scans("steps") for plan in emptied), emptied
    assert not any(plan.scans("attempts") for plan in walked), walked
