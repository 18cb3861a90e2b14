"""One thread that works for many requests, each of which waits for its answer and no longer than its deadline.

The ledger can hang: a connection to a stopped machine answers nothing for minutes. So no request touches it
itself; it hands a job over, and goes away with 503 when its time is up.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

from integrator.logs import describe, get_logger

log = get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

RED_SECONDS = 10.0
"""How long a thread's death is told before a health check, too, may start the next one."""


class Busy(Exception):
    """The job was not done in time, or could not be taken at all. The caller comes back later."""


class Job(Generic[Item, Result]):
    """One request's item, and what became of it. `deadline` is in seconds of `time.monotonic()`.

    `tried` is for the work to say that this one has been in its way before.
    """

    def __init__(self, item: Item, deadline: float) -> None:
        self.item = item
        self.deadline = deadline
        self.tried = False
        self._unsettled = threading.Lock()  # held until then; an Event costs five times as much
        self._unsettled.acquire()
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._call: Callable[[], None] | None = None

    @property
    def late(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.deadline <= time.monotonic()

    @property
    def settled(self) -> bool:
        """Whether it has its result or error."""
        return bool(self._results) or self._error is not None

    def succeed(self, result: Result) -> None:
        """Give the result, unless there is an error."""
        if not self.settled:
            self._results.append(result)
            self._tell()

    def fail(self, error: BaseException) -> None:
        """Give the error, unless there is a result."""
        if not self.settled:
            self._error = error
            self._tell()

    def when_settled(self, call: Callable[[], None]) -> None:
        """Have this called once it is settled, in whichever thread does it; at worst twice."""
        self._call = call
        if self.settled:
            call()

    def _tell(self) -> None:
        self._unsettled.release()
        if self._call is not None:
            self._call()

    def wait(self) -> bool:
        """Wait until it is settled; False when the deadline came first."""
        return self._unsettled.acquire(timeout=max(self.deadline - time.monotonic(), 0))

    def outcome(self) -> Result:
        """The result. Raises the error."""
        if self._error is not None:
            raise self._error
        return self._results[0]


Steps = Generator[Job[Any, Any], None, Result]
"""Work that yields each job that it waits for, and is to be gone on with when that is settled or late."""


def wait_through(steps: Steps[Result]) -> Result:
    """Go through the steps in this thread, waiting where they wait. Raises what they raise."""
    try:
        while True:
            next(steps).wait()
    except StopIteration as done:
        result: Result = done.value
        return result


class Batcher(Generic[Item, Result]):
    """Takes the jobs that are there, up to `size`, and hands them to `work`, which settles each.

    Those that `work` returns wait again, behind all others, for as long as somebody waits for them.
    The thread starts with the first job, in the process that asks. An exception in `work` fails the jobs that
    it left unsettled. Should the thread die of anything worse, all that wait fail at once, `trouble` says so,
    and the next job starts a new one.

    When one batch has taken `stall_seconds`, further jobs are refused at once: a ledger that hangs so long seldom
    comes back within the time of one request, and those that wait in threads would take them from all others.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Job[Item, Result]]], Sequence[Job[Item, Result]]],
        *,
        size: int,
        stall_seconds: float,
        capacity: int = 1_024,
    ) -> None:
        self.name = name
        self._work = work
        self._size = size
        self._capacity = capacity
        self._stall_seconds = stall_seconds
        self._fork_lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Job[Item, Result]] = deque()
        self._thread: threading.Thread | None = None
        self._busy_since: float | None = None
        self._died_at: float | None = None
        self._pid = os.getpid()

    def ask(self, item: Item, deadline: float) -> Steps[Result]:
        """Have the item worked on. Raises Busy, or what the work raised."""
        job = self._submit(item, deadline)
        yield job
        if not job.settled:
            self._withdraw(job)
            raise Busy(f"the {self.name} did not come to it in time")
        return job.outcome()

    def _submit(self, item: Item, deadline: float) -> Job[Item, Result]:
        if self._pid != os.getpid():
            with self._fork_lock:
                if self._pid != os.getpid():
                    self._reset()
        job: Job[Item, Result] = Job(item, deadline)  # Job[…](…) costs as much again
        with self._changed:
            if self._stalled():
                raise Busy(f"the {self.name} waits for the ledger")
            if len(self._waiting) >= self._capacity:
                raise Busy(f"the {self.name}'s queue is full")
            self._waiting.append(job)
            self._start()
            self._changed.notify()
        return job

    def trouble(self) -> str | None:
        """What is wrong with the thread, for people; None when nothing is."""
        with self._changed:
            if self._died_at is not None and self._thread is None:
                if time.monotonic() - self._died_at < RED_SECONDS:
                    return f"the {self.name} thread died"
                self._start()
            return f"the {self.name} has waited for the ledger too long" if self._stalled() else None

    def _stalled(self) -> bool:
        return self._busy_since is not None and time.monotonic() - self._busy_since > self._stall_seconds

    def _withdraw(self, job: Job[Item, Result]) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def _start(self) -> None:
        if self._thread is None:
            self._died_at = None
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        batch: list[Job[Item, Result]] = []
        try:
            while True:
                batch = self._take()
                self._serve(batch)
        except BaseException as error:  # noqa: BLE001 - nothing may end this thread unseen
            self._die(batch, error)

    def _take(self) -> list[Job[Item, Result]]:
        with self._changed:
            self._busy_since = None
            self._changed.wait_for(lambda: bool(self._waiting))
            self._busy_since = time.monotonic()
            return [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]

    def _serve(self, batch: list[Job[Item, Result]]) -> None:
        again: Sequence[Job[Item, Result]] = ()
        try:
            again = self._work(batch)
        except Exception as error:  # noqa: BLE001 - each caller learns of it
            _fail(batch, error)
        with self._changed:
            self._waiting.extend(job for job in again if not job.late)
        _fail([job for job in batch if job not in again], Busy(f"the {self.name} left it undone"))

    def _die(self, batch: list[Job[Item, Result]], error: BaseException) -> None:
        with self._changed:
            self._thread = None
            self._busy_since = None
            self._died_at = time.monotonic()
            left = [*batch, *self._waiting]
            self._waiting.clear()
        log.critical("thread_died", thread=self.name, **describe(type(error), error.__traceback__))
        _fail(left, Busy(f"the {self.name} thread died"))


def _fail(jobs: list[Job[Item, Result]], error: BaseException) -> None:
    for job in jobs:
        job.fail(error)
