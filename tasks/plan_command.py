"""`celery -A tasks plan`: what a tenant may do to its management systems, shown and changed."""

from typing import Any

import click
import orjson
from pydantic import ValidationError
from sqlalchemy import Connection, select, update

from integrator.ledger import limits as ledger_limits
from integrator.ledger.schema import erps, gates
from integrator.plans import FIELDS, PlanFile
from tasks.commands import gates_of, open_ledger

NOTHING: dict[str, Any] = dict.fromkeys(FIELDS)
"""A plan that says nothing of its own."""


@click.command()
@click.argument("tenant")
@click.option("--erp", help="Only this management system of the tenant.")
@click.option("--per-second", type=float, help="Requests per second over time.")
@click.option("--burst", type=int, help="Requests at once after a rest.")
@click.option("--per-day", type=int, help="Requests in a day.")
@click.option("--time-zone", help="Where the day turns, e.g. America/Argentina/Buenos_Aires.")
@click.option("--order-percent", type=int, help="The share of a day that is kept for orders.")
@click.option("--retry-first-seconds", type=float, help="The longest wait after a first failure.")
@click.option("--retry-longest-seconds", type=float, help="The longest wait after any.")
@click.option("--window", type=click.IntRange(1, 1_000), help="How many of its syncs may be in flight.")
@click.option("--default", "by_default", is_flag=True, help="Forget what is not named here: the default holds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of lines.")
def plan(tenant: str, erp: str | None, window: int | None, by_default: bool, as_json: bool, **said: Any) -> None:
    """Show a tenant's plans and how much of the day is used; with options, change them first.

    What an option does not name stays. A change works in every process within a second.
    """
    named = {name: value for name, value in said.items() if value is not None}
    with open_ledger() as ledger:
        with ledger.write() as connection:
            gate_ids = sorted(gates_of(connection, tenant, erp))
            for gate_id in gate_ids if named or by_default else ():
                own = NOTHING if by_default else ledger_limits.own_plan(connection, gate_id)
                ledger_limits.write_plan(connection, gate_id, _checked({**own, **named}))
            if window is not None:
                connection.execute(update(gates).where(gates.c.id.in_(gate_ids)).values(window_cap=window))
        with ledger.read() as connection:
            shown = [_shown(connection, tenant, gate_id) for gate_id in gate_ids]
    if as_json:
        click.echo(orjson.dumps(shown))
        return
    for one in shown:
        click.echo(_line(one))


def _checked(columns: dict[str, Any]) -> dict[str, Any]:
    """What is to be stored. Raises ClickException, and nothing is changed."""
    try:
        return PlanFile.model_validate(columns).columns()
    except ValidationError as error:
        wrong = [
            f"--{str(one['loc'][0]).replace('_', '-')}: {one['msg'].removeprefix('Value error, ')}."
            for one in error.errors(include_url=False, include_context=False)
        ]
        raise click.ClickException(" ".join([*wrong, "Nothing was changed."])) from None


def _shown(connection: Connection, tenant: str, gate_id: int) -> dict[str, Any]:
    row = connection.execute(
        select(erps.c.slug, gates.c.window_cap)
        .join(gates, gates.c.erp_id == erps.c.id)
        .where(gates.c.id == gate_id)
    ).one()
    use = ledger_limits.use(connection, gate_id)
    day = {"used": use.used, "ends_at": use.ends_at.isoformat()}
    return {"tenant": tenant, "erp": row.slug, "window": row.window_cap, **use.plan.as_dict(), "day": day}


def _line(one: dict[str, Any]) -> str:
    return (
        f"{one['tenant']}/{one['erp']}: {one['per_second']:g}/s (burst {one['burst']}), {one['day']['used']} of "
        f"{one['per_day']} used today ({one['time_zone']}), {one['order_percent']} % kept for orders, window "
        f"{one['window']}, retried within {one['retry_first_seconds']:g} s to {one['retry_longest_seconds']:g} s"
    )
