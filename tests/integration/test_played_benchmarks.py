"""The short forms of the benchmarks that play hours and days: their counts, never their times (P6, F1, G2)."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.outage import allowed_probes
from integrator.breaker import Thresholds
from sandbox.system_process import ROOT


def run(module: str) -> Any:
    """Its numbers, from a process of its own: it plays with the settings and the clock."""
    argv = [sys.executable, "-m", module, "--short"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_given_a_used_up_day_when_days_turn_then_none_is_exceeded_and_work_resumes_by_itself() -> None:
    found = run("benchmarks.quota")
    assert found["sent_over_quota"] == 0
    assert found["resumed"] == found["turns"] == 9
    assert found["done"] == found["owed"]
    assert [list(days.values())[1:3] for days in found["sent"]] == [[10, 10]] * 3, "nor is a whole day left unused"


def test_given_a_system_that_is_down_for_hours_when_it_is_back_then_it_cost_nothing_but_time() -> None:
    found = run("benchmarks.outage")
    assert 0 < found["outage_calls"] <= 1.1 * found["allowed_probes"]
    assert found["attempts_per_order"] <= 1.1
    assert (found["dead"], found["held"]) == (0, 0)
    assert found["done"] == found["created"] == found["ran"] == 100


@pytest.mark.parametrize(("seconds", "calls"), [(10, 5), (15, 6), (44, 6), (45, 7), (465, 10), (765, 11)])
def test_given_an_outage_when_the_breaker_is_asked_then_what_it_allows(seconds: float, calls: int) -> None:
    assert allowed_probes(seconds, Thresholds(5, 15, 300)) == calls


def test_p6_given_a_flood_of_one_tenant_when_others_send_then_their_orders_take_no_longer_than_alone() -> None:
    found = run("benchmarks.fairness")
    assert found["quiet_p99_ratio"] <= 2 < found["fifo_p99_ratio"], "played seconds, the same on every machine"
    assert found["done"] == 43
    assert found["flood_done"] > 20
    assert found["most_in_flight"] == 8
