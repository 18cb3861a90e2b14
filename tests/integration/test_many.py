"""Many rows at once: whatever way the database takes them, they are what was given, or none is there."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.types import JSON

from integrator.clock import Instant
from integrator.ledger.engine import Ledger
from integrator.ledger.many import copied

rows = Table(
    "many_rows",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False, unique=True),
    Column("word", String(64)),
    Column("said", Text),
    Column("at", Instant()),
    Column("headers", JSON),
    Column("body", LargeBinary),
    prefixes=["TEMPORARY"],
)


def row(number: int, **others: Any) -> dict[str, Any]:
    given = {"number": number, "word": "ñ\t\\N", "said": None, "at": None, "headers": {}, "body": b""}
    return given | others


def test_given_rows_of_every_kind_when_inserted_at_once_then_they_are_what_was_given(ledger: Ledger) -> None:
    at = datetime(2026, 11, 24, 20, 0, 0, 123_000, UTC)
    given = [
        row(2**62, said="two\nlines", at=at, headers={"x-topic": "ñ\\"}, body=b"\x00\xff" * 9_000),
        row(-1),
        *(row(number, body=bytes([number])) for number in range(50)),
    ]
    with ledger.write() as connection:
        rows.create(connection)
        connection.execute(copied(rows), given)
        kept = connection.execute(select(rows).order_by(rows.c.id)).mappings().all()
        connection.execute(text("DROP TABLE many_rows"))
    assert [{name: value for name, value in one.items() if name != "id"} for one in kept] == given


def test_given_one_row_when_inserted_then_it_is_there(ledger: Ledger) -> None:
    with ledger.write() as connection:
        rows.create(connection)
        connection.execute(copied(rows), [row(7)])
        assert connection.execute(select(rows.c.number)).scalars().all() == [7]
        connection.execute(text("DROP TABLE many_rows"))


def test_given_a_row_that_is_refused_when_inserted_among_others_then_it_is_an_error_and_none_is_kept(
    ledger: Ledger,
) -> None:
    with ledger.write() as connection:
        rows.create(connection)
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(copied(rows), [row(1), row(2), row(1)])
        assert connection.execute(select(rows)).all() == []
        connection.execute(text("DROP TABLE many_rows"))


def insert_when_cut(ledger: Ledger) -> None:
    """Insert rows on a connection that the server has ended."""
    with ledger.write() as connection:
        rows.create(connection)
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with ledger.write() as other:
            other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
        connection.execute(copied(rows), [row(1), row(2)])


def test_given_a_connection_that_is_cut_when_rows_are_inserted_then_the_ledger_says_so_and_makes_a_new_one(
    postgresql_ledger: Ledger,
) -> None:
    with pytest.raises(OperationalError) as caught:
        insert_when_cut(postgresql_ledger)
    assert caught.value.connection_invalidated
    with postgresql_ledger.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
