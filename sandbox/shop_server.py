"""The read API of a made-up Shopify shop: one order at a time, as new as the webhooks that have gone out."""

import re
import socketserver
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from sandbox.shop_orders import Event, Life

ORDER_PATH = re.compile(r"/admin/api/(20\d\d-(?:01|04|07|10))/orders/([0-9]+)\.json")
LISTED_PATH = re.compile(r"/admin/api/(20\d\d-(?:01|04|07|10))/(shop|orders)\.json(?:\?.*)?")
"""What says whether a token is good: the shop, and a page of its orders, which is empty here."""


Planned = tuple[int, bytes, Mapping[str, str]]


class ShopState:
    """What the shop knows: of each order, the newest moment that it has told anybody of.

    An order's state moves on just before a webhook about it goes out, so a read never shows less than any
    webhook did. Threads share it.
    """

    def __init__(self, all_lives: Sequence[Life]) -> None:
        self.reads = 0
        self._lock = threading.Lock()
        self._bodies = {
            life.external_id: [event.shown or event.body for event in life.events] for life in all_lives
        }
        self._shown: dict[str, int] = {}
        self._planned: deque[Planned] = deque()

    def advance(self, event: Event) -> None:
        """Let the event have happened."""
        with self._lock:
            self._shown[event.external_id] = max(event.index, self._shown.get(event.external_id, 0))

    def read(self, external_id: str) -> bytes | None:
        """Give the order's newest body; None when there is no such order yet."""
        with self._lock:
            self.reads += 1
            shown = self._shown.get(external_id)
            return None if shown is None else self._bodies[external_id][shown]

    def plan(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes = b'{"errors":"as planned"}',
        times: int = 1,
    ) -> None:
        """Answer the next requests with this instead of an order."""
        with self._lock:
            self._planned.extend([(status, body, headers or {})] * times)

    def planned(self) -> Planned | None:
        """Take the next planned answer, if there is one."""
        with self._lock:
            return self._planned.popleft() if self._planned else None


class ShopServer(ThreadingHTTPServer):
    """The read API of one shop, on its own thread: Shopify's, or another platform's by another handler."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        state: ShopState,
        access_token: str,
        host: str = "127.0.0.1",
        port: int = 0,
        handler: "type[ApiHandler] | None" = None,
        domain: str = "sandbox.myshopify.com",
    ) -> None:
        super().__init__((host, port), handler or ApiHandler)
        self.state = state
        self.access_token, self.domain = access_token, domain
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="shop-api", daemon=True)

    @property
    def url(self) -> str:
        """The address, `http://127.0.0.1:<port>`."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def start(self) -> None:
        """Serve, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class ApiHandler(BaseHTTPRequestHandler):
    """One connection to the API. Another platform's overrides `respond`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 30
    server: socketserver.BaseServer

    def do_GET(self) -> None:
        """Answer as planned, else as the platform does."""
        shop = cast("ShopServer", self.server)
        if planned := shop.state.planned():
            self.answer(*planned)
        else:
            self.respond(shop)

    def respond(self, shop: ShopServer) -> None:
        """Answer as the platform does."""
        if self.headers.get("X-Shopify-Access-Token") != shop.access_token:
            self.answer(401, b'{"errors":"[API] Invalid API key or access token"}')
            return
        if (listed := LISTED_PATH.fullmatch(self.path)) is not None:
            told = f'{{"shop":{{"myshopify_domain":"{shop.domain}"}}}}' if listed[2] == "shop" else '{"orders":[]}'
            self.answer(200, told.encode(), {"X-Shopify-API-Version": listed[1]})
            return
        found = ORDER_PATH.fullmatch(self.path)
        body = shop.state.read(found[2]) if found else None
        if found is None or body is None:
            self.answer(404, b'{"errors":"Not Found"}')
            return
        self.answer(200, b'{"order":' + body + b"}", {"X-Shopify-API-Version": found[1]})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send one answer."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: what matters is counted."""
