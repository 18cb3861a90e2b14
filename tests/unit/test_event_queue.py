"""Events on their way to Redis: bounded, counted, in order, and nobody waits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu.entity import Exchange

from integrator.metrics import EVENTS_DROPPED, Meters
from tasks import event_queue
from tasks.event_queue import Event, EventQueue
from tests.workers import until

EXCHANGE = Exchange("celeryev", type="fanout")  # type: ignore[no-untyped-call]


class FakeRedis:
    """Takes what is published while it is up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.up = threading.Event()
        self.published: list[tuple[str, Any]] = []
        self.tries = 0
        monkeypatch.setattr(event_queue, "Producer", lambda _channel, **_given: self)
        monkeypatch.setattr(event_queue, "FIRST_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(event_queue, "LONGEST_PAUSE_SECONDS", 0.02)

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        self.tries += 1
        yield self

    def connect(self) -> Any:
        return self._connect()

    def channel(self) -> Any:
        if not self.up.is_set():
            raise ConnectionError("away")
        return self

    def publish(self, body: Any, *, routing_key: str, retry: bool, **_given: Any) -> None:
        assert not retry
        if not self.up.is_set():
            raise ConnectionError("lost")
        self.published.append((routing_key, body))

    @property
    def numbers(self) -> list[int]:
        """Those of all events, in the order in which they came."""
        bodies = [body if isinstance(body, list) else [body] for _, body in self.published]
        return [event["n"] for several in bodies for event in several]


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    return FakeRedis(monkeypatch)


def event(number: int, routing_key: str = "task.started") -> Event:
    return Event({"n": number}, EXCHANGE, routing_key, "json", {"hostname": "w"})


def test_given_redis_away_when_too_many_come_then_the_oldest_are_dropped_and_counted(
    redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters = Meters()
    monkeypatch.setattr(event_queue, "meters", lambda: meters)
    queue = EventQueue(redis.connect, size=5)
    assert b"integrator_control_events_dropped_total 0.0" in meters.text()
    for number in range(12):
        queue.put(event(number))
    until(lambda: redis.tries >= 3)
    assert queue.counts() == {"sent": 0, "dropped": 7, "waiting": 5}
    assert meters.value(EVENTS_DROPPED) == 7
    redis.up.set()
    until(lambda: queue.counts()["sent"] == 5)
    assert queue.counts() == {"sent": 5, "dropped": 7, "waiting": 0}
    assert redis.numbers == [7, 8, 9, 10, 11]
    queue.close(5)


def test_given_redis_lost_between_when_it_is_back_then_all_go_out_in_order(redis: FakeRedis) -> None:
    redis.up.set()
    queue = EventQueue(redis.connect, size=1_000)
    queue.put(event(0))
    until(lambda: queue.counts()["sent"] == 1)
    redis.up.clear()
    for number in range(1, 251):
        queue.put(event(number))
    tried = redis.tries
    until(lambda: redis.tries > tried + 1)
    redis.up.set()
    until(lambda: queue.counts()["sent"] == 251)
    assert redis.numbers == list(range(251))
    assert max(len(body) for _, body in redis.published if isinstance(body, list)) == event_queue.BATCH
    queue.close(5)


def test_given_events_of_two_groups_when_sent_then_each_message_holds_one_group(redis: FakeRedis) -> None:
    queue = EventQueue(redis.connect, size=100)
    for number, key in enumerate(["task.started", "task.retried", "worker.heartbeat", "task.started"]):
        queue.put(event(number, key))
    redis.up.set()
    until(lambda: queue.counts()["sent"] == 4)
    assert [key for key, _ in redis.published] == ["task.multi", "worker.heartbeat", "task.started"]
    queue.close(5)


def test_given_events_that_wait_when_closed_then_they_go_out_first_and_without_redis_nobody_waits(
    redis: FakeRedis,
) -> None:
    redis.up.set()
    queue = EventQueue(redis.connect, size=100)
    for number in range(30):
        queue.put(event(number))
    queue.close(20)
    assert redis.numbers == list(range(30))
    redis.up.clear()
    stuck = EventQueue(redis.connect, size=100)
    stuck.put(event(1))
    stuck.close(20)
    assert stuck.counts() == {"sent": 0, "dropped": 0, "waiting": 1}
    assert "events" not in [thread.name for thread in threading.enumerate()]
