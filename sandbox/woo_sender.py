"""Sends the webhooks of made-up orders as WooCommerce would, with its habits.

- The body is built when it is delivered: it shows the order as it is then, not as it was.
- The delivery id is a hash of the webhook and the second: orders share it.
- A failure is not tried again by WooCommerce; more than five in a row disable the webhook. Nothing but a
  reconciliation finds what is lost then. Here somebody presses every button at once: what was not acknowledged
  is sent again, and a disabled webhook is enabled, which sends its ping. Both are counted.
"""

import base64
import hashlib
import hmac
import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sandbox.shop_facts import Event, Life
from sandbox.shop_plan import SendOptions
from sandbox.shop_sender import Attempt, Sender
from sandbox.woo_server import NO_ORDER, WooState, to_json

WEBHOOKS = {"order.created": 1, "order.updated": 2, "order.deleted": 3, "order.restored": 4}
"""The ids of the shop's webhooks by topic."""

MOST_FAILURES = 5
"""WooCommerce: one more in a row disables a webhook."""

USER_AGENT = "WooCommerce/10.4.0 Hookshot (WordPress/6.9)"


@dataclass
class Webhooks:
    """How the shop's webhooks fare, by topic: failures in a row, how often each was disabled, and its pings."""

    failing: Counter[str] = field(default_factory=Counter)
    disabled: Counter[str] = field(default_factory=Counter)
    pings: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record(self, topic: str, *, delivered: bool) -> bool:
        """Count one delivery; True when it was the failure that disables the webhook."""
        with self._lock:
            if delivered:
                self.failing[topic] = 0
                return False
            if self.failing[topic] < MOST_FAILURES:
                self.failing[topic] += 1
                return False
            self.failing[topic] = 0
            self.disabled[topic] += 1
            return True

    def pinged(self, outcome: str) -> None:
        """Count a ping by what it was answered."""
        with self._lock:
            self.pings[outcome] += 1


class WooSender(Sender):
    """A sender of WooCommerce's webhooks. `webhooks` counts how they fare; `domain` is the shop's address."""

    def __init__(
        self,
        receiver_url: str,
        lives: Sequence[Life],
        *,
        state: WooState,
        webhooks: Webhooks,
        secret: str,
        domain: str,
        options: SendOptions | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> None:
        super().__init__(
            receiver_url,
            lives,
            secret=secret,
            domain=domain,
            options=options,
            before_send=state.advance,
            on_attempt=self._attempted,
        )
        self._webhooks = webhooks
        self._state = state
        self._attempt_made = on_attempt

    def start(self) -> "WooSender":
        """Save the webhooks, which pings them, and begin to send. Returns when the pings are answered."""
        for topic in WEBHOOKS:
            self.ping(topic)
        super().start()
        return self

    def request(self, event: Event) -> tuple[dict[str, str], bytes]:
        """Write one delivery: what the order is now, and ids that say less than they seem to."""
        body = event.body
        if event.topic != "order.deleted":
            now = self._state.now(event.external_id)
            body = now.shown if now else to_json(NO_ORDER)
        webhook = WEBHOOKS[event.topic]
        resource, _, happened = event.topic.partition(".")
        return {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "X-WC-Webhook-Source": f"https://{self._domain}/",
            "X-WC-Webhook-Topic": event.topic,
            "X-WC-Webhook-Resource": resource,
            "X-WC-Webhook-Event": happened,
            "X-WC-Webhook-Signature": base64.b64encode(hmac.digest(self._secret, body, "sha256")).decode(),
            "X-WC-Webhook-ID": str(webhook),
            "X-WC-Webhook-Delivery-ID": delivery_id(webhook, int(time.time())),
        }, body

    def ping(self, topic: str) -> None:
        """Ask whether anybody is there, as WooCommerce does when a webhook is saved: unsigned, as a form."""
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.options.timeout_seconds)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "User-Agent": USER_AGENT}
        try:
            connection.request("POST", parts.path or "/", f"webhook_id={WEBHOOKS[topic]}", headers)
            outcome = str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        finally:
            connection.close()
        self._webhooks.pinged(outcome)

    def _attempted(self, attempt: Attempt) -> None:
        topic = attempt.event.topic
        # WooCommerce: a success is 2xx, 301 or 302; no answer is a failure.
        if self._webhooks.record(topic, delivered=attempt.status is not None and 200 <= attempt.status < 303):
            self.ping(topic)
        if self._attempt_made:
            self._attempt_made(attempt)


def delivery_id(webhook: int, second: int) -> str:
    """WooCommerce: a hash of the webhook's id and the second, so that all its deliveries of a second share it."""
    return hashlib.md5(f"{webhook}{second}".encode(), usedforsecurity=False).hexdigest()
