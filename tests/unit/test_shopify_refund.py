"""Shopify's refunds and edits as ours: what they take off the order, what was paid, and what must not count."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from integrator.documents import Order, Refund
from integrator.documents.sums import check, check_refunds
from integrator.errors import TotalMismatch, Unmapped
from integrator.shops.shopify import Shopify
from sandbox.shop_orders import lives

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "fixtures" / "shopify" / "orders_paid-partially_refunded-discount-shipping.json"
SHOP = Shopify()

Json = dict[str, Any]


def sample(name: str) -> Json:
    loaded: Json = json.loads((ROOT / "samples" / "shopify" / f"{name}.json").read_text())
    return loaded


def mapped(order: Json) -> Order:
    found = SHOP.map("orders/updated", json.dumps(order).encode())
    assert found is not None
    return found


def money(amount: str, currency: str = "EUR") -> Json:
    """An amount whose presentment currency is another."""
    other = {"amount": "99.99", "currency_code": "CAD"}
    return {"shop_money": {"amount": amount, "currency_code": currency}, "presentment_money": other}


def line(amount: str, tax: str = "0", quantity: int = 1, **changes: Any) -> Json:
    return {
        "line_item_id": 1,
        "quantity": quantity,
        "subtotal": 99,
        "subtotal_set": money(amount),
        "total_tax": 99,
        "total_tax_set": money(tax),
        "line_item": {
            "id": 1,
            "title": "Mug",
            "sku": "MUG",
            "tax_lines": [{"title": "VAT", "price": "2", "rate": 0.2}],
        },
        **changes,
    }


def adjustment(amount: str, tax: str = "0", kind: str | None = "refund_discrepancy", **changes: Any) -> Json:
    return {"kind": kind, "amount_set": money(amount), "tax_amount_set": money(tax), **changes}


def paid(amount: str, status: str = "success", kind: str = "refund", **changes: Any) -> Json:
    return {"kind": kind, "status": status, "amount": amount, "currency": "EUR", **changes}


def shipping(amount: str, *taxes: str) -> Json:
    lines = [{"title": "VAT", "price": tax, "rate": 0.2} for tax in taxes]
    return {
        "subtotal_amount_set": money(amount),
        "shipping_line": {"title": "Express", "price": "5.00", "tax_lines": lines},
    }


def refunded(*refunds: Json, taxes_included: bool = False, **changes: Any) -> Order:
    """A made order with these refunds."""
    raw = sample("orders_create")
    listed = [{"id": 88 + n, "transactions": [], **one} for n, one in enumerate(refunds)]
    order = raw | {"refunds": listed, "taxes_included": taxes_included} | changes
    for name in ("current_total_price", "current_total_price_set"):
        order.setdefault(name, None)
        if name not in changes:
            order[name] = None
    return mapped(order)


def only(*refunds: Json, taxes_included: bool = False, **changes: Any) -> Refund:
    order = refunded(*refunds, taxes_included=taxes_included, **changes)
    check_refunds(order, order.refunds)
    (made,) = order.refunds
    return made


def parts(refund: Refund) -> tuple[list[str], list[str], list[str]]:
    """The lines, the shipping and the fees, each with its taxes."""

    def told(title: str, amount: Decimal, taxes: Any) -> str:
        return " + ".join([f"{title} {amount:f}", *(f"{tax.amount.amount:f}" for tax in taxes)])

    return (
        [told(one.title, one.amount.amount, one.taxes) for one in refund.lines],
        [told(one.title, one.price.amount, one.taxes) for one in refund.shipping],
        [told(one.title, one.amount.amount, one.taxes) for one in refund.fees],
    )


@pytest.mark.parametrize(
    ("refund", "expected", "total", "given_back"),
    [
        pytest.param(
            {"refund_line_items": [line("10.00", "2.00")], "transactions": [paid("12.00")]},
            (["Mug 10.00 + 2.00"], [], []),
            "12.00",
            "12.00",
            id="a line",
        ),
        pytest.param(
            {
                "refund_line_items": [line("10.00", "2.00")],
                "order_adjustments": [adjustment("1.50", reason="Restocking fee")],
                "transactions": [paid("10.50")],
            },
            (["Mug 10.00 + 2.00"], [], ["Restocking fee -1.50"]),
            "10.50",
            "10.50",
            id="something was kept back",
        ),
        pytest.param(
            {"order_adjustments": [adjustment("-5.00", "-1.00")], "transactions": [paid("6.00")]},
            ([], [], ["Refund discrepancy 5.00 + 1.00"]),
            "6.00",
            "6.00",
            id="something on top, with its tax",
        ),
        pytest.param(
            {
                "refund_line_items": [line("10.00")],
                "order_adjustments": [
                    adjustment("10.00", reason="Refund discrepancy"),
                    adjustment("-10.00", reason="Pending refund discrepancy"),
                ],
                "transactions": [paid("10.00")],
            },
            (["Mug 10.00"], [], []),
            "10.00",
            "10.00",
            id="what was under way has arrived",
        ),
        pytest.param(
            {
                "refund_line_items": [line("10.00")],
                "order_adjustments": [adjustment("10.00")],
                "transactions": [paid("10.00", "failure")],
            },
            (["Mug 10.00"], [], ["Refund discrepancy -10.00"]),
            "0.00",
            "0",
            id="the money never went",
        ),
        pytest.param(
            {
                "refund_shipping_lines": [shipping("5.00", "1.00")],
                "order_adjustments": [adjustment("-5.00", "-1.00", "shipping_refund")],
                "transactions": [paid("6.00")],
            },
            ([], ["Express 5.00 + 1.00"], []),
            "6.00",
            "6.00",
            id="shipping that is told twice",
        ),
        pytest.param(
            {"refund_shipping_lines": [shipping("5.00", "1.00")], "transactions": [paid("6.00")]},
            ([], ["Express 5.00 + 1.00"], []),
            "6.00",
            "6.00",
            id="all of the shipping",
        ),
        pytest.param(
            {"refund_shipping_lines": [shipping("2.50", "0.35", "0.10")], "transactions": [paid("2.73")]},
            ([], ["Express 2.50 + 0.17 + 0.06"], []),
            "2.73",
            "2.73",
            id="half of the shipping, and half of its taxes",
        ),
        pytest.param(
            {"refund_shipping_lines": [{**shipping("2.50", "1"), "tax_amount_set": money("0.49")}]},
            ([], ["Express 2.50 + 0.49"], []),
            "2.99",
            "0",
            id="shipping whose tax is told",
        ),
        pytest.param(
            {"order_adjustments": [adjustment("-5.00", kind="shipping_refund")], "transactions": [paid("5.00")]},
            ([], ["Shipping 5.00"], []),
            "5.00",
            "5.00",
            id="shipping of an older version",
        ),
        pytest.param(
            {"order_adjustments": [adjustment("-5.00", kind=None, reason="Shipping refund")]},
            ([], ["Shipping 5.00"], []),
            "5.00",
            "0",
            id="shipping without a kind",
        ),
        pytest.param(
            {
                "order_adjustments": [
                    adjustment("-5.00", kind="shipping_refund"),
                    adjustment("2.00", kind=None),
                    adjustment("-0.50", reason="Customer satisfaction"),
                ]
            },
            ([], ["Shipping 5.00"], ["Refund discrepancy -1.50"]),
            "3.50",
            "0",
            id="several adjustments are one fee",
        ),
        pytest.param(
            {"total_duties_set": money("3.10"), "total_additional_fees_set": money("1.50")},
            ([], [], ["Duties 3.10", "Additional fees 1.50"]),
            "4.60",
            "0",
            id="duties and fees",
        ),
        pytest.param(
            {"refund_line_items": [line("10.00", "2.00")]},
            (["Mug 10.00 + 2.00"], [], []),
            "12.00",
            "0",
            id="an edit that removed a line",
        ),
        pytest.param({"transactions": [paid("12.00")]}, ([], [], []), "0", "12.00", id="the money for an edit"),
        pytest.param(
            {"refund_line_items": [line("0.00", quantity=2)]}, (["Mug 0.00"], [], []), "0", "0", id="for free"
        ),
        pytest.param(
            {
                "refund_line_items": [line("5"), line("6")],
                "transactions": [paid("5"), paid("6"), paid("9", kind="void")],
            },
            (["Mug 5", "Mug 6"], [], []),
            "11",
            "11",
            id="two transactions, and one of another kind",
        ),
    ],
)
def test_given_a_refund_when_mapped_then_what_it_takes_off_and_what_was_paid(
    refund: Json, expected: tuple[list[str], list[str], list[str]], total: str, given_back: str
) -> None:
    made = only(refund)
    assert parts(made) == expected
    assert made.total.amount == Decimal(total)
    assert made.paid is not None
    assert made.paid.amount == Decimal(given_back)


@pytest.mark.parametrize(
    ("refund", "expected", "total"),
    [
        ({"refund_line_items": [line("12.00", "2.00")]}, (["Mug 12.00 + 2.00"], [], []), "12.00"),
        (
            {
                "refund_shipping_lines": [shipping("5.00", "0.83")],
                "order_adjustments": [adjustment("-4.17", "-0.83", "shipping_refund")],
            },
            ([], ["Express 5.00 + 0.83"], []),
            "5.00",
        ),
        ({"refund_shipping_lines": [shipping("5.00", "0.83")]}, ([], ["Express 5.00 + 0.83"], []), "5.00"),
        (
            {"order_adjustments": [adjustment("-4.17", "-0.83")]},
            ([], [], ["Refund discrepancy 5.00 + 0.83"]),
            "5.00",
        ),
    ],
)
def test_given_prices_that_hold_their_taxes_when_mapped_then_taxes_are_listed_and_not_added(
    refund: Json, expected: tuple[list[str], list[str], list[str]], total: str
) -> None:
    made = only(refund, taxes_included=True)
    assert parts(made) == expected
    assert made.total.amount == Decimal(total)


@pytest.mark.parametrize(
    ("tax", "prices", "shares"),
    [
        ("2.00", ["2.00"], ["2.00"]),
        ("1.00", ["2.00", "4.00"], ["0.33", "0.67"]),
        ("0.01", ["1", "1", "1"], ["0.00", "0.00", "0.01"]),
        ("2.00", ["0.00", "0.00"], ["2.00"]),
        ("2.00", [], ["2.00"]),
        ("0.00", ["2.00"], []),
        ("-1.00", ["2.00", "4.00"], ["-0.33", "-0.67"]),
    ],
)
def test_given_several_taxes_when_a_part_is_refunded_then_its_tax_is_shared_out_to_the_cent(
    tax: str, prices: list[str], shares: list[str]
) -> None:
    lines = [{"title": f"T{n}", "price": price, "rate": 0.1} for n, price in enumerate(prices)]
    sold = {"id": 1, "title": "Mug", "tax_lines": lines}
    (refund_line,) = only({"refund_line_items": [line("10.00", tax, line_item=sold)]}).lines
    assert [f"{one.amount.amount:f}" for one in refund_line.taxes] == shares


def test_given_a_refund_line_without_its_line_when_mapped_then_the_orders_line_tells() -> None:
    raw = sample("orders_create")
    sold = raw["line_items"][0]
    bare = {"refund_line_items": [line("1.00", "0.10", line_item=None, line_item_id=sold["id"])]}
    (made,) = only(bare).lines
    assert (made.line_id, made.sku, made.title) == (str(sold["id"]), sold["sku"], sold["name"])
    assert [tax.title for tax in made.taxes] == [tax["title"] for tax in sold["tax_lines"]]


@pytest.mark.parametrize(
    ("transactions", "given_back"),
    [
        (None, None),
        ([paid("5.00", currency="CAD")], None),
        ([paid("5.00", currency=None)], "5.00"),
        ([paid("5.00", "error"), paid("4.00")], "4.00"),
    ],
)
def test_given_transactions_when_mapped_then_what_was_paid_in_the_shops_currency_or_unknown(
    transactions: list[Json] | None, given_back: str | None
) -> None:
    made = only({"refund_line_items": [line("5.00")], "transactions": transactions})
    assert (made.paid and f"{made.paid.amount:f}") == given_back


@pytest.mark.parametrize("status", ["pending", "awaiting_response", "unknown"])
def test_given_money_that_is_under_way_when_mapped_then_that_refund_waits_and_the_others_do_not(
    status: str,
) -> None:
    under_way = {
        "refund_line_items": [line("5.00")],
        "order_adjustments": [adjustment("5.00")],
        "transactions": [paid("5.00", status)],
    }
    order = refunded(under_way, {"refund_line_items": [line("6.00")]}, current_total_price="1.00")
    assert [one.external_id for one in order.refunds] == ["89"]
    assert order.stated is not None
    assert order.stated.refunds is None


@pytest.mark.parametrize("nothing", [{}, {"transactions": [paid("5.00", kind="void")]}, {"note": "nothing"}])
def test_given_a_refund_of_nothing_when_mapped_then_it_is_left_out(nothing: Json) -> None:
    assert refunded(nothing).refunds == ()


def test_given_duties_in_the_prices_when_refunded_then_they_are_no_fee() -> None:
    both = {"total_duties_set": money("3.10"), "total_additional_fees_set": money("1.50")}
    assert parts(only(both, duties_included=True))[2] == ["Additional fees 1.50"]


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"id": None}, "refunds[].id"),
        ({"refund_line_items": [line("1", quantity=-1)]}, "refunds[].refund_line_items[].quantity"),
        (
            {"refund_line_items": [line("1") | {"subtotal_set": None, "subtotal": None}]},
            "refunds[].refund_line_items[].subtotal",
        ),
        (
            {"refund_line_items": [line("1", line_item={}, line_item_id=7)]},
            "refunds[].refund_line_items[].line_item.title",
        ),
        ({"refund_line_items": [line("9" * 20), line("9" * 20)]}, "refunds[].refund_line_items"),
        ({"order_adjustments": [adjustment("1", kind="mystery")]}, "refunds[].order_adjustments[].kind"),
        ({"order_adjustments": [adjustment("9" * 20)] * 2}, "refunds[].order_adjustments"),
        ({"refund_shipping_lines": [{}]}, "refunds[].refund_shipping_lines[].subtotal_amount"),
        ({"created_at": "yesterday"}, "refunds[].created_at"),
        ({"transactions": [paid("9" * 20), paid("9" * 20)]}, "refunds[].transactions"),
        ({"transactions": {}}, "refunds[].transactions"),
        (
            {"total_duties_set": {"shop_money": {"amount": "1", "currency_code": "CAD"}}},
            "refunds[].total_duties_set.shop_money.currency_code",
        ),
    ],
)
def test_given_an_unreadable_refund_when_mapped_then_unmapped_names_the_field(changes: Json, subject: str) -> None:
    with pytest.raises(Unmapped) as caught:
        refunded(changes)
    assert caught.value.subject == subject


# Whole orders


def test_given_a_refunded_order_when_mapped_then_its_refunds_come_to_what_the_shop_says() -> None:
    raw = sample("orders_updated-refunded")
    order = mapped(raw)
    check(order)
    check_refunds(order, order.refunds)
    assert [str(one.total) for one in order.refunds] == ["5.99 EUR", "27.67 EUR"]
    assert parts(order.refunds[0]) == ([], ["Standard 4.95 + 1.04"], [])
    assert parts(order.refunds[1]) == (["Shirt S 24.50 + 5.15"], [], ["Refund discrepancy -1.98"])
    assert sum(one.total.amount for one in order.refunds) == Decimal(raw["total_price"]) - Decimal(
        raw["current_total_price"]
    )


def test_given_an_edited_order_when_mapped_then_it_is_as_sold_and_the_removed_is_a_refund_without_money() -> None:
    raw = sample("orders_updated-edited")
    order = mapped(raw)
    check(order)
    check_refunds(order, order.refunds)
    assert [str(one.quantity) for one in order.lines] == ["4", "2"]
    assert [one["current_quantity"] for one in raw["line_items"]] == [4, 1]
    (edit,) = order.refunds
    assert edit.paid is not None
    assert (str(edit.total), str(edit.paid)) == ("14.19 EUR", "0 EUR")
    assert order.total.amount - edit.total.amount == Decimal(raw["current_total_price"])


def test_given_a_line_that_an_edit_added_when_mapped_then_it_is_a_line_and_no_refund() -> None:
    life = next(
        life
        for life in lives(200, seed=4)
        if any(b'"additions":[{' in event.body for event in life.events) and not life.facts.credits
    )
    at = next(n for n, event in enumerate(life.events) if b'"additions":[{' in event.body)
    before, after = (SHOP.map("orders/updated", life.events[n].shown) for n in (at - 1, at))
    assert before is not None
    assert after is not None
    assert len(after.lines) == len(before.lines) + 1
    assert after.total.amount >= before.total.amount
    assert after.refunds == ()
    check(after)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared is not here")
def test_given_shopifys_own_refunded_order_when_mapped_then_goods_came_back_for_more_than_was_paid() -> None:
    order = mapped(json.loads(SHARED.read_text()))
    (made,) = order.refunds
    check_refunds(order, order.refunds)
    assert parts(made)[0] == ["IPod Nano - 8gb - black 195.66 + 3.98", "IPod Nano - 8gb - green 195.67 + 3.98"]
    assert (str(made.total), str(made.paid), made.note) == ("399.29 USD", "209.00 USD", "it broke during shipping")


@pytest.mark.parametrize("current", ["0.00", "156.62"])
def test_given_refunds_that_do_not_come_to_what_the_shop_says_when_checked_then_all_are_named(
    current: str,
) -> None:
    raw = sample("orders_updated-refunded") | {"current_total_price": current, "current_total_price_set": None}
    order = mapped(raw)
    with pytest.raises(TotalMismatch, match=f"{order.refunds[0].external_id} 5.99"):
        check_refunds(order, order.refunds)


def test_given_many_lives_when_mapped_at_every_moment_then_all_adds_up_and_the_end_is_what_was_counted() -> None:
    for life in lives(150, seed=9):
        orders = [mapped(json.loads(event.shown)) for event in life.events]
        for order in orders:
            check(order)
            check_refunds(order, order.refunds)
        told = [
            (
                one.external_id,
                one.total.amount,
                [(part.sku, part.quantity, part.amount.amount) for part in one.lines],
            )
            for one in orders[-1].refunds
        ]
        assert told == [
            (one.refund_id, one.total, [(part.sku, Decimal(part.quantity), part.price) for part in one.lines])
            for one in life.facts.credits or ()
        ]
