"""The webhook receiver: `POST /webhooks/<platform>/<shop key>` (DESIGN §4).

Checked in this order: the method, the size, the key, the signature. From there on the answer is 200 whatever the
body is, since shops delete a subscription after a 4xx; and it is never given before the commit. What can't be kept
now is answered 503, so that the shop sends it again.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from flask import Flask, Response
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import get_content_length, get_input_stream

from integrator import connectors, errors, failpoints, tracing
from integrator.config import Settings
from integrator.ledger.access import ShopRow
from integrator.ledger.engine import UNREACHABLE
from integrator.logs import describe, get_logger
from integrator.metrics import UNKNOWN
from integrator.secrets import SecretsError
from integrator.shops.base import Ping, Unsigned
from web.answer import Answer
from web.batcher import Busy, Steps
from web.metrics import Counters
from web.problems import problem
from web.reader import Shops
from web.webhook import Webhook, delivery_of, headers_of
from web.writer import Arrived, OverCap, Writer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = get_logger(__name__)

RESERVED = "erp"
"""Not a platform: the management systems' own webhooks will have this name."""

BUSY_SECONDS = 5
OVER_CAP_SECONDS = 60
"""When a shop may come back: the ledger's trouble is short, a backlog over the cap is not."""


class Refused(Exception):
    """The webhook is not kept: the status, the word for the counter, and a sentence for people."""

    def __init__(self, status: int, outcome: str, detail: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.outcome = outcome
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class Receiver:
    """Answers webhooks. Threads share it."""

    def __init__(self, settings: Settings, shops: Shops, writer: Writer, counters: Counters) -> None:
        self._settings = settings
        self._shops = shops
        self._writer = writer
        self._counters = counters

    def receive(self, environ: WSGIEnvironment, start: StartResponse, platform: str, key: str) -> Answer:
        """Answer one request."""
        return Answer(self._receive(environ, start, platform, key))

    def _receive(
        self, environ: WSGIEnvironment, start: StartResponse, platform: str, key: str
    ) -> Steps[Iterable[bytes]]:
        began = time.monotonic()
        deadline = began + self._settings.web_answer_seconds
        webhook = Webhook(platform, key, secrets.token_hex(16), deadline)
        with tracing.begin("webhook", webhook.correlation_id) as span:
            told_as, refusal = yield from self._answer(environ, webhook)
            status = refusal.status_code if refusal else 200
            if webhook.shop is not None:
                shop = webhook.shop
                span.note(tenant=shop.tenant, shop=shop.slug, platform=shop.platform)
            span.note(status=status)
            if told_as != webhook.correlation_id:  # the order has been told of before
                span.link(told_as)
        self._counters.answered(status, time.monotonic() - began - webhook.reading_seconds)
        if refusal:
            refusal.headers["X-Correlation-Id"] = told_as
            return refusal(environ, start)
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0"), ("X-Correlation-Id", told_as)])
        return ()

    def _answer(self, environ: WSGIEnvironment, webhook: Webhook) -> Steps[tuple[str, Response | None]]:
        """The correlation id to tell, and the answer if it is not a plain 200."""
        try:
            yield from self._admit(environ, webhook)
            return (yield from self._keep(webhook)), None
        except Refused as refused:
            return webhook.correlation_id, self._refuse(webhook, refused)
        except Exception as error:  # noqa: BLE001 - not kept, so the shop must send it again
            return webhook.correlation_id, self._fail(webhook, error)

    def _admit(self, environ: WSGIEnvironment, webhook: Webhook) -> Steps[None]:
        """Size, key, signature (or a platform's unsigned ping), in this order. Raises Refused."""
        announced = get_content_length(environ)
        if announced is None:  # only reading tells how large it is
            self._read(environ, webhook, announced)
        if (len(webhook.body) if announced is None else announced) > self._settings.max_body_bytes:
            with contextlib.suppress(Refused):  # counted for its shop when that is to be had
                webhook.shop = yield from self._find(webhook)
            raise Refused(413, "too_large", f"The body is larger than {self._settings.max_body_bytes} bytes.")
        webhook.shop = yield from self._find(webhook)
        if webhook.shop is None:
            raise Refused(404, "unknown_key", "There is nothing at this address.")
        if announced is not None:
            self._read(environ, webhook, announced)
        webhook.headers = headers_of(environ)
        try:
            connector = connectors.shop(webhook.shop.platform)
            connector.verify(webhook.headers, webhook.body, webhook.shop.webhook_secrets)
        except Unsigned:
            raise Refused(401, "unsigned", "The signature is missing or wrong.") from None
        except Ping:
            webhook.ping = True

    def _read(self, environ: WSGIEnvironment, webhook: Webhook, announced: int | None) -> None:
        """Read the raw body, whatever its encoding, without its time counting as ours. Raises Refused."""
        began = time.monotonic()
        try:
            if announced is not None:
                webhook.body = environ["wsgi.input"].read(announced)
            else:  # one byte more than a body may have: a streamed one is cut off there without a word
                limit = self._settings.max_body_bytes + 1
                webhook.body = get_input_stream(environ, max_content_length=limit).read()
        except (ClientDisconnected, OSError):
            raise Refused(408, "incomplete", "The body did not arrive in time.") from None
        except Exception as error:  # noqa: BLE001 - the server's own errors about broken chunks
            raise Refused(400, "incomplete", f"The body can't be read ({type(error).__name__}).") from None
        webhook.reading_seconds = time.monotonic() - began
        webhook.deadline += webhook.reading_seconds
        if announced is not None and len(webhook.body) < announced:
            raise Refused(400, "incomplete", "The body is shorter than its Content-Length.")

    def _find(self, webhook: Webhook) -> Steps[ShopRow | None]:
        if webhook.platform == RESERVED:
            return None
        try:
            return (yield from self._shops.find(webhook.platform, webhook.key, webhook.deadline))
        except (Busy, SQLAlchemyError) as error:
            raise _busy(error) from None
        except SecretsError as error:
            log.error("secrets_unreadable", reason=str(error))  # noqa: TRY400 - the sentence says it all
            raise Refused(503, "failed", _TRY_AGAIN, retry_after_seconds=BUSY_SECONDS) from None

    def _keep(self, webhook: Webhook) -> Steps[str]:
        """Keep an admitted webhook, or count that there is nothing to keep. The correlation id. Raises Refused."""
        shop = webhook.shop
        assert shop is not None, "admitted"  # noqa: S101
        if webhook.ping:
            return self._count("ping", webhook)
        if not shop.active:
            return self._count("inactive", webhook)
        delivery = delivery_of(webhook, shop)
        if delivery is None:
            return self._count("unknown_topic", webhook)
        try:
            with tracing.inner("keep"):
                accepted = yield from self._writer.keep(Arrived(shop, delivery), webhook.deadline)
        except OverCap as over:
            raise Refused(503, "over_cap", str(over), retry_after_seconds=OVER_CAP_SECONDS) from None
        except (Busy, *UNREACHABLE) as error:
            raise _busy(error) from None
        failpoints.fire("receiver.committed")
        return accepted.correlation_id or webhook.correlation_id

    def _count(self, outcome: str, webhook: Webhook) -> str:
        shop = webhook.shop
        self._counters.webhook(outcome, shop)
        log.info("webhook_not_kept", outcome=outcome, correlation_id=webhook.correlation_id, **_whose(shop))
        return webhook.correlation_id

    def _refuse(self, webhook: Webhook, refused: Refused) -> Response:
        self._counters.webhook(refused.outcome, webhook.shop)
        log.warning(
            "webhook_refused",
            status=refused.status,
            outcome=refused.outcome,
            reason=refused.detail,
            correlation_id=webhook.correlation_id,
            **_whose(webhook.shop),
        )
        wait = refused.retry_after_seconds
        return problem(
            refused.status, refused.detail, retry_after_seconds=wait, correlation_id=webhook.correlation_id
        )

    def _fail(self, webhook: Webhook, error: Exception) -> Response:
        bug = errors.Bug(type(error).__qualname__, subject=f"receiver {type(error).__qualname__}")
        self._counters.webhook("failed", webhook.shop)
        log.error(
            "webhook_failed",
            error_class=bug.error_class,
            fingerprint=bug.fingerprint,
            correlation_id=webhook.correlation_id,
            **_whose(webhook.shop),
            **describe(type(error), error.__traceback__),
        )
        return problem(503, _TRY_AGAIN, retry_after_seconds=BUSY_SECONDS, correlation_id=webhook.correlation_id)


_TRY_AGAIN = "The webhook could not be kept. Send it again."


def _busy(error: Exception) -> Refused:
    reason = str(error) if isinstance(error, Busy) else type(error).__name__
    return Refused(503, "busy", f"{_TRY_AGAIN} ({reason})", retry_after_seconds=BUSY_SECONDS)


def _whose(shop: ShopRow | None) -> dict[str, str]:
    return {"tenant": shop.tenant, "shop": shop.slug} if shop else {"tenant": UNKNOWN, "shop": UNKNOWN}


def init_app(app: Flask, receiver: Receiver) -> None:
    """Put the receiver in front of the app's routing, which answers every other method on its addresses 405."""
    app.add_url_rule(
        "/webhooks/<platform>/<key>", "webhook", _unreached, methods=["POST"], provide_automatic_options=False
    )
    routed = app.wsgi_app

    def front(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace").split("/")
            if len(path) == 4 and path[:2] == ["", "webhooks"] and path[2] and path[3]:
                return receiver.receive(environ, start, path[2], path[3])
        return routed(environ, start)

    app.wsgi_app = front  # type: ignore[method-assign, assignment]


def _unreached(platform: str, key: str) -> NoReturn:
    raise NotImplementedError
