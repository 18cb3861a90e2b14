"""The shape of a WooCommerce order and refund: a draft's cents as the JSON of the REST API v3.

The fields and their order are those of real payloads; every value is made up.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zlib import crc32

from sandbox.shop_payload import FAMILY, GIVEN

if TYPE_CHECKING:
    from sandbox.woo_orders import WooDraft, WooLine, WooRefund

Json = dict[str, Any]

SITE_OFFSET = timedelta(hours=-3)
"""The shop's own time zone: the fields without `_gmt` are in it, and don't say so."""

RATE_ID = 75


def to_bytes(value: Json) -> bytes:
    """Write JSON as PHP does: compact, with escapes for all but ASCII and for slashes."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/").encode("ascii")


def payload(draft: WooDraft) -> Json:
    """Render the order as it is now."""
    return {
        **_head(draft),
        **_totals(draft),
        **_buyer(draft),
        "payment_method": "bogus",
        "payment_method_title": "Bogus &amp; Sons",
        "transaction_id": "",
        **_times("date_paid", draft.paid_at),
        **_times("date_completed", draft.modified_at if draft.status == "completed" else None),
        "cart_hash": "",
        "meta_data": [{"id": draft.order_id + 90, "key": "_example", "value": {"nested": [1, 2.5, None]}}],
        "line_items": [_line(draft, line) for line in draft.lines],
        "tax_lines": _tax_lines(draft),
        "shipping_lines": _shipping(draft),
        "fee_lines": _fees(draft),
        "coupon_lines": _coupons(draft),
        "refunds": [
            {"id": refund.refund_id, "reason": "", "total": f"-{_amount(refund.amount)}"}
            for refund in reversed(draft.refunds)
        ],
        "payment_url": f"https://example.com/checkout/order-pay/{draft.order_id}/",
        "is_editable": draft.status in {"pending", "on-hold"},
        "needs_payment": draft.status in {"pending", "failed"},
        "needs_processing": True,
        **_times("date_created", draft.created_at),
        **_times("date_modified", draft.modified_at),
        "currency_symbol": "$" if draft.currency == "USD" else "\u20ac",
        "_links": {"self": [{"href": f"https://example.com/wp-json/wc/v3/orders/{draft.order_id}"}]},
    }


def refund_payload(draft: WooDraft, refund: WooRefund) -> Json:
    """Render one refund as /orders/{id}/refunds does: what went back is negative, the amount is not."""
    return {
        "id": refund.refund_id,
        "parent_id": draft.order_id,
        **_times("date_created", refund.created_at),
        "amount": _amount(refund.amount),
        "reason": "",
        "refunded_by": 1,
        "refunded_payment": False,
        "meta_data": [],
        "line_items": [_refund_line(draft, refund, refund.line)] if refund.line else [],
        "shipping_lines": [],
        "tax_lines": [],
        "fee_lines": [],
    }


def _head(draft: WooDraft) -> Json:
    return {
        "id": draft.order_id,
        "parent_id": 0,
        "status": draft.status,
        "currency": draft.currency,
        "version": "10.4.0",
        "prices_include_tax": draft.prices_include_tax,
        "customer_id": draft.buyer if draft.buyer % 10 else 0,
        "order_key": f"wc_order_{draft.order_id:x}",
        "created_via": "checkout",
        "customer_ip_address": "192.0.2.10",
        "customer_user_agent": "Example/1.0",
        "customer_note": draft.note,
        "number": str(draft.order_id),
    }


def _totals(draft: WooDraft) -> Json:
    discounts = [_split(draft, line, line.discount) for line in draft.lines]
    return {
        "discount_total": _amount(sum(net for net, _ in discounts)),
        "discount_tax": _amount(sum(tax for _, tax in discounts)),
        "shipping_total": _amount(draft.shipping),
        "shipping_tax": _amount(draft.shipping_tax),
        "cart_tax": _amount(draft.cart_tax),
        "total": _amount(draft.total),
        "total_tax": _amount(draft.cart_tax + draft.shipping_tax),
    }


def _split(draft: WooDraft, line: WooLine, shown: int) -> tuple[int, int]:
    """Cents without tax, and of tax, of what the shop shows."""
    tax = draft.line_tax(shown, line.tax_rate)
    return (shown - tax if draft.prices_include_tax else shown), tax


def _line(draft: WooDraft, line: WooLine) -> Json:
    before = line.price * line.quantity
    subtotal, subtotal_tax = _split(draft, line, before)
    total, total_tax = _split(draft, line, line.shown)
    return {
        "id": line.line_id,
        "name": f"{line.title} &ndash; made up",
        "product_id": crc32(line.title.encode()) % 100_000 + 1 if line.sku else 0,
        "variation_id": 0,
        "quantity": line.quantity,
        "tax_class": "",
        "subtotal": _amount(subtotal),
        "subtotal_tax": _amount(subtotal_tax),
        "total": _amount(total),
        "total_tax": _amount(total_tax),
        "taxes": _taxes(draft, line, line.shown, before),
        "meta_data": [],
        "sku": line.sku,
        "price": total / line.quantity / 100,
        "image": {"id": "", "src": ""},
        "parent_name": None,
    }


def _refund_line(draft: WooDraft, refund: WooRefund, line: WooLine) -> Json:
    back = line.price * refund.quantity
    net, tax = _split(draft, line, back)
    meta = {"id": refund.refund_id + 50, "key": "_refunded_item_id", "value": str(line.line_id)}
    return {
        **_line(draft, line),
        "id": refund.refund_id + 40,
        "quantity": -refund.quantity,
        "subtotal": f"-{_amount(net)}",
        "subtotal_tax": f"-{_amount(tax)}",
        "total": f"-{_amount(net)}",
        "total_tax": f"-{_amount(tax)}",
        "taxes": [{"id": RATE_ID, "total": f"-{_amount(tax)}", "subtotal": ""}] if line.tax_rate else [],
        "meta_data": [meta],
    }


def _taxes(draft: WooDraft, line: WooLine, shown: int, before: int) -> list[Json]:
    """One rate's tax, which WooCommerce does not round here."""
    if not line.tax_rate:
        return []
    total, subtotal = (_unrounded(draft, line.tax_rate, cents) for cents in (shown, before))
    return [{"id": RATE_ID, "total": total, "subtotal": subtotal}]


def _unrounded(draft: WooDraft, rate: int, cents: int) -> str:
    """The tax with six decimals, without the zeros at its end."""
    whole = 10_000 + rate if draft.prices_include_tax else 10_000
    millionths = (2 * cents * 10_000 * rate + whole) // (2 * whole)
    text = f"{millionths // 1_000_000}.{millionths % 1_000_000:06d}".rstrip("0")
    return text.rstrip(".")


def _tax_lines(draft: WooDraft) -> list[Json]:
    if not draft.tax_rate:
        return []
    return [
        {
            "id": draft.order_id + 91,
            "rate_code": "NL-VAT-1",
            "rate_id": RATE_ID,
            "label": "VAT",
            "compound": False,
            "tax_total": _amount(draft.cart_tax),
            "shipping_tax_total": _amount(draft.shipping_tax),
            "rate_percent": draft.tax_rate / 100,
            "meta_data": [],
        }
    ]


def _shipping(draft: WooDraft) -> list[Json]:
    if not draft.shipping:
        return []
    tax = _amount(draft.shipping_tax)
    return [
        {
            "id": draft.order_id + 92,
            "method_title": "Flat rate",
            "method_id": "flat_rate",
            "instance_id": "1",
            "total": _amount(draft.shipping),
            "total_tax": tax,
            "taxes": [{"id": RATE_ID, "total": tax, "subtotal": ""}] if draft.tax_rate else [],
            "meta_data": [],
        }
    ]


def _fees(draft: WooDraft) -> list[Json]:
    if not draft.fee:
        return []
    fee = {"id": draft.order_id + 93, "name": "Gift wrap" if draft.fee > 0 else "Loyalty", "tax_class": "0"}
    amount = _amount(draft.fee)
    rest = {"tax_status": "none", "amount": amount, "total": amount, "total_tax": "0.00"}
    return [{**fee, **rest, "taxes": [], "meta_data": []}]


def _coupons(draft: WooDraft) -> list[Json]:
    discount = sum(_split(draft, line, line.discount)[0] for line in draft.lines)
    if not discount:
        return []
    return [{"id": draft.order_id + 94, "code": "sale", "discount": _amount(discount), "meta_data": []}]


def _buyer(draft: WooDraft) -> Json:
    given, family = GIVEN[draft.buyer % len(GIVEN)], FAMILY[draft.buyer % len(FAMILY)]
    address = {
        "first_name": given,
        "last_name": family,
        "company": "",
        "address_1": f"{draft.buyer} Example Street",
        "address_2": "",
        "city": "Exampleton",
        "state": "",
        "postcode": f"{10_000 + draft.buyer}",
        "country": "NL",
    }
    contact = {"email": f"buyer{draft.buyer}@example.com", "phone": f"+1555010{draft.buyer:04d}"}
    return {"billing": {**address, **contact}, "shipping": {**address, "phone": ""}}


def _amount(cents: int) -> str:
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def _times(name: str, moment: datetime | None) -> Json:
    """A time twice: in the site's zone, and in UTC, both without a zone."""
    if moment is None:
        return {name: None, f"{name}_gmt": None}
    local, utc = ((moment + offset).strftime("%Y-%m-%dT%H:%M:%S") for offset in (SITE_OFFSET, timedelta()))
    return {name: local, f"{name}_gmt": utc}
