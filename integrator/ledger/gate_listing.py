"""Gates as an operator looks at them: what shuts each, and what waits behind it, counted cheaply (DESIGN §9)."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, select

from integrator.breaker import Breaker
from integrator.clock import now
from integrator.gate import ON_TRIAL, window
from integrator.ledger import breakers, limits
from integrator.ledger.limits import Use
from integrator.ledger.schema import CAUSES, DUE_STATE, IN_FLIGHT, erps, gates, syncs, tenants

CAP = 1_000
"""How many syncs of a gate are counted at most: what is more is no other news."""


@dataclass(frozen=True)
class ListedGate:
    """One gate. `causes` has what shuts it now, by the column's name without `_until`, each until when.

    `waiting` and `in_flight` are counted up to CAP. `day_used` is how many of the day's requests were given out
    and may be; `plan` says what of the plan keeps it shut, if that does.
    """

    gate_id: int
    tenant: str
    erp: str
    open: bool
    opens_at: datetime
    causes: dict[str, datetime]
    breaker: Breaker
    window: int
    waiting: int
    in_flight: int
    day_used: tuple[int, int]
    plan: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON: times as text, None for a cause that does not shut it."""
        found = asdict(self) | {"opens_at": None if self.open else self.opens_at.isoformat()}
        del found["causes"], found["plan"]
        for cause in CAUSES:
            name = cause.removesuffix("_until")
            until = self.causes.get(name)
            found[cause] = until.isoformat() if until else None
        found["breaker"] = self.breaker.state.value
        found["failures"], found["trips"] = self.breaker.failures, self.breaker.trips
        found["probe"] = self.breaker.probe[0] if self.breaker.probe else None
        return found


def gate_listing(
    connection: Connection, *, tenant: str | None = None, shut: bool = False, after: int = 0, limit: int = 50
) -> list[ListedGate]:
    """A page of gates by id, perhaps one tenant's, perhaps only shut ones; the next begins after the last id."""
    page = (
        select(gates.c.id)
        .join(tenants, gates.c.tenant_id == tenants.c.id)
        .where(gates.c.id > after)
        .order_by(gates.c.id)
        .limit(limit)
    )
    if tenant is not None:
        page = page.where(tenants.c.slug == tenant)
    if shut:
        page = page.where(gates.c.opens_at > now())
    ids = connection.execute(page).scalars().all()
    rows = connection.execute(_rows().where(gates.c.id.in_(ids)).order_by(gates.c.id)).all()
    used = limits.uses(connection, ids)
    return [_listed(row, used[row.id]) for row in rows]


def _rows() -> Select[Any]:
    return (
        select(
            gates,
            tenants.c.slug.label("tenant"),
            erps.c.slug.label("erp"),
            now().label("now"),
            ON_TRIAL.label("on_trial"),
            _count(DUE_STATE).label("waiting"),
            _count(IN_FLIGHT).label("in_flight"),
        )
        .join(tenants, gates.c.tenant_id == tenants.c.id)
        .join(erps, gates.c.erp_id == erps.c.id)
    )


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    """How many syncs of a gate, read from their index only as far as CAP."""
    some = (
        select(literal_column("1"))
        .select_from(syncs)
        .where(syncs.c.gate_id == gates.c.id, which)
        .limit(CAP)
        .correlate(gates)
        .subquery()
    )
    return select(func.count()).select_from(some).scalar_subquery()


def _listed(row: Any, use: Use) -> ListedGate:
    causes = {name.removesuffix("_until"): row._mapping[name] for name in CAUSES if row._mapping[name] > row.now}
    return ListedGate(
        gate_id=row.id,
        tenant=row.tenant,
        erp=row.erp,
        open=row.opens_at <= row.now,
        opens_at=row.opens_at,
        causes=causes,
        breaker=breakers.of_row(row),
        window=window(row.window_cap, use.plan.per_second, row.run_seconds, on_trial=row.on_trial),
        waiting=row.waiting,
        in_flight=row.in_flight,
        day_used=(use.used, use.plan.per_day),
        plan=use.why,
    )
