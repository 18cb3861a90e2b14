"""How many syncs of a gate may be in flight (P6): a formula, and the percentile that goes into it."""

import pytest

from integrator.gate import window
from integrator.pace import p95


@pytest.mark.parametrize(
    ("cap", "per_second", "run_seconds", "places"),
    [
        (8, 10, None, 8),
        (8, 10, 0.0, 2),
        (8, 10, 0.01, 3),
        (8, 10, 0.2, 4),
        (8, 10, 0.55, 8),
        (8, 10, 60, 8),
        (100, 10, 5, 52),
        (8, 0.01, 90, 3),
        (8, 10_000, 0.05, 8),
        (1, 10, 0.2, 1),
    ],
)
def test_given_a_plan_and_its_runs_when_asked_then_what_the_rate_can_use_and_two_but_never_over_the_cap(
    cap: int, per_second: float, run_seconds: float | None, places: int
) -> None:
    assert window(cap, per_second, run_seconds, on_trial=False) == places
    assert window(cap, per_second, run_seconds, on_trial=True) == 1


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([3.0], 3.0), ([1.0, 2.0], 2.0), ([float(n) for n in range(20, 0, -1)], 19.0), ([1.0] * 19 + [9.0], 1.0)],
)
def test_given_seconds_when_asked_then_their_95th_percentile(seconds: list[float], expected: float) -> None:
    assert p95(seconds) == expected
