"""The part of our gunicorn worker that answers webhooks in the thread that accepts connections.

gunicorn's worker hands each request to a thread of its pool, which then waits for the ledger. That is most of what
a webhook costs: threads that wait for each other's hold on the interpreter. So a webhook that has arrived whole is
begun where it arrived, and gone on with there when what it waits for is settled (`web.answer`), with gunicorn's
parser and response, as in the pool. What is no usual webhook, or comes slowly, goes to the pool.

This thread never waits: not for bytes, not for the ledger, and not for a client to take its answer.
"""

import contextlib
import math
import os
import re
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gunicorn.http import wsgi
from gunicorn.workers.gthread import _DEFER, ThreadWorker

from web.answer import Answer
from web.batcher import Job
from web.timed_socket import AT_ONCE, TimedSocket, linger

ARRIVE_SECONDS = 1.0
"""How long a webhook may take to arrive before a thread is spent on waiting for the rest of it."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_UNUSUAL = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)


def webhook_size(data: bytes) -> int | None:
    """How many bytes the webhook has that begins here; None when it is no usual one, or its head is not whole.

    A guess that saves a wait: what the request is, and whether it is one, is for the parser to say.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0 or not data.startswith(b"POST /webhooks/"):
        return None
    lengths = _LENGTH.findall(data, 0, end + 2)
    if len(lengths) != 1 or _UNUSUAL.search(data, 0, end + 2):
        return None
    return end + 4 + int(lengths[0])


class _Sent:
    """An answer until it is whole: gunicorn writes to it as to the connection."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self._parts.append(data)

    def taken(self) -> bytes:
        return b"".join(self._parts)


@dataclass(eq=False)
class _Exchange:
    """A request and its answer. `job`: what it waits for just now."""

    conn: Any
    request: Any
    response: Any
    sent: _Sent
    answer: Iterable[bytes]
    job: Job[Any, Any] | None = None


class _Done:
    """What gunicorn asks a pool's future for, when there was none."""

    def __init__(self, result: object) -> None:
        self._result = result

    def cancelled(self) -> bool:
        return False

    def result(self) -> object:
        return self._result


def _first_end(waiting: dict[Any, float]) -> float:
    return next(iter(waiting.values()), math.inf)


class AcceptingWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, which answers webhooks in its accepting thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: dict[Any, float] = {}  # connections, and when the rest is waited for in a thread
        self._waiting: dict[_Exchange, float] = {}  # and when it is late; both with the oldest first
        self._settled: deque[tuple[_Exchange, Job[Any, Any]]] = deque()
        self._told = False

    def enqueue_req(self, conn: Any) -> None:
        """Look at a connection that something may have come on."""
        if not isinstance(conn.sock, TimedSocket):
            conn.sock = TimedSocket.adopt(conn.sock)
        conn.sock.deadline = 0  # this thread waits for no client
        try:
            arrived = conn.sock.arrived()
        except OSError:
            arrived = b""
        if arrived is None and not conn.initialized and not self.alive:
            super().enqueue_req(conn)  # gunicorn would cut it off; a thread waits for what is on its way
        elif not arrived and not conn.initialized:
            self.finish_request(conn, _Done(_DEFER if arrived is None else False))
        else:
            self._look(conn, arrived or b"")

    def _look(self, conn: Any, arrived: bytes) -> None:
        """Begin the webhook that is there, wait for the rest of it, or have a thread take what there is."""
        conn.init()
        buffer = conn.parser.unreader.buf  # what is read ahead: of the request before, or of this one
        known = self._arriving.get(conn)
        size = conn.sock.expected if known else webhook_size(buffer.getvalue() + arrived)
        if size is None or size > AT_ONCE or (known and not arrived):
            self._arriving.pop(conn, None)
            super().enqueue_req(conn)
            return
        buffer.seek(0, os.SEEK_END)
        buffer.write(conn.sock.take(len(arrived)) if arrived else b"")
        if buffer.tell() >= size:
            self._arriving.pop(conn, None)
            self._begin(conn)
            return
        conn.sock.expected = size
        self._arriving.setdefault(conn, time.monotonic() + ARRIVE_SECONDS)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_more, conn))

    def _on_more(self, conn: Any, sock: Any) -> None:
        self.poller.unregister(sock)
        self.enqueue_req(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for what comes next, and for nothing longer than it may take."""
        ends = min(_first_end(self._waiting), _first_end(self._arriving))
        super().wait_for_and_dispatch_events(min(timeout, max(ends - time.monotonic(), 0)))
        while _first_end(self._waiting) <= time.monotonic():
            one = next(iter(self._waiting))
            del self._waiting[one]
            self._go_on(one)
        while _first_end(self._arriving) <= time.monotonic():
            conn = next(iter(self._arriving))
            del self._arriving[conn]
            self.poller.unregister(conn.sock)
            super().enqueue_req(conn)

    def _begin(self, conn: Any) -> None:
        request, sent = None, _Sent()
        try:
            request = next(conn.parser)
            response, environ = wsgi.create(request, sent, conn.client, conn.server, self.cfg)
            if not self.alive or len(self.keepalived_conns) >= self.max_keepalived:
                response.force_close()
            answer = self.wsgi(environ, response.start_response)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            self._give_up(conn, request, error)
        else:
            self._go_on(_Exchange(conn, request, response, sent, answer))

    def _go_on(self, one: _Exchange) -> None:
        """Carry an answer on as far as nothing has to be waited for."""
        try:
            one.job = job = one.answer.advance() if isinstance(one.answer, Answer) else None
            if job is None:
                self._answer(one)
                return
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(one.conn, one.request, error)
            return
        self._waiting[one] = job.deadline
        job.when_settled(partial(self._tell, one, job))

    def _tell(self, one: _Exchange, job: Job[Any, Any]) -> None:
        """Have the accepting thread go on with it; called by the one that settled the job."""
        self._settled.append((one, job))
        if not self._told:
            self._told = True
            self.method_queue.defer(self._go_on_with_settled)

    def _go_on_with_settled(self) -> None:
        self._told = False
        for _ in range(len(self._settled)):
            one, job = self._settled.popleft()
            if one.job is job and self._waiting.pop(one, 0.0):
                self._go_on(one)

    def _answer(self, one: _Exchange) -> None:
        for part in one.answer:
            one.response.write(part)
        one.response.close()
        if (close := getattr(one.answer, "close", None)) is not None:  # as WSGI has it
            close()
        data = one.sent.taken()
        keep = not one.response.should_close() and bool(one.conn.parser.finish_body())
        gone = one.conn.sock.send_now(data)
        if gone < len(data) or not keep:
            self._in_pool(one.conn, partial(self._end, one.conn, data[gone:], keep))
        elif one.conn.parser.unreader.buf.getbuffer().nbytes:
            self.method_queue.defer(self.enqueue_req, one.conn)  # after all others, not within this call
        else:
            self.finish_request(one.conn, _Done(result=True))

    def _end(self, conn: Any, left: bytes, keep: bool) -> bool:
        """What may take a while, in a thread of the pool: the rest of an answer, and the client's last words."""
        with contextlib.suppress(OSError):
            conn.sock.sendall(left)
            if keep:
                return True
            linger(conn.sock)
        return False

    def _give_up(self, conn: Any, request: Any, error: Exception) -> None:
        """Tell the client, unless it is the one that went away, and close."""

        def work() -> bool:
            if not isinstance(error, OSError):
                self.handle_error(request, conn.sock, conn.client, error)
            return self._end(conn, b"", keep=False)

        self._in_pool(conn, work)

    def _in_pool(self, conn: Any, work: Callable[[], bool]) -> None:
        self.tpool.submit(work).add_done_callback(
            lambda future: self.method_queue.defer(self.finish_request, conn, future)
        )
