"""A management system to develop, demonstrate and test against: our own HTTP contract, and faults on command.

    python -m sandbox.erp --port 0 --file erp.db

prints `ready http://127.0.0.1:<port>` when it is up, and ends on SIGTERM. What it answered it knows again after
a kill and a start on the same file. Beside the contract (docs/reference/management-system.openapi.yaml), without
a token:

    GET    /_sandbox         settings in force; counts of requests, answers and faults
    POST   /_sandbox         change settings: the fields of `sandbox.erp_faults.Settings`
    DELETE /_sandbox         back to no faults and no counts; orders and keys stay
    GET    /_sandbox/grants  with `keep_grants`, [what the header Integrator-Grant said, µs of arrival]: ?after=<n>
    GET    /_sandbox/orders  orders as stored, with all that was sent: ?after=<next>&limit=<1 to 5000>
    POST   /_sandbox/orders/<id>  what a person does: {"state": "open", "credits": {"CN000001": null}}
"""

import argparse
import json
import re
import signal
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from integrator.http_deadline import GRANT
from sandbox.erp_faults import RequestKind
from sandbox.erp_order import Mending, Refusal
from sandbox.erp_store import Record
from sandbox.erp_system import System

MAX_BODY_BYTES = 10 * 2**20
PAGE = 50_000
_ROUTES: tuple[tuple[str, str, RequestKind], ...] = (
    ("POST", r"/orders", "create"),
    ("GET", r"/orders", "find"),
    ("GET", r"/orders/([^/]+)", "read"),
    ("PUT", r"/orders/([^/]+)", "update"),
    ("POST", r"/orders/([^/]+)/credits", "credit"),
    ("POST", r"/orders/([^/]+)/cancel", "cancel"),
    ("GET", r"/health", "health"),
)
_MENDED = re.compile(r"/_sandbox/orders/([^/]+)")


class Gone(Exception):
    """The connection has been cut: there is nobody to answer."""


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive: its requests one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120
    system: System

    def do_GET(self) -> None:
        """Serve a request of any method."""
        try:
            self._serve()
        except Gone:
            self.close_connection = True

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *args: Any) -> None:
        """Say nothing: orders are nobody's business."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        try:
            body = self._body()
            if url.path.startswith("/_sandbox"):
                self._answer(200, self._control(url.path, parse_qs(url.query), body))
            else:
                self._contract(url.path, url.query, body)
        except Refusal as refusal:
            self._refuse(refusal)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refusal(413, "too_large")
        return self.rfile.read(int(length))

    # The contract

    def _contract(self, path: str, query: str, body: bytes) -> None:
        kind, order_id = self._route(path)
        faults = self.system.faults
        faults.count(faults.requests, kind)
        faults.note_grant(self.headers.get(GRANT))
        if faults.settings.down or faults.strikes("drop_before_effect", kind):
            self._cut()
        self._authorize()
        self._fail_early(kind)
        if kind in {"create", "update", "credit", "cancel"}:
            status, content = self._effect(kind, order_id, path, body)
        else:
            time.sleep(faults.settings.latency_ms / 1000)
            status, content = 200, self._read(kind, order_id, query)
        self._answer(status, content, drip=faults.strikes("drip", kind))

    def _route(self, path: str) -> tuple[RequestKind, str]:
        matches = [(method, kind, match) for method, form, kind in _ROUTES if (match := re.fullmatch(form, path))]
        for method, kind, match in matches:
            if method == self.command:
                return kind, "".join(match.groups())
        raise Refusal(405, "method_not_allowed") if matches else Refusal(404, "not_found")

    def _authorize(self) -> None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        wanted = self.system.token or token
        if self.system.faults.settings.refuse_token or scheme != "Bearer" or not token or token != wanted:
            raise Refusal(401, "unauthorized")

    def _fail_early(self, kind: RequestKind) -> None:
        faults = self.system.faults
        wait = faults.settings.retry_after_seconds
        if faults.strikes("error_429", kind):
            raise Refusal(429, "throttled", retry_after_seconds=wait)
        if faults.strikes("error_500", kind):
            raise Refusal(500, "broken")
        if faults.strikes("error_503", kind):
            raise Refusal(503, "unavailable", retry_after_seconds=wait)

    def _read(self, kind: RequestKind, order_id: str, query: str) -> Record:
        if kind == "health":
            return {"status": "ok"}
        if kind == "read":
            return self.system.store.read(order_id)
        references = parse_qs(query, keep_blank_values=True).get("reference", [])
        if len(references) != 1:
            raise Refusal(422, "invalid", detail="reference is missing")
        return {"orders": self.system.store.find(references[0])}

    def _effect(self, kind: RequestKind, order_id: str, path: str, body: bytes) -> tuple[int, Record]:
        key = self.headers.get("Idempotency-Key", "")
        faults = self.system.faults
        with self.system.working_on(key):
            time.sleep(faults.settings.latency_ms / 1000)
            late = faults.strikes("late_commit", kind)
            if late:
                self._shut()
                time.sleep(faults.late_seconds())
            answer = self.system.accept(kind, order_id, key, self.command, path, body)
        if late or faults.strikes("drop_after_effect", kind):
            self._cut()
        for status in (500, 504):
            if faults.strikes(f"error_{status}_after_effect", kind):
                raise Refusal(status, "broken")
        return answer

    # The control of the sandbox

    def _control(self, path: str, asked: dict[str, list[str]], body: bytes) -> Record:
        faults = self.system.faults
        try:
            match self.command, path:
                case "GET", "/_sandbox/orders":
                    after, limit = int(asked.get("after", ["0"])[0]), int(asked.get("limit", ["1000"])[0])
                    return self.system.store.page(after, min(max(limit, 1), 5000))
                case "GET", "/_sandbox/grants":
                    return {"grants": faults.grants[int(asked.get("after", ["0"])[0]) :][:PAGE]}
                case "POST", _ if order := _MENDED.fullmatch(path):
                    mending = Mending.model_validate_json(body)
                    return self.system.store.mend(order[1], mending.state, mending.credits)
                case "GET", "/_sandbox":
                    return faults.report()
                case "POST", "/_sandbox":
                    faults.change(json.loads(body))
                    return faults.report()
                case "DELETE", "/_sandbox":
                    faults.reset()
                    return faults.report()
        except (ValueError, TypeError) as error:
            raise Refusal(422, "invalid", detail=str(error)) from None
        raise Refusal(404, "not_found")

    # Answering

    def _refuse(self, refusal: Refusal) -> None:
        title = HTTPStatus(refusal.status).phrase
        problem = {"type": "about:blank", "title": title, "status": refusal.status, "code": refusal.code}
        self._answer(
            refusal.status,
            {**problem, **refusal.members},
            media_type="application/problem+json",
            retry_after_seconds=refusal.retry_after_seconds,
        )

    def _answer(
        self,
        status: int,
        content: Record,
        *,
        media_type: str = "application/json",
        retry_after_seconds: float | None = None,
        drip: bool = False,
    ) -> None:
        self.system.faults.count(self.system.faults.answers, str(status))
        body = json.dumps(content).encode()
        headers = {
            "Date": self.date_time_string(time.time() + self.system.faults.settings.clock_seconds),
            "Content-Type": media_type,
            "Content-Length": len(body),
        }
        if retry_after_seconds is not None:
            headers["Retry-After"] = f"{retry_after_seconds:g}"
        if self.close_connection:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._write("\r\n".join([*lines, "", ""]).encode() + body, drip=drip)

    def _write(self, data: bytes, *, drip: bool) -> None:
        try:
            if not drip:
                self.wfile.write(data)
                return
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(self.system.faults.settings.drip_ms / 1000)
        except OSError:
            raise Gone from None

    def _cut(self) -> None:
        self._shut()
        raise Gone

    def _shut(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """Listens with one thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: Any) -> None:
        """A client that went away is no news; anything else is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*args)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.erp", description="A management system to test against."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; default 127.0.0.1")
    parser.add_argument("--file", type=Path, required=True, help="the SQLite file, made when missing")
    parser.add_argument("--token", help="the only token taken; without it any is")
    options = parser.parse_args()
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread begins, so that only sigwait sees them
    system = System(options.file, options.token)
    handler = type("SystemHandler", (Handler,), {"system": system})
    with Server((options.host, options.port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"ready http://127.0.0.1:{server.server_address[1]}", flush=True)
        signal.sigwait(ends)
        server.shutdown()
    system.store.close()


if __name__ == "__main__":
    main()
