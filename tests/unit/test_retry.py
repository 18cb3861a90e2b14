"""What the ledger does with each failure (PROTOCOL F1, F2)."""

from typing import Any

import pytest

from integrator import errors
from integrator.breaker import Heard, heard
from integrator.errors import IntegratorError, Settling, Side, Transient
from integrator.ledger.records import Claimed
from integrator.plans import DEFAULT, Plan
from integrator.retry import BUG_ATTEMPTS, THROTTLED_LIMIT, Outcome, Verb, backoff, decide
from tests.support import T0


def judge(
    error: IntegratorError,
    *,
    attempts: int = 0,
    throttled: int = 0,
    progressed: bool = False,
    alike: int = 0,
    neighbours: bool = False,
) -> Outcome:
    claimed = Claimed(1, 1, 1, 1, attempts, throttled)
    return decide(
        error,
        claimed,
        progressed=progressed,
        alike=alike,
        neighbours_succeed=neighbours,
        random=lambda: 0.5,
    )


def at_shop(error: IntegratorError) -> IntegratorError:
    error.side = Side.SHOP
    return error


def here(error: IntegratorError) -> IntegratorError:
    error.side = Side.HERE
    return error


def on_trial(error: IntegratorError) -> IntegratorError:
    error.on_trial = True
    return error


def a_look(error: IntegratorError) -> IntegratorError:
    error.burns_attempt = False
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Transient("x"), Outcome(Verb.RETRY, 1.0, burns="attempts")),
        (a_look(Transient("x")), Outcome(Verb.RELEASE, 1.0)),
        (Transient("x", retry_after_seconds=0.5), Outcome(Verb.RETRY, 1.0, burns="attempts")),
        (Transient("x", retry_after_seconds=70), Outcome(Verb.RETRY, 70, burns="attempts")),
        (a_look(Transient("x", retry_after_seconds=70)), Outcome(Verb.RELEASE, 70)),
        (
            Settling("x", not_before=T0, cause=Transient("y", retry_after_seconds=70)),
            Outcome(Verb.RETRY, 70, not_before=T0, burns="attempts"),
        ),
        (
            errors.Throttled("x", retry_after_seconds=7),
            Outcome(Verb.RETRY, 7, burns="throttled", gate_wait_seconds=7),
        ),
        (errors.Throttled("x"), Outcome(Verb.RETRY, 1.0, burns="throttled", gate_wait_seconds=1.0)),
        (
            at_shop(errors.Throttled("x", retry_after_seconds=7)),
            Outcome(Verb.RETRY, 7, burns="throttled"),
        ),
        (errors.Unauthorized("x"), Outcome(Verb.RELEASE, 0, credentials_refused=True)),
        (at_shop(errors.Unauthorized("x")), Outcome(Verb.RELEASE, 900)),
        (errors.Rejected("x"), Outcome(Verb.HOLD)),
        (errors.Unmapped("x"), Outcome(Verb.HOLD)),
        (errors.TotalMismatch("x"), Outcome(Verb.HOLD)),
        (errors.Conflict("x"), Outcome(Verb.HOLD)),
        (errors.NotFound("x"), Outcome(Verb.HOLD)),
        (errors.GateShut("x"), Outcome(Verb.RELEASE)),
        (errors.LeaseLost("x"), Outcome(Verb.ABANDON)),
        (errors.NotStarted("x"), Outcome(Verb.RELEASE, 1.0, burns="attempts")),
        (a_look(errors.NotStarted("x")), Outcome(Verb.RELEASE)),
        (
            errors.Throttled("x", retry_after_seconds=0),
            Outcome(Verb.RETRY, 1.0, burns="throttled", gate_wait_seconds=1.0),
        ),
        (Settling("x", not_before=T0), Outcome(Verb.RELEASE, not_before=T0)),
        (
            Settling("x", not_before=T0, cause=Transient("y")),
            Outcome(Verb.RETRY, not_before=T0, burns="attempts"),
        ),
    ],
)
def test_given_an_error_when_judged_then_the_protocols_outcome(error: IntegratorError, outcome: Outcome) -> None:
    assert judge(error) == outcome


def test_c3_given_a_step_was_applied_when_the_run_is_too_long_then_no_attempt_burns() -> None:
    assert judge(errors.NotStarted("x"), progressed=True) == Outcome(Verb.RELEASE)


@pytest.mark.parametrize(("before", "verb"), [(BUG_ATTEMPTS - 2, Verb.RETRY), (BUG_ATTEMPTS - 1, Verb.HOLD)])
def test_f1_given_bugs_in_a_row_when_it_fails_the_third_time_then_held(before: int, verb: Verb) -> None:
    assert judge(errors.Bug("x"), attempts=9, alike=before).verb is verb


def test_f1_given_looks_that_fail_in_a_row_when_judged_then_the_wait_grows_and_nothing_burns() -> None:
    assert judge(a_look(Transient("x")), alike=4) == Outcome(Verb.RELEASE, 16.0)


def test_f1_given_no_time_to_speak_of_when_throttled_in_a_row_then_the_wait_grows_to_a_minute() -> None:
    waits = [judge(errors.Throttled("x", retry_after_seconds=0), throttled=n).delay_seconds for n in (1, 3, 9)]
    assert waits == [2, 8, 60]


@pytest.mark.parametrize(
    ("before", "neighbours", "verb"),
    [
        (THROTTLED_LIMIT - 2, True, Verb.RETRY),
        (THROTTLED_LIMIT - 1, False, Verb.RETRY),
        (THROTTLED_LIMIT - 1, True, Verb.HOLD),
    ],
)
def test_f1_given_refusals_for_haste_in_a_row_when_only_this_sync_meets_them_then_held(
    before: int, neighbours: bool, verb: Verb
) -> None:
    assert judge(errors.Throttled("x"), throttled=before, neighbours=neighbours).verb is verb


@pytest.mark.parametrize("error", [Transient("x"), Settling("x", not_before=T0, cause=Transient("y"))])
@pytest.mark.parametrize(("attempts", "verb"), [(10, Verb.RETRY), (11, Verb.GIVE_UP), (500, Verb.GIVE_UP)])
def test_f1_given_failures_behind_an_open_gate_when_it_fails_the_twelfth_time_then_dead(
    error: IntegratorError, attempts: int, verb: Verb
) -> None:
    assert judge(error, attempts=attempts).verb is verb


def test_f1_given_the_call_on_trial_when_it_fails_then_it_burns_nothing_and_waits_for_its_gate_only() -> None:
    assert judge(on_trial(Transient("x")), attempts=500, alike=30) == Outcome(Verb.RELEASE)


@pytest.mark.parametrize("error", [at_shop(Transient("x")), here(Transient("x")), a_look(Transient("x"))])
@pytest.mark.parametrize("attempts", [12, 500])
def test_given_an_outage_of_the_shop_or_our_own_or_a_look_when_it_lasts_then_it_never_ends_in_dead(
    error: IntegratorError, attempts: int
) -> None:
    outcome = judge(error, attempts=attempts)
    assert outcome.verb in {Verb.RETRY, Verb.RELEASE}
    assert outcome.delay_seconds <= DEFAULT.retry_longest_seconds


@pytest.mark.parametrize(("failures", "ceiling"), [(0, 2), (1, 4), (5, 64), (11, 3600), (10_000, 3600)])
def test_f1_given_failures_when_backing_off_then_full_jitter_up_to_the_doubled_ceiling(
    failures: int, ceiling: float
) -> None:
    assert [backoff(failures, iter([share]).__next__) for share in (0.0, 0.5, 1.0)] == [0, ceiling / 2, ceiling]


def test_given_a_plan_with_its_own_waits_when_backing_off_then_they_are_kept() -> None:
    plan = Plan(retry_first_seconds=10, retry_longest_seconds=60)
    assert [backoff(failures, lambda: 1.0, plan) for failures in range(4)] == [10, 20, 40, 60]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.RateLimited("x", wait_seconds=0.3, plan_version=4), {"over_plan": 0.3, "plan_version": 4}),
        (errors.RateLimited("x", wait_seconds=0.3), {"delay_seconds": 0.3}),
        (errors.QuotaUsedUp("x", resumes_at=T0, plan_version=4), {"over_plan": T0, "plan_version": 4}),
        (errors.QuotaUsedUp("x", resumes_at=T0, for_all=False), {"not_before": T0}),
    ],
)
def test_given_what_the_plan_does_not_allow_when_judged_then_it_waits_and_burns_nothing(
    error: IntegratorError, outcome: dict[str, Any]
) -> None:
    assert judge(error) == Outcome(Verb.RELEASE, **outcome)
    assert heard(error) is Heard.NOTHING
