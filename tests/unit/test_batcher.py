"""The thread that works for many requests: what is batched, what is refused, what happens when it dies."""

import os
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from web import batcher
from web.batcher import Batcher, Busy, Job, wait_through

Work = Callable[[list[Job[int, int]]], Sequence[Job[int, int]]]


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def double(jobs: list[Job[int, int]]) -> list[Job[int, int]]:
    for job in jobs:
        job.succeed(job.item * 2)
    return []


class Gate:
    """Work that waits to be let go, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.open = threading.Event()

    def work(self, jobs: list[Job[int, int]]) -> list[Job[int, int]]:
        self.batches.append([job.item for job in jobs])
        self.entered.set()
        assert self.open.wait(10)
        return double(jobs)


def make(work: Work, **changes: float) -> Batcher[int, int]:
    return Batcher("worker", work, size=int(changes.pop("size", 3)), **({"stall_seconds": 10.0} | changes))  # type: ignore[arg-type]


def ask(made: Batcher[int, int], item: int, deadline: float) -> int:
    return wait_through(made.ask(item, deadline))


def ask_in_background(made: Batcher[int, int], items: list[int]) -> tuple[list[threading.Thread], list[object]]:
    answers: list[object] = []

    def run(item: int) -> None:
        try:
            answers.append(ask(made, item, soon()))
        except BaseException as error:  # noqa: BLE001
            answers.append(error)

    threads = [threading.Thread(target=run, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    return threads, answers


def wait_for(condition: Callable[[], bool]) -> None:
    end = soon()
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_given_waiting_jobs_when_the_thread_is_free_then_it_takes_at_most_a_batch_of_them() -> None:
    gate = Gate()
    made = make(gate.work)
    threads, answers = ask_in_background(made, [0])
    assert gate.entered.wait(10)
    more, more_answers = ask_in_background(made, [1, 2, 3, 4])
    wait_for(lambda: len(made._waiting) == 4)

    gate.open.set()
    for thread in threads + more:
        thread.join()

    assert [len(batch) for batch in gate.batches] == [1, 3, 1]
    assert answers == [0]
    assert set(more_answers) == {2, 4, 6, 8}


def test_given_a_deadline_when_it_passes_then_the_job_is_busy_and_never_started() -> None:
    gate = Gate()
    made = make(gate.work)
    threads, _ = ask_in_background(made, [0])
    assert gate.entered.wait(10)

    with pytest.raises(Busy):
        ask(made, 1, soon(0.05))
    gate.open.set()
    for thread in threads:
        thread.join()
    assert ask(made, 2, soon()) == 4

    assert gate.batches == [[0], [2]]


def test_given_a_full_queue_when_asked_then_it_is_refused_at_once() -> None:
    gate = Gate()
    made = make(gate.work, capacity=2)
    threads, _ = ask_in_background(made, [0])
    assert gate.entered.wait(10)
    more, answers = ask_in_background(made, [1, 2])
    wait_for(lambda: len(made._waiting) == 2)

    with pytest.raises(Busy, match="full"):
        ask(made, 3, soon())

    gate.open.set()
    for thread in threads + more:
        thread.join()
    assert set(answers) == {2, 4}


def test_given_a_stalled_batch_when_asked_then_it_is_refused_at_once_and_told() -> None:
    gate = Gate()
    made = make(gate.work, stall_seconds=0.05)
    threads, answers = ask_in_background(made, [0])
    assert gate.entered.wait(10)
    time.sleep(0.06)

    with pytest.raises(Busy, match="waits for the ledger"):
        ask(made, 1, soon())
    assert made.trouble() is not None

    gate.open.set()
    for thread in threads:
        thread.join()
    assert answers == [0]
    assert ask(made, 1, soon()) == 2
    assert made.trouble() is None


def test_given_work_that_raises_when_asked_then_those_left_unsettled_learn_of_it() -> None:
    def work(jobs: list[Job[int, int]]) -> list[Job[int, int]]:
        for job in jobs:
            if job.item < 0:
                raise ValueError(job.item)
            job.succeed(job.item)
        return []

    made = make(work)

    with pytest.raises(ValueError, match="-1"):
        ask(made, -1, soon())
    assert ask(made, 1, soon()) == 1


def test_given_work_that_forgets_a_job_when_asked_then_the_job_is_busy() -> None:
    with pytest.raises(Busy):
        ask(make(lambda _jobs: []), 1, soon())


def test_given_work_that_gives_a_job_back_when_others_wait_then_it_comes_after_them() -> None:
    gate = Gate()

    def work(jobs: list[Job[int, int]]) -> list[Job[int, int]]:
        if not gate.batches:
            gate.work([])
            gate.batches[0] = [job.item for job in jobs]
            return jobs
        return gate.work(jobs)

    made = make(work, size=1)
    threads, answers = ask_in_background(made, [0])
    assert gate.entered.wait(10)
    more, _ = ask_in_background(made, [1])
    wait_for(lambda: len(made._waiting) == 1)

    gate.open.set()
    for thread in threads + more:
        thread.join()

    assert gate.batches == [[0], [1], [0]]
    assert answers == [0]


def test_given_work_that_gives_a_job_back_for_ever_when_its_time_is_up_then_it_is_busy_and_waits_no_more() -> None:
    def work(jobs: list[Job[int, int]]) -> list[Job[int, int]]:
        time.sleep(0.01)
        return jobs

    made = make(work)

    with pytest.raises(Busy):
        ask(made, 1, soon(0.2))

    wait_for(lambda: made._busy_since is None)
    assert not made._waiting


def dying() -> Batcher[int, int]:
    def work(jobs: list[Job[int, int]]) -> list[Job[int, int]]:
        if jobs[0].item < 0:
            raise SystemExit
        return double(jobs)

    return make(work)


def test_given_a_thread_that_dies_when_asked_then_the_job_fails_and_the_next_starts_another() -> None:
    made = dying()

    with pytest.raises(Busy, match="died"):
        ask(made, -1, soon())

    assert made.trouble() == "the worker thread died"
    assert made.trouble() == "the worker thread died"
    assert ask(made, 1, soon()) == 2
    assert made.trouble() is None


def test_given_a_thread_that_died_long_ago_when_checked_then_the_check_starts_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = dying()
    with pytest.raises(Busy):
        ask(made, -1, soon())

    monkeypatch.setattr(batcher, "RED_SECONDS", 0.0)

    assert made.trouble() is None
    assert made._thread is not None


def test_given_jobs_that_wait_when_the_thread_dies_then_they_fail_at_once() -> None:
    gate = Gate()

    def work(jobs: list[Job[int, int]]) -> list[Job[int, int]]:
        gate.work(jobs)
        raise SystemExit

    made = make(work, size=1)
    threads, answers = ask_in_background(made, [0])
    assert gate.entered.wait(10)
    more, more_answers = ask_in_background(made, [1])
    wait_for(lambda: len(made._waiting) == 1)
    gate.open.set()
    for thread in threads + more:
        thread.join()

    assert answers == [0]
    assert isinstance(more_answers[0], Busy)


def test_given_a_fork_when_the_child_asks_then_it_has_a_thread_of_its_own() -> None:
    made = make(double)
    assert ask(made, 1, soon()) == 2

    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if ask(made, 2, soon(5)) == 4 else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert ask(made, 3, soon()) == 6
