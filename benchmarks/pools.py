"""Celery's worker pools compared on our workload: each order waits for HTTP and for the ledger.

    python -m benchmarks.pools [--short] [--orders 600] [--latency-ms 100] [--sqlite]

runs the same orders through a real worker with a thread pool and with processes, one after the other, each on a
fresh ledger (PostgreSQL unless told otherwise), SQS endpoint and management system, which it starts and stops
itself. The last line is JSON. Seconds are those of the ledger's clock from the first claim to the last finish; the
time that processes take to start is not in them.

- `rss_mb`, `pss_mb`: memory of all the worker's processes at its highest. RSS counts shared pages once for each
  process, PSS shares them out.
- `cpu_seconds`: of all the worker's processes, from ready to done.
- `connections`: to the ledger, at the highest, beside those of the scheduler, the receiver and this program.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select, text

from integrator.ledger.deliveries import accept
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Delivery
from integrator.ledger.schema import State, attempts, shops, syncs
from sandbox import large
from sandbox.postgres import postgres
from sandbox.shop import ShopSimulation
from sandbox.shop_facts import Life
from sandbox.system import System
from sandbox.system_process import Process, says

POOLS = (("threads", 16), ("prefork", 4), ("prefork", 8), ("prefork", 16))
QUEUE = "integrator-orders"
WINDOW = 64  # more than any pool takes, so that the window is not what is measured
CELERY = """
import sys
from celery.__main__ import main
from tasks import app
app.conf.worker_pool = sys.argv.pop(1)
main()
"""
"""Celery's CLI with another pool: `--pool prefork` does not win against celeryconfig."""

SAMPLE_SECONDS = 0.25
PATIENCE_SECONDS = 600


@dataclass
class Measured:
    """One pool's figures."""

    pool: str
    concurrency: int
    orders: int
    orders_per_second: float = 0.0
    seconds: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    processes: int = 0
    rss_mb: float = 0.0
    pss_mb: float = 0.0
    cpu_seconds: float = 0.0
    connections: int = 0


@contextmanager
def ledger_url(*, sqlite: bool) -> Iterator[str | None]:
    """A fresh ledger's URL; None for the system's own SQLite."""
    if sqlite:
        yield None
        return
    with postgres() as url:
        yield url


def configure(system: System, shop: ShopSimulation, latency_ms: float) -> None:
    """Store a tenant with a wide window, and let the management system take its time."""
    erp = {"slug": "erp", "kind": "rest", "window": WINDOW, "plan": large.PLAN, "config": {"url": system.erp_url}}
    erp |= {"secrets": {"token": {"env": "TOKEN"}}}
    store: dict[str, Any] = {"slug": "web", "platform": "shopify", "erp": "erp", "key": {"env": "KEY"}}
    store |= {"config": shop.config, "secrets": {"webhook": [{"env": "TOKEN"}], "access_token": {"env": "TOKEN"}}}
    tenant = {"slug": "acme", "name": "Acme", "erps": [erp], "shops": [store]}
    system.apply({"tenants": [tenant]}, {"TOKEN": "t0ken", "KEY": "k" * 24})
    urllib.request.urlopen(f"{system.erp_url}/_sandbox", json.dumps({"latency_ms": latency_ms}).encode()).close()


def first_deliveries(lives: Sequence[Life], shop_id: int, gate_id: int) -> list[Delivery]:
    """The first webhook of each order, as the receiver keeps it."""
    return [
        Delivery(
            shop_id=shop_id,
            gate_id=gate_id,
            kind="order",
            external_id=life.external_id,
            topic=life.events[0].topic,
            updated_at=life.events[0].updated_at,
            event_key=None,
            correlation_id=life.external_id,
            headers={},
            body=life.events[0].body,
        )
        for life in lives
    ]


def deliver(ledger: Ledger, shop: ShopSimulation) -> None:
    """Keep the first webhook of every order."""
    with ledger.write() as connection:
        row = connection.execute(select(shops.c.id, shops.c.gate_id)).one()
        accept(connection, first_deliveries(shop.lives, row.id, row.gate_id))


def start_worker(system: System, pool: str, concurrency: int) -> Process:
    """Start the worker as the system would, with another pool."""
    argv = [sys.executable, "-c", CELERY, pool, "--quiet", "-A", "tasks", "worker"]
    argv += [f"--concurrency={concurrency}", "--without-mingle", "--without-gossip", "--without-heartbeat"]
    argv += [f"--queues={QUEUE}", "--hostname=bench@localhost"]
    name = f"{pool}-{concurrency}"
    worker = Process(name, argv, system.environment, system.folder.logs / f"{name}.log", says(r" ready\."))
    worker.start()
    worker.wait_ready()
    return worker


def family(worker: Process) -> list[psutil.Process]:
    """The worker's processes."""
    main = psutil.Process(worker.pid)
    return [main, *main.children(recursive=True)]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU that they have used."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def sample(measured: Measured, processes: list[psutil.Process], ledger: Ledger, others: int) -> None:
    """Look at memory and connections; the highest counts."""
    memory = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            memory.append(process.memory_full_info())
    measured.processes = max(measured.processes, len(memory))
    measured.rss_mb = max(measured.rss_mb, round(sum(one.rss for one in memory) / 2**20, 1))
    measured.pss_mb = max(measured.pss_mb, round(sum(one.pss for one in memory) / 2**20, 1))
    measured.connections = max(measured.connections, connections(ledger) - others)


def connections(ledger: Ledger) -> int:
    """Connections to the ledger; 0 on SQLite, which has none to count."""
    if ledger.on_sqlite:
        return 0
    with ledger.read() as connection:
        counted = text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return int(connection.execute(counted).scalar_one())


def open_syncs(ledger: Ledger) -> int:
    """Orders that are not done."""
    with ledger.read() as connection:
        return connection.execute(select(func.count()).where(syncs.c.state != State.DONE)).scalar_one()


def speed(measured: Measured, ledger: Ledger) -> None:
    """Take the times from the attempts."""
    with ledger.read() as connection:
        rows = connection.execute(select(attempts.c.started_at, attempts.c.ended_at)).all()
    took = sorted((row.ended_at - row.started_at).total_seconds() * 1000 for row in rows)
    seconds = (max(row.ended_at for row in rows) - min(row.started_at for row in rows)).total_seconds()
    measured.seconds = round(seconds, 2)
    measured.orders_per_second = round(measured.orders / seconds, 1)
    measured.p50_ms, measured.p95_ms = (round(took[int(len(took) * share)]) for share in (0.5, 0.95))


def work(measured: Measured, system: System, ledger: Ledger, shop: ShopSimulation) -> None:
    """Run all orders through one worker."""
    others = connections(ledger)
    worker = start_worker(system, measured.pool, measured.concurrency)
    try:
        processes = family(worker)
        before, give_up = cpu_seconds(processes), time.monotonic() + PATIENCE_SECONDS
        deliver(ledger, shop)
        while open_syncs(ledger):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{open_syncs(ledger)} orders are not done")
            sample(measured, processes, ledger, others)
            time.sleep(SAMPLE_SECONDS)
        measured.cpu_seconds = round(cpu_seconds(processes) - before, 2)
        speed(measured, ledger)
    finally:
        worker.terminate()


def measure(pool: str, concurrency: int, given: argparse.Namespace) -> Measured:
    """One pool on a fresh system."""
    measured = Measured(pool, concurrency, given.orders)
    with (
        tempfile.TemporaryDirectory(prefix="pools-") as folder,
        ledger_url(sqlite=given.sqlite) as url,
        ShopSimulation(given.orders, seed=1) as shop,
        System(Path(folder) / "system", ledger_url=url, workers=0, worker_threads=concurrency) as system,
    ):
        configure(system, shop, given.latency_ms)
        ledger = system.ledger()
        work(measured, system, ledger, shop)
        ledger.close()
    return measured


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pools", description="Celery's worker pools compared."
    )
    parser.add_argument("--orders", type=int, default=600)
    parser.add_argument("--latency-ms", type=float, default=100, help="of the management system, for each request")
    parser.add_argument("--sqlite", action="store_true", help="the ledger on SQLite instead of PostgreSQL")
    parser.add_argument("--short", action="store_true", help="a smoke test of a few seconds")
    given = parser.parse_args()
    if given.short:
        given.orders = 20
    figures = [asdict(measure(pool, concurrency, given)) for pool, concurrency in POOLS]
    about = {"ledger": "sqlite" if given.sqlite else "postgresql", "latency_ms": given.latency_ms}
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({**about, "cores": os.cpu_count(), "load_1_min": load, "pools": figures}))


if __name__ == "__main__":
    main()
