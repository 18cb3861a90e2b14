"""Made-up Shopify orders, each with a life: created, and then some of changed, paid, edited, refunded, cancelled.

The same seed gives the same bytes. All money is counted here in whole cents, apart from the project's own
mapper and sums, so that what a proof expects (`Facts`) doesn't lean on what it proves.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.shop_draft import Draft, DraftLine
from sandbox.shop_facts import Event, Facts, Life, PlainCredit, PlainLine, euros
from sandbox.shop_payload import payload
from sandbox.shop_refund_payload import edit_payload, refund_payload
from sandbox.shop_refunds import edit_out, refund

__all__ = [
    "EPOCH",
    "FIRST_ORDER_ID",
    "SKUS",
    "Event",
    "Facts",
    "Life",
    "PlainCredit",
    "PlainLine",
    "euros",
    "lives",
    "to_bytes",
]

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


def lives(count: int, *, seed: int, first: int = 0) -> Iterator[Life]:
    """Make `count` lives, numbered from `first`. Order n is the same whatever the count and the first."""
    for n in range(first, first + count):
        yield _Telling(n, random.Random(f"{seed}:{n}")).life()


class _Telling:
    """One life as it is told: the draft, and the webhooks so far."""

    def __init__(self, n: int, dice: random.Random) -> None:
        self.dice, self.draft = dice, _create(n, dice)
        self.events: list[Event] = []

    def life(self) -> Life:
        self.tell("orders/create")
        for moment in _moments(self.dice):
            # Shopify writes whole seconds: two changes within one are told apart by their bodies only.
            self.draft.updated_at += timedelta(seconds=self.dice.choice((0, 0, 1, 2, 30)))
            self.happen(moment)
        return Life(str(self.draft.order_id), tuple(self.events), self.draft.facts())

    def happen(self, moment: str) -> None:
        draft = self.draft
        if moment == "edit":
            self.edit()
        elif moment == "refund":
            self.refund()
        elif moment == "orders/updated":
            _change(draft, self.dice)
            self.tell(moment)
        elif moment == "orders/paid":
            draft.paid = True
            self.tell(moment)
        else:
            self.settle()
            draft.cancelled_at = draft.updated_at
            if self.dice.random() < 0.6:
                refund(draft, self.dice, everything=True)
            self.tell(moment)

    def edit(self) -> None:
        """Add a line, or take pieces of one out. Shopify tells of the edit, and mostly of the order, too."""
        line_and_count = None if self.dice.random() < 0.4 else edit_out(self.draft, self.dice)
        if line_and_count is None:
            line_and_count = _add_line(self.draft, self.dice), 0
        line, removed = line_and_count
        self.tell("orders/edited", to_bytes(edit_payload(self.draft, line, removed)))
        if self.dice.random() < 0.5:
            self.tell("orders/updated")

    def refund(self) -> None:
        """Give something back. Where its money is under way, another webhook says that it has arrived."""
        made = refund(self.draft, self.dice)
        if made is None:
            return
        self.tell("refunds/create", to_bytes(refund_payload(self.draft, made)))
        if made.pending:
            self.draft.updated_at += timedelta(seconds=self.dice.choice((0, 1)))
        if self.settle() or self.dice.random() < 0.5:
            self.tell("orders/updated")

    def settle(self) -> bool:
        under_way = [one for one in self.draft.refunds if one.pending]
        for one in under_way:
            one.pending = False
        return bool(under_way)

    def tell(self, topic: str, body: bytes = b"") -> None:
        shown = to_bytes(payload(self.draft))
        event = Event(
            external_id=str(self.draft.order_id),
            index=len(self.events),
            topic=topic,
            webhook_id=f"{self.dice.getrandbits(128):032x}",
            updated_at=self.draft.updated_at,
            body=body or shown,
            shown=shown,
        )
        self.events.append(event)


def _moments(dice: random.Random) -> list[str]:
    moments = ["orders/updated"] * dice.choice((0, 0, 1, 1, 2, 3))
    if dice.random() < 0.7:
        moments.insert(dice.randint(0, len(moments)), "orders/paid")
    for moment, counts in (("edit", (0, 0, 0, 1)), ("refund", (0, 0, 0, 1, 1, 2, 3))):
        for _ in range(dice.choice(counts)):
            moments.insert(dice.randint(0, len(moments)), moment)
    if dice.random() < 0.15:
        moments.append("orders/cancelled")
        if dice.random() < 0.4:
            moments.append("refund")
    return moments


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


def _add_line(draft: Draft, dice: random.Random) -> DraftLine:
    sku, title, price = dice.choice(SKUS)
    line = DraftLine(_line_id(draft), "product", sku, title, price, dice.randint(1, 4), 0, draft.tax_rate)
    if dice.random() < 0.3:
        line.discount = price * line.quantity // dice.choice((3, 5, 10))
    draft.lines.append(line)
    return line


def _add_unlisted(draft: Draft, kind: str, title: str, price: int, tax_rate: int) -> None:
    draft.lines.append(DraftLine(_line_id(draft), kind, None, title, price, 1, 0, tax_rate))


def _line_id(draft: Draft) -> int:
    return draft.order_id * 10 + len(draft.lines)


def _change(draft: Draft, dice: random.Random) -> None:
    """Change what the order comes to: a line more, or another quantity, which may be none at all."""
    whole = [line for line in draft.lines if line.kind == "product" and not line.returned]
    if dice.random() < 0.3 or not whole:
        _add_line(draft, dice)
    else:
        line = dice.choice(whole)
        line.quantity = dice.choice([q for q in range(6) if q != line.quantity])
        line.discount = min(line.discount, line.price * line.quantity)
    draft.note = f"Changed at {draft.updated_at:%H:%M:%S}"


def to_bytes(order: dict[str, Any]) -> bytes:
    """Write an order as Shopify does: compact, in UTF-8."""
    return json.dumps(order, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
