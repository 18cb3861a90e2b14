"""The made-up orders are what a proof may lean on: consistent, repeatable, and counted apart from the mapper."""

import json
from decimal import Decimal
from itertools import pairwise

import pytest

from integrator.documents.sums import check, check_refunds
from integrator.shops.shopify import Shopify
from sandbox.shop_orders import Event, Life, lives
from sandbox.shop_plan import Delivery, Plan, SendOptions, make_plan
from sandbox.shop_server import ShopState

MANY = tuple(lives(300, seed=7))
SHOP = Shopify()


def topics(life: Life) -> list[str]:
    return [event.topic for event in life.events]


def test_given_a_seed_when_made_twice_then_the_same_bytes() -> None:
    assert tuple(lives(300, seed=7)) == MANY
    assert tuple(lives(100, seed=7, first=100)) == MANY[100:200]


def test_given_another_seed_when_made_then_other_orders() -> None:
    assert tuple(lives(300, seed=8)) != MANY


def test_given_a_life_when_followed_then_it_is_consistent() -> None:
    for life in MANY:
        assert topics(life)[0] == "orders/create"
        assert "orders/create" not in topics(life)[1:]
        assert topics(life).count("orders/paid") <= 1
        assert topics(life).count("orders/cancelled") <= 1
        assert [event.index for event in life.events] == list(range(len(life.events)))
        assert all(event.external_id == life.external_id for event in life.events)
        times = [event.updated_at for event in life.events]
        assert times == sorted(times)
        assert {time.microsecond for time in times} == {0}
        assert all(one.body != two.body for one, two in pairwise(life.events))
    ids = [event.webhook_id for life in MANY for event in life.events]
    assert len(set(ids)) == len(ids)


def test_given_every_moment_of_a_life_when_mapped_then_it_adds_up_and_ends_in_the_facts() -> None:
    for life in MANY:
        orders = [SHOP.map("orders/updated", event.shown) for event in life.events]
        for order, event in zip(orders, life.events, strict=True):
            assert order is not None
            assert (order.external_id, order.updated_at) == (life.external_id, event.updated_at)
            check(order)
            check_refunds(order, order.refunds)
        end, facts = orders[-1], life.facts
        assert end is not None
        assert (end.total.amount, end.currency, end.cancelled) == (facts.total, facts.currency, facts.cancelled)
        assert [(line.sku, int(line.quantity), line.unit_price.amount) for line in end.lines] == [
            (line.sku, line.quantity, line.price) for line in facts.lines
        ]


def test_given_a_webhook_when_sent_then_its_body_is_the_order_or_tells_of_a_change_of_it() -> None:
    for life in MANY:
        for event in life.events:
            body = json.loads(event.body)
            if event.topic == "refunds/create":
                assert str(body["order_id"]) == life.external_id
                assert body["id"] in [one["id"] for one in json.loads(event.shown)["refunds"]]
            elif event.topic == "orders/edited":
                assert str(body["order_edit"]["order_id"]) == life.external_id
            else:
                assert event.body == event.shown


def test_given_the_credits_when_read_without_the_mapper_then_the_order_comes_to_so_much_less() -> None:
    for life in MANY:
        last = json.loads(life.events[-1].shown, parse_float=Decimal)
        credits_ = life.facts.credits
        assert credits_ is not None
        less = Decimal(last["total_price"]) - Decimal(last["current_total_price"])
        assert sum(one.total for one in credits_) == less
        assert [str(one["id"]) for one in last["refunds"]] == [one.refund_id for one in credits_]
        for raw, one in zip(last["refunds"], credits_, strict=True):
            parts = [*raw["refund_line_items"]]
            assert [(part["line_item"]["sku"], part["quantity"], Decimal(part["subtotal"])) for part in parts] == [
                (line.sku, line.quantity, line.price) for line in one.lines
            ]
        for line in last["line_items"]:
            back = [part for raw in last["refunds"] for part in raw["refund_line_items"]]
            gone = sum(part["quantity"] for part in back if part["line_item_id"] == line["id"])
            assert 0 <= gone <= line["quantity"]
            assert line["current_quantity"] == line["quantity"] - gone


def test_given_everything_of_a_line_refunded_bit_by_bit_when_summed_then_it_is_what_the_line_came_to() -> None:
    whole = 0
    for life in MANY:
        last = json.loads(life.events[-1].shown, parse_float=Decimal)
        for line in last["line_items"]:
            back = [part for raw in last["refunds"] for part in raw["refund_line_items"]]
            mine = [part for part in back if part["line_item_id"] == line["id"]]
            if len(mine) < 2 or line["current_quantity"]:
                continue
            off = sum(Decimal(one["amount"]) for one in line["discount_allocations"])
            assert (
                sum(Decimal(part["subtotal"]) for part in mine) == Decimal(line["price"]) * line["quantity"] - off
            )
            assert sum(Decimal(part["total_tax"]) for part in mine) == sum(
                Decimal(tax["price"]) for tax in line["tax_lines"]
            )
            whole += 1
    assert whole


def test_given_the_facts_when_read_without_the_mapper_then_the_last_body_says_the_same() -> None:
    for life in MANY:
        last = json.loads(life.events[-1].shown, parse_float=Decimal)
        assert Decimal(last["total_tax"]) == life.facts.taxes
        assert Decimal(last["total_price"]) == life.facts.total
        assert (last["cancelled_at"] is not None) is life.facts.cancelled
        assert [(line["sku"], line["quantity"], Decimal(line["price"])) for line in last["line_items"]] == [
            (line.sku, line.quantity, line.price) for line in life.facts.lines
        ]


def test_given_many_lives_when_looked_over_then_every_kind_of_order_is_among_them() -> None:
    bodies = [json.loads(event.shown) for life in MANY for event in life.events]
    lines = [line for body in bodies for line in body["line_items"]]
    steps = [step for life in MANY for step in pairwise(life.events)]
    assert {topic for life in MANY for topic in topics(life)} == {
        "orders/create", "orders/updated", "orders/paid", "orders/cancelled", "orders/edited", "refunds/create"
    }  # fmt: skip
    assert {body["taxes_included"] for body in bodies} == {True, False}
    assert any(one.updated_at == two.updated_at for one, two in steps)
    assert any(one.updated_at < two.updated_at for one, two in steps)
    assert any(line["quantity"] == 0 for line in lines)
    assert any(line["price"] == "0.00" for line in lines)
    off = [(line, Decimal(part["amount"])) for line in lines for part in line["discount_allocations"]]
    assert off
    assert all(0 < amount <= Decimal(line["price"]) * line["quantity"] for line, amount in off)
    assert any("tip" in line for line in lines)
    assert any(line["sku"] is None and "tip" not in line for line in lines)
    assert any(body["customer"] is None for body in bodies)
    assert any(life.events[0].body != life.events[-1].body and life.facts.cancelled for life in MANY)
    refunds = [one for life in MANY for one in json.loads(life.events[-1].shown)["refunds"]]
    parts = [(bool(one["refund_line_items"]), bool(one["refund_shipping_lines"])) for one in refunds]
    assert set(parts) == {(True, False), (False, True), (True, True), (False, False)}
    assert {bool(one["transactions"]) for one in refunds} == {True, False}
    assert {part["amount"][0] == "-" for one in refunds for part in one["order_adjustments"]} == {True, False}
    assert any(len(life.facts.credits or ()) > 2 for life in MANY)
    assert any(topics(life)[-1] != "orders/cancelled" for life in MANY if "orders/cancelled" in topics(life))
    assert any(
        part["status"] == "pending" for body in bodies for one in body["refunds"] for part in one["transactions"]
    )
    assert {body["financial_status"] for body in bodies} == {
        "pending", "paid", "partially_refunded", "refunded", "voided"
    }  # fmt: skip
    sizes = [len(event.body) for life in MANY for event in life.events]
    assert 8_000 < sum(sizes) / len(sizes) < 10_000


def every(plan: Plan) -> list[Delivery]:
    found = []
    for first in plan.firsts:
        following: Delivery | None = first
        while following:
            found.append(following)
            following = following.then
    return found


@pytest.mark.parametrize("options", [SendOptions(), SendOptions(duplicates=0.3, reordering=0.4, seed=3)])
def test_given_a_plan_when_laid_out_then_every_event_once_and_the_numbers_are_true(options: SendOptions) -> None:
    plan = make_plan(MANY, options)
    deliveries = every(plan)
    events = [event for life in MANY for event in life.events]
    copies = [delivery for delivery in deliveries if delivery.copy_after is not None]

    def key(event: Event) -> str:
        return event.webhook_id

    assert sorted((delivery.event for delivery in deliveries), key=key) == sorted(events, key=key)
    assert plan.deliveries == len(events) + len(copies)
    assert plan.duplicates == len(copies)
    assert plan.reordered == sum(_out_of_order(first) for first in plan.firsts)
    assert _same(make_plan(MANY, options), plan)


def _same(one: Plan, two: Plan) -> bool:
    shape = [[(d.event, d.position, d.copy_after) for d in every(plan)] for plan in (one, two)]
    return shape[0] == shape[1]


def _out_of_order(first: Delivery) -> bool:
    while first.then:
        if first.then.event.index < first.event.index:
            return True
        first = first.then
    return False


def test_given_shares_of_all_and_none_when_planned_then_all_and_none() -> None:
    everything = make_plan(MANY, SendOptions(duplicates=1.0, reordering=1.0))
    assert everything.duplicates * 2 == everything.deliveries
    assert everything.reordered == sum(len(life.events) > 1 for life in MANY)
    nothing = make_plan(MANY, SendOptions())
    assert (nothing.duplicates, nothing.reordered) == (0, 0)


def test_given_events_out_of_order_when_they_happen_then_the_shop_never_goes_back() -> None:
    life = next(life for life in MANY if len(life.events) > 2)
    state = ShopState(MANY)
    assert state.read(life.external_id) is None
    for event, shown in ((life.events[1], 1), (life.events[0], 1), (life.events[2], 2), (life.events[1], 2)):
        state.advance(event)
        assert state.read(life.external_id) == life.events[shown].shown
