"""WooCommerce's order as ours: every kind of line and charge once, and what can't be read refused by name."""

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator.documents import Address, Customer, LineKind, Order, PaymentState
from integrator.documents.sums import breakdown, check, check_refunds
from integrator.errors import TotalMismatch, Unmapped
from integrator.shops.payload import Fields
from integrator.shops.woocommerce import ORDER_TOPICS, WooCommerce
from integrator.shops.woocommerce_amounts import Amounts
from integrator.shops.woocommerce_order import map_order
from sandbox.shop_orders import EPOCH
from sandbox.woo_orders import WooDraft, WooLine
from sandbox.woo_payload import payload

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = sorted((ROOT / "samples" / "woocommerce").glob("order*.json"))
SHARED = sorted((ROOT.parent / "shared" / "fixtures" / "woocommerce").glob("*.json"))
NOT_ORDERS = {"order.deleted.json", "order-refund-181.json", "order-refund-254.json"}
SHOP = WooCommerce()

REFUNDS = json.loads((ROOT / "samples" / "woocommerce" / "refunds.json").read_text())

Json = dict[str, Any]


def sample(name: str) -> Json:
    loaded: Json = json.loads((ROOT / "samples" / "woocommerce" / f"{name}.json").read_text())
    return loaded


def mapped(order: Json, refunds: list[Json] | None = None) -> Order:
    body = json.loads(json.dumps(order), parse_float=Decimal)
    details = json.loads(json.dumps(refunds or []), parse_float=Decimal)
    return map_order(Fields(body), [Fields(refund) for refund in details])


def shared(*, orders: bool) -> list[Any]:
    if not SHARED:
        return [pytest.param(Path(), marks=pytest.mark.skip(reason="../shared is not here"))]
    return [pytest.param(path, id=path.name) for path in SHARED if (path.name in NOT_ORDERS) is not orders]


@pytest.mark.parametrize(
    "path", [path for path in SAMPLES if path.name != "order.deleted.json"], ids=lambda path: path.name
)
def test_given_a_sample_when_mapped_then_it_adds_up_to_what_it_says(path: Path) -> None:
    raw = json.loads(path.read_text())
    refunds = json.loads((path.parent / "refunds.json").read_text()) if raw["refunds"] else []
    order = mapped(raw, refunds)
    assert check(order).total == Decimal(raw["total"])
    assert breakdown(order).taxes == Decimal(raw["total_tax"]) or path.name == "order.created-rounding.json"
    assert Order.model_validate_json(order.model_dump_json()) == order


@pytest.mark.parametrize("path", shared(orders=True))
def test_given_a_real_payload_when_mapped_then_it_adds_up_and_needs_no_rounding(path: Path) -> None:
    order = SHOP.map("order.updated", path.read_bytes())
    assert order is not None
    assert check(order).total == Decimal("29.35")
    assert order.fees == ()
    assert [(tax.title, str(tax.amount)) for line in order.lines for tax in line.taxes] == [
        ("State Tax", "0.45 USD"),
        ("State Tax", "0.90 USD"),
    ]
    assert order.lines[1].title == "Ship Your Idea \N{EN DASH} Color: Black, Size: M Test"


@pytest.mark.parametrize("path", shared(orders=False))
def test_given_a_real_payload_of_something_else_when_mapped_then_it_is_not_an_order(path: Path) -> None:
    if path.name == "order.deleted.json":
        assert SHOP.map("order.deleted", path.read_bytes()) is None
    with pytest.raises(Unmapped):
        SHOP.map("order.updated", path.read_bytes())


@pytest.mark.parametrize("topic", ["order.deleted", "product.updated", "", "orders/create"])
def test_given_a_topic_whose_body_is_no_order_when_mapped_then_none(topic: str) -> None:
    assert SHOP.map(topic, b"not read") is None


@pytest.mark.parametrize("topic", sorted(ORDER_TOPICS))
def test_given_a_topic_whose_body_is_the_order_when_mapped_then_the_order(topic: str) -> None:
    order = SHOP.map(topic, json.dumps(sample("order.created")).encode())
    assert order is not None
    assert order.external_id == "7001"


def test_given_refunds_in_the_body_when_mapped_then_none_since_their_details_are_not_there() -> None:
    assert SHOP.map("order.updated", json.dumps(sample("order.updated-refunded")).encode()) is None


def test_given_an_order_when_mapped_then_head_buyer_and_places() -> None:
    raw = sample("order.created") | {"customer_note": " by the door ", "number": "EX-7"}
    raw["shipping"]["state"] = "NH"
    order = mapped(raw)
    assert (order.number, order.note, order.currency) == ("EX-7", "by the door", "EUR")
    assert order.placed_at == order.updated_at == datetime(2026, 10, 1, 9, tzinfo=UTC)
    billing, shipping = raw["billing"], raw["shipping"]
    name = f"{billing['first_name']} {billing['last_name']}"
    assert order.customer == Customer(external_id="42", name=name, email=billing["email"], phone=billing["phone"])
    assert order.shipping_address == Address(
        name=name,
        street=shipping["address_1"],
        postal_code=shipping["postcode"],
        city=shipping["city"],
        region="NH",
        country="NL",
    )


@pytest.mark.parametrize(("number", "expected"), [("", "7001"), (None, "7001"), (812, "812"), ("A/1", "A/1")])
def test_given_a_number_when_mapped_then_what_people_know_or_the_id(number: object, expected: str) -> None:
    assert mapped(sample("order.created") | {"number": number}).number == expected


def test_given_a_guest_when_mapped_then_the_billing_contact_without_an_id() -> None:
    customer = mapped(sample("order.created-taxes-included-guest")).customer
    assert customer is not None
    assert (customer.external_id, customer.email) == (None, "buyer40@example.com")


@pytest.mark.parametrize("gone", ["null", "missing", "empty", "PHP's empty"])
def test_given_no_buyer_and_no_address_when_mapped_then_none(gone: str) -> None:
    raw = sample("order.created") | {"customer_id": 0}
    for name in ("billing", "shipping"):
        if gone == "missing":
            del raw[name]
        else:
            parts = dict.fromkeys(raw[name], "")
            raw[name] = {"null": None, "empty": parts, "PHP's empty": []}[gone]
    order = mapped(raw)
    assert (order.customer, order.billing_address, order.shipping_address) == (None, None, None)


PAID = {"date_paid_gmt": "2026-10-01T09:00:30"}
UNPAID = {"date_paid_gmt": None}


@pytest.mark.parametrize(
    ("status", "paid", "state", "counts"),
    [
        ("pending", UNPAID, PaymentState.PENDING, "open"),
        ("on-hold", UNPAID, PaymentState.PENDING, "open"),
        ("on-hold", PAID, PaymentState.PAID, "open"),
        ("processing", PAID, PaymentState.PAID, "open"),
        ("processing", UNPAID, PaymentState.PENDING, "open"),  # cash on delivery
        ("completed", PAID, PaymentState.PAID, "open"),
        ("completed", UNPAID, PaymentState.PAID, "open"),
        ("refunded", PAID, PaymentState.REFUNDED, "open"),
        ("cancelled", UNPAID, PaymentState.VOIDED, "cancelled"),
        ("cancelled", PAID, PaymentState.PAID, "cancelled"),
        ("trash", UNPAID, PaymentState.VOIDED, "cancelled"),
        ("failed", UNPAID, PaymentState.PENDING, "not yet"),
        ("checkout-draft", UNPAID, PaymentState.PENDING, "not yet"),
        ("auto-draft", UNPAID, PaymentState.PENDING, "not yet"),
        ("draft", UNPAID, PaymentState.PENDING, "not yet"),
        ("shipped-by-a-plugin", PAID, PaymentState.PAID, "open"),
        ("shipped-by-a-plugin", UNPAID, PaymentState.PENDING, "open"),
    ],
)
def test_given_a_status_when_mapped_then_payment_and_whether_anybody_is_to_act_on_it(
    status: str, paid: Json, state: PaymentState, counts: str
) -> None:
    order = mapped(sample("order.created") | {"status": status} | paid)
    assert (order.payment_state, order.cancelled) == (state, counts == "cancelled")
    assert order.cancel_reason == (status if counts == "cancelled" else None)
    assert order.not_yet == (status if counts == "not yet" else None)


@pytest.mark.parametrize(
    ("refunds", "state"),
    [
        ([], PaymentState.PAID),
        (["-0.01"], PaymentState.PARTIALLY_REFUNDED),
        (["-60.00", "-0.92"], PaymentState.PARTIALLY_REFUNDED),
        (["-60.00", "-0.93"], PaymentState.REFUNDED),
        (["-99.00"], PaymentState.REFUNDED),
    ],
)
def test_given_refunds_when_mapped_then_they_tell_the_payment_state(
    refunds: list[str], state: PaymentState
) -> None:
    raw = sample("order.updated-paid")
    raw["refunds"] = [{"id": n + 1, "reason": "", "total": total} for n, total in enumerate(refunds)]
    assert mapped(raw).payment_state is state


def test_given_a_cancelled_order_when_mapped_then_as_of_its_last_change() -> None:
    raw = sample("order.updated-cancelled")
    assert mapped(raw).cancelled_at == datetime(2026, 10, 1, 10, tzinfo=UTC)
    assert mapped(raw | {"date_modified_gmt": None}).cancelled_at == datetime(2026, 10, 1, 9, tzinfo=UTC)
    with pytest.raises(Unmapped, match="date_modified_gmt"):
        mapped(raw | {"date_modified_gmt": None, "date_created_gmt": None})


def test_given_prices_with_taxes_when_mapped_then_lines_show_the_price_that_the_shop_shows() -> None:
    raw = sample("order.created-taxes-included-guest")
    assert (raw["line_items"][0]["total"], raw["line_items"][0]["total_tax"]) == ("24.79", "5.21")
    order = mapped(raw)
    line, shipping = order.lines[0], order.shipping[0]
    assert order.taxes_included
    assert (line.unit_price.amount, line.quantity, line.discount.amount) == (
        Decimal("10.00"),
        Decimal(3),
        Decimal(0),
    )
    assert [(tax.title, tax.rate, tax.amount.amount) for tax in line.taxes] == [
        ("VAT", Decimal("0.21"), Decimal("5.21"))
    ]
    assert (shipping.price.amount, shipping.taxes[0].amount.amount) == (Decimal("5.99"), Decimal("1.04"))


def test_given_two_rates_a_coupon_and_fees_when_mapped_then_each_where_it_belongs() -> None:
    order = mapped(sample("order.updated-coupon-fees"))
    (line,) = order.lines
    assert (line.unit_price.amount, line.discount.amount) == (Decimal("24.50"), Decimal("4.90"))
    assert [(tax.title, tax.rate, str(tax.amount)) for tax in line.taxes] == [
        ("State tax", Decimal("0.05"), "0.98 USD"),
        ("City tax", Decimal("0.02"), "0.39 USD"),
    ]
    assert [(fee.title, str(fee.amount), len(fee.taxes)) for fee in order.fees] == [
        ("Gift wrap", "5.00 USD", 2),
        ("Loyalty", "-3.00 USD", 0),
    ]
    assert order.shipping[0].taxes == ()
    check(order)


@pytest.mark.parametrize(
    ("subtotal", "total", "quantity", "price", "discount"),
    [
        ("12.90", "12.90", 1, "12.90", "0.00"),
        ("38.70", "30.00", 3, "12.90", "8.70"),
        ("0.00", "0.00", 4, "0.00", "0.00"),
        ("0.00", "0.00", 0, "0.00", "0"),
        ("12.50", "12.50", 1000, "0.0125", "0.0000"),
        ("10.01", "10.01", 4, "2.5025", "0.0000"),
        ("10.00", "10.00", 3, "3.333334", "0.000002"),
        ("10.00", "7.00", 3, "3.333334", "3.000002"),
        ("2.50", "2.50", "0.25", "10.00", "0.0000"),
        ("-5.00", "-5.00", 2, "-2.50", "0.00"),
        (None, "12.00", 2, "6.00", "0.00"),
        ("10.00", "12.00", 2, "6.00", "0.00"),
    ],
)
def test_given_a_line_when_mapped_then_price_times_quantity_less_the_discount_is_its_total(
    subtotal: str | None, total: str, quantity: int | str, price: str, discount: str
) -> None:
    raw = sample("order.created")
    line: Json = {"subtotal": subtotal, "total": total, "quantity": quantity, "price": 1e-9, "taxes": []}
    raw["line_items"] = [raw["line_items"][0] | line | {"total_tax": "0.00"}]
    found = mapped(raw).lines[0]
    assert (found.unit_price.amount, found.discount.amount) == (Decimal(price), Decimal(discount))
    assert found.unit_price.amount * found.quantity - found.discount.amount == Decimal(total)


@pytest.mark.parametrize(
    ("listed", "total_tax", "amounts"),
    [
        (["1.735537"], "1.74", ["1.74"]),
        (["0.335", "0.335"], "0.67", ["0.33", "0.34"]),  # each up is one too many
        (["0.334", "0.334", "0.334"], "1.00", ["0.33", "0.33", "0.34"]),
        (["5", "-5.001"], "0.00", ["5.00", "-5.00"]),
        (["", "0.45"], "0.45", ["0.45"]),
        ([""], "0.00", []),
        ([], "0.30", ["0.30"]),
        ([], "0.00", []),
        (["0.45"], None, ["0.45"]),
        (["0.451"], "9.00", ["0.451"]),  # no rounding: left as it is, so that the sum check tells
    ],
)
def test_given_taxes_of_many_decimals_when_mapped_then_whole_cents_that_come_to_the_stated(
    listed: list[str], total_tax: str | None, amounts: list[str]
) -> None:
    raw = sample("order.created")
    taxes = [{"id": 75, "total": total, "subtotal": ""} for total in listed]
    raw["line_items"] = [raw["line_items"][0] | {"taxes": taxes, "total_tax": total_tax}]
    found = [tax.amount.amount for tax in mapped(raw).lines[0].taxes]
    assert sorted(map(str, found)) == sorted(amounts)


def test_given_a_rate_that_is_not_described_when_mapped_then_a_tax_without_a_rate() -> None:
    raw = sample("order.created") | {"tax_lines": []}
    assert {(tax.title, tax.rate) for line in mapped(raw).lines for tax in line.taxes} == {("Tax", None)}
    raw = sample("order.created")
    del raw["tax_lines"][0]["rate_percent"]
    assert {(tax.title, tax.rate) for line in mapped(raw).lines for tax in line.taxes} == {("VAT", None)}


def test_given_a_plugin_s_rates_when_mapped_then_their_ids_may_be_text() -> None:
    raw = json.loads(json.dumps(sample("order.created")).replace('"id": 75', '"id": "AVATAX-NL"'))
    raw["tax_lines"][0]["rate_id"] = "AVATAX-NL"
    assert {tax.title for line in mapped(raw).lines for tax in line.taxes} == {"VAT"}


@pytest.mark.parametrize(
    ("off", "fees"), [("0.01", ["0.01"]), ("-0.02", ["-0.02"]), ("0.03", []), ("-0.03", []), ("5.00", [])]
)
def test_given_a_total_that_is_off_when_mapped_then_a_rounding_only_where_it_can_be_one(
    off: str, fees: list[str]
) -> None:
    raw = sample("order.created")  # three parts and the total: at most two cents
    raw["total"] = str(Decimal(raw["total"]) + Decimal(off))
    order = mapped(raw)
    assert [(fee.title, str(fee.amount.amount)) for fee in order.fees] == [("Rounding", fee) for fee in fees]
    if fees:
        check(order)
    else:
        with pytest.raises(TotalMismatch):
            check(order)


def test_given_taxes_rounded_once_for_the_order_when_mapped_then_it_adds_up_to_the_cent() -> None:
    order = mapped(sample("order.created-rounding"))
    assert [(fee.title, str(fee.amount)) for fee in order.fees] == [("Rounding", "0.01 EUR")]
    check(order)


@pytest.mark.parametrize(("decimals", "unit"), [(0, "1"), (2, "0.01"), (3, "0.001")])
def test_given_a_shop_s_decimals_when_read_then_the_smallest_unit(decimals: int, unit: str) -> None:
    raw = {name: f"{Decimal(12):.{decimals}f}" for name in ("total", "total_tax", "shipping_total")}
    assert Amounts.of(Fields(raw), "JPY").unit == Decimal(unit)


def test_given_yen_when_mapped_then_whole_ones() -> None:
    raw = sample("order.created") | {"currency": "JPY", "shipping_lines": [], "total": "3300", "total_tax": "300"}
    raw |= {"cart_tax": "300", "shipping_total": "0", "shipping_tax": "0", "discount_total": "0"}
    taxes = [{"id": 75, "total": "299.6", "subtotal": "299.6"}]
    line = {"subtotal": "3000", "total": "3000", "total_tax": "300", "quantity": 3, "taxes": taxes}
    raw["line_items"] = [raw["line_items"][0] | line]
    order = mapped(raw)
    assert (str(order.lines[0].unit_price), str(order.lines[0].taxes[0].amount)) == ("1000 JPY", "300 JPY")
    check(order)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, LineKind.PRODUCT),
        ({"sku": ""}, LineKind.PRODUCT),
        ({"sku": None}, LineKind.PRODUCT),
        ({"product_id": 0}, LineKind.PRODUCT),
        ({"product_id": 0, "sku": ""}, LineKind.CUSTOM),
        ({"product_id": 0, "sku": None}, LineKind.CUSTOM),
        ({"product_id": 0, "sku": None, "variation_id": 9}, LineKind.PRODUCT),
        ({"product_id": None, "sku": None, "variation_id": None}, LineKind.CUSTOM),
    ],
)
def test_given_a_line_when_mapped_then_its_kind(changes: Json, kind: LineKind) -> None:
    raw = sample("order.created")
    raw["line_items"][0] |= changes
    assert mapped(raw).lines[0].kind is kind


def test_given_refunds_when_mapped_then_what_went_back_is_positive_and_adds_up() -> None:
    assert [refund["id"] for refund in REFUNDS] == [7022, 7020]
    order = mapped(sample("order.updated-refunded"), REFUNDS)
    goods, amount = order.refunds
    assert (goods.external_id, str(goods.total), goods.fees) == ("7020", "12.90 EUR", ())
    assert goods.paid == goods.total
    (line,) = goods.lines
    assert (line.line_id, line.sku, line.quantity) == ("7002", "MUG-M", Decimal(1))
    assert (line.amount.amount, line.taxes[0].amount.amount) == (Decimal("12.90"), Decimal("2.24"))
    assert goods.created_at == datetime(2026, 10, 2, 9, tzinfo=UTC)
    assert (amount.external_id, amount.lines) == ("7022", ())
    assert [(fee.title, str(fee.amount)) for fee in amount.fees] == [("Not itemised", "3.00 EUR")]
    assert order.payment_state is PaymentState.PARTIALLY_REFUNDED
    check(order)
    check_refunds(order, order.refunds)


@pytest.mark.parametrize(("included", "price"), [(True, "6.05"), (False, "5.00")])
def test_given_a_fee_and_shipping_when_mapped_then_their_prices_hold_taxes_as_the_lines_prices_do(
    included: bool, price: str
) -> None:
    charge = {"id": 9, "total": "5.00", "total_tax": "1.05", "taxes": [{"id": 75, "total": "1.05"}]}
    parts = {"fee_lines": [charge | {"name": "Wrap"}], "shipping_lines": [charge | {"method_title": "Flat"}]}
    raw = sample("order.created") | parts | {"prices_include_tax": included}

    order = mapped(raw, [refund(fee_lines=[_negative(charge)], shipping_lines=[_negative(charge)])])

    (credited,) = order.refunds
    assert [str(fee.amount.amount) for fee in (order.fees[0], credited.fees[0])] == [price, price]
    assert [str(one.price.amount) for one in (*order.shipping, *credited.shipping)] == [price, price]


def _negative(charge: Json) -> Json:
    return charge | {"total": "-5.00", "total_tax": "-1.05", "taxes": [{"id": 75, "total": "-1.05"}]}


def refund(**parts: Any) -> Json:
    return {"id": 1, "amount": "10.00", "reason": "", "line_items": []} | parts


def test_given_shipping_and_fees_of_a_refund_when_mapped_without_taxes_in_prices_then_taxes_are_added() -> None:
    taxes = [{"id": 75, "total": "-1.0395", "subtotal": ""}]
    shipping = [{"id": 2, "method_title": "Flat", "total": "-4.95", "total_tax": "-1.04", "taxes": taxes}]
    fees = [{"id": 3, "name": "Gift wrap", "total": "-4.00", "total_tax": "0.00", "taxes": []}]
    order = mapped(sample("order.created"), [refund(shipping_lines=shipping, fee_lines=fees, reason="broken")])
    (found,) = order.refunds
    assert (str(found.shipping[0].price), str(found.shipping[0].taxes[0].amount)) == ("4.95 EUR", "1.04 EUR")
    assert [(fee.title, str(fee.amount)) for fee in found.fees] == [
        ("Gift wrap", "4.00 EUR"),
        ("Not itemised", "0.01 EUR"),
    ]
    assert found.note == "broken"


def test_given_less_given_back_than_the_parts_when_mapped_then_the_rest_was_kept() -> None:
    line = {"id": 5, "name": "Mug", "quantity": 0, "total": "-12.00", "total_tax": "0.00", "taxes": []}
    (found,) = mapped(sample("order.created"), [refund(line_items=[line])]).refunds
    assert [(fee.title, str(fee.amount)) for fee in found.fees] == [("Not itemised", "-2.00 EUR")]
    assert (found.lines[0].line_id, found.lines[0].quantity) == (None, Decimal(0))


@pytest.mark.parametrize(
    ("parts", "subject"),
    [
        ({"id": None}, "id"),
        ({"amount": None}, "amount"),
        ({"amount": "ten"}, "amount"),
        ({"date_created_gmt": "yesterday"}, "date_created_gmt"),
        ({"line_items": [{"quantity": 1, "total": "-1", "name": "x"}]}, "line_items[].quantity"),
        ({"line_items": [{"quantity": -1, "name": "x"}]}, "line_items[].total"),
        ({"line_items": [{"quantity": -1, "total": "-1"}]}, "line_items[].name"),
        ({"fee_lines": {}}, "fee_lines"),
        ({"amount": "9" * 20, "fee_lines": [{"total": "9" * 20}]}, "amount"),
    ],
)
def test_given_an_unreadable_refund_when_mapped_then_unmapped_names_it(parts: Json, subject: str) -> None:
    with pytest.raises(Unmapped) as caught:
        mapped(sample("order.created"), [refund(**parts)])
    assert caught.value.subject == subject


def test_given_broken_text_when_mapped_then_it_is_mended_and_the_order_goes_on() -> None:
    order = mapped(sample("order.created") | {"customer_note": "a\ud800b\0c"})
    assert order.note == "a\ufffdbc"
    assert json.loads(order.model_dump_json())["note"] == "a\ufffdbc"


def test_given_anything_in_the_meta_data_when_mapped_then_it_is_not_read() -> None:
    raw = sample("order.created")
    raw["meta_data"] = {"0": None}
    raw["line_items"][0]["meta_data"] = "serialised"
    assert mapped(raw) == mapped(sample("order.created"))


@pytest.mark.parametrize(
    ("path", "value", "subject"),
    [
        ("id", None, "id"),
        ("id", 1.5, "id"),
        ("status", None, "status"),
        ("status", 7, "status"),
        ("currency", "euro", "currency"),
        ("currency", None, "currency"),
        ("total", None, "total"),
        ("total", "", "total"),
        ("total", "ten", "total"),
        ("total", "9" * 21, "total"),
        ("total_tax", "1e3", "total_tax"),
        ("prices_include_tax", "yes", "prices_include_tax"),
        ("date_created_gmt", "yesterday", "date_created_gmt"),
        ("date_paid_gmt", 7, "date_paid_gmt"),
        ("customer_note", 7, "customer_note"),
        ("customer_id", -1, "customer_id"),
        ("number", [], "number"),
        ("line_items", None, "line_items"),
        ("line_items", {}, "line_items"),
        ("line_items.1", "x", "line_items[]"),
        ("line_items.1.id", None, "line_items[].id"),
        ("line_items.1.name", 1, "line_items[].name"),
        ("line_items.1.name", None, "line_items[].name"),
        ("line_items.1.quantity", None, "line_items[].quantity"),
        ("line_items.1.quantity", -1, "line_items[].quantity"),
        ("line_items.1.quantity", 0, "line_items[].quantity"),
        ("line_items.1.total", None, "line_items[].total"),
        ("line_items.1.total", "1e3", "line_items[].total"),
        ("line_items.1.subtotal", "9" * 20, "line_items[].subtotal"),
        ("line_items.1.product_id", "x", "line_items[].product_id"),
        ("line_items.1.taxes", "x", "line_items[].taxes"),
        ("line_items.1.taxes.0.id", None, "line_items[].taxes[].id"),
        ("line_items.1.taxes.0.total", "high", "line_items[].taxes[].total"),
        ("tax_lines.0.rate_id", [], "tax_lines[].rate_id"),
        ("tax_lines.0.rate_percent", "high", "tax_lines[].rate_percent"),
        ("shipping_lines.0.total", None, "shipping_lines[].total"),
        ("fee_lines", [{"name": "x"}], "fee_lines[].total"),
        ("refunds", [{"id": 1, "total": "x"}], "refunds[].total"),
        ("billing", "me", "billing"),
        ("billing", ["me"], "billing"),
        ("shipping.postcode", 1234, "shipping.postcode"),
    ],
)
def test_given_an_unreadable_field_when_mapped_then_unmapped_names_it(path: str, value: Any, subject: str) -> None:
    raw = sample("order.created")
    put(raw, path.split("."), value)
    with pytest.raises(Unmapped) as caught:
        mapped(raw)
    assert caught.value.subject == subject
    assert caught.value.message.startswith(subject.split("[", maxsplit=1)[0])


@pytest.mark.parametrize("refunds", [[{"total": "-1.00"}], [{"id": "x"}], {}, ["x"]])
def test_given_refunds_that_can_t_be_told_when_mapped_then_unmapped(refunds: Any) -> None:
    with pytest.raises(Unmapped, match="refunds"):
        SHOP.map("order.updated", json.dumps(sample("order.created") | {"refunds": refunds}).encode())


def put(node: Any, path: list[str], value: Any) -> None:
    for name in path[:-1]:
        node = node[int(name) if isinstance(node, list) else name]
    node[int(path[-1]) if isinstance(node, list) else path[-1]] = value


def paths(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield (*path, str(name))
        yield from paths(value, (*path, str(name)))


BASES = [json.loads(path.read_text()) for path in SAMPLES]

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.decimals(-10, 10, allow_nan=False, places=4).map(str),
    st.sampled_from(["-1", "0", "1e9", "9" * 20, "9" * 25, "0." + "9" * 19, "0." + "9" * 25, "USD", "\ud800"]),
    st.sampled_from(["", [], {}, [None], [{}], [[]], {"id": {}}, "trash", "refunded", "&#0;&#xD800;"]),
    st.sampled_from(["2026-10-01T09:00:00", "0001-01-01T00:00:00+14:00", 10**400, 10**20, -(10**20), 1e308]),
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_given_any_field_replaced_when_mapped_then_an_order_or_unmapped(data: st.DataObject) -> None:
    raw = {"order": copy.deepcopy(data.draw(st.sampled_from(BASES), label="sample"))}
    raw["refunds"] = copy.deepcopy(data.draw(st.sampled_from([[], REFUNDS]), label="refunds"))
    for _ in range(data.draw(st.integers(1, 3))):
        # A refund is replaced part by part: `fetch_order` gives objects only.
        places = [one for one in paths(raw) if len(one) > (1 if one[0] == "order" else 2)]
        path = data.draw(st.sampled_from(places), label="path")
        put(raw, list(path), copy.deepcopy(data.draw(VALUES, label="value")))  # a later path may lead into it
    with suppress(Unmapped):
        order = mapped(raw["order"], raw["refunds"])
        assert order.digest()
        assert Order.model_validate_json(order.model_dump_json()) == order
        for line in order.lines:
            assert line.discount.amount >= 0
        with suppress(TotalMismatch):
            check(order)


CENTS = st.integers(0, 100_000)


@settings(deadline=None)
@given(
    st.lists(st.tuples(CENTS, st.integers(1, 12), st.integers(0, 100)), min_size=1, max_size=6),
    st.sampled_from([0, 550, 700, 1_000, 2_100, 2_550]),
    st.booleans(),
)
def test_given_any_made_order_when_mapped_then_it_adds_up_and_shows_the_shop_s_prices(
    lines: list[tuple[int, int, int]], rate: int, included: bool
) -> None:
    made = [
        WooLine(n + 1, f"SKU-{n}", f"Thing {n}", price, quantity, price * quantity * off // 100, rate)
        for n, (price, quantity, off) in enumerate(lines)
    ]
    draft = WooDraft(7_001, 7, "EUR", included, True, rate, made, 495, 0, "processing", EPOCH, EPOCH)
    order = mapped(payload(draft))
    check(order)
    assert [line.unit_price.amount * 100 for line in order.lines] == [price for price, _, _ in lines]
    assert len(order.fees) <= 1


@settings(deadline=None)
@given(st.binary())
def test_given_any_bytes_when_mapped_then_an_order_or_unmapped(body: bytes) -> None:
    with pytest.raises(Unmapped):
        SHOP.map("order.created", body)
