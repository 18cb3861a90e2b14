"""The sender of WooCommerce's webhooks: everything arrives in the end, and what it would have lost is counted."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest

from integrator.shops.base import Ping
from integrator.shops.woocommerce import WooCommerce
from sandbox.shop import SendOptions
from sandbox.woo import WooSimulation

CONNECTOR = WooCommerce()
QUICK = (0.01, 0.02)


@dataclass
class Receiver:
    """What a receiver got. It answers 503 to the first `refuse` deliveries of each topic, and 200 to pings."""

    shop: WooSimulation
    refuse: int = 0
    url: str = ""
    pings: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    delivery_ids: dict[str, set[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        with self.lock:
            try:
                CONNECTOR.verify(headers, body, self.shop.secrets["webhook"])
            except Ping:
                self.pings += 1
                return 200
            topic = headers["x-wc-webhook-topic"]
            self.seen[topic] += 1
            if self.seen[topic] <= self.refuse:
                return 503
            identity = CONNECTOR.identify(headers, body)
            assert identity is not None
            self.kept[identity.external_id] += 1
            self.delivery_ids.setdefault(headers["x-wc-webhook-delivery-id"], set()).add(identity.external_id)
            return 200


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self) -> None:
        receiver = cast("Server", self.server).receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(receiver.receive({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    receiver: Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Server(("127.0.0.1", 0), Handler)
    with WooSimulation(60, seed=4) as shop:
        server.receiver = Receiver(shop, url=f"http://127.0.0.1:{server.server_port}/webhooks/woocommerce/key")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.receiver
    server.shutdown()
    thread.join()
    server.server_close()


def deliveries(shop: WooSimulation) -> Counter[str]:
    return Counter({life.external_id: len(life.events) for life in shop.lives})


def test_given_a_receiver_that_takes_all_when_sent_then_pings_first_and_ids_that_orders_share(
    receiver: Receiver,
) -> None:
    shop = receiver.shop
    assert shop.send(receiver.url, SendOptions(duplicates=0.2, reordering=0.3)).wait(60)
    assert shop.webhooks.pings == Counter({"200": 4})
    assert receiver.pings == 4
    assert not shop.webhooks.disabled
    assert all(receiver.kept[external_id] >= told for external_id, told in deliveries(shop).items())
    assert any(len(orders) > 1 for orders in receiver.delivery_ids.values())


def test_given_a_receiver_that_refuses_when_sent_then_what_would_be_lost_is_counted_and_sent_again(
    receiver: Receiver,
) -> None:
    receiver.refuse = 12
    shop = receiver.shop
    sender = shop.send(receiver.url, SendOptions(retry_seconds=QUICK, concurrency=1))
    assert sender.wait(60)
    assert receiver.kept == deliveries(shop)
    # Twelve in a row: the sixth disables the webhook, and so does the sixth after that.
    assert shop.webhooks.disabled["order.created"] == 2
    assert shop.webhooks.disabled["order.updated"] == 2
    assert receiver.pings == 4 + shop.webhooks.disabled.total()
    assert sender.progress().failures["503"] == sum(min(12, told) for told in receiver.seen.values())


def test_given_nobody_there_when_sent_then_the_pings_say_so_and_the_webhooks_are_disabled() -> None:
    with WooSimulation(3, seed=4) as shop:
        sender = shop.send("http://127.0.0.1:9/", SendOptions(retry_seconds=QUICK))
        assert not sender.wait(0.5)
        sender.stop()
    assert shop.webhooks.pings.keys() == {"ConnectionRefusedError"}
    assert shop.webhooks.disabled["order.created"] > 0
    assert sender.progress().acknowledged == 0
