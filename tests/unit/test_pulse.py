"""The worker's pulse: it beats for every receive and for every time that none is allowed, and for nothing else."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from integrator.metrics import SQS_REQUESTS, meters
from integrator.monitor import Pulse
from tasks import transport
from tasks.transport import Channel
from tasks.transport_receive import Receives


class Loop:
    """An event loop whose callbacks run when told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_later(self, _seconds: float, call: Callable[..., None], *args: Any) -> None:
        self.waiting.append(lambda: call(*args))

    def turn(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


class Consumer(Channel):
    """A channel that listens to one queue, whose receives are never answered."""

    def __init__(self, *, full: bool) -> None:
        self.hub: Any = Loop()
        self._active_queues = ["orders"]
        self._receives, self._hungry, self._ticking, self._woken = Receives(), {}, set(), False
        self._qos = SimpleNamespace(prefetch_count=4, can_consume_max_estimate=lambda: 0 if full else 4)
        self.connection = SimpleNamespace(polling_interval=0.05, client=SimpleNamespace(transport_options={}))

    def __del__(self, *_: object) -> None: ...

    def _new_queue(self, queue: str, **_: Any) -> str:
        return queue

    def canonical_queue_name(self, queue_name: str) -> str:
        return queue_name

    def asynsqs(self, queue: str | None = None) -> Any:
        return SimpleNamespace(receive_message=lambda *_, **__: None)


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Pulse:
    """A pulse whose clock goes a second further with each look."""
    ticks = iter(range(1_000))
    pulse = Pulse(60, lambda: float(next(ticks)))
    monkeypatch.setattr(transport, "pulse", lambda: pulse)
    return pulse


def beats(pulse: Pulse, run: Callable[[], None]) -> int:
    count = [0]
    original = pulse.beat

    def beat() -> None:
        count[0] += 1
        original()

    pulse.beat = beat  # type: ignore[method-assign]
    run()
    return count[0]


def test_given_no_free_place_when_the_loop_turns_then_each_turn_beats_and_nothing_is_asked(pulse: Pulse) -> None:
    channel = Consumer(full=True)
    asked = meters().value(SQS_REQUESTS, action="ReceiveMessage")

    def run() -> None:
        channel._schedule_queue("orders")
        for _ in range(9):
            channel.hub.turn()

    assert beats(pulse, run) == 10
    assert meters().value(SQS_REQUESTS, action="ReceiveMessage") == asked


def test_given_a_receive_that_is_not_answered_when_the_loop_turns_then_there_is_no_further_beat(
    pulse: Pulse,
) -> None:
    channel = Consumer(full=False)
    asked = meters().value(SQS_REQUESTS, action="ReceiveMessage")

    def run() -> None:
        channel._schedule_queue("orders")
        for _ in range(9):
            channel.hub.turn()

    assert beats(pulse, run) == 1
    assert meters().value(SQS_REQUESTS, action="ReceiveMessage") == asked + 1
