"""What a management system of our own HTTP contract answers: an order as it keeps it, with its credits."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from integrator.documents import Money
from integrator.documents.money import Amount, Currency
from integrator.erps.base import Credit, Found

AMOUNT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")


def _amount_text(value: Any) -> Any:
    if not isinstance(value, str) or not AMOUNT.fullmatch(value):
        raise ValueError('an amount is a text like "49.90"')
    return Decimal(value)


Total = Annotated[Amount, BeforeValidator(_amount_text)]
Id = Annotated[str, Field(pattern=f"^{ID.pattern}$")]


class CreditRecord(BaseModel):
    """A credit of an order, in the order's currency."""

    id: Id
    key: str
    reference: str
    total: Total


class Record(BaseModel):
    """An order as the system answers it. Fields that the contract does not name are passed over."""

    id: Id
    reference: str
    state: Literal["open", "cancelled"]
    currency: Currency
    total: Total
    applied_keys: list[str]
    credits: list[CreditRecord]

    def money(self, amount: Decimal) -> Money:
        """An amount in the order's currency."""
        return Money(amount=amount, currency=self.currency)

    def found(self) -> Found:
        """The record as a look-up gives it."""
        return Found(
            self.id,
            frozenset(self.applied_keys),
            self.state == "cancelled",
            self.money(self.total),
            tuple(Credit(credit.id, credit.key, self.money(credit.total)) for credit in self.credits),
        )


class Records(BaseModel):
    """What a look-up answers."""

    orders: list[Record]
