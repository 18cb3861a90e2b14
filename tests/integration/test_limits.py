"""The limiter on a real Redis and both databases: never more than the limit, never stuck, whatever Redis does."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import insert, select, update

from integrator import limits_redis
from integrator.clock import EPOCH, after
from integrator.config import settings
from integrator.errors import QuotaUsedUp, RateLimited
from integrator.ledger.engine import Ledger
from integrator.ledger.limits import (
    HANDOVER_US,
    NoPlace,
    Place,
    give_back,
    nearly_used,
    place,
    us,
    uses,
    write_plan,
)
from integrator.ledger.schema import gates, limits, plans
from integrator.limits import STALE_SECONDS, Limiter, patient
from integrator.limits_redis import SharedBuckets
from integrator.plans import Grant, PlanFile, Purpose, Rate
from tests.redis_server import RedisServer
from tests.support import World, make_tenant

FAST = {"per_second": 1_000.0, "per_day": 1_000_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    if not server.process.alive:
        server.start()
    with Redis.from_url(server.url) as client:
        client.flushall()
    return server


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[datetime], float]]:
    """Sets the ledger's clock; the offset that Redis is to be given."""

    def put(at: datetime) -> float:
        offset = (at - datetime.now(UTC)).total_seconds()
        monkeypatch.setenv("INTEGRATOR_CLOCK_OFFSET_SECONDS", str(offset))
        settings.cache_clear()
        return offset

    yield put
    monkeypatch.undo()
    settings.cache_clear()


def plan(ledger: Ledger, world: World, **said: object) -> None:
    with ledger.write() as connection:
        write_plan(connection, world.gate_id, PlanFile.model_validate(said).columns())


def taken(ledger: Ledger, world: World) -> int:
    with ledger.read() as connection:
        query = select(limits.c.taken).where(limits.c.key == f"gate:{world.gate_id}")
        count: int = connection.execute(query).scalar_one()
    return count


def ask(limiter: Limiter, world: World, purpose: Purpose = Purpose.ORDERS) -> int:
    """Ask until a place is granted; its stamp."""
    asking = limiter.of_gate(world.gate_id, purpose)
    while True:
        try:
            return asking().stamp_us
        except RateLimited as limited:
            threading.Event().wait(min(limited.wait_seconds, 2))


def many(limiters: list[Limiter], world: World, count: int) -> list[int]:
    """Ask for so many calls by a crowd of threads."""
    with ThreadPoolExecutor(8) as threads:
        return sorted(threads.map(lambda n: ask(limiters[n % len(limiters)], world), range(count)))


def violations(stamps: list[int], rate: Rate) -> int:
    """How many places come too early for the limit."""
    early, full = 0, 0
    for stamp in sorted(stamps):
        early += stamp < full - rate.tolerance_us
        full = max(full, stamp) + rate.interval_us
    return early


def without_redis(ledger: Ledger) -> bool:
    with ledger.read() as connection:
        return connection.execute(select(limits.c.without_redis_until)).scalars().first() not in (None, EPOCH)


@pytest.mark.parametrize("shared", [True, False], ids=["redis", "ledger only"])
def test_given_a_crowd_when_it_asks_then_every_window_keeps_the_limit_and_the_day_is_counted(
    ledger: Ledger, redis: RedisServer, shared: bool
) -> None:
    world, url = make_tenant(ledger), redis.url if shared else None
    plan(ledger, world, per_second=200, burst=3, per_day=10_000)
    stamps = many([Limiter(ledger, url), Limiter(ledger, url)], world, 60)
    assert violations(stamps, Rate(200, 3)) == 0
    assert taken(ledger, world) in ({100, 199} if shared else {60}), "a block for each process at most"
    assert not without_redis(ledger)


def test_given_a_crowd_that_finds_no_block_of_the_day_when_it_asks_at_once_then_one_of_the_process_draws_it(
    ledger: Ledger, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_redis, "ANSWER_SECONDS", 30)  # else a busy machine does without Redis
    world, limiter, together = make_tenant(ledger), Limiter(ledger, redis.url), threading.Barrier(8)
    plan(ledger, world, **FAST | {"burst": 100})

    def at_once(_number: int) -> None:
        together.wait()
        ask(limiter, world)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(at_once, range(8)))
    assert taken(ledger, world) == 1_000, "one block"


def test_given_a_draw_that_takes_long_when_others_ask_then_they_wait_a_moment_and_draw_nothing(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world, limiter = make_tenant(sqlite_ledger), Limiter(sqlite_ledger, redis.url)
    plan(sqlite_ledger, world, **FAST)
    asking = limiter.of_gate(world.gate_id)
    drawing = limiter._drawing.setdefault((f"gate:{world.gate_id}", Purpose.ORDERS), threading.Lock())
    with drawing, pytest.raises(RateLimited):
        asking()
    with sqlite_ledger.read() as connection:
        assert connection.execute(select(limits.c.taken)).all() == []
    asking()
    assert taken(sqlite_ledger, world) == 1_000


def test_given_a_call_that_is_too_early_when_asked_then_it_is_told_how_long_and_takes_nothing(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=0.5)
    limiter = Limiter(sqlite_ledger, redis.url)
    ask(limiter, world)
    for _ in range(3):
        with pytest.raises(RateLimited) as told:
            limiter.of_gate(world.gate_id)()
        assert 1 < told.value.wait_seconds < 2
    assert taken(sqlite_ledger, world) == 3  # one block of 300


def test_given_no_redis_at_its_address_when_asked_then_the_ledger_grants_and_others_are_told(
    ledger: Ledger, redis: RedisServer
) -> None:
    world = make_tenant(ledger)
    plan(ledger, world, **FAST)
    cut_off, other = Limiter(ledger, "redis://127.0.0.1:9/0"), Limiter(ledger, redis.url)
    stamps = many([cut_off], world, 5)
    assert without_redis(ledger)
    before = taken(ledger, world)
    stamps += many([other, cut_off], world, 20)
    assert violations(stamps, Rate(1_000)) == 0
    assert taken(ledger, world) == before + 20  # one by one: the other keeps to the ledger, too
    with Redis.from_url(redis.url) as client:
        assert client.keys("*") == []


@pytest.mark.parametrize("fault", ["killed", "hanging", "emptied", "restarted"])
def test_given_a_redis_that_fails_when_calls_go_on_then_none_is_granted_too_early(
    sqlite_ledger: Ledger, redis: RedisServer, fault: str
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=50, burst=20, per_day=100_000)
    limiters = [Limiter(sqlite_ledger, redis.url), Limiter(sqlite_ledger, redis.url)]
    stamps = many(limiters, world, 25)
    match fault:
        case "killed":
            redis.kill()
        case "hanging":
            redis.hang()
        case "emptied":
            with Redis.from_url(redis.url) as client:
                client.flushall()
        case "restarted":
            redis.kill()
            redis.start()
    try:
        stamps += many(limiters, world, 25)
    finally:
        with suppress(OSError, AssertionError):
            redis.go_on()
    assert violations(stamps, Rate(50, 20)) == 0
    assert without_redis(sqlite_ledger) or fault in {"emptied", "restarted"}


def test_given_redis_is_back_when_the_others_time_has_passed_then_it_begins_with_an_empty_bucket(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=50, burst=20, per_day=100_000)
    limiter = Limiter(sqlite_ledger, redis.url)
    stamps = many([limiter], world, 25)
    with sqlite_ledger.write() as connection:  # somebody was without Redis until a moment ago
        until = datetime.now(UTC).replace(microsecond=0)
        connection.execute(update(limits).values(without_redis_until=until))
    threading.Event().wait(1.1)
    with pytest.raises(RateLimited) as told:
        limiter.of_gate(world.gate_id)()
    assert told.value.wait_seconds > 1
    stamps += many([limiter], world, 25)
    assert violations(stamps, Rate(50, 20)) == 0


def test_given_a_restored_redis_when_asked_then_what_it_says_is_left_of_the_day_does_not_count(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, **{**FAST, "per_day": 100_000})
    limiter = Limiter(sqlite_ledger, redis.url)
    ask(limiter, world)
    with Redis.from_url(redis.url) as client:
        client.hset(f"integrator-limit:{{gate:{world.gate_id}}}", "run", "another server")
    before = taken(sqlite_ledger, world)
    ask(limiter, world)
    assert taken(sqlite_ledger, world) == before + 990  # a new block


@pytest.mark.parametrize("shared", [True, False], ids=["redis", "ledger only"])
def test_given_the_day_is_used_up_when_asked_then_never_more_and_it_resumes_at_the_turn(
    ledger: Ledger, redis: RedisServer, shared: bool, clock: Callable[[datetime], float]
) -> None:
    world, zone = make_tenant(ledger), "America/Argentina/Buenos_Aires"
    plan(ledger, world, per_second=1_000, burst=100, per_day=120, time_zone=zone)
    offset = clock(datetime(2026, 3, 2, 2, 0, tzinfo=UTC))  # 23:00 there
    limiter = Limiter(ledger, redis.url if shared else None, offset_seconds=offset)
    granted = many([limiter], world, 120)
    with pytest.raises(QuotaUsedUp) as told:
        ask(limiter, world)
    assert len(granted) == taken(ledger, world) == 120
    assert str(told.value) == f"The day's requests are used up: 120 of 120, resumes 00:00 {zone}."
    assert told.value.resumes_at == datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
    tomorrow = clock(datetime(2026, 3, 2, 3, 0, 1, tzinfo=UTC))
    ask(Limiter(ledger, redis.url if shared else None, offset_seconds=tomorrow), world)
    assert 1 <= taken(ledger, world) <= 2


def test_given_redis_loses_all_when_the_day_goes_on_then_not_one_call_more_than_it_has(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=1_000, burst=1_000, per_day=60)
    limiter, granted = Limiter(sqlite_ledger, redis.url), 0
    with Redis.from_url(redis.url) as client, suppress(QuotaUsedUp):
        while granted <= 60:
            ask(limiter, world)
            granted += 1
            if granted in {10, 20, 30}:
                client.flushall()
    assert granted == 60  # single ones at the end: what Redis held was used


def test_given_shares_when_polls_and_others_ask_then_orders_keep_theirs(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world, limiter = make_tenant(sqlite_ledger), Limiter(sqlite_ledger, redis.url)
    plan(sqlite_ledger, world, per_second=1_000, burst=1_000, per_day=50, order_percent=40)

    def all_of(purpose: Purpose) -> int:
        count, told = 0, None
        while told is None:
            try:
                ask(limiter, world, purpose)
            except QuotaUsedUp as error:
                told = error
            else:
                count += 1
        assert told.for_all == (purpose is Purpose.ORDERS)
        return count

    assert [all_of(purpose) for purpose in (Purpose.POLLS, Purpose.OTHERS, Purpose.ORDERS)] == [10, 20, 20]


@pytest.mark.parametrize("shared", [True, False], ids=["redis", "ledger only"])
def test_given_a_call_that_never_left_when_refunded_then_the_day_has_it_again(
    ledger: Ledger, redis: RedisServer, shared: bool
) -> None:
    world = make_tenant(ledger)
    plan(ledger, world, per_second=1_000, burst=1_000, per_day=2)
    limiter = Limiter(ledger, redis.url if shared else None)
    ask(limiter, world)
    for _ in range(3):
        threading.Event().wait(0.01)
        limiter.of_gate(world.gate_id)().refund()
    ask(limiter, world)
    with pytest.raises(QuotaUsedUp):
        ask(limiter, world)


def test_given_a_call_of_yesterday_that_never_left_when_refunded_then_today_has_not_one_more(
    ledger: Ledger, clock: Callable[[datetime], float]
) -> None:
    world, limiter = make_tenant(ledger), Limiter(ledger, None)
    plan(ledger, world, per_second=1_000, burst=1_000, per_day=2)
    clock(datetime(2030, 1, 1, 23, 59, 50, tzinfo=UTC))
    yesterdays = limiter.of_gate(world.gate_id)()
    clock(datetime(2030, 1, 2, 0, 0, 10, tzinfo=UTC))
    for _ in range(2):
        ask(limiter, world)
    yesterdays.refund()
    with pytest.raises(QuotaUsedUp):
        ask(limiter, world)


def test_given_a_call_of_yesterday_that_never_left_when_refunded_in_redis_then_today_has_not_one_more(
    sqlite_ledger: Ledger, redis: RedisServer, clock: Callable[[datetime], float]
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=1_000, per_day=300)

    def granted(day: int) -> Grant:
        offset = clock(datetime(2026, 3, day, 12, tzinfo=UTC))
        return patient(Limiter(sqlite_ledger, redis.url, offset_seconds=offset).of_gate(world.gate_id), 30)()

    def left() -> int:
        with Redis.from_url(redis.url) as client:
            return int(client.hget(f"integrator-limit:{{gate:{world.gate_id}}}", "credit:orders"))

    yesterdays, todays = granted(2), granted(3)
    assert left() == 2
    yesterdays.refund()
    assert left() == 2
    todays.refund()
    assert left() == 3


def test_given_who_follows_others_without_redis_when_their_time_is_over_then_the_ledger_gives_it_no_place(
    ledger: Ledger,
) -> None:
    key = "gate:1"
    with ledger.write() as connection:
        connection.execute(insert(limits).values(key=key, without_redis_until=after(60)))
        assert isinstance(place(connection, key, Rate(10), None, Purpose.ORDERS, lost_redis=False), Place)
        connection.execute(update(limits).values(without_redis_until=after(-1), next_us=0))
        assert isinstance(place(connection, key, Rate(10), None, Purpose.ORDERS, lost_redis=False), NoPlace)


def test_given_a_process_that_stood_still_when_redis_grants_then_the_place_is_not_used_and_the_day_has_it_again(
    sqlite_ledger: Ledger, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, limiter = make_tenant(sqlite_ledger), Limiter(sqlite_ledger, redis.url)
    plan(sqlite_ledger, world, per_second=1_000, burst=1_000, per_day=1)
    read_and_granted = iter([0.0, STALE_SECONDS + 0.1])
    with monkeypatch.context() as patch:
        patch.setattr("integrator.limits.boottime", lambda: next(read_and_granted))
        with pytest.raises(RateLimited):
            limiter.of_gate(world.gate_id)()
    ask(limiter, world)
    with pytest.raises(QuotaUsedUp):
        ask(limiter, world)


def test_given_a_new_plan_when_a_second_has_passed_then_it_holds_and_what_was_shut_is_open(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world, limiter = make_tenant(sqlite_ledger), Limiter(sqlite_ledger, redis.url)
    plan(sqlite_ledger, world, per_second=1_000, per_day=1)
    ask(limiter, world)
    with pytest.raises(QuotaUsedUp) as told:
        ask(limiter, world)
    with sqlite_ledger.write() as connection:
        connection.execute(update(gates).values(quota_until=told.value.resumes_at))
    plan(sqlite_ledger, world, per_second=1_000, per_day=2)
    with sqlite_ledger.read() as connection:
        assert connection.execute(select(gates.c.quota_until)).scalar_one() == EPOCH
    threading.Event().wait(1.1)
    ask(limiter, world)
    with pytest.raises(QuotaUsedUp, match="2 of 2"):
        ask(limiter, world)


def test_given_a_lower_plan_when_redis_still_holds_of_the_old_one_then_it_is_not_used(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    world, limiter = make_tenant(sqlite_ledger), Limiter(sqlite_ledger, redis.url)
    plan(sqlite_ledger, world, **FAST)
    ask(limiter, world)
    plan(sqlite_ledger, world, per_second=1_000, per_day=300)
    threading.Event().wait(1.1)
    with pytest.raises(QuotaUsedUp, match="1000 of 300"):
        ask(limiter, world)


def test_given_a_tenant_that_moves_west_when_its_date_goes_back_then_it_has_no_second_day(
    ledger: Ledger, clock: Callable[[datetime], float]
) -> None:
    world = make_tenant(ledger)
    clock(datetime(2026, 3, 2, 2, 0, tzinfo=UTC))
    plan(ledger, world, per_second=1_000, per_day=1)
    ask(Limiter(ledger, None), world)
    plan(ledger, world, per_second=1_000, per_day=1, time_zone="America/Los_Angeles")
    for hour in (3, 9):  # the first of March there, and the second
        clock(datetime(2026, 3, 2, hour, 0, tzinfo=UTC))
        with pytest.raises(QuotaUsedUp):
            ask(Limiter(ledger, None), world)
    clock(datetime(2026, 3, 3, 9, 0, tzinfo=UTC))
    ask(Limiter(ledger, None), world)


def test_given_a_redis_whose_clock_is_ahead_when_the_day_is_over_there_then_the_ledger_goes_on(
    sqlite_ledger: Ledger, redis: RedisServer, clock: Callable[[datetime], float]
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=1_000, per_day=300)
    offset = clock(datetime(2026, 3, 2, 23, 30, tzinfo=UTC))
    limiter = Limiter(sqlite_ledger, redis.url, offset_seconds=offset + 3_600)
    many([limiter], world, 20)
    assert taken(sqlite_ledger, world) == 20


def test_given_two_shops_when_one_is_asked_often_then_it_waits_alone(
    sqlite_ledger: Ledger, redis: RedisServer
) -> None:
    limiter, rate = Limiter(sqlite_ledger, redis.url), Rate(0.5)
    busy, idle = limiter.of_shop(1, rate), limiter.of_shop(2, Rate(1_000))
    stamps: list[int] = []
    while len(stamps) < 3:
        with suppress(RateLimited):
            stamps.append(idle().stamp_us)
    for _ in range(2):
        with pytest.raises(RateLimited):
            busy()
    assert all(after - before >= 1_000 for before, after in pairwise(stamps))


def test_given_a_ledger_that_is_gone_when_asked_then_nothing_is_granted(tmp_path: Path) -> None:
    folder = tmp_path / "ledger.sqlite3"
    folder.mkdir()
    limiter = Limiter(Ledger(f"sqlite:///{folder}"), None)
    with pytest.raises(RateLimited, match="The ledger can't say"):
        limiter.of_gate(1)()


def test_given_a_plan_out_of_bounds_when_written_past_the_checks_then_the_ledger_refuses(ledger: Ledger) -> None:
    world = make_tenant(ledger)
    plan(ledger, world, burst=2)
    for wrong in ({"per_second": 0.0}, {"per_day": 0}, {"burst": -1}):
        with pytest.raises(Exception, match="ck_plans"), ledger.write() as connection:
            connection.execute(update(plans).values(**wrong))


def test_given_a_day_when_it_turns_in_redis_then_no_credit_of_yesterday_is_used(
    sqlite_ledger: Ledger, redis: RedisServer, clock: Callable[[datetime], float]
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=1_000, per_day=300)
    ask(Limiter(sqlite_ledger, redis.url, offset_seconds=clock(datetime(2026, 3, 2, 12, tzinfo=UTC))), world)
    assert taken(sqlite_ledger, world) == 3
    ask(Limiter(sqlite_ledger, redis.url, offset_seconds=clock(datetime(2026, 3, 3, 12, tzinfo=UTC))), world)
    with sqlite_ledger.read() as connection:
        assert connection.execute(select(limits.c.day, limits.c.taken)).one() == ("2026-03-03", 3)


def test_given_a_day_that_turned_when_orders_open_the_new_one_then_others_have_no_credit_of_yesterday(
    sqlite_ledger: Ledger, redis: RedisServer, clock: Callable[[datetime], float]
) -> None:
    world = make_tenant(sqlite_ledger)
    plan(sqlite_ledger, world, per_second=1_000, per_day=300)
    others = {}
    for day in (2, 3):
        offset = clock(datetime(2026, 3, day, 12, tzinfo=UTC))
        limiter = Limiter(sqlite_ledger, redis.url, offset_seconds=offset)
        for purpose in (Purpose.ORDERS, Purpose.OTHERS):
            ask(limiter, world, purpose)
        with sqlite_ledger.read() as connection:
            others[day] = connection.execute(select(limits.c.taken_others)).scalar_one()
    assert others[2] == others[3] == 3, "a block of each day's own"


def test_given_redis_is_lost_when_the_ledger_takes_over_then_it_gives_nothing_until_all_others_know(
    ledger: Ledger,
) -> None:
    with ledger.write() as connection:
        told = place(connection, "gate:1", Rate(10), None, Purpose.ORDERS, lost_redis=True)
    assert isinstance(told, NoPlace)
    assert told.wait_us >= HANDOVER_US


def test_given_places_far_ahead_of_the_clock_when_the_ledger_is_asked_then_it_waits_for_a_handover_at_most(
    ledger: Ledger,
) -> None:
    with ledger.write() as connection:
        connection.execute(insert(limits).values(key="gate:1", next_us=us(datetime(2100, 1, 1, tzinfo=UTC))))
        told = place(connection, "gate:1", Rate(10), None, Purpose.ORDERS, lost_redis=None)
    assert isinstance(told, NoPlace)
    assert told.wait_us <= HANDOVER_US + Rate(10).interval_us


def test_given_calls_of_another_day_when_given_back_then_this_day_has_not_one_more(ledger: Ledger) -> None:
    world = make_tenant(ledger)
    ask(Limiter(ledger, None), world)
    with ledger.write() as connection:
        today = connection.execute(select(limits.c.day)).scalar_one()
        give_back(connection, f"gate:{world.gate_id}", "2020-01-01", Purpose.ORDERS, 1)
    assert taken(ledger, world) == 1
    with ledger.write() as connection:
        give_back(connection, f"gate:{world.gate_id}", today, Purpose.ORDERS, 1)
    assert taken(ledger, world) == 0


def test_given_a_redis_that_fails_on_when_it_is_left_alone_then_for_longer_each_time_up_to_ten_seconds() -> None:
    buckets, pauses = SharedBuckets("redis://127.0.0.1:9/0", 0), []
    for _ in range(6):
        buckets.lose("test")
        pauses.append(buckets._pause_seconds)
    assert pauses == [1, 2, 4, 8, 10, 10]


def test_given_some_gates_when_their_days_are_used_then_those_over_80_percent_are_counted(ledger: Ledger) -> None:
    worlds = [make_tenant(ledger, f"tenant-{number}") for number in range(4)]
    for world, per_day in zip(worlds, (10, 10, 1_000), strict=False):
        plan(ledger, world, per_second=1_000, burst=100, per_day=per_day)
    for world, count in zip(worlds, (8, 7, 8), strict=False):
        limiter = Limiter(ledger, None)
        for _ in range(count):
            ask(limiter, world)
    with ledger.read() as connection:
        assert nearly_used(connection) == 1
        used = uses(connection, [world.gate_id for world in worlds])
    assert [(one.used, one.plan.per_day) for one in used.values()] == [(8, 10), (7, 10), (8, 1_000), (0, 300)]
