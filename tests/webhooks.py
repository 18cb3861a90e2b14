"""What tests of the receiver build: tenants from a file, an app with fakes around it, signed webhooks."""

import base64
import hmac
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from integrator.config import Settings
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Rung
from integrator.ledger.schema import deliveries, syncs
from integrator.ledger.tenants import File, apply
from integrator.metrics import SHOP_WEBHOOKS
from integrator.secrets import KeyRing, key_ring
from web import create_app
from web.metrics import Counters

SECRETS = {"NEW": "the-new-secret", "OLD": "the-old-secret", "TOKEN": "a-token", "OTHER": "the-other-secret"}
KEYS = {"KEY": "acme-key-0123456789abcdefghij", "KEY_2": "bolt-key-0123456789abcdefghij"}
WOO_KEYS = {"CONSUMER_KEY": "ck_made-up", "CONSUMER_SECRET": "cs_made-up"}
ENVIRONMENT = SECRETS | KEYS | WOO_KEYS

JSON = dict[str, Any]


def shop(slug: str = "de", key: str = "KEY", **changes: Any) -> JSON:
    """One shop of the file."""
    return {
        "slug": slug,
        "platform": "shopify",
        "erp": "own",
        "key": {"env": key},
        "config": {"domain": f"{slug}.myshopify.com"},
        "secrets": {"webhook": [{"env": "NEW"}, {"env": "OLD"}], "access_token": {"env": "TOKEN"}},
    } | changes


def woo_shop(slug: str = "de", key: str = "KEY", **changes: Any) -> JSON:
    """One WooCommerce shop of the file."""
    secrets = {
        "webhook": [{"env": "NEW"}, {"env": "OLD"}],
        "consumer_key": {"env": "CONSUMER_KEY"},
        "consumer_secret": {"env": "CONSUMER_SECRET"},
    }
    config = {"url": f"https://{slug}.example"}
    return shop(slug, key, platform="woocommerce", config=config, secrets=secrets) | changes


def tenant(slug: str = "acme", *shops: JSON, **changes: Any) -> JSON:
    """One tenant of the file."""
    erp = {
        "slug": "own",
        "kind": "rest",
        "config": {"url": "http://127.0.0.1:9"},
        "secrets": {"token": {"env": "TOKEN"}},
    }
    return {"slug": slug, "name": slug.title(), "erps": [erp], "shops": list(shops) or [shop()]} | changes


def store(ledger: Ledger, *tenants: JSON, ring: KeyRing | None = None) -> None:
    """Apply a file with these tenants; acme with its shop by default."""
    file = File.model_validate({"tenants": list(tenants) or [tenant()]})
    with ledger.write() as connection:
        apply(connection, file, ENVIRONMENT, ring or key_ring())


def order_body(number: int = 1, **changes: Any) -> bytes:
    """The body of an order's webhook, as far as the receiver reads it."""
    return json.dumps(
        {"id": 5_000_000_000_000_000_000 + number, "updated_at": "2026-03-01T12:00:00Z"} | changes
    ).encode()


def signature(body: bytes, secret: str = SECRETS["NEW"]) -> str:
    """Shopify's signature of a body."""
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()


def headers(
    body: bytes, *, event: str = "w-1", topic: str = "orders/create", secret: str = SECRETS["NEW"]
) -> dict[str, str]:
    """A webhook's headers."""
    return {
        "Content-Type": "application/json",
        "X-Shopify-Topic": topic,
        "X-Shopify-Webhook-Id": event,
        "X-Shopify-Shop-Domain": "de.myshopify.com",
        "X-Shopify-Triggered-At": "2026-03-01T12:00:01Z",
        "X-Shopify-Api-Version": "2026-07",
        "X-Shopify-Hmac-Sha256": signature(body, secret),
        "Cookie": "session=private",
    }


def woo_headers(
    body: bytes, *, topic: str = "order.updated", delivery: str = "d-1", secret: str = SECRETS["NEW"]
) -> dict[str, str]:
    """A WooCommerce webhook's headers."""
    resource, _, event = topic.partition(".")
    return {
        "Content-Type": "application/json",
        "X-WC-Webhook-Source": "https://de.example/",
        "X-WC-Webhook-Topic": topic,
        "X-WC-Webhook-Resource": resource,
        "X-WC-Webhook-Event": event,
        "X-WC-Webhook-Signature": signature(body, secret),
        "X-WC-Webhook-ID": "2",
        "X-WC-Webhook-Delivery-ID": delivery,
    }


@dataclass
class Bell:
    """A publish that remembers, and rings nothing."""

    rung: list[Rung] = field(default_factory=list)

    def __call__(self, rung: list[Rung], /) -> list[Rung]:
        self.rung += rung
        return []


@dataclass
class SilentDispatcher:
    """Stands for the dispatcher: remembers the gates that it was asked for."""

    asked: list[int] = field(default_factory=list)

    def request(self, gate_id: int) -> None:
        self.asked.append(gate_id)


@dataclass
class Site:
    """An app with a tenant, and what it counted and asked for."""

    app: Flask
    ledger: Ledger
    counters: Counters
    dispatcher: SilentDispatcher

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def post(
        self, body: bytes, given: dict[str, str] | None = None, *, url: str | None = None, **kwargs: Any
    ) -> TestResponse:
        """Send a webhook, signed unless told otherwise."""
        url = url or f"/webhooks/shopify/{KEYS['KEY']}"
        return self.client.post(url, data=body, headers=headers(body) if given is None else given, **kwargs)

    def counted(self, outcome: str, **labels: str) -> float:
        return self.counters.value(SHOP_WEBHOOKS, outcome=outcome, **labels)

    def rows(self) -> tuple[int, int]:
        """How many deliveries and syncs there are."""
        return count(self.ledger, deliveries), count(self.ledger, syncs)


def count(ledger: Ledger, table: Any) -> int:
    """How many rows a table has."""
    with ledger.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def all_syncs(ledger: Ledger) -> list[Any]:
    """All syncs, oldest first."""
    with ledger.read() as connection:
        return list(connection.execute(select(syncs).order_by(syncs.c.id)))


def site(monkeypatch: pytest.MonkeyPatch, ledger: Ledger, **changes: Any) -> Site:
    """An app on this ledger, with a dispatcher that rings nothing."""
    counters, dispatcher = Counters(), SilentDispatcher()
    monkeypatch.setattr("web.app.Counters", lambda *_: counters)
    monkeypatch.setattr("web.app.Dispatcher", lambda *_, **__: dispatcher)
    app = create_app(Settings(**changes), ledger=ledger, publish=Bell())
    return Site(app, ledger, counters, dispatcher)


def server_environment(ledger_url: str, **changes: str) -> dict[str, str]:
    """The environment of a process of ours on this ledger; what it logs is safe to read."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INTEGRATOR_")}
    ours = {
        "INTEGRATOR_LEDGER_URL": ledger_url,
        "INTEGRATOR_SECRET_KEYS": os.environ["INTEGRATOR_SECRET_KEYS"],
        "INTEGRATOR_SQS_ENDPOINT_URL": "http://127.0.0.1:9",
        "INTEGRATOR_BIND": "127.0.0.1:0",
    }
    return kept | ENVIRONMENT | ours | changes


Make = Callable[..., Site]
