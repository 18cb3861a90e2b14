"""The one clock module: the database's clock as SQL, and the process's clock for stopping early.

Due times, leases and gates are decided by the database (PROTOCOL T1): `now()` and `after()` are expressions of
the statement that uses them. `boottime()` counts suspended time too; with it a worker judges its own lease,
and may only stop earlier than the database would say.
"""

import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Dialect, bindparam, literal
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement, GenericFunction
from sqlalchemy.types import Float, String, TypeDecorator, TypeEngine

from integrator.config import settings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The time that stands for "never": before everything."""

_SQLITE_FORMAT = "%Y-%m-%d %H:%M:%f"
"""SQLite's strftime format with milliseconds, which sorts as text (its `subsec` needs 3.42)."""


class Instant(TypeDecorator[datetime]):
    """A point in time, always with a zone: timestamptz on PostgreSQL, UTC text with milliseconds on SQLite."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(String(23))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """To the database. Raises ValueError for a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        if dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")

    def process_literal_param(self, value: datetime | None, dialect: Dialect) -> str:
        """To a literal in a column's default."""
        bound = self.process_bind_param(value, dialect)
        return f"'{bound}'"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        if value is None or isinstance(value, datetime):
            return value if value is None else value.astimezone(UTC)
        return datetime.fromisoformat(value).replace(tzinfo=UTC)


class _Moved(FunctionElement[datetime]):
    """A time moved by seconds. Its clauses: the seconds, and the time unless it is now."""

    type = Instant()
    inherit_cache = True
    name = "moved"


def after(
    seconds: float | ColumnElement[Any], base: ColumnElement[datetime] | None = None
) -> ColumnElement[datetime]:
    """`seconds` after the database's now, or after `base`.

    The clock's offset (only tests set it) moves now, never a stored time.
    """
    moved = literal(seconds, Float()) if isinstance(seconds, int | float) else seconds
    return _Moved(moved + _offset()) if base is None else _Moved(moved, base)


def _offset() -> BindParameter[float]:
    return bindparam("clock_offset", callable_=lambda: settings().clock_offset_seconds, type_=Float(), unique=True)


def now() -> ColumnElement[datetime]:
    """The database's now: when the statement began."""
    return after(0)


class least(GenericFunction[datetime]):  # noqa: N801
    """The earliest of several times, none of them null."""

    type = Instant()
    inherit_cache = True


class greatest(GenericFunction[datetime]):  # noqa: N801
    """The latest of several times, none of them null."""

    type = Instant()
    inherit_cache = True


@compiles(_Moved)
def _moved(element: _Moved, compiler: SQLCompiler, **kw: Any) -> str:
    seconds, *base = (compiler.process(clause, **kw) for clause in element.clauses)
    start = base[0] if base else "statement_timestamp()"
    return f"({start} + make_interval(secs => {seconds}))"


@compiles(_Moved, "sqlite")
def _moved_sqlite(element: _Moved, compiler: SQLCompiler, **kw: Any) -> str:
    seconds, *base = (compiler.process(clause, **kw) for clause in element.clauses)
    start = base[0] if base else "'now'"
    return f"strftime('{_SQLITE_FORMAT}', {start}, printf('%.3f seconds', {seconds}))"


@compiles(least, "sqlite")
def _least(element: least, compiler: SQLCompiler, **kw: Any) -> str:
    return f"min({compiler.process(element.clauses, **kw)})"


@compiles(greatest, "sqlite")
def _greatest(element: greatest, compiler: SQLCompiler, **kw: Any) -> str:
    return f"max({compiler.process(element.clauses, **kw)})"


def boottime() -> float:
    """Seconds on a clock that also counts while the machine is suspended (Linux)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
