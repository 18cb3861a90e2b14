"""A load generator: signed webhooks of real-sized orders over kept connections, as fast as they are answered or at
fixed times. One thread and one selector, so that it costs little beside the servers that it measures.
"""

import base64
import hmac
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from sandbox.shop_orders import lives

HOST = "127.0.0.1"
SIZE = range(8_800, 9_400)
"""Bytes of the bodies that are sent: about 9 KB."""

TEMPLATES = 32
SILENT_SECONDS = 30
"""How long a run waits without any answer."""


@dataclass(frozen=True)
class Target:
    """A shop's address and secret."""

    path: str
    secret: bytes
    domain: str


class Orders:
    """Requests without end, each a webhook of an order that was never told of before, the shops taking turns.

    They can be made ahead: signing one costs as much as sending it.
    """

    def __init__(self, targets: list[Target]) -> None:
        events = (life.events[0] for life in lives(400, seed=1))
        fitting = [event for event in events if len(event.body) in SIZE][:TEMPLATES]
        self._bodies = [event.body.split(event.external_id.encode()) for event in fitting]
        self._targets = targets
        self._numbers = count()
        self._ready: deque[bytes] = deque()

    def make_ready(self, count: int) -> None:
        """Make so many ahead."""
        while len(self._ready) < count:
            self._ready.append(self._make())

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._ready.popleft() if self._ready else self._make()

    def _make(self) -> bytes:
        number = next(self._numbers)
        target = self._targets[number % len(self._targets)]
        body = str(6_000_000_000_000_000_000 + number).encode().join(self._bodies[number % len(self._bodies)])
        signature = base64.b64encode(hmac.digest(target.secret, body, "sha256")).decode()
        head = (
            f"POST {target.path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: Shopify-Captain-Hook\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"X-Shopify-Topic: orders/create\r\nX-Shopify-API-Version: 2026-07\r\n"
            f"X-Shopify-Shop-Domain: {target.domain}\r\nX-Shopify-Webhook-Id: {number:032x}\r\n"
            f"X-Shopify-Hmac-Sha256: {signature}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Measured:
    """What came of a run. `times_ms` has one entry for each acknowledgement.

    At fixed times it counts from when the request was due, so that a server that stalls does not hide what waited.
    """

    seconds: float = 0.0
    sent: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    times_ms: list[float] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """How many were answered 200."""
        return len(self.times_ms)

    @property
    def per_second(self) -> float:
        """Acknowledgements a second."""
        return self.acknowledged / self.seconds

    def note(self, status: int, seconds: float) -> None:
        """Count one answer."""
        if status == 200:
            self.times_ms.append(1_000 * seconds)
        else:
            self.refused += 1

    def percentile_ms(self, share: float) -> float:
        """The time within which this share of the acknowledgements came."""
        return sorted(self.times_ms)[min(int(self.acknowledged * share), self.acknowledged - 1)]


class _Connection:
    """One kept connection, with at most one request on its way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.waits = False
        self.due = 0.0
        self._got = b""
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection((HOST, self._port), timeout=SILENT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes, due: float) -> None:
        self.waits, self.due, self._got = True, due, b""
        self.socket.sendall(request)

    def read(self) -> int | None:
        """Read what is there; the answer's status when all of it is. Raises ConnectionError."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionResetError("the server closed a connection that waited for its answer")
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end:
            return None
        _, _, length = head.lower().partition(b"content-length:")
        self.waits = len(body) < int(length.split(b"\r\n")[0] or 0)
        return None if self.waits else int(head[9:12])


class _Connections:
    """All connections of a run. Those that were free the longest are used first."""

    def __init__(self, port: int, count: int) -> None:
        self._all = [_Connection(port) for _ in range(count)]
        self.free = deque(self._all)
        self._selector = selectors.DefaultSelector()
        for one in self._all:
            self._selector.register(one.socket, selectors.EVENT_READ, one)

    @property
    def busy(self) -> bool:
        return len(self.free) < len(self._all)

    def answered(self, seconds: float) -> Iterator[tuple[_Connection, int]]:
        """Wait for so long at most; the connections that have an answer, and its status."""
        for key, _ in self._selector.select(seconds):
            one: _Connection = key.data
            if not one.waits:
                self._renew(one)
            elif (status := one.read()) is not None:
                self.free.append(one)
                yield one, status

    def _renew(self, one: _Connection) -> None:
        """The server has closed it, since nothing was asked for a while."""
        self._selector.unregister(one.socket)
        one.socket.close()
        one.connect()
        self._selector.register(one.socket, selectors.EVENT_READ, one)

    def close(self) -> None:
        self._selector.close()
        for one in self._all:
            one.socket.close()


def run(
    port: int,
    requests: Iterator[bytes],
    *,
    connections: int,
    seconds: float = float("inf"),
    rate: float | None = None,
) -> Measured:
    """Send for so long or until there are no more: `rate` a second at fixed times, or as many as are answered.

    Raises ConnectionError when a connection fails, and TimeoutError when nothing is answered any more.
    """
    found, pool = Measured(), _Connections(port, connections)
    cpu, began = time.process_time(), time.monotonic()
    times = _every(rate, seconds) if rate else _at_once(began, seconds)
    due, heard = next(times, None), 0.0
    while due is not None or pool.busy:
        while due is not None and pool.free and due <= time.monotonic() - began:
            request = next(requests, None)
            if request is not None:
                pool.free.popleft().send(request, due)
                found.sent += 1
            due = None if request is None else next(times, None)
        now = time.monotonic() - began
        for one, status in pool.answered(0.1 if due is None or not pool.free else max(due - now, 0)):
            heard = time.monotonic() - began
            found.note(status, heard - one.due)
        if pool.busy and now > heard + SILENT_SECONDS:
            raise TimeoutError(f"nothing was answered for {SILENT_SECONDS} s")
    found.seconds, found.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    pool.close()
    return found


def _every(rate: float, seconds: float) -> Iterator[float]:
    return (number / rate for number in range(int(seconds * rate)))


def _at_once(began: float, seconds: float) -> Iterator[float]:
    while (now := time.monotonic() - began) < seconds:
        yield now
