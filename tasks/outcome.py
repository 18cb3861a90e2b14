"""How a run ends: its error judged, the gate and the ledger told, and Celery shown a state that says no more."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime

from celery.exceptions import Ignore, Retry
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from integrator import errors, gate
from integrator.lease import Lease
from integrator.ledger import access, transitions
from integrator.ledger.records import Claimed, Failure
from integrator.ledger.schema import State
from integrator.logs import get_logger
from integrator.retry import THROTTLED_LIMIT, Outcome, Verb, decide
from integrator.secrets import SecretsError
from integrator.sync.run import Run
from tasks.process import Process

log = get_logger(__name__)

UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
"""What SQLAlchemy raises when the ledger can't be reached."""


IGNORED: Exception = Ignore()
"""Shown to Celery when somebody else holds the sync, or will take it over."""


class Held(Exception):
    """A sync that a person must look at: error class and fingerprint, never the error's own text."""


class RetryLater(Exception):
    """Why a sync runs again later: error class and fingerprint, never the error's own text."""


@dataclass
class End:
    """The end of one run. `run` is there once the assignment could be read."""

    here: Process
    claimed: Claimed
    lease: Lease
    run: Run | None = None

    def succeed(self, run: Run) -> None:
        """The block returned: it must have finished the sync. Raises Bug when it did not."""
        if run.finished is None:
            raise errors.Bug("A sync's run returned without finishing it.", subject="unfinished")
        if run.assignment.on_trial:
            with self.here.ledger.write() as connection:
                gate.accept_credentials(connection, self.claimed.gate_id, run.assignment.credentials_version)

    def fail(self, raised: Exception) -> Exception:
        """Judge what was raised and commit it, the gate's part first. What Celery is to be shown."""
        if self.run is not None and self.run.finished is not None:
            log.warning("failed_after_finish", error=type(raised).__name__)
            return IGNORED
        error = _in_taxonomy(raised)
        outcome = decide(
            error,
            self.claimed,
            progressed=self.run is not None and self.run.progressed,
            neighbours_succeed=self._neighbours_succeed(error),
            random=random.random,
        )
        self._tell_log(error, outcome)
        try:
            self._tell_gate(outcome)
            written = self._tell_ledger(error, outcome)
        except UNREACHABLE as unreachable:
            # The lease ends by itself, and the scheduler takes the sync over.
            log.warning("outcome_not_written", error=type(unreachable).__name__)
            return IGNORED
        return _signal(error, outcome) if written else IGNORED

    def _neighbours_succeed(self, error: errors.IntegratorError) -> bool:
        if not isinstance(error, errors.Throttled) or self.claimed.throttled + 1 < THROTTLED_LIMIT:
            return False
        with self.here.ledger.read() as connection:
            return access.neighbours_succeed(connection, self.claimed, THROTTLED_LIMIT)

    def _tell_gate(self, outcome: Outcome) -> None:
        if outcome.gate_wait_seconds is None and not outcome.credentials_refused:
            return
        with self.here.ledger.write() as connection:
            if outcome.gate_wait_seconds is not None:
                gate.wait(connection, self.claimed.gate_id, outcome.gate_wait_seconds)
            if outcome.credentials_refused and self.run is not None:
                version = self.run.assignment.credentials_version
                gate.refuse_credentials(connection, self.claimed.gate_id, version)

    def _tell_ledger(self, error: errors.IntegratorError, outcome: Outcome) -> bool:
        failure, sync_id, claim = Failure.of(error), self.claimed.sync_id, self.claimed.claim
        delay, not_before, burns = outcome.delay_seconds, outcome.not_before, outcome.burns
        with self.here.ledger.write() as connection:
            match outcome.verb:
                case Verb.RETRY:
                    return transitions.retry(
                        connection,
                        sync_id,
                        claim,
                        failure,
                        burns=burns or "attempts",
                        delay_seconds=delay,
                        not_before=not_before,
                    )
                case Verb.RELEASE:
                    return transitions.release(
                        connection,
                        sync_id,
                        claim,
                        failure=failure,
                        burns=burns is not None,
                        delay_seconds=delay,
                        not_before=not_before,
                    )
                case Verb.HOLD:
                    return transitions.stop(connection, sync_id, claim, failure, state=State.HELD)
        return False

    def _tell_log(self, error: errors.IntegratorError, outcome: Outcome) -> None:
        log.info(
            "run_ended",
            outcome=outcome.verb.value,
            error_class=error.error_class,
            fingerprint=error.fingerprint,
            side=error.side.value,
            claim=self.claimed.claim,
        )


def _in_taxonomy(raised: Exception) -> errors.IntegratorError:
    if isinstance(raised, errors.IntegratorError):
        return raised
    name = type(raised).__name__
    if isinstance(raised, UNREACHABLE):
        return errors.Transient(f"The ledger failed during the run ({name}).", subject="ledger")
    if isinstance(raised, SecretsError):
        return errors.Transient(str(raised), subject="key ring")
    log.error("unexpected_exception", exc_info=raised)
    return errors.Bug(f"The run failed with {name}.", subject=name)


def _signal(error: errors.IntegratorError, outcome: Outcome) -> Exception:
    """What Celery raises: RETRY for what runs again, FAILURE for what is held (F3). Nothing is published."""
    said = f"{error.error_class} {error.fingerprint}"
    if outcome.verb is Verb.HOLD:
        return Held(said)
    seconds = outcome.delay_seconds
    if outcome.not_before is not None:
        seconds = max((outcome.not_before - datetime.now(UTC)).total_seconds(), 0.0)
    shown: Exception = Retry("runs again later", exc=RetryLater(said), when=round(seconds, 1))
    return shown
