"""What the receiver keeps on both databases once a webhook is genuine, and what it says of it."""

import json
import time
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from integrator import connectors
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, deliveries
from integrator.shops.base import Identity, Unreadable
from tests.webhooks import (
    KEYS,
    SECRETS,
    Bell,
    Site,
    all_syncs,
    headers,
    order_body,
    shop,
    site,
    store,
    tenant,
)
from web import create_app


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Site:
    """An app with acme's shop."""
    store(ledger)
    return site(monkeypatch, ledger)


BODIES: list[bytes] = [
    b"",
    b"\x00",
    b"{",
    b"[]",
    b"null",
    b"42",
    b"\xff\xfe{}",
    b'{"id": null}',
    b'{"id": true}',
    b'{"id": -1}',
    b'{"id": 1.5}',
    b'{"id": "x"}',
    b'{"id": "12\\u0000"}',
    b'{"id": "\\ud800"}',
    b'{"id": NaN}',
    b'{"id": {}}',
    b'{"no": "id"}',
    b"[" * 1_900,
    b'{"id": ' + b"9" * 1_000 + b"}",
]


def test_given_genuine_bodies_without_a_readable_id_when_posted_then_they_are_kept_and_held(made: Site) -> None:
    answers = [made.post(body) for body in BODIES]

    assert [answer.status_code for answer in answers] == [200] * len(BODIES)
    found = all_syncs(made.ledger)
    assert {(sync.state, sync.kind, sync.error_class) for sync in found} == {(State.HELD, "order", "Unmapped")}
    assert [sync.external_id for sync in found] == [
        f"delivery:{answer.headers['X-Correlation-Id']}" for answer in answers
    ]
    assert all("signing secret" in sync.error_remedy for sync in found)
    assert made.dispatcher.asked == []
    assert made.counted("held", shop="de") == len(BODIES)
    with made.ledger.read() as connection:
        kept = connection.execute(select(deliveries.c.body, deliveries.c.topic).order_by(deliveries.c.id)).all()
    assert [tuple(row) for row in kept] == [(body, "orders/create") for body in BODIES]


def test_given_large_ids_when_posted_then_no_digit_is_lost(made: Site) -> None:
    numbers = [1, 2**53 + 1, 2**63, 10**39]

    for number in numbers:
        assert made.post(json.dumps({"id": number}).encode()).status_code == 200

    assert [sync.external_id for sync in all_syncs(made.ledger)] == [str(number) for number in numbers]


def test_given_a_topic_that_is_not_ours_when_posted_then_200_counted_and_not_kept(made: Site) -> None:
    body = order_body()

    assert made.post(body, headers(body, topic="products/update")).status_code == 200

    assert made.rows() == (0, 0)
    assert made.counted("unknown_topic", tenant="acme", shop="de") == 1


@pytest.mark.parametrize(
    ("named", "taken"),
    [
        ("de.myshopify.com", True),
        ("DE.myshopify.com ", True),
        ("", True),
        ("globex.myshopify.com", False),
        ("de.myshopify.com.globex.example", False),
        ("de.myshopify.com, globex.myshopify.com", False),
    ],
)
def test_given_one_apps_secret_when_a_webhook_names_another_shop_then_its_body_is_a_hint_only(
    made: Site, named: str, taken: bool
) -> None:
    body = order_body()

    with capture_logs() as logs:
        assert made.post(body, headers(body) | {"X-Shopify-Shop-Domain": named}).status_code == 200

    with made.ledger.read() as connection:
        times = connection.execute(select(deliveries.c.snapshot_updated_at)).scalars().all()
    assert [time is not None for time in times] == [taken]  # without a time the worker asks the shop itself
    told = [line for line in logs if line["event"] == "webhook_names_another_shop"]
    assert len(told) == (not taken)
    assert "globex" not in str(told)


@pytest.mark.parametrize("inactive", ["tenant", "shop"])
def test_given_an_inactive_tenant_or_shop_when_posted_then_200_counted_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger, inactive: str
) -> None:
    of = tenant(active=False) if inactive == "tenant" else tenant("acme", shop(active=False))
    store(ledger, of)
    made = site(monkeypatch, ledger)

    assert made.post(order_body()).status_code == 200
    assert made.post(b"unsigned", {}).status_code == 401

    assert made.rows() == (0, 0)
    assert made.counted("inactive", tenant="acme", shop="de") == 1


def test_given_the_same_delivery_again_when_posted_then_200_and_nothing_changes(made: Site) -> None:
    body = order_body()
    first = made.post(body)

    with capture_logs() as logs:
        again = made.post(body)

    assert (first.status_code, again.status_code) == (200, 200)
    assert made.rows() == (1, 1)
    assert all_syncs(made.ledger)[0].wanted == 1
    assert made.counted("duplicate", tenant="acme", shop="de") == 1
    assert [line["duplicate"] for line in logs if line["event"] == "webhook_accepted"] == [True]


@pytest.mark.parametrize("changed", ["the webhook's id", "the body", "the topic", "no id at all"])
def test_given_anything_else_of_a_delivery_when_posted_then_it_is_no_duplicate(made: Site, changed: str) -> None:
    body = order_body()
    other = order_body(note="x") if changed == "the body" else body
    given = headers(
        other,
        event="w-2" if changed == "the webhook's id" else "w-1",
        topic="orders/updated" if changed == "the topic" else "orders/create",
    )
    if changed == "no id at all":
        del given["X-Shopify-Webhook-Id"]
        made.post(other, given)
    made.post(body)

    made.post(other, given)

    assert made.rows() == (3 if changed == "no id at all" else 2, 1)
    assert made.counted("duplicate") == 0


def test_given_two_tenants_with_equal_orders_when_posted_then_neither_sees_the_other(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger, tenant(), tenant("bolt", shop("de", "KEY_2")))
    made = site(monkeypatch, ledger)
    body = order_body()

    made.post(body)
    made.post(body, url=f"/webhooks/shopify/{KEYS['KEY_2']}")

    first, second = all_syncs(ledger)
    assert first.external_id == second.external_id
    assert first.shop_id != second.shop_id
    assert first.gate_id != second.gate_id
    assert [made.counted("accepted", tenant=slug) for slug in ("acme", "bolt")] == [1, 1]


def test_given_an_accepted_webhook_when_logged_then_the_line_says_whose_and_nothing_private(made: Site) -> None:
    body = order_body(email="ada@example.com")

    with capture_logs() as logs:
        answer = made.post(body)
        wait_for_lines(logs, 1)

    (sync,) = all_syncs(made.ledger)
    assert logs == [
        {
            "event": "webhook_accepted",
            "log_level": "info",
            "tenant": "acme",
            "shop": "de",
            "topic": "orders/create",
            "external_id": "5000000000000000001",
            "sync_id": sync.id,
            "version": 1,
            "duplicate": False,
            "held": False,
            "correlation_id": answer.headers["X-Correlation-Id"],
        }
    ]


def wait_for_lines(logs: list[Any], number: int) -> None:
    """The line is written after the answer was let go."""
    end = time.monotonic() + 10
    while len(logs) < number:
        assert time.monotonic() < end
        time.sleep(0.002)


def test_given_anything_refused_when_logged_then_neither_key_nor_body_is(made: Site) -> None:
    with capture_logs() as logs:
        made.post(order_body(email="ada@example.com"), {})
        made.post(order_body(email="ada@example.com"), url="/webhooks/shopify/secret-key-0123456789abcdef")
        made.post(b"ada@example.com" * 1_000)

    text = repr(logs)
    assert len(logs) == 3
    assert not any(private in text for private in ("ada@", "secret-key", KEYS["KEY"], SECRETS["NEW"]))


class Foreign:
    """A connector of somebody else's, that identifies as it is told."""

    platform = "shopify"

    def __init__(self, external_id: str, updated_at: Any = None) -> None:
        self._identity = Identity("order", external_id, "order", updated_at, None)  # type: ignore[arg-type]

    def verify(self, *_: Any) -> None: ...

    def identify(self, *_: Any) -> Identity | None:
        return self._identity

    def is_from(self, *_: Any) -> bool:
        return True


def test_given_ids_that_no_database_keeps_when_posted_then_they_are_held(
    monkeypatch: pytest.MonkeyPatch, made: Site
) -> None:
    for external_id in ("", "a\x00b", "a\ud800", "x" * 10_000):
        foreign = Foreign(external_id)
        monkeypatch.setattr(connectors, "shop", lambda _, found=foreign: found)
        assert made.post(b"{}").status_code == 200
    monkeypatch.setattr(connectors, "shop", lambda _: Foreign("1", datetime(2026, 3, 1)))  # noqa: DTZ001
    assert made.post(b"{}").status_code == 200

    assert [sync.state for sync in all_syncs(made.ledger)] == [State.HELD] * 5


def test_given_a_reason_from_a_connector_when_held_then_it_is_detail_and_not_message(
    monkeypatch: pytest.MonkeyPatch, made: Site
) -> None:
    def unreadable(*_: Any) -> Any:
        raise Unreadable("what the body says")

    monkeypatch.setattr("integrator.shops.shopify.Shopify.identify", unreadable)
    made.post(b"{}")

    (sync,) = all_syncs(made.ledger)
    assert (sync.error_detail, sync.error_message) == (
        "what the body says",
        "The webhook's body has no readable id.",
    )


def test_given_a_real_dispatcher_when_a_webhook_is_kept_then_its_bell_is_rung(ledger: Ledger) -> None:
    store(ledger)
    bell = Bell()
    app = create_app(ledger=ledger, publish=bell)
    body = order_body()

    app.test_client().post(f"/webhooks/shopify/{KEYS['KEY']}", data=body, headers=headers(body))

    end = time.monotonic() + 10
    while not bell.rung:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [(one.tenant, one.wanted, one.kind) for one in bell.rung] == [("acme", 1, "order")]
    assert all_syncs(ledger)[0].state == State.QUEUED
