"""Housekeeping: what is old leaves in small batches, never what an open sync needs (DESIGN §9)."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, tuple_, update

from integrator.clock import after
from integrator.ledger.schema import (
    HAS_BODY,
    IS_OPEN,
    StepState,
    attempts,
    deliveries,
    delivery_keys,
    steps,
    syncs,
)

BATCH = 500
"""Rows that one transaction removes at most: short locks, and room for webhooks in between."""

DAY_SECONDS = 86_400

ENDED = (StepState.APPLIED, StepState.REFUSED)
"""Steps that are never sent again as they are: what is intended anew brings its own request."""


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
    ids = connection.execute(old).scalars().all()
    return connection.execute(delete(deliveries).where(deliveries.c.id.in_(ids), finished)).rowcount if ids else 0


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


def empty_old_requests(connection: Connection, *, keep_days: int) -> int:
    """Empty up to a batch of requests that finished syncs sent; how many.

    The steps stay, with key, digest, remote id and times: what is applied is their fold. A sync that is reopened
    meanwhile loses nothing: only a step in doubt needs its request.
    """
    finished = select(syncs.c.id).where(~IS_OPEN, syncs.c.id == steps.c.sync_id).exists()
    old = (
        select(steps.c.id)
        .where(HAS_BODY, steps.c.intended_at < after(-keep_days * DAY_SECONDS), steps.c.state.in_(ENDED), finished)
        .order_by(steps.c.intended_at)
        .limit(BATCH)
    )
    ids = connection.execute(old).scalars().all()
    mine = (steps.c.id.in_(ids), steps.c.state.in_(ENDED))  # again: it may have been intended anew since
    return connection.execute(update(steps).where(*mine).values(body=b"")).rowcount if ids else 0


@dataclass
class OldAttempts:
    """Removes old attempts of finished syncs, but the latest few of each, in walks from the first to the last.

    A walk goes by primary key: those that stay are passed once in each, not in every batch, and need no index.
    """

    keep_days: int
    keep_latest: int
    after_id: int = 0

    def drop(self, connection: Connection) -> int:
        """Go on by up to a batch of attempts; how many were looked at, 0 at the end of a walk."""
        ahead = select(attempts.c.id, self._is_old().label("old")).where(attempts.c.id > self.after_id)
        rows = connection.execute(ahead.order_by(attempts.c.id).limit(BATCH)).all()
        if not rows or not any(row.old for row in rows):
            self.after_id = 0
            return 0
        finished = exists().where(
            ~IS_OPEN, syncs.c.id == attempts.c.sync_id, attempts.c.claim <= syncs.c.claims - self.keep_latest
        )
        here = attempts.c.id.between(rows[0].id, rows[-1].id)
        connection.execute(delete(attempts).where(here, self._is_old(), finished))
        self.after_id = rows[-1].id
        return len(rows)

    def _is_old(self) -> ColumnElement[bool]:
        return func.coalesce(attempts.c.ended_at < after(-self.keep_days * DAY_SECONDS), False)
