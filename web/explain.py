"""The command `flask --app web explain`: what one webhook's body would become."""

import json
import sys
from decimal import Decimal
from typing import BinaryIO

import click
from flask import Flask

from integrator.connectors import NoConnector
from integrator.explain import TOLERANCE, Verdict, explain


def init_app(app: Flask) -> None:
    """Add the command."""
    app.cli.add_command(explain_command)


@click.command("explain")
@click.argument("platform")
@click.argument("topic")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    callback=lambda _context, _option, value: Decimal(str(value)),
    default=float(TOLERANCE),
    show_default=True,
    help="The tenant's: how far amounts may be off.",
)
def explain_command(platform: str, topic: str, file: BinaryIO, tolerance: Decimal) -> None:
    """Say as JSON what would become of a webhook of PLATFORM with TOPIC whose body is FILE (-: standard input).

    The verdict: mapped, held (with what is wrong, and what to do), fetch (it is read from the shop), or not an
    order; then the steps of a first arrival, the sums and the canonical document. It needs no ledger, no keys and
    no network. Exit status 2 when the file is no webhook of an order.
    """
    try:
        found = explain(platform, topic, file.read(), tolerance)
    except NoConnector as error:
        raise click.UsageError(str(error)) from None
    text = json.dumps(found.as_dict(), ensure_ascii=False, indent=2)
    click.echo(text.encode("utf-8", "backslashreplace"))
    if found.verdict is Verdict.NOT_AN_ORDER:
        click.echo(f"Not an order: {found.reason}.", err=True)
        sys.exit(2)
