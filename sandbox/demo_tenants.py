"""The demo's tenants: each has one shop and one management system, and the order numbers of the other, too."""

import json
import secrets
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from integrator.plans import DEFAULT
from sandbox import large
from sandbox.demo_report import Outcome, StoredOrder
from sandbox.shop import SendOptions, ShopSimulation
from sandbox.shop_orders import Life
from sandbox.shop_sender import Progress, Sender
from sandbox.woo import WooSimulation

SHOP = "shop"
"""The slug of each tenant's shop, and so what stands before the order's number in a reference."""

WINDOW = 16
"""How many syncs of one tenant may be in flight."""

MODEST, MODEST_ORDERS = "initech", 320
"""A tenant with the default plan, which is seen waiting for its quota, and how many orders it tells of."""

OVERRUN = (
    f"A third shop, [bold]{MODEST}[/], sends {MODEST_ORDERS} orders from now on. Its plan is the default: when it "
    f"has\n  used its {DEFAULT.per_day} requests of the day, its gate shuts until the day turns. `gates list` "
    "shows it, `plan` opens it."
)

PAGE = 1_000
"""Orders that are read from a management system at once."""

SHOPS: dict[str, tuple[type[ShopSimulation], str]] = {
    ShopSimulation.platform: (ShopSimulation, "{slug}.myshopify.com"),
    WooSimulation.platform: (WooSimulation, "{slug}.example"),
}
"""The shops that the sandbox plays, by platform, and the domains that they have."""


@dataclass
class DemoTenant:
    """One tenant, its shop, and what this shop sends: first all up to the cancellations, later the rest."""

    slug: str
    shop: ShopSimulation
    lives: tuple[Life, ...]
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    senders: list[Sender] = field(default_factory=list)

    @classmethod
    def make(cls, slug: str, orders: int, seed: int, platform: str = "shopify") -> "DemoTenant":
        """Make a tenant whose shop, on this platform, will tell of so many orders."""
        kind, domain = SHOPS[platform]
        shop = kind(orders, seed=seed, secret=secrets.token_hex(16), domain=domain.format(slug=slug))
        return cls(slug, shop, shop.lives)

    def document(self, erp_url: str, plan: Mapping[str, Any] = large.PLAN) -> dict[str, Any]:
        """The tenant as `tenants apply` reads it; its secrets are named, and are in `secrets`."""
        name = self.slug.upper()
        erp = {
            "slug": "erp",
            "kind": "rest",
            "window": WINDOW,
            "plan": plan,
            "config": {"url": erp_url},
            "secrets": {"token": {"env": f"{name}_ERP_TOKEN"}},
        }
        shop = {
            "slug": SHOP,
            "platform": self.shop.platform,
            "erp": "erp",
            "key": {"env": f"{name}_SHOP_KEY"},
            "config": self.shop.config,
            "secrets": {
                part: [{"env": one} for one in names] if isinstance(value, list) else {"env": names[0]}
                for part, value in self.shop.secrets.items()
                if (names := list(self._named(part)))
            },
        }
        return {"slug": self.slug, "name": self.slug.capitalize(), "erps": [erp], "shops": [shop]}

    def secrets(self) -> dict[str, str]:
        """What the document refers to."""
        name = self.slug.upper()
        named = {one: value for part in self.shop.secrets for one, value in self._named(part).items()}
        return {f"{name}_ERP_TOKEN": "sandbox-erp-token", f"{name}_SHOP_KEY": self.key, **named}

    def _named(self, part: str) -> dict[str, str]:
        """The shop's secrets of one kind, by the names that the document has for them."""
        value = self.shop.secrets[part]
        values = value if isinstance(value, list) else [value]
        return {f"{self.slug}_{part}_{n}".upper(): secret for n, secret in enumerate(values)}

    def prepare(self, receiver_url: str, options: SendOptions) -> None:
        """Plan what is sent where.

        Cancellations go out in a second round: one that is there before its order was created leaves nothing to
        show in the management system, as it should, but then there is nothing to count either. They go twice as
        fast as the orders: all at once, they would be measured waiting for each other.
        """
        most = [replace(life, events=life.events[: _until_cancelled(life)]) for life in self.lives]
        rest = [replace(life, events=life.events[_until_cancelled(life) :]) for life in self.lives]
        rest = [life for life in rest if life.events]
        quickly = replace(options, orders_per_second=2 * (options.orders_per_second or 0) or None)
        self.senders = [
            self.shop.sender(receiver_url, most, options),
            self.shop.sender(receiver_url, rest, quickly),
        ]

    def overrun(self, receiver_url: str, per_second: float) -> None:
        """Begin to send all orders, at this pace."""
        address = f"{receiver_url}/webhooks/{self.shop.platform}/{self.key}"
        self.prepare(address, SendOptions(concurrency=4, orders_per_second=per_second))
        self.senders[0].start()

    def stop(self) -> None:
        """Send nothing more."""
        for sender in self.senders:
            sender.stop()

    def progress(self) -> Progress:
        """How far the shop is, over both rounds."""
        rounds = [sender.progress() for sender in self.senders]
        first: dict[str, float] = {}
        for one in reversed(rounds):
            first |= one.first_acknowledged
        return Progress(
            deliveries=sum(one.deliveries for one in rounds),
            duplicates=sum(one.duplicates for one in rounds),
            reordered=sum(one.reordered for one in rounds),
            requests=sum(one.requests for one in rounds),
            acknowledged=sum(one.acknowledged for one in rounds),
            failures=sum((one.failures for one in rounds), Counter()),
            latencies_ms=[latency for one in rounds for latency in one.latencies_ms],
            first_acknowledged=first,
        )

    def outcome(self, stored: Sequence[StoredOrder], unneeded: frozenset[str]) -> Outcome:
        """What came of it."""
        now = self.progress()
        first = {f"{SHOP}/{external_id}": at for external_id, at in now.first_acknowledged.items()}
        facts = {f"{SHOP}/{life.external_id}": life.facts for life in self.lives}
        return Outcome(now.requests, now.acknowledged, now.latencies_ms, first, facts, stored, unneeded)


def _until_cancelled(life: Life) -> int:
    """How many of its webhooks go out before the order is cancelled."""
    topics = [event.topic for event in life.events]
    return topics.index("orders/cancelled") if "orders/cancelled" in topics else len(topics)


def stored_orders(erp_url: str) -> list[StoredOrder]:
    """Every order of a management system, through the sandbox's own listing."""
    orders: list[StoredOrder] = []
    after: int | None = 0
    while after is not None:
        address = f"{erp_url}/_sandbox/orders?after={after}&limit={PAGE}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=30) as answer:
            page = json.load(answer)
        orders += map(StoredOrder.read, page["orders"])
        after = page["next"]
    return orders
