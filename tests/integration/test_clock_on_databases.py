"""The database's clock on both databases: seconds to the millisecond, offsets, order (PROTOCOL T1)."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import ColumnElement, String, cast, literal, select

from integrator.clock import EPOCH, Instant, after, greatest, least, now
from integrator.config import settings
from integrator.ledger.engine import Ledger

NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def at(time: datetime) -> ColumnElement[datetime]:
    return literal(time, Instant())


def ask(ledger: Ledger, *expressions: ColumnElement[datetime]) -> list[datetime]:
    with ledger.read() as connection:
        return list(connection.execute(select(*expressions)).one())


@pytest.fixture
def two_hours_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("INTEGRATOR_CLOCK_OFFSET_SECONDS", "7200")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.parametrize("seconds", [0, 0.001, 1.5, -30, 90, 86_400, 315_360_000, -0.25])
def test_given_a_time_when_moved_then_to_the_millisecond(ledger: Ledger, seconds: float) -> None:
    assert ask(ledger, after(seconds, at(NOON))) == [NOON + timedelta(seconds=seconds)]


def test_given_now_when_asked_then_it_is_utc_and_near_this_machines(ledger: Ledger) -> None:
    before = datetime.now(UTC)
    (read,) = ask(ledger, now())
    assert abs(read - before) < timedelta(seconds=30)
    assert read.tzinfo is UTC


def test_given_one_statement_when_it_asks_twice_then_now_is_one_time(ledger: Ledger) -> None:
    first, second, later = ask(ledger, now(), now(), after(30))
    assert first == second
    assert later - first == timedelta(seconds=30)


def test_given_an_offset_when_asked_then_now_moves_and_stored_times_do_not(
    ledger: Ledger, two_hours_ahead: None
) -> None:
    read, stored, lease = ask(ledger, now(), after(0, at(NOON)), after(30))
    assert timedelta(minutes=119) < read - datetime.now(UTC) < timedelta(minutes=121)
    assert stored == NOON
    assert lease - read == timedelta(seconds=30)


def test_given_an_offset_that_changes_when_asked_again_then_the_cached_statement_follows(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = ask(ledger, now())
    with monkeypatch.context() as patch:
        patch.setenv("INTEGRATOR_CLOCK_OFFSET_SECONDS", "-3600")
        settings.cache_clear()
        (second,) = ask(ledger, now())
    settings.cache_clear()
    assert first - second > timedelta(minutes=59)


def test_given_several_times_when_compared_then_least_and_greatest(ledger: Ledger) -> None:
    times = [NOON, EPOCH, NOON + timedelta(milliseconds=1), NOON - timedelta(days=400)]
    assert ask(ledger, least(*map(at, times)), greatest(*map(at, times))) == [min(times), max(times)]


def test_given_times_of_any_size_when_sorted_as_sqlite_keeps_them_then_in_order(sqlite_ledger: Ledger) -> None:
    seconds = [-1e8, -86_400, -1, -0.002, -0.001, 0, 0.001, 0.5, 1, 59, 3_600, 86_400, 1e8]
    moved = [cast(after(second, at(NOON)), String) for second in seconds]
    with sqlite_ledger.read() as connection:
        texts = list(connection.execute(select(*moved)).one())
    assert texts == sorted(texts)
    assert len(set(texts)) == len(seconds)
    bound = [
        Instant().process_bind_param(NOON + timedelta(seconds=s), sqlite_ledger.engine.dialect) for s in seconds
    ]
    assert texts == bound, "what the database computes and what we send compare as text"
