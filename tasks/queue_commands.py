"""`celery -A tasks queues …`: how full the queues are, and dead letters put back.

What the queues hold is only doorbells. Nothing can be lost here, and a bell too many does no harm.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import click
import orjson
from botocore.exceptions import BotoCoreError, ClientError

from integrator.config import settings
from integrator.ledger import gauges
from tasks import commands, queues
from tasks.queues import QUEUES, Queue


@dataclass(frozen=True)
class Row:
    """One queue as an operator sees it. `oldest_due_seconds`: how long the oldest due sync has waited."""

    queue: str
    visible: int
    in_flight: int
    delayed: int
    dead_lettered: int
    oldest_due_seconds: float


@click.group("queues")
def queues_group() -> None:
    """Look at the queues, and put dead letters back."""


@queues_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of text.")
def list_queues(as_json: bool) -> None:
    """Count each queue's messages, and say how long the oldest due sync waits, which the ledger knows."""
    with commands.open_ledger() as ledger, ledger.read() as connection:
        oldest = {queue.name: gauges.oldest_due_seconds(connection, [queue.kind]) for queue in QUEUES}
    rows = [_row(queue, oldest[queue.name]) for queue in QUEUES]
    if as_json:
        click.echo(orjson.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        click.echo(
            f"{row.queue}: {row.visible} visible, {row.in_flight} in flight, {row.delayed} delayed, "
            f"{row.dead_lettered} dead-lettered; the oldest due sync waits for {row.oldest_due_seconds:.0f} s"
        )


def _row(queue: Queue, oldest: float) -> Row:
    with _told(queue.name):
        counts = queues.counts(queue.name)
    with _told(queue.dead_letters):
        dead = queues.dead_letters(queue)
    return Row(queue.name, counts.visible, counts.in_flight, counts.delayed, dead, oldest)


@queues_group.command()
@click.argument("queue", metavar="QUEUE", type=click.Choice([queue.name for queue in QUEUES]))
@click.option("--dry-run", is_flag=True, help="Say how many, and change nothing.")
def redrive(queue: str, dry_run: bool) -> None:
    """Have SQS put the messages of a queue's dead-letter queue back into it. Mend first what they died of."""
    (chosen,) = (one for one in QUEUES if one.name == queue)
    with _told(chosen.dead_letters):
        waiting = queues.counts(chosen.dead_letters)
        if waiting.visible and not dry_run:
            queues.redrive(chosen)
    how = "would go" if dry_run else "goes" if waiting.visible == 1 else "go"
    click.echo(f"{waiting.visible} message{'s' * (waiting.visible != 1)} {how} back into {queue}")
    if waiting.in_flight:
        click.echo(f"{waiting.in_flight} more are being looked at by somebody; try again in two minutes")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in one sentence that a queue can't be used."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        raise click.ClickException(
            f"The queue {settings().queue_url(name)} can't be used ({code}). Check "
            "INTEGRATOR_SQS_ENDPOINT_URL, INTEGRATOR_SQS_QUEUE_URL_PREFIX and what the AWS credentials may do."
        ) from error
