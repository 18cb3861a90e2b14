"""A WSGI answer that is made in steps, each of which may wait for another thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import copy_context
from typing import Any

from web.batcher import Job, Steps


class Answer:
    """What a WSGI application returns. Whoever iterates it waits where it waits, as for any other.

    A server that has one thread for many requests asks it to `advance` instead, and again when the job that it
    then waits for is settled or late; once there is none, iterating waits no more. Either way `start_response` is
    called on the way, and not before.
    """

    def __init__(self, steps: Steps[Iterable[bytes]]) -> None:
        self._steps = steps
        self._context = copy_context()  # of its own, since answers take turns in a thread
        self._body: Iterable[bytes] | None = None

    def advance(self) -> Job[Any, Any] | None:
        """Go on; what it waits for, or None when it is complete."""
        try:
            return self._context.run(next, self._steps)
        except StopIteration as done:
            self._body = done.value
            return None

    def __iter__(self) -> Iterator[bytes]:
        """The body."""
        if self._body is None:
            while (job := self.advance()) is not None:
                job.wait()
        assert self._body is not None, "it is complete"  # noqa: S101
        return iter(self._body)
