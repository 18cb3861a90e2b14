"""Counters of this process, and the page that shows them to Prometheus."""

import hmac
import threading
from collections import Counter
from typing import Protocol

from flask import Flask, Response, abort, request

from integrator.config import Settings

WEBHOOKS = "integrator_webhooks_total"
_HELP = {WEBHOOKS: "Webhooks by what became of them."}

UNKNOWN = "unknown"
"""The label of a webhook whose shop is not known."""


class _Named(Protocol):
    @property
    def tenant(self) -> str: ...
    @property
    def slug(self) -> str: ...


class Counters:
    """Counts that only rise, by name and labels. Threads share it.

    `common` labels stand on every line: with several processes each page shows one of them, and only a label
    keeps their counts apart.
    """

    def __init__(self, **common: str) -> None:
        self._common = common
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def add(self, name: str, **labels: str) -> None:
        """Count one."""
        key = (name, tuple(labels.items()))
        with self._lock:
            self._counts[key] += 1

    def webhook(self, outcome: str, shop: _Named | None) -> None:
        """Count a webhook by what became of it and by its shop."""
        tenant, slug = (shop.tenant, shop.slug) if shop else (UNKNOWN, UNKNOWN)
        self.add(WEBHOOKS, outcome=outcome, tenant=tenant, shop=slug)

    def value(self, name: str, **labels: str) -> int:
        """The sum of the counts that carry these labels."""
        wanted = set(labels.items())
        with self._lock:
            return sum(n for (found, have), n in self._counts.items() if found == name and wanted <= set(have))

    def text(self) -> str:
        """All counts in Prometheus' text format, version 0.0.4."""
        with self._lock:
            counts = sorted(self._counts.items())
        lines: list[str] = []
        last = ""
        for (name, labels), count in counts:
            if name != last:
                lines += [f"# HELP {name} {_HELP.get(name, name)}", f"# TYPE {name} counter"]
                last = name
            pairs = ",".join(f'{key}="{_escaped(value)}"' for key, value in (*self._common.items(), *labels))
            lines.append(f"{name}{{{pairs}}} {count}")
        return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def init_app(app: Flask, settings: Settings, counters: Counters) -> None:
    """Add /metrics. Without its token it looks like any address that does not exist."""
    token = settings.metrics_token
    expected = f"Bearer {token.get_secret_value()}".encode() if token and token.get_secret_value() else None

    @app.get("/metrics")
    def metrics() -> Response:
        given = request.headers.get("Authorization", "").encode("utf-8", "replace")
        if expected is None or not hmac.compare_digest(given, expected):
            abort(404)
        return Response(counters.text(), content_type="text/plain; version=0.0.4; charset=utf-8")
