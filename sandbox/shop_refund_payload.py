"""The shape of Shopify's refunds and edits (REST Admin API, version 2026-07); every value is made up."""

from sandbox.shop_draft import Draft, DraftLine, DraftRefund, DraftReturn
from sandbox.shop_json import Json, amount_text, line_json, money_set, priced, shipping_json, time_text


def refund_payload(draft: Draft, refund: DraftRefund) -> Json:
    """Render a refund, as `refunds/create` tells it and as the order lists it."""
    return {
        "id": refund.refund_id,
        "order_id": draft.order_id,
        "created_at": time_text(refund.created_at),
        "note": refund.note,
        "user_id": None,
        "processed_at": time_text(refund.created_at),
        "duties": [],
        **{f"total_{name}_set": money_set(draft, 0) for name in ("duties", "additional_fees")},
        "return": None,
        "restock": False,
        "additional_fees": [],
        "refund_shipping_lines": [_shipping(draft, refund)] if refund.shipping else [],
        "admin_graphql_api_id": f"gid://shopify/Refund/{refund.refund_id}",
        "order_adjustments": _adjustments(draft, refund),
        "refund_line_items": [_line(draft, refund, one) for one in refund.returns],
        "transactions": [] if refund.paid is None else [_transaction(draft, refund, refund.paid)],
    }


def edit_payload(draft: Draft, line: DraftLine, removed: int) -> Json:
    """Render an edit, as `orders/edited` tells it: pieces of a line removed, or (with none) a line added."""
    change = {"id": line.line_id, "delta": removed or line.quantity}
    none: Json = {"additions": [], "removals": []}
    return {
        "order_edit": {
            "id": draft.order_id * 10 + 9,
            "app_id": None,
            "created_at": time_text(draft.updated_at),
            "notify_customer": False,
            "order_id": draft.order_id,
            "reason": "",
            "staff_note": "",
            "user_id": None,
            "line_items": {**none, "removals" if removed else "additions": [change]},
            "discounts": {"line_item": none},
            "shipping_lines": none,
        }
    }


def _line(draft: Draft, refund: DraftRefund, one: DraftReturn) -> Json:
    return {
        "id": refund.refund_id * 10 + draft.lines.index(one.line),
        "location_id": None,
        "restock_type": "no_restock",
        "quantity": one.quantity,
        "line_item_id": one.line.line_id,
        **priced(draft, "subtotal", one.amount),
        **priced(draft, "total_tax", one.tax),
        "line_item": line_json(draft, one.line),
    }


def _shipping(draft: Draft, refund: DraftRefund) -> Json:
    return {
        "id": refund.refund_id,
        "shipping_line_id": draft.order_id + 2,
        "subtotal_amount_set": money_set(draft, refund.shipping),
        "shipping_line": shipping_json(draft),
    }


def _adjustments(draft: Draft, refund: DraftRefund) -> list[Json]:
    """Render the differences to what the parts come to. A positive amount is what the shop keeps."""
    found = []
    told_twice = refund.shipping != draft.shipping_net or refund.refund_id % 2  # as older versions do
    if refund.shipping and told_twice:
        tax_apart = refund.shipping - (refund.shipping_tax if draft.taxes_included else 0)
        found.append(("shipping_refund", "Shipping refund", -tax_apart, -refund.shipping_tax))
    if refund.kept:
        found.append(("refund_discrepancy", "Refund discrepancy", refund.kept, 0))
    if refund.was_pending:
        found.append(("refund_discrepancy", "Refund discrepancy", refund.total, 0))
    if refund.was_pending and not refund.pending:
        found.append(("refund_discrepancy", "Pending refund discrepancy", -refund.total, 0))
    return [
        {
            "id": refund.refund_id * 10 + number,
            "order_id": draft.order_id,
            "refund_id": refund.refund_id,
            **priced(draft, "amount", cents),
            **priced(draft, "tax_amount", tax),
            "kind": kind,
            "reason": reason,
        }
        for number, (kind, reason, cents, tax) in enumerate(found)
    ]


def _transaction(draft: Draft, refund: DraftRefund, cents: int) -> Json:
    return {
        "id": refund.refund_id * 10 + 5,
        "order_id": draft.order_id,
        "kind": "refund",
        "gateway": "bogus",
        "status": "pending" if refund.pending else "success",
        "created_at": time_text(refund.created_at),
        "test": True,
        "parent_id": draft.order_id + 3,
        "amount": amount_text(cents),
        "currency": draft.currency,
    }
