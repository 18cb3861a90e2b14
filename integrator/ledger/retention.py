"""Housekeeping: what is older than its tenant keeps it leaves in small batches, never what an open sync needs
(DESIGN §9).
"""

from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Table,
    Update,
    delete,
    exists,
    func,
    select,
    true,
    tuple_,
    update,
)

from integrator.clock import after
from integrator.ledger.schema import (
    HAS_BODY,
    IS_OPEN,
    StepState,
    attempts,
    deliveries,
    delivery_keys,
    shops,
    steps,
    syncs,
    tenants,
)

BATCH = 500
"""Rows that one transaction removes at most: short locks, and room for webhooks in between."""

DAY_SECONDS = 86_400

ENDED = (StepState.APPLIED, StepState.REFUSED)
"""Steps that are never sent again as they are: what is intended anew brings its own request."""


@dataclass
class Walk:
    """Lets rows of finished syncs leave when their tenant keeps them no longer.

    It goes by primary key, from the first row to where all are younger than any tenant lets leave, and begins
    anew: what stays, however much, is passed once in each walk, not in every batch, and needs no index.

    - `leave`: what is done to a row that is old, for some of the table's rows (`among`) perhaps.
    - `default_days`: how long a tenant keeps them that does not say so itself.
    """

    table: Table
    time: ColumnElement[object]
    leave: Delete | Update
    default_days: int
    among: ColumnElement[bool] = true()  # noqa: RUF009 - it never changes
    of_sync: ColumnElement[bool] = true()  # noqa: RUF009
    after_id: int = 0

    def go_on(self, connection: Connection) -> int:
        """Go on by up to a batch of rows; how many were looked at, 0 at the end of a walk."""
        row_id, keep = self.table.c.id, func.coalesce(tenants.c.keep_days, self.default_days)
        shortest = select(func.min(keep)).scalar_subquery()
        ahead = select(row_id, self._older_than(shortest).label("old")).where(row_id > self.after_id, self.among)
        rows = connection.execute(ahead.order_by(row_id).limit(BATCH)).all()
        if not any(row.old for row in rows):
            self.after_id = 0
            return 0
        its_tenant = (syncs.c.shop_id == shops.c.id) & (shops.c.tenant_id == tenants.c.id)
        finished = (
            exists()
            .where(~IS_OPEN, self.of_sync, syncs.c.id == self.table.c.sync_id, its_tenant, self._older_than(keep))
            .correlate(self.table)
        )
        connection.execute(self.leave.where(row_id.between(rows[0].id, rows[-1].id), self.among, finished))
        self.after_id = rows[-1].id
        return len(rows)

    def _older_than(self, days: ColumnElement[int]) -> ColumnElement[bool]:
        return func.coalesce(self.time < after(days * -DAY_SECONDS), False)


def old_deliveries(default_days: int) -> Walk:
    """Removes deliveries. An order that comes up again later is fetched from its shop."""
    return Walk(deliveries, deliveries.c.received_at, delete(deliveries), default_days)


def old_requests(default_days: int) -> Walk:
    """Empties the requests that were sent, and leaves the steps: key, digest, remote id and times.

    What is applied is their fold. A sync that is reopened meanwhile loses nothing: only a step in doubt needs its
    request.
    """
    among = HAS_BODY & steps.c.state.in_(ENDED)
    return Walk(steps, steps.c.intended_at, update(steps).values(body=b""), default_days, among)


def old_attempts(default_days: int, keep_latest: int) -> Walk:
    """Removes attempts, but the latest few of each sync."""
    not_latest = attempts.c.claim <= syncs.c.claims - keep_latest
    return Walk(attempts, attempts.c.ended_at, delete(attempts), default_days, of_sync=not_latest)


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
