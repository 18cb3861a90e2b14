"""The sandbox management system's own reading of an order: its shape, its rules and its total.

Written from docs/reference/management-system.openapi.yaml and not from the integrator's code, as somebody
in-house would.
"""

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

Key = Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]
Amount = Annotated[str, Field(pattern=r"^-?[0-9]{1,20}([.][0-9]{1,20})?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]{1,20}([.][0-9]{1,20})?$")]


class Refusal(Exception):
    """A request that is refused, as a problem document: nothing was done."""

    def __init__(
        self, status: int, code: str, *, retry_after_seconds: float | None = None, **members: str
    ) -> None:
        super().__init__(code)
        self.status, self.code, self.members = status, code, members
        self.retry_after_seconds = retry_after_seconds


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Tax(_Part):
    """One tax."""

    title: str
    rate: Amount | None
    amount: Amount


class Line(_Part):
    """One line."""

    id: str
    kind: Literal["product", "custom", "tip", "gift_card"]
    sku: str | None
    title: str
    quantity: Quantity
    unit_price: Amount
    discount: Amount
    taxes: list[Tax]


class Shipping(_Part):
    """One shipping line."""

    title: str
    price: Amount
    discount: Amount
    taxes: list[Tax]


class Fee(_Part):
    """One fee."""

    title: str
    amount: Amount
    taxes: list[Tax]


class CreditLine(_Part):
    """What of one line was given back."""

    line_id: str | None
    sku: str | None
    title: str
    quantity: Quantity
    amount: Amount
    taxes: list[Tax]


class Content(_Part):
    """A whole order as a create or an update carries it."""

    key: Key
    reference: Annotated[str, Field(min_length=1, max_length=500)]
    number: str
    placed_at: AwareDatetime | None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    taxes_included: bool
    customer: dict[str, str | None] | None
    billing_address: dict[str, str | None] | None
    shipping_address: dict[str, str | None] | None
    lines: list[Line]
    shipping: list[Shipping]
    fees: list[Fee]
    total: Amount
    payment_state: str
    note: str | None

    def goods(self) -> Iterator[Decimal]:
        """What each line comes to."""
        for line in self.lines:
            yield Decimal(line.quantity) * Decimal(line.unit_price) - Decimal(line.discount)


class CreditContent(_Part):
    """A whole credit."""

    key: Key
    reference: Annotated[str, Field(min_length=1, max_length=100)]
    created_at: AwareDatetime | None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    taxes_included: bool
    lines: list[CreditLine]
    shipping: list[Shipping]
    fees: list[Fee]
    total: Amount
    paid: Amount | None
    note: str | None

    def goods(self) -> Iterator[Decimal]:
        """What each line comes to."""
        for line in self.lines:
            yield Decimal(line.amount)


class Cancellation(_Part):
    """What a cancellation carries."""

    key: Key
    cancelled_at: AwareDatetime | None
    reason: str | None


class Mending(_Part):
    """What a person does with an order: another state, credits with other totals, or (null) without them.

    A removed order is found by nobody, until it has another state again.
    """

    state: Literal["open", "cancelled", "removed"] | None = None
    credits: dict[str, Amount | None] = {}


_Body = TypeVar("_Body", Content, CreditContent, Cancellation)


def taxes(content: Content | CreditContent) -> Iterator[Tax]:
    """Every tax of an order or a credit."""
    parts: tuple[Line | CreditLine | Shipping | Fee, ...] = (*content.lines, *content.shipping, *content.fees)
    for part in parts:
        yield from part.taxes


def own_total(content: Content | CreditContent) -> Decimal:
    """What the parts add up to, rounded half up to as many decimals as `total` has."""
    parts = list(content.goods())
    parts += [Decimal(shipping.price) - Decimal(shipping.discount) for shipping in content.shipping]
    parts += [Decimal(fee.amount) for fee in content.fees]
    if not content.taxes_included:
        parts += [Decimal(tax.amount) for tax in taxes(content)]
    return sum(parts, Decimal(0)).quantize(Decimal(content.total), rounding=ROUND_HALF_UP)


def check_total(content: Content | CreditContent) -> None:
    """Raises Refusal(422, total_mismatch) that names the own total."""
    with localcontext(prec=100):  # exact for every amount that the contract allows
        own = own_total(content)
    if own != Decimal(content.total):
        text = f"{own:f}"
        raise Refusal(
            422, "total_mismatch", total=text, currency=content.currency, detail=f"It adds up to {text}."
        )


def read_content(body: bytes, key: str) -> Content:
    """Read an order. Raises Refusal(422, invalid)."""
    return _checked(_parse(Content, body), key)


def read_credit(body: bytes, key: str) -> CreditContent:
    """Read a credit. Raises Refusal(422, invalid)."""
    return _checked(_parse(CreditContent, body), key)


def read_cancellation(body: bytes, key: str) -> Cancellation:
    """Read a cancellation. Raises Refusal(422, invalid)."""
    return _checked(_parse(Cancellation, body), key)


def _parse(model: type[_Body], body: bytes) -> _Body:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first: Any = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(422, "invalid", detail=f"{where}: {first['msg']}") from None


def _checked(content: _Body, key: str) -> _Body:
    if content.key != key:
        raise Refusal(422, "invalid", detail="Idempotency-Key and the body's key differ")
    return content
