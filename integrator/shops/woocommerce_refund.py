"""WooCommerce's refund, as /orders/{id}/refunds tells it, as the canonical refund.

WooCommerce: the parts of a refund are negative, its `amount` is positive. The amount is the money that went back,
by the gateway or by hand, even where it is not what the parts come to: it may be given without any.
"""

from dataclasses import replace

from integrator.documents import Fee, Refund, RefundLine, ShippingLine
from integrator.documents.money import EXACT
from integrator.shops.payload import Fields, plain_id
from integrator.shops.woocommerce_amounts import Amounts, add
from integrator.shops.woocommerce_fields import time_of, title
from integrator.shops.woocommerce_parts import fee, shipping

LINE_ID = "_refunded_item_id"
"""WooCommerce: the meta field of a refund's line that names the order's line."""


def map_refund(refund: Fields, amounts: Amounts) -> Refund:
    """Make the canonical refund of an order's. Raises Unmapped naming the field, never anything else."""
    return _Mapper(replace(amounts, sign=-1)).refund(refund)


class _Mapper:
    """Maps the parts of a refund."""

    def __init__(self, amounts: Amounts) -> None:
        self.amounts = amounts

    def refund(self, refund: Fields) -> Refund:
        total = refund.number("amount")
        if total is None:
            refund.refuse("amount", "is missing")
        mapped = Refund(
            external_id=refund.id("id") or refund.refuse("id", "is missing"),
            created_at=time_of(refund, "date_created_gmt"),
            lines=tuple(self.line(line) for line in refund.objects("line_items")),
            shipping=tuple(shipping(self.amounts, line) for line in refund.objects("shipping_lines")),
            fees=tuple(fee(self.amounts, line) for line in refund.objects("fee_lines")),
            total=self.amounts.money(refund, "amount", total),
            paid=self.amounts.money(refund, "amount", total),
            note=refund.text("reason"),
        )
        return self.with_rest(mapped, refund)

    def line(self, line: Fields) -> RefundLine:
        quantity = self.amounts.read(line, "quantity")
        if quantity is None or quantity < 0:
            line.refuse("quantity", "is missing or positive")
        taxes = self.amounts.taxes(line)
        return RefundLine(
            line_id=_line_id(line),
            sku=line.text("sku"),
            title=title(line, "name") or line.refuse("name", "is missing"),
            quantity=quantity,
            amount=self.amounts.money(line, "total", self.amounts.charged(line, taxes)),
            taxes=taxes,
        )

    def with_rest(self, mapped: Refund, refund: Fields) -> Refund:
        """Add what the parts do not account for. Versions before shipping and fees were told have it here too."""
        amounts = [part.amount for part in mapped.lines] + [part.price for part in mapped.shipping]
        amounts += [fee.amount for fee in mapped.fees]
        if not self.amounts.taxes_included:
            taxed: list[RefundLine | ShippingLine | Fee] = [*mapped.lines, *mapped.shipping, *mapped.fees]
            amounts += [tax.amount for part in taxed for tax in part.taxes]
        known = add(*(amount.amount for amount in amounts))
        rest = EXACT.subtract(mapped.total.amount, known)
        if not rest:
            return mapped
        fee = Fee(title="Not itemised", amount=self.amounts.money(refund, "amount", rest))
        return mapped.model_copy(update={"fees": (*mapped.fees, fee)})


def _line_id(line: Fields) -> str | None:
    for meta in line.objects("meta_data"):
        if meta.values.get("key") == LINE_ID:
            return plain_id(meta.values.get("value"))
    return None
