"""The connection to the ledger: one engine a process, opened after fork; reading and writing transactions.

PostgreSQL keeps its own promises once `synchronous_commit` and `fsync` are on, which `check_durability` sees to.
On SQLite every writing transaction takes the write lock with its first statement (PROTOCOL L1): a read that is
upgraded to a write fails at once when another has committed in between.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, TimeoutError  # noqa: A004

from integrator.config import Settings
from integrator.ledger.many import copy

UNREACHABLE = (OperationalError, InterfaceError, InternalError, TimeoutError)
"""What a ledger raises that can't be reached, is locked or full, has cut us off, or takes only reads just now."""

BUSY_TIMEOUT_SECONDS = 5
"""How long SQLite waits for the write lock, and PostgreSQL for a connection (PROTOCOL L1)."""

_POSTGRESQL_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "timezone=UTC",
        "lock_timeout=5s",
        "statement_timeout=30s",
        # A stopped process must not keep a gate or a sync locked for longer than a lease lasts.
        "idle_in_transaction_session_timeout=10s",
    )
)


class LossyLedger(Exception):
    """The database may lose what it has committed. Its text is for people."""


_parents: list[Engine | None] = []
"""Engines that came over a fork: never used, but kept, since collecting them closes the parent's connections."""


class Ledger:
    """The database that is the truth. Cheap to make; it connects at the first use.

    `read()` and `write()` give a connection in a transaction that commits at the end of the block and rolls back
    when the block raises.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.url = make_url(url)
        self._pool_size = pool_size
        self._engine: Engine | None = None
        self._pid = 0
        self._making = threading.Lock()
        self._writer = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> "Ledger":
        """The ledger that the settings name."""
        return cls(settings.ledger_url, pool_size=settings.ledger_pool_size)

    @property
    def on_sqlite(self) -> bool:
        """Whether this is the embedded edition."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """This process's engine; a forked child gets its own."""
        with self._making:
            if self._engine is None or self._pid != os.getpid():
                _parents.append(self._engine)
                make = _sqlite if self.on_sqlite else _postgresql
                self._engine, self._pid = make(self.url, self._pool_size), os.getpid()
                self._writer = threading.Lock()
            return self._engine

    @contextmanager
    def write(self, *, lock_timeout_ms: int | None = None) -> Iterator[Connection]:
        """A writing transaction. `lock_timeout_ms` bounds the waits for row locks (PostgreSQL)."""
        engine = self.engine
        with self._one_writer(), engine.begin() as connection:
            if lock_timeout_ms is not None and not self.on_sqlite:
                connection.execute(text(f"SET LOCAL lock_timeout = {int(lock_timeout_ms)}"))
            yield connection

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        """On SQLite the threads of a process queue here: waiting for the file's lock, they would poll for it."""
        if not self.on_sqlite:
            yield
            return
        writer = self._writer
        if not writer.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise TimeoutError("another thread of this process has been writing for too long")
        try:
            yield
        finally:
            writer.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: on SQLite it takes no lock."""
        reader = self.engine.execution_options(reads_only=True)
        with reader.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give the connections back."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def check_durability(self) -> None:
        """Raise LossyLedger unless a commit here is on disk when it returns."""
        if self.on_sqlite:
            return
        with self.read() as connection:
            for name in ("synchronous_commit", "fsync", "full_page_writes"):
                value = connection.execute(text(f"SHOW {name}")).scalar_one()
                if value == "off":
                    raise LossyLedger(
                        f"PostgreSQL runs with {name} = {value}: it may lose what was acknowledged. "
                        f"Set it to on, or set INTEGRATOR_ALLOW_LOSSY_LEDGER=true for throw-away data."
                    )

    @property
    def folder(self) -> Path | None:
        """Where the ledger's file is; None for one that a server keeps."""
        return Path(self.url.database or "").absolute().parent if self.on_sqlite else None

    def max_connections(self) -> int | None:
        """How many connections the server takes in all, from everybody; None on SQLite, which counts none."""
        if self.on_sqlite:
            return None
        with self.read() as connection:
            return int(connection.execute(text("SHOW max_connections")).scalar_one())


def _postgresql(url: URL, pool_size: int) -> Engine:
    # A host that has vanished must not keep a connection's user waiting for the minutes that TCP would.
    alive = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
    options: dict[str, Any] = {"options": _POSTGRESQL_OPTIONS, "connect_timeout": 3, **alive}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_SECONDS,
        connect_args=options,
        hide_parameters=True,
    )
    event.listen(engine, "do_executemany", copy)
    return engine


def _sqlite(url: URL, pool_size: int) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=-1,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        hide_parameters=True,
    )
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
