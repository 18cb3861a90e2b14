"""What the demo asks the ledger: how many syncs are in which state, what is stuck, and what was never needed."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import exists, func, select

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, StepState, shops, steps, syncs, tenants

MOVING = (State.PENDING, State.QUEUED, State.RUNNING, State.RETRYING)
"""States that the system leaves by itself."""


@dataclass(frozen=True)
class Trouble:
    """Syncs in one state with one error: how many, what happened, and what a person can do."""

    state: str
    error_class: str
    message: str
    remedy: str
    count: int


def states(ledger: Ledger) -> Mapping[str, int]:
    """How many syncs are in each state."""
    with ledger.read() as connection:
        rows = connection.execute(select(syncs.c.state, func.count()).group_by(syncs.c.state)).all()
    return {state: count for state, count in rows}  # noqa: C416 - a row is no tuple to mypy


def troubles(ledger: Ledger) -> list[Trouble]:
    """Everything that is not done, by state and error, the most first."""
    what = (syncs.c.state, syncs.c.error_class, syncs.c.error_fingerprint)
    count = func.count()
    with ledger.read() as connection:
        rows = connection.execute(
            select(*what, func.max(syncs.c.error_message), func.max(syncs.c.error_remedy), count)
            .where(syncs.c.state != State.DONE)
            .group_by(*what)
            .order_by(count.desc())
        ).all()
    return [
        Trouble(state, error_class or "", message or "", remedy or "", number)
        for state, error_class, _, message, remedy, number in rows
    ]


def unneeded(ledger: Ledger, tenant: str) -> frozenset[str]:
    """References of a tenant's orders that are done without an effect: cancelled before they were created."""
    applied = steps.c.state == StepState.APPLIED
    with ledger.read() as connection:
        rows = connection.execute(
            select(shops.c.slug, syncs.c.external_id)
            .join(shops, syncs.c.shop_id == shops.c.id)
            .join(tenants, shops.c.tenant_id == tenants.c.id)
            .where(tenants.c.slug == tenant, syncs.c.state == State.DONE)
            .where(~exists(select(steps.c.id).where(steps.c.sync_id == syncs.c.id, applied)))
        )
        return frozenset(f"{shop}/{external_id}" for shop, external_id in rows)
