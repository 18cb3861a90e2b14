"""Inserting many rows with one statement whose text does not depend on how many they are.

A text with a placeholder for each value of each row is another one for each number of rows: it is read by the
driver, parsed and planned anew each time, which costs more than the rows. So PostgreSQL is given an array for each
column; or, where nothing is asked back and no row can be there already, a COPY, which plans nothing and writes
all rows together. On SQLite, where nobody waits for a parser across a socket, rows are given as they are.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy
from sqlalchemy import ARRAY, ExecutionContext, Table, bindparam, column, func, select
from sqlalchemy.dialects import postgresql, sqlite

Row = dict[str, Any]
Insert = postgresql.Insert | sqlite.Insert


def insert_many(dialect_name: str, table: Table, names: Sequence[str], **fixed: Any) -> Insert:
    """An insert of rows that give these columns, in their order; `fixed` are expressions that all rows share.

    Cache it: making it costs as much as several rows.
    """
    if dialect_name != "postgresql":
        return sqlite.insert(table).values(**fixed)
    arrays = [bindparam(name, type_=ARRAY(table.c[name].type)) for name in names]
    given = func.unnest(*arrays).table_valued(*(column(name, table.c[name].type) for name in names), name="given")
    rows = select(*given.render_derived().c, *fixed.values())
    return postgresql.insert(table).from_select([*names, *fixed], rows)


@cache
def copied(table: Table) -> sqlalchemy.Insert:
    """A plain insert of rows that give the same columns each, for `Connection.execute(copied(table), rows)`."""
    return sqlalchemy.insert(table).execution_options(**{_COPIED: table})


_COPIED = "copied_into"


def copy(cursor: Any, _statement: str, rows: Sequence[Row], context: ExecutionContext) -> bool:
    """SQLAlchemy's hook `do_executemany` on PostgreSQL: COPY what such an insert was given. Tells whether it did.

    Done there, its errors and lost connections are SQLAlchemy's like those of any other statement.
    """
    table = context.execution_options.get(_COPIED)
    if table is None:
        return False
    names = tuple(rows[0])
    text, types = _copy(table, names)
    with cursor.copy(text) as target:
        target.set_types(types)
        for row in rows:
            target.write_row([row[name] for name in names])
    return True


@cache
def _copy(table: Table, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """The statement, and its columns' types by the names that the driver knows them by."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = [table.c[name].type.compile(dialect).partition("(")[0].lower() for name in names]
    return f"COPY {table.name} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)", types


def parameters(dialect_name: str, rows: Sequence[Row]) -> Sequence[Row] | dict[str, list[Any]]:
    """The rows, which name the same columns each, as such an insert takes them."""
    if dialect_name != "postgresql":
        return rows
    return {name: [row[name] for row in rows] for name in rows[0]}
