"""Shopify's order as ours: every kind of line and charge once, and what can't be read refused by name."""

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
from integrator.shops.shopify import ORDER_TOPICS, Shopify

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {"orders_edited.json", "refunds_create.json"}
SAMPLES = [path for path in sorted((ROOT / "samples" / "shopify").glob("*.json")) if path.name not in CHANGES]
SHARED = sorted((ROOT.parent / "shared" / "fixtures" / "shopify").glob("*order*.json"))
NOT_ORDERS = {"DERIVED-orders_edited.json", "fulfillment_order.json"}
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
    return {"shop_money": {"amount": amount, "currency_code": currency}}


def shared_orders() -> list[Any]:
    if not SHARED:
        return [pytest.param(Path(), marks=pytest.mark.skip(reason="../shared is not here"))]
    return [pytest.param(path, id=path.name) for path in SHARED if path.name not in NOT_ORDERS]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_given_a_sample_when_mapped_then_it_adds_up_to_what_it_says(path: Path) -> None:
    order = SHOP.map("orders/create", path.read_bytes())
    assert order is not None
    assert check(order).total == Decimal(json.loads(path.read_text())["total_price"])
    check_refunds(order, order.refunds)
    assert Order.model_validate_json(order.model_dump_json()) == order


@pytest.mark.parametrize("path", shared_orders())
def test_given_a_real_payload_when_mapped_then_it_adds_up_or_says_what_is_off(path: Path) -> None:
    body = json.loads(path.read_text())
    order = mapped(body.get("order", body))
    if path.name != "orders-python-api-rest-sample.json":
        check(order)
        if order.refunds:  # the test button's order says that it comes to less now, and has none
            check_refunds(order, order.refunds)
        return
    with pytest.raises(TotalMismatch) as caught:
        check(order)
    assert caught.value.subject == "lines"
    assert "lines: 597.00 listed, 398.00 stated (off by 199.00)" in caught.value.message
    assert "total 409.94 (off by 187.06)" in caught.value.message


@pytest.mark.parametrize("topic", ["orders/edited", "app/uninstalled", "", "refunds/create"])
def test_given_a_topic_whose_body_is_no_order_when_mapped_then_none(topic: str) -> None:
    assert SHOP.map(topic, b"not read") is None


@pytest.mark.parametrize("topic", sorted(ORDER_TOPICS))
def test_given_a_topic_whose_body_is_the_order_when_mapped_then_the_order(topic: str) -> None:
    order = SHOP.map(topic, json.dumps(sample("orders_create")).encode())
    assert order is not None
    assert order.external_id == str(sample("orders_create")["id"])


def test_given_an_order_when_mapped_then_head_buyer_and_places() -> None:
    raw = sample("orders_create")
    raw |= {"note": " by the door ", "processed_at": "2026-10-01T12:00:00+02:00"}
    order = mapped(raw)
    assert (order.number, order.note, order.currency) == (raw["name"], "by the door", "EUR")
    assert order.placed_at == datetime(2026, 10, 1, 10, tzinfo=UTC)
    assert order.updated_at == datetime.fromisoformat(raw["updated_at"])
    buyer, address = raw["customer"], raw["shipping_address"]
    assert order.customer == Customer(
        external_id=str(buyer["id"]), name=f"{buyer['first_name']} {buyer['last_name']}", email=buyer["email"]
    )
    assert order.shipping_address == Address(
        name=address["name"],
        street=address["address1"],
        postal_code=address["zip"],
        city=address["city"],
        region=address["province"],
        country="NL",
        phone=address["phone"],
    )


def test_given_a_guest_when_mapped_then_the_order_s_own_contact_without_an_id() -> None:
    raw = sample("orders_create-taxes-included-guest")
    customer = mapped(raw).customer
    assert customer is not None
    assert (customer.external_id, customer.email) == (None, raw["email"])
    assert customer.name == raw["billing_address"]["name"]


@pytest.mark.parametrize("gone", ["null", "missing", "empty"])
def test_given_no_buyer_and_no_address_when_mapped_then_none(gone: str) -> None:
    raw = sample("orders_create")
    for name in ("customer", "billing_address", "shipping_address", "email", "contact_email", "phone"):
        if gone == "missing":
            del raw[name]
        else:
            raw[name] = (
                ({} if name in {"customer", "billing_address", "shipping_address"} else "")
                if gone == "empty"
                else None
            )
    order = mapped(raw)
    assert (order.customer, order.billing_address, order.shipping_address) == (None, None, None)


def test_given_a_coupon_and_two_taxes_when_mapped_then_each_line_has_its_share_in_the_shop_s_currency() -> None:
    order = mapped(sample("orders_create-coupon-two-taxes"))
    assert [(line.sku, f"{line.quantity}", str(line.unit_price), str(line.discount)) for line in order.lines] == [
        ("MUG-S", "3", "10.00 USD", "3.00 USD"),
        ("PEN-S", "1", "15.00 USD", "1.50 USD"),
        ("STICKER-S", "2", "0.00 USD", "0.00 USD"),
        ("TEE-S", "0", "24.50 USD", "0.00 USD"),
    ]
    assert [(tax.title, tax.rate) for tax in order.lines[1].taxes] == [
        ("GST", Decimal("0.05")),
        ("QST", Decimal("0.09975")),
    ]
    assert (order.customer, order.billing_address, order.shipping_address) == (None, None, None)
    check(order)


def test_given_a_tax_that_was_rounded_once_when_mapped_then_the_largest_part_takes_the_rounding() -> None:
    raw = sample("orders_create-coupon-two-taxes")
    order = mapped(raw)
    assert [str(tax.amount) for line in order.lines[:2] for tax in line.taxes] == [
        "1.35 USD",
        "2.683 USD",
        "0.68 USD",
        "1.347 USD",
    ]
    assert breakdown(order).taxes == Decimal(raw["total_tax"])
    check(order)


@pytest.mark.parametrize(
    ("changes", "off"),
    [
        ({"total_tax": "6.80", "total_price": "52.26"}, False),
        ({"total_tax": "6.80", "total_price": "52.24"}, True),
        ({"total_tax": "6.70", "total_price": "52.15"}, True),
        ({"total_tax": "6.73", "total_price": "52.18"}, False),
        ({"total_tax": None, "total_price": "52.25"}, True),
        ({"total_tax": "6.80", "total_price": "45.45", "taxes_included": True}, False),
        ({"total_tax": "6.80", "total_price": "45.44", "taxes_included": True}, True),
    ],
    ids=[
        "the parts fit already",
        "neither fits",
        "too much for rounding",
        "as much as rounding can",
        "no tax is stated",
        "included",
        "included, and off",
    ],
)
def test_given_taxes_that_differ_when_mapped_then_only_rounding_that_makes_the_total_is_taken(
    changes: Json, off: bool
) -> None:
    raw = sample("orders_create-coupon-two-taxes") | {"total_tax_set": None, "total_price_set": None} | changes
    if off:
        with pytest.raises(TotalMismatch):
            check(mapped(raw))
    else:
        check(mapped(raw))


@pytest.mark.parametrize(
    ("raw", "state"),
    [(state.value, state) for state in PaymentState] + [("expired", PaymentState.PENDING)],
)
def test_given_a_financial_status_when_mapped_then_the_payment_state(raw: str, state: PaymentState) -> None:
    assert mapped(sample("orders_create") | {"financial_status": raw}).payment_state is state


def test_given_a_cancelled_order_when_mapped_then_when_and_why() -> None:
    order = mapped(sample("orders_cancelled"))
    assert order.cancelled
    assert order.cancelled_at == datetime.fromisoformat(sample("orders_cancelled")["cancelled_at"])
    assert order.cancel_reason == "customer"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, LineKind.PRODUCT),
        ({"product_id": None, "variant_id": None}, LineKind.PRODUCT),
        ({"product_id": None, "variant_id": None, "sku": ""}, LineKind.CUSTOM),
        ({"product_id": None, "variant_id": None, "sku": None}, LineKind.CUSTOM),
        ({"sku": None, "variant_id": None}, LineKind.PRODUCT),
        ({"gift_card": True}, LineKind.GIFT_CARD),
        ({"tip_payment_gateway": None}, LineKind.TIP),
        ({"tip_payment_method": "Visa"}, LineKind.TIP),
        ({"tip": {"payment_gateway": None}}, LineKind.TIP),
        ({"tip": None}, LineKind.PRODUCT),
    ],
)
def test_given_a_line_when_mapped_then_its_kind(changes: Json, kind: LineKind) -> None:
    raw = sample("orders_create")
    raw["line_items"][0] |= changes
    assert mapped(raw).lines[0].kind is kind


def test_given_a_tip_line_when_mapped_then_the_tip_counts_once() -> None:
    raw = sample("orders_create-tip")
    assert Decimal(raw["total_tip_received"]) > 0
    order = mapped(raw)
    assert [line.kind for line in order.lines].count(LineKind.TIP) == 1
    assert not order.fees
    check(order)


def test_given_a_tip_without_a_line_when_mapped_then_it_is_a_fee() -> None:
    raw = sample("orders_create-tip")
    raw["line_items"] = [line for line in raw["line_items"] if "tip" not in line]
    order = mapped(raw)
    assert [(fee.title, fee.amount.amount) for fee in order.fees] == [("Tip", Decimal(raw["total_tip_received"]))]
    check(order)


def test_given_duties_fees_and_a_gift_card_when_mapped_then_all_are_in_the_shop_s_currency() -> None:
    order = mapped(sample("orders_create-gift-card-duties-fees"))
    fees = [(fee.title, str(fee.amount), [str(tax.amount) for tax in fee.taxes]) for fee in order.fees]
    assert fees == [("Duties", "3.10 EUR", ["0.31 EUR"]), ("Additional fees", "1.50 EUR", [])]
    assert [line.kind for line in order.lines] == [LineKind.PRODUCT, LineKind.GIFT_CARD]
    check(order)


def test_given_duties_in_the_prices_when_mapped_then_they_are_no_fee() -> None:
    raw = sample("orders_create-gift-card-duties-fees") | {"duties_included": True}
    assert [fee.title for fee in mapped(raw).fees] == ["Additional fees"]


@pytest.mark.parametrize(("in_total", "fees"), [("-0.02", ["Cash rounding"]), ("0.00", [])])
def test_given_a_cash_rounding_when_mapped_then_a_fee_only_where_the_total_holds_it(
    in_total: str, fees: list[str]
) -> None:
    raw = sample("orders_create")
    raw["total_price"] = str(Decimal(raw["total_price"]) + Decimal(in_total))
    raw["total_price_set"] = money(raw["total_price"])
    raw["total_cash_rounding_payment_adjustment_set"] = money("-0.02")
    order = mapped(raw)
    assert [fee.title for fee in order.fees] == fees
    check(order)


@pytest.mark.parametrize(
    ("changes", "discount"),
    [
        ({"discount_allocations": [{"amount": "1.10"}, {"amount": "0.20"}], "total_discount": "9"}, "1.30"),
        ({"discount_allocations": [{"amount": "9", "amount_set": money("0.5")}]}, "0.5"),
        ({"discount_allocations": [], "total_discount": "1.25", "total_discount_set": None}, "1.25"),
        ({"discount_allocations": None, "total_discount": None, "total_discount_set": money("0.75")}, "0.75"),
        ({"discount_allocations": None, "total_discount": None, "total_discount_set": None}, "0"),
    ],
)
def test_given_a_line_s_discounts_when_mapped_then_allocations_go_first(changes: Json, discount: str) -> None:
    raw = sample("orders_create")
    raw["line_items"][0] |= changes
    assert mapped(raw).lines[0].discount.amount == Decimal(discount)


@pytest.mark.parametrize(
    ("changes", "discount"),
    [
        ({"discounted_price": "3.50", "discounted_price_set": None, "discount_allocations": []}, "1.50"),
        ({"discounted_price": "5", "discounted_price_set": None, "discount_allocations": [{"amount": "2"}]}, "2"),
        ({"discounted_price": None, "discounted_price_set": None, "discount_allocations": None}, "0"),
    ],
)
def test_given_a_shipping_discount_when_mapped_then_the_line_s(changes: Json, discount: str) -> None:
    raw = sample("orders_create")
    raw["shipping_lines"][0] |= {"price": "5.00", "price_set": None} | changes
    shipping = mapped(raw).shipping[0]
    assert (shipping.price.amount, shipping.discount.amount) == (Decimal("5.00"), Decimal(discount))


def test_given_a_removed_shipping_line_when_mapped_then_it_is_left_out() -> None:
    raw = sample("orders_create")
    raw["shipping_lines"][0]["is_removed"] = True
    assert mapped(raw).shipping == ()


def test_given_broken_text_when_mapped_then_it_is_mended_and_the_order_goes_on() -> None:
    order = mapped(sample("orders_create") | {"note": "a\ud800b\0c"})
    assert order.note == "a\ufffdbc"
    assert json.loads(order.model_dump_json())["note"] == "a\ufffdbc"


@pytest.mark.parametrize(
    ("path", "value", "subject"),
    [
        ("id", None, "id"),
        ("id", 1.5, "id"),
        ("currency", "euro", "currency"),
        ("currency", "A1B", "currency"),
        ("currency", None, "currency"),
        ("total_price_set.shop_money.amount", "ten", "total_price_set.shop_money.amount"),
        ("total_price_set.shop_money.amount", None, "total_price"),
        ("total_price_set.shop_money.currency_code", "USD", "total_price_set.shop_money.currency_code"),
        ("total_price_set", [], "total_price_set"),
        ("financial_status", "mystery", "financial_status"),
        ("financial_status", None, "financial_status"),
        ("taxes_included", "yes", "taxes_included"),
        ("processed_at", "yesterday", "processed_at"),
        ("cancelled_at", "2026-10-01T09:00:00", "cancelled_at"),
        ("note", 7, "note"),
        ("line_items", None, "line_items"),
        ("line_items", {}, "line_items"),
        ("line_items.1", "x", "line_items[]"),
        ("line_items.1.id", None, "line_items[].id"),
        ("line_items.1.title", 1, "line_items[].title"),
        ("line_items.1.quantity", None, "line_items[].quantity"),
        ("line_items.1.quantity", -1, "line_items[].quantity"),
        ("line_items.1.quantity", True, "line_items[].quantity"),
        ("line_items.1.price_set.shop_money.amount", "1e3", "line_items[].price_set.shop_money.amount"),
        ("line_items.1.price_set.shop_money.amount", "9" * 21, "line_items[].price_set.shop_money.amount"),
        ("line_items.1.discount_allocations", [{"amount": "-1"}], "line_items[].discount_allocations[].amount"),
        ("line_items.1.discount_allocations", [{"amount": "9" * 20}] * 2, "line_items[].discount_allocations"),
        ("line_items.1.tax_lines", [{}], "line_items[].tax_lines[].price"),
        ("line_items.1.tax_lines.0.rate", "high", "line_items[].tax_lines[].rate"),
        ("shipping_lines.0.discounted_price_set.shop_money.amount", "999", "shipping_lines[].discounted_price"),
        ("customer", "me", "customer"),
        ("shipping_address.zip", 1234, "shipping_address.zip"),
    ],
)
def test_given_an_unreadable_field_when_mapped_then_unmapped_names_it(path: str, value: Any, subject: str) -> None:
    raw = sample("orders_create")
    if path == "line_items.1.title":
        raw["line_items"][1]["name"] = None
    put(raw, path.split("."), value)
    with pytest.raises(Unmapped) as caught:
        mapped(raw)
    assert caught.value.subject == subject
    assert caught.value.message.startswith(subject.split("[", maxsplit=1)[0])


def test_given_a_field_in_a_list_when_refused_then_the_message_tells_which() -> None:
    raw = sample("orders_create")
    raw["line_items"][1]["price_set"]["shop_money"]["amount"] = "personal text"
    with pytest.raises(Unmapped) as caught:
        mapped(raw)
    assert caught.value.message == "line_items[1].price_set.shop_money.amount is not a number"


def put(node: Any, path: list[str], value: Any) -> None:
    for name in path[:-1]:
        node = node[int(name) if isinstance(node, list) else name]
    node[int(path[-1]) if isinstance(node, list) else path[-1]] = value


def paths(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield (*path, str(name))
        yield from paths(value, (*path, str(name)))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(
        [
            "-1",
            "0",
            "1e9",
            "9" * 25,
            "0." + "9" * 25,
            "USD",
            "\ud800",
            [],
            {},
            [None],
            [{}],
            [[]],
            {"shop_money": {}},
        ]
    ),
    st.sampled_from(["2026-10-01T09:00:00Z", "0001-01-01T00:00:00+14:00", 10**400, 10**20, -(10**20), 1e308]),
)
BASES = [json.loads(path.read_text()) for path in SAMPLES]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_given_any_field_replaced_when_mapped_then_an_order_or_unmapped(data: st.DataObject) -> None:
    raw = copy.deepcopy(data.draw(st.sampled_from(BASES), label="sample"))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths(raw))), label="path")
        put(raw, list(path), data.draw(VALUES, label="value"))
    with suppress(Unmapped):
        order = mapped(raw)
        assert order.digest()
        assert Order.model_validate_json(order.model_dump_json()) == order
        with suppress(TotalMismatch):
            check(order)


@settings(deadline=None)
@given(st.binary())
def test_given_any_bytes_when_mapped_then_an_order_or_unmapped(body: bytes) -> None:
    with pytest.raises(Unmapped):
        SHOP.map("orders/create", body)
