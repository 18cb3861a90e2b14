"""WooCommerce's webhooks at the receiver: its pings, its shared delivery ids, and its bodies that repeat."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, deliveries, shops, syncs
from sandbox.shop import SendOptions
from sandbox.woo import WooSimulation
from tests.webhooks import KEYS, SECRETS, Site, all_syncs, site, store, tenant, woo_headers, woo_shop

URL = f"/webhooks/woocommerce/{KEYS['KEY']}"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "woocommerce"
PING = (SAMPLES / "ping.txt").read_bytes()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Site:
    """An app with acme's shop on WooCommerce; bodies of at most 10,000 bytes."""
    store(ledger, tenant("acme", woo_shop()))
    return site(monkeypatch, ledger, max_body_bytes=10_000)


def order(number: int = 1, **changes: Any) -> bytes:
    return json.dumps({"id": number, "date_modified_gmt": "2026-03-01T12:00:00"} | changes).encode()


def post(made: Site, body: bytes, *, url: str = URL, **headers: str) -> TestResponse:
    return made.post(body, woo_headers(body, **headers), url=url)


def test_given_a_ping_when_posted_then_200_and_nothing_is_kept(made: Site) -> None:
    with capture_logs() as logs:
        answer = made.post(PING, FORM, url=URL)

    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["X-Correlation-Id"]
    assert made.rows() == (0, 0)
    assert made.dispatcher.asked == []
    assert made.counted("ping", tenant="acme", shop="de") == 1
    assert [(line["event"], line["outcome"]) for line in logs] == [("webhook_not_kept", "ping")]


@pytest.mark.parametrize(
    ("method", "url", "body", "headers", "status"),
    [
        # A ping passes every check but the signature's.
        ("PUT", URL, PING, FORM, 405),
        ("POST", URL, b"webhook_id=" + b"1" * 10_000, FORM, 413),
        ("POST", "/webhooks/woocommerce/no-such-key-0123456789abcdef", PING, FORM, 404),
        ("POST", f"/webhooks/shopify/{KEYS['KEY']}", PING, FORM, 404),
        ("POST", URL, PING, {"Content-Type": "application/json"}, 401),
        ("POST", URL, PING, FORM | {"X-WC-Webhook-Signature": "x"}, 401),
        ("POST", URL, b"webhook_id=x", FORM, 401),
        ("POST", URL, order(), FORM, 401),
        ("POST", URL, order(), {"Content-Type": "application/json"}, 401),
    ],
)
def test_given_what_is_almost_a_ping_when_posted_then_the_first_check_answers(
    made: Site, method: str, url: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = made.client.open(url, method=method, data=body, headers=headers)

    assert answer.status_code == status
    assert made.rows() == (0, 0)
    assert made.counted("ping") == 0


def test_given_a_ping_of_shopify_s_form_when_posted_to_a_shopify_shop_then_401(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger)
    made = site(monkeypatch, ledger)

    assert made.post(PING, FORM).status_code == 401


def test_given_an_inactive_shop_when_pinged_then_200(made: Site) -> None:
    with made.ledger.write() as connection:
        connection.execute(update(shops).values(active=False))

    assert made.post(PING, FORM, url=URL).status_code == 200
    assert made.rows() == (0, 0)


def test_given_orders_that_share_a_delivery_id_when_posted_then_all_are_kept(made: Site) -> None:
    answers = [post(made, order(number), topic="order.created", delivery="d-1") for number in range(1, 6)]

    assert {answer.status_code for answer in answers} == {200}
    assert [sync.external_id for sync in all_syncs(made.ledger)] == ["1", "2", "3", "4", "5"]
    assert made.rows() == (5, 5)
    assert made.counted("duplicate") == 0


@pytest.mark.parametrize("topics", [("order.updated", "order.updated"), ("order.created", "order.updated")])
def test_given_the_same_body_twice_when_posted_then_wanted_is_raised_since_the_order_may_have_been_elsewhere(
    made: Site, topics: tuple[str, str]
) -> None:
    for topic in topics:
        assert post(made, order(status="pending"), topic=topic, delivery="d-1").status_code == 200

    (sync,) = all_syncs(made.ledger)
    assert (sync.wanted, sync.state) == (2, State.PENDING)
    assert made.rows() == (2, 1)
    assert made.counted("duplicate") == 0


def test_given_an_order_there_and_back_within_a_second_when_posted_then_the_last_body_is_the_newest(
    made: Site,
) -> None:
    for status in ("pending", "on-hold", "pending"):
        post(made, order(status=status), delivery="d-1")

    (sync,) = all_syncs(made.ledger)
    assert sync.wanted == 3
    with made.ledger.read() as connection:
        kept = connection.execute(select(deliveries.c.body, deliveries.c.version).order_by(deliveries.c.version))
        assert [json.loads(row.body)["status"] for row in kept] == ["pending", "on-hold", "pending"]


@pytest.mark.parametrize(
    ("topic", "kept"),
    [
        ("order.created", True),
        ("order.updated", True),
        ("order.restored", True),
        ("order.deleted", True),
        ("product.updated", False),
        ("coupon.created", False),
        ("customer.deleted", False),
        ("action.woocommerce_payment_complete", False),
        ("", False),
    ],
)
def test_given_a_topic_when_posted_then_200_and_kept_only_if_it_is_an_order_s(
    made: Site, topic: str, kept: bool
) -> None:
    body = b'{"id":7}' if topic == "order.deleted" else order(7)

    assert post(made, body, topic=topic).status_code == 200

    assert made.rows() == ((1, 1) if kept else (0, 0))
    assert made.counted("unknown_topic") == (not kept)


@pytest.mark.parametrize(
    "status", ["pending", "on-hold", "processing", "trash", "checkout-draft", "made-up", 7, None]
)
def test_given_a_status_when_posted_then_the_receiver_keeps_the_order_whatever_it_is(
    made: Site, status: object
) -> None:
    assert post(made, order(status=status)).status_code == 200

    assert made.rows() == (1, 1)


def test_given_a_webhook_when_kept_then_its_time_is_utc_and_only_the_headers_of_use_are_there(made: Site) -> None:
    post(made, order(), topic="order.updated")

    with made.ledger.read() as connection:
        row = connection.execute(select(deliveries)).one()
    assert row.snapshot_updated_at.isoformat() == "2026-03-01T12:00:00+00:00"
    assert row.headers == {
        "x-wc-webhook-source": "https://de.example/",
        "x-wc-webhook-topic": "order.updated",
        "x-wc-webhook-id": "2",
        "x-wc-webhook-delivery-id": "d-1",
    }


def test_given_woocommerce_s_own_error_as_body_when_posted_then_held_and_it_says_why(made: Site) -> None:
    body = json.dumps(
        {"code": "woocommerce_rest_cannot_view", "message": "Sorry", "data": {"status": 401}}
    ).encode()

    assert post(made, body).status_code == 200

    (sync,) = all_syncs(made.ledger)
    assert (sync.state, sync.external_id[:9]) == (State.HELD, "delivery:")
    assert "woocommerce_rest_cannot_view" in sync.error_detail


def test_given_the_secret_of_before_a_rotation_when_signed_with_it_then_it_is_genuine(made: Site) -> None:
    body = order()

    assert made.post(body, woo_headers(body, secret=SECRETS["OLD"]), url=URL).status_code == 200
    assert made.post(body, woo_headers(body, secret="another"), url=URL).status_code == 401


def test_given_a_whole_shop_when_it_tells_of_its_orders_then_every_delivery_is_kept_under_its_order(
    made: Site,
) -> None:
    """What the sandbox writes, given to the receiver without a server between them."""
    shop = WooSimulation(20, seed=3, secret=SECRETS["NEW"])
    try:
        sender = shop.sender("http://127.0.0.1:9/", shop.lives, SendOptions())
        for life in shop.lives:
            for event in life.events:
                shop.state.advance(event)
                headers, body = sender.request(event)
                assert made.post(body, headers, url=URL).status_code == 200
    finally:
        shop.server.server_close()

    expected = Counter({life.external_id: len(life.events) for life in shop.lives})
    with made.ledger.read() as connection:
        found = connection.execute(select(syncs.c.external_id, syncs.c.wanted)).all()
    assert Counter(dict(map(tuple, found))) == expected
    assert made.counted("duplicate") == 0
