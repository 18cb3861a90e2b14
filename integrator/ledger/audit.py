"""The audit: every row that no rule of the protocol will move any more, with what is wrong (DESIGN §3).

The database's constraints keep single rows sound; this looks at what only several rows, or time, can show.
"""

from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, literal, select

from integrator.clock import after, now
from integrator.ledger.schema import (
    IN_FLIGHT,
    IS_OPEN,
    IS_QUEUED,
    IS_RUNNING,
    State,
    StepState,
    attempts,
    deliveries,
    gates,
    shops,
    steps,
    syncs,
    tenants,
)

GRACE_SECONDS = 120
"""How long past its time a row may stand before it is in limbo: twice the slowest sweep, and a restart."""

LIMIT = 1_000
"""Findings of one kind that are listed at most."""


@dataclass(frozen=True)
class Finding:
    """One row in limbo."""

    tenant: str
    sync_id: int
    state: str
    finding: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def audit(connection: Connection) -> list[Finding]:
    """All rows in limbo. Empty is what it should be."""
    rows = [row for text, wrong in _CHECKS.items() for row in connection.execute(_query(text, wrong))]
    return [Finding(*row) for row in rows]


def _query(finding: str, wrong: ColumnElement[bool]) -> Select[str, int, str, str]:
    return (
        select(tenants.c.slug, syncs.c.id, syncs.c.state, literal(finding))
        .join(shops, syncs.c.shop_id == shops.c.id)
        .join(tenants, shops.c.tenant_id == tenants.c.id)
        .where(wrong)
        .order_by(syncs.c.id)
        .limit(LIMIT)
    )


def _step(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(steps.c.id).where(steps.c.sync_id == syncs.c.id, *conditions))


def _attempt(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(attempts.c.id).where(attempts.c.sync_id == syncs.c.id, *conditions))


_done = syncs.c.state == State.DONE
_late = syncs.c.lease_until < after(-GRACE_SECONDS)
_unsettled = steps.c.state.in_([StepState.INTENDED, StepState.IN_DOUBT])
_gate_open = exists(
    select(gates.c.id).where(gates.c.id == syncs.c.gate_id, gates.c.opens_at < after(-GRACE_SECONDS))
)
_newest = exists(
    select(deliveries.c.id).where(deliveries.c.sync_id == syncs.c.id, deliveries.c.version == syncs.c.wanted)
)

_CHECKS: dict[str, ColumnElement[bool]] = {
    "queued, but nobody rings again: is the scheduler running?": and_(IN_FLIGHT, IS_QUEUED, _late),
    "running, but its lease ended long ago: is the scheduler running?": and_(IN_FLIGHT, IS_RUNNING, _late),
    "due long ago behind an open gate with nothing of it in flight": and_(
        syncs.c.state.in_([State.PENDING, State.RETRYING]),
        syncs.c.due_at < after(-GRACE_SECONDS),
        _gate_open,
        ~exists(
            select(literal(1))
            .select_from(other := syncs.alias("other"))
            .where(other.c.gate_id == syncs.c.gate_id, other.c.state.in_([State.QUEUED, State.RUNNING]))
        ),
    ),
    "done with a step whose outcome is not known": and_(_done, _step(_unsettled)),
    "done with a create that was not looked at again": and_(_done, _step(steps.c.verify_at.is_not(None))),
    "not running, but an attempt of it never ended": and_(~IS_RUNNING, _attempt(attempts.c.ended_at.is_(None))),
    "running without an open attempt": and_(
        IS_RUNNING, ~_attempt(attempts.c.claim == syncs.c.claim, attempts.c.ended_at.is_(None))
    ),
    "its newest delivery is missing": and_(IS_OPEN, ~_newest),
    "changed in the future: a clock was set back": syncs.c.changed_at > after(GRACE_SECONDS, now()),
}
