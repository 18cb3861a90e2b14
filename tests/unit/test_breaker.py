"""The breaker as a pure function (PROTOCOL G2), and what it makes of an outage of six hours (F1)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrator import errors
from integrator.breaker import (
    JITTER,
    Breaker,
    BreakerState,
    Heard,
    Thresholds,
    heard,
    may_call,
    next_state,
    take_place,
)
from integrator.clock import EPOCH
from integrator.ledger.leases import RUN_SECONDS
from integrator.ledger.records import Claimed
from integrator.retry import ATTEMPTS, Verb, decide
from tests.support import T0

THRESHOLDS = Thresholds()
ME, OTHER, THIRD = (1, 1), (1, 2), (2, 1)
HOLDERS = (ME, OTHER, THIRD)
"""Claims of two syncs; a claim's number alone says little."""


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def after(
    breaker: Breaker, outcome: Heard, by: tuple[int, int] = ME, *, seconds: float = 0, share: float = 0.0
) -> Breaker:
    return next_state(breaker, outcome, at(seconds), by, THRESHOLDS, lambda: share)


def opened(*, trips: int = 1, seconds: float = 0) -> Breaker:
    return Breaker(BreakerState.OPEN, trips=trips, since=at(seconds), until=at(seconds + 15))


def half_open(*, trips: int = 1, by: tuple[int, int] = ME) -> Breaker:
    return take_place(opened(trips=trips), by, at(15))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Heard.ANSWERED),
        (errors.Transient("x"), Heard.FAILED),
        (errors.Unauthorized("x"), Heard.FAILED),
        (errors.Rejected("x"), Heard.ANSWERED),
        (errors.Unmapped("x"), Heard.ANSWERED),
        (errors.NotFound("x"), Heard.ANSWERED),
        (errors.Conflict("x"), Heard.ANSWERED),
        (errors.TotalMismatch("x"), Heard.ANSWERED),
        (errors.Throttled("x"), Heard.NOTHING),
        (errors.Bug("x"), Heard.NOTHING),
        (errors.NotStarted("x"), Heard.NOTHING),
        (errors.LeaseLost("x"), Heard.NOTHING),
        (errors.IntegratorError("a class of a connector's own"), Heard.NOTHING),
    ],
)
def test_g2_given_the_end_of_a_call_when_judged_then_only_transient_and_unauthorized_are_failures(
    error: errors.IntegratorError | None, outcome: Heard
) -> None:
    assert heard(error) is outcome


def test_given_failures_in_a_row_when_the_last_comes_then_it_opens_for_the_first_time() -> None:
    breaker = Breaker()
    for number in range(1, THRESHOLDS.failures):
        breaker = after(breaker, Heard.FAILED)
        assert breaker == Breaker(failures=number)
    assert after(breaker, Heard.FAILED) == opened()


@pytest.mark.parametrize("outcome", [Heard.ANSWERED, Heard.NOTHING, Heard.VANISHED])
def test_given_failures_when_something_else_is_heard_then_only_an_answer_ends_the_row(outcome: Heard) -> None:
    breaker = Breaker(failures=4)
    assert after(breaker, outcome) == (Breaker() if outcome is Heard.ANSWERED else breaker)


@pytest.mark.parametrize(
    ("trips", "seconds"), [(0, 15), (1, 30), (2, 60), (3, 120), (4, 240), (5, 300), (6, 300), (9_999, 300)]
)
def test_given_it_opened_before_when_it_opens_again_then_twice_as_long_up_to_the_longest(
    trips: int, seconds: float
) -> None:
    probed = replace(half_open(), trips=trips)
    assert after(probed, Heard.FAILED, seconds=20).until == at(20 + seconds)
    assert after(probed, Heard.FAILED, seconds=20, share=1.0).until == at(20 + seconds * (1 + JITTER))


@pytest.mark.parametrize(("seconds", "trips"), [(299, 5), (300, 1)])
def test_given_it_was_closed_for_the_longest_time_when_it_opens_then_it_begins_anew(
    seconds: float, trips: int
) -> None:
    closed = Breaker(failures=THRESHOLDS.failures - 1, trips=4, since=T0)
    assert after(closed, Heard.FAILED, seconds=seconds).trips == trips


@pytest.mark.parametrize("outcome", Heard)
def test_given_an_older_call_comes_back_while_not_closed_when_told_then_nothing_changes(outcome: Heard) -> None:
    for breaker in (opened(), half_open()):
        assert after(breaker, outcome, OTHER, seconds=1_000) == breaker
        assert after(breaker, outcome, THIRD, seconds=1_000) == breaker


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Heard.ANSWERED, Breaker(trips=1, since=at(20))),
        (Heard.FAILED, Breaker(BreakerState.OPEN, trips=2, since=at(20), until=at(50))),
        (Heard.VANISHED, Breaker(BreakerState.OPEN, trips=2, since=at(20), until=at(50))),
        (
            Heard.NOTHING,
            Breaker(BreakerState.HALF_OPEN, trips=1, since=at(15), until=at(15)),
        ),
    ],
)
def test_g2_given_the_one_probe_when_it_ends_then_closed_or_open_again_or_its_place_free(
    outcome: Heard, state: Breaker
) -> None:
    assert after(half_open(), outcome, seconds=20) == state


def test_g2_given_a_half_open_breaker_when_two_ask_then_one_has_the_place_until_its_longest_end() -> None:
    breaker = half_open()
    assert may_call(breaker, ME)
    for seconds in (15, 15 + RUN_SECONDS - 1):
        assert take_place(breaker, OTHER, at(seconds)) == breaker
    later = take_place(breaker, OTHER, at(15 + RUN_SECONDS))
    assert may_call(later, OTHER)
    assert not may_call(later, ME)
    assert later.since == breaker.since


def test_given_an_open_breaker_when_asked_before_its_time_then_there_is_no_place() -> None:
    assert take_place(opened(), ME, at(14)) == opened()
    assert not may_call(opened(), ME)
    assert take_place(Breaker(), ME, T0) == Breaker()


History = list[tuple[Heard | str, tuple[int, int], float, float]]

events = st.lists(
    st.tuples(
        st.sampled_from([*Heard, "asks"]),
        st.sampled_from(HOLDERS),
        st.floats(0, 400, allow_nan=False),
        st.floats(0, 1, allow_nan=False),
    ),
    max_size=60,
)


@dataclass(frozen=True)
class Moment:
    """One event of a history: who, when, and the breaker before and after it."""

    by: tuple[int, int]
    now: datetime
    before: Breaker
    breaker: Breaker


def follow(history: History) -> Iterator[Moment]:
    breaker, now = Breaker(), T0
    for what, by, seconds, share in history:
        now += timedelta(seconds=seconds)
        before = breaker
        if isinstance(what, Heard):
            breaker = next_state(breaker, what, now, by, THRESHOLDS, iter([share]).__next__)
        else:
            breaker = take_place(breaker, by, now)
        yield Moment(by, now, before, breaker)


@given(events)
def test_g2_given_any_history_when_followed_then_at_most_one_may_call_and_never_while_open(
    history: History,
) -> None:
    for one in follow(history):
        sound(one.breaker)
        callers = [holder for holder in HOLDERS if may_call(one.breaker, holder)]
        assert len(callers) <= 1 or one.breaker.closed
        if one.before.state is BreakerState.OPEN and one.now < one.before.until:
            assert one.breaker == one.before, "nothing changes an open one before its time"
        if one.before.taken(one.now) and one.before.probe != one.by:
            assert one.breaker == one.before, "only the probe ends a trial"
        if one.breaker.state is BreakerState.OPEN and one.before != one.breaker:
            longest = timedelta(seconds=THRESHOLDS.longest_seconds * (1 + JITTER))
            assert one.now < one.breaker.until <= one.now + longest


def sound(breaker: Breaker) -> None:
    """What holds of each state."""
    assert (breaker.probe is None) == (breaker.probe_until is None)
    match breaker.state:
        case BreakerState.CLOSED:
            assert breaker.failures < THRESHOLDS.failures
            assert (breaker.until, breaker.probe) == (EPOCH, None)
        case BreakerState.OPEN:
            assert breaker.probe is None
            assert breaker.trips > 0
        case BreakerState.HALF_OPEN:
            assert breaker.until <= breaker.since


@given(events)
def test_given_any_history_when_the_system_answers_from_now_on_then_it_is_closed_within_its_longest_time(
    history: History,
) -> None:
    last = Moment(ME, T0, Breaker(), Breaker())
    for one in follow(history):
        last = one
    now = last.now + timedelta(seconds=max(THRESHOLDS.longest_seconds * (1 + JITTER), RUN_SECONDS))
    newcomer = (3, 1)
    breaker = take_place(last.breaker, newcomer, now)
    assert may_call(breaker, newcomer)
    assert next_state(breaker, Heard.ANSWERED, now, newcomer, THRESHOLDS, lambda: 0.0).closed


@given(st.lists(st.booleans(), max_size=200))
def test_given_a_trickle_of_failures_between_answers_when_it_lasts_then_it_never_opens(
    answers: list[bool],
) -> None:
    breaker, row = Breaker(), 0
    for number, good in enumerate(answers):
        row = 0 if good or row == THRESHOLDS.failures - 1 else row + 1
        breaker = after(breaker, Heard.FAILED if row else Heard.ANSWERED, seconds=number * 60.0)
        assert breaker == Breaker(failures=row)


@dataclass
class Order:
    """One order of the simulated tenant."""

    due: float = 0.0
    attempts: int = 0
    alike: int = 0
    ends: float | None = None
    state: str = "pending"


class Outage:
    """One gate in virtual time: its window, its breaker, the ledger's judgement; no database.

    The system is down until `recovers`: a call fails after `takes` seconds until then, and is answered after
    `answers_take` from then on. A round is a second, as the scheduler's.
    """

    def __init__(self, orders: int, *, recovers: float, takes: float, window: int = 8) -> None:
        self.orders = [Order() for _ in range(orders)]
        self.recovers, self.takes, self.window = recovers, takes, window
        self.breaker = Breaker()
        self.now = 0.0
        self.calls, self.probes, self.most_at_once = 0, 0, 0
        self.answers_take = 0.0

    def run(self, until: float) -> None:
        while self.now < until and any(one.state != "done" for one in self.orders):
            self.end_calls()
            self.start_calls()
            waits = self.breaker.state is BreakerState.OPEN and not self.flying()
            opens = (self.breaker.until - T0).total_seconds()
            self.now = max(self.now + 1, min(opens, until) if waits else 0)

    def flying(self) -> list[Order]:
        return [one for one in self.orders if one.ends is not None]

    def end_calls(self) -> None:
        for order in self.flying():
            assert order.ends is not None
            if order.ends <= self.now:
                self.end(order)

    def end(self, order: Order) -> None:
        failed = self.now < self.recovers
        by = (self.orders.index(order), 1)
        on_trial = not self.breaker.closed and self.breaker.probe == by
        outcome = Heard.FAILED if failed else Heard.ANSWERED
        self.breaker = next_state(self.breaker, outcome, at(self.now), by, THRESHOLDS, lambda: 0.0)
        order.ends = None
        if not failed:
            order.state = "done"
            return
        error = errors.Transient("down")
        error.on_trial = on_trial
        judged = decide(
            error,
            Claimed(1, 1, 1, 1, order.attempts, 0),
            progressed=False,
            alike=order.alike,
            neighbours_succeed=False,
            random=lambda: 0.5,
        )
        order.alike += 1
        order.attempts += judged.burns == "attempts"
        order.state = "dead" if judged.verb is Verb.GIVE_UP else "pending"
        order.due = self.now + judged.delay_seconds

    def start_calls(self) -> None:
        if self.breaker.until > at(self.now):
            return
        room = (self.window if self.breaker.closed else 1) - len(self.flying())
        due = [one for one in self.orders if one.state == "pending" and one.ends is None and one.due <= self.now]
        for order in sorted(due, key=lambda one: one.due)[: max(room, 0)]:
            by = (self.orders.index(order), 1)
            self.breaker = take_place(self.breaker, by, at(self.now))
            if may_call(self.breaker, by):
                self.calls += 1
                self.probes += not self.breaker.closed
                order.ends = self.now + (self.takes if self.now < self.recovers else self.answers_take)
        self.most_at_once = max(self.most_at_once, len(self.flying()))


SIX_HOURS = 6 * 3_600.0


def allowed_probes(seconds: float) -> int:
    """How many the open times leave room for."""
    count, passed, wait = 0, 0.0, THRESHOLDS.seconds
    while passed + wait <= seconds:
        count, passed, wait = count + 1, passed + wait, min(2 * wait, THRESHOLDS.longest_seconds)
    return count


@pytest.mark.parametrize("takes", [0.0, 15.0], ids=["refused", "no answer in time"])
@pytest.mark.parametrize("orders", [1, 3, 40])
def test_f1_given_six_hours_of_outage_when_it_ends_then_nothing_is_dead_and_all_are_done_within_minutes(
    orders: int, takes: float
) -> None:
    outage = Outage(orders, recovers=SIX_HOURS, takes=takes)
    outage.run(SIX_HOURS)
    assert outage.probes <= allowed_probes(SIX_HOURS)
    assert outage.calls - outage.probes <= THRESHOLDS.failures - 1 + outage.window
    assert sum(one.attempts for one in outage.orders) <= THRESHOLDS.failures - 1 + outage.window
    assert max(one.attempts for one in outage.orders) <= THRESHOLDS.failures < ATTEMPTS
    assert {one.state for one in outage.orders} == {"pending"}
    outage.run(SIX_HOURS + THRESHOLDS.longest_seconds + 2 * takes + orders)
    assert {one.state for one in outage.orders} == {"done"}


def test_given_it_recovers_when_the_probe_is_answered_then_the_window_is_whole_again() -> None:
    outage = Outage(40, recovers=600, takes=0.0)
    outage.run(600)
    assert outage.most_at_once == outage.window  # before it had opened
    outage.most_at_once, outage.answers_take = 0, 5.0
    outage.run(2_000)
    assert outage.most_at_once == outage.window
    assert {one.state for one in outage.orders} == {"done"}
