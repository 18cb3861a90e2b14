"""The breaker's columns of a gate's row: read, and written only while they are what was read (PROTOCOL G1, G2).

Each write is a transaction of its own that holds no sync. The database's clock decides.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from integrator.breaker import Breaker, BreakerState, Holder
from integrator.clock import now
from integrator.ledger.schema import erps, gates, syncs, tenants


@dataclass(frozen=True)
class Seen:
    """A gate's breaker as it was read at a time, with the version of the credentials by then."""

    breaker: Breaker
    at: datetime
    credentials_version: int
    tenant: str
    erp: str


Rule = Callable[[Seen], Breaker]
"""The next state, from what was read."""


@dataclass(frozen=True)
class Change:
    """What a write did: the state before and after it, equal when there was nothing to write."""

    before: Breaker
    after: Breaker
    tenant: str
    erp: str


def read(connection: Connection, gate_id: int) -> Seen:
    """A gate's breaker."""
    row = connection.execute(
        select(gates, now().label("at"), tenants.c.slug.label("tenant"), erps.c.slug.label("erp"))
        .join(tenants, gates.c.tenant_id == tenants.c.id)
        .join(erps, gates.c.erp_id == erps.c.id)
        .where(gates.c.id == gate_id)
    ).one()
    return Seen(of_row(row), row.at, row.credentials_version, row.tenant, row.erp)


def of_row(row: Any) -> Breaker:
    """The breaker in a row of `gates`."""
    probe = None if row.probe_sync is None else (row.probe_sync, row.probe_claim)
    return Breaker(
        BreakerState(row.breaker_state),
        row.breaker_failures,
        row.breaker_trips,
        row.breaker_since,
        row.breaker_until,
        probe,
        row.probe_until,
    )


def _columns(breaker: Breaker) -> dict[str, Any]:
    sync_id, claim = breaker.probe or (None, None)
    return {
        "breaker_state": breaker.state,
        "breaker_failures": breaker.failures,
        "breaker_trips": breaker.trips,
        "breaker_since": breaker.since,
        "breaker_until": breaker.until,
        "probe_sync": sync_id,
        "probe_claim": claim,
        "probe_until": breaker.probe_until,
    }


def change(connection: Connection, gate_id: int, rule: Rule) -> Change:
    """Follow a rule from whatever the state is by then: read, and write if it still is; else again."""
    while True:
        seen = read(connection, gate_id)
        after = rule(seen)
        if after == seen.breaker or _write(connection, gate_id, seen.breaker, after):
            return Change(seen.breaker, after, seen.tenant, seen.erp)


def _write(connection: Connection, gate_id: int, before: Breaker, after: Breaker) -> bool:
    """Write the next state unless another came first."""
    still = and_(*(gates.c[name].is_not_distinct_from(value) for name, value in _columns(before).items()))
    written = connection.execute(update(gates).where(gates.c.id == gate_id, still).values(**_columns(after)))
    return written.rowcount > 0


def gone(connection: Connection, sync_ids: Collection[int]) -> list[tuple[int, Holder]]:
    """The gates whose only place is held by a claim of these syncs that runs no more, with that claim."""
    rows = connection.execute(
        select(gates.c.id, gates.c.probe_sync, gates.c.probe_claim)
        .join(syncs, syncs.c.gate_id == gates.c.id)
        .where(syncs.c.id.in_(sync_ids), gates.c.probe_sync == syncs.c.id)
        .where(or_(syncs.c.claim.is_(None), syncs.c.claim != gates.c.probe_claim))
    )
    return [(row.id, (row.probe_sync, row.probe_claim)) for row in rows]
