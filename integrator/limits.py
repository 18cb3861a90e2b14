"""The limiter: no call goes out faster than its plan or platform allows, nor more of them in a day.

Redis decides while it answers: one script for rate and day, by Redis' clock (PROTOCOL T1). When it does not, the
ledger gives each place by itself, which is slower and just as exact. The day's calls come from the ledger either
way. docs/adr/0021-limits.md says why.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from integrator.clock import boottime
from integrator.config import Settings
from integrator.errors import QuotaUsedUp, RateLimited
from integrator.ledger import limits as ledger_limits
from integrator.ledger.engine import UNREACHABLE, Ledger
from integrator.ledger.limits import HANDOVER_US, LONGEST_US, VIEW_SECONDS, Drawn, NoPlace, Spent, View
from integrator.logs import get_logger
from integrator.plans import DEFAULT, NEARLY_PERCENT, Ask, Grant, Purpose, Rate, used_up

if TYPE_CHECKING:
    from integrator.limits_redis import SharedBuckets

log = get_logger(__name__)

STALE_SECONDS = (HANDOVER_US - LONGEST_US) / 1_000_000
"""How old what was read of a limit may be when Redis has answered: a place given later may meet the ledger's."""

LEAST_SECONDS = 0.02
"""The shortest wait that is told: a sync's way to a worker takes longer than that anyway."""


DRAWS = 3
"""How often one call looks for a block of the day that no other process uses up before it."""


@dataclass
class Asked:
    """One call that asks for its place."""

    key: str
    rate: Rate
    seen: View
    purpose: Purpose
    read_at: float


class Said(IntEnum):
    """What the script answers first."""

    GRANTED = 1
    NO_PLACE = 2
    DRAW = 3
    DAY_IS_OVER = 4


class Limiter:
    """The limits as one process asks for them. Threads share it."""

    def __init__(
        self,
        ledger: Ledger,
        redis_url: str | None,
        *,
        offset_seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._redis = _buckets(redis_url, offset_seconds) if redis_url else None
        self._sleep = sleep
        self._views: dict[str, tuple[float, View]] = {}
        self._drawing: dict[tuple[str, Purpose], threading.Lock] = {}

    @classmethod
    def from_settings(cls, settings: Settings, ledger: Ledger) -> "Limiter":
        """The limiter of an installation: the control plane's Redis carries it, if there is one."""
        url = settings.control_plane_url
        return cls(
            ledger,
            url.get_secret_value() if url else None,
            offset_seconds=settings.clock_offset_seconds,
        )

    def of_gate(self, gate_id: int, purpose: Purpose = Purpose.ORDERS) -> Ask:
        """Ask for a call to a management system, by its plan as it is within VIEW_SECONDS."""
        key = ledger_limits.key_of_gate(gate_id)
        return lambda: self._grant(key, gate_id, None, purpose)

    def of_shop(self, shop_id: int, rate: Rate) -> Ask:
        """Ask for a call to a shop, at its platform's rate."""
        key = ledger_limits.key_of_shop(shop_id)
        return lambda: self._grant(key, None, rate, Purpose.ORDERS)

    def _grant(self, key: str, gate_id: int | None, rate: Rate | None, purpose: Purpose) -> Grant:
        try:
            read_at, seen = self._view(key, gate_id)
            asked = Asked(key, seen.plan.rate if seen.plan else rate or DEFAULT.rate, seen, purpose, read_at)
            wait_us, grant = self._in_redis(asked) or self._in_ledger(asked)
        except UNREACHABLE as error:
            name = type(error).__name__
            raise RateLimited(
                f"The ledger can't say whether the plan allows a call ({name}).", wait_seconds=1
            ) from None
        if wait_us:
            self._sleep(wait_us / 1_000_000)
        return grant

    def _view(self, key: str, gate_id: int | None) -> tuple[float, View]:
        """The limit as it was read, and when that was begun by this process's clock."""
        known, asked_at = self._views.get(key), boottime()
        if known is not None and asked_at - known[0] <= VIEW_SECONDS:
            return known
        with self._ledger.read() as connection:
            found = asked_at, ledger_limits.view(connection, gate_id, key)
        self._views[key] = found
        return found

    # With Redis

    def _in_redis(self, asked: Asked) -> tuple[int, Grant] | None:
        """The wait in µs and the grant; None where the ledger must be asked."""
        shared = self._redis
        if shared is None or not shared.answers() or asked.seen.without_redis:
            return None
        answer = shared.take(asked, None)
        if answer and answer[0] == Said.DRAW:
            answer = self._draw_in_turn(shared, asked)
        match answer:
            case [Said.GRANTED, wait_us, stamp_us, ends_us]:
                grant = Grant(stamp_us, asked.key, partial(shared.give_back, asked, ends_us))
                if boottime() - asked.read_at > STALE_SECONDS:  # the ledger may give places by now
                    grant.refund()
                    raise _rate_limited(asked, LONGEST_US)
                return wait_us, grant
            case [Said.NO_PLACE, wait_us]:
                raise _rate_limited(asked, wait_us)
        return None

    def _draw_in_turn(self, shared: "SharedBuckets", asked: Asked) -> list[int] | None:
        """Draw a block of the day while nobody else of this process does, or use what the one before has left."""
        drawing = self._drawing.setdefault((asked.key, asked.purpose), threading.Lock())
        if not drawing.acquire(timeout=LONGEST_US / 1_000_000):
            raise _rate_limited(asked, 2 * LONGEST_US)
        try:
            return self._draw_and_take(shared, asked)
        finally:
            drawing.release()

    def _draw_and_take(self, shared: "SharedBuckets", asked: Asked) -> list[int] | None:
        spent: Spent | None = None
        for _ in range(DRAWS):
            answer = shared.take(asked, None)
            if answer is None or answer[0] != Said.DRAW:
                return answer
            if spent:  # and what another process drew last is gone, too
                raise _used_up(asked, spent)
            with self._ledger.write() as connection:
                drawn = ledger_limits.draw(connection, asked.key, asked.seen.plan or DEFAULT, asked.purpose)
            if isinstance(drawn, Spent):
                spent = drawn
                continue
            _tell(asked, drawn)
            answer = shared.take(asked, drawn)
            if answer and answer[0] == Said.DAY_IS_OVER:  # by Redis' clock, and not by the ledger's
                self._give_back(asked, drawn.day.name, drawn.count)
                shared.lose("its clock is ahead of the ledger's")
                return None
            if answer is None or answer[0] != Said.DRAW:
                return answer
        # Other processes took what was drawn, each time; they have made use of it.
        raise _rate_limited(asked, LONGEST_US)

    # Without

    def _in_ledger(self, asked: Asked) -> tuple[int, Grant]:
        # Whoever comes here though Redis is in use says so, even if it has been reached again by now.
        lost = None if self._redis is None else self._redis.lost or not asked.seen.without_redis
        with self._ledger.write() as connection:
            answer = ledger_limits.place(
                connection, asked.key, asked.rate, asked.seen.plan, asked.purpose, lost_redis=lost
            )
        if isinstance(answer, Spent):
            raise _used_up(asked, answer)
        if isinstance(answer, NoPlace):
            raise _rate_limited(asked, answer.wait_us)
        if answer.drawn:
            _tell(asked, answer.drawn)
        day = answer.drawn.day.name if answer.drawn else None
        return answer.wait_us, Grant(answer.stamp_us, asked.key, partial(self._give_back, asked, day, 1))

    def _give_back(self, asked: Asked, day: str | None, count: int) -> None:
        """So many calls never left. When the ledger can't be told, the day counts them."""
        if day is not None:
            with suppress(*UNREACHABLE), self._ledger.write() as connection:
                ledger_limits.give_back(connection, asked.key, day, asked.purpose, count)


def _buckets(redis_url: str, offset_seconds: float) -> "SharedBuckets":
    from integrator.limits_redis import SharedBuckets  # noqa: PLC0415 - it loads redis-py

    return SharedBuckets(redis_url, offset_seconds)


def patient(ask: Ask, seconds: float) -> Ask:
    """Ask again and again for so long, for who has nobody to do it later."""

    def asked() -> Grant:
        give_up = boottime() + seconds
        while True:
            try:
                return ask()
            except RateLimited as limited:
                if boottime() + limited.wait_seconds > give_up:
                    raise
                time.sleep(limited.wait_seconds)

    return asked


def _rate_limited(asked: Asked, wait_us: int) -> RateLimited:
    # From when on a place is within reach: who comes then waits LONGEST_US at most, and no place passes unused.
    wait = max((wait_us - LONGEST_US) / 1_000_000, LEAST_SECONDS)
    return RateLimited(
        f"At {asked.rate.per_second:g} calls per second there is no place for {wait:.2f} s.",
        wait_seconds=wait,
        plan_version=asked.seen.plan.version if asked.seen.plan else None,
    )


def _used_up(asked: Asked, spent: Spent) -> QuotaUsedUp:
    plan = asked.seen.plan or DEFAULT
    said = used_up(spent.used, spent.most, spent.ends_at, plan.time_zone)
    return QuotaUsedUp(
        f"The day's requests are used up: {said}.",
        resumes_at=spent.ends_at,
        for_all=asked.purpose is Purpose.ORDERS,
        plan_version=plan.version,
    )


def _tell(asked: Asked, drawn: Drawn) -> None:
    if drawn.nearly:
        log.warning(
            "quota_nearly_used", limit=asked.key, percent=NEARLY_PERCENT, ends_at=drawn.day.ends_at.isoformat()
        )
