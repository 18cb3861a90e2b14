"""The circuit breaker of a gate: a pure function from a state and what was heard to the next state (PROTOCOL G2).

Closed, calls go out, and failures in a row are counted; any answer ends the row. Open, none goes out until a time.
From then on it is half open: one sync has the only place, and what its call hears closes the breaker or opens it
again, for longer. Whoever else comes back meanwhile with the outcome of an older call changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from integrator import errors
from integrator.clock import EPOCH
from integrator.ledger.leases import RUN_SECONDS

Holder = tuple[int, int]
"""A sync's id and the number of its claim."""

ALIVE = (errors.Rejected, errors.Unmapped, errors.TotalMismatch, errors.NotFound, errors.Conflict)
"""What only a system that is alive can say."""

JITTER = 0.1
"""The part of itself by which an open time is longer at most, so that tenants of a system don't try it at once."""


class BreakerState(StrEnum):
    """Whether calls go out. One that is `open` and whose time has passed is as good as half open."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Heard(StrEnum):
    """What a run learnt of the management system.

    `answered`: it is alive, whatever it said. `nothing`: no call was made, or its end says nothing of the system.
    `vanished`: the run was taken back in the middle.
    """

    ANSWERED = "answered"
    FAILED = "failed"
    NOTHING = "nothing"
    VANISHED = "vanished"


@dataclass(frozen=True)
class Thresholds:
    """When a breaker opens, and for how long (the settings `INTEGRATOR_BREAKER_…`).

    `failures`: in a row, until it opens. `seconds`: how long at first; it doubles each time, up to
    `longest_seconds`. Closed for that long, it begins anew with `seconds`.
    """

    failures: int = 5
    seconds: float = 15.0
    longest_seconds: float = 300.0


@dataclass(frozen=True)
class Breaker:
    """A breaker as the gate's row has it.

    `failures`: calls that failed in a row while closed. `trips`: how often it opened in a row. `since`: when it
    got into its state. `until`: when an open one may be tried. `probe` has the only place, at most until
    `probe_until`.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    trips: int = 0
    since: datetime = EPOCH
    until: datetime = EPOCH
    probe: Holder | None = None
    probe_until: datetime | None = None

    @property
    def closed(self) -> bool:
        """Whether calls go out as the gate lets them."""
        return self.state is BreakerState.CLOSED

    def taken(self, now: datetime) -> bool:
        """Whether somebody has the only place."""
        return self.probe is not None and self.probe_until is not None and self.probe_until > now


def heard(error: errors.IntegratorError | None) -> Heard:
    """What the end of a call to the management system says of it; None is a good answer.

    Only Transient and Unauthorized count against it: who refuses an order is alive. Being asked to wait is
    neither, since the gate waits for that long anyway and a system that struggles should not meet a full window
    then; nor is a call that never left, or a failure of our own.
    """
    if isinstance(error, (errors.Transient, errors.Unauthorized)):
        return Heard.FAILED
    return Heard.ANSWERED if error is None or isinstance(error, ALIVE) else Heard.NOTHING


def next_state(
    breaker: Breaker,
    outcome: Heard,
    now: datetime,
    by: Holder,
    thresholds: Thresholds,
    random: Callable[[], float],
) -> Breaker:
    """The state after `by` has heard this. Pure, but for `random`, which gives 0 to 1."""
    if breaker.closed:
        return _counted(breaker, outcome, now, thresholds, random)
    if breaker.probe != by:
        return breaker
    match outcome:
        case Heard.ANSWERED:
            return Breaker(trips=breaker.trips, since=now)
        case Heard.FAILED | Heard.VANISHED:
            return _opened(breaker.trips, now, thresholds, random)
    return replace(breaker, probe=None, probe_until=None)


def _counted(
    breaker: Breaker, outcome: Heard, now: datetime, thresholds: Thresholds, random: Callable[[], float]
) -> Breaker:
    if outcome is Heard.ANSWERED:
        return replace(breaker, failures=0)
    if outcome is not Heard.FAILED:
        return breaker
    if breaker.failures + 1 < thresholds.failures:
        return replace(breaker, failures=breaker.failures + 1)
    steady = now - breaker.since >= timedelta(seconds=thresholds.longest_seconds)
    return _opened(0 if steady else breaker.trips, now, thresholds, random)


def _opened(trips: int, now: datetime, thresholds: Thresholds, random: Callable[[], float]) -> Breaker:
    seconds = min(thresholds.seconds * 2.0 ** min(trips, 30), thresholds.longest_seconds)
    until = now + timedelta(seconds=seconds * (1 + random() * JITTER))
    return Breaker(BreakerState.OPEN, trips=trips + 1, since=now, until=until)


def take_place(breaker: Breaker, by: Holder, now: datetime) -> Breaker:
    """The state after `by` asked for the only place; unchanged when there is none to have, or it has it already.

    The place ends by itself when the longest run does, should nobody say that its holder is gone.
    """
    if breaker.closed or breaker.until > now or breaker.taken(now):
        return breaker
    since = breaker.since if breaker.state is BreakerState.HALF_OPEN else now
    until = now + timedelta(seconds=RUN_SECONDS)
    return replace(breaker, state=BreakerState.HALF_OPEN, since=since, probe=by, probe_until=until)


def may_call(breaker: Breaker, by: Holder) -> bool:
    """Whether `by` may call: the breaker is closed, or half open and `by` has the place."""
    return breaker.closed or (breaker.state is BreakerState.HALF_OPEN and breaker.probe == by)
