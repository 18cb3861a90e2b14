"""Leases: who may work on a sync, and how a worker notices in time that it no longer may (PROTOCOL C3, T1, S4)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from integrator.clock import boottime
from integrator.errors import LeaseLost, NotStarted
from integrator.ledger.engine import Ledger
from integrator.ledger.leases import LEASE_SECONDS, RUN_SECONDS, renew
from integrator.ledger.records import Claimed
from integrator.logs import get_logger

log = get_logger(__name__)

RENEW_SECONDS = 10
"""How often a process renews its leases, by one UPDATE."""


class Lease:
    """One claim's lease as its worker sees it: never longer than the database's view of it.

    `asked_at` is the process's boot clock before the claim was sent. `names` is what the log calls its sync by.
    """

    def __init__(self, claimed: Claimed, asked_at: float, *, clock: Callable[[], float] = boottime) -> None:
        self.sync_id = claimed.sync_id
        self.claim = claimed.claim
        self.names = claimed.names
        self._clock = clock
        self._ends = asked_at + LEASE_SECONDS
        self._last = asked_at + RUN_SECONDS
        self._lost = False

    def renewed(self, asked_at: float) -> None:
        """The ledger extended it; the request was sent at `asked_at`."""
        self._ends = min(asked_at + LEASE_SECONDS, self._last)

    def lose(self) -> None:
        """The ledger says that it is not ours any more."""
        self._lost = True

    def end_by(self, at: float) -> None:
        """Stop by this time at the latest: the process is shutting down."""
        self._last = min(self._last, at)
        self._ends = min(self._ends, at)

    @property
    def seconds_left(self) -> float:
        """How long it stands without being renewed; 0 when it is lost."""
        return 0.0 if self._lost else max(self._ends - self._clock(), 0.0)

    def guard(self, total_seconds: float) -> None:
        """Let a call start only if it must end before the lease (S4). Raises LeaseLost, NotStarted."""
        if self._lost:
            raise LeaseLost(f"Sync {self.sync_id} was taken over from claim {self.claim}.")
        if total_seconds > self.seconds_left:
            raise NotStarted(
                f"A call of up to {total_seconds:.0f} s does not fit into the {self.seconds_left:.0f} s "
                f"that claim {self.claim} of sync {self.sync_id} has left."
            )


class LeaseKeeper:
    """Renews the leases of a process, all by one UPDATE every 10 s, from a thread that starts when needed."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = boottime) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[tuple[int, int], Lease] = {}
        self._draining_until: float | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    @contextmanager
    def keep(self, claimed: Claimed, asked_at: float) -> Iterator[Lease]:
        """Hold the lease of a claim for a block."""
        lease = Lease(claimed, asked_at, clock=self._clock)
        with self._lock:
            self._held[lease.sync_id, lease.claim] = lease
            if self._draining_until is not None:
                lease.end_by(self._draining_until)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
                self._thread.start()
        try:
            yield lease
        finally:
            with self._lock:
                self._held.pop((lease.sync_id, lease.claim), None)

    def drain(self, seconds: float) -> None:
        """Let no call start that would not end within so many seconds: the process is shutting down.

        The first request counts: a second one can't lengthen it.
        """
        with self._lock:
            until = self._clock() + seconds
            self._draining_until = until if self._draining_until is None else min(self._draining_until, until)
            for lease in self._held.values():
                lease.end_by(self._draining_until)

    @property
    def draining(self) -> bool:
        """Whether the process is shutting down."""
        return self._draining_until is not None

    def held(self) -> list[tuple[int, int]]:
        """The (sync id, claim) pairs that this process works on."""
        with self._lock:
            return sorted(self._held)

    def leases(self) -> list[Lease]:
        """The leases of what this process works on."""
        with self._lock:
            return [self._held[pair] for pair in sorted(self._held)]

    def renew_all(self) -> None:
        """Renew what is held; what the ledger does not confirm is lost. Raises SQLAlchemyError."""
        with self._lock:
            leases = dict(self._held)
        if not leases:
            return
        asked_at = self._clock()
        with self._ledger.write() as connection:
            ours = renew(connection, leases)
        for pair, lease in leases.items():
            if pair in ours:
                lease.renewed(asked_at)
            else:
                lease.lose()

    def _run(self) -> None:
        while not self._wake.wait(RENEW_SECONDS):
            try:
                self.renew_all()
            except SQLAlchemyError as error:
                # The leases run out by themselves; their calls then do not start.
                log.warning("leases_not_renewed", error=type(error).__name__)
