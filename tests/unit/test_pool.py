"""The worker's pool: real threads, released one by one, so that each count is exact and nothing is timed."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from celery.concurrency import get_implementation

from tasks import app
from tasks import pool as pools
from tasks.pool import FairPool, bell_of

PATIENCE_SECONDS = 30


@dataclass
class Request:
    """What Celery's request is to the pool: it is told when its task begins, and has a message."""

    number: int
    note: Callable[[int], None]
    left: list[int]

    @property
    def message(self) -> Any:
        """Its message, whose channel hears that it will not be begun."""
        return SimpleNamespace(delivery_tag=self.number, channel=SimpleNamespace(leave=self.left.append))

    def on_accepted(self, _pid: int, _at: float) -> None:
        """It begins, or was taken before its start: it is acknowledged."""
        self.note(self.number)


class Bench:
    """A pool of so many threads, and tasks that run until they are told to end."""

    def __init__(self, threads: int) -> None:
        self.pool = FairPool(limit=threads)
        self.changed = threading.Condition()
        self.running: list[int] = []
        self.ended: list[int] = []
        self.heard: list[int] = []
        self.left: list[int] = []
        self._may_end: set[int] = set()
        self._count = 0
        self._results: list[Any] = []

    def task(self, tenant: str) -> int:
        """Hand over a message; its number."""
        self._count += 1
        number = self._count
        body = orjson.dumps([[tenant, number], {}, {}])

        request = Request(number, lambda number: self._note(self.heard, number), self.left)
        self._results.append(
            self.pool.apply_async(
                lambda *_given: self._work(number),
                ("task", "id", {}, body),
                accept_callback=request.on_accepted,
                callback=lambda _result: self._note(self.ended, number),
            )
        )
        return number

    def _work(self, number: int) -> None:
        with self.changed:
            self.running.append(number)
            self.changed.notify_all()
            self.changed.wait_for(lambda: number in self._may_end)
            self.running.remove(number)
            self.changed.notify_all()

    def _note(self, where: list[int], number: int) -> None:
        with self.changed:
            where.append(number)
            self.changed.notify_all()

    def end(self, *numbers: int) -> None:
        """Let tasks end, and wait until they have."""
        with self.changed:
            self._may_end.update(numbers)
            self.changed.notify_all()
        for number in numbers:
            self._results[number - 1].wait(PATIENCE_SECONDS)

    def until_running(self, *numbers: int) -> None:
        """Wait until exactly these run."""
        with self.changed:
            assert self.changed.wait_for(lambda: sorted(self.running) == sorted(numbers), PATIENCE_SECONDS), (
                f"{sorted(self.running)} run instead of {sorted(numbers)}"
            )

    def until_heard(self, count: int) -> None:
        """Wait until so many messages were acknowledged."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.heard) == count, PATIENCE_SECONDS), self.heard

    def close(self) -> None:
        """Let everything end."""
        with self.changed:
            self._may_end.update(range(1_000))
            self.changed.notify_all()
        self.pool.close()
        self.pool.stop()


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    given: list[tuple[str, int]] = []
    monkeypatch.setattr(pools, "give_back", given.extend)
    return given


@pytest.fixture
def bench(given_back: list[tuple[str, int]]) -> Iterator[Bench]:
    made = Bench(16)
    yield made
    made.close()


def test_p6_given_two_slow_tenants_when_a_third_comes_then_it_starts_before_any_of_theirs_ends(
    bench: Bench,
) -> None:
    slow = [bench.task("acme") for _ in range(8)] + [bench.task("globex") for _ in range(8)]
    bench.until_running(*slow[:8], *slow[8:12])
    third = bench.task("initech")
    bench.until_running(*slow[:12], third)
    assert bench.ended == []
    bench.end(third)
    bench.until_running(*slow[:12])
    bench.end(*slow[:4])
    bench.until_running(*slow[4:12])
    bench.end(*slow[8:12])
    bench.until_running(*slow[4:8], *slow[12:])
    bench.end(*slow)
    assert sorted(bench.ended) == [*range(1, 18)]


def test_p6_given_a_tenant_that_is_alone_when_it_floods_then_it_runs_on_every_thread(bench: Bench) -> None:
    flood = [bench.task("acme") for _ in range(20)]
    bench.until_running(*flood[:16])
    assert sorted(bench.heard) == flood[:16], "what waits for a thread is not acknowledged"
    bench.end(*flood)
    assert sorted(bench.ended) == sorted(bench.heard) == flood


def test_c6_given_what_waits_for_its_own_tenant_when_prefetched_then_acknowledged_once_and_run_once(
    bench: Bench,
) -> None:
    other = bench.task("globex")
    flood = [bench.task("acme") for _ in range(40)]
    bench.until_running(other, *flood[:4])
    bench.until_heard(41)
    bench.end(other)
    bench.until_running(*flood[:16])
    bench.end(*flood)
    assert sorted(bench.heard) == sorted(bench.ended) == [other, *flood]


def test_given_a_pool_that_closes_then_what_was_acknowledged_is_given_back_and_nothing_more_starts(
    bench: Bench, given_back: list[tuple[str, int]]
) -> None:
    other = bench.task("globex")
    flood = [bench.task("acme") for _ in range(6)]
    bench.until_running(other, *flood[:4])
    bench.until_heard(7)
    bench.pool.close()
    late = bench.task("initech")
    bench.end(other, *flood[:4])
    bench.until_running()
    assert given_back == [("acme", number) for number in flood[4:]]
    assert bench.left == []
    assert late not in bench.heard, "Celery releases it"


def test_given_a_pool_that_closes_then_what_waits_for_a_thread_goes_back_to_sqs(
    bench: Bench, given_back: list[tuple[str, int]]
) -> None:
    flood = [bench.task("acme") for _ in range(18)]
    bench.until_running(*flood[:16])
    bench.pool.close()
    bench.end(*flood[:16])
    assert (given_back, sorted(bench.heard), sorted(bench.ended)) == ([], flood[:16], flood[:16])
    assert bench.left == flood[16:]


def test_given_a_task_that_fails_when_it_ends_then_its_thread_is_free_again(bench: Bench) -> None:
    def broken(*_args: Any) -> None:
        raise RuntimeError

    for _ in range(40):
        bench.pool.apply_async(broken, ((), "id", {}, b"[[],{},{}]"), callback=lambda _r: None)
    last = bench.task("acme")
    bench.until_running(last)


def test_p6_given_the_settings_when_celery_loads_them_then_workers_have_this_pool() -> None:
    assert get_implementation(app.conf.worker_pool) is FairPool
    assert app.conf.task_acks_late is False


@pytest.mark.parametrize(
    ("body", "bell"),
    [
        (b'[["acme", 7], {}, {"chain": null}]', ("acme", 7)),
        ('[["acme", 7], {"newer": 1}, {}]', ("acme", 7)),
        ('[[], {"tenant": "acme", "sync_id": 7}, {}]', ("acme", 7)),
        ((["acme", 7], {}, {}), ("acme", 7)),
        (b'[["acme"], {}, {}]', None),
        (b'[["acme", "seven"], {}, {}]', None),
        (b"nonsense", None),
        (b"{}", None),
        (None, None),
    ],
)
def test_given_a_message_of_any_version_then_its_tenant_and_sync_are_known(
    body: Any, bell: tuple[str, int] | None
) -> None:
    assert bell_of(("task", "id", {}, body, "application/json", "utf-8")) == bell
    assert bell_of(()) is None
