"""What the ledger knows of limits: each gate's plan, what of its day was given out, and a bucket without Redis.

A day's calls are counted here before they are made: in blocks that Redis gives out one by one, or one at a time
where there is no Redis. So nothing that Redis loses is ever granted twice; what was in it of a block is lost.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, String, cast, func, insert, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from integrator.clock import EPOCH, now
from integrator.ledger.schema import gates, limits, plans
from integrator.plans import (
    DEFAULT,
    FIELDS,
    NEARLY_PERCENT,
    Day,
    Plan,
    Purpose,
    Rate,
    block,
    cold,
    day,
    next_place,
    plan_of,
    used_up,
)

LONGEST_US = 250_000
"""How long a call may wait for its place, in microseconds; a longer wait gives the place back (DESIGN §7)."""

VIEW_SECONDS = 1.0
"""How long a process goes by what it has read of a limit: a change works everywhere within this."""

HANDOVER_US = 1_500_000
"""After a change between Redis and the ledger nothing is granted for so long: the others see it within
VIEW_SECONDS, and what they were granted before lies within LONGEST_US of that."""

WITHOUT_REDIS_SECONDS = 10
"""How long after a process last found Redis unreachable all of them keep to the ledger."""

_TAKEN = {Purpose.ORDERS: "taken", Purpose.OTHERS: "taken_others", Purpose.POLLS: "taken_polls"}
_COUNTED = {
    Purpose.ORDERS: (Purpose.ORDERS,),
    Purpose.OTHERS: (Purpose.ORDERS, Purpose.OTHERS),
    Purpose.POLLS: (Purpose.ORDERS, Purpose.OTHERS, Purpose.POLLS),
}
"""Which counts a call of each purpose raises; each stays within its own `Plan.most`."""


def key_of_gate(gate_id: int) -> str:
    """What a gate's limit is kept under."""
    return f"gate:{gate_id}"


_OF_GATE = limits.c.key == literal("gate:") + cast(gates.c.id, String)
"""The join of a gate with its limit."""


def key_of_shop(shop_id: int) -> str:
    """What a shop's limit is kept under."""
    return f"shop:{shop_id}"


@dataclass(frozen=True)
class View:
    """A limit as a process sees it: the plan (a gate's only), and whether Redis may be asked.

    `episode_ms` names the last time without Redis: what Redis granted before it says nothing any more.
    """

    plan: Plan | None
    without_redis: bool
    episode_ms: int


def view(connection: Connection, gate_id: int | None, key: str) -> View:
    """Read it."""
    row = connection.execute(
        select(limits.c.without_redis_until, (limits.c.without_redis_until > now()).label("without_redis")).where(
            limits.c.key == key
        )
    ).one_or_none()
    plan = None if gate_id is None else read_plan(connection, gate_id)
    if row is None:
        return View(plan, without_redis=False, episode_ms=0)
    return View(plan, bool(row.without_redis), us(row.without_redis_until) // 1_000)


def read_plan(connection: Connection, gate_id: int) -> Plan:
    """The plan of a gate: its own over the default."""
    row = connection.execute(
        select(gates.c.plan_version, *(plans.c[name] for name in FIELDS))
        .outerjoin(plans, plans.c.gate_id == gates.c.id)
        .where(gates.c.id == gate_id)
    ).one()
    return plan_of(row._asdict(), row.plan_version)


def own_plan(connection: Connection, gate_id: int) -> dict[str, Any]:
    """What a gate's plan says itself; null is the default's."""
    found = connection.execute(select(plans).where(plans.c.gate_id == gate_id)).one_or_none()
    return {name: None if found is None else found._asdict()[name] for name in FIELDS}


def write_plan(connection: Connection, gate_id: int, columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Store a gate's plan; the names of what changed. What the old one had shut opens in the same transaction.

    `columns` holds every field of a plan, null for the default's.
    """
    locked = select(gates.c.id).where(gates.c.id == gate_id).with_for_update()
    connection.execute(locked)
    stored = own_plan(connection, gate_id)
    changed = tuple(name for name in FIELDS if stored[name] != columns[name])
    if not changed:
        return ()
    if not connection.execute(update(plans).where(plans.c.gate_id == gate_id).values(**columns)).rowcount:
        connection.execute(insert(plans).values(gate_id=gate_id, **columns))
    fresh = {"plan_version": gates.c.plan_version + 1, "quota_until": EPOCH}
    connection.execute(update(gates).where(gates.c.id == gate_id).values(**fresh))
    return changed


@dataclass(frozen=True)
class Use:
    """How much of a gate's day is used, as the ledger counts it: with what Redis has still to give out."""

    plan: Plan
    used: int
    ends_at: datetime

    @property
    def why(self) -> str:
        """What of the plan keeps a gate shut: the day, or for a moment the rate."""
        if self.used < self.plan.per_day:
            return f"the plan's {self.plan.per_second:g} requests per second are used up"
        said = used_up(self.used, self.plan.per_day, self.ends_at, self.plan.time_zone)
        return f"the day's quota is used up: {said}"


def use(connection: Connection, gate_id: int) -> Use:
    """One gate's."""
    return uses(connection, [gate_id])[gate_id]


def uses(connection: Connection, gate_ids: Collection[int]) -> dict[int, Use]:
    """What is used of each of these gates' days."""
    rows = connection.execute(
        select(gates.c.id, gates.c.plan_version, *(plans.c[name] for name in FIELDS), now().label("now"))
        .add_columns(limits.c.day, limits.c.taken)
        .outerjoin(plans, plans.c.gate_id == gates.c.id)
        .outerjoin(limits, _OF_GATE)
        .where(gates.c.id.in_(gate_ids))
    )
    return {row.id: _use(row) for row in rows}


def _use(row: Any) -> Use:
    plan = plan_of(row._asdict(), row.plan_version)
    today = day(row.now, plan.time_zone)
    return Use(plan, row.taken if row.day is not None and row.day >= today.name else 0, today.ends_at)


def nearly_used(connection: Connection) -> int:
    """How many gates have used NEARLY_PERCENT of their day, or all of it."""
    per_day = func.coalesce(plans.c.per_day, DEFAULT.per_day)
    count = (
        select(func.count())
        .select_from(gates)
        .join(limits, _OF_GATE)
        .outerjoin(plans, plans.c.gate_id == gates.c.id)
        .where(limits.c.day_ends_at > now(), limits.c.taken * 100 >= per_day * NEARLY_PERCENT)
    )
    return int(connection.execute(count).scalar_one())


@dataclass(frozen=True)
class Drawn:
    """So many calls of a day to give out. `nearly`: with them it is nearly used up, and was not before."""

    count: int
    day: Day
    nearly: bool


@dataclass(frozen=True)
class Spent:
    """Nothing is left of a day for a purpose: `used` of `most`, until the day ends."""

    used: int
    most: int
    ends_at: datetime


def draw(connection: Connection, key: str, plan: Plan, purpose: Purpose) -> Drawn | Spent:
    """Take the next block of a day's calls for a purpose, in a transaction of its own."""
    row = _lock(connection, key)
    return _draw(connection, row, plan, purpose, one=False)


@dataclass(frozen=True)
class Place:
    """A place that the ledger gave: to be taken after `wait_us`, at `stamp_us` (since 1970, by its clock)."""

    wait_us: int
    stamp_us: int
    drawn: Drawn | None


@dataclass(frozen=True)
class NoPlace:
    """The rate has no place within LONGEST_US; the next one comes after `wait_us`."""

    wait_us: int


def place(
    connection: Connection, key: str, rate: Rate, plan: Plan | None, purpose: Purpose, *, lost_redis: bool | None
) -> Place | NoPlace | Spent:
    """Grant one call without Redis, in a transaction of its own.

    `lost_redis` says whether this process finds Redis unreachable, and so keeps all others from it for a while, or
    follows one that does;
    None where there is none, so that there is nobody to take over from.
    """
    row = _lock(connection, key)
    now_us, next_us = us(row.now), row.next_us
    until = row.without_redis_until
    if lost_redis is False and until <= row.now:
        return NoPlace(LONGEST_US)  # Redis gives them again
    if lost_redis:
        if until <= row.now:
            next_us = max(next_us, cold(now_us, rate, HANDOVER_US))
        until = row.now + timedelta(seconds=WITHOUT_REDIS_SECONDS)
    next_us = min(next_us, cold(now_us, rate, HANDOVER_US))
    wait_us, next_us = next_place(next_us, now_us, rate, LONGEST_US)
    drawn = None
    if wait_us <= LONGEST_US and plan is not None:
        answer = _draw(connection, row, plan, purpose, one=True)
        if isinstance(answer, Spent):
            return answer
        drawn = answer
    connection.execute(
        update(limits).where(limits.c.key == key).values(next_us=next_us, without_redis_until=until)
    )
    return NoPlace(wait_us) if wait_us > LONGEST_US else Place(wait_us, now_us + wait_us, drawn)


def give_back(connection: Connection, key: str, of: str, purpose: Purpose, count: int) -> None:
    """So many calls of that day never left: they may be made later. Their places in the rate have passed."""
    names = [_TAKEN[one] for one in _COUNTED[purpose]]
    same_day = update(limits).where(limits.c.key == key, limits.c.day == of)
    connection.execute(
        same_day.where(*(limits.c[name] >= count for name in names)).values(
            {limits.c[name]: limits.c[name] - count for name in names}
        )
    )


def _lock(connection: Connection, key: str) -> Any:
    query = select(limits, now().label("now")).where(limits.c.key == key).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is not None:
        return row
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(limits).values(key=key).on_conflict_do_nothing())
    return connection.execute(query).one()


def _draw(connection: Connection, row: Any, plan: Plan, purpose: Purpose, *, one: bool) -> Drawn | Spent:
    today = day(row.now, plan.time_zone)
    counts = {each: row._mapping[_TAKEN[each]] for each in Purpose}
    if today.name > row.day:
        counts = dict.fromkeys(counts, 0)
    else:  # a tenant that moves to an earlier time zone has no second day
        today = replace(today, name=row.day)
    spent, most = min(
        ((counts[each], plan.most(each)) for each in _COUNTED[purpose]), key=lambda pair: pair[1] - pair[0]
    )
    count = min(block(spent, most), 1) if one else block(spent, most)
    if not count:
        return Spent(spent, most, today.ends_at)
    before, line = counts[Purpose.ORDERS], plan.per_day * NEARLY_PERCENT / 100
    for each in _COUNTED[purpose]:
        counts[each] += count
    values: dict[str, Any] = {_TAKEN[each]: number for each, number in counts.items()}
    values |= {"day": today.name, "day_ends_at": today.ends_at}
    connection.execute(update(limits).where(limits.c.key == row.key).values(**values))
    return Drawn(count, today, nearly=before < line <= counts[Purpose.ORDERS])


def us(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - EPOCH) // timedelta(microseconds=1)
