"""How long an order waits for a worker that two slow tenants flood: with Celery's thread pool and with ours.

    python -m benchmarks.shares [--short] [--threads 16] [--latency-ms 8000] [--orders 24] [--times 5]

starts one real worker on a fresh SQLite ledger, SQS endpoint and three management systems, for each pool. Two
tenants' systems take `latency_ms` for each request, and their backlog fills their windows; the third tenant's
system answers at once, and one order of it comes every other second. It prints JSON: the seconds from that order's
delivery to its attempt's end, by the ledger's clock, and how many runs of each slow tenant were under way before
and after.
"""

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.pools import CELERY, QUEUE, first_deliveries
from integrator.ledger.deliveries import accept
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, attempts, shops, syncs, tenants
from sandbox import large
from sandbox.shop import ShopSimulation
from sandbox.system import System
from sandbox.system_process import Process, says

POOLS = ("threads", "tasks.pool:FairPool")
SLOW, QUICK = ("acme", "globex"), "initech"
SETTLE_SECONDS = 3
PATIENCE_SECONDS = 120


def configure(system: System, shop: ShopSimulation, latency_ms: float) -> None:
    """Store the tenants, each with a shop and a management system of its own."""
    stored = []
    for name, url in system.erp_urls.items():
        erp = {"slug": "erp", "kind": "rest", "plan": large.PLAN, "config": {"url": url}}
        erp |= {"secrets": {"token": {"env": "TOKEN"}}}
        store: dict[str, Any] = {"slug": "web", "platform": "shopify", "erp": "erp", "key": {"env": name}}
        store |= {"config": shop.config}
        store |= {"secrets": {"webhook": [{"env": "TOKEN"}], "access_token": {"env": "TOKEN"}}}
        stored.append({"slug": name, "name": name, "erps": [erp], "shops": [store]})
        latency = json.dumps({"latency_ms": latency_ms if name in SLOW else 0}).encode()
        urllib.request.urlopen(f"{url}/_sandbox", latency).close()
    system.apply({"tenants": stored}, {"TOKEN": "t0ken", **{name: name * 6 for name in system.erp_urls}})


def deliver(ledger: Ledger, shop: ShopSimulation, tenant: str, numbers: range) -> list[int]:
    """Keep the first webhook of these orders for a tenant; the syncs' ids."""
    with ledger.write() as connection:
        mine = select(shops.c.id, shops.c.gate_id).join(tenants, shops.c.tenant_id == tenants.c.id)
        row = connection.execute(mine.where(tenants.c.slug == tenant)).one()
        batch = first_deliveries(shop.lives[numbers.start : numbers.stop], row.id, row.gate_id)
        return [kept.sync_id for kept in accept(connection, batch) if kept.sync_id is not None]


def start_worker(system: System, pool: str, threads: int) -> Process:
    """Start the worker as the system would, with another pool."""
    argv = [sys.executable, "-c", CELERY, pool, "--quiet", "-A", "tasks", "worker", f"--concurrency={threads}"]
    argv += ["--without-mingle", "--without-gossip", "--without-heartbeat", f"--queues={QUEUE}"]
    worker = Process(pool, argv, system.environment, system.folder.logs / "bench.log", says(r" ready\."))
    worker.start()
    worker.wait_ready()
    return worker


def held(ledger: Ledger) -> dict[str, int]:
    """How many runs of each tenant are under way."""
    owner = select(tenants.c.slug, func.count().label("held")).join(shops, shops.c.tenant_id == tenants.c.id)
    running = owner.join(syncs, syncs.c.shop_id == shops.c.id).where(syncs.c.state == State.RUNNING)
    with ledger.read() as connection:
        return {row.slug: row.held for row in connection.execute(running.group_by(tenants.c.slug))}


def wait_of(ledger: Ledger, sync_id: int) -> float:
    """Seconds from a sync's delivery to the end of its first attempt, once it is there."""
    ended = select(attempts.c.ended_at, syncs.c.accepted_at).join(syncs, attempts.c.sync_id == syncs.c.id)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        with ledger.read() as connection:
            row = connection.execute(ended.where(syncs.c.id == sync_id, attempts.c.ended_at.is_not(None))).first()
        if row is not None:
            return float(round((row.ended_at - row.accepted_at).total_seconds(), 2))
        time.sleep(0.1)
    raise TimeoutError(f"sync {sync_id} did not run")


def measure(pool: str, given: argparse.Namespace) -> dict[str, Any]:
    """One pool on a fresh system."""
    names = (*SLOW, QUICK)
    with (
        tempfile.TemporaryDirectory(prefix="fairness-") as folder,
        ShopSimulation(given.orders, seed=1) as shop,
        System(Path(folder) / "system", workers=0, worker_threads=given.threads, erp=names) as system,
    ):
        configure(system, shop, given.latency_ms)
        ledger = system.ledger()
        worker = start_worker(system, pool, given.threads)
        try:
            for name in SLOW:
                deliver(ledger, shop, name, range(given.orders))
            time.sleep(SETTLE_SECONDS)
            most, waits = held(ledger), []
            for number in range(given.times):
                (sync_id,) = deliver(ledger, shop, QUICK, range(number, number + 1))
                waits.append(wait_of(ledger, sync_id))
                time.sleep(2)
            return {"pool": pool, "waits_seconds": waits, "held_at_first": most, "held_at_last": held(ledger)}
        finally:
            worker.kill()
            ledger.close()


def main() -> None:
    """Read the command line, measure, print."""
    about = "An order's wait beside two floods."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=about)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--latency-ms", type=float, default=8_000, help="of the slow systems, for each request")
    parser.add_argument("--orders", type=int, default=24, help="of each slow tenant")
    parser.add_argument("--times", type=int, default=5, help="orders of the third tenant")
    parser.add_argument("--short", action="store_true", help="a smoke test of some seconds")
    given = parser.parse_args()
    if given.short:
        given.latency_ms, given.orders, given.times = 1_000, 8, 1
    found = [measure(pool, given) for pool in POOLS]
    print(json.dumps({"threads": given.threads, "latency_ms": given.latency_ms, "pools": found}))


if __name__ == "__main__":
    main()
