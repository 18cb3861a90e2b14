"""A migration only adds: processes of the version before it go on until they are replaced (DESIGN §9: expand)."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from integrator.ledger import migrate
from integrator.ledger.engine import Ledger

REVISIONS = [one.revision for one in ScriptDirectory.from_config(migrate._config()).walk_revisions()][::-1]


def columns(ledger: Ledger, revision: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Every column of the schema at a revision."""
    with ledger.write() as connection:
        command.upgrade(migrate._config(connection), revision)
    found = inspect(ledger.engine)
    return {
        (table, one["name"]): dict(one) for table in found.get_table_names() for one in found.get_columns(table)
    }


@pytest.mark.parametrize(("before", "after"), list(pairwise(REVISIONS)))
def test_given_a_schema_when_it_is_brought_a_version_further_then_what_the_old_version_reads_and_writes_is_there(
    before: str, after: str, tmp_path: Path
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite3")
    old = columns(ledger, before)
    new = columns(ledger, after)
    ledger.close()
    assert old.keys() <= new.keys()
    for key, column in old.items():
        assert str(new[key]["type"]) == str(column["type"]), key
        assert new[key]["nullable"] or not column["nullable"], key
    for key in new.keys() - old.keys():
        if key[0] in {table for table, _ in old}:
            assert new[key]["nullable"] or new[key]["default"] is not None, (
                f"{key}: the old version does not fill it"
            )
