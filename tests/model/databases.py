"""The two databases under the model: real ones, of which only the clock and the way to them are the model's.

Each process of the model has an engine of its own, on which every statement and every commit is a yield point. As
a statement is sent, the database's clock in it (`statement_timestamp()`, `'now'`) is replaced by the model's time.
Nothing else of the production code's SQL is touched, but the timeouts, which are real time: the model decides
itself when a wait for a lock or an idle transaction has taken too long.
"""

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import ExceptionContext

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import metadata
from tests.model.baton import Actor, Clock, Fault, Killed, Transaction, current

_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)")

POSTGRESQL_OPTIONS = (
    "-c timezone=UTC -c lock_timeout=0 -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c synchronous_commit=off -c deadlock_timeout=1h"
)
"""No timeout in real time; nothing is proved here about the server's own crash, so commits need not reach disk."""


class Database(ABC):
    """One database of the model. `on_commit` is called after each commit of a writing transaction."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self.clock = clock
        self.moves = 0
        self.on_commit: Callable[[Actor], None] = lambda _actor: None
        self._ledgers: dict[str, Ledger] = {}
        self.watch = self._open("watch")
        event.listen(self.watch.engine, "before_cursor_execute", self._only_clock, retval=True)

    def ledger(self, process: str) -> Ledger:
        """A process's own way to the database. A process that starts again finds the pool of its predecessor."""
        if process not in self._ledgers:
            ledger = self._ledgers[process] = self._open(process)
            with ledger.read():  # the driver's own first questions are no yield points
                pass
            self._wire(ledger)
        return self._ledgers[process]

    def _open(self, _name: str) -> Ledger:
        ledger = Ledger(self.url)
        self._configure(ledger)
        return ledger

    def _configure(self, ledger: Ledger) -> None:  # noqa: B027 - most have nothing to do
        """Settle what a new engine needs."""

    def empty(self) -> None:
        """Delete all rows."""
        with self.watch.write() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())

    def close(self) -> None:
        """Give all connections back."""
        for ledger in (self.watch, *self._ledgers.values()):
            ledger.close()

    # --- every statement and commit is a yield point

    def _wire(self, ledger: Ledger) -> None:
        engine = ledger.engine
        event.listen(engine, "begin", self._begin, insert=True)
        event.listen(engine, "before_cursor_execute", self._before, retval=True)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "handle_error", self._failed)
        event.listen(engine, "commit", self._commits)
        commit, rollback = engine.dialect.do_commit, engine.dialect.do_rollback
        dialect: Any = engine.dialect

        def do_commit(connection: Any) -> None:
            commit(connection)
            if (actor := current()) is not None:
                self._committed(actor, dialect)

        def do_rollback(connection: Any) -> None:
            rollback(connection)
            if (actor := current()) is not None:
                self.ended(actor)

        dialect.do_commit, dialect.do_rollback = do_commit, do_rollback

    def _begin(self, connection: Connection) -> None:
        if (actor := current()) is None:
            return
        writes = not connection.get_execution_options().get("reads_only", False)
        actor.transaction = Transaction(writes, self.moves)
        actor.transactions.append(actor.transaction)
        self.began(actor, connection)

    def _before(
        self, connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        actor = current()
        if statement.startswith("SET LOCAL lock_timeout"):
            return "SET LOCAL lock_timeout = 0", parameters
        if actor is not None and statement != "BEGIN":
            self._send_alive(actor, connection, statement)
            if actor.fault in {Fault.CUT, Fault.LOCK_TIMEOUT}:
                fault, actor.fault = actor.fault, None
                raise connection.dialect.loaded_dbapi.OperationalError(fault.value)
        return self.with_clock(statement), parameters

    def _send_alive(self, actor: Actor, connection: Connection, statement: str) -> None:
        try:
            self.sends(actor, statement)
        except Killed:
            # What the server does when it sees that the client is gone, without its delay.
            raw: Any = connection.connection.dbapi_connection
            raw.rollback()
            self.ended(actor)
            raise

    def _after(
        self, _connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool
    ) -> None:
        if (actor := current()) is not None:
            self.came_back(actor, statement)

    def _failed(self, context: ExceptionContext) -> None:
        actor = current()
        if actor is None or isinstance(context.original_exception, Killed):
            return
        if actor.killed:
            raise Killed
        if context.is_disconnect:
            self.ended(actor)
        actor.unblocked()

    def _commits(self, _connection: Connection) -> None:
        actor = current()
        if actor is not None and actor.transaction is not None and actor.transaction.writes:
            actor.pause("COMMIT")

    def _committed(self, actor: Actor, dialect: Any) -> None:
        transaction = actor.transaction
        if transaction is None or not transaction.writes:
            self.ended(actor)
            return
        self.on_commit(actor)
        self.ended(actor)
        if actor.fault is Fault.ANSWER_LOST:
            actor.fault = None
            raise dialect.loaded_dbapi.OperationalError("the answer to a commit was lost")
        transaction.committed = True

    def _only_clock(
        self, _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        return self.with_clock(statement), parameters

    # --- what differs

    @abstractmethod
    def with_clock(self, statement: str) -> str:
        """The statement with the model's time for the database's."""

    def began(self, actor: Actor, connection: Connection) -> None:  # noqa: B027 - most have nothing to do
        """A transaction of the actor has begun."""

    def ended(self, actor: Actor) -> None:
        """The actor's transaction has ended."""
        actor.transaction = None

    def sends(self, actor: Actor, statement: str) -> None:
        """The actor is about to send a statement: a yield point."""
        actor.pause(describe(statement))

    def came_back(self, actor: Actor, statement: str) -> None:
        """A statement of the actor has been answered."""
        actor.unblocked()

    @abstractmethod
    def blocked(self, actor: Actor) -> bool:
        """Whether the actor's statement waits for a lock of another's."""

    @abstractmethod
    def waits_for_lock(self, actor: Actor) -> bool:
        """Whether a lock timeout could end what the actor waits for."""

    @abstractmethod
    def unblock(self, actor: Actor) -> None:
        """End the wait of a blocked statement, with an error."""

    @abstractmethod
    def release(self, actor: Actor) -> None:
        """A killed actor's connection is gone: let go of what it held."""

    def cut_idle(self, actor: Actor) -> None:  # noqa: B027 - most have nothing to do
        """The actor's transaction was idle for longer than the server allows."""


def describe(statement: str) -> str:
    """A statement in two words, for messages."""
    verb = statement.split(None, 1)[0]
    table = _TABLE.search(statement)
    return statement if verb == "BEGIN" or table is None else f"{verb} {table.group(1)}"


WAITS = "waits for the write lock"


class _WriterLock:
    """The lock for which the writing threads of a process queue, as waiting that the model can see."""

    def __init__(self) -> None:
        self.taken = False

    def acquire(self, *, timeout: float) -> bool:
        del timeout  # the model decides
        if (actor := current()) is not None:
            actor.wait_until(lambda: not self.taken or actor.fault is Fault.LOCK_TIMEOUT, WAITS)
            if self.taken:
                actor.fault = None
                return False
        self.taken = True
        return True

    def release(self) -> None:
        self.taken = False


class Sqlite(Database):
    """SQLite. Its one write lock is the model's to watch: real waiting for it would only sleep."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.writer: Actor | None = None
        super().__init__(url, clock)

    def _configure(self, ledger: Ledger) -> None:
        event.listen(ledger.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))

    def _wire(self, ledger: Ledger) -> None:
        super()._wire(ledger)
        ledger._writer = cast("threading.Lock", _WriterLock())

    def with_clock(self, statement: str) -> str:
        now = self.clock.now.strftime("%Y-%m-%d %H:%M:%S.%f")[:23]
        return statement.replace("'now'", f"'{now}'")

    def sends(self, actor: Actor, statement: str) -> None:
        super().sends(actor, statement)
        if statement == "BEGIN IMMEDIATE":
            free = lambda: self.writer is None or actor.fault is Fault.LOCK_TIMEOUT  # noqa: E731
            actor.wait_until(free, WAITS)

    def came_back(self, actor: Actor, statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            self.writer = actor

    def ended(self, actor: Actor) -> None:
        super().ended(actor)
        if self.writer is actor:
            self.writer = None

    def blocked(self, actor: Actor) -> bool:
        return False

    def waits_for_lock(self, actor: Actor) -> bool:
        return actor.label == WAITS and not actor.can_move

    def unblock(self, actor: Actor) -> None:
        """Nothing blocks for real."""

    def release(self, actor: Actor) -> None:
        self.ended(actor)


class Deadlock(AssertionError):
    """Actors wait for each other in a circle."""


class Postgresql(Database):
    """PostgreSQL: its row locks block for real, and the server says who waits for whom."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._control = create_engine(url, isolation_level="AUTOCOMMIT").connect()
        super().__init__(url, clock)

    def with_clock(self, statement: str) -> str:
        now = self.clock.now.isoformat(sep=" ", timespec="milliseconds")
        return statement.replace("statement_timestamp()", f"'{now}'::timestamptz")

    def began(self, actor: Actor, connection: Connection) -> None:
        raw: Any = connection.connection.dbapi_connection
        actor.backend = raw.info.backend_pid

    def _ask(self, question: str, backend: int | None) -> Any:
        return self._control.execute(text(question), {"backend": backend}).scalar_one()

    def blocked(self, actor: Actor) -> bool:
        if actor.backend is None or not (others := self._blockers(actor.backend)):
            return False
        reached = set[int]()
        while others:
            one = others.pop()
            if one == actor.backend:
                raise Deadlock(f"Transactions wait for each other in a circle: {reached}, {actor}")
            if one not in reached:
                reached.add(one)
                others |= self._blockers(one)
        return True

    def _blockers(self, backend: int) -> set[int]:
        return set(self._ask("SELECT pg_blocking_pids(:backend)", backend))

    def waits_for_lock(self, actor: Actor) -> bool:
        return actor.away

    def unblock(self, actor: Actor) -> None:
        self._ask("SELECT pg_cancel_backend(:backend)", actor.backend)

    def release(self, actor: Actor) -> None:
        if actor.transaction is not None:
            self._end_backend(actor)
        self.ended(actor)

    def cut_idle(self, actor: Actor) -> None:
        if actor.transaction is not None and not actor.away:
            self._end_backend(actor)

    def _end_backend(self, actor: Actor) -> None:
        self._ask("SELECT pg_terminate_backend(:backend, 5000)", actor.backend)
        actor.backend = None

    def close(self) -> None:
        super().close()
        engine = self._control.engine
        self._control.close()
        engine.dispose()
