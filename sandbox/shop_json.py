"""The parts that Shopify's JSON repeats (REST Admin API, version 2026-07): amounts, taxes, lines and shipping."""

from datetime import datetime
from typing import Any
from zlib import crc32

from sandbox.shop_draft import Draft, DraftLine

Json = dict[str, Any]


def line_json(draft: Draft, line: DraftLine) -> Json:
    """Render a line as it is in the order."""
    listed = line.kind == "product"
    body = {
        "id": line.line_id,
        "admin_graphql_api_id": f"gid://shopify/LineItem/{line.line_id}",
        "attributed_staffs": [],
        "current_quantity": line.current,
        "fulfillable_quantity": line.current,
        "fulfillment_service": "manual",
        "fulfillment_status": None if line.kind != "tip" else "not_eligible",
        "gift_card": False,
        "grams": 0,
        "name": line.title,
        **priced(draft, "price", line.price),
        "product_exists": listed,
        "product_id": 8_000_000_000_000 + crc32(line.title.encode()) if listed else None,
        "properties": [],
        "quantity": line.quantity,
        "requires_shipping": listed,
        "sku": line.sku,
        "taxable": line.tax_rate > 0,
        "title": line.title,
        **priced(draft, "total_discount", 0),
        "variant_id": 9_000_000_000_000 + crc32(line.title.encode()) if listed else None,
        "variant_inventory_management": "shopify" if listed else None,
        "variant_title": None,
        "vendor": "Example Goods" if listed else None,
        "tax_lines": tax_json(draft, draft.tax(line.net, line.tax_rate), line.tax_rate),
        "duties": [],
        "discount_allocations": allocations_json(draft, line.discount),
    }
    if line.kind == "tip":
        body |= {"tip": {"payment_gateway": None, "payment_method": None}}
        body |= {"tip_payment_gateway": None, "tip_payment_method": None}
    return body


def shipping_json(draft: Draft) -> Json:
    """Render the shipping line."""
    net = draft.shipping_net
    return {
        "id": draft.order_id + 2,
        "carrier_identifier": None,
        "code": "Standard",
        **priced(draft, "discounted_price", net),
        "is_removed": False,
        "phone": None,
        **priced(draft, "price", draft.shipping),
        "requested_fulfillment_service_id": None,
        "source": "shopify",
        "title": "Standard",
        "tax_lines": tax_json(draft, draft.tax(net, draft.tax_rate), draft.tax_rate),
        "discount_allocations": allocations_json(draft, draft.shipping_discount),
    }


def allocations_json(draft: Draft, cents: int) -> list[Json]:
    """Render a line's discount."""
    return [{**priced(draft, "amount", cents), "discount_application_index": 0}] if cents else []


def tax_json(draft: Draft, cents: int, rate: int) -> list[Json]:
    """Render the tax of a line, when it has any."""
    if not rate:
        return []
    return [{"title": "VAT", **priced(draft, "price", cents), "rate": rate / 10_000, "channel_liable": False}]


def priced(draft: Draft, name: str, cents: int) -> Json:
    """Give a field and its `_set`, as Shopify writes every amount twice."""
    return {name: amount_text(cents), f"{name}_set": money_set(draft, cents)}


def money_set(draft: Draft, cents: int) -> Json:
    """Render an amount in the shop's and the buyer's currency, which are the same."""
    money = {"amount": amount_text(cents), "currency_code": draft.currency}
    return {"shop_money": money, "presentment_money": money}


def amount_text(cents: int) -> str:
    """Write cents as Shopify does."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def time_text(moment: datetime | None) -> str | None:
    """Write a time as Shopify does."""
    return moment.isoformat() if moment else None
