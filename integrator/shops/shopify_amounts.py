"""Reading amounts of Shopify's REST order, in the shop's currency: money, discounts and taxes."""

from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal, InvalidOperation

from integrator.documents import Money, Tax
from integrator.documents.money import EXACT
from integrator.shops.payload import Fields

ZERO = Decimal(0)

SHARES = Context(prec=60, rounding=ROUND_DOWN)
"""For the share of an amount, which is cut to the amount's own digits at once."""


@dataclass(frozen=True)
class Amounts:
    """Reads amounts of an order whose shop's currency is known."""

    currency: str

    def money(self, part: Fields, name: str) -> Money | None:
        """Read an amount in the shop's currency: `<name>_set.shop_money.amount`, else `<name>`."""
        pair = part.object(f"{name}_set")
        shop = pair.object("shop_money") if pair else None
        if shop is None:
            amount = part.number(name)
        else:
            amount = shop.number("amount")
            if (shop.text("currency_code") or self.currency) != self.currency:
                shop.refuse("currency_code", "is not the shop's currency")
        return None if amount is None else Money(amount=amount, currency=self.currency)

    def fitting(self, part: Fields, name: str, amount: Decimal) -> Money:
        """Make money of a computed amount, which may have outgrown what an amount holds."""
        try:
            return Money(amount=amount, currency=self.currency)
        except ValueError:
            part.refuse(name, "come to more than 20 digits")

    def allocated(self, part: Fields) -> Money | None:
        """Add up the discounts allocated to a line; None when none is, and the line's own field tells.

        Shopify: allocations hold order-level discounts as well, which `total_discount` does not.
        """
        total = None
        for allocation in part.objects("discount_allocations"):
            total = EXACT.add(total or ZERO, self.discount(allocation, "amount").amount)
        return None if total is None else self.fitting(part, "discount_allocations", total)

    def discount(self, part: Fields, name: str) -> Money:
        """Read a discount, zero when there is none."""
        discount = self.money(part, name) or Money.zero(self.currency)
        if discount.amount < 0:
            part.refuse(name, "is a negative discount")
        return discount

    def taxes(self, part: Fields) -> tuple[Tax, ...]:
        """Read the taxes of a line, a shipping line or a duty."""
        return tuple(
            Tax(
                title=tax.text("title") or "Tax",
                rate=tax.number("rate"),
                amount=self.money(tax, "price") or tax.refuse("price", "is missing"),
            )
            for tax in part.objects("tax_lines")
        )

    def shared(self, part: Fields, name: str, total: Decimal, taxes: tuple[Tax, ...]) -> tuple[Tax, ...]:
        """Share an amount of tax out as `taxes` are, cut to its own digits; the last one takes what is left.

        An amount that nothing says the taxes of is one tax without a rate. `name` is the field that tells it:
        taxes of both signs that nearly cancel out make shares of any size.
        """
        try:
            return self._shared(total, taxes)
        except (ValueError, InvalidOperation):
            part.refuse(name, "comes to taxes of more than 20 digits")

    def _shared(self, total: Decimal, taxes: tuple[Tax, ...]) -> tuple[Tax, ...]:
        if not total:
            return ()
        whole = ZERO
        for tax in taxes:
            whole = EXACT.add(whole, tax.amount.amount)
        if not whole:
            return (Tax(title="Tax", amount=Money(amount=total, currency=self.currency)),)
        left, shares = total, []
        for tax in taxes[:-1]:
            share = SHARES.divide(SHARES.multiply(total, tax.amount.amount), whole).quantize(total, context=SHARES)
            left = EXACT.subtract(left, share)
            shares.append(share)
        return tuple(
            tax.model_copy(update={"amount": Money(amount=amount, currency=self.currency)})
            for tax, amount in zip(taxes, [*shares, left], strict=True)
        )
