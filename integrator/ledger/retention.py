"""Housekeeping: old deliveries leave in small batches, never one that an open sync needs (DESIGN §9)."""

from sqlalchemy import Connection, delete, select, tuple_

from integrator.clock import after
from integrator.ledger.schema import IS_OPEN, deliveries, delivery_keys, syncs

BATCH = 500
"""Rows that one transaction removes at most: short locks, and room for webhooks in between."""

DAY_SECONDS = 86_400


def drop_old_deliveries(connection: Connection, *, keep_days: int) -> int:
    """Remove up to a batch of deliveries of finished syncs; how many.

    An order that comes up again later is fetched from its shop.
    """
    finished = select(syncs.c.id).where(~IS_OPEN, syncs.c.id == deliveries.c.sync_id).exists()
    old = (
        select(deliveries.c.id)
        .where(deliveries.c.received_at < after(-keep_days * DAY_SECONDS), finished)
        .order_by(deliveries.c.received_at)
        .limit(BATCH)
    )
    return connection.execute(delete(deliveries).where(deliveries.c.id.in_(old.scalar_subquery()))).rowcount


def drop_old_keys(connection: Connection, *, keep_days: int) -> int:
    """Remove up to a batch of deduplication keys; how many. The longest-lived retry is 48 h (Tiendanube)."""
    old = (
        select(delivery_keys.c.shop_id, delivery_keys.c.key_hash)
        .where(delivery_keys.c.received_at < after(-keep_days * DAY_SECONDS))
        .order_by(delivery_keys.c.received_at)
        .limit(BATCH)
    )
    pairs = [tuple(row) for row in connection.execute(old)]
    if not pairs:
        return 0
    mine = tuple_(delivery_keys.c.shop_id, delivery_keys.c.key_hash).in_(pairs)
    return connection.execute(delete(delivery_keys).where(mine)).rowcount
