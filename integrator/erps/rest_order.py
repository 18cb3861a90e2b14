"""What our own HTTP contract says about an order: the canonical order as its JSON, ready to be written."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from integrator import errors
from integrator.documents import Address, Customer, Fee, Line, Money, Order, RefundLine, ShippingLine, Tax
from integrator.erps.base import Action

_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")


def order_content(action: Action) -> dict[str, Any]:
    """The whole order, as a create or an update carries it. Raises Unmapped for an amount in another currency."""
    order = action.order
    return {
        "key": action.key,
        "reference": action.reference,
        "number": order.number,
        "placed_at": _time(order.placed_at),
        "currency": order.currency,
        "taxes_included": order.taxes_included,
        "customer": _parts(order.customer),
        "billing_address": _parts(order.billing_address),
        "shipping_address": _parts(order.shipping_address),
        "lines": [_line(line, order) for line in order.lines],
        "shipping": [_shipping(shipping, order) for shipping in order.shipping],
        "fees": [_fee(fee, order) for fee in order.fees],
        "total": _amount(order.total, order),
        "payment_state": order.payment_state.value,
        "note": order.note,
    }


def credit_content(action: Action) -> dict[str, Any]:
    """What a credit carries: the refund, whole. Raises Unmapped for an amount in another currency."""
    order, refund = action.order, action.refund
    if refund is None:
        raise ValueError("a credit is about a refund")
    return {
        "key": action.key,
        "reference": refund.external_id,
        "created_at": _time(refund.created_at),
        "currency": order.currency,
        "taxes_included": order.taxes_included,
        "lines": [_refund_line(line, order) for line in refund.lines],
        "shipping": [_shipping(shipping, order) for shipping in refund.shipping],
        "fees": [_fee(fee, order) for fee in refund.fees],
        "total": _amount(refund.total, order),
        "paid": None if refund.paid is None else _amount(refund.paid, order),
        "note": refund.note,
    }


def cancel_content(action: Action) -> dict[str, Any]:
    """What a cancellation carries."""
    order = action.order
    return {"key": action.key, "cancelled_at": _time(order.cancelled_at), "reason": order.cancel_reason}


def sendable(value: Any) -> Any:
    """The same with U+FFFD for each lone surrogate, which UTF-8 can't carry, and NUL, which databases can't."""
    if isinstance(value, str):
        return _UNSENDABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {name: sendable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [sendable(item) for item in value]
    return value


def _line(line: Line, order: Order) -> dict[str, Any]:
    return {
        "id": line.external_id,
        "kind": line.kind.value,
        "sku": line.sku,
        "title": line.title,
        "quantity": format(line.quantity, "f"),
        "unit_price": _amount(line.unit_price, order),
        "discount": _amount(line.discount, order),
        "taxes": _taxes(line.taxes, order),
    }


def _refund_line(line: RefundLine, order: Order) -> dict[str, Any]:
    return {
        "line_id": line.line_id,
        "sku": line.sku,
        "title": line.title,
        "quantity": format(line.quantity, "f"),
        "amount": _amount(line.amount, order),
        "taxes": _taxes(line.taxes, order),
    }


def _shipping(shipping: ShippingLine, order: Order) -> dict[str, Any]:
    return {
        "title": shipping.title,
        "price": _amount(shipping.price, order),
        "discount": _amount(shipping.discount, order),
        "taxes": _taxes(shipping.taxes, order),
    }


def _fee(fee: Fee, order: Order) -> dict[str, Any]:
    return {"title": fee.title, "amount": _amount(fee.amount, order), "taxes": _taxes(fee.taxes, order)}


def _taxes(taxes: tuple[Tax, ...], order: Order) -> list[dict[str, Any]]:
    return [
        {
            "title": tax.title,
            "rate": None if tax.rate is None else format(tax.rate, "f"),
            "amount": _amount(tax.amount, order),
        }
        for tax in taxes
    ]


def _parts(document: Customer | Address | None) -> dict[str, Any] | None:
    """All fields, each a text or null. Not pydantic's own dump: it refuses lone surrogates."""
    return None if document is None else dict(document)


def _amount(money: Money, order: Order) -> str:
    if money.currency != order.currency:
        raise errors.Unmapped(
            f"an amount is in {money.currency}, its order in {order.currency}",
            subject=f"currency {money.currency}",
        )
    return format(money.amount, "f")


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
