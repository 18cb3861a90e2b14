"""What a tenant may do to one management system: its plan, its day, and what calls are for. Pure.

The limit of a rate means: in any t seconds at most `per_second` x t + `burst` calls.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator

POLL_PERCENT = 20
"""The share of a day that polling may spend, in percent."""

NEARLY_PERCENT = 80
"""From this share of a day on, in percent, it counts as nearly used up."""

BLOCK_SHARE, BLOCK_MOST = 100, 1_000
"""The ledger gives a day's calls out in blocks: a hundredth of what is left, from one to a thousand."""


class Purpose(StrEnum):
    """What a call is for: orders may use the whole day, everything else leaves the share that is kept for them."""

    ORDERS = "orders"
    OTHERS = "others"
    POLLS = "polls"


@dataclass(frozen=True)
class Rate:
    """How fast: calls per second over time, and how many at once after a rest."""

    per_second: float
    burst: int = 1

    @property
    def interval_us(self) -> int:
        """Microseconds between two calls that follow each other, rounded up."""
        return math.ceil(1_000_000 / self.per_second)

    @property
    def tolerance_us(self) -> int:
        """How much earlier than its turn a call may come, in microseconds, since a burst may."""
        return (self.burst - 1) * self.interval_us


@dataclass(frozen=True)
class Plan:
    """What one tenant may do to one management system. `order_percent` of the day is kept for orders.

    `version` rises with each change, so that nothing is done by an older one.
    """

    per_second: float = 10.0
    burst: int = 1
    per_day: int = 300
    time_zone: str = "UTC"
    order_percent: int = 20
    retry_first_seconds: float = 2.0
    retry_longest_seconds: float = 3_600.0
    version: int = field(default=0, compare=False)

    @property
    def rate(self) -> Rate:
        """How fast."""
        return Rate(self.per_second, self.burst)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in FIELDS}

    def most(self, purpose: Purpose) -> int:
        """How many calls of a day this purpose may make at most, together with the stricter ones."""
        others = self.per_day - self.per_day * self.order_percent // 100
        polls = min(self.per_day * POLL_PERCENT // 100, others)
        return {Purpose.ORDERS: self.per_day, Purpose.OTHERS: others, Purpose.POLLS: polls}[purpose]


@dataclass(frozen=True)
class Grant:
    """A call that may go out now: its place in µs since 1970, by the clock that gave it, and whose limit that is.

    `refund` is called when no byte of it left, so that the day does not count it.
    """

    stamp_us: int
    whose: str
    refund: Callable[[], None] = field(repr=False)

    def __str__(self) -> str:
        """As the other side's log is to show it: `at=1760000000123456, of=gate:12`."""
        return f"at={self.stamp_us}, of={self.whose}"


Ask = Callable[[], Grant]
"""Waits for a call's place, 250 ms at most. Raises RateLimited, QuotaUsedUp."""

DEFAULT = Plan()
"""What holds where a tenant's plan says nothing."""

FIELDS = tuple(name for name in Plan.__dataclass_fields__ if name != "version")
"""What a plan says, by the names of its columns."""


class PlanFile(BaseModel):
    """A plan as people write it, within bounds; what it does not name is as in the default plan."""

    model_config = ConfigDict(extra="forbid")

    per_second: Annotated[float | None, Field(ge=0.01, le=10_000, allow_inf_nan=False)] = None
    burst: Annotated[int | None, Field(ge=1, le=10_000)] = None
    per_day: Annotated[int | None, Field(ge=1, le=100_000_000)] = None
    time_zone: str | None = None
    order_percent: Annotated[int | None, Field(ge=0, le=90)] = None
    retry_first_seconds: Annotated[float | None, Field(ge=1, le=3_600, allow_inf_nan=False)] = None
    retry_longest_seconds: Annotated[float | None, Field(ge=1, le=86_400, allow_inf_nan=False)] = None

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in _zones():
            raise ValueError("is no time zone; write one like America/Argentina/Buenos_Aires")
        return name

    def columns(self) -> dict[str, Any]:
        """What is stored: null for what the default plan says."""
        return self.model_dump()


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def plan_of(row: Mapping[str, Any], version: int) -> Plan:
    """The plan of a stored row, whose nulls (or the whole of it, when there is none) are the default's."""
    said = {name: row[name] for name in FIELDS if row[name] is not None}
    return Plan(**said, version=version)


@dataclass(frozen=True)
class Day:
    """One day of a tenant, of 23 to 25 hours: its date, and when it begins and ends."""

    name: str
    begins_at: datetime
    ends_at: datetime


def day(now: datetime, time_zone: str) -> Day:
    """The day that it is in a time zone."""
    zone = ZoneInfo(time_zone)
    today = now.astimezone(zone).date()
    return Day(today.isoformat(), _midnight(today, zone), _midnight(today + timedelta(days=1), zone))


def _midnight(of: date, zone: ZoneInfo) -> datetime:
    """When a date begins. Where the clocks skip midnight, that is when they do."""
    return datetime.combine(of, time.min, zone)


def used_up(used: int, most: int, ends_at: datetime, time_zone: str) -> str:
    """What people are told: "300 of 300, resumes 00:00 America/Argentina/Buenos_Aires"."""
    return f"{used} of {most}, resumes {_of_the_clock(ends_at, time_zone)}"


def _of_the_clock(at: datetime, time_zone: str) -> str:
    return f"{at.astimezone(ZoneInfo(time_zone)):%H:%M} {time_zone}"


def block(used: int, most: int) -> int:
    """How many calls are given out at once: fewer the fewer are left, so that none stays over; 0 for none."""
    left = most - used
    return min(-(-left // BLOCK_SHARE), BLOCK_MOST) if left > 0 else 0


def next_place(next_us: int, now_us: int, rate: Rate, longest_us: int) -> tuple[int, int]:
    """The generic cell rate algorithm: (microseconds to wait, the new `next_us`; the old one for no place).

    `next_us` is when the bucket is full again, but for one. A wait over `longest_us` gets no place.
    """
    wait_us = max(next_us - rate.tolerance_us - now_us, 0)
    if wait_us > longest_us:
        return wait_us, next_us
    return wait_us, max(next_us, now_us + wait_us) + rate.interval_us


def cold(now_us: int, rate: Rate, after_us: int) -> int:
    """What `next_us` is when nobody knows what was granted until `after_us` from now: the bucket is empty."""
    return now_us + after_us + rate.tolerance_us + rate.interval_us
