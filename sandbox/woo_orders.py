"""Made-up WooCommerce orders, each with a life: created, and then some of changed, paid, refunded, trashed.

The same seed gives the same bytes. All money is counted here in whole cents, apart from the project's own
mapper and sums, so that what a proof expects (`Facts`) doesn't lean on what it proves.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count as counter

from sandbox.shop_facts import Event, Facts, Life, PlainCredit, PlainLine, euros
from sandbox.shop_orders import EPOCH, SKUS
from sandbox.woo_payload import payload, refund_payload, to_bytes

FIRST_ORDER_ID = 7_001
"""WooCommerce: ids are those of the database's rows; an order's refunds and lines take some, too."""

IDS_PER_ORDER = 100


@dataclass(frozen=True)
class WooEvent(Event):
    """One webhook to be. `refunds` are their details as the API gives them from then on.

    `body` is what goes out if nothing has happened since: WooCommerce builds bodies when it delivers.
    """

    refunds: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass
class WooLine:
    """One line while the order lives. `price` in cents as the shop shows it, `tax_rate` in basis points."""

    line_id: int
    sku: str | None
    title: str
    price: int
    quantity: int
    discount: int
    tax_rate: int

    @property
    def shown(self) -> int:
        """Cents that the shop shows for the line after its discount."""
        return self.price * self.quantity - self.discount


@dataclass(frozen=True)
class WooRefund:
    """One refund: `quantity` pieces of a line (or none), and `amount` cents in all."""

    refund_id: int
    created_at: datetime
    amount: int
    line: WooLine | None
    quantity: int


@dataclass
class WooDraft:
    """One order while it lives. Amounts in cents.

    `round_at_subtotal`: the taxes are rounded once for the order, so that its total is not its parts' sum.
    """

    order_id: int
    buyer: int
    currency: str
    prices_include_tax: bool
    round_at_subtotal: bool
    tax_rate: int
    lines: list[WooLine]
    shipping: int
    fee: int
    status: str
    created_at: datetime
    modified_at: datetime
    paid_at: datetime | None = None
    note: str = ""
    refunds: list[WooRefund] = field(default_factory=list)
    trashed_from: str | None = None
    ids: Iterator[int] = field(default_factory=counter, repr=False)

    def tax(self, amount: int, rate: int, *, included: bool) -> int:
        """Cents of tax in or on an amount, as WooCommerce writes it: rounded half down in it, half up on it."""
        whole = 10_000 + rate if included else 10_000
        return (2 * amount * rate + whole - (1 if included else 0)) // (2 * whole)

    def line_tax(self, shown: int, rate: int) -> int:
        """Cents of tax of what the shop shows for a line."""
        return self.tax(shown, rate, included=self.prices_include_tax)

    @property
    def cart_tax(self) -> int:
        """Cents of tax on the lines, rounded by line or once."""
        if self.prices_include_tax or not self.round_at_subtotal:
            return sum(self.line_tax(line.shown, line.tax_rate) for line in self.lines)
        return (2 * sum(line.shown * line.tax_rate for line in self.lines) + 10_000) // 20_000

    @property
    def shipping_tax(self) -> int:
        """Cents of tax on the shipping, which WooCommerce takes without taxes even where prices include them."""
        return self.tax(self.shipping, self.tax_rate, included=False)

    @property
    def total(self) -> int:
        """Cents that the buyer pays."""
        added = 0 if self.prices_include_tax else self.cart_tax
        shown = sum(line.shown for line in self.lines)
        return shown + added + self.shipping + self.shipping_tax + self.fee

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for the order any more."""
        return self.status in {"cancelled", "trash"}

    def facts(self) -> Facts:
        """Say what must be true if the life ended here."""
        lines = tuple(PlainLine(line.sku, line.quantity, euros(line.price)) for line in self.lines)
        return Facts(
            external_id=str(self.order_id),
            currency=self.currency,
            lines=lines,
            total=euros(self.total),
            cancelled=self.given_up,
            taxes=euros(self.shipping_tax + sum(self.line_tax(line.shown, line.tax_rate) for line in self.lines)),
            credits=tuple(map(self.credit, self.refunds)),
        )

    def credit(self, refund: WooRefund) -> PlainCredit:
        """Say what must be credited for a refund. One of an amount alone has no lines and no taxes."""
        if refund.line is None:
            return PlainCredit(str(refund.refund_id), (), euros(0), euros(refund.amount))
        back = refund.line.price * refund.quantity
        line = PlainLine(refund.line.sku, refund.quantity, euros(back))
        tax = euros(self.line_tax(back, refund.line.tax_rate))
        return PlainCredit(str(refund.refund_id), (line,), tax, euros(refund.amount))


def lives(count: int, *, seed: int, first: int = 0, restore: bool = False) -> Iterator[Life]:
    """Make `count` lives, numbered from `first`. Order n is the same whatever the count and the first.

    `restore` takes some out of the trash again. Not by default: an order that was cancelled in the management
    system and is open again in the shop is for a person to look at.
    """
    for n in range(first, first + count):
        yield _live(n, random.Random(f"woo:{seed}:{n}"), restore=restore)


def _live(n: int, dice: random.Random, *, restore: bool) -> Life:
    draft = _create(n, dice)
    events = [_event(draft, 0, "order.created")]
    for topic, change in _changes(dice, restore=restore):
        # WooCommerce writes whole seconds, and its two hooks of one save tell of the same moment.
        if change is not _nothing:
            draft.modified_at += timedelta(seconds=dice.choice((0, 1, 2, 30)))
        change(draft, dice)
        events.append(_event(draft, len(events), topic))
    return Life(str(draft.order_id), tuple(events), draft.facts())


Change = Callable[[WooDraft, random.Random], None]


def _changes(dice: random.Random, *, restore: bool) -> list[tuple[str, Change]]:
    changes: list[Change] = [_nothing] if dice.random() < 0.3 else []
    changes += [_edit] * dice.choice((0, 0, 1, 1, 2))
    ended = dice.random()
    if ended < 0.7:
        changes += [_fail] * dice.choice((0, 0, 0, 1, 2))
        changes.append(_pay)
        changes += [_refund] * dice.choice((0, 0, 0, 0, 0, 1, 2))
        changes += [_complete] if dice.random() < 0.5 else []
    elif ended < 0.85:
        changes.append(_cancel)
    topics: list[tuple[str, Change]] = [("order.updated", change) for change in changes]
    if dice.random() < 0.06:
        topics.append(("order.deleted", _trash))
        if restore:
            topics.append(("order.restored", _untrash))
    return topics


def _create(n: int, dice: random.Random) -> WooDraft:
    created_at = EPOCH + timedelta(seconds=n * 7)
    order_id = FIRST_ORDER_ID + n * IDS_PER_ORDER
    draft = WooDraft(
        order_id=order_id,
        buyer=dice.randint(0, 999),
        currency=dice.choice(("EUR", "EUR", "USD")),
        prices_include_tax=dice.random() < 0.5,
        round_at_subtotal=dice.random() < 0.3,
        tax_rate=dice.choice((0, 550, 1_000, 2_100)),
        lines=[],
        shipping=dice.choice((0, 495, 1_250)),
        fee=dice.choice((0, 0, 0, 0, 250)),
        status=dice.choice(("pending", "on-hold")),
        created_at=created_at,
        modified_at=created_at,
        ids=counter(order_id + 1),
    )
    for _ in range(dice.choice((1, 2, 2, 3, 3, 4))):
        _add_line(draft, dice)
    if dice.random() < 0.08:
        line_id, price = next(draft.ids), dice.randint(100, 2_000)
        draft.lines.append(WooLine(line_id, None, "Engraving", price, 1, 0, draft.tax_rate))
    if dice.random() < 0.1 and draft.total > 1_000:
        draft.fee = -300  # a discount that a plugin gives as a negative fee
    return draft


def _add_line(draft: WooDraft, dice: random.Random) -> None:
    sku, title, price = dice.choice(SKUS)
    line = WooLine(next(draft.ids), sku, title, price, dice.randint(1, 4), 0, draft.tax_rate)
    if dice.random() < 0.3:
        line.discount = price * line.quantity // dice.choice((3, 5, 10))
    draft.lines.append(line)


def _nothing(_draft: WooDraft, _dice: random.Random) -> None:
    """WooCommerce: one save fires both hooks, so created and updated carry the same order."""


def _edit(draft: WooDraft, dice: random.Random) -> None:
    """Change what the order comes to: a line more, a line less, or another quantity."""
    drawn = dice.random()
    if drawn < 0.3:
        _add_line(draft, dice)
    elif drawn < 0.4 and len(draft.lines) > 1:
        draft.lines.pop()
        draft.fee = max(draft.fee, 0)
    else:
        line = dice.choice(draft.lines)
        line.quantity = dice.choice([q for q in range(1, 6) if q != line.quantity])
        line.discount = min(line.discount, line.price * line.quantity)
        draft.fee = max(draft.fee, 0)
    draft.note = f"Changed at {draft.modified_at:%H:%M:%S}"


def _pay(draft: WooDraft, _dice: random.Random) -> None:
    draft.status, draft.paid_at = "processing", draft.modified_at


def _complete(draft: WooDraft, _dice: random.Random) -> None:
    if draft.status != "refunded":
        draft.status = "completed"


def _fail(draft: WooDraft, _dice: random.Random) -> None:
    draft.status = "failed"


def _cancel(draft: WooDraft, _dice: random.Random) -> None:
    draft.status = "cancelled"


def _trash(draft: WooDraft, _dice: random.Random) -> None:
    draft.trashed_from, draft.status = draft.status, "trash"


def _untrash(draft: WooDraft, _dice: random.Random) -> None:
    draft.status, draft.trashed_from = draft.trashed_from or "pending", None


def _refund(draft: WooDraft, dice: random.Random) -> None:
    """Give something back: a piece of a line as it was charged, or an amount for nothing in particular."""
    left = draft.total - sum(refund.amount for refund in draft.refunds)
    refunded = {refund.line.line_id for refund in draft.refunds if refund.line}
    lines = [line for line in draft.lines if not line.discount and line.price and line.line_id not in refunded]
    if lines and dice.random() < 0.6:
        line = dice.choice(lines)
        added = 0 if draft.prices_include_tax else draft.line_tax(line.price, line.tax_rate)
        amount, piece, quantity = line.price + added, line, 1
    else:
        amount, piece, quantity = dice.randint(1, 500), None, 0
    if amount <= left:
        draft.refunds.append(WooRefund(next(draft.ids), draft.modified_at, amount, piece, quantity))
        if amount == left:
            draft.status = "refunded"


def _event(draft: WooDraft, index: int, topic: str) -> WooEvent:
    shown = to_bytes(payload(draft))
    return WooEvent(
        external_id=str(draft.order_id),
        index=index,
        topic=topic,
        webhook_id=f"{draft.order_id}-{index}",
        updated_at=draft.modified_at,
        body=shown if topic != "order.deleted" else to_bytes({"id": draft.order_id}),
        shown=shown,
        refunds=tuple(to_bytes(refund_payload(draft, refund)) for refund in reversed(draft.refunds)),
    )
