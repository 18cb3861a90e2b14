"""The canonical order: what every shop's order becomes, and every management system's order is made from."""

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from integrator.documents.money import EXACT, Amount, Currency, Money, refuse_float

Quantity = Annotated[
    Decimal,
    BeforeValidator(refuse_float),
    Field(ge=0, allow_inf_nan=False, max_digits=20),
    PlainSerializer(lambda value: format(value, "f"), return_type=str),
]


class Document(BaseModel):
    """What all parts of a document share: immutable, and nothing unknown slips in."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PaymentState(StrEnum):
    """How much of the order has been paid, in the words that shops share."""

    PENDING = "pending"
    AUTHORIZED = "authorized"
    PARTIALLY_PAID = "partially_paid"
    PAID = "paid"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    VOIDED = "voided"


class LineKind(StrEnum):
    """What a line sells. Only `product` must have a counterpart among the management system's products."""

    PRODUCT = "product"
    CUSTOM = "custom"
    TIP = "tip"
    GIFT_CARD = "gift_card"


class Tax(Document):
    """One tax on a line, a shipping line or a fee. `rate` is a fraction (0.21), null when unknown."""

    title: str
    rate: Amount | None = None
    amount: Money


class Line(Document):
    """One line. `unit_price` is as the shop shows it; `discount` is the whole line's, never negative."""

    external_id: str
    kind: LineKind = LineKind.PRODUCT
    sku: str | None = None
    title: str
    quantity: Quantity
    unit_price: Money
    discount: Money
    taxes: tuple[Tax, ...] = ()


class ShippingLine(Document):
    """What the buyer pays for delivery, and what of it was given back as a discount."""

    title: str
    price: Money
    discount: Money
    taxes: tuple[Tax, ...] = ()


class Fee(Document):
    """What is charged beside lines and shipping: duties, payment fees, additional fees, roundings."""

    title: str
    amount: Money
    taxes: tuple[Tax, ...] = ()


class Address(Document):
    """A postal address as the shop gives it; every part may be missing."""

    name: str | None = None
    company: str | None = None
    street: str | None = None
    street2: str | None = None
    postal_code: str | None = None
    city: str | None = None
    region: str | None = None
    country: str | None = None
    phone: str | None = None


class Customer(Document):
    """Who buys. A guest has no external id; all of it may be missing."""

    external_id: str | None = None
    name: str | None = None
    email: str | None = None
    phone: str | None = None


class StatedTotals(Document):
    """What the shop itself says the parts of the order come to, where it says so.

    Nothing is computed from these: they let the sum check name the part that is off. `refunds` is what all refunds
    together take off the order.
    """

    lines: Money | None = None
    discounts: Money | None = None
    taxes: Money | None = None
    shipping: Money | None = None
    refunds: Money | None = None


class RefundLine(Document):
    """What of one order line was given back. `amount` is before added taxes, as the line's prices are.

    `line_id` is the order line's external id, null when the shop does not say which line it was.
    """

    line_id: str | None = None
    sku: str | None = None
    title: str
    quantity: Quantity
    amount: Money
    taxes: tuple[Tax, ...] = ()


class Refund(Document):
    """One refund, known by the shop's own id: goods, shipping and other amounts that were given back.

    `total` is what the order comes to less by it. `paid` is the money that went back so far, null when the shop
    does not say: an edit that takes a line out of an unpaid order gives none, and money may go back in a refund of
    its own, whose total is zero. All amounts are positive when they go to the buyer. `fees` holds what is neither
    goods nor shipping, negative when it was kept back. As on the order, taxes are added unless the order's prices
    include them.
    """

    external_id: str
    created_at: AwareDatetime | None = None
    lines: tuple[RefundLine, ...] = ()
    shipping: tuple[ShippingLine, ...] = ()
    fees: tuple[Fee, ...] = ()
    total: Money
    paid: Money | None = None
    note: str | None = None

    def digest(self) -> str:
        """Hex SHA-256 of what a credit can't follow any more once it is made: the total."""
        return _digest({"total": self.total})


class Order(Document):
    """One order of one shop, complete: the state the management system is brought to.

    `external_id` is the shop's own id, as text (ids exceed 2^53). Amounts are in `currency`. With
    `taxes_included` the prices hold the taxes already, which are then listed but not added. `not_yet` is the
    shop's word for why nobody is to act on the order yet (a draft, a payment that failed), null for one that
    counts: what the management system does not have is not created then, and what it has stays open.
    """

    external_id: str
    number: str
    placed_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    currency: Currency
    taxes_included: bool
    lines: tuple[Line, ...]
    shipping: tuple[ShippingLine, ...] = ()
    fees: tuple[Fee, ...] = ()
    total: Money
    payment_state: PaymentState
    customer: Customer | None = None
    billing_address: Address | None = None
    shipping_address: Address | None = None
    note: str | None = None
    cancelled_at: AwareDatetime | None = None
    cancel_reason: str | None = None
    not_yet: str | None = None
    refunds: tuple[Refund, ...] = ()
    stated: StatedTotals | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the shop cancelled the order."""
        return self.cancelled_at is not None

    def digest(self) -> str:
        """Hex SHA-256 of the content: equal digests need no step.

        Left out are `updated_at`, `stated` and, while it is null, `not_yet`. How a number or a time is written
        (1.5 or 1.50, in which zone) makes no difference either.
        """
        left_out = {"updated_at", "stated", *(() if self.not_yet else ("not_yet",))}
        return _digest({name: value for name, value in self if name not in left_out})


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _plain(value: object) -> Any:
    """Give what `json` can't write in one form: models as their fields, numbers and times normalised."""
    if isinstance(value, BaseModel):
        return dict(value)
    if isinstance(value, Decimal):
        return format(EXACT.normalize(EXACT.add(value, Decimal(0))), "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"a document holds no {type(value).__name__}")
