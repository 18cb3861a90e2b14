"""How many messages to ask SQS for, and when: what is asked for counts against prefetch like what is held.

A queue has one receive open as long as there is a place for its message: a long one, which costs one call in
`wait_time_seconds` while nothing comes. While messages come, further ones are asked for beside it, ten at a time
and without a wait, if there are places. The places of those that are open are taken: several queues together never
get more than prefetch allows.

kombu's asynchronous client waits for an answer for ever, so that an endpoint that takes a receive and does not
answer would end the consuming. Here a receive fails that is not answered in time. The first of a connection do
not wait for messages, so that they fail soon, and a connection that was lost is made anew until SQS answers.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import pycurl
from kombu.asynchronous.aws.connection import AsyncHTTPSConnection
from kombu.asynchronous.http import get_client
from kombu.transport import SQS
from vine import promise  # type: ignore[import-untyped]

FULL = 10
"""Messages that SQS gives at most for one receive."""

OPEN_AT_MOST = 4
"""Receives of one queue at the same time."""

ALL_OPEN_AT_MOST = 100
"""Requests of the event loop at the same time; with kombu's ten, an eleventh queue would wait for the others."""

LOOK_SECONDS = 0.05
"""How often to look for places while all are taken, where `polling_interval` is none."""

ANSWER_SECONDS = 5.0
"""How long a receive may take beside the seconds that it waits for messages."""

FIRST_SECONDS = 3.0
"""How long one may take while the connection has had no answer yet, and how long connecting may take."""


@dataclass(frozen=True)
class Ask:
    """One receive to begin: for how many messages, and whether to wait until there is one."""

    count: int
    wait: bool


class Receives:
    """What is asked for. Only the loop's thread uses it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all that was open."""
        self._open: Counter[str] = Counter()
        self._long: Counter[str] = Counter()
        self._asked = 0
        self._flowing: set[str] = set()

    @property
    def asked(self) -> int:
        """How many messages are asked for, of all queues."""
        return self._asked

    def waits(self, queue: str) -> bool:
        """Whether a long receive of the queue is open."""
        return self._long[queue] > 0

    def begin(self, queue: str, ask: Ask) -> None:
        """A receive is under way."""
        self._open[queue] += 1
        self._long[queue] += ask.wait
        self._asked += ask.count

    def end(self, queue: str, ask: Ask, brought: int) -> None:
        """It has been answered with so many messages."""
        self._open[queue] -= 1
        self._long[queue] -= ask.wait
        self._asked -= ask.count
        (self._flowing.add if brought else self._flowing.discard)(queue)

    def next(self, queue: str, queues: Collection[str], free: int | None, prefetch: int) -> Ask | None:
        """The next receive of the queue, or None for now. `free`: places that hold no message; None: any number.

        The long one takes its queue's share of all places at most, and leaves one to each queue that has none.
        """
        left = FULL if free is None else free - self._asked
        if left <= 0:
            return None
        others = sum(not self.waits(other) for other in queues if other != queue)  # each will want a place
        if not self.waits(queue):
            share = max(prefetch // max(len(queues), 1), 1) if free is not None else FULL
            return Ask(min(FULL, share, max(left - others, 1)), wait=True)
        if queue in self._flowing and self._open[queue] < OPEN_AT_MOST and left - others >= FULL:
            return Ask(FULL, wait=False)
        return None

    def worth_asking(self, free: int | None, prefetch: int) -> bool:
        """Whether enough places are free for a receive to be worth its price, while messages come."""
        return free is None or free - self._asked >= min(FULL, max(prefetch // 2, 1))

    def flows(self, queue: str) -> bool:
        """Whether the queue's last receive brought something."""
        return queue in self._flowing


class Limited(AsyncHTTPSConnection):
    """A request of the loop that fails after `timeout` seconds, and after FIRST_SECONDS without a connection."""

    def getrequest(self) -> Any:
        """The request, with its limits, which kombu notes in it and does not tell curl."""
        request: Any = super().getrequest()  # type: ignore[no-untyped-call]
        request.on_prepare = self._limit
        return request

    def _limit(self, curl: Any) -> None:
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, round(1_000 * FIRST_SECONDS))
        curl.setopt(pycurl.TIMEOUT_MS, round(1_000 * self.timeout))


class Receiving(SQS.Channel):
    """A channel that asks for messages so. `beat` is called whenever it does, or finds all places taken."""

    hub: Any = None
    _answered = False  # whether SQS has answered any receive of this channel
    _wait = 0  # how long the receive that is begun waits, in seconds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._receives = Receives()
        self._hungry: dict[str, None] = {}  # queues that wait for places, the first in front
        self._ticking: set[str] = set()
        self._woken = False
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def beat(self) -> None:
        """For who watches whether the loop consumes."""

    def _schedule_queue(self, queue: str) -> None:
        """Ask for messages, or not while all places are taken: both show that the worker consumes."""
        self.beat()
        self._ask(queue, hasty=False)

    def _ask(self, queue: str, *, hasty: bool) -> None:
        """Begin the receives that there are places for; while messages come, not for a few, unless hasty."""
        self._hungry.pop(queue, None)
        if queue not in self._active_queues:
            return
        free, prefetch = self.qos.can_consume_max_estimate(), self.qos.prefetch_count
        if hasty or not self._receives.flows(queue) or self._receives.worth_asking(free, prefetch):
            queues = set(self._active_queues)
            while ask := self._receives.next(queue, queues, free, prefetch):
                self._wait = self._patience(queues, prefetch) if ask.wait else 0
                self._receives.begin(queue, ask)
                called = promise(self._received, (queue, ask))
                self._get_async(queue, ask.count, callback=called)  # type: ignore[no-untyped-call]
        if not self._receives.waits(queue):
            self._hungry[queue] = None
            self._tick(queue, self.connection.polling_interval or LOOK_SECONDS)

    def _patience(self, queues: Collection[str], prefetch: int) -> int:
        """How long a receive waits: short, if other queues wait for its place; not until SQS has answered one."""
        patience = int(self.wait_time_seconds) if self._answered else 0
        return min(patience, 1) if 0 < prefetch < len(queues) else patience

    def _received(self, queue: str, ask: Ask, brought: int) -> None:
        """Go on after an answer; its messages have been delivered."""
        self.beat()
        self._answered = True
        self._receives.end(queue, ask, brought)
        if queue not in self._active_queues:
            return
        for other in list(self._hungry):
            self._ask(other, hasty=True)
        if brought:
            self.hub.call_soon(self._schedule_queue, queue)
        elif ask.wait:
            self._tick(queue, self.connection.polling_interval)

    def _tick(self, queue: str, seconds: float | None) -> None:
        """Look at the queue again so much later."""
        if queue in self._ticking:
            return
        self._ticking.add(queue)
        if seconds:
            self.hub.call_later(seconds, self._on_tick, queue)
        else:
            self.hub.call_soon(self._on_tick, queue)

    def _on_tick(self, queue: str) -> None:
        self.beat()
        self._ticking.discard(queue)
        self._ask(queue, hasty=True)

    def _on_place(self) -> None:
        """A message has ended, in whichever thread: if queues wait for places, and enough are free, ask."""
        if not self._hungry or self._woken or self.hub is None:
            return
        if self._receives.worth_asking(self.qos.can_consume_max_estimate(), self.qos.prefetch_count):
            self._woken = True
            self.hub.call_soon(self._on_places)

    def _on_places(self) -> None:
        self._woken = False
        for queue in list(self._hungry):
            self._ask(queue, hasty=True)

    def asynsqs(self, queue: str | None = None) -> Any:
        """The asynchronous client, of a loop that has room for the receives of many queues; each of them ends."""
        if self.hub is not None:
            get_client(self.hub, max_clients=ALL_OPEN_AT_MOST)
        client: Any = super().asynsqs(queue)  # type: ignore[no-untyped-call]
        seconds = self._wait + ANSWER_SECONDS if self._answered else FIRST_SECONDS
        client.get_http_connection = partial(Limited, timeout=seconds, http_client=client._httpclient)
        return client

    def _get_from_sqs(
        self, queue_name: str, queue_url: str, connection: Any, count: int = 1, callback: Any = None
    ) -> Any:
        return connection.receive_message(
            queue_name, queue_url, number_messages=count, wait_time_seconds=self._wait, callback=callback
        )

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """End a message."""
        super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]
        self._on_place()

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """End a message without a result."""
        super().basic_reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        self._on_place()
