"""A shop to develop, demonstrate and test against: Shopify's read API, and a sender of its webhooks.

    with ShopSimulation(100, seed=7) as shop:
        sender = shop.send("http://127.0.0.1:8000/webhooks/shopify/<key>", SendOptions(duplicates=0.1))
        sender.wait()
        shop.facts  # what must be true of each order in the end

As a process: `python -m sandbox.shop --receiver URL --orders 100`. It prints `ready <address of the API>`, lines
that begin with `progress`, and `done` with a report in JSON; `--help` tells the rest.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

from integrator.documents import Order
from integrator.shops.shopify import Shopify
from sandbox.large import REQUESTS_PER_SECOND
from sandbox.shop_orders import Facts, Life, lives
from sandbox.shop_plan import SendOptions
from sandbox.shop_sender import Attempt, Progress, Sender
from sandbox.shop_server import ShopServer, ShopState

__all__ = ["SendOptions", "Sender", "ShopSimulation", "main", "report"]


class ShopSimulation:
    """A whole shop: `orders` lives of one seed, the read API, and senders of their webhooks.

    Use it as a context manager, or `start` and `close` it.
    """

    platform: ClassVar[str] = "shopify"

    def __init__(
        self,
        orders: int,
        *,
        seed: int = 1,
        secret: str = "sandbox-webhook-secret",  # noqa: S107 - made up
        access_token: str = "sandbox-access-token",  # noqa: S107 - made up
        domain: str = "sandbox.myshopify.com",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.lives = tuple(lives(orders, seed=seed))
        self.secret, self.access_token, self.domain = secret, access_token, domain
        self.state = ShopState(self.lives)
        self.server = ShopServer(self.state, access_token, host, port, domain=domain)
        self._senders: list[Sender] = []

    @property
    def url(self) -> str:
        """The API's address."""
        return self.server.url

    @property
    def config(self) -> dict[str, Any]:
        """The shop's configuration as the connector takes it."""
        return {"domain": self.domain, "url": self.url, "requests_per_second": REQUESTS_PER_SECOND}

    @property
    def secrets(self) -> dict[str, Any]:
        """The shop's secrets as the connector's `validate` takes them."""
        return {"webhook": [self.secret], "access_token": self.access_token}

    @property
    def facts(self) -> dict[str, Facts]:
        """What must be true of each order in the end, by external id; counted without the project's code."""
        return {life.external_id: life.facts for life in self.lives}

    def expected_orders(self) -> dict[str, Order]:
        """Give the canonical order that each life ends in, by external id, through the project's own mapper."""
        ends = (life.events[-1] for life in self.lives)
        mapped = {end.external_id: Shopify().map("orders/updated", end.shown) for end in ends}
        return {external_id: order for external_id, order in mapped.items() if order is not None}

    def sender(
        self,
        receiver_url: str,
        lives: Sequence[Life],
        options: SendOptions | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> Sender:
        """Make a sender of the webhooks of some lives, which is not started yet."""
        return Sender(
            receiver_url,
            lives,
            secret=self.secret,
            domain=self.domain,
            options=options,
            before_send=self.state.advance,
            on_attempt=on_attempt,
        )

    def send(
        self,
        receiver_url: str,
        options: SendOptions | None = None,
        *,
        only: Sequence[Life] | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> Sender:
        """Begin to send the webhooks of all lives, or of some of `lives`. Returns the started sender."""
        sender = self.sender(receiver_url, self.lives if only is None else only, options, on_attempt)
        self._senders.append(sender)
        return sender.start()

    def start(self) -> Self:
        """Serve the API."""
        self.server.start()
        return self

    def close(self) -> None:
        """Stop the senders and the API."""
        for sender in self._senders:
            sender.stop()
        self.server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def report(progress: Progress, seconds: float) -> dict[str, Any]:
    """Sum a sender's progress up, latencies in milliseconds."""
    taken = sorted(progress.latencies_ms)
    quantiles = {
        f"p{share:g}": round(taken[min(int(len(taken) * share / 100), len(taken) - 1)], 2)
        for share in (50, 95, 99, 99.9)
        if taken
    }
    return {
        "seconds": round(seconds, 2),
        "deliveries": progress.deliveries,
        "requests": progress.requests,
        "acknowledged": progress.acknowledged,
        "orders": len(progress.first_acknowledged),
        "duplicates": progress.duplicates,
        "reordered": progress.reordered,
        "failures": dict(progress.failures),
        "latency_ms": quantiles
        | ({"mean": round(statistics.fmean(taken), 2), "max": round(taken[-1], 2)} if taken else {}),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the shop as a process until everything is acknowledged, or until SIGTERM with --linger."""
    given = _parser().parse_args(arguments)
    over = threading.Event()

    def leave(_signal: int, _frame: FrameType | None) -> None:
        over.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    shop = ShopSimulation(
        given.orders,
        seed=given.seed,
        secret=given.secret,
        access_token=given.token,
        host=given.host,
        port=given.port,
    )
    with shop:
        if given.facts:
            given.facts.write_text(json.dumps([asdict(fact) for fact in shop.facts.values()], default=str))
        print(f"ready {shop.url}", flush=True)
        sent = _send(shop, given, over) if given.receiver else True
        if given.linger or not given.receiver:
            over.wait()
    return 0 if sent else 1


def _send(shop: ShopSimulation, given: argparse.Namespace, over: threading.Event) -> bool:
    options = SendOptions(
        concurrency=given.concurrency,
        duplicates=given.duplicates / 100,
        reordering=given.reordering / 100,
        orders_per_second=given.rate or None,
        seed=given.seed,
    )
    began = time.monotonic()
    sender = shop.send(given.receiver, options)
    done = False
    while not done and not over.is_set():
        done = sender.wait(1.0)
        now = sender.progress()
        print(
            f"progress requests={now.requests} acknowledged={now.acknowledged}/{now.deliveries} "
            f"orders={len(now.first_acknowledged)}/{len(shop.lives)} failures={now.failures.total()}",
            flush=True,
        )
    sender.stop()
    print(f"done {json.dumps(report(sender.progress(), time.monotonic() - began))}", flush=True)
    return done


def _parser() -> argparse.ArgumentParser:
    given = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m sandbox.shop", description="A made-up Shopify shop.")
    parser.add_argument(
        "--receiver",
        default=given("SANDBOX_RECEIVER"),
        help="where the webhooks go; without it, and without SANDBOX_RECEIVER, only the API is served",
    )
    secret = given("SANDBOX_WEBHOOK_SECRET", "sandbox-webhook-secret")
    parser.add_argument("--secret", default=secret, help="what signs the webhooks; else SANDBOX_WEBHOOK_SECRET")
    token = given("SANDBOX_TOKEN", "sandbox-access-token")
    parser.add_argument("--token", default=token, help="what the API asks for; else SANDBOX_TOKEN")
    parser.add_argument("--host", default="127.0.0.1", help="of the API; default 127.0.0.1")
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=0, help="of the API; 0 takes a free one")
    parser.add_argument("--concurrency", type=int, default=8, help="requests under way at once")
    parser.add_argument("--duplicates", type=float, default=0.0, help="percent of events sent twice")
    parser.add_argument("--reordering", type=float, default=0.0, help="percent of orders told out of order")
    parser.add_argument("--rate", type=float, default=0.0, help="orders per second; 0 is as fast as can be")
    parser.add_argument("--facts", type=Path, help="a file for what must be true in the end, as JSON")
    parser.add_argument("--linger", action="store_true", help="serve the API until SIGTERM")
    return parser


if __name__ == "__main__":
    sys.exit(main())
