"""The worker's threads, shared fairly between tenants (PROTOCOL P6); `tasks.line` says who comes next.

A sync that waits for its own tenant stays `queued`: its place in the window stays taken, so nothing further of
the tenant is rung, and nothing goes round through SQS. It starts when a run of its tenant ends here, or when no
other tenant has work here any more. Its message is acknowledged meanwhile: else one tenant's prefetched messages
would keep everybody else's in the queue. A bell that is lost with the worker is rung again when its lease ends
(P5); a worker that stops puts such a sync back to pending.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult, TaskPool
from sqlalchemy.exc import SQLAlchemyError

from integrator.logs import get_logger
from tasks.line import Line

log = get_logger(__name__)

Bell = tuple[str, int]
"""The tenant and the id of a sync."""


@dataclass
class Job:
    """One task that was handed to the pool.

    `accept` acknowledges its message; None once somebody has taken that. `heard`: it was taken before the start.
    """

    bell: Bell | None
    call: Callable[..., Any]
    accept: Callable[..., Any] | None
    heard: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def taken(self) -> Callable[..., Any] | None:
        """What accepts it, for the first who asks."""
        accept, self.accept = self.accept, None
        return accept


class FairPool(TaskPool):  # type: ignore[misc] # Celery has no types
    """Celery's thread pool, with a line in front of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = Line[Job](self.limit)
        self._lock = threading.Lock()
        self._closed = False

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> Any:
        """Let a task wait for its thread."""

        def call(accept: Callable[..., Any] | None) -> None:
            apply_target(target, args, kwargs, callback, accept)

        bell = bell_of(args or ())
        job = Job(bell, call, accept_callback)
        with self._lock:
            self._line.add(bell[0] if bell else "", job)
            self._start()
        return _Result(job)

    def on_close(self) -> None:
        """Start nothing more. What was acknowledged goes back to the ledger, the rest to SQS."""
        with self._lock:
            self._closed = True
            left = self._line.clear()
        leave([accept for job in left if (accept := job.taken())])
        give_back([job.bell for job in left if job.heard and job.bell])
        super().on_close()

    def _start(self) -> None:
        if self._closed:
            return
        while taken := self._line.take():
            self.executor.submit(self._run, *taken)
        for job in self._line.held_back():
            if accept := job.taken():
                job.heard = True
                self.executor.submit(accept, os.getpid(), time.monotonic())

    def _run(self, tenant: str, job: Job) -> None:
        try:
            job.call(job.taken())
        finally:
            job.done.set()
            with self._lock:
                self._line.end(tenant)
                self._start()


class _Result(ApplyResult):  # type: ignore[misc]
    """What Celery holds of a task that was handed over: it can wait for the end."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def get(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._job.done.wait(timeout)

    wait = get


def bell_of(args: Sequence[Any]) -> Bell | None:
    """Whom a task is for, by the message's body among what Celery's tracer is given; None when it says nobody."""
    try:
        body = args[3]
        positional, named, *_ = body if isinstance(body, tuple | list) else orjson.loads(body)
        given = dict(zip(("tenant", "sync_id"), positional, strict=False)) | named
        return str(given["tenant"]), int(given["sync_id"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def leave(accepts: Sequence[Callable[..., Any]]) -> None:
    """Say of Celery's requests, by their methods that accept, that none will be begun: their messages go back now.

    Celery by itself gives them back when the runs have ended, up to 25 s later.
    """
    for accept in accepts:
        message = accept.__self__.message  # type: ignore[attr-defined] # a request's
        message.channel.leave(message.delivery_tag)


def give_back(bells: list[Bell]) -> None:
    """Put syncs whose messages were acknowledged, but that did not start, back to pending."""
    from tasks.process import process  # noqa: PLC0415 - only a worker has one

    if not bells:
        return
    try:
        count = process().unring(bells)
    except SQLAlchemyError as error:
        # Their leases end by themselves, and the scheduler rings again.
        log.warning("bells_not_given_back", count=len(bells), error=type(error).__name__)
    else:
        log.info("bells_given_back", count=count)
