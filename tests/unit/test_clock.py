"""The clock module without a database: what may be stored as a time, and the SQL that both databases get."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import ColumnElement, Dialect, column, literal
from sqlalchemy.dialects import postgresql, sqlite

from integrator.clock import EPOCH, Instant, after, boottime, greatest, least, now

NOON = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
SQLITE = sqlite.dialect()


def sql(expression: ColumnElement[datetime], dialect: Dialect) -> str:
    return str(expression.compile(dialect=dialect))


@pytest.mark.parametrize("dialect", [POSTGRESQL, SQLITE])
def test_given_a_time_without_a_zone_when_stored_then_refused(dialect: Dialect) -> None:
    with pytest.raises(ValueError, match="zone"):
        Instant().process_bind_param(NOON.replace(tzinfo=None), dialect)


@pytest.mark.parametrize(
    "given", [NOON, NOON.astimezone(timezone(timedelta(hours=-3))), NOON.astimezone(timezone(timedelta(hours=9)))]
)
def test_given_any_zone_when_stored_on_sqlite_then_utc_text_with_milliseconds(given: datetime) -> None:
    text = Instant().process_bind_param(given, SQLITE)
    assert text == "2026-03-01 12:00:00.123"
    read = Instant().process_result_value(text, SQLITE)
    assert read == NOON.replace(microsecond=123_000)
    assert read.tzinfo is UTC


def test_given_postgresql_when_stored_and_read_then_the_time_stays_and_is_utc() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    assert Instant().process_bind_param(elsewhere, POSTGRESQL) is elsewhere
    assert Instant().process_result_value(elsewhere, POSTGRESQL).tzinfo is UTC  # type: ignore[union-attr]


@pytest.mark.parametrize("dialect", [POSTGRESQL, SQLITE])
def test_given_no_time_when_stored_and_read_then_none(dialect: Dialect) -> None:
    assert Instant().process_bind_param(None, dialect) is None
    assert Instant().process_result_value(None, dialect) is None


def test_given_a_default_when_written_as_a_literal_then_it_is_quoted() -> None:
    assert Instant().process_literal_param(EPOCH, SQLITE) == "'1970-01-01 00:00:00.000'"


@pytest.mark.parametrize(
    ("expression", "on_postgresql", "on_sqlite"),
    [
        (now(), "statement_timestamp() + make_interval(secs =>", "strftime('%Y-%m-%d %H:%M:%f', 'now', printf("),
        (
            after(5),
            "statement_timestamp() + make_interval(secs =>",
            "strftime('%Y-%m-%d %H:%M:%f', 'now', printf(",
        ),
        (
            after(5, column("x", Instant())),
            "(x + make_interval(secs =>",
            "strftime('%Y-%m-%d %H:%M:%f', x, printf(",
        ),
        (least(column("a"), column("b")), "least(a, b)", "min(a, b)"),
        (greatest(column("a"), column("b")), "greatest(a, b)", "max(a, b)"),
    ],
)
def test_given_a_time_expression_when_compiled_then_each_database_gets_its_own_words(
    expression: ColumnElement[datetime], on_postgresql: str, on_sqlite: str
) -> None:
    assert on_postgresql in sql(expression, POSTGRESQL)
    assert on_sqlite in sql(expression, SQLITE)


def test_given_a_literal_time_when_compiled_then_the_database_is_given_text_on_sqlite_only() -> None:
    bound = literal(NOON, Instant()).compile(dialect=SQLITE)
    assert "2026" not in str(bound)
    assert bound.params == {"param_1": NOON}


def test_given_the_boot_clock_when_read_twice_then_it_never_goes_back() -> None:
    first = boottime()
    assert boottime() >= first > 0
