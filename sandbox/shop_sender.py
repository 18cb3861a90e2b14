"""Sends the webhooks of made-up orders as Shopify would, only with a shorter patience between its tries.

Everything but a 200 within the time-out is tried again until it is acknowledged: nothing is given up. Duplicates
(the same id, the same bytes) and reordering are made on purpose, in known numbers, the same for the same seed.
"""

import base64
import hashlib
import heapq
import hmac
import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from sandbox.shop_orders import Event, Life
from sandbox.shop_plan import Delivery, SendOptions, make_plan

IDLE_SECONDS = 1.0
"""A connection idle for longer is not used again: servers close theirs after two seconds and more."""


@dataclass(frozen=True)
class Attempt:
    """One request. `status` is None when no answer came, and `failure` then says what happened.

    `milliseconds` go from just before the first byte was sent (on an open connection) to the last byte read.
    """

    event: Event
    number: int
    duplicate: bool
    status: int | None
    failure: str | None
    milliseconds: float
    ended_at: float

    @property
    def acknowledged(self) -> bool:
        """Whether the receiver took the delivery. Shopify takes any 2xx; the strictest platforms only a 200."""
        return self.status == 200


@dataclass
class Progress:
    """How far a sender is. `first_acknowledged` gives, per order, the wall time of the first 200 (time.time())."""

    deliveries: int
    duplicates: int
    reordered: int
    requests: int = 0
    acknowledged: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    first_acknowledged: dict[str, float] = field(default_factory=dict)

    @property
    def outstanding(self) -> int:
        """How many deliveries still wait for their 200."""
        return self.deliveries - self.acknowledged


class Sender:
    """Sends the events of `lives` to one receiver, from `start` until all are acknowledged or `stop`.

    `before_send(event)` is called before each request, `on_attempt(attempt)` after it, both from the sending
    threads; they must be quick and must not raise. `request` writes what goes out; another platform's sender
    has its own.
    """

    def __init__(
        self,
        receiver_url: str,
        lives: Sequence[Life],
        *,
        secret: str,
        domain: str,
        options: SendOptions | None = None,
        before_send: Callable[[Event], None] | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> None:
        self.options = options or SendOptions()
        self._url = receiver_url
        self._secret = secret.encode()
        self._domain = domain
        self._before_send = before_send
        self._on_attempt = on_attempt
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._later: list[tuple[float, int, Delivery]] = []
        self._now: list[tuple[float, int, Delivery]] = []
        self._sequence = itertools.count()
        self._started = 0.0
        self._stopped = False
        self._plan = make_plan(lives, self.options)
        self._progress = Progress(self._plan.deliveries, self._plan.duplicates, self._plan.reordered)
        self._threads = [
            threading.Thread(target=self._work, name=f"shop-sender-{n}", daemon=True)
            for n in range(self.options.concurrency)
        ]

    def start(self) -> "Sender":
        """Begin to send. Returns at once."""
        self._started = time.monotonic()
        for delivery in self._plan.firsts:
            self._push(delivery, self._planned(delivery))
        for thread in self._threads:
            thread.start()
        return self

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until everything is acknowledged; False when the time is over first, and sending goes on."""
        with self._lock:
            return self._done.wait_for(lambda: not self._progress.outstanding, timeout_seconds)

    def stop(self) -> None:
        """Send nothing more, and wait for the requests under way."""
        with self._lock:
            self._stopped = True
            self._ready.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def progress(self) -> Progress:
        """Give a copy of the counters as they are now."""
        with self._lock:
            now = self._progress
            return replace(
                now,
                failures=now.failures.copy(),
                latencies_ms=list(now.latencies_ms),
                first_acknowledged=dict(now.first_acknowledged),
            )

    def request(self, event: Event) -> tuple[dict[str, str], bytes]:
        """Write one delivery's headers and body."""
        return _headers(event, self._secret, self._domain), event.body

    def _planned(self, delivery: Delivery) -> float:
        rate = self.options.orders_per_second
        return self._started + (delivery.position / rate if rate else 0.0)

    def _push(self, delivery: Delivery, due: float) -> None:
        heapq.heappush(self._later, (due, next(self._sequence), delivery))

    def _work(self) -> None:
        connection = _Connection(self._url, self.options.timeout_seconds)
        try:
            while (delivery := self._take()) is not None:
                if self._before_send:
                    self._before_send(delivery.event)
                attempt = self._send(connection, delivery)
                if self._on_attempt:
                    self._on_attempt(attempt)
                self._settle(delivery, attempt)
        finally:
            connection.close()

    def _take(self) -> Delivery | None:
        with self._lock:
            while not self._stopped and self._progress.outstanding:
                self._fall_due()
                if not self._now:
                    self._ready.wait(self._later[0][0] - time.monotonic() if self._later else None)
                    continue
                delivery = heapq.heappop(self._now)[2]
                delivery.tries += 1
                if delivery.tries == 1 and delivery.copy_after is not None:
                    copy = Delivery(delivery.event, delivery.position, duplicate=True)
                    self._push(copy, time.monotonic() + delivery.copy_after)
                    self._ready.notify()
                return delivery
            return None

    def _fall_due(self) -> None:
        """Move what is due to where the place in the plan decides, so that retries don't queue at the end."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, sequence, delivery = heapq.heappop(self._later)
            heapq.heappush(self._now, (delivery.position, sequence, delivery))

    def _send(self, connection: "_Connection", delivery: Delivery) -> Attempt:
        event, status, failure = delivery.event, None, None
        headers, body = self.request(event)
        began = time.perf_counter()
        try:
            connection.open()
            began = time.perf_counter()
            status = connection.post(headers, body)
        except (OSError, http.client.HTTPException) as error:
            failure = type(error).__name__
            connection.close()
        took = (time.perf_counter() - began) * 1000
        return Attempt(event, delivery.tries, delivery.duplicate, status, failure, took, time.time())

    def _settle(self, delivery: Delivery, attempt: Attempt) -> None:
        with self._lock:
            progress = self._progress
            progress.requests += 1
            if attempt.acknowledged:
                progress.acknowledged += 1
                progress.latencies_ms.append(attempt.milliseconds)
                progress.first_acknowledged.setdefault(attempt.event.external_id, attempt.ended_at)
            else:
                progress.failures[attempt.failure or str(attempt.status)] += 1
                waits = self.options.retry_seconds
                self._push(delivery, time.monotonic() + waits[min(delivery.tries, len(waits)) - 1])
            if delivery.tries == 1 and delivery.then is not None:
                self._push(delivery.then, self._planned(delivery.then))
            if progress.outstanding:
                self._ready.notify(2)  # for the two deliveries that may just have been pushed
            else:
                self._ready.notify_all()
                self._done.notify_all()


def _headers(event: Event, secret: bytes, domain: str) -> dict[str, str]:
    """Make the headers of one delivery, equal over its retries and duplicates."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "Shopify-Captain-Hook",
        "X-Shopify-API-Version": "2026-07",
        "X-Shopify-Event-Id": hashlib.md5(event.webhook_id.encode(), usedforsecurity=False).hexdigest(),
        "X-Shopify-Hmac-Sha256": base64.b64encode(hmac.digest(secret, event.body, "sha256")).decode(),
        "X-Shopify-Shop-Domain": domain,
        "X-Shopify-Topic": event.topic,
        "X-Shopify-Triggered-At": event.updated_at.isoformat(),
        "X-Shopify-Webhook-Id": event.webhook_id,
    }


class _Connection:
    """One kept-alive connection of one thread."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)
        self._path = parts.path or "/"
        self._used = 0.0

    def open(self) -> None:
        """Make sure that the connection is open and fresh. Raises OSError."""
        if self._connection.sock is not None and time.monotonic() - self._used > IDLE_SECONDS:
            self.close()
        if self._connection.sock is None:
            self._connection.connect()

    def post(self, headers: dict[str, str], body: bytes) -> int:
        """Send one request and read the whole answer; give its status. Raises OSError, HTTPException."""
        self._connection.request("POST", self._path, body, headers)
        response = self._connection.getresponse()
        response.read()
        self._used = time.monotonic()
        return response.status

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()
