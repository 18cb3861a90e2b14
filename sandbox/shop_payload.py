"""The shape of a Shopify order: a draft's cents as the JSON of the REST Admin API (version 2026-07).

The fields and their order are those of real payloads; every value is made up.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from sandbox.shop_orders import Draft, DraftLine

Json = dict[str, Any]

GIVEN = ("Ada", "Bruno", "Carla", "Dario", "Elif", "Fatou", "Goran", "Hanne", "Iñaki", "Jürgen")
FAMILY = ("Example", "Sample", "Muster", "Ejemplo", "Exemple", "Esempio", "Voorbeeld", "Przykład")


def payload(draft: Draft) -> Json:
    """Render the order as it is now."""
    return {
        **_head(draft),
        **_totals(draft),
        "billing_address": _address(draft),
        "customer": _customer(draft),
        "discount_applications": _applications(draft),
        "fulfillments": [],
        "line_items": [_line(draft, line) for line in draft.lines],
        "payment_terms": None,
        "refunds": [],
        "shipping_address": _address(draft),
        "shipping_lines": [_shipping(draft)],
    }


def _head(draft: Draft) -> Json:
    gid = f"gid://shopify/Order/{draft.order_id}"
    token = f"{draft.order_id:032x}"
    return {
        "id": draft.order_id,
        "admin_graphql_api_id": gid,
        "app_id": 580_111,
        "browser_ip": "192.0.2.10",
        "buyer_accepts_marketing": False,
        "cancel_reason": "customer" if draft.cancelled_at else None,
        "cancelled_at": _time(draft.cancelled_at),
        "cart_token": None,
        "checkout_id": draft.order_id + 1,
        "checkout_token": token,
        "client_details": {"accept_language": "en", "browser_ip": "192.0.2.10", "user_agent": "Example/1.0"},
        "closed_at": None,
        "confirmation_number": f"EX{draft.number:07d}",
        "confirmed": True,
        "contact_email": _email(draft),
        "created_at": _time(draft.created_at),
        "currency": draft.currency,
        "customer_locale": "en",
        "device_id": None,
        "discount_codes": [],
        "duties_included": False,
        "email": _email(draft),
        "estimated_taxes": False,
        "financial_status": _financial_status(draft),
        "fulfillment_status": None,
        "landing_site": "/",
        "location_id": None,
        "merchant_of_record_app_id": None,
        "name": f"#{draft.number}",
        "note": draft.note,
        "note_attributes": [],
        "number": draft.number - 1_000,
        "order_number": draft.number,
        "order_status_url": f"https://example.myshopify.com/1/orders/{token}/authenticate?key=example",
        "payment_gateway_names": ["bogus"],
        "phone": None,
        "po_number": None,
        "presentment_currency": draft.currency,
        "processed_at": _time(draft.created_at),
        "reference": None,
        "referring_site": "",
        "source_identifier": None,
        "source_name": "web",
        "tags": "",
        "tax_exempt": False,
        "taxes_included": draft.taxes_included,
        "test": False,
        "token": token,
        "total_weight": 0,
        "updated_at": _time(draft.updated_at),
        "user_id": None,
    }


def _financial_status(draft: Draft) -> str:
    if draft.cancelled_at:
        return "refunded" if draft.paid else "voided"
    return "paid" if draft.paid else "pending"


def _totals(draft: Draft) -> Json:
    lines = [line for line in draft.lines if line.kind != "tip"]
    tips = sum(line.net for line in draft.lines if line.kind == "tip")
    amounts = {
        "subtotal_price": sum(line.net for line in lines),
        "total_discounts": sum(line.discount for line in draft.lines) + draft.shipping_discount,
        "total_line_items_price": sum(line.price * line.quantity for line in lines),
        "total_price": draft.total,
        "total_tax": draft.taxes,
    }
    current = {f"current_{name}": amount for name, amount in amounts.items() if name != "total_line_items_price"}
    body: Json = {}
    for name, cents in {**amounts, **current}.items():
        body |= _priced(draft, name, cents)
    return body | {
        "current_total_additional_fees_set": None,
        "current_total_duties_set": None,
        "original_total_additional_fees_set": None,
        "original_total_duties_set": None,
        "tax_lines": _tax(draft, draft.taxes, draft.tax_rate),
        "total_cash_rounding_payment_adjustment_set": _set(draft, 0),
        "total_cash_rounding_refund_adjustment_set": _set(draft, 0),
        "total_outstanding": _amount(0 if draft.paid else draft.total),
        "total_shipping_price_set": _set(draft, draft.shipping - draft.shipping_discount),
        "total_tip_received": _amount(tips),
    }


def _line(draft: Draft, line: DraftLine) -> Json:
    listed = line.kind == "product"
    body = {
        "id": line.line_id,
        "admin_graphql_api_id": f"gid://shopify/LineItem/{line.line_id}",
        "attributed_staffs": [],
        "current_quantity": line.quantity,
        "fulfillable_quantity": line.quantity,
        "fulfillment_service": "manual",
        "fulfillment_status": None if line.kind != "tip" else "not_eligible",
        "gift_card": False,
        "grams": 0,
        "name": line.title,
        **_priced(draft, "price", line.price),
        "product_exists": listed,
        "product_id": 8_000_000_000_000 + crc32(line.title.encode()) if listed else None,
        "properties": [],
        "quantity": line.quantity,
        "requires_shipping": listed,
        "sku": line.sku,
        "taxable": line.tax_rate > 0,
        "title": line.title,
        **_priced(draft, "total_discount", 0),
        "variant_id": 9_000_000_000_000 + crc32(line.title.encode()) if listed else None,
        "variant_inventory_management": "shopify" if listed else None,
        "variant_title": None,
        "vendor": "Example Goods" if listed else None,
        "tax_lines": _tax(draft, draft.tax(line.net, line.tax_rate), line.tax_rate),
        "duties": [],
        "discount_allocations": _allocations(draft, line.discount),
    }
    if line.kind == "tip":
        body |= {"tip": {"payment_gateway": None, "payment_method": None}}
        body |= {"tip_payment_gateway": None, "tip_payment_method": None}
    return body


def _shipping(draft: Draft) -> Json:
    net = draft.shipping - draft.shipping_discount
    return {
        "id": draft.order_id + 2,
        "carrier_identifier": None,
        "code": "Standard",
        **_priced(draft, "discounted_price", net),
        "is_removed": False,
        "phone": None,
        **_priced(draft, "price", draft.shipping),
        "requested_fulfillment_service_id": None,
        "source": "shopify",
        "title": "Standard",
        "tax_lines": _tax(draft, draft.tax(net, draft.tax_rate), draft.tax_rate),
        "discount_allocations": _allocations(draft, draft.shipping_discount),
    }


def _applications(draft: Draft) -> list[Json]:
    if not any(line.discount for line in draft.lines) and not draft.shipping_discount:
        return []
    return [
        {
            "target_type": "line_item",
            "type": "manual",
            "value": "1.0",
            "value_type": "fixed_amount",
            "title": "Sale",
        }
    ]


def _allocations(draft: Draft, cents: int) -> list[Json]:
    return [{**_priced(draft, "amount", cents), "discount_application_index": 0}] if cents else []


def _tax(draft: Draft, cents: int, rate: int) -> list[Json]:
    if not rate:
        return []
    return [{"title": "VAT", **_priced(draft, "price", cents), "rate": rate / 10_000, "channel_liable": False}]


def _customer(draft: Draft) -> Json | None:
    """Make the buyer. Each tenth is a guest."""
    if draft.buyer % 10 == 0:
        return None
    address = {
        **_address(draft),
        "id": 6_000_000 + draft.buyer,
        "customer_id": 7_000_000 + draft.buyer,
        "default": True,
    }
    return {
        "id": 7_000_000 + draft.buyer,
        "email": _email(draft),
        "created_at": _time(draft.created_at),
        "updated_at": _time(draft.created_at),
        "first_name": _given(draft),
        "last_name": _family(draft),
        "state": "disabled",
        "note": None,
        "verified_email": True,
        "tax_exempt": False,
        "phone": None,
        "tags": "",
        "currency": draft.currency,
        "tax_exemptions": [],
        "default_address": address,
    }


def _address(draft: Draft) -> Json:
    return {
        "first_name": _given(draft),
        "address1": f"{draft.buyer} Example Street",
        "phone": f"+1555010{draft.buyer:04d}",
        "city": "Exampleton",
        "zip": f"{10_000 + draft.buyer}",
        "province": "Exampleshire",
        "country": "Netherlands",
        "last_name": _family(draft),
        "address2": None,
        "company": None,
        "latitude": None,
        "longitude": None,
        "name": f"{_given(draft)} {_family(draft)}",
        "country_code": "NL",
        "province_code": None,
    }


def _given(draft: Draft) -> str:
    return GIVEN[draft.buyer % len(GIVEN)]


def _family(draft: Draft) -> str:
    return FAMILY[draft.buyer % len(FAMILY)]


def _email(draft: Draft) -> str:
    return f"buyer{draft.buyer}@example.com"


def _priced(draft: Draft, name: str, cents: int) -> Json:
    """Give a field and its `_set`, as Shopify writes every amount twice."""
    return {name: _amount(cents), f"{name}_set": _set(draft, cents)}


def _set(draft: Draft, cents: int) -> Json:
    money = {"amount": _amount(cents), "currency_code": draft.currency}
    return {"shop_money": money, "presentment_money": money}


def _amount(cents: int) -> str:
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
