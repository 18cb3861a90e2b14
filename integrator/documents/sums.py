"""Whether an order adds up: lines - discounts + taxes (unless included) + shipping + fees = total.

Asked before anything of it is written. Pure, exact, and without a division: quantities and prices of zero are
ordinary.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from integrator.documents.money import EXACT, Money
from integrator.documents.order import Fee, Line, Order, ShippingLine, Tax
from integrator.errors import TotalMismatch

ZERO = Decimal(0)


@dataclass(frozen=True)
class Breakdown:
    """What the parts of an order come to, in its currency. All amounts are as listed; discounts are positive.

    `taxes` are added only when the prices don't hold them already (`taxes_included`).
    """

    currency: str
    lines: Decimal
    discounts: Decimal
    taxes: Decimal
    taxes_included: bool
    shipping: Decimal
    fees: Decimal
    total: Decimal

    @property
    def expected(self) -> Decimal:
        """What the total should be."""
        added = ZERO if self.taxes_included else self.taxes
        return _sum((self.lines, self.discounts.copy_negate(), added, self.shipping, self.fees))

    @property
    def difference(self) -> Decimal:
        """How much more the parts come to than the total: positive when the total is too small."""
        return EXACT.subtract(self.expected, self.total)

    def __str__(self) -> str:
        taxes = "(taxes included)" if self.taxes_included else f"+ taxes {self.taxes:f}"
        return (
            f"lines {self.lines:f} - discounts {self.discounts:f} {taxes} + shipping {self.shipping:f} "
            f"+ fees {self.fees:f} = {self.expected:f} {self.currency}"
        )


def breakdown(order: Order) -> Breakdown:
    """Add the order's parts up, exactly. Raises TotalMismatch when amounts are in different currencies."""
    _one_currency(order)
    return Breakdown(
        currency=order.currency,
        lines=_sum(EXACT.multiply(line.unit_price.amount, line.quantity) for line in order.lines),
        discounts=_sum(_sum(part.discount.amount for part in parts) for parts in (order.lines, order.shipping)),
        taxes=_sum(tax.amount.amount for tax in _taxes(order)),
        taxes_included=order.taxes_included,
        shipping=_sum(part.price.amount for part in order.shipping),
        fees=_sum(fee.amount.amount for fee in order.fees),
        total=order.total.amount,
    )


def check(order: Order, tolerance: Money | Decimal = ZERO) -> Breakdown:
    """Check that the order adds up to its total, and give its breakdown.

    `tolerance` is the difference still accepted, in the order's currency; one in another currency counts as
    zero. Raises TotalMismatch naming the amount that is off and by how much, ValueError for a negative
    tolerance.
    """
    parts = breakdown(order)
    if parts.difference.copy_abs() <= _allowed(tolerance, order.currency):
        return parts
    culprits = list(_culprits(order, parts))
    named = "".join(
        f"; {name}: {found:f} listed, {stated:f} stated (off by {EXACT.subtract(found, stated):f})"
        for name, found, stated in culprits
    )
    raise TotalMismatch(
        f"the order does not add up: {parts}, total {parts.total:f} (off by {parts.difference:f}){named}",
        subject=culprits[0][0] if culprits else "total",
    )


def _taxes(order: Order) -> Iterator[Tax]:
    parts: tuple[Line | ShippingLine | Fee, ...] = (*order.lines, *order.shipping, *order.fees)
    for part in parts:
        yield from part.taxes


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def _allowed(tolerance: Money | Decimal, currency: str) -> Decimal:
    if isinstance(tolerance, Money):
        tolerance = tolerance.amount if tolerance.currency == currency else ZERO
    if tolerance < 0:
        raise ValueError(f"a tolerance is not negative: {tolerance}")
    return tolerance


def _culprits(order: Order, parts: Breakdown) -> Iterator[tuple[str, Decimal, Decimal]]:
    """Name the parts that differ from what the shop itself says: (name, found, stated)."""
    for name, money in order.stated or ():
        found: Decimal = getattr(parts, name)
        if money is not None and money.amount != found:
            yield name, found, money.amount


def _one_currency(order: Order) -> None:
    amounts = [order.total]
    for line in order.lines:
        amounts += [line.unit_price, line.discount]
    for shipping in order.shipping:
        amounts += [shipping.price, shipping.discount]
    amounts += [fee.amount for fee in order.fees]
    amounts += [tax.amount for tax in _taxes(order)]
    for amount in amounts:
        if amount.currency != order.currency:
            raise TotalMismatch(
                f"the order is in {order.currency}, but one of its amounts is {amount}", subject="currency"
            )
