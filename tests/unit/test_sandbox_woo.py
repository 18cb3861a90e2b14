"""The made-up WooCommerce orders are what a proof may lean on, and have the platform's habits."""

import json
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

from integrator.documents import Refund
from integrator.documents.sums import breakdown, check, check_refunds
from integrator.shops.payload import parse
from integrator.shops.woocommerce import WooCommerce
from integrator.shops.woocommerce_order import map_order
from sandbox.shop_facts import Life, PlainCredit
from sandbox.shop_plan import SendOptions
from sandbox.woo import WooSimulation
from sandbox.woo_orders import WooEvent, lives
from sandbox.woo_sender import MOST_FAILURES, Webhooks, WooSender, delivery_id
from sandbox.woo_server import WooState

MANY = tuple(lives(400, seed=7, restore=True))
SHOP = WooCommerce()


def events(life: Life) -> list[WooEvent]:
    found = [event for event in life.events if isinstance(event, WooEvent)]
    assert len(found) == len(life.events)
    return found


def every() -> list[WooEvent]:
    return [event for life in MANY for event in events(life)]


def test_given_a_seed_when_made_twice_then_the_same_bytes() -> None:
    assert tuple(lives(400, seed=7, restore=True)) == MANY
    assert tuple(lives(100, seed=7, first=100, restore=True)) == MANY[100:200]
    assert tuple(lives(400, seed=8, restore=True)) != MANY


def test_given_a_life_when_followed_then_it_is_consistent() -> None:
    for life in MANY:
        topics = [event.topic for event in life.events]
        assert topics[0] == "order.created"
        assert set(topics[1:]) <= {"order.updated", "order.deleted", "order.restored"}
        assert ("order.deleted", "order.restored") in [*pairwise(topics)] or "order.restored" not in topics
        assert [event.index for event in life.events] == list(range(len(life.events)))
        assert all(event.external_id == life.external_id for event in life.events)
        times = [event.updated_at for event in life.events]
        assert times == sorted(times)
        assert {time.microsecond for time in times} == {0}
    ids = [event.webhook_id for event in every()]
    assert len(set(ids)) == len(ids)


def test_given_no_restoring_when_made_then_a_trashed_order_stays_so() -> None:
    quiet = tuple(lives(400, seed=7))
    last = [life.events[-1].topic for life in quiet if "order.deleted" in {event.topic for event in life.events}]
    assert set(last) == {"order.deleted"}
    assert not any(event.topic == "order.restored" for life in quiet for event in life.events)


def test_given_every_moment_of_a_life_when_mapped_then_it_adds_up_and_ends_in_the_facts() -> None:
    for life in MANY:
        for event in events(life):
            order = map_order(parse(event.shown), [parse(refund) for refund in event.refunds])
            assert (order.external_id, order.updated_at) == (life.external_id, event.updated_at)
            assert all(refund.total.amount > 0 for refund in order.refunds)
            check(order)
            check_refunds(order, order.refunds)
        facts = life.facts
        assert (order.total.amount, order.currency, order.cancelled) == (
            facts.total, facts.currency, facts.cancelled,
        )  # fmt: skip
        assert [(line.sku, int(line.quantity), line.unit_price.amount) for line in order.lines] == [
            (line.sku, line.quantity, line.price) for line in facts.lines
        ]
        assert breakdown(order).taxes == facts.taxes
        assert [credited(refund) for refund in order.refunds] == [plain(credit) for credit in facts.credits or ()]


def credited(refund: Refund) -> tuple[Any, ...]:
    lines = [(line.sku, line.quantity, line.amount.amount) for line in refund.lines]
    taxes = sum((tax.amount.amount for line in refund.lines for tax in line.taxes), Decimal(0))
    return refund.external_id, refund.total.amount, taxes, lines


def plain(credit: PlainCredit) -> tuple[Any, ...]:
    lines = [(line.sku, line.quantity, line.price) for line in credit.lines]
    return credit.refund_id, credit.total, credit.taxes, lines


def test_given_refunds_of_pieces_when_mapped_then_nothing_of_them_is_left_over() -> None:
    refunds = [
        refund
        for event in every()
        for refund in map_order(parse(event.shown), [parse(one) for one in event.refunds]).refunds
    ]
    pieces = [refund for refund in refunds if refund.lines]
    assert pieces
    assert not any(refund.fees for refund in pieces)
    assert {fee.title for refund in refunds for fee in refund.fees} == {"Not itemised"}


def test_given_the_facts_when_read_without_the_mapper_then_the_last_body_says_the_same() -> None:
    for life in MANY:
        last = json.loads(events(life)[-1].shown)
        assert Decimal(last["total"]) == life.facts.total
        assert (last["status"] in {"cancelled", "trash"}) is life.facts.cancelled
        assert [(line["sku"], line["quantity"]) for line in last["line_items"]] == [
            (line.sku, line.quantity) for line in life.facts.lines
        ]


def test_given_many_lives_when_looked_over_then_every_kind_of_order_is_among_them() -> None:
    shown = [json.loads(event.shown) for event in every()]
    lines = [line for body in shown for line in body["line_items"]]
    steps = [step for life in MANY for step in pairwise(events(life))]
    assert {body["status"] for body in shown} >= {
        "pending", "on-hold", "processing", "completed", "cancelled", "failed", "trash",
    }  # fmt: skip
    failed_at_first = [
        one.shown for one, two in steps if b'"failed"' in one.shown and b'"processing"' in two.shown
    ]
    assert failed_at_first
    assert {body["prices_include_tax"] for body in shown} == {True, False}
    assert {body["customer_id"] == 0 for body in shown} == {True, False}
    assert any(one.shown == two.shown for one, two in steps), "created and updated with the same body"
    assert any(one.updated_at == two.updated_at and one.shown != two.shown for one, two in steps)
    assert any(fee["total"].startswith("-") for body in shown for fee in body["fee_lines"])
    assert any(body["coupon_lines"] for body in shown)
    assert any(body["refunds"] for body in shown)
    assert any(line["sku"] is None for line in lines)
    assert any(len(tax["total"]) > 4 for line in lines for tax in line["taxes"])
    assert any(
        sum(Decimal(line["total_tax"]) for line in body["line_items"]) != Decimal(body["cart_tax"])
        for body in shown
    ), "taxes rounded once for the order"


def sender(shop: WooSimulation) -> WooSender:
    return shop.sender("http://127.0.0.1:9/webhooks/woocommerce/key", shop.lives, SendOptions())


def test_given_something_that_happened_since_when_delivered_then_the_body_is_of_the_moment() -> None:
    shop = WooSimulation(50, seed=9)
    try:
        life = next(life for life in shop.lives if len({event.body for event in life.events}) > 2)
        first, later = life.events[0], events(life)[-1]
        shop.state.advance(later)
        headers, body = sender(shop).request(first)
        assert body == later.shown != first.body
        SHOP.verify({name.lower(): value for name, value in headers.items()}, body, shop.secrets["webhook"])
        assert headers["X-WC-Webhook-Topic"] == "order.created"
        shop.state.purge(life.external_id)
        _, error = sender(shop).request(first)
        assert json.loads(error)["code"] == "woocommerce_rest_shop_order_invalid_id"
    finally:
        shop.server.server_close()


def test_given_two_orders_in_a_second_when_delivered_then_they_share_the_delivery_id() -> None:
    assert delivery_id(2, 1_790_000_000) == delivery_id(2, 1_790_000_000)
    assert len({delivery_id(2, 1_790_000_000), delivery_id(1, 1_790_000_000), delivery_id(2, 1_790_000_001)}) == 3


def test_given_failures_in_a_row_when_recorded_then_the_sixth_disables_that_webhook_only() -> None:
    webhooks = Webhooks()
    told = [webhooks.record("order.updated", delivered=False) for _ in range(MOST_FAILURES)]
    webhooks.record("order.updated", delivered=True)
    told += [webhooks.record("order.updated", delivered=False) for _ in range(MOST_FAILURES)]
    assert not any(told)
    assert webhooks.record("order.updated", delivered=False)
    assert not webhooks.record("order.created", delivered=False)
    assert webhooks.disabled == Counter({"order.updated": 1})


def test_given_events_out_of_order_when_they_happen_then_the_shop_never_goes_back() -> None:
    life = next(life for life in MANY if len(life.events) > 2)
    state = WooState(MANY)
    assert state.read(life.external_id) is None
    for event, shown in ((life.events[1], 1), (life.events[0], 1), (life.events[2], 2), (life.events[1], 2)):
        state.advance(event)
        assert state.read(life.external_id) == events(life)[shown].shown
    assert state.reads == 5
