"""A server for tests that plays a script on each connection: byte by byte, cut anywhere, over TLS too."""

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable

PATIENCE_SECONDS = 10.0  # how long a script waits for the client to leave before it counts as still waiting


class Server:
    """Plays a script on each connection, in turn, and keeps the bytes that each connection received."""

    def __init__(self, script: "Script", tls: ssl.SSLContext | None = None) -> None:
        self.script, self.tls = script, tls
        self.received: list[bytearray] = []
        self.client_left = threading.Event()
        self.served = threading.Semaphore(0)
        self.open: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.received.append(bytearray())
            worker = threading.Thread(target=self._serve, args=(sock, self.received[-1]))
            self.threads.append(worker)
            worker.start()

    def _serve(self, sock: socket.socket, received: bytearray) -> None:
        sock.settimeout(PATIENCE_SECONDS)
        try:
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            self.open.append(sock)
            self.script(Peer(sock, received, self))
        except TimeoutError:
            pass
        except OSError:
            self.client_left.set()
        finally:
            sock.close()
            self.served.release()

    def wait_until_served(self, connections: int) -> None:
        """Wait until so many connections have been read to their end."""
        for _ in range(connections):
            assert self.served.acquire(timeout=PATIENCE_SECONDS)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()


class Peer:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket, received: bytearray, server: Server) -> None:
        self.sock, self.received, self.server = sock, received, server

    def read_request(self) -> bool:
        """Read one request without a body; False when the client has closed."""
        start = len(self.received)
        while b"\r\n\r\n" not in self.received[start:]:
            data = self.sock.recv(65_536)
            if not data:
                return False
            self.received.extend(data)
        return True

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, every_seconds: float = 0.02) -> None:
        """Send bytes one by one, for ever, until the client leaves or patience ends."""
        for byte, _ in zip(itertools.cycle(data), range(int(PATIENCE_SECONDS / every_seconds)), strict=False):
            self.sock.sendall(bytes([byte]))
            time.sleep(every_seconds)

    def wait_until_left(self) -> None:
        while self.sock.recv(65_536):
            pass
        self.server.client_left.set()


Script = Callable[[Peer], None]
