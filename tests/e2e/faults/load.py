"""The load: two shops whose webhooks come while parts go away, and what came of them, seen from outside.

The shops repeat whatever was not answered 200, as shops do, and the two management systems are looked into
directly: one remembers keys, the other has none and is asked for its orders.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from sandbox import demo_ledger
from sandbox.demo_report import compare
from sandbox.demo_tenants import SHOP, DemoTenant, stored_orders
from sandbox.shop import SendOptions
from sandbox.shop_orders import Life
from sandbox.shop_sender import Sender

Order = tuple[str, str]
"""The tenant's slug and the shop's id of the order."""

BATCH = 2
"""Orders of each shop that begin together."""

EVERY_SECONDS = 1.0
"""Between two such beginnings while a load goes on."""

PATIENCE_SECONDS = 15.0
"""How long these shops wait for an answer: longer than real ones, so that one that hangs is told from a 503."""

KEPT = 100
"""Orders of each shop that a load leaves for what comes after it."""

KEYLESS = "globex"
"""The tenant whose management system has no unique keys."""


@dataclass
class Sent:
    """Some orders on their way, and when the first of them began."""

    orders: set[Order] = field(default_factory=set)
    senders: list[Sender] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def failures(self) -> Counter[str]:
        """How often a request was not answered 200, by its status or what happened instead."""
        return sum((sender.progress().failures for sender in list(self.senders)), Counter())

    def wait(self, seconds: float) -> bool:
        """Wait until every webhook was acknowledged."""
        give_up = time.monotonic() + seconds
        return all(sender.wait(max(give_up - time.monotonic(), 0)) for sender in list(self.senders))


@dataclass(frozen=True)
class Found:
    """What the management systems hold of the orders that were acknowledged, and what the ledger still owes."""

    acknowledged: int
    applied: int
    lost: list[str]
    doubled: list[str]
    mismatched: list[str]
    limbo: list[str]
    held_with_both: list[str]
    """Doubled in the system without keys, and held with the ids of both: a person decides."""


class Shops:
    """Two shops that send some of their orders' whole lives when they are told to. `seed` says which lives."""

    def __init__(self, orders: int, seed: int) -> None:
        self.tenants = [DemoTenant.make(slug, orders, seed + n) for n, slug in enumerate(("acme", KEYLESS))]
        self.sent: dict[str, list[Life]] = {tenant.slug: [] for tenant in self.tenants}
        self._seed = seed

    def send(self, addresses: Mapping[str, str], orders: int) -> Sent:
        """Begin to send so many further orders of each shop."""
        sent = Sent()
        options = SendOptions(
            concurrency=2, duplicates=0.1, reordering=0.2, timeout_seconds=PATIENCE_SECONDS, seed=self._seed
        )
        for tenant in self.tenants:
            done = self.sent[tenant.slug]
            lives = tenant.lives[len(done) : len(done) + orders]
            assert len(lives) == orders, "the shop has no orders left: give it more"
            done.extend(lives)
            sent.orders |= {(tenant.slug, life.external_id) for life in lives}
            sent.senders.append(tenant.shop.send(addresses[tenant.slug], options, only=lives))
        return sent

    def orders(self) -> set[Order]:
        """All that they have sent, or begun to."""
        return {(slug, life.external_id) for slug, lives in self.sent.items() for life in lives}

    def left(self) -> int:
        """How many orders each shop still has to send."""
        return min(len(tenant.lives) - len(self.sent[tenant.slug]) for tenant in self.tenants)

    def judge(self, ledger: Ledger, erps: Mapping[str, str]) -> Found:
        """Compare what was acknowledged with what the management systems hold."""
        lost: list[str] = []
        doubled: list[str] = []
        mismatched: list[str] = []
        held_with_both: list[str] = []
        wrong = 0
        for tenant in self.tenants:
            stored = stored_orders(erps[tenant.slug])
            facts = {f"{SHOP}/{life.external_id}": life.facts for life in self.sent[tenant.slug]}
            compared = compare(facts, stored, unneeded=demo_ledger.unneeded(ledger, tenant.slug))
            named = _held_with_both(ledger) if tenant.slug == KEYLESS else set()
            held_with_both += [one for one in compared.duplicated if one in named]
            wrong += len({*compared.lost, *compared.duplicated, *compared.mismatched} - named)
            lost += compared.lost
            doubled += [one for one in compared.duplicated if one not in named]
            mismatched += [one for one in compared.mismatched if one not in named]
        with ledger.read() as connection:
            limbo = [f"{one.tenant} {one.sync_id}: {one.finding}" for one in audit(connection)]
        states = demo_ledger.states(ledger)
        limbo += [f"{n} {state}" for state, n in states.items() if state not in {"done", "held"}]
        limbo += ["held"] * (states.get("held", 0) - len(held_with_both))
        acknowledged = sum(map(len, self.sent.values()))
        return Found(acknowledged, acknowledged - wrong, lost, doubled, mismatched, limbo, held_with_both)


def _held_with_both(ledger: Ledger) -> set[str]:
    """References of orders that are held because a system holds two of them."""
    said = [one.message for one in demo_ledger.troubles(ledger) if one.state == "held"]
    return {
        word.rstrip(":")
        for text in said
        if " and " in text
        for word in text.split()
        if word.startswith(f"{SHOP}/")
    }


class Load:
    """Sends a few orders every second, from the beginning of the block until `stop`, in a thread.

    Or as long as the shops have orders beside those that come afterwards.
    """

    def __init__(self, shops: Shops, addresses: Mapping[str, str]) -> None:
        self._shops, self._addresses = shops, addresses
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.sent = Sent()

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Sent:
        """Begin no further orders; what has begun goes on until it is acknowledged."""
        self._over.set()
        self._thread.join()
        return self.sent

    def _run(self) -> None:
        while self._shops.left() > KEPT:
            more = self._shops.send(self._addresses, BATCH)
            self.sent.orders |= more.orders
            self.sent.senders += more.senders
            if self._over.wait(EVERY_SECONDS):
                return


def done(ledger: Ledger, orders: Iterable[Order]) -> bool:
    """Whether the ledger owes nothing of these orders."""
    return not set(orders) - demo_ledger.done_orders(ledger)
