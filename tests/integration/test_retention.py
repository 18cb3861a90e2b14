"""Old deliveries leave, but never one that an open sync needs."""

from sqlalchemy import func, select, update

from integrator.clock import after
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.retention import drop_old_deliveries, drop_old_keys
from integrator.ledger.schema import State, deliveries, delivery_keys, syncs
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
