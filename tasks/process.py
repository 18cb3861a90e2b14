"""What one worker process holds: its ledger, leases and dispatcher, made at the first use and after fork."""

import os
import socket
import threading
import time
from collections.abc import Iterable
from functools import cache

from sqlalchemy.exc import SQLAlchemyError

from integrator import breaking
from integrator.breaker import Heard
from integrator.config import settings
from integrator.dispatch import Dispatcher, Publish
from integrator.lease import LeaseKeeper
from integrator.ledger.engine import Ledger
from integrator.ledger.transitions import release, unring
from integrator.limits import Limiter
from integrator.logs import get_logger
from integrator.pace import Pace
from integrator.secrets import KeyRing, key_ring
from tasks.publishing import publisher

log = get_logger(__name__)


class Process:
    """The parts that the tasks of a process share."""

    def __init__(self, ledger: Ledger, ring: KeyRing, publish: Publish) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.ledger = ledger
        self.ring = ring
        self.leases = LeaseKeeper(ledger)
        self.dispatcher = Dispatcher(ledger, publish)
        self.pace = Pace(ledger)
        self.limiter = Limiter.from_settings(settings(), ledger)

    def drain(self, seconds: float) -> None:
        """Start no call that would not end within so many seconds, then give back what still runs."""
        self.leases.drain(seconds)
        log.info("worker_draining", running=len(self.leases.held()))
        time.sleep(seconds)
        self.give_back()

    def give_back(self) -> None:
        """Release what this process still works on, by claim number: its runs are fenced off from then on."""
        for lease in self.leases.leases():
            about = {"sync_id": lease.sync_id, "claim": lease.claim, **lease.names}
            try:
                with self.ledger.write() as connection:
                    given = release(connection, lease.sync_id, lease.claim)
            except SQLAlchemyError as error:
                # Its lease ends by itself, and the scheduler takes it over.
                log.warning("sync_not_given_back", error=type(error).__name__, **about)
            else:
                log.info("sync_given_back", released=given, **about)
                breaking.taken_back(self.ledger, [lease.sync_id], Heard.NOTHING)

    def unring(self, bells: Iterable[tuple[str, int]]) -> int:
        """Put syncs that were rung, but not started, back to pending; how many. Raises SQLAlchemyError."""
        with self.ledger.write() as connection:
            return unring(connection, bells)


_making = threading.Lock()


@cache
def _process(_pid: int) -> Process:
    return Process(Ledger.from_settings(settings()), key_ring(), publisher())


def process() -> Process:
    """This process's parts; all its threads get the same."""
    with _making:  # `cache` lets several first calls at once make several
        return _process(os.getpid())
