"""One run of a sync: the claim's view of the ledger, every write fenced by its number (PROTOCOL C2).

This is the thin shell: it opens transactions, and closes them before anything is sent.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from integrator import breaking, gate
from integrator.breaker import Heard, Holder, heard, may_call
from integrator.erps.base import Action, Receipt, Request, StepKind
from integrator.errors import GateShut, IntegratorError, LeaseLost
from integrator.lease import Lease
from integrator.ledger import deliveries, steps, transitions
from integrator.ledger.access import Assignment
from integrator.ledger.deliveries import Candidate
from integrator.ledger.engine import UNREACHABLE, Ledger
from integrator.ledger.records import Claimed
from integrator.ledger.steps import Step
from integrator.limits import Limiter
from integrator.logs import get_logger
from integrator.sync.plan import content_digest

log = get_logger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 0.5
"""Between two tries to write what must be written while the lease stands."""


def while_leased(
    transaction: Callable[[], AbstractContextManager[Connection]], lease: Lease, work: Callable[[Connection], T]
) -> T:
    """Do work in a transaction; while the ledger can't be reached, again until the lease ends.

    The commit of a try that failed may have happened: work is such that a second time does no harm. Raises
    UNREACHABLE.
    """
    while True:
        try:
            with transaction() as connection:
                return work(connection)
        except UNREACHABLE as error:
            if lease.seconds_left < RETRY_SECONDS:
                raise
            log.warning("ledger_unreachable", error=type(error).__name__, seconds_left=round(lease.seconds_left))
            time.sleep(RETRY_SECONDS)


@dataclass
class Run:
    """A claimed sync at work.

    `progressed`: a step was applied in this run. `authorized`: the management system took the credentials.
    """

    ledger: Ledger
    assignment: Assignment
    claimed: Claimed
    lease: Lease
    limiter: Limiter
    progressed: bool = False
    authorized: bool = False
    finished: str | None = field(default=None, init=False)
    tries: bool = field(default=False, init=False)
    """Whether it has the only place of a half-open breaker."""

    @property
    def holder(self) -> Holder:
        """Who it is to the gate's breaker."""
        return (self.sync_id, self.claimed.claim)

    @property
    def sync_id(self) -> int:
        """The sync's id."""
        return self.claimed.sync_id

    def write(self, transaction: Callable[[Connection], T]) -> T:
        """Run a fenced transaction, again and again while the ledger can't be reached. Raises UNREACHABLE."""
        return while_leased(self.ledger.write, self.lease, transaction)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Read, again and again while the ledger can't be reached. Raises UNREACHABLE."""
        return while_leased(self.ledger.read, self.lease, query)

    def ask_gate(self) -> None:
        """Ask the gate again before a step (S5), and for the only place while its breaker is half open (G2).

        Raises GateShut.
        """
        found = self.read(lambda connection: gate.ask(connection, self.assignment.gate_id))
        if not found.open:
            raise GateShut(f"The gate of {found.tenant}/{found.erp} shut: {found.cause}.")
        if found.on_trial:
            self._take_place()

    def _take_place(self) -> None:
        gate_id, by = self.assignment.gate_id, self.holder
        change = self.write(lambda connection: breaking.take_place(connection, gate_id, by))
        breaking.announce(change)
        if not may_call(change.after, by):
            raise GateShut(f"The system of {change.tenant}/{change.erp} is failing, and another sync tries it.")
        self.tries = not change.after.closed

    def hear(self, error: IntegratorError | None = None) -> None:
        """Tell the gate's breaker how a call to the management system ended (G2)."""
        outcome = heard(error)
        if outcome is Heard.NOTHING:
            return
        version, gate_id = self.assignment.credentials_version, self.assignment.gate_id
        if error is not None and outcome is Heard.FAILED:
            error.on_trial = self.tries
        if breaking.tell(self.ledger, gate_id, outcome, self.holder, error=error, credentials_version=version):
            self.tries = False

    def leave_place(self) -> None:
        """Give the only place back, if this run has it still: it ends without having heard anything."""
        if self.tries:
            breaking.tell(self.ledger, self.assignment.gate_id, Heard.NOTHING, self.holder)

    def candidates(self) -> list[Candidate]:
        """The newest deliveries."""
        return self.read(lambda connection: deliveries.candidates(connection, self.sync_id))

    def body(self, delivery_id: int) -> bytes:
        """The raw body of a delivery."""
        return self.read(lambda connection: deliveries.body(connection, delivery_id))

    def steps(self, settle_seconds: float) -> list[Step]:
        """The steps so far, oldest first."""
        return self.read(
            lambda connection: steps.load(connection, self.sync_id, settle_seconds, self.assignment.restored_at)
        )

    def intend(self, action: Action, request: Request) -> int:
        """Record a step before its call; its id (S1)."""
        return self.write(
            lambda connection: steps.intend(
                connection,
                self.sync_id,
                self.claimed.claim,
                action.kind,
                request,
                digest=action.refund.digest() if action.refund else content_digest(action.order),
                snapshot_updated_at=action.order.updated_at,
            )
        )

    def observe(self, kind: StepKind, key: str, receipt: Receipt, *, digest: str) -> None:
        """Record what a person was seen to have done."""
        claim = self.claimed.claim
        self.write(
            lambda connection: steps.observe(connection, self.sync_id, claim, kind, key, receipt, digest=digest)
        )

    def resend(self, step_id: int) -> None:
        """Record that a step's bytes go out again."""
        self.write(lambda connection: steps.resend(connection, self.sync_id, self.claimed.claim, step_id))

    def doubt(self, step_id: int) -> None:
        """Record that a step's outcome is not known."""
        self.write(lambda connection: steps.doubt(connection, self.sync_id, self.claimed.claim, step_id))

    def refuse(self, step_id: int, *, after_doubt: bool = False, verify_after: float | None = None) -> None:
        """Record that a step did not happen; look again after `verify_after` seconds."""
        claim = self.claimed.claim
        self.write(
            lambda connection: steps.refuse(
                connection, self.sync_id, claim, step_id, after_doubt=after_doubt, verify_after=verify_after
            )
        )

    def apply(self, step: Step, receipt: Receipt, *, verify_after: float | None = None) -> None:
        """Record that a step happened; look again after `verify_after` seconds (S2)."""
        claim = self.claimed.claim
        self.write(
            lambda connection: steps.apply(
                connection, self.sync_id, claim, step.step_id, receipt, verify_after=verify_after
            )
        )
        self.progressed = True
        log.info("step_applied", sync_id=self.sync_id, claim=claim, step_id=step.step_id, kind=step.kind.value)

    def adopt(self, kind: StepKind, key: str, receipt: Receipt, *, digest: str) -> None:
        """Record an effect that a restored ledger has forgotten."""
        claim = self.claimed.claim
        self.write(
            lambda connection: steps.adopt(connection, self.sync_id, claim, kind, key, receipt, digest=digest)
        )
        log.info("step_adopted", sync_id=self.sync_id, claim=claim, kind=kind.value)

    def verified(self, step_id: int) -> None:
        """Record that the last look found one record."""
        self.write(lambda connection: steps.verified(connection, self.sync_id, self.claimed.claim, step_id))

    def finish(self, reason: str, *, seen_updated_at: datetime | None, seen_digest: str | None) -> None:
        """Done, unless a newer version came meanwhile (C5). Raises LeaseLost."""
        self.finished = self.write(
            lambda connection: transitions.finish(
                connection,
                self.sync_id,
                self.claimed.claim,
                self.claimed.wanted,
                reason=reason,
                seen_updated_at=seen_updated_at,
                seen_digest=seen_digest,
            )
        )
        if self.finished is None:
            raise LeaseLost(f"Sync {self.sync_id} was taken over from claim {self.claimed.claim}.")
        log.info("sync_finished", sync_id=self.sync_id, state=self.finished, reason=reason)
