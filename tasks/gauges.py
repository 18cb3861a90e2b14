"""What only the scheduler shows: how ledger and queues stand, and that the loop goes round."""

import shutil
import time

from botocore.exceptions import BotoCoreError, ClientError

from integrator import monitor
from integrator.config import settings
from integrator.ledger import gauges, limits
from integrator.ledger.engine import Ledger
from integrator.logs import get_logger
from integrator.metrics import (
    DEAD_LETTERS,
    GATES_SHUT,
    LEDGER_DISK,
    OLDEST_DUE,
    QUEUE_MESSAGES,
    QUOTA_NEARLY_USED,
    ROUND_AT,
    SYNCS,
    meters,
)
from integrator.monitor import Pulse
from tasks import queues

log = get_logger(__name__)

SILENT_SECONDS = 60.0
"""How long a round may take before the scheduler counts as dead; each chore's own timeouts are far below."""


class Rounds:
    """The scheduler's pulse: a beat after every round of its loop."""

    def __init__(self) -> None:
        self._pulse = Pulse(SILENT_SECONDS)

    def ended(self) -> None:
        """A round has ended."""
        self._pulse.beat()
        meters().set(ROUND_AT, time.time())

    def serve(self) -> None:
        """Serve the scheduler's metrics and health, if the settings want it. Raises monitor.PortTaken."""
        monitor.serve(settings(), meters(), self._trouble)

    def _trouble(self) -> str | None:
        if self._pulse.alive:
            return None
        return f"The scheduler's loop has not gone round for {self._pulse.age:.0f} s."


def read_ledger(ledger: Ledger) -> None:
    """Read the gauges of the ledger. Without a port to show them at, nothing is asked."""
    if not settings().metrics_port:
        return
    with ledger.read() as connection:
        meters().replace(SYNCS, gauges.open_syncs(connection))
        meters().replace(GATES_SHUT, gauges.shut_gates(connection))
        meters().set(QUOTA_NEARLY_USED, limits.nearly_used(connection))
        oldest = {queue.name: gauges.oldest_due_seconds(connection, [queue.kind]) for queue in queues.QUEUES}
    meters().replace(OLDEST_DUE, oldest)


def read_disk(ledger: Ledger) -> None:
    """Read how much room the ledger's disk has, where that can be known. Raises OSError."""
    folder = settings().ledger_disk or ledger.folder
    if not settings().metrics_port or folder is None:
        return
    disk = shutil.disk_usage(folder)
    meters().set(LEDGER_DISK, disk.free / disk.total)


def read_queues() -> None:
    """Read the gauges of the queues; one that can't be read shows its last figure."""
    if not settings().metrics_port:
        return
    for queue in queues.QUEUES:
        try:
            meters().set(QUEUE_MESSAGES, queues.depth(queue), queue=queue.name)
            meters().set(DEAD_LETTERS, queues.dead_letters(queue), queue=queue.name)
        except (BotoCoreError, ClientError) as error:
            log.warning("queue_not_read", queue=queue.name, error=type(error).__name__)
