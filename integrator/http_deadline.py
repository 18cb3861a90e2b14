"""Connections that keep one call's total deadline, and send nothing before its guard has agreed.

`http.py` makes the calls; this is what it puts under requests' adapter. That is used without a session: so
there are no redirects, cookies, netrc or environment proxies. Nothing is retried. Connections are kept per
thread and host, and carry nothing of one call into the next.
"""

import http.client
import io
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from integrator import failpoints
from integrator.clock import boottime
from integrator.plans import Ask, Grant

Guard = Callable[[float], None]
"""Called with the total deadline in seconds before the first byte; raises NotStarted when it is too long."""

GRANT = "Integrator-Grant"
"""The header that tells when the limiter granted the call, so that the other side's log can be judged."""


class Call:
    """One request under way: when it must have ended, and whether a byte of it may have left."""

    def __init__(self, deadline_seconds: float, guard: Guard | None, limit: Ask | None = None) -> None:
        self.deadline_seconds, self.guard, self.limit = deadline_seconds, guard, limit
        self.ends_at: float | None = None
        self.sent = False
        self.grant: Grant | None = None

    def ask(self) -> Grant | None:
        """Wait for the call's place, before its clock starts. Raises RateLimited, QuotaUsedUp."""
        if self.limit is not None:
            self.grant = self.limit()
        return self.grant

    def end(self) -> None:
        """What was granted and never left is given back."""
        if self.grant is not None and not self.sent:
            self.grant.refund()

    def start(self) -> None:
        """Start the clock, then ask the guard: the call ends no later than the guard was told."""
        if self.ends_at is None:
            self.ends_at = boottime() + self.deadline_seconds
            if self.guard is not None:
                self.guard(self.deadline_seconds)

    def bound(self, sock: socket.socket) -> None:
        """Give the socket's next operation what remains. Raises TimeoutError when nothing does."""
        remaining = (self.ends_at or 0) - boottime()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(remaining)


class _Thread(threading.local):
    """What belongs to one thread: its connections, and the call that it is making."""

    adapter: HTTPAdapter | None = None
    call: Call

    def connections(self) -> HTTPAdapter:
        if self.adapter is None:
            self.adapter = _Adapter(pool_connections=32, pool_maxsize=1, max_retries=0)
        return self.adapter


thread = _Thread()
# A forked child would share its parent's sockets.
os.register_at_fork(after_in_child=lambda: setattr(thread, "adapter", None))


class _BoundedReader(io.RawIOBase):
    """A socket's raw file, each read of which gets only what remains of the deadline.

    It keeps the socket itself, since http.client closes its own reference early when the server will close.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, call: Call) -> None:
        self._raw, self._sock, self._call = raw, sock, call
        self.ended = False

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._sock.fileno()

    def readinto(self, buffer: Any) -> int | None:
        self._call.bound(self._sock)
        count = self._raw.readinto(buffer)
        self.ended = count == 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._asked_for_effect = kwargs.get("method") != "GET"
        raw: io.RawIOBase = self.fp.detach()
        self._reader = _BoundedReader(raw, sock, thread.call)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        if self._asked_for_effect:
            # The effect has happened when the answer is here; nobody reads it any more.
            failpoints.fire("http.unread", first=lambda: select.select([self._reader], [], [], 30))
        super().begin()
        if self._reader.ended:  # http.client takes headers that are cut for whole ones
            raise http.client.IncompleteRead(b"")


class _Connection(HTTPConnection):
    """Sends nothing of a request before the guard has agreed, and all of it within the deadline."""

    response_class = _Response

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        if (grant := thread.call.ask()) is not None:
            self.putheader(GRANT, str(grant))
        super().endheaders(*args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        call = thread.call
        call.start()
        view = memoryview(data)
        while view:
            call.bound(self.sock)
            call.sent = True
            view = view[self.sock.send(view) :]


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
