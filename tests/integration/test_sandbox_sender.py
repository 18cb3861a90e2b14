"""The sender of webhooks: nothing is given up, duplicates are the same bytes, and its numbers are true."""

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from integrator.http import Http
from integrator.shops.base import ShopAccess
from integrator.shops.shopify import Shopify
from sandbox.shop import SendOptions, ShopSimulation, report

QUICK = (0.01, 0.02, 0.05)
CONNECTOR = Shopify()


@dataclass(frozen=True)
class Received:
    """One request as it came, and what it was answered."""

    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def webhook_id(self) -> str:
        return self.headers["x-shopify-webhook-id"]


@dataclass
class Receiver:
    """What a receiver got. `refuse` is the share of requests that it answers 503, or cuts."""

    refuse: float = 0.0
    cut: float = 0.0
    url: str = ""
    received: list[Received] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self) -> int:
        with self.lock:
            drawn = self.dice.random()
        return 0 if drawn < self.cut else 503 if drawn < self.cut + self.refuse else 200

    @property
    def accepted(self) -> list[Received]:
        return [one for one in self.received if one.status == 200]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self) -> None:
        receiver = cast("Server", self.server).receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = receiver.judge()
        with receiver.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(headers, body, status))
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    receiver: Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    server = Server(("127.0.0.1", 0), Handler)
    server.receiver = receiver
    receiver.url = f"http://127.0.0.1:{server.server_port}/webhooks/shopify/key"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


def test_given_a_receiver_that_refuses_and_cuts_when_sent_then_everything_is_acknowledged_in_the_end(
    receiver: Receiver,
) -> None:
    receiver.refuse, receiver.cut = 0.3, 0.1
    with ShopSimulation(30, seed=11) as shop:
        options = SendOptions(duplicates=0.3, reordering=0.5, retry_seconds=QUICK)
        began = time.time()
        sender = shop.send(receiver.url, options)
        assert sender.wait(60)
        progress = sender.progress()
    accepted = Counter(one.webhook_id for one in receiver.accepted)
    assert set(accepted) == {event.webhook_id for life in shop.lives for event in life.events}
    assert accepted.total() == progress.acknowledged == progress.deliveries == len(progress.latencies_ms)
    assert progress.requests == len(receiver.received) == progress.acknowledged + progress.failures.total()
    assert progress.failures["503"] == sum(one.status == 503 for one in receiver.received)
    assert progress.failures.total() > progress.failures["503"] > 0
    assert set(progress.first_acknowledged) == set(shop.facts)
    assert all(began <= at <= time.time() for at in progress.first_acknowledged.values())
    assert report(progress, 1.0)["orders"] == 30


def test_given_duplicates_and_retries_when_received_then_the_same_id_is_the_same_request(
    receiver: Receiver,
) -> None:
    receiver.refuse = 0.2
    with ShopSimulation(20, seed=12) as shop:
        sender = shop.send(receiver.url, SendOptions(duplicates=1.0, retry_seconds=QUICK))
        assert sender.wait(60)
    accepted = Counter(one.webhook_id for one in receiver.accepted)
    assert set(accepted.values()) == {2}
    by_id = defaultdict(set)
    for one in receiver.received:
        by_id[one.webhook_id].add((one.body, tuple(sorted(one.headers.items()))))
    assert {len(requests) for requests in by_id.values()} == {1}


def test_given_what_was_sent_when_the_connector_reads_it_then_it_is_genuine_and_about_the_order(
    receiver: Receiver,
) -> None:
    with ShopSimulation(10, seed=13) as shop:
        assert shop.send(receiver.url, SendOptions(duplicates=0.5)).wait(60)
    identities = []
    for one in receiver.received:
        CONNECTOR.verify(one.headers, one.body, shop.secrets["webhook"])
        identities.append(CONNECTOR.identify(one.headers, one.body))
    keys = Counter(identity.event_key for identity in identities if identity)
    assert len(keys) == sum(len(life.events) for life in shop.lives)
    assert keys.total() == len(receiver.received) > len(keys)
    assert {identity.external_id for identity in identities if identity} == set(shop.facts)


@pytest.mark.parametrize("reordering", [0.0, 1.0])
def test_given_a_receiver_that_takes_all_when_sent_then_only_planned_orders_are_out_of_order(
    receiver: Receiver, reordering: float
) -> None:
    with ShopSimulation(25, seed=14) as shop:
        sender = shop.send(receiver.url, SendOptions(reordering=reordering))
        assert sender.wait(60)
    index = {event.webhook_id: event.index for life in shop.lives for event in life.events}
    owner = {event.webhook_id: life.external_id for life in shop.lives for event in life.events}
    order = defaultdict(list)
    for one in receiver.received:
        order[owner[one.webhook_id]].append(index[one.webhook_id])
    mixed = sum(seen != sorted(seen) for seen in order.values())
    assert mixed == sender.progress().reordered
    assert (mixed > 0) is (reordering > 0)


def test_given_an_answer_that_is_not_200_when_sent_then_it_does_not_count_and_stop_ends_it(
    receiver: Receiver,
) -> None:
    receiver.judge = lambda: 201  # type: ignore[method-assign]
    with ShopSimulation(3, seed=15) as shop:
        sender = shop.send(receiver.url, SendOptions(retry_seconds=QUICK))
        assert not sender.wait(0.3)
        sender.stop()
        progress = sender.progress()
        assert progress.acknowledged == 0
        assert progress.outstanding == progress.deliveries
        assert progress.failures == {"201": progress.requests}
        receiver.judge = lambda: 200  # type: ignore[method-assign]
        again = shop.send(receiver.url, SendOptions(), only=shop.lives[:2])
        assert again.wait(30)
        assert set(again.progress().first_acknowledged) == {life.external_id for life in shop.lives[:2]}


def test_given_a_webhook_out_when_its_order_is_read_then_it_is_at_least_as_new(receiver: Receiver) -> None:
    older = []
    with ShopSimulation(10, seed=16) as shop:
        access = ShopAccess(shop.config, {"access_token": shop.access_token}, Http(shop.url))
        seen = threading.Lock()

        def read(external_id: str, updated_at: object) -> None:
            order = CONNECTOR.fetch_order(access, external_id)
            with seen:
                older.append(order.updated_at < updated_at)  # type: ignore[operator]

        sender = shop.send(
            receiver.url,
            SendOptions(reordering=1.0, concurrency=2),
            on_attempt=lambda attempt: read(attempt.event.external_id, attempt.event.updated_at),
        )
        assert sender.wait(60)
        for external_id, order in shop.expected_orders().items():
            assert CONNECTOR.fetch_order(access, external_id) == order
    assert len(older) == sender.progress().requests
    assert not any(older)


def test_given_a_process_when_run_then_it_says_ready_and_done_and_the_receiver_has_all(
    receiver: Receiver, tmp_path: Path
) -> None:
    facts = tmp_path / "facts.json"
    options = ["--receiver", receiver.url, "--orders", "5", "--seed", "17", "--facts", str(facts)]
    command = [sys.executable, "-m", "sandbox.shop", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    here = ShopSimulation(5, seed=17)
    here.server.server_close()
    assert [fact["external_id"] for fact in json.loads(facts.read_text())] == list(here.facts)
    assert [fact["total"] for fact in json.loads(facts.read_text())] == [
        str(fact.total) for fact in here.facts.values()
    ]
    assert {one.body for one in receiver.received} == {event.body for life in here.lives for event in life.events}
    assert re.match(r"ready http://127\.0\.0\.1:\d+\n", done.stdout)
    assert re.search(
        r"^progress requests=\d+ acknowledged=(\d+)/\1 orders=5/5 failures=0$", done.stdout, re.MULTILINE
    )
    assert '"orders": 5' in done.stdout.splitlines()[-1]
    assert len({one.webhook_id for one in receiver.accepted}) == len(receiver.received)
