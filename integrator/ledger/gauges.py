"""What the ledger looks like from afar, for the gauges: queries that stay cheap whatever waits (DESIGN §9)."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, literal_column, select, union_all

from integrator.clock import now
from integrator.ledger.schema import (
    CAUSES,
    DUE_STATE,
    IN_FLIGHT,
    IS_QUEUED,
    IS_STOPPED,
    Priority,
    State,
    gates,
    syncs,
)

CAP = 20_000
"""How many rows one count reads at most."""

OPEN_STATES = tuple(state for state in State if state is not State.DONE)


def open_syncs(connection: Connection) -> dict[str, int]:
    """How many syncs are in each open state.

    What is due, what is in flight, and what is stopped are counted by an index each, so that a backlog of one
    hides none of the others.
    """
    found = dict.fromkeys(map(str, OPEN_STATES), 0)
    for where in (DUE_STATE, IN_FLIGHT, IS_STOPPED):
        read = select(syncs.c.state).where(where).limit(CAP).subquery()
        counted = connection.execute(select(read.c.state, func.count()).group_by(read.c.state))
        found |= {row[0]: row[1] for row in counted}
    return found


def oldest_due_seconds(connection: Connection, kinds: Collection[str]) -> float:
    """How long the oldest sync of these kinds waits that could run; 0 when there is none.

    Due behind an open gate, or rung and not claimed. What waits behind a shut gate waits rightly, and is not read.
    """
    ages = union_all(*(_first_due(priority, kinds) for priority in Priority), _first_queued(kinds)).subquery()
    oldest, at = connection.execute(select(func.min(ages.c.due_at, type_=syncs.c.due_at.type), now())).one()
    return 0.0 if oldest is None else max((at - oldest).total_seconds(), 0.0)


def _first_due(priority: Priority, kinds: Collection[str]) -> Select[Any]:
    first = (
        select(syncs.c.due_at)
        .where(syncs.c.gate_id == gates.c.id, syncs.c.priority == priority, DUE_STATE, syncs.c.due_at <= now())
        .where(syncs.c.kind.in_(kinds))
        .order_by(syncs.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    return select(first.label("due_at")).where(gates.c.opens_at <= now())


def _first_queued(kinds: Collection[str]) -> Select[Any]:
    return select(func.min(syncs.c.due_at).label("due_at")).where(IS_QUEUED, IN_FLIGHT, syncs.c.kind.in_(kinds))


def shut_gates(connection: Connection) -> dict[str, int]:
    """How many gates are shut, by the cause that keeps them so the longest, its column's name without `_until`."""
    causes = {name: name.removesuffix("_until") for name in CAUSES}
    cause: ColumnElement[str] = case(
        *((gates.c[name] == gates.c.opens_at, literal_column(f"'{word}'")) for name, word in causes.items())
    )
    counted = connection.execute(select(cause, func.count()).where(gates.c.opens_at > now()).group_by(cause))
    return dict.fromkeys(causes.values(), 0) | {row[0]: row[1] for row in counted}
