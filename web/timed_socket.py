"""A client's connection, with an end to how long its reads and writes may take."""

import contextlib
import errno
import socket
import time
from collections.abc import Iterator
from typing import Any

TAKE_SECONDS = 5.0
"""How long a client may take to accept an answer. Those of many requests in a row fill what the kernel holds."""

LINGER_SECONDS = 0.5
"""How long what a refused client still sends is thrown away, so that it can read its answer."""

AT_ONCE = 65_536
"""Bytes that one look at what has arrived takes at most."""


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
    expected: int | None = None
    """Bytes of the webhook that has begun to arrive."""

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

    def arrived(self) -> bytes | None:
        """What has arrived, left where it is: nothing when the client has closed, None when there is none yet."""
        try:
            return super().recv(AT_ONCE, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return None

    def take(self, size: int) -> bytes:
        """Read so much of what has arrived."""
        return super().recv(size, socket.MSG_DONTWAIT)

    def send_now(self, data: bytes) -> int:
        """Write what the kernel takes, without any wait; how many bytes that is."""
        try:
            return super().send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Write all. Raises TooSlow."""
        sent = self.send_now(data)
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


def linger(sock: TimedSocket) -> None:
    """Throw away what a client still sends that was refused, so that it can read its answer."""
    sock.deadline = time.monotonic() + LINGER_SECONDS
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65_536):
            pass
    sock.deadline = 0  # the accepting thread, which closes it, must not wait
