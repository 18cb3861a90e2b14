"""What the ledger does with a failure: a pure function from the error and the counters to an outcome (F1, F2)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from integrator import errors
from integrator.gate import CREDENTIALS_PROBE_SECONDS
from integrator.ledger.records import Claimed
from integrator.plans import DEFAULT, Plan

ATTEMPTS = 12
"""A sync whose calls to the management system failed this often, while its gate was open, is dead (F1)."""

GIVEN_UP = (
    "The system failed for this sync again and again, while its gate was open: look at what it said with "
    "`celery -A tasks syncs show --detail`, mend that, then `celery -A tasks syncs requeue`."
)
"""What a person does about a dead sync."""

BUG_ATTEMPTS = 3
"""A failure of our own code is tried this often: the third time in a row it is held."""

THROTTLED_LIMIT = 20
"""Refusals for haste in a row, while other syncs of the gate succeed, until a person must look (F1)."""

THROTTLED_SECONDS = 1.0
THROTTLED_LONGEST_SECONDS = 60.0
"""The first and the longest wait when a system says "too fast" without a time, or with none to speak of."""


class Verb(StrEnum):
    """What becomes of the sync."""

    RETRY = "retrying"
    RELEASE = "pending"
    HOLD = "held"
    GIVE_UP = "dead"
    ABANDON = "abandoned"
    """Somebody else holds it: write nothing."""


@dataclass(frozen=True)
class Outcome:
    """The sync's next state, when it is due, which counter rises, and what the gate learns.

    With `not_before`, a time that the ledger knows, the later of the two counts. `gate_wait_seconds` shuts the
    gate for a while; `credentials_refused` until new ones are stored; `over_plan` until a time, or for seconds, if
    the plan is still of that version.
    """

    verb: Verb
    delay_seconds: float = 0.0
    not_before: datetime | None = None
    burns: str | None = None
    gate_wait_seconds: float | None = None
    credentials_refused: bool = False
    over_plan: datetime | float | None = None
    plan_version: int = 0


def backoff(failures: int, random: Callable[[], float], plan: Plan = DEFAULT) -> float:
    """Seconds to wait after so many failures before: full jitter, capped. `random` gives 0 to 1."""
    ceiling: float = min(plan.retry_longest_seconds, plan.retry_first_seconds * 2.0 ** min(failures, 30))
    return random() * ceiling


def decide(  # noqa: C901, PLR0911 - one class of error a case
    error: errors.IntegratorError,
    claimed: Claimed,
    *,
    progressed: bool,
    alike: int,
    neighbours_succeed: bool,
    random: Callable[[], float],
    plan: Plan = DEFAULT,
) -> Outcome:
    """Judge one failed run. Pure, but for `random`.

    `progressed`: a step was applied in it. `alike`: how many runs in a row before it ended so.
    `neighbours_succeed`: other syncs of the gate were done meanwhile. The call by which a half-open breaker tries
    the system burns no attempt and waits for nothing but its gate: so an outage kills nothing, however long. No
    breaker stands before a shop, so that its failures, and our own, are tried for ever.
    """
    wait = backoff(claimed.attempts, random, plan)
    match error:
        case errors.LeaseLost():
            return Outcome(Verb.ABANDON)
        case errors.GateShut():
            return Outcome(Verb.RELEASE)
        case errors.RateLimited() | errors.QuotaUsedUp():
            return _over_plan(error)
        case errors.NotStarted() if progressed or not error.burns_attempt:
            return Outcome(Verb.RELEASE)
        case errors.NotStarted():
            return Outcome(Verb.RELEASE, wait, burns="attempts")
        case errors.Transient() | errors.Settling():
            return _passing(error, claimed, wait, backoff(alike, random, plan))
        case errors.Throttled():
            return _throttled(error, claimed, neighbours_succeed)
        case errors.Unauthorized():
            at_shop = error.side is errors.Side.SHOP
            delay = CREDENTIALS_PROBE_SECONDS if at_shop else 0
            return Outcome(Verb.RELEASE, delay, credentials_refused=not at_shop)
        case errors.Bug() if alike + 1 < BUG_ATTEMPTS:
            return Outcome(Verb.RETRY, wait, burns="attempts")
    return Outcome(Verb.HOLD)


def _passing(
    error: errors.Transient | errors.Settling, claimed: Claimed, wait: float, look_again: float
) -> Outcome:
    """What may pass by itself, not before the time that was asked for.

    A look burns no attempt, nor does a call on trial; that waits for its gate only.
    """
    failed = error.cause if isinstance(error, errors.Settling) else error
    asked = (failed.retry_after_seconds if failed else None) or 0.0
    last = error.side is errors.Side.ERP and claimed.attempts + 1 >= ATTEMPTS
    match error:
        case errors.Settling(cause=None):
            return Outcome(Verb.RELEASE, not_before=error.not_before)
        case errors.Transient(on_trial=True):
            return Outcome(Verb.RELEASE)
        case errors.Transient(burns_attempt=False):
            return Outcome(Verb.RELEASE, max(look_again, asked))
        case _ if last:
            return Outcome(Verb.GIVE_UP)
        case errors.Settling():
            return Outcome(Verb.RETRY, asked, not_before=error.not_before, burns="attempts")
    return Outcome(Verb.RETRY, max(wait, asked), burns="attempts")


def _over_plan(error: errors.RateLimited | errors.QuotaUsedUp) -> Outcome:
    """Wait for the plan: the gate shuts for all, unless only a share is used up, or it is a shop's rate."""
    match error:
        case errors.QuotaUsedUp(for_all=True):
            return Outcome(Verb.RELEASE, over_plan=error.resumes_at, plan_version=error.plan_version)
        case errors.QuotaUsedUp():
            return Outcome(Verb.RELEASE, not_before=error.resumes_at)
        case errors.RateLimited(plan_version=None):
            return Outcome(Verb.RELEASE, error.wait_seconds)
    return Outcome(Verb.RELEASE, over_plan=error.wait_seconds, plan_version=error.plan_version or 0)


def _throttled(error: errors.Throttled, claimed: Claimed, neighbours_succeed: bool) -> Outcome:
    if claimed.throttled + 1 >= THROTTLED_LIMIT and neighbours_succeed:
        return Outcome(Verb.HOLD)
    seconds = error.retry_after_seconds or 0
    if seconds < THROTTLED_SECONDS:
        seconds = min(THROTTLED_SECONDS * 2.0**claimed.throttled, THROTTLED_LONGEST_SECONDS)
    gate = None if error.side is errors.Side.SHOP else seconds
    return Outcome(Verb.RETRY, seconds, burns="throttled", gate_wait_seconds=gate)
