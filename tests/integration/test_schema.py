"""The migrations make the schema that the code works with, on both databases."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from integrator.ledger import migrate
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import metadata


def test_given_a_migrated_ledger_when_compared_with_the_code_then_nothing_differs(ledger: Ledger) -> None:
    with ledger.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        differences = compare_metadata(context, metadata)
    assert differences == []


def test_given_an_upgraded_ledger_when_upgraded_again_then_it_stays(ledger: Ledger) -> None:
    assert migrate.upgrade(ledger) == migrate.head() == migrate.check(ledger)


def test_given_another_schema_when_checked_then_the_command_is_named(sqlite_ledger: Ledger) -> None:
    with sqlite_ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(migrate.OldSchema, match="flask --app web ledger upgrade"):
        migrate.check(sqlite_ledger)
