"""The short form of `benchmarks.dispatch`: its counts, never its times (P4)."""

import pytest

from benchmarks.dispatch import DUE, measure


@pytest.mark.usefixtures("postgres_url")
def test_p4_given_ever_more_behind_shut_gates_when_dispatched_then_it_is_not_read_and_the_same_is_rung() -> None:
    found = measure(tenants=40, opened=5, waiting=[500, 20_000], calls=2)
    assert found["bells"] == dict.fromkeys(("500", "20000"), 4 * DUE + 1), "the last gate's breaker is half open"
    assert found["bells_per_gate"] == dict.fromkeys(("500", "20000"), DUE)
    few, many = found["rows_read"].values()
    assert max(few, many) < 1_000, "what is due, a few times, and versions of it that no vacuum has removed yet"
