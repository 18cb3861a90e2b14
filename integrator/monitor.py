"""A process's own page, for Prometheus and for whoever restarts it: `/metrics` and `/healthz`, on its own port."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from integrator.clock import boottime
from integrator.config import Settings
from integrator.logs import get_logger
from integrator.metrics import Meters

log = get_logger(__name__)

TEXT = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_SECONDS = 5.0
"""How long a client may take over its request before it is cut off."""


class PortTaken(Exception):
    """The page can't be served where the settings say. Its text is for people."""


class Pulse:
    """When something last showed that it goes on. Its making counts, so that a start has the time of one silence.

    `silent_seconds` is how long it may show nothing; the clock counts suspended time.
    """

    def __init__(self, silent_seconds: float, clock: Callable[[], float] = boottime) -> None:
        self.silent_seconds = silent_seconds
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """It goes on."""
        self._last = self._clock()

    @property
    def age(self) -> float:
        """Seconds since the last beat."""
        return self._clock() - self._last

    @property
    def alive(self) -> bool:
        """Whether it has shown something in time."""
        return self.age <= self.silent_seconds


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


def serve(settings: Settings, meters: Meters, healthy: Callable[[], str | None]) -> ThreadingHTTPServer | None:
    """Serve the page in the background; None when the settings want none. Raises PortTaken.

    `healthy` says what is wrong, or None: then `/healthz` answers 200, else 503 with the sentence.
    """
    if not settings.metrics_port:
        return None
    where = (settings.metrics_host, settings.metrics_port)
    try:
        server = _Server(where, _handler(meters, healthy))
    except OSError as error:
        raise PortTaken(
            f"Metrics can't be served at {where[0]}:{where[1]} ({error.strerror}). Set INTEGRATOR_METRICS_PORT to "
            "a free port for each process on this machine, or to 0 for none."
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics_served", host=where[0], port=server.server_address[1])
    return server


def _handler(meters: Meters, healthy: Callable[[], str | None]) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, TEXT, meters.text())
            elif self.path == "/healthz":
                trouble = healthy()
                self._answer(503 if trouble else 200, "text/plain", (trouble or "ok").encode() + b"\n")
            else:
                self._answer(404, "text/plain", b"There is nothing at this address.\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Requests are not logged."""

    return Page
