"""What the demo asks the ledger: how many syncs are in which state, what is stuck, and what was never needed."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import exists, func, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from integrator.config import checked_ledger_url
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, StepState, shops, steps, syncs, tenants
from sandbox.postgres import NoPostgres, postgres
from sandbox.system_process import SystemFailed, shown

MOVING = (State.PENDING, State.QUEUED, State.RUNNING, State.RETRYING)
"""States that the system leaves by itself."""


@contextmanager
def place(wanted: str) -> Iterator[str | None]:
    """Where the ledger is: None for a SQLite file of the demo's own, else a URL. Raises SystemFailed.

    `wanted` is `sqlite`; `postgresql`, for a server that is started here and is gone afterwards; or a URL.
    """
    if wanted == "sqlite":
        yield None
        return
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres()) if wanted == "postgresql" else _empty(wanted)
        except (NoPostgres, subprocess.CalledProcessError) as error:
            raise SystemFailed(f"No PostgreSQL can be started. {error}") from None
        yield url


def _empty(url: str) -> str:
    """The URL, if it is of a ledger without tenants: the demo counts all that is there. Raises SystemFailed."""
    try:
        ledger = Ledger(checked_ledger_url(url))
    except ValueError as error:
        raise SystemFailed(f"What --ledger names {error}.") from None
    try:
        with ledger.read() as connection:
            known = inspect(connection).has_table(tenants.name)
            used = known and connection.execute(select(tenants.c.id)).first() is not None
    except (SQLAlchemyError, ValueError, OSError) as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise SystemFailed(f"{shown_place(url)} is no ledger that can be used: {said}") from None
    finally:
        ledger.close()
    if used:
        raise SystemFailed(f"{shown_place(url)} holds tenants already. Give the demo an empty database.")
    return url


def shown_place(url: str) -> str:
    """A ledger's URL as people read it: a file's path, or the address without its password."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "What --ledger names"
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return shown(Path(parsed.database))
    return parsed.render_as_string(hide_password=True)


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


def done_orders(ledger: Ledger) -> frozenset[tuple[str, str]]:
    """The tenant's slug and the shop's id of each order of which nothing is owed."""
    with ledger.read() as connection:
        rows = connection.execute(
            select(tenants.c.slug, syncs.c.external_id)
            .join(shops, syncs.c.shop_id == shops.c.id)
            .join(tenants, shops.c.tenant_id == tenants.c.id)
            .where(syncs.c.state == State.DONE)
        )
        return frozenset((slug, external_id) for slug, external_id in rows)
