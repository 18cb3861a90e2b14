"""gunicorn's threaded worker, with a limit on how long a client may take, and with our logs and errors.

gunicorn's own waits for a request's bytes without end, so that as many slow clients as there are threads would
stop it (its manual asks for a buffering proxy in front). Here the whole request, headers and body, must arrive
within `web_read_seconds`; a connection that says nothing gives its thread back at once; and the wait for a client
to close its side happens in a pool thread, not in the one that accepts.
"""

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import orjson
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import errors
from gunicorn.workers.gthread import _DEFER, ThreadWorker

from integrator.config import settings
from integrator.logs import configure, describe, get_logger

log = get_logger(__name__)

SILENT_SECONDS = 0.05
"""How long a thread waits for the first byte; then the connection waits without one."""

LINGER_SECONDS = 0.5
"""How long what a refused client still sends is thrown away, so that it can read its answer."""

TAKE_SECONDS = 5.0
"""How long a client may take to accept an answer. Those of many requests in a row fill what the kernel holds."""

_STATUS = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}
"""Other nonsense is 400, an unknown transfer coding too (RFC 9112 says 501): balancers and alarms count a 5xx as
our failure, so that anybody could have a healthy process taken out."""


class TooSlow(ConnectionResetError):
    """The client did not send its request, or take its answer, in time. To gunicorn it is a cut connection."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the client is too slow")


class TimedSocket(socket.socket):
    """A client's connection whose reads together end before `deadline` (`time.monotonic()`); writes end, too.

    What can be done at once is done in one call. Each other that Python makes, to set a mode or to wait for what
    is there already, gives the interpreter away to another thread; so modes are only noted.
    """

    deadline = float("inf")
    allowed: float | None = None

    @classmethod
    def adopt(cls, plain: socket.socket) -> "TimedSocket":
        """Take a connection over."""
        adopted = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        socket.socket.settimeout(adopted, None)
        return adopted

    def setblocking(self, _flag: bool, /) -> None:
        """Nothing to do: gunicorn wants the one mode in its threads, and the other while nobody reads."""

    def settimeout(self, seconds: float | None, /) -> None:
        """Note how long a read may wait, if it must."""
        self.allowed = seconds

    def gettimeout(self) -> float | None:
        """What was noted."""
        return self.allowed

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Read what is there. Raises TooSlow."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TooSlow
        with contextlib.suppress(BlockingIOError):
            return super().recv(size, flags | socket.MSG_DONTWAIT)
        with self._waiting(left if self.allowed is None else min(self.allowed, left)):
            return super().recv(size, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Write all. Raises TooSlow."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = super().send(data, flags | socket.MSG_DONTWAIT)
        if sent < len(data):
            with self._waiting(TAKE_SECONDS):
                super().sendall(memoryview(data)[sent:], flags)

    @contextlib.contextmanager
    def _waiting(self, seconds: float) -> Iterator[None]:
        super().settimeout(seconds)
        try:
            yield
        except TimeoutError:
            raise TooSlow from None
        finally:
            super().settimeout(None)


class Worker(ThreadWorker):  # type: ignore[misc]
    """The worker that `web.server` names."""

    def handle(self, conn: Any) -> Any:
        """Work on one request of a connection, in a thread of the pool."""
        if not isinstance(conn.sock, TimedSocket):
            conn.sock = TimedSocket.adopt(conn.sock)
        if not conn.initialized and not conn.wait_for_data(SILENT_SECONDS):
            return _DEFER
        conn.sock.deadline = time.monotonic() + settings().web_read_seconds
        result = super().handle(conn)
        if result is False:
            self._linger(conn.sock)
        return result

    def _linger(self, sock: TimedSocket) -> None:
        sock.deadline = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
        sock.deadline = 0  # the accepting thread, which closes it, must not wait

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Answer what is no request; its address and its text are nobody's business, so they are not logged."""
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        if isinstance(exc, errors.ParseException):
            status = _STATUS.get(type(exc), HTTPStatus.BAD_REQUEST)
            log.warning("request_unreadable", status=int(status), error=type(exc).__name__)
        else:
            log.error("request_failed", **describe(type(exc), exc.__traceback__))
        body = orjson.dumps({"type": "about:blank", "title": status.phrase, "status": int(status)})
        head = (
            f"HTTP/1.1 {int(status)} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            util.write_nonblock(client, head.encode() + body)


class JsonLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines, in our form and with what else the process logs. Requests are not logged here."""

    error_log: logging.Logger

    def setup(self, cfg: Any) -> None:
        """Hand everything to the root logger."""
        super().setup(cfg)
        configure(settings().log_level)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
