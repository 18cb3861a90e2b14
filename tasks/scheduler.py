"""The scheduler: one small loop that dispatches, takes over what vanished, and rings again. Two are harmless.

Not beat and not messages: what it does is read from the ledger each time, so that nothing is lost with it.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from integrator import breaking
from integrator.breaker import Heard
from integrator.clock import boottime
from integrator.config import settings
from integrator.dispatch import Dispatcher
from integrator.ledger import access
from integrator.ledger.engine import Ledger
from integrator.ledger.retention import drop_old_keys, old_attempts, old_deliveries, old_requests
from integrator.ledger.transitions import take_over
from integrator.logs import get_logger
from integrator.metrics import CHORES_FAILED, meters
from tasks import gauges, queues

log = get_logger(__name__)

TICK_SECONDS = 1.0

GAUGE_SECONDS = 15.0
"""How often the gauges are read: as often as Prometheus usually asks."""

BATCHES_A_TIME = 20
"""Batches that one round looks through for old rows at most: dispatching never waits for housekeeping."""


@dataclass
class Chore:
    """Something done every so often. A failure is logged, and the next time tries again."""

    name: str
    every_seconds: float
    do: Callable[[], object]
    next_at: float = 0.0

    def run_if_due(self, now: float) -> None:
        """Do it when its time has come."""
        if now < self.next_at:
            return
        self.next_at = now + self.every_seconds
        try:
            self.do()
        except (SQLAlchemyError, BotoCoreError, ClientError, OSError) as error:
            meters().count(CHORES_FAILED, chore=self.name)
            log.warning("chore_failed", chore=self.name, error=type(error).__name__)
        except Exception:
            meters().count(CHORES_FAILED, chore=self.name)
            log.exception("chore_broke", chore=self.name)


def chores(ledger: Ledger, dispatcher: Dispatcher) -> list[Chore]:
    """All that the scheduler does (PROTOCOL P4, P5, C4)."""
    return [
        Chore("take over expired runs", TICK_SECONDS, lambda: take_over_expired(ledger)),
        Chore("dispatch", TICK_SECONDS, lambda: dispatcher.dispatch(skip_locked=True)),
        *(
            Chore(f"ring again on {queue.name}", 10, partial(ring_missing, dispatcher, queue))
            for queue in queues.QUEUES
        ),
        *_housekeeping(ledger),
        Chore("read the ledger's gauges", GAUGE_SECONDS, partial(gauges.read_ledger, ledger)),
        Chore("measure the ledger's disk", GAUGE_SECONDS, partial(gauges.read_disk, ledger)),
        Chore("read the queues' gauges", GAUGE_SECONDS, gauges.read_queues),
    ]


def _housekeeping(ledger: Ledger) -> list[Chore]:
    """What leaves the ledger when it is old (DESIGN §9)."""
    given = settings()
    drops: dict[str, Callable[[Connection], int]] = {
        "drop old deliveries": old_deliveries(given.keep_deliveries_days).go_on,
        "drop old keys": partial(drop_old_keys, keep_days=given.keep_deliveries_days),
        "empty old requests": old_requests(given.keep_requests_days).go_on,
        "drop old attempts": old_attempts(given.keep_attempts_days, given.keep_attempts).go_on,
    }
    return [Chore(name, 60, partial(_in_batches, ledger, drop)) for name, drop in drops.items()]


def _in_batches(ledger: Ledger, drop: Callable[[Connection], int]) -> int:
    """Drop batch after batch, each in a transaction of its own, a few at a time; how many rows."""
    dropped = 0
    for _ in range(BATCHES_A_TIME):
        with ledger.write() as connection:
            count = drop(connection)
        dropped += count
        if not count:
            break
    return dropped


def take_over_expired(ledger: Ledger) -> int:
    """Take the runs of vanished workers over (C4); how many."""
    with ledger.write() as connection:
        taken = take_over(connection, random.random())  # noqa: S311
        named = access.names(connection, [sync_id for sync_id, _ in taken]) if taken else {}
    breaking.taken_back(ledger, [sync_id for sync_id, _ in taken], Heard.VANISHED)
    for sync_id, state in taken:
        log.warning("worker_vanished", sync_id=sync_id, state=state, **named.get(sync_id, {}))
    return len(taken)


def ring_missing(dispatcher: Dispatcher, queue: queues.Queue) -> int:
    """Ring again for syncs whose message is gone (P5); how many."""
    rung = dispatcher.ring_missing(queue.kind, queues.depth(queue))
    if rung:
        log.warning("bells_rung_again", queue=queue.name, count=rung)
    return rung


def run(ledger: Ledger, dispatcher: Dispatcher, stop: threading.Event) -> None:
    """Loop until `stop` is set. Raises monitor.PortTaken."""
    todo, rounds = chores(ledger, dispatcher), gauges.Rounds()
    rounds.serve()
    log.info("scheduler_ready")
    while not stop.is_set():
        for chore in todo:
            chore.run_if_due(boottime())
        rounds.ended()
        stop.wait(TICK_SECONDS)
