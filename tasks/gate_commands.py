"""`celery -A tasks gates …`: which gates are shut, why and until when, and what waits behind them."""

from datetime import UTC, datetime

import click
import orjson

from integrator.breaker import BreakerState
from integrator.gate import CAUSE_WORDS
from integrator.ledger.gate_listing import CAP, ListedGate, gate_listing
from tasks import commands

NOTHING = "-"

HEADER = (
    "gate",
    "open",
    "until (UTC)",
    "waiting",
    "in flight",
    "day used",
    "paused",
    "retry after",
    "quota",
    "credentials",
    "breaker",
    "why",
)


@click.group("gates")
def gates_group() -> None:
    """Look at the gates."""


@gates_group.command("list")
@click.option("--tenant", help="Only gates of this tenant.")
@click.option("--shut", is_flag=True, help="Only gates that are shut.")
@click.option("--after", type=int, default=0, help="Go on after this gate's id.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Gates on a page.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of text.")
def list_gates(tenant: str | None, shut: bool, after: int, limit: int, as_json: bool) -> None:
    """List gates: open or shut until when, each cause in its own column, what waits and what is in flight.

    Waiting syncs are counted up to 1,000.
    """
    with commands.open_ledger() as ledger, ledger.read() as connection:
        commands.require_names(connection, tenant)
        found = gate_listing(connection, tenant=tenant, shut=shut, after=after, limit=limit)
    if as_json:
        click.echo(orjson.dumps([one.as_dict() for one in found]))
        return
    rows = [HEADER, *map(_cells, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    full = len(found) == limit
    click.echo(f"{len(found)} listed; --after {found[-1].gate_id} goes on" if full else f"{len(found)} listed")


def _cells(one: ListedGate) -> tuple[str, ...]:
    """A line of the table; the order is HEADER's."""
    return (
        f"{one.tenant}/{one.erp}",
        "open" if one.open else "shut",
        NOTHING if one.open else _until(one, one.opens_at),
        f"{one.waiting}{'+' * (one.waiting == CAP)}",
        f"{one.in_flight} of {one.window}",
        f"{one.day_used[0]} of {one.day_used[1]}",
        *(_cause(one, name) for name in ("paused", "retry_after", "quota", "credentials")),
        _breaker(one),
        _why(one),
    )


def _cause(one: ListedGate, name: str) -> str:
    return _until(one, one.causes[name]) if name in one.causes else NOTHING


def _until(one: ListedGate, at: datetime) -> str:
    if at == one.causes.get("paused"):
        return "resumed"
    at = at.astimezone(UTC)
    return f"{at:%H:%M:%S}" if at.date() == datetime.now(UTC).date() else f"{at:%Y-%m-%d %H:%M:%S}"


def _breaker(one: ListedGate) -> str:
    """Its state; an open one whose time has passed is half open, and waits for a sync to try the system."""
    match one.breaker.state:
        case BreakerState.CLOSED:
            return f"closed, {one.breaker.failures} failed" if one.breaker.failures else "closed"
        case BreakerState.OPEN if "breaker" in one.causes:
            return f"open until {_until(one, one.causes['breaker'])}"
    return f"half open, tried by sync {one.breaker.probe[0]}" if one.breaker.probe else "half open"


def _why(one: ListedGate) -> str:
    said = CAUSE_WORDS | {"quota_until": one.plan}
    words = [word for cause, word in said.items() if cause.removesuffix("_until") in one.causes]
    return "; ".join(words) or NOTHING
