"""The shape of a Shopify order: a draft's cents as the JSON of the REST Admin API (version 2026-07).

The fields and their order are those of real payloads; every value is made up.
"""

from sandbox.shop_draft import Draft
from sandbox.shop_json import (
    Json,
    amount_text,
    line_json,
    money_set,
    priced,
    shipping_json,
    tax_json,
    time_text,
)
from sandbox.shop_refund_payload import refund_payload

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
        "line_items": [line_json(draft, line) for line in draft.lines],
        "payment_terms": None,
        "refunds": [refund_payload(draft, refund) for refund in draft.refunds],
        "shipping_address": _address(draft),
        "shipping_lines": [shipping_json(draft)],
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
        "cancelled_at": time_text(draft.cancelled_at),
        "cart_token": None,
        "checkout_id": draft.order_id + 1,
        "checkout_token": token,
        "client_details": {"accept_language": "en", "browser_ip": "192.0.2.10", "user_agent": "Example/1.0"},
        "closed_at": None,
        "confirmation_number": f"EX{draft.number:07d}",
        "confirmed": True,
        "contact_email": _email(draft),
        "created_at": time_text(draft.created_at),
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
        "processed_at": time_text(draft.created_at),
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
        "updated_at": time_text(draft.updated_at),
        "user_id": None,
    }


def _financial_status(draft: Draft) -> str:
    if draft.cancelled_at:
        return "refunded" if draft.paid else "voided"
    given_back = sum(refund.paid or 0 for refund in draft.settled)
    if given_back:
        return "refunded" if given_back >= draft.total else "partially_refunded"
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
    current = {
        "current_subtotal_price": sum(line.net * line.current // line.quantity for line in lines if line.quantity),
        "current_total_price": draft.current_total,
    }
    body: Json = {}
    for name, cents in {**amounts, **current}.items():
        body |= priced(draft, name, cents)
    return body | {
        "current_total_additional_fees_set": None,
        "current_total_duties_set": None,
        "original_total_additional_fees_set": None,
        "original_total_duties_set": None,
        "tax_lines": tax_json(draft, draft.taxes, draft.tax_rate),
        "total_cash_rounding_payment_adjustment_set": money_set(draft, 0),
        "total_cash_rounding_refund_adjustment_set": money_set(draft, 0),
        "total_outstanding": amount_text(0 if draft.paid else draft.current_total),
        "total_shipping_price_set": money_set(draft, draft.shipping_net),
        "total_tip_received": amount_text(tips),
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
        "created_at": time_text(draft.created_at),
        "updated_at": time_text(draft.created_at),
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
