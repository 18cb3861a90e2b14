"""What a flood of one tenant does to the others' orders, beside a plain queue: seconds are played.

    python -m benchmarks.fairness [--tenants 50] [--seconds 60] [--short]

Every tenant but one sends an order each 2.5 s; the last sends a hundred times as many. The ledger (SQLite), the
dispatcher with its windows, the claims and the worker's line of threads are the project's own; played are the
clock, the way of a bell (30 ms) and what a run takes (0.2 to 0.6 s), so that the machine's load changes nothing,
and the same arguments give the same numbers. In one run it plays the quiet tenants alone, with the flood, and
with the flood and a plain queue: one line for all, by due time, without windows or shares, with the same threads.

The last line is one JSON object: `quiet_p99_ratio`, the quiet tenants' 99th percentile from webhook to order with
the flood, over that without; `fifo_p99_ratio`, the same for the plain queue; `p99_seconds` and `p50_seconds` of
each; `done` orders of the quiet tenants, and of the flood by then; and `most_in_flight` of one gate.
"""

import argparse
import heapq
import itertools
import json
import random
import statistics
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from benchmarks import virtual
from integrator.clock import EPOCH
from integrator.dispatch import Dispatcher
from integrator.ledger import transitions
from integrator.ledger.deliveries import accept
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Delivery, Rung
from integrator.ledger.schema import CAUSES, erps, gates, shops, tenants
from tasks.line import Line

BEGAN = datetime(2026, 3, 2, 12, tzinfo=UTC)
QUIET_SECONDS, FLOOD = 2.5, 100
"""Between two orders of a quiet tenant; how many times as many the other sends."""

BELL_SECONDS, TICK_SECONDS = 0.03, 1.0
RUN_SECONDS = (0.2, 0.6)


@dataclass(frozen=True)
class Order:
    """One webhook: whose it is, when it comes, and how long its run takes."""

    number: int
    tenant: int
    at: float
    seconds: float


def orders(count: int, seconds: float, *, flood: bool) -> list[Order]:
    """What comes, in order; the quiet tenants' orders are the same with and without the flood."""
    found = []
    for tenant in range(count if flood else count - 1):
        chance, at = random.Random(tenant), 0.0
        mean = QUIET_SECONDS / FLOOD if tenant == count - 1 else QUIET_SECONDS
        while (at := at + chance.expovariate(1 / mean)) < seconds:
            found.append((at, tenant, chance.uniform(*RUN_SECONDS)))
    return [Order(number, tenant, at, run) for number, (at, tenant, run) in enumerate(sorted(found))]


@dataclass
class Time:
    """What happens, one thing after the other."""

    now: float = 0.0
    todo: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: Iterator[int] = field(default_factory=itertools.count)

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Do it then."""
        heapq.heappush(self.todo, (self.now + seconds, next(self.count), do))

    def play(self, over: Callable[[], bool]) -> None:
        """Do one after the other until it is over."""
        while not over():
            self.now, _, do = heapq.heappop(self.todo)
            do()


class Plain:
    """A plain queue: one line for all, and threads that take what is due first."""

    def __init__(self, threads: int) -> None:
        self.time, self.took = Time(), dict[int, float]()
        self._free, self._line = threads, deque[Order]()

    def come(self, order: Order) -> None:
        """A webhook."""
        self.time.after(BELL_SECONDS, lambda: self._heard(order))

    def _heard(self, order: Order) -> None:
        self._line.append(order)
        self._start()

    def _start(self) -> None:
        while self._free and self._line:
            self._free -= 1
            order = self._line.popleft()
            self.time.after(order.seconds, lambda order=order: self._ended(order))  # type: ignore[misc]

    def _ended(self, order: Order) -> None:
        self._free += 1
        self.took[order.number] = self.time.now - order.at
        self._start()


class Ours:
    """The ledger, the dispatcher and a worker's line, as they are."""

    def __init__(self, ledger: Ledger, clock: virtual.Clock, count: int, threads: int) -> None:
        self.time, self.took, self.most = Time(), dict[int, float](), 0
        self._ledger, self._clock = ledger, clock
        self._dispatcher = Dispatcher(ledger, self._publish)
        self._line = Line[Rung](threads)
        self._shops = store(ledger, count)
        self._orders: dict[int, Order] = {}
        self._flying: Counter[int] = Counter()
        self.time.after(TICK_SECONDS, self._tick)

    def come(self, order: Order) -> None:
        """A webhook."""
        self._set_clock()
        shop_id, gate_id = self._shops[order.tenant]
        with self._ledger.write() as connection:
            (kept,) = accept(connection, [_delivery(order, shop_id, gate_id)])
        assert kept.sync_id is not None
        self._orders[kept.sync_id] = order
        self._dispatcher.dispatch([gate_id])

    def _set_clock(self) -> None:
        self._clock.now = BEGAN + timedelta(seconds=self.time.now)

    def _tick(self) -> None:
        self._set_clock()
        self._dispatcher.dispatch()
        self.time.after(TICK_SECONDS, self._tick)

    def _publish(self, rung: list[Rung]) -> list[Rung]:
        for bell in rung:
            self._flying[bell.gate_id] += 1
            self.most = max(self.most, self._flying[bell.gate_id])
            self.time.after(BELL_SECONDS, lambda bell=bell: self._heard(bell))  # type: ignore[misc]
        return []

    def _heard(self, bell: Rung) -> None:
        self._line.add(bell.tenant, bell)
        self._start()

    def _start(self) -> None:
        self._set_clock()
        while taken := self._line.take():
            _, bell = taken
            with self._ledger.write() as connection:
                claimed = transitions.claim(connection, bell.tenant, bell.sync_id, worker="w")
            assert claimed is not None
            seconds = self._orders[bell.sync_id].seconds
            self.time.after(seconds, lambda bell=bell, claimed=claimed: self._ended(bell, claimed))  # type: ignore[misc]

    def _ended(self, bell: Rung, claimed: Any) -> None:
        self._set_clock()
        said: dict[str, Any] = {"reason": "created", "seen_updated_at": None, "seen_digest": "d"}
        with self._ledger.write() as connection:
            assert transitions.finish(connection, bell.sync_id, claimed.claim, claimed.wanted, **said) == "done"
        self._flying[bell.gate_id] -= 1
        order = self._orders[bell.sync_id]
        self.took[order.number] = self.time.now - order.at
        self._line.end(bell.tenant)
        self._dispatcher.dispatch([bell.gate_id])
        self._start()


def store(ledger: Ledger, count: int) -> list[tuple[int, int]]:
    """Make so many tenants; the shop's and the gate's id of each."""
    found = []
    with ledger.write() as connection:
        for number in range(count):

            def add(table: Any, **values: Any) -> int:
                made: int = connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()
                return made

            of = add(tenants, slug=f"t{number}", name="T", active=True, tolerance="0")
            erp = add(erps, tenant_id=of, slug="erp", kind="rest", config={}, secrets=b"")
            gate = add(gates, tenant_id=of, erp_id=erp, window_cap=8, **dict.fromkeys(CAUSES, EPOCH))
            shop = {"slug": "web", "platform": "shopify", "key_hash": str(number), "config": {}, "secrets": b""}
            found.append((add(shops, tenant_id=of, gate_id=gate, active=True, **shop), gate))
    return found


def _delivery(order: Order, shop_id: int, gate_id: int) -> Delivery:
    about: dict[str, Any] = {"shop_id": shop_id, "gate_id": gate_id, "external_id": str(order.number)}
    about |= {"kind": "order", "topic": "orders/create", "updated_at": None, "event_key": None}
    return Delivery(**about, correlation_id=str(order.number), headers={}, body=b"{}")


@contextmanager
def ours(count: int, threads: int) -> Iterator[Ours]:
    """Ours, on a fresh ledger."""
    clock = virtual.Clock(BEGAN)
    with (
        tempfile.TemporaryDirectory(prefix="fairness-") as folder,
        virtual.ledger_at(clock, Path(folder)) as ledger,
    ):
        yield Ours(ledger, clock, count, threads)


def play(system: Ours | Plain, coming: list[Order], quiet: set[int]) -> dict[str, Any]:
    """Let them come until every quiet tenant's order is done; the numbers."""
    for order in coming:
        system.time.after(order.at, lambda order=order: system.come(order))  # type: ignore[misc]
    system.time.play(lambda: quiet <= system.took.keys())
    took = [system.took[number] for number in quiet]
    ranks = statistics.quantiles(took, n=100)
    return {"p50": round(ranks[49], 3), "p99": round(ranks[98], 3), "others": len(system.took) - len(took)}


def run(count: int, seconds: float, threads: int) -> dict[str, Any]:
    """All three, in one run."""
    virtual.be_quiet()
    alone, all_of_them = orders(count, seconds, flood=False), orders(count, seconds, flood=True)
    quiet = {order.number for order in all_of_them if order.tenant != count - 1}
    with ours(count, threads) as system:
        without = play(system, alone, {order.number for order in alone})
    with ours(count, threads) as system:
        beside, most = play(system, all_of_them, quiet), system.most
    plain = play(Plain(threads), all_of_them, quiet)
    each = {"alone": without, "beside the flood": beside, "plain queue": plain}
    return {
        "quiet_p99_ratio": round(beside["p99"] / without["p99"], 2),
        "fifo_p99_ratio": round(plain["p99"] / without["p99"], 2),
        "p99_seconds": {name: one["p99"] for name, one in each.items()},
        "p50_seconds": {name: one["p50"] for name, one in each.items()},
        "done": len(quiet),
        "flood_done": beside["others"],
        "most_in_flight": most,
        "tenants": count,
        "threads": threads,
    }


def main() -> None:
    """Read the command line, play, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness", description="A flood beside quiet tenants."
    )
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--short", action="store_true", help="10 tenants and 4 threads for 12 s")
    given = parser.parse_args()
    if given.short:
        given.tenants, given.seconds, given.threads = 10, 12.0, 4
    print(json.dumps(run(given.tenants, given.seconds, given.threads)))


if __name__ == "__main__":
    main()
