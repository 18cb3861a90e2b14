"""How a run ends: its error judged, the gate and the ledger told, and Celery shown a state that says no more."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from celery.exceptions import Ignore, Retry
from sqlalchemy import Connection

from integrator import errors, gate
from integrator.clock import boottime
from integrator.lease import Lease
from integrator.ledger import access, transitions
from integrator.ledger.engine import UNREACHABLE
from integrator.ledger.records import Claimed, Failure
from integrator.ledger.schema import State
from integrator.logs import get_logger, sentence
from integrator.metrics import ATTEMPTS, DONE_SECONDS, UNKNOWN, meters
from integrator.plans import DEFAULT
from integrator.retry import GIVEN_UP, THROTTLED_LIMIT, Outcome, Verb, decide
from integrator.secrets import SecretsError
from integrator.sync.run import Run, while_leased
from tasks.process import Process

log = get_logger(__name__)

T = TypeVar("T")


class Held(Exception):
    """A sync that a person must look at: error class and fingerprint, never the error's own text."""


class RetryLater(Exception):
    """Why a sync runs again later: error class and fingerprint, never the error's own text."""


class Broken(Exception):
    """A task that failed outside its run: the class of what was raised, never its text."""


@dataclass
class End:
    """The end of one run. `run` is there once the assignment could be read."""

    here: Process
    claimed: Claimed
    lease: Lease
    run: Run | None = None
    began: float = field(default_factory=boottime)

    def succeed(self, run: Run) -> None:
        """The block returned: it must have finished the sync. Raises Bug when it did not."""
        if run.finished is None:
            raise errors.Bug("A sync's run returned without finishing it.", subject="unfinished")
        self._count(run.finished, "none")
        self.here.pace.ran(self.claimed.gate_id, boottime() - self.began)
        if run.finished == State.DONE:
            seconds = self.claimed.waited_seconds + boottime() - self.began
            meters().observe(DONE_SECONDS, seconds, kind=run.assignment.kind)
        self._tell_of_good_credentials()

    def fail(self, raised: Exception) -> Exception:
        """Judge what was raised and commit it, the gate's part first. What Celery is to be shown."""
        if self.run is not None and self.run.finished is not None:
            log.warning("failed_after_finish", error=type(raised).__name__)
            return _not_ours()
        error = _in_taxonomy(raised)
        try:
            outcome = self._judge(error)
            self._tell_log(error, outcome)
            self._tell_of_good_credentials()
            self._tell_gate(outcome)
            written = self._tell_ledger(error, outcome)
            self._count(outcome.verb.value, error.error_class)
        except UNREACHABLE as unreachable:
            # The lease ends by itself, and the scheduler takes the sync over.
            log.warning("outcome_not_written", error=type(unreachable).__name__)
            return _not_ours()
        return _signal(error, outcome) if written else _not_ours()

    def _judge(self, error: errors.IntegratorError) -> Outcome:
        if isinstance(error, errors.NotStarted) and self.here.leases.draining:
            return Outcome(Verb.RELEASE)  # that this process shuts down is no failure of the sync
        return decide(
            error,
            self.claimed,
            progressed=self.run is not None and self.run.progressed,
            alike=self._write(lambda c: access.ended_alike(c, self.claimed.sync_id, error.error_class)),
            neighbours_succeed=self._neighbours_succeed(error),
            random=random.random,
            plan=self.run.assignment.plan if self.run is not None else DEFAULT,
        )

    def _neighbours_succeed(self, error: errors.IntegratorError) -> bool:
        if not isinstance(error, errors.Throttled) or self.claimed.throttled + 1 < THROTTLED_LIMIT:
            return False
        with self.here.ledger.read() as connection:
            return access.neighbours_succeed(connection, self.claimed, THROTTLED_LIMIT)

    def _tell_of_good_credentials(self) -> None:
        """Only an answer that took them ends their trial (F2), whatever became of the sync."""
        run, gate_id = self.run, self.claimed.gate_id
        if run is not None and run.authorized and run.assignment.on_trial:
            version = run.assignment.credentials_version
            self._write(lambda connection: gate.accept_credentials(connection, gate_id, version))

    def _tell_gate(self, outcome: Outcome) -> None:
        gate_id = self.claimed.gate_id
        if (seconds := outcome.gate_wait_seconds) is not None:
            self._write(lambda connection: gate.wait(connection, gate_id, seconds))
        if (until := outcome.over_plan) is not None:
            version = outcome.plan_version
            self._write(lambda connection: gate.wait_for_plan(connection, gate_id, until, version))
            if not isinstance(until, datetime):
                self.here.dispatcher.request(gate_id, after_seconds=until)
        if outcome.credentials_refused and self.run is not None:
            version = self.run.assignment.credentials_version
            if self._write(lambda connection: gate.refuse_credentials(connection, gate_id, version)):
                log.warning("credentials_refused", erp=self.run.assignment.erp, do=errors.Unauthorized.remedy)

    def _tell_ledger(self, error: errors.IntegratorError, outcome: Outcome) -> bool:
        failure = Failure.of(error)
        if outcome.verb is Verb.GIVE_UP:
            failure = replace(failure, remedy=GIVEN_UP)
        sync_id, claim = self.claimed.sync_id, self.claimed.claim
        when: dict[str, Any] = {"delay_seconds": outcome.delay_seconds, "not_before": outcome.not_before}
        burns = outcome.burns
        match outcome.verb:
            case Verb.RETRY:
                return self._write(
                    lambda c: transitions.retry(c, sync_id, claim, failure, burns=burns or "attempts", **when)
                )
            case Verb.RELEASE:
                return self._write(
                    lambda c: transitions.release(
                        c, sync_id, claim, failure=failure, burns=burns is not None, **when
                    )
                )
            case Verb.HOLD | Verb.GIVE_UP:
                state = State(outcome.verb.value)
                return self._write(lambda c: transitions.stop(c, sync_id, claim, failure, state=state))
        return False

    def _write(self, transaction: Callable[[Connection], T]) -> T:
        return while_leased(self.here.ledger.write, self.lease, transaction)

    def _count(self, outcome: str, error_class: str) -> None:
        kind = self.run.assignment.kind if self.run is not None else UNKNOWN
        meters().count(ATTEMPTS, kind=kind, outcome=outcome, error_class=error_class)

    def _tell_log(self, error: errors.IntegratorError, outcome: Outcome) -> None:
        log.info(
            "run_ended",
            outcome=outcome.verb.value,
            error_class=error.error_class,
            fingerprint=error.fingerprint,
            reason=sentence(error.message),
            side=error.side.value,
            claim=self.claimed.claim,
        )


def _in_taxonomy(raised: Exception) -> errors.IntegratorError:
    if isinstance(raised, errors.IntegratorError):
        return raised
    name = type(raised).__name__
    if isinstance(raised, UNREACHABLE):
        return _here(errors.Transient(f"The ledger failed during the run ({name}).", subject="ledger"))
    if isinstance(raised, SecretsError):
        return _here(errors.Transient(str(raised), subject="key ring"))
    log.error("unexpected_exception", exc_info=raised)
    return errors.Bug(f"The run failed with {name}.", subject=name)


def _here(error: errors.IntegratorError) -> errors.IntegratorError:
    error.side = errors.Side.HERE
    return error


def _not_ours() -> Exception:
    """What Celery is shown when somebody else holds the sync, or will take it over."""
    shown: Exception = Ignore()
    return shown


def _signal(error: errors.IntegratorError, outcome: Outcome) -> Exception:
    """What Celery raises: RETRY for what runs again, FAILURE for what is held (F3). Nothing is published."""
    said = f"{error.error_class} {error.fingerprint}"
    if outcome.verb in {Verb.HOLD, Verb.GIVE_UP}:
        return Held(said)
    seconds = outcome.delay_seconds
    if outcome.not_before is not None:
        seconds = max((outcome.not_before - datetime.now(UTC)).total_seconds(), seconds)
    shown: Exception = Retry("runs again later", exc=RetryLater(said), when=round(seconds, 1))
    return shown
