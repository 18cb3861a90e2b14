"""What an operator looks at: syncs one by one, the oldest first, and the errors that stop them, by group."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack

from sqlalchemy import ColumnElement, Connection, func, select, true

from integrator.clock import after as seconds_from_now
from integrator.ledger.schema import IS_OPEN, IS_STOPPED, State, in_state, shops, syncs, tenants

STOPPED = (State.HELD, State.DEAD)
"""States that only a person, or a newer delivery, ends."""


class Filters(TypedDict, total=False):
    """Which syncs: those that match everything that is named. Names are slugs; None is as good as not named.

    `older_than` is in seconds: in its state for longer, by the database's clock.
    """

    tenant: str | None
    shop: str | None
    kind: str | None
    external_id: str | None
    error_class: str | None
    fingerprint: str | None
    older_than: int | None


def chosen(**filters: Unpack[Filters]) -> list[ColumnElement[bool]]:
    """Conditions on `syncs`, one for each filter that is named."""
    of_shops = select(shops.c.id).join(tenants, shops.c.tenant_id == tenants.c.id)
    given = {name: value for name, value in filters.items() if value is not None}
    how: dict[str, Callable[[Any], ColumnElement[bool]]] = {
        "tenant": lambda slug: syncs.c.shop_id.in_(of_shops.where(tenants.c.slug == slug)),
        "shop": lambda slug: syncs.c.shop_id.in_(of_shops.where(shops.c.slug == slug)),
        "kind": lambda kind: syncs.c.kind == kind,
        "external_id": lambda external_id: syncs.c.external_id == external_id,
        "error_class": lambda error_class: syncs.c.error_class == error_class,
        "fingerprint": lambda fingerprint: syncs.c.error_fingerprint == fingerprint,
        "older_than": lambda seconds: syncs.c.changed_at < seconds_from_now(-seconds),
    }
    return [how[name](value) for name, value in given.items()]


@dataclass(frozen=True)
class Listed:
    """One sync, named as people know it, with what stopped it last. No detail: that may hold personal data."""

    sync_id: int
    tenant: str
    shop: str
    kind: str
    external_id: str
    state: str
    since: datetime
    attempts: int
    error_class: str | None
    fingerprint: str | None
    message: str | None
    remedy: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "since": self.since.isoformat()}


@dataclass(frozen=True)
class Group:
    """Syncs of one tenant that one fix releases together; the id and the message of one of them."""

    tenant: str
    state: str
    error_class: str
    fingerprint: str
    count: int
    since: datetime
    external_id: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "since": self.since.isoformat()}


_COLUMNS = (
    syncs.c.id.label("sync_id"),
    tenants.c.slug.label("tenant"),
    shops.c.slug.label("shop"),
    syncs.c.kind,
    syncs.c.external_id,
    syncs.c.state,
    syncs.c.changed_at.label("since"),
    syncs.c.attempts,
    syncs.c.error_class,
    syncs.c.error_fingerprint.label("fingerprint"),
    syncs.c.error_message.label("message"),
    syncs.c.error_remedy.label("remedy"),
)


def listing(
    connection: Connection,
    *,
    states: Collection[State] = STOPPED,
    after: int = 0,
    limit: int = 50,
    **filters: Unpack[Filters],
) -> list[Listed]:
    """A page of syncs in these states, by id; the next page begins after the last one's id."""
    query = (
        select(*_COLUMNS)
        .join(shops, syncs.c.shop_id == shops.c.id)
        .join(tenants, shops.c.tenant_id == tenants.c.id)
        .where(
            in_state(*states),
            syncs.c.id > after,
            _among(states),
            *chosen(**filters),
        )
        .order_by(syncs.c.id)
        .limit(limit)
    )
    return [Listed(**row) for row in connection.execute(query).mappings()]


def states_of(connection: Connection, sync_ids: Collection[int]) -> dict[int, str]:
    """The state of each of these syncs that exists."""
    rows = connection.execute(select(syncs.c.id, syncs.c.state).where(syncs.c.id.in_(sync_ids)))
    return {row.id: row.state for row in rows}


def _among(states: Collection[State]) -> ColumnElement[bool]:
    """A condition that all these states fulfil and that has an index, where there is one."""
    if set(states) <= set(STOPPED):
        return IS_STOPPED
    return true() if State.DONE in states else IS_OPEN


def groups(connection: Connection, *, tenant: str | None = None, limit: int = 50) -> list[Group]:
    """The errors that stop syncs, the most frequent first."""
    what = (tenants.c.slug, syncs.c.state, syncs.c.error_class, syncs.c.error_fingerprint)
    count = func.count()
    query = (
        select(
            *what,
            count,
            func.min(syncs.c.changed_at),
            func.min(syncs.c.external_id),
            func.max(syncs.c.error_message),
            func.max(syncs.c.error_remedy),
        )
        .join(shops, syncs.c.shop_id == shops.c.id)
        .join(tenants, shops.c.tenant_id == tenants.c.id)
        .where(IS_STOPPED)
        .group_by(*what)
        .order_by(count.desc(), *what)
        .limit(limit)
    )
    if tenant is not None:
        query = query.where(tenants.c.slug == tenant)
    return [Group(*row) for row in connection.execute(query)]
