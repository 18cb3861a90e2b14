"""What a made-up shop tells and what must come of it: the webhooks of an order's life, and its end state."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True)
class PlainLine:
    """One line as the management system must show it in the end. `sku` is None for custom lines and tips.

    `price` is a piece's; in a credit it is what the whole quantity comes to.
    """

    sku: str | None
    quantity: int
    price: Decimal


@dataclass(frozen=True)
class PlainCredit:
    """One refund as the management system must have credited it. `taxes` are all of its taxes."""

    refund_id: str
    lines: tuple[PlainLine, ...]
    taxes: Decimal
    total: Decimal


@dataclass(frozen=True)
class Facts:
    """What must be true of one order in the end. `taxes` are all of its taxes.

    A shop that does not count its taxes or its refunds says None.
    """

    external_id: str
    currency: str
    lines: tuple[PlainLine, ...]
    total: Decimal
    cancelled: bool
    taxes: Decimal | None = None
    credits: tuple[PlainCredit, ...] | None = None


@dataclass(frozen=True)
class Event:
    """One webhook to be: its topic, its exact bytes, and which moment of the order's life it shows.

    `shown` is the order as the API gives it from then on, where the body is not the whole order.
    """

    external_id: str
    index: int
    topic: str
    webhook_id: str
    updated_at: datetime
    body: bytes = field(repr=False)
    shown: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Life:
    """One order from its creation to its end. The last event's moment is the newest state."""

    external_id: str
    events: tuple[Event, ...]
    facts: Facts


def euros(cents: int) -> Decimal:
    """Cents as a decimal amount with two places."""
    return Decimal(cents).scaleb(-2)
