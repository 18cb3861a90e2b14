"""One made-up order while it lives, in whole cents: its lines, its refunds, and what they come to."""

from dataclasses import dataclass, field
from datetime import datetime

from sandbox.shop_facts import Facts, PlainCredit, PlainLine, euros


@dataclass
class DraftLine:
    """One line while the order lives. Amounts in cents, the tax rate in basis points (2100 = 21 %)."""

    line_id: int
    kind: str
    sku: str | None
    title: str
    price: int
    quantity: int
    discount: int
    tax_rate: int
    returned: int = 0

    @property
    def net(self) -> int:
        """Cents after the discount."""
        return self.price * self.quantity - self.discount

    @property
    def current(self) -> int:
        """How many the buyer still has."""
        return self.quantity - self.returned


@dataclass(frozen=True)
class DraftReturn:
    """What of one line was given back: so many, cents, and cents of tax."""

    line: DraftLine
    quantity: int
    amount: int
    tax: int


@dataclass
class DraftRefund:
    """One refund while the order lives. Amounts in cents.

    `kept` is what the shop kept of it, negative for what it gave on top. `paid` is the money of its transaction,
    None when it has none. While `pending`, nobody knows whether the money will arrive; `was_pending` tells later.
    """

    refund_id: int
    created_at: datetime
    taxes_included: bool
    returns: tuple[DraftReturn, ...] = ()
    shipping: int = 0
    shipping_tax: int = 0
    kept: int = 0
    paid: int | None = None
    pending: bool = False
    was_pending: bool = False
    note: str | None = None

    @property
    def taxes(self) -> int:
        """Cents of all taxes."""
        return self.shipping_tax + sum(one.tax for one in self.returns)

    @property
    def calculated(self) -> int:
        """Cents that goods and shipping come to."""
        added = 0 if self.taxes_included else self.taxes
        return sum(one.amount for one in self.returns) + self.shipping + added

    @property
    def total(self) -> int:
        """Cents that it takes off the order."""
        return self.calculated - self.kept

    def facts(self) -> PlainCredit:
        """Say what must be credited."""
        lines = tuple(PlainLine(one.line.sku, one.quantity, euros(one.amount)) for one in self.returns)
        return PlainCredit(str(self.refund_id), lines, euros(self.taxes), euros(self.total))


@dataclass
class Draft:
    """One order while it lives. Amounts in cents. `owed` is what edits took off it since it was paid."""

    order_id: int
    number: int
    buyer: int
    currency: str
    taxes_included: bool
    tax_rate: int
    lines: list[DraftLine]
    shipping: int
    shipping_discount: int
    created_at: datetime
    updated_at: datetime
    paid: bool = False
    cancelled_at: datetime | None = None
    note: str | None = None
    refunds: list[DraftRefund] = field(default_factory=list)
    owed: int = 0

    def tax(self, net: int, rate: int) -> int:
        """Cents of tax on an amount, in it or on top of it, rounded half up."""
        whole = 10_000 + rate if self.taxes_included else 10_000
        return (2 * net * rate + whole) // (2 * whole)

    @property
    def shipping_net(self) -> int:
        """Cents of shipping after its discount."""
        return self.shipping - self.shipping_discount

    @property
    def taxes(self) -> int:
        """Cents of all taxes."""
        shipping = self.tax(self.shipping_net, self.tax_rate)
        return shipping + sum(self.tax(line.net, line.tax_rate) for line in self.lines)

    @property
    def total(self) -> int:
        """Cents that the buyer pays, before anything is given back."""
        added = 0 if self.taxes_included else self.taxes
        return sum(line.net for line in self.lines) + self.shipping_net + added

    @property
    def settled(self) -> list[DraftRefund]:
        """The refunds whose money is not under way."""
        return [refund for refund in self.refunds if not refund.pending]

    @property
    def current_total(self) -> int:
        """Cents that the order comes to after all that was given back."""
        return self.total - sum(refund.total for refund in self.settled)

    def facts(self) -> Facts:
        """Say what must be true if the life ended here."""
        lines = (PlainLine(line.sku, line.quantity, euros(line.price)) for line in self.lines)
        return Facts(
            str(self.order_id),
            self.currency,
            tuple(lines),
            euros(self.total),
            self.cancelled_at is not None,
            euros(self.taxes),
            tuple(refund.facts() for refund in self.settled),
        )
