"""Made-up Shopify orders, each with a life: created, and then some of changed, paid, cancelled.

The same seed gives the same bytes. All money is counted here in whole cents, apart from the project's own
mapper and sums, so that what a proof expects (`Facts`) doesn't lean on what it proves.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sandbox.shop_payload import payload

FIRST_ORDER_ID = 5_900_000_000_000_000_001
"""Beyond 2^53, as Shopify's ids may be: a number that a double would change."""

EPOCH = datetime(2026, 10, 1, 9, 0, 0, tzinfo=UTC)

SKUS = tuple(
    (f"{kind}-{size}", f"{name} {size}", cents)
    for kind, name, cents in (
        ("MUG", "Mug", 1_290),
        ("TEE", "Shirt", 2_450),
        ("BAG", "Bag", 4_999),
        ("PEN", "Pen", 99),
        ("STICKER", "Sticker", 0),
    )
    for size in ("S", "M", "L")
)
"""What the shop sells: (SKU, title, price in cents). The tip and the custom line have no SKU."""


@dataclass(frozen=True)
class PlainLine:
    """One line as the management system must show it in the end. `sku` is None for custom lines and tips."""

    sku: str | None
    quantity: int
    price: Decimal


@dataclass(frozen=True)
class Facts:
    """What must be true of one order in the end."""

    external_id: str
    currency: str
    lines: tuple[PlainLine, ...]
    total: Decimal
    cancelled: bool


@dataclass(frozen=True)
class Event:
    """One webhook to be: its topic, its exact bytes, and which moment of the order's life it shows."""

    external_id: str
    index: int
    topic: str
    webhook_id: str
    updated_at: datetime
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Life:
    """One order from its creation to its end. The last event's body is the newest state."""

    external_id: str
    events: tuple[Event, ...]
    facts: Facts


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

    @property
    def net(self) -> int:
        """Cents after the discount."""
        return self.price * self.quantity - self.discount


@dataclass
class Draft:
    """One order while it lives. Amounts in cents."""

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

    def tax(self, net: int, rate: int) -> int:
        """Cents of tax on an amount, in it or on top of it, rounded half up."""
        whole = 10_000 + rate if self.taxes_included else 10_000
        return (2 * net * rate + whole) // (2 * whole)

    @property
    def taxes(self) -> int:
        """Cents of all taxes."""
        shipping = self.tax(self.shipping - self.shipping_discount, self.tax_rate)
        return shipping + sum(self.tax(line.net, line.tax_rate) for line in self.lines)

    @property
    def total(self) -> int:
        """Cents that the buyer pays."""
        added = 0 if self.taxes_included else self.taxes
        return sum(line.net for line in self.lines) + self.shipping - self.shipping_discount + added

    def facts(self) -> Facts:
        """Say what must be true if the life ended here."""
        lines = (PlainLine(line.sku, line.quantity, euros(line.price)) for line in self.lines)
        return Facts(
            str(self.order_id), self.currency, tuple(lines), euros(self.total), self.cancelled_at is not None
        )


def euros(cents: int) -> Decimal:
    """Cents as a decimal amount with two places."""
    return Decimal(cents).scaleb(-2)


def lives(count: int, *, seed: int, first: int = 0) -> Iterator[Life]:
    """Make `count` lives, numbered from `first`. Order n is the same whatever the count and the first."""
    for n in range(first, first + count):
        yield _live(n, random.Random(f"{seed}:{n}"))


def _live(n: int, dice: random.Random) -> Life:
    draft = _create(n, dice)
    events = [_event(draft, 0, "orders/create", dice)]
    for topic in _later_topics(dice):
        # Shopify writes whole seconds: two changes within one are told apart by their bodies only.
        draft.updated_at += timedelta(seconds=dice.choice((0, 0, 1, 2, 30)))
        if topic == "orders/updated":
            _change(draft, dice)
        elif topic == "orders/paid":
            draft.paid = True
        else:
            draft.cancelled_at = draft.updated_at
        events.append(_event(draft, len(events), topic, dice))
    return Life(str(draft.order_id), tuple(events), draft.facts())


def _later_topics(dice: random.Random) -> list[str]:
    topics = ["orders/updated"] * dice.choice((0, 0, 1, 1, 2, 3))
    if dice.random() < 0.7:
        topics.insert(dice.randint(0, len(topics)), "orders/paid")
    if dice.random() < 0.15:
        topics.append("orders/cancelled")
    return topics


def _create(n: int, dice: random.Random) -> Draft:
    created_at = EPOCH + timedelta(seconds=n * 7)
    tax_rate = dice.choice((0, 550, 1_000, 2_100))
    draft = Draft(
        order_id=FIRST_ORDER_ID + n,
        number=1_001 + n,
        buyer=dice.randint(0, 999),
        currency=dice.choice(("EUR", "EUR", "USD")),
        taxes_included=dice.random() < 0.5,
        tax_rate=tax_rate,
        lines=[],
        shipping=dice.choice((0, 495, 1_250)),
        shipping_discount=0,
        created_at=created_at,
        updated_at=created_at,
    )
    draft.shipping_discount = draft.shipping // 2 if dice.random() < 0.2 else 0
    for _ in range(dice.choice((1, 2, 2, 3, 3, 4))):
        _add_line(draft, dice)
    if dice.random() < 0.08:
        _add_unlisted(draft, "custom", "Engraving", dice.randint(100, 2_000), tax_rate)
    if dice.random() < 0.08:
        _add_unlisted(draft, "tip", "Tip", dice.randint(50, 900), 0)
    return draft


def _add_line(draft: Draft, dice: random.Random) -> None:
    sku, title, price = dice.choice(SKUS)
    line = DraftLine(_line_id(draft), "product", sku, title, price, dice.randint(1, 4), 0, draft.tax_rate)
    if dice.random() < 0.3:
        line.discount = price * line.quantity // dice.choice((3, 5, 10))
    draft.lines.append(line)


def _add_unlisted(draft: Draft, kind: str, title: str, price: int, tax_rate: int) -> None:
    draft.lines.append(DraftLine(_line_id(draft), kind, None, title, price, 1, 0, tax_rate))


def _line_id(draft: Draft) -> int:
    return draft.order_id * 10 + len(draft.lines)


def _change(draft: Draft, dice: random.Random) -> None:
    """Change what the order comes to: a line more, or another quantity, which may be none at all."""
    if dice.random() < 0.3:
        _add_line(draft, dice)
    else:
        line = dice.choice([line for line in draft.lines if line.kind == "product"])
        line.quantity = dice.choice([q for q in range(6) if q != line.quantity])
        line.discount = min(line.discount, line.price * line.quantity)
    draft.note = f"Changed at {draft.updated_at:%H:%M:%S}"


def _event(draft: Draft, index: int, topic: str, dice: random.Random) -> Event:
    return Event(
        external_id=str(draft.order_id),
        index=index,
        topic=topic,
        webhook_id=f"{dice.getrandbits(128):032x}",
        updated_at=draft.updated_at,
        body=to_bytes(payload(draft)),
    )


def to_bytes(order: dict[str, Any]) -> bytes:
    """Write an order as Shopify does: compact, in UTF-8."""
    return json.dumps(order, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
