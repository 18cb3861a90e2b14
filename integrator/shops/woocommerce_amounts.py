"""How one WooCommerce order's amounts are read, so that its parts add up to its total to the last cent.

WooCommerce keeps net amounts with many decimals and writes most of them rounded: `total`, `total_tax` and
`subtotal` of a part have the shop's decimals, `taxes[].total` have not, and `price` is a float that is never read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_HALF_UP, Context, Decimal

from integrator.documents import Money, Tax
from integrator.documents.money import EXACT
from integrator.shops.payload import Fields

ZERO = Decimal(0)
ROUNDING = Context(prec=100, Emin=MIN_EMIN, Emax=MAX_EMAX)
"""Where a rounding is meant: its direction is always given."""

MAX_DECIMALS = 6
"""Decimals of a shop's amounts that are believed; beyond them is a float's noise."""

FINER = 4
"""Decimals by which a price may be finer than the order's amounts."""

ORDER_AMOUNTS = ("total", "total_tax", "cart_tax", "shipping_total", "shipping_tax", "discount_total")
"""WooCommerce: these are written with the shop's number of decimals, whatever their value."""


@dataclass(frozen=True)
class Amounts:
    """The currency, the smallest unit (0.01), whether prices hold the taxes, and the tax rates by id.

    `sign` is -1 in a refund, whose parts WooCommerce writes as negative amounts.
    """

    currency: str
    unit: Decimal
    taxes_included: bool
    rates: Mapping[str, tuple[str, Decimal | None]]
    sign: int = 1

    @classmethod
    def of(cls, order: Fields, currency: str) -> "Amounts":
        """Read what the order says about its amounts. Raises Unmapped."""
        amounts = [order.number(name) or ZERO for name in ORDER_AMOUNTS]
        decimals = max(-min(int(amount.as_tuple().exponent), 0) for amount in amounts)
        return cls(
            currency=currency,
            unit=Decimal(1).scaleb(-min(decimals, MAX_DECIMALS)),
            taxes_included=order.flag("prices_include_tax") or False,
            rates=dict(_rates(order)),
        )

    def read(self, part: Fields, name: str) -> Decimal | None:
        """Read an amount with this document's sign."""
        amount = part.number(name)
        return amount if amount is None or self.sign > 0 else EXACT.subtract(ZERO, amount)  # never -0

    def money(self, part: Fields, name: str, amount: Decimal) -> Money:
        """Make money of a computed amount, which may have outgrown what an amount holds."""
        try:
            return Money(amount=amount, currency=self.currency)
        except ValueError:
            part.refuse(name, "comes to more than 20 digits")

    def charged(self, part: Fields, taxes: Sequence[Tax]) -> Decimal:
        """What is charged for a part, as prices are: with its taxes if they hold them, else without.

        WooCommerce: `total` is always without taxes, whatever `prices_include_tax` says.
        """
        total = self.read(part, "total")
        if total is None:
            part.refuse("total", "is missing")
        return add(total, *(tax.amount.amount for tax in taxes)) if self.taxes_included else total

    def undiscounted(self, line: Fields) -> Decimal | None:
        """What a line came to before its discounts, as prices are; None when it does not say."""
        subtotal = self.read(line, "subtotal")
        if subtotal is None or not self.taxes_included:
            return subtotal
        return add(subtotal, self.read(line, "subtotal_tax") or ZERO)

    def unit_price(self, amount: Decimal, quantity: Decimal) -> Decimal:
        """Give the price that `quantity` times is `amount`, as coarse as that is exact.

        Where it never is (10.00 for 3), it is rounded up at the finest, and the line's discount takes what is
        too much: less than a ten-thousandth of the unit for each piece.
        """
        if not quantity:
            return amount
        quotient = ROUNDING.divide(amount, quantity)
        price = quotient
        for places in range(FINER + 1):
            price = quotient.quantize(self.unit.scaleb(-places), ROUND_CEILING, context=ROUNDING)
            if EXACT.multiply(price, quantity) == amount:
                break
        return price

    def taxes(self, part: Fields) -> tuple[Tax, ...]:
        """Map the taxes of a part, in whole units.

        WooCommerce: `taxes[].total` are not rounded and "" for a rate that does not apply; `total_tax` is what
        counts. So each is rounded, and the largest takes what is then missing. What differs by more than
        rounding can is left as it is written: the order's sum tells.
        """
        listed = [
            (tax, amount) for tax in part.objects("taxes") if (amount := self.read(tax, "total")) is not None
        ]
        stated = self.read(part, "total_tax")
        if not listed:
            return (Tax(title="Tax", amount=self.money(part, "total_tax", stated)),) if stated else ()
        whole = self._whole([amount for _, amount in listed], stated)
        return tuple(self._tax(tax, amount) for (tax, _), amount in zip(listed, whole, strict=True))

    def _whole(self, amounts: list[Decimal], stated: Decimal | None) -> list[Decimal]:
        rounded = [amount.quantize(self.unit, ROUND_HALF_UP, context=ROUNDING) for amount in amounts]
        missing = ZERO if stated is None else EXACT.subtract(stated, add(*rounded))
        if EXACT.multiply(missing.copy_abs(), 2) > self.unit * (len(amounts) + 1):
            return amounts
        largest = max(range(len(rounded)), key=lambda n: rounded[n].copy_abs())
        rounded[largest] = EXACT.add(rounded[largest], missing)
        return rounded

    def _tax(self, tax: Fields, amount: Decimal) -> Tax:
        title, rate = self.rates.get(_rate_id(tax, "id"), ("Tax", None))
        return Tax(title=title, rate=rate, amount=self.money(tax, "total", amount))


def add(*amounts: Decimal) -> Decimal:
    """Add amounts up, exactly."""
    total = ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def _rates(order: Fields) -> Iterator[tuple[str, tuple[str, Decimal | None]]]:
    """The order's tax rates by id. WooCommerce: before version 3.7 there is no `rate_percent`."""
    for line in order.objects("tax_lines"):
        percent = line.number("rate_percent")
        title = line.text("label") or line.text("rate_code") or "Tax"
        yield _rate_id(line, "rate_id"), (title, None if percent is None else _fraction(percent))


def _rate_id(part: Fields, name: str) -> str:
    """A rate's id is a number, or any text where a plugin computes the taxes."""
    value = part.values.get(name)
    if value is None or isinstance(value, dict | list):
        part.refuse(name, "is not an id")
    return str(value)


def _fraction(percent: Decimal) -> Decimal | None:
    """21 as 0.21; None for what a rate can't hold."""
    fraction = EXACT.scaleb(percent, -2)
    exponent = fraction.as_tuple().exponent
    return fraction if isinstance(exponent, int) and -exponent <= 20 else None
