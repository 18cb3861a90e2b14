"""Whether an order adds up: lines - discounts + taxes (unless included) + shipping + fees = total.

A refund must, too; and all refunds of an order must come to what the shop says that they do, where it says so.
That more is refunded than the order came to is no error by itself: shops let their people be generous.

Asked before anything of it is written. Pure, exact, and without a division: quantities and prices of zero are
ordinary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from integrator.documents.money import EXACT, Money
from integrator.documents.order import Fee, Line, Order, Refund, RefundLine, ShippingLine
from integrator.errors import TotalMismatch

ZERO = Decimal(0)

Parts = tuple[Line | RefundLine | ShippingLine | Fee, ...]


@dataclass(frozen=True)
class Breakdown:
    """What the parts of an order or a refund come to, in its currency. Amounts are as listed; discounts positive.

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
    parts: Parts = (*order.lines, *order.shipping, *order.fees)
    _one_currency("the order", order.currency, order.total, parts)
    return Breakdown(
        currency=order.currency,
        lines=_sum(EXACT.multiply(line.unit_price.amount, line.quantity) for line in order.lines),
        discounts=_sum(_sum(part.discount.amount for part in parts) for parts in (order.lines, order.shipping)),
        taxes=_taxes(parts),
        taxes_included=order.taxes_included,
        shipping=_sum(part.price.amount for part in order.shipping),
        fees=_sum(fee.amount.amount for fee in order.fees),
        total=order.total.amount,
    )


def refund_breakdown(order: Order, refund: Refund) -> Breakdown:
    """Add a refund's parts up, exactly. Raises TotalMismatch when amounts are in different currencies."""
    parts: Parts = (*refund.lines, *refund.shipping, *refund.fees)
    _one_currency(f"refund {refund.external_id}", order.currency, refund.total, parts)
    return Breakdown(
        currency=order.currency,
        lines=_sum(line.amount.amount for line in refund.lines),
        discounts=_sum(part.discount.amount for part in refund.shipping),
        taxes=_taxes(parts),
        taxes_included=order.taxes_included,
        shipping=_sum(part.price.amount for part in refund.shipping),
        fees=_sum(fee.amount.amount for fee in refund.fees),
        total=refund.total.amount,
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


def check_refunds(order: Order, refunds: Sequence[Refund], tolerance: Money | Decimal = ZERO) -> None:
    """Check that each of these refunds adds up, and that all of the order's come to what the shop states.

    `tolerance` is as in `check`, and counts once for each refund. Raises TotalMismatch naming the refund and
    the amount that it is off by.
    """
    allowed = _allowed(tolerance, order.currency)
    for refund in refunds:
        parts = refund_breakdown(order, refund)
        if parts.difference.copy_abs() > allowed:
            raise TotalMismatch(
                f"refund {refund.external_id} does not add up: {parts}, total {parts.total:f} "
                f"(off by {parts.difference:f})",
                subject="refund",
            )
    stated = order.stated.refunds if order.stated else None
    if stated is None:
        return
    difference = EXACT.subtract(_sum(refund.total.amount for refund in order.refunds), stated.amount)
    if difference.copy_abs() > EXACT.multiply(allowed, len(order.refunds)):
        named = ", ".join(f"{refund.external_id} {refund.total.amount:f}" for refund in order.refunds)
        raise TotalMismatch(
            f"the refunds come to other than the {stated} that the shop states (off by {difference:f}): {named}",
            subject="refunds",
        )


def _taxes(parts: Parts) -> Decimal:
    return _sum(tax.amount.amount for part in parts for tax in part.taxes)


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
    for name in ("lines", "discounts", "taxes", "shipping"):
        money: Money | None = getattr(order.stated, name, None)
        found: Decimal = getattr(parts, name)
        if money is not None and money.amount != found:
            yield name, found, money.amount


def _one_currency(what: str, currency: str, total: Money, parts: Parts) -> None:
    for amount in (total, *(money for part in parts for money in _amounts(part))):
        if amount.currency != currency:
            raise TotalMismatch(f"{what} is in {currency}, but one of its amounts is {amount}", subject="currency")


def _amounts(part: Line | RefundLine | ShippingLine | Fee) -> Iterator[Money]:
    """Every amount of a part, its taxes' too."""
    yield from (value for _, value in part if isinstance(value, Money))
    yield from (tax.amount for tax in part.taxes)
