"""Inserting many rows with one statement whose text does not depend on how many they are.

A text with a placeholder for each value of each row is another one for each number of rows: it is read by the
driver, parsed and planned anew each time, which costs more than the rows. So PostgreSQL is given an array for each
column. On SQLite, where nobody waits for a parser across a socket, rows are given as they are.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Table, bindparam, column, func, select
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


def parameters(dialect_name: str, rows: Sequence[Row]) -> Sequence[Row] | dict[str, list[Any]]:
    """The rows, which name the same columns each, as such an insert takes them."""
    if dialect_name != "postgresql":
        return rows
    return {name: [row[name] for row in rows] for name in rows[0]}
