"""Plans: what a rate and a day mean, and what people may write."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.parts import tenants
from integrator.plans import Plan, PlanFile, Purpose, Rate, block, cold, day, next_place, used_up

ROOT = Path(__file__).parents[2]
RATES = st.builds(Rate, st.sampled_from([0.5, 1.0, 3.0, 10.0, 333.0, 10_000.0]), st.integers(1, 50))


@given(RATES, st.lists(st.integers(0, 400_000), min_size=1, max_size=60))
def test_given_any_arrivals_when_places_are_given_then_no_window_holds_more_than_the_limit(
    rate: Rate, gaps: list[int]
) -> None:
    now, next_us, stamps = 0, 0, []
    for gap in gaps:
        now += gap
        wait, next_us = next_place(next_us, now, rate, 250_000)
        if wait <= 250_000:
            stamps.append(now + wait)
    assert stamps == sorted(stamps)
    for first in range(len(stamps)):
        for last in range(first, len(stamps)):
            seconds = (stamps[last] - stamps[first]) / 1_000_000
            assert last - first + 1 <= rate.per_second * seconds + rate.burst + 1e-6


@given(RATES, st.integers(0, 2_000_000))
def test_given_a_cold_bucket_when_asked_then_nothing_is_granted_before_its_time(rate: Rate, after: int) -> None:
    wait, _ = next_place(cold(0, rate, after), 0, rate, 10**12)
    assert wait == after + rate.interval_us


def test_given_a_rest_when_calls_come_at_once_then_a_burst_and_no_more() -> None:
    next_us, waits, rate = 0, [], Rate(10, 3)
    for _ in range(5):
        wait, next_us = next_place(next_us, 1_000_000, rate, 250_000)
        waits.append(wait)
    assert waits == [0, 0, 0, 100_000, 200_000]


def test_given_a_wait_that_is_too_long_when_asked_then_the_place_is_not_taken() -> None:
    assert next_place(1_000_000, 0, Rate(10), 250_000) == (1_000_000, 1_000_000)


@pytest.mark.parametrize(
    ("zone", "at", "hours"),
    [
        ("UTC", datetime(2026, 3, 29, 12, tzinfo=UTC), 24),
        ("Europe/Madrid", datetime(2026, 3, 29, 12, tzinfo=UTC), 23),
        ("Europe/Madrid", datetime(2026, 10, 25, 12, tzinfo=UTC), 25),
        ("Africa/Cairo", datetime(2026, 4, 24, 12, tzinfo=UTC), 23),  # midnight is skipped: the day begins at 1
        ("America/Havana", datetime(2026, 11, 1, 12, tzinfo=UTC), 25),  # midnight comes twice
    ],
)
def test_given_a_time_zone_when_a_day_is_asked_then_it_is_as_long_as_there(
    zone: str, at: datetime, hours: int
) -> None:
    found = day(at, zone)
    assert found.ends_at.astimezone(UTC) - found.begins_at.astimezone(UTC) == timedelta(hours=hours)
    assert found.begins_at <= at < found.ends_at
    assert day(found.ends_at - timedelta(microseconds=1), zone) == found
    assert day(found.ends_at, zone).begins_at == found.ends_at


def test_given_a_used_up_day_when_told_then_how_much_and_until_when() -> None:
    zone = "America/Argentina/Buenos_Aires"
    ends_at = day(datetime(2026, 3, 1, 12, tzinfo=UTC), zone).ends_at
    assert used_up(300, 300, ends_at, zone) == "300 of 300, resumes 00:00 America/Argentina/Buenos_Aires"


def test_given_a_share_for_orders_when_others_ask_then_they_leave_it_and_polls_have_a_fifth() -> None:
    assert [Plan().most(purpose) for purpose in Purpose] == [300, 240, 60]
    assert [Plan(per_day=1).most(purpose) for purpose in Purpose] == [1, 1, 0]
    assert [Plan(order_percent=90).most(purpose) for purpose in Purpose] == [300, 30, 30]


@given(st.integers(1, 5_000))
def test_given_a_day_when_drawn_block_by_block_then_all_of_it_and_single_ones_at_the_end(most: int) -> None:
    used, blocks = 0, []
    while count := block(used, most):
        blocks.append(count)
        used += count
    assert used == most
    assert blocks[-min(most, 99) :] == [1] * min(most, 99)
    assert block(used + 5, most) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_second": 0},
        {"per_second": -1},
        {"per_second": 1e9},
        {"per_second": float("nan")},
        {"burst": 0},
        {"burst": 1.5},
        {"per_day": 0},
        {"per_day": -300},
        {"per_day": 10**12},
        {"time_zone": "Mars/Olympus"},
        {"time_zone": ""},
        {"time_zone": "../etc/passwd"},
        {"order_percent": 91},
        {"retry_first_seconds": 0},
        {"retry_longest_seconds": 10**9},
        {"requests": 5},
    ],
)
def test_given_a_plan_that_makes_no_sense_when_read_then_it_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PlanFile.model_validate(wrong)


def test_given_the_tenants_of_benchmarks_and_of_the_sandbox_when_read_then_no_plan_stops_what_they_sell() -> None:
    compose = yaml.safe_load((ROOT / "infra" / "compose" / "sandbox-tenants.yaml").read_text())
    for document in (compose, tenants(2)[0]):
        for tenant in document["tenants"]:
            for erp in tenant["erps"]:
                said = PlanFile.model_validate(erp["plan"])
                assert (said.per_day or 0) >= 100_000, tenant["slug"]
                assert (said.per_second or 0) >= 100, tenant["slug"]
