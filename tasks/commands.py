"""Commands of the Celery CLI, found through the entry-point group `celery.commands`."""

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import orjson
from sqlalchemy import Connection, and_, select

from integrator import gate, readiness
from integrator.config import settings
from integrator.dispatch import Dispatcher
from integrator.ledger import listing as listings
from integrator.ledger import timeline as timelines
from integrator.ledger.audit import audit as find_limbo
from integrator.ledger.engine import Ledger
from integrator.ledger.migrate import check as check_schema
from integrator.ledger.schema import State, erps, gates, shops, syncs, tenants
from integrator.ledger.transitions import requeue as release_held
from integrator.logs import configure
from integrator.monitor import PortTaken
from integrator.shops.base import Kind


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """The ledger of the settings for a block, if it has this version's schema."""
    ledger = Ledger.from_settings(settings())
    try:
        try:
            check_schema(ledger)
        except readiness.EXPECTED as error:
            raise click.ClickException(readiness.sentence(error, ledger.url)) from error
        yield ledger
    finally:
        ledger.close()


@click.command()
def scheduler() -> None:
    """Dispatch due work, take over from vanished workers, ring again. Run one or two."""
    from tasks import scheduler as loop  # noqa: PLC0415 - only this command needs it
    from tasks.publishing import publisher  # noqa: PLC0415 - it loads the app, which loads this module

    configure(settings().log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_ledger() as ledger:
        try:
            readiness.check_ledger(settings(), ledger)
        except readiness.EXPECTED as error:
            raise click.ClickException(readiness.sentence(error, ledger.url)) from error
        try:
            loop.run(ledger, Dispatcher(ledger, publisher()), stop)
        except PortTaken as error:
            raise click.ClickException(str(error)) from error


@click.group("syncs")
def syncs_group() -> None:
    """Look at and move syncs."""


@syncs_group.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of lines.")
def audit(as_json: bool) -> None:
    """List every row in limbo. Exit status 1 if there is one."""
    with open_ledger() as ledger, ledger.read() as connection:
        findings = find_limbo(connection)
    if as_json:
        click.echo(orjson.dumps([finding.as_dict() for finding in findings]))
    else:
        for one in findings:
            click.echo(f"{one.tenant}: sync {one.sync_id} ({one.state}): {one.finding}")
        click.echo(f"{len(findings)} in limbo")
    sys.exit(1 if findings else 0)


_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _age(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """How long, in seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})([smhd])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no age; write 90s, 15m, 2h or 3d.")
    return int(found[1]) * _SECONDS[found[2]]


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose syncs; they are given to the command as keyword arguments of `listing.chosen`."""
    for option in reversed(
        (
            click.option("--tenant", help="Only syncs of this tenant."),
            click.option("--shop", help="Only syncs of this shop, by its slug."),
            click.option(
                "--kind", type=click.Choice([kind.value for kind in Kind]), help="Only this kind of document."
            ),
            click.option("--order", "external_id", help="Only the order with this id in the shop."),
            click.option("--error-class", help="Only syncs stopped by this error class, e.g. Unmapped."),
            click.option("--fingerprint", help="Only this error group."),
            click.option(
                "--older-than",
                callback=_age,
                metavar="AGE",
                help="Only in its state for longer, e.g. 90s, 15m, 2h, 3d.",
            ),
        )
    ):
        command = option(command)
    return command


SYNC_ID = click.IntRange(1, 2**63 - 1)
"""What can be the id of a sync."""

NAMES = "`flask --app web tenants list` shows the names."


@syncs_group.command()
@click.argument("sync_ids", type=SYNC_ID, nargs=-1)
@_filters
@click.option("--dry-run", is_flag=True, help="Say how many, and change nothing.")
def requeue(sync_ids: tuple[int, ...], dry_run: bool, **filters: Any) -> None:
    """Release held and dead syncs, by id or by filter. More than one goes out behind live orders."""
    chosen = listings.chosen(**filters)
    if sync_ids:
        chosen.append(syncs.c.id.in_(sync_ids))
    if not chosen:
        raise click.UsageError("Name sync ids, or at least one filter.")
    with open_ledger() as ledger, ledger.write() as connection:
        require_names(connection, filters["tenant"], filters["shop"])
        states = listings.states_of(connection, sync_ids)
        if unknown := [sync_id for sync_id in sync_ids if sync_id not in states]:
            raise click.ClickException(f"There is no sync {unknown[0]}. Nothing was changed.")
        released = release_held(connection, and_(*chosen), mass=len(sync_ids) != 1)
        if dry_run:
            connection.rollback()
    for sync_id, state in states.items():
        if state not in listings.STOPPED:
            click.echo(f"sync {sync_id} is {state}: only what is held or dead needs a release", err=True)
    click.echo(f"{released} sync{'s' * (released != 1)} {'would be ' * dry_run}released")


@syncs_group.command("list")
@_filters
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in State]),
    default=[state.value for state in listings.STOPPED],
    show_default=True,
    help="Only syncs in this state; may be given several times.",
)
@click.option("--after", type=click.IntRange(0, 2**63 - 1), default=0, help="Go on after this sync id.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Syncs on a page.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of text.")
def list_syncs(as_json: bool, states: tuple[str, ...], **filters: Any) -> None:
    """List syncs with what stopped them, and what to do. Held and dead ones, unless told otherwise."""
    with open_ledger() as ledger, ledger.read() as connection:
        require_names(connection, filters["tenant"], filters["shop"])
        found = listings.listing(connection, states=[State(state) for state in states], **filters)
    if as_json:
        click.echo(orjson.dumps([one.as_dict() for one in found]))
        return
    for one in found:
        _echo_sync(one)
    full = len(found) == filters["limit"]
    click.echo(f"{len(found)} listed; --after {found[-1].sync_id} goes on" if full else f"{len(found)} listed")


@syncs_group.command("errors")
@click.option("--tenant", help="Only errors of this tenant.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Groups that are shown."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of text.")
def list_errors(tenant: str | None, limit: int, as_json: bool) -> None:
    """Group held and dead syncs by what one fix releases, the most first, with the command that does it."""
    with open_ledger() as ledger, ledger.read() as connection:
        require_names(connection, tenant)
        found = listings.groups(connection, tenant=tenant, limit=limit)
    if as_json:
        click.echo(orjson.dumps([one.as_dict() for one in found]))
        return
    for one in found:
        others = " and others" if one.count > 1 else ""
        since = f"the first since {one.since:%Y-%m-%d %H:%M:%S} UTC"
        click.echo(f"{one.count} {one.state} of {one.tenant} ({one.external_id}{others}), {since}")
        _echo_error(one)
        click.echo(f"  then: celery -A tasks syncs requeue --tenant {one.tenant} --fingerprint {one.fingerprint}")
    click.echo(f"{len(found)} groups")


@syncs_group.command()
@click.argument("sync_id", type=SYNC_ID)
@click.option("--detail", is_flag=True, help="Also what the other side answered; it may hold personal data.")
def show(sync_id: int, detail: bool) -> None:
    """Show one sync with all that came, was tried and was done, the oldest first. Times are UTC."""
    with open_ledger() as ledger, ledger.read() as connection:
        found = listings.listing(connection, states=list(State), after=sync_id - 1, limit=1)
        if not found or found[0].sync_id != sync_id:
            raise click.ClickException(
                f"There is no sync {sync_id}. `celery -A tasks syncs list --order ID --state …` finds an order's."
            )
        waits = timelines.waits(connection, sync_id)
        events = timelines.timeline(connection, sync_id)
        said = timelines.detail(connection, sync_id) if detail else None
    _echo_sync(found[0])
    if waits:
        click.echo(f"  waits: {waits}")
    for event in events:
        click.echo(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.text}")
    if said:
        click.echo(f"The other side said:\n{said}")


def _echo_sync(one: listings.Listed) -> None:
    click.echo(f"sync {one.sync_id}  {one.tenant}: {one.kind} {one.external_id} of shop {one.shop}")
    click.echo(f"  {one.state} since {one.since:%Y-%m-%d %H:%M:%S} UTC, attempts {one.attempts}")
    _echo_error(one)


def _echo_error(one: listings.Listed | listings.Group) -> None:
    if one.error_class:
        click.echo(f"  {one.error_class} {one.fingerprint}: {one.message}")
        click.echo(f"  do: {one.remedy}")


def require_names(connection: Connection, tenant: str | None, shop: str | None = None) -> None:
    """Tell a name that is wrong from one that has no such syncs."""
    if tenant and connection.execute(select(tenants.c.id).where(tenants.c.slug == tenant)).first() is None:
        raise click.ClickException(f"There is no tenant {tenant}. Nothing was changed. {NAMES}")
    if shop is None:
        return
    wanted = select(shops.c.id).join(tenants, shops.c.tenant_id == tenants.c.id).where(shops.c.slug == shop)
    if tenant:
        wanted = wanted.where(tenants.c.slug == tenant)
    if connection.execute(wanted).first() is None:
        whose = f" of {tenant}" if tenant else ""
        raise click.ClickException(f"There is no shop {shop}{whose}. Nothing was changed. {NAMES}")


@click.command()
@click.argument("tenant")
@click.option("--erp", help="Only this management system of the tenant.")
def pause(tenant: str, erp: str | None) -> None:
    """Shut the gates of a tenant until `resume`. What is running ends its step; the backlog waits."""
    with open_ledger() as ledger, ledger.write() as connection:
        gate.pause(connection, gates_of(connection, tenant, erp))
    click.echo(f"{tenant} is paused. `celery -A tasks resume {tenant}` opens it again.")


@click.command()
@click.argument("tenant")
@click.option("--erp", help="Only this management system of the tenant.")
def resume(tenant: str, erp: str | None) -> None:
    """End a pause. Other causes that shut a gate stand."""
    with open_ledger() as ledger, ledger.write() as connection:
        gate.resume(connection, gates_of(connection, tenant, erp))
    click.echo(f"{tenant} is not paused any more.")


def gates_of(connection: Connection, tenant: str, erp: str | None) -> list[int]:
    """The gates of a tenant, all or one management system's. Raises ClickException when there is none."""
    require_names(connection, tenant)
    query = (
        select(gates.c.id)
        .join(tenants, gates.c.tenant_id == tenants.c.id)
        .join(erps, gates.c.erp_id == erps.c.id)
        .where(tenants.c.slug == tenant)
    )
    if erp:
        query = query.where(erps.c.slug == erp)
    found = list(connection.execute(query).scalars())
    if not found:
        named = f"{tenant}/{erp}" if erp else tenant
        raise click.ClickException(f"There is no management system {named}. Nothing was changed. {NAMES}")
    return found
