"""Our gunicorn worker: how long a client may take, what it is told when it makes no sense, and how we log.

gunicorn's own threads wait for a request's bytes without end, so that as many slow clients as there are threads
would stop it (its manual asks for a buffering proxy in front). Here the whole request, headers and body, must
arrive within `web_read_seconds`; a connection that says nothing costs no thread; and the wait for a client to
close its side happens in a pool thread, not in the one that accepts, which answers webhooks (`web.accepting`).
"""

import contextlib
import logging
import time
from http import HTTPStatus
from typing import Any

import orjson
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import errors

from integrator.config import settings
from integrator.logs import configure, describe, get_logger
from web.accepting import AcceptingWorker
from web.timed_socket import linger

log = get_logger(__name__)

_STATUS = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}
"""Other nonsense is 400, an unknown transfer coding too (RFC 9112 says 501): balancers and alarms count a 5xx as
our failure, so that anybody could have a healthy process taken out."""


class Worker(AcceptingWorker):
    """The worker that `web.server` names."""

    def handle(self, conn: Any) -> Any:
        """Work on one request of a connection, in a thread of the pool."""
        conn.sock.deadline = time.monotonic() + settings().web_read_seconds
        result = super().handle(conn)
        if result is False:
            linger(conn.sock)
        return result

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
