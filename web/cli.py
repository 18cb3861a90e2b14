"""The commands of `flask --app web`: the ledger's schema and keys, and the tenants.

What can be expected to go wrong is told in one sentence; a traceback means a bug.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
import yaml
from flask import Flask
from flask.cli import AppGroup
from pydantic import ValidationError

from integrator import checkup, readiness
from integrator.ledger import backup, migrate, restore
from integrator.ledger.tenants import File, apply
from integrator.ledger.transitions import hurry
from integrator.limits import Limiter
from integrator.secrets import new_key
from web.services import services
from web.tenants import overview, rotate, sentences

P = ParamSpec("P")
R = TypeVar("R")

ledger_group = AppGroup("ledger", help="The ledger's schema and encryption keys.")
tenants_group = AppGroup("tenants", help="Tenants, their shops and management systems.")


def init_app(app: Flask) -> None:
    """Add the commands."""
    app.cli.add_command(ledger_group)
    app.cli.add_command(tenants_group)


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    try:
        yield
    except readiness.EXPECTED as error:
        raise click.ClickException(readiness.sentence(error, services().ledger.url)) from None


def _told(command: Callable[P, R]) -> Callable[P, R]:
    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _in_a_sentence():
            return command(*args, **kwargs)

    return wrapped


@ledger_group.command("upgrade")
@_told
def upgrade() -> None:
    """Bring the ledger's schema to this version."""
    click.echo(f"The ledger's schema is {migrate.upgrade(services().ledger)}.")


@ledger_group.command("check")
@_told
def check() -> None:
    """Check the ledger's schema, that it keeps what it has acknowledged, and that it takes all connections."""
    ledger = services().ledger
    version = readiness.check_ledger(services().settings, ledger)
    ledger.check_durability()  # whatever the settings allow
    click.echo(f"The ledger's schema is {version}, and what it commits is on disk.")


@ledger_group.command("new-key")
def make_key() -> None:
    """Print a fresh key for INTEGRATOR_SECRET_KEYS."""
    click.echo(new_key())


@ledger_group.command("rotate-keys")
@_told
def rotate_keys() -> None:
    """Encrypt all stored credentials again, with the first key of INTEGRATOR_SECRET_KEYS.

    Put the new key in front and restart everything before; the old one can go afterwards.
    """
    ledger = services().ledger
    ring = readiness.ring_of(services().settings)
    migrate.check(ledger)
    for what, count in rotate(ledger, ring).items():
        click.echo(f"{what}: {count} encrypted with the first key")


@ledger_group.command("backup")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@_told
def backup_ledger(path: Path) -> None:
    """Copy an SQLite ledger to FILE, while all goes on. For PostgreSQL there are pg_dump and bin/backup.

    It holds personal data, and the credentials as they are encrypted: keep INTEGRATOR_SECRET_KEYS elsewhere.
    """
    try:
        size = backup.copy(services().ledger, path)
    except backup.NoBackup as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{path}: {size} bytes")


def _instant(_context: click.Context, _parameter: click.Parameter, value: str) -> datetime:
    try:
        given = datetime.fromisoformat(value)
    except ValueError:
        given = None
    if given is None or given.tzinfo is None:
        raise click.BadParameter("write a time with its zone, like 2026-03-01T12:00:00Z.")
    return given


@ledger_group.command("restored")
@click.option(
    "--since", metavar="TIME", required=True, callback=_instant, help="The backup's time, or one before it."
)
@_told
def restored(since: datetime) -> None:
    """Tell the ledger that it was restored from a backup, before anything works on it again.

    From then on each order is looked up in its management system, and asked for in its shop, before it is written
    for the first time. Done orders that have changed since TIME run again at once, behind live ones: an earlier
    TIME than the backup's brings more of them up to date.
    """
    ledger = services().ledger
    migrate.check(ledger)
    try:
        found = restore.restored(ledger, since)
    except restore.NotRestored as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{found.gates} management systems: every order is looked up there before it is written")
    click.echo(f"{found.syncs} orders run again, since they changed after {since.isoformat()}")
    click.echo("Webhooks that came after the backup are lost: have the shops send those of new orders again.")


@tenants_group.command("apply")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@_told
def apply_file(path: Path, *, dry_run: bool) -> None:
    """Bring tenants, shops and management systems to what FILE says; what it does not mention stays."""
    file = _load(path)
    ledger = services().ledger
    ring = readiness.ring_of(services().settings)
    migrate.check(ledger)
    with ledger.write() as connection:
        changes = apply(connection, file, os.environ, ring)
        if dry_run:
            connection.rollback()
    if changes.renewed_shops and not dry_run:
        with ledger.write() as connection:
            hurry(connection, changes.renewed_shops)
    for line in changes.lines or ["nothing to change"]:
        click.echo(f"would be: {line}" if dry_run and changes.lines else line)


def _load(path: Path) -> File:
    try:
        return File.model_validate(yaml.safe_load(path.read_bytes()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise click.ClickException(f"{path}{where}: {error.problem or 'this is not YAML'}.") from None
    except yaml.YAMLError:
        raise click.ClickException(f"{path}: this is not YAML in UTF-8.") from None
    except ValidationError as error:
        raise click.ClickException("\n".join(f"{path}: {line}" for line in sentences(error))) from None


@tenants_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@_told
def list_tenants(*, as_json: bool) -> None:
    """Show tenants, their management systems with their gates, and their shops. Never secrets or keys."""
    ledger = services().ledger
    migrate.check(ledger)
    with ledger.read() as connection:
        tenants = overview(connection)
    if as_json:
        click.echo(json.dumps({"tenants": tenants}, indent=2))
        return
    for tenant in tenants:
        kept = f", keeps {tenant['keep_days']} days" if tenant["keep_days"] else ""
        click.echo(f"{tenant['slug']} ({tenant['name']}){'' if tenant['active'] else ', inactive'}{kept}")
        for erp in tenant["erps"]:
            click.echo(f"  management system {erp['slug']}: {erp['kind']}, gate {_gate(erp['gate'])}")
        for shop in tenant["shops"]:
            state = "" if shop["active"] else ", inactive"
            click.echo(f"  shop {shop['slug']}: {shop['platform']} to {shop['erp']}{state}")


@tenants_group.command("check")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of lines.")
@_told
def check_tenants(tenant: str | None, *, as_json: bool) -> None:
    """Ask every shop and management system, or TENANT's, whether it answers, and takes its credentials.

    Each is asked once, for something that changes nothing, within its own deadline; its clock must be within a
    minute of ours. Inactive shops are left out, and inactive tenants unless named. Exit status 1 if anything is
    wrong.
    """
    ledger = services().ledger
    migrate.check(ledger)
    with ledger.read() as connection:
        chosen = checkup.parts(connection, readiness.ring_of(services().settings), tenant)
    if not chosen:
        raise click.ClickException(f"There is no tenant {tenant}." if tenant else "There are no active tenants.")
    findings = checkup.check_all(chosen, Limiter.from_settings(services().settings, ledger))
    if as_json:
        click.echo(json.dumps({"checks": [finding.as_dict() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _gate(gate: dict[str, str | bool | None]) -> str:
    return "open" if gate["open"] else f"shut until {gate['opens_at'] or 'resumed'}: {gate['cause']}"
