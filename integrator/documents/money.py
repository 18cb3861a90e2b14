"""Money: a Decimal amount with its currency. Currencies don't mix, and nothing is ever rounded."""

from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    Clamped,
    Context,
    Decimal,
    Inexact,
    InvalidOperation,
    Overflow,
    Rounded,
)
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

EXACT = Context(
    prec=100, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[Clamped, Inexact, InvalidOperation, Overflow, Rounded]
)
"""The context of all arithmetic on money: wide enough for any sum of products of amounts, and an error rather
than a rounded digit. (The interpreter's own rounds silently to 28 digits, even in `abs` and `-x`.)
"""


def refuse_float(value: Any) -> Any:
    """Pass anything but a float or a bool. A float has already lost what it was written as."""
    if isinstance(value, float | bool):
        raise ValueError("a float is not an amount: use Decimal, int or text")  # noqa: TRY004 - for pydantic
    return value


Amount = Annotated[
    Decimal,
    BeforeValidator(refuse_float),
    Field(allow_inf_nan=False, max_digits=20),
    PlainSerializer(lambda value: format(value, "f"), return_type=str),
]
"""A finite decimal of at most 20 digits, written to JSON as a plain string ("10.00", never 1E+1)."""

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
"""An ISO 4217 code."""


class Money(BaseModel):
    """An amount in a currency. Another currency, or a result of over 20 digits, is a ValueError.

    >>> Money(amount=Decimal("1.10"), currency="EUR") + Money(amount=Decimal("2"), currency="EUR")
    Money(amount=Decimal('3.10'), currency='EUR')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    amount: Amount
    currency: Currency

    @classmethod
    def zero(cls, currency: str) -> Self:
        """Nothing, in `currency`."""
        return cls(amount=Decimal(0), currency=currency)

    def _same(self, other: "Money") -> Decimal:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} do not add up")
        return other.amount

    def __add__(self, other: "Money") -> "Money":
        return Money(amount=EXACT.add(self.amount, self._same(other)), currency=self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(amount=EXACT.subtract(self.amount, self._same(other)), currency=self.currency)

    def __mul__(self, factor: Decimal | int) -> "Money":
        refuse_float(factor)
        return Money(amount=EXACT.multiply(self.amount, factor), currency=self.currency)

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}"
