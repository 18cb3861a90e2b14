"""The read API of a made-up WooCommerce shop: orders and their refunds, as new as the webhooks that went out."""

import base64
import json
import re
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from sandbox.shop_facts import Life
from sandbox.shop_server import ApiHandler, ShopServer, ShopState
from sandbox.woo_orders import WooEvent

ORDER_PATH = re.compile(r"/wp-json/wc/v3/orders(?:/([0-9]+)(/refunds)?)?")

NO_ORDER = {"code": "woocommerce_rest_shop_order_invalid_id", "message": "Invalid ID.", "data": {"status": 404}}
NO_ROUTE = {"code": "rest_no_route", "message": "No route was found.", "data": {"status": 404}}
NO_KEY = {
    "code": "woocommerce_rest_cannot_view",
    "message": "Sorry, you cannot list resources.",
    "data": {"status": 401},
}
"""What WooCommerce and WordPress say instead of an order."""


class WooState(ShopState):
    """What the shop knows: of each order, the newest moment; and which orders are deleted for good."""

    def __init__(self, all_lives: Sequence[Life]) -> None:
        super().__init__(all_lives)
        self._events = {life.external_id: life.events for life in all_lives}
        self._purged: set[str] = set()

    def now(self, external_id: str) -> WooEvent | None:
        """Give the order's newest moment; None when there is no such order yet, or not any more."""
        with self._lock:
            shown = self._shown.get(external_id)
            if shown is None or external_id in self._purged:
                return None
            event = self._events[external_id][shown]
            assert isinstance(event, WooEvent), "this shop's"  # noqa: S101
            return event

    def read(self, external_id: str) -> bytes | None:
        """Give the order's newest body; None when there is no such order."""
        with self._lock:
            self.reads += 1
        event = self.now(external_id)
        return event.shown if event else None

    def purge(self, external_id: str) -> None:
        """Delete an order for good. WooCommerce tells nobody."""
        with self._lock:
            self._purged.add(external_id)


class WooHandler(ApiHandler):
    """One connection to the API."""

    def respond(self, shop: ShopServer) -> None:
        """Answer as WooCommerce's REST API v3 does."""
        parts = urlsplit(self.path)
        found = ORDER_PATH.fullmatch(parts.path)
        assert isinstance(shop.state, WooState), "this shop's"  # noqa: S101
        if found is None:
            self.answer(404, to_json(NO_ROUTE))
        elif self.headers.get("Authorization") != basic(shop.access_token):
            self.answer(401, to_json(NO_KEY))
        elif found[1] is None:
            self.answer(200, b"[]")
        elif found[2]:
            event = shop.state.now(found[1])
            self._refunds(event.refunds if event else (), parse_qs(parts.query))
        elif (body := shop.state.read(found[1])) is None:
            self.answer(404, to_json(NO_ORDER))
        else:
            self.answer(200, body)

    def _refunds(self, refunds: Sequence[bytes], query: dict[str, list[str]]) -> None:
        """A page of refunds: ten unless asked for up to a hundred."""
        size, page = int(query.get("per_page", ["10"])[0]), int(query.get("page", ["1"])[0])
        pages = -(-len(refunds) // size)
        shown = refunds[(page - 1) * size : page * size]
        totals = {"X-WP-Total": str(len(refunds)), "X-WP-TotalPages": str(pages)}
        self.answer(200, b"[" + b",".join(shown) + b"]", totals)


def basic(key: str) -> str:
    """The Authorization header of a consumer key and secret, `key:secret`."""
    return f"Basic {base64.b64encode(key.encode()).decode()}"


def to_json(value: object) -> bytes:
    """JSON, compact."""
    return json.dumps(value, separators=(",", ":")).encode()
