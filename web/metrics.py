"""What the receiver counts, and the page that shows it to Prometheus."""

import hmac
from typing import Any, Protocol

from flask import Flask, Response, abort, request

from integrator.config import Settings
from integrator.metrics import ANSWER_SECONDS, SHOP_WEBHOOKS, UNKNOWN, WEBHOOKS, Meters, Metric
from integrator.monitor import TEXT


class _Named(Protocol):
    @property
    def tenant(self) -> str: ...
    @property
    def slug(self) -> str: ...
    @property
    def platform(self) -> str: ...


class Counters:
    """The receiver's counts. Threads share it; several processes, if a folder is named for that."""

    def __init__(self, meters: Meters | None = None) -> None:
        self._meters = meters or Meters()

    def webhook(self, outcome: str, shop: _Named | None, topic: str = UNKNOWN) -> None:
        """Count a webhook by what became of it and by its shop; `topic` only when the connector knows it."""
        tenant, slug, platform = (shop.tenant, shop.slug, shop.platform) if shop else (UNKNOWN,) * 3
        self._meters.count(WEBHOOKS, platform=platform, topic=topic, outcome=outcome)
        self._meters.count(SHOP_WEBHOOKS, tenant=tenant, shop=slug, outcome=outcome)

    def answered(self, status: int, seconds: float) -> None:
        """Note how long an answer took."""
        self._meters.observe(ANSWER_SECONDS, seconds, status=str(status))

    def value(self, metric: Metric, **labels: str) -> float:
        """The sum of a metric's values that carry these labels, in this process."""
        return self._meters.value(metric, **labels)

    def text(self) -> bytes:
        """All counts in Prometheus' text format."""
        return self._meters.text()


def init_app(app: Flask, settings: Settings, counters: Counters) -> None:
    """Add /metrics: open on the metrics port, elsewhere with its token or like any address that does not exist."""
    token = settings.metrics_token
    expected = f"Bearer {token.get_secret_value()}".encode() if token and token.get_secret_value() else None

    def allowed() -> bool:
        given = request.headers.get("Authorization", "").encode("utf-8", "replace")
        known = expected is not None and hmac.compare_digest(given, expected)
        return known or _on_metrics_port(settings, request.environ.get("gunicorn.socket"))

    @app.get("/metrics")
    def metrics() -> Response:
        if not allowed():
            abort(404)
        return Response(counters.text(), content_type=TEXT)


def _on_metrics_port(settings: Settings, connection: Any) -> bool:
    """Whether the request came in where only the metrics are asked for.

    The connection itself is asked: what the WSGI environment says of host and port may be the client's word.
    """
    if not settings.metrics_port or connection is None:
        return False
    name = connection.getsockname()
    return isinstance(name, tuple) and name[1] == settings.metrics_port
