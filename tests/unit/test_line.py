"""Who takes a worker's next thread (P6): counts and order, no threads and no time."""

import random

import pytest

from tasks.line import Line


def started(line: Line[str]) -> list[str]:
    """Start what may start; the jobs, in order."""
    jobs = []
    while taken := line.take():
        jobs.append(taken[1])
    return jobs


def line_of(threads: int, *arrivals: str) -> Line[str]:
    """A line in which a job of each tenant waits, in order, called by tenant and number: a1, b2."""
    line = Line[str](threads)
    for number, tenant in enumerate(arrivals, 1):
        line.add(tenant, f"{tenant}{number}")
    return line


@pytest.mark.parametrize(("threads", "share"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (16, 4), (17, 4)])
def test_p6_given_threads_then_a_share_is_a_quarter_and_at_least_one(threads: int, share: int) -> None:
    assert Line[str](threads).share == share


def test_p6_given_a_lone_tenant_when_it_floods_then_it_takes_every_thread_in_order() -> None:
    line = line_of(4, *"aaaaaa")
    assert started(line) == ["a1", "a2", "a3", "a4"]
    assert line.held_back() == []
    line.end("a")
    assert started(line) == ["a5"]


def test_p6_given_two_floods_at_once_then_each_starts_a_quarter_and_a_third_tenant_starts_at_once() -> None:
    line = line_of(16, *"aaaaaaaabbbbbbbb")
    started(line)
    assert line.running == {"a": 4, "b": 4}
    assert len(line.held_back()) == 8
    line.add("c", "c")
    assert started(line) == ["c"]


def test_p6_given_two_floods_one_after_the_other_then_a_third_tenant_starts_at_once() -> None:
    line = line_of(16, *"aaaaaaaa")
    started(line)
    for number in range(8):
        line.add("b", f"b{number}")
    started(line)
    assert line.running == {"a": 8, "b": 4}, "what runs is never stopped"
    line.add("c", "c")
    assert started(line) == ["c"]


def test_p6_given_a_lone_tenant_on_every_thread_when_another_comes_then_it_has_the_first_that_ends() -> None:
    line = line_of(4, *"aaaaaa")
    started(line)
    line.add("b", "b")
    assert started(line) == []
    assert line.held_back() == ["a5", "a6"], "they wait for their own tenant now"
    line.end("a")
    assert started(line) == ["b"]
    for _ in range(2):
        line.end("a")
        assert started(line) == [], "still one of a's, and b's, so nothing of a starts"
    line.end("a")
    assert started(line) == ["a5"]


def test_p6_given_what_is_held_back_when_the_others_have_no_more_work_then_it_starts() -> None:
    line = line_of(4, "b", *"aaaa")
    assert started(line) == ["b1", "a2"]
    assert line.held_back() == ["a3", "a4", "a5"]
    line.end("b")
    assert started(line) == ["a3", "a4", "a5"]


def test_p6_given_tenants_that_may_start_then_the_one_with_the_fewest_threads_and_then_the_longest_wait() -> None:
    line = line_of(8, *"aabbccdd")
    assert started(line) == ["a1", "b3", "c5", "d7", "a2", "b4", "c6", "d8"]
    for tenant in "dcba":
        line.add(tenant, f"{tenant}9")
    line.end("a")
    line.end("d")
    assert started(line) == ["d9", "a9"]


def test_given_a_line_that_is_cleared_then_all_that_waited_comes_back_in_order_and_nothing_starts() -> None:
    line = line_of(2, *"aababb")
    assert started(line) == ["a1", "b3"]
    assert line.clear() == ["a2", "a4", "b5", "b6"]
    line.end("a")
    assert started(line) == []


@pytest.mark.parametrize("seed", range(20))
def test_p6_given_any_arrivals_and_ends_then_nobody_starts_over_the_share_and_nothing_is_left(seed: int) -> None:
    dice = random.Random(seed)
    line, threads, waiting = Line[str](dice.randint(1, 20)), 0, 0
    for number in range(2_000):
        if number < 1_000 and dice.random() < 0.6:
            line.add(dice.choice("aaaabbc"), str(number))
            waiting += 1
        elif threads:
            line.end(dice.choice(sorted(line.running)))
            threads -= 1
        while taken := line.take():
            tenant, _ = taken
            threads, waiting = threads + 1, waiting - 1
            others = {*line.running, *line._waiting} - {tenant}
            assert line.running[tenant] <= line.share or not others
        assert threads == line.running.total() <= line.threads
        all_busy = threads == line.threads
        assert all_busy or len(line.held_back()) == waiting, "no thread is idle while somebody may take it"
    assert (waiting, line.clear()) == (0, [])
