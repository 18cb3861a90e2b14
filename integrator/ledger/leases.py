"""Who holds a running sync, and until when: the fence of every later write, and its renewal (PROTOCOL C2, C3).

No state changes here; what does is in `transitions`.
"""

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, and_, select, tuple_, update

from integrator.clock import after, least
from integrator.ledger.schema import IS_RUNNING, syncs

LEASE_SECONDS = 30
"""How long a claim or a rung bell stands without a sign of life (PROTOCOL P1, C3)."""

LONGEST_CALL_SECONDS = 18.0
"""The longest deadline of a call that fits into a lease between two renewals."""

RUN_SECONDS = 90
"""How long one run may take in all, however often its lease is renewed (PROTOCOL C3)."""


def fence(sync_id: int, claim: int) -> ColumnElement[bool]:
    """The condition of every write after the claim (C2)."""
    return and_(syncs.c.id == sync_id, syncs.c.claim == claim, IS_RUNNING)


def hold_fence(connection: Connection, sync_id: int, claim: int) -> bool:
    """Lock the sync's row by its fence, before a write to its steps in the same transaction (C2)."""
    locked = select(syncs.c.id).where(fence(sync_id, claim)).with_for_update()
    return connection.execute(locked).one_or_none() is not None


def renew(connection: Connection, held: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Extend this process's leases, rows in id order; the (sync id, claim) pairs that are still ours (C3)."""
    pairs = sorted(held)
    by_key = syncs.c.id.in_([sync_id for sync_id, _ in pairs])  # SQLite finds pairs by reading everything
    ours = and_(by_key, tuple_(syncs.c.id, syncs.c.claim).in_(pairs), IS_RUNNING)
    in_order = select(syncs.c.id).where(ours).order_by(syncs.c.id).with_for_update()
    ids = connection.execute(in_order).scalars().all()
    rows = connection.execute(
        update(syncs)
        .where(syncs.c.id.in_(ids), ours)
        .values(lease_until=least(after(LEASE_SECONDS), after(RUN_SECONDS, syncs.c.claimed_at)))
        .returning(syncs.c.id, syncs.c.claim)
    )
    return {(row.id, row.claim) for row in rows}
