"""Events on their way to Redis: a bounded queue and one thread, so that no task ever waits for Redis."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange
from kombu.messaging import Producer

from integrator.logs import get_logger
from integrator.metrics import EVENTS_DROPPED, meters

log = get_logger(__name__)

BATCH = 100
"""Events in one message at most."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0
"""The waits before Redis is tried again double from the first to the last."""


@dataclass(frozen=True)
class Event:
    """One event as Celery made it, and where it goes."""

    body: dict[str, Any]
    exchange: Exchange
    routing_key: str
    serializer: str
    headers: dict[str, Any]


class EventQueue:
    """Takes events at once; when it is full, each new one drops the oldest and counts it.

    What could not be sent waits and is sent again, perhaps twice. `size` is the most that wait.
    """

    def __init__(self, connect: Callable[[], Connection], size: int) -> None:
        self._connect, self._size = connect, size
        self._waiting: deque[Event] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent = self._dropped = 0
        self._flows = True
        meters().count(EVENTS_DROPPED, 0)  # an increase is only seen from a figure that was there before

    def put(self, event: Event) -> None:
        """Take an event; never waits for Redis."""
        with self._lock:
            self._waiting.append(event)
            self._trim()
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
        self._filled.set()

    def counts(self) -> dict[str, int]:
        """Events sent, dropped and waiting since this process began."""
        with self._lock:
            return {"sent": self._sent, "dropped": self._dropped, "waiting": len(self._waiting)}

    def close(self, seconds: float) -> None:
        """Send what waits within so many seconds; the rest is lost."""
        self._closing.set()
        self._filled.set()
        if self._thread:
            self._thread.join(seconds)

    def _trim(self) -> None:
        while len(self._waiting) > self._size:
            self._waiting.popleft()
            self._dropped += 1
            meters().count(EVENTS_DROPPED)

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not (self._closing.is_set() and not self._waiting):
            try:
                with self._connect() as connection:
                    producer = Producer(connection.channel(), auto_declare=False)
                    pause = FIRST_PAUSE_SECONDS
                    self._tell(flows=True)
                    self._send_all(producer)
            except Exception as error:  # noqa: BLE001 - whatever Redis does, the worker's work goes on
                self._tell(flows=False, error=type(error).__name__)
                if self._closing.wait(pause):
                    return
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _tell(self, *, flows: bool, **more: str) -> None:
        if flows is not self._flows:
            log.info("events_flow" if flows else "events_wait", **self.counts(), **more)
        self._flows = flows

    def _send_all(self, producer: Producer) -> None:
        """Send what comes, until it is closed and empty. Raises what Redis does."""
        while True:
            self._filled.wait()
            self._filled.clear()
            while batch := self._take():
                try:
                    _publish(producer, batch)
                except BaseException:
                    self._put_back(batch)
                    raise
                with self._lock:
                    self._sent += len(batch)
            if self._closing.is_set():
                return

    def _take(self) -> list[Event]:
        """The oldest that may go out in one message."""
        with self._lock:
            batch: list[Event] = []
            while self._waiting and len(batch) < BATCH:
                if batch and not _alike(batch[0], self._waiting[0]):
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _put_back(self, batch: list[Event]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(batch))
            self._trim()
        self._filled.set()


def _alike(one: Event, other: Event) -> bool:
    """Whether both may be in one message: several of a group, as Celery does with its own buffer."""
    return _group(one) == _group(other) and one.headers == other.headers


def _group(event: Event) -> str:
    return event.routing_key.partition(".")[0]


def _publish(producer: Producer, batch: list[Event]) -> None:
    first = batch[0]
    several = len(batch) > 1
    producer.publish(
        [event.body for event in batch] if several else first.body,
        routing_key=f"{_group(first)}.multi" if several else first.routing_key,
        exchange=first.exchange.name,
        declare=[first.exchange],
        serializer=first.serializer,
        headers=first.headers,
        delivery_mode=1,
        retry=False,
    )
