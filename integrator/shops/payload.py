"""Reading the JSON that a shop sends: strictly, and with the field's name in every complaint.

Every platform's mapper reads through this module, so that a body can be refused in one way only: `Unmapped`,
naming the field (`line_items[2].price`) and never its value, which may be personal data.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn

from integrator.errors import Unmapped

ID = re.compile(r"[1-9][0-9]{0,39}", re.ASCII)
"""An id as text: plain digits, no sign, no leading zero; platforms exceed 2^53 and 2^63, nobody 40 digits."""

NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)
CORRECT = (
    "Look at that field of the order in the shop. If it is wrong, correct it there: saved, the order is sent "
    "again. If it is right, the connector does not know it yet: report the message, and the field's value."
)
"""What a person does about a field that can't be read: no mapping would help."""

SEND_AGAIN = (
    "Save the order in the shop once more: it is sent again, and counts then. If that body can't be read either, "
    "report the message, and which platform sent it."
)
"""What a person does about a body that can't be read as a whole."""

SURROGATE = re.compile("[\ud800-\udfff]")
DIGITS = 20
"""The digits that an amount of the canonical model has at most."""


def parse(body: bytes) -> "Fields":
    """Parse a body that must be one JSON object in UTF-8. Numbers become int or Decimal, never float.

    Refused are NaN and Infinity, a key given twice, a byte order mark, and nesting beyond what the
    interpreter's stack takes. Raises Unmapped, never anything else.
    """
    value = parse_value(body)
    if not isinstance(value, dict):
        raise Unmapped("the body is not a JSON object", subject="body", remedy=SEND_AGAIN)
    return Fields(value)


def parse_list(body: bytes, name: str) -> "tuple[Fields, ...]":
    """Parse a body that must be a JSON list of objects, as strictly as `parse`. `name` is what it holds.

    Raises Unmapped, never anything else.
    """
    value = parse_value(body)
    if not isinstance(value, list):
        raise Unmapped("the body is not a JSON list", subject="body", remedy=SEND_AGAIN)
    return tuple(Fields({name: value}).objects(name))


def parse_value(body: bytes) -> Any:
    """Parse any JSON value, as strictly as `parse`. Raises Unmapped, never anything else."""
    try:
        return _decoder().decode(body.decode("utf-8"))
    except (ValueError, ArithmeticError, RecursionError) as error:  # int() of many digits, Decimal("1e9…9")
        why = f"the body is not strict JSON ({type(error).__name__})"
        raise Unmapped(why, subject="body", remedy=SEND_AGAIN) from None


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_object)


def plain_id(value: object) -> str | None:
    """Give an id (a positive integer, or its digits as text) as text; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if 0 < value < 10**40 else ""
    return value if isinstance(value, str) and ID.fullmatch(value) else None


def utc_time(value: object) -> datetime | None:
    """Give an ISO 8601 time with a zone in UTC; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else None
    except (ValueError, OverflowError):  # OverflowError: 0001-01-01T00:00:00+23:59
        return None


@dataclass(frozen=True)
class Fields:
    """One JSON object of a body, and where it is. Missing, null and empty text are the same: None.

    Every method takes the field's name. A value of another kind raises Unmapped naming the path.
    """

    values: Mapping[str, Any]
    path: str = ""

    def where(self, name: str) -> str:
        """Give the path of a field, for people: `line_items[2].price`."""
        return f"{self.path}.{name}" if self.path else name

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raise Unmapped for a field. Indexes stay out of the subject, so that equal errors group."""
        where = self.where(name)
        raise Unmapped(f"{where} {why}", subject=re.sub(r"\[\d+]", "[]", where), remedy=CORRECT)

    def has(self, *names: str) -> bool:
        """Whether any of the fields is there at all, null or not."""
        return any(name in self.values for name in names)

    def object(self, name: str) -> "Fields | None":
        """Give an object."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            self.refuse(name, "is not an object")
        return Fields(value, self.where(name)) if value is not None else None

    def objects(self, name: str) -> "Iterator[Fields]":
        """Give the objects of a list, in order; none when it is missing."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, list):
            self.refuse(name, "is not a list")
        for index, item in enumerate(value or ()):
            if not isinstance(item, dict):
                self.refuse(f"{name}[{index}]", "is not an object")
            yield Fields(item, self.where(f"{name}[{index}]"))

    def text(self, name: str) -> str | None:
        """Give text, stripped. Half a surrogate pair becomes U+FFFD and NUL goes: neither can be stored."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            self.refuse(name, "is not text")
        if not value:
            return None
        return SURROGATE.sub("\ufffd", value).replace("\0", "").strip() or None

    def id(self, name: str) -> str | None:
        """Give an id as plain digits."""
        value = self.values.get(name)
        text = plain_id(value)
        if value is not None and text is None:
            self.refuse(name, "is not an id")
        return text

    def number(self, name: str) -> Decimal | None:
        """Give a number, written as a JSON number or as text, of at most 20 digits."""
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
            self.refuse(name, "is not a number")
        if isinstance(value, str) and not NUMBER.fullmatch(value):
            self.refuse(name, "is not a number")
        if isinstance(value, int) and abs(value) >= 10**DIGITS:
            self.refuse(name, f"has more than {DIGITS} digits")
        number = Decimal(value)
        if not _fits(number):
            self.refuse(name, f"has more than {DIGITS} digits")
        return number

    def flag(self, name: str) -> bool | None:
        """Give true or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, "is neither true nor false")
        return value

    def time(self, name: str) -> datetime | None:
        """Give a time with a zone, in UTC."""
        value = self.values.get(name)
        time = utc_time(value)
        if value is not None and value != "" and time is None:
            self.refuse(name, "is not a time with a zone")
        return time


def _fits(number: Decimal) -> bool:
    """Whether the number has at most DIGITS digits, told without writing it out: 1e999999999 is short."""
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or abs(exponent) > DIGITS:
        return False
    return len(digits) + max(exponent, 0) <= DIGITS


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is given twice")
    return values
