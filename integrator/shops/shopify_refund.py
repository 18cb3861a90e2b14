"""Shopify's refunds as canonical ones. They are part of the order: of a webhook's body, and of what the API reads.

Shopify: a refund has no total. What it takes off the order is what its goods, shipping, duties and fees come to,
less its `order_adjustments`, which "account for the difference between a calculated and actual refund amount": a
positive `refund_discrepancy` was kept back, a negative one was given on top, and the negative `shipping_refund`
repeats what `refund_shipping_lines` list. So an edit that removes a line is a refund without a transaction, and
money that is paid for it later comes in one without lines. `total_price` less `current_total_price`, which
"reflects order edits, returns, and refunds", says what all of them together must come to.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from integrator.documents import Fee, Money, Order, Refund, RefundLine, ShippingLine, StatedTotals, Tax
from integrator.documents.money import EXACT
from integrator.documents.sums import refund_breakdown
from integrator.shops.payload import Fields
from integrator.shops.shopify_amounts import SHARES, ZERO, Amounts

UNDER_WAY = frozenset({"pending", "awaiting_response", "unknown"})
"""What a transaction's status is while nobody knows how it ends."""

SHIPPING, DISCREPANCY = "shipping_refund", "refund_discrepancy"


def with_refunds(mapped: Order, order: Fields) -> Order:
    """Add the order's refunds, and what the shop says that they come to.

    Left out is a refund while money of it is under way. Shopify: "the existence of a Refund object doesn't
    guarantee that the money has been returned", and until it is, an adjustment takes it off the refund again. A
    credit can't follow that, so it waits for the delivery which says how it ended. A refund of nothing at all is
    left out, too.
    """
    mapper = _Mapper(mapped.currency, mapped, order.flag("duties_included") or False)
    refunds = [refund for refund in order.objects("refunds") if not _under_way(refund)]
    made = tuple(one for one in map(mapper.refund, refunds) if one is not None)
    current = mapper.money(order, "current_total_price")
    stated = mapped.stated or StatedTotals()
    if current is not None and len(refunds) == len(list(order.objects("refunds"))):
        less = EXACT.subtract(mapped.total.amount, current.amount)
        stated = stated.model_copy(
            update={"refunds": mapper.fitting(order, "total_price and current_total_price", less)}
        )
    return mapped.model_copy(update={"refunds": made, "stated": stated})


def _under_way(refund: Fields) -> bool:
    return any(
        transaction.text("kind") == "refund" and transaction.text("status") in UNDER_WAY
        for transaction in refund.objects("transactions")
    )


@dataclass(frozen=True)
class _Mapper(Amounts):
    """Maps the refunds of an order that is mapped itself."""

    order: Order
    duties_included: bool

    def refund(self, refund: Fields) -> Refund | None:
        draft = Refund(
            external_id=refund.id("id") or refund.refuse("id", "is missing"),
            created_at=refund.time("created_at") or refund.time("processed_at"),
            lines=tuple(self.line(line) for line in refund.objects("refund_line_items")),
            shipping=tuple(self.shipping(refund)),
            fees=tuple(self.fees(refund)),
            total=Money.zero(self.currency),
            paid=self.paid(refund),
            note=refund.text("note"),
        )
        if not (draft.lines or draft.shipping or draft.fees or (draft.paid and draft.paid.amount)):
            return None
        total = self.fitting(refund, "refund_line_items", refund_breakdown(self.order, draft).expected)
        return draft.model_copy(update={"total": total})

    def line(self, line: Fields) -> RefundLine:
        """Map what of one line was given back.

        Shopify: `subtotal` is of the whole quantity, after all discounts, and holds the taxes when the order's
        prices do. Only the sum of the taxes is told; they are shared out as the order's line has them.
        """
        quantity = line.number("quantity")
        if quantity is None or quantity < 0:
            line.refuse("quantity", "is missing or negative")
        sold = line.object("line_item") or Fields({}, line.where("line_item"))
        line_id = line.id("line_item_id") or sold.id("id")
        known = next((one for one in self.order.lines if one.external_id == line_id), None)
        title = sold.text("name") or sold.text("title") or (known.title if known else None)
        tax = self.money(line, "total_tax")
        return RefundLine(
            line_id=line_id,
            sku=sold.text("sku") or (known.sku if known else None),
            title=title or sold.refuse("title", "is missing"),
            quantity=quantity,
            amount=self.money(line, "subtotal") or line.refuse("subtotal", "is missing"),
            taxes=self.shared(
                line,
                "total_tax",
                tax.amount if tax else ZERO,
                self.taxes(sold) or (known.taxes if known else ()),
            ),
        )

    def shipping(self, refund: Fields) -> Iterator[ShippingLine]:
        """Map the shipping that was given back: the adjustments, which tell the tax, else the shipping lines."""
        lines = list(refund.objects("refund_shipping_lines"))
        known = [line.object("shipping_line") or Fields({}, line.where("shipping_line")) for line in lines]
        adjustments = [one for one in refund.objects("order_adjustments") if _kind(one) == SHIPPING]
        for number, adjustment in enumerate(adjustments):
            of = known[number] if len(known) == len(adjustments) else Fields({})
            taxes = self.shared(adjustment, "tax_amount", self.taken(adjustment, "tax_amount"), self.taxes(of))
            yield self.shipping_line(
                of, self.with_taxes(adjustment, self.taken(adjustment, "amount"), taxes), taxes
            )
        if not adjustments:
            for line, of in zip(lines, known, strict=True):
                price = self.money(line, "subtotal_amount") or line.refuse("subtotal_amount", "is missing")
                tax = self.money(line, "tax_amount")
                share = tax.amount if tax else self.share_of_tax(of, price.amount)
                yield self.shipping_line(of, price, self.shared(line, "subtotal_amount", share, self.taxes(of)))

    def shipping_line(self, of: Fields, price: Money, taxes: tuple[Tax, ...]) -> ShippingLine:
        title = of.text("title") or of.text("code") or "Shipping"
        return ShippingLine(title=title, price=price, discount=Money.zero(self.currency), taxes=taxes)

    def share_of_tax(self, of: Fields, given_back: Decimal) -> Decimal:
        """The tax of a part of a shipping line, in proportion; Shopify's REST tells the part alone."""
        price, tax = self.money(of, "price"), ZERO
        for one in self.taxes(of):
            tax = EXACT.add(tax, one.amount.amount)
        discount = self.allocated(of) or Money.zero(self.currency)
        charged = EXACT.subtract(price.amount, discount.amount) if price else ZERO
        if not charged or charged == given_back:
            return tax
        share = SHARES.divide(SHARES.multiply(tax, given_back), charged)
        try:
            return share.quantize(tax, ROUND_HALF_UP, SHARES)
        except InvalidOperation:
            of.refuse("price", "makes a tax of more than 20 digits")

    def fees(self, refund: Fields) -> Iterator[Fee]:
        duties = self.money(refund, "total_duties")
        if duties is not None and duties.amount and not self.duties_included:
            yield Fee(title="Duties", amount=duties)
        additional = self.money(refund, "total_additional_fees")
        if additional is not None and additional.amount:
            yield Fee(title="Additional fees", amount=additional)
        yield from self.discrepancy(refund)

    def discrepancy(self, refund: Fields) -> Iterator[Fee]:
        """What was kept back (negative) or given on top of what the goods come to, as one fee.

        Shopify: what a pending transaction takes off is put back by an adjustment of its own when it has ended.
        """
        amount, tax, reasons = ZERO, ZERO, set()
        for adjustment in refund.objects("order_adjustments"):
            if _kind(adjustment) == DISCREPANCY:
                amount = EXACT.add(amount, self.taken(adjustment, "amount"))
                tax = EXACT.add(tax, self.taken(adjustment, "tax_amount"))
                reasons.add(adjustment.text("reason") or "Refund discrepancy")
        if amount or tax:
            self.fitting(refund, "order_adjustments", tax)
            taxes = self.shared(refund, "order_adjustments", tax, ())
            title = reasons.pop() if len(reasons) == 1 else "Refund discrepancy"
            yield Fee(title=title, amount=self.with_taxes(refund, amount, taxes), taxes=taxes)

    def taken(self, adjustment: Fields, name: str) -> Decimal:
        """What an adjustment gives the buyer: Shopify counts what the shop keeps."""
        money = self.money(adjustment, name)
        return money.amount.copy_negate() if money and money.amount else ZERO

    def with_taxes(self, part: Fields, amount: Decimal, taxes: tuple[Tax, ...]) -> Money:
        """An adjustment's amount as the order's prices are. Shopify: `tax_amount` is added to `amount`."""
        for tax in taxes if self.order.taxes_included else ():
            amount = EXACT.add(amount, tax.amount.amount)
        return self.fitting(part, "order_adjustments", amount)

    def paid(self, refund: Fields) -> Money | None:
        """The money that went back; None when that is not told, or told in the buyer's currency."""
        if refund.values.get("transactions") is None:
            return None
        total = ZERO
        for transaction in refund.objects("transactions"):
            if transaction.text("kind") != "refund" or transaction.text("status") != "success":
                continue
            amount = self.money(transaction, "amount")
            if amount is None or (transaction.text("currency") or self.currency) != self.currency:
                return None
            total = EXACT.add(total, amount.amount)
        return self.fitting(refund, "transactions", total)


def _kind(adjustment: Fields) -> str:
    """Which adjustment it is. Shopify: `kind` will go; what is no shipping is a discrepancy."""
    kind = adjustment.text("kind")
    if kind is None:
        return SHIPPING if adjustment.text("reason") == "Shipping refund" else DISCREPANCY
    return kind if kind in {SHIPPING, DISCREPANCY} else adjustment.refuse("kind", "is not one that we know")
