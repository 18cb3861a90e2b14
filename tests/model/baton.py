"""Actors that run one at a time: each in its own thread, and only while it holds the baton.

An actor is one thread of one process of the installation: the receiver, a dispatcher, a worker… It runs the
production code unchanged. At every place where another actor could come between (before each SQL statement, before
each commit, around each effect, before each publishing) the code under it calls `pause`, which is where the
controller, the test's own thread, may take the baton away and give it to someone else.

So a run is nothing but the order in which the controller hands out moves: it can be drawn, shrunk and replayed.
Real locks stay real. On PostgreSQL an actor that runs into a row lock simply does not come back; the controller
asks the server whether it is blocked, and goes on with others until the lock is free.

A killed actor never has an effect again: it is woken only to unwind, and everything it still tries to do to the
world raises `Killed`, which is no `Exception`, so no error handling of the code under test can swallow it.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from tests.support import T0

POLL_SECONDS = 0.004
"""How long an actor may be away before the controller asks the database whether it is blocked."""

HUNG_SECONDS = 20.0
"""An actor that is away for so long of real time, and not blocked, hangs: a defect of the model or the code."""


class Killed(BaseException):
    """The process of this actor was killed."""


class Clock:
    """The one virtual clock: the database's now, and every process's boot clock."""

    def __init__(self) -> None:
        self.milliseconds = 0

    @property
    def now(self) -> datetime:
        """The time of day."""
        return T0 + timedelta(milliseconds=self.milliseconds)

    @property
    def boot(self) -> float:
        """Seconds of the machines' uptime."""
        return 1_000 + self.milliseconds / 1000


class Stands(Enum):
    """Where an actor is."""

    IDLE = "idle"
    PARKED = "parked"
    RUNNING = "running"
    BLOCKED = "blocked"


class Fault(Enum):
    """What the actor's way to the database does to it next."""

    CUT = "the connection breaks before the next statement"
    ANSWER_LOST = "the next commit happens, but its answer is lost"
    LOCK_TIMEOUT = "the wait for a lock takes too long"


@dataclass
class Transaction:
    """One transaction of an actor: when it began (in moves), and whether it is known to have been committed."""

    writes: bool
    began: int
    committed: bool = False


class Locks(Protocol):
    """What the controller must know of the database's locks."""

    def blocked(self, actor: "Actor") -> bool:
        """Whether the actor's statement waits for a lock that another actor holds."""
        ...

    def unblock(self, actor: "Actor") -> None:
        """Make the statement that waits fail, as by its lock timeout."""
        ...

    def release(self, actor: "Actor") -> None:
        """Let go of what a killed actor's connection held."""
        ...


class Signal:
    """One thread tells another to go on. A bare lock, since a run hands the baton over thousands of times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def give(self) -> None:
        """Let the one who waits go on."""
        self._lock.release()

    def take(self, seconds: float = -1) -> bool:
        """Wait until it is given, for so long at most."""
        return self._lock.acquire(timeout=seconds) if seconds else self._lock.acquire(blocking=False)


_local = threading.local()


def current() -> "Actor | None":
    """The actor whose thread this is; None in the controller's."""
    found: Actor | None = getattr(_local, "actor", None)
    return found


def acting() -> "Actor":
    """The actor whose thread this is."""
    actor = current()
    if actor is None:
        raise RuntimeError("The controller did what only an actor does.")
    return actor


class Actor:
    """One thread of the installation. `process` names the process that it dies with.

    `away`: its statement waits for a lock in the database, so it holds no baton and has not given one back. Only
    the controller changes that.
    """

    def __init__(self, name: str, process: str, tick: Callable[[], None], crowded: Callable[[], bool]) -> None:
        self.name = name
        self.process = process
        self.stands = Stands.IDLE
        self.label = ""
        self.killed = False
        self.fault: Fault | None = None
        self.backend: int | None = None
        self.transaction: Transaction | None = None
        self.transactions: list[Transaction] = []
        self.away = False
        self.trouble: BaseException | None = None
        self.budget = 0
        self.wakes_at = math.inf
        self.ready: Callable[[], bool] | None = None
        self.go, self.back = Signal(), Signal()
        self._tick, self._crowded = tick, crowded
        self._job: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._loop, name=name)
        self._thread.start()

    def __repr__(self) -> str:
        return f"{self.name} ({self.stands.value} {self.label}, backend {self.backend})"

    @property
    def can_move(self) -> bool:
        """Whether it is in the middle of a job and waits for nothing but the baton."""
        return self.stands is Stands.PARKED and (self.ready is None or self.ready())

    def start(self, job: Callable[[], None]) -> None:
        """Take up a job. Its first move comes when the baton does."""
        self._job, self.stands, self.label = job, Stands.PARKED, "start"
        self.transactions = []

    def end(self) -> None:
        """End the thread."""
        self._job = None
        self.go.give()
        self._thread.join()

    def _loop(self) -> None:
        _local.actor = self
        while True:
            self.go.take()
            if self._job is None:
                return
            try:
                if not self.killed:
                    self._job()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 - the controller raises it
                self.trouble = None if self.killed else error
            self._job, self.ready, self.wakes_at = None, None, math.inf
            self.stands, self.label = Stands.IDLE, ""
            self.back.give()

    def pause(self, label: str) -> None:
        """A yield point: go on while the budget lasts, else give the baton back until the next move."""
        if self.killed:
            raise Killed
        self.label = label
        self.budget -= 1
        self._tick()
        if self.budget <= 0 or self._crowded():
            self.park()

    def wait_until(self, ready: Callable[[], bool], label: str, *, at: float = math.inf) -> None:
        """Stand still until something holds, as it will at that time on the boot clock at the latest.

        A virtual sleep, an answer, the one write lock of SQLite.
        """
        self.label, self.wakes_at = label, at
        while not ready():
            self.ready = ready
            self.park()
        self.ready, self.wakes_at = None, math.inf

    def park(self) -> None:
        """Give the baton back, and wait for it."""
        self.stands = Stands.PARKED
        self.back.give()
        self.go.take()
        if self.killed:
            raise Killed

    def unblocked(self) -> None:
        """A statement came back. If it had been blocked, someone else holds the baton: wait for it."""
        if self.away:
            self.park()


class Baton:
    """The controller's hand: gives actors their moves, one actor at a time."""

    def __init__(self, locks: Locks, tick: Callable[[], None]) -> None:
        self.actors: list[Actor] = []
        self.locks = locks
        self._tick = tick

    def enlist(self, name: str, process: str) -> Actor:
        """A new actor."""
        actor = Actor(name, process, self._tick, self._crowded)
        self.actors.append(actor)
        return actor

    def _crowded(self) -> bool:
        """While someone is blocked, moves are handed out singly: who gets a freed lock first is then no race."""
        return any(actor.away for actor in self.actors)

    def move(self, actor: Actor, steps: int) -> None:
        """Let an actor go on for so many yield points, or until it waits or its job ends."""
        left = steps
        while left > 0 and actor.can_move:
            actor.budget = left
            actor.stands = Stands.RUNNING
            actor.go.give()
            self._wait_for(actor)
            self._collect()
            left = min(actor.budget, left - 1)
            if actor.trouble is not None:
                trouble, actor.trouble = actor.trouble, None
                raise trouble

    def _wait_for(self, actor: Actor) -> None:
        tries = 0
        while not actor.back.take(POLL_SECONDS):
            if self.locks.blocked(actor):
                actor.away, actor.stands = True, Stands.BLOCKED
                return
            tries += 1
            if tries * POLL_SECONDS > HUNG_SECONDS:
                raise RuntimeError(f"{actor} hangs.")

    def _collect(self) -> None:
        """Wait for those whose lock has been freed by the last move to have arrived at their yield point."""
        for actor in self.actors:
            while actor.away and not actor.back.take(0):
                if self.locks.blocked(actor):
                    break
                if actor.back.take(POLL_SECONDS):
                    actor.away = False
            else:
                actor.away = False

    def unblock(self, actor: Actor) -> None:
        """End an actor's wait for a lock."""
        if actor.away:
            self.locks.unblock(actor)
            self._collect()

    def kill(self, actor: Actor) -> None:
        """The actor's process is gone: nothing of what it was doing has an effect any more."""
        actor.killed = True
        if actor.away:
            self.locks.unblock(actor)
            actor.back.take()
            actor.away = False
        elif actor.stands is Stands.PARKED:
            actor.stands = Stands.RUNNING
            actor.go.give()
            actor.back.take()
        self.locks.release(actor)
        actor.killed, actor.fault, actor.trouble, actor.ready = False, None, None, None
        self._collect()

    def close(self) -> None:
        """Kill everyone and end all threads."""
        for actor in self.actors:
            self.kill(actor)
        for actor in self.actors:
            actor.end()
