"""How many orders a second come from their webhooks to the management system, and what each costs.

    python -m benchmarks.pipeline [--short] [--orders 3000]

starts the whole system as real processes: PostgreSQL, an SQS endpoint with a latency of 8 ms, the receiver, one
worker, the scheduler and the sandbox's management system, with four tenants. It sends a tenth of the orders, waits
until they are done, then sends the others as fast as they are answered, and takes the time from the first webhook
to the last order done. Everything shares this machine's processors. It fails unless all syncs are done and the
management system holds each order once. The last line is JSON:

- `orders_per_s`: of the second part. `cpu_ms_per_order`: of the receiver, the worker and the scheduler together;
  beside it each, and `erp_` and `sqs_`, the sandbox's, which are not ours to pay.
- `sqs_calls_per_order`: requests that the endpoint counted, also receives that found nothing; each action beside.
- `transactions_per_order`: of the ledger, all processes together, and the few by which this program looks.
- `rss_mb_worker`: the worker's memory at the end; `rss_mb_worker_at_a_tenth`: after the first part.
"""

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select, text

from benchmarks.load import Orders, run
from benchmarks.parts import cpu_seconds, machine, sandbox, slow_down, tenants
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, syncs
from sandbox.postgres import postgres
from sandbox.system import System
from sandbox.system_process import Process, says

CELERY = """
import sys
sys.modules["flower.command"] = None
from celery.__main__ import main
main()
"""
"""Celery's command line as the image has it, without Flower: it would load it into each worker."""

QUEUE = "integrator-orders"
LATENCY_MS = 8
TENANTS = 4
THREADS = 16
CONNECTIONS = 16
OURS = ("receiver", "worker", "scheduler")
PARTS = (*OURS, "erp", "sqs")
COMMITTED = text("SELECT sum(xact_commit)::bigint FROM pg_stat_database")
LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 300


@contextmanager
def running(folder: Path, url: str) -> Iterator[tuple[System, Orders]]:
    """The system with its tenants, and their orders to be."""
    with System(folder, ledger_url=url, workers=0, worker_threads=THREADS) as system:
        document, secrets, targets = tenants(TENANTS, system.erp_url)
        system.apply(document, secrets)
        slow_down(system.sqs_url, LATENCY_MS)
        worker = system.processes["worker"] = _worker(system)
        worker.start()
        worker.wait_ready()
        yield system, Orders(targets)


def _worker(system: System) -> Process:
    argv = [
        sys.executable,
        "-c",
        CELERY,
        "--quiet",
        "-A",
        "tasks",
        "worker",
        "--without-mingle",
        "--without-gossip",
    ]
    argv += [f"--queues={QUEUE}", "--hostname=worker@localhost"]
    return Process("worker", argv, system.environment, system.folder.logs / "worker.log", says(r" ready\."))


@dataclass
class Usage:
    """What was used until a moment."""

    cpu_seconds: dict[str, float]
    sqs_calls: dict[str, int]
    erp_requests: int
    transactions: int

    @classmethod
    def of(cls, system: System, ledger: Ledger) -> "Usage":
        """Until now."""
        cpu = {name: cpu_seconds(system.processes[name]) for name in PARTS}
        erp = sandbox(system.erp_url)
        with ledger.read() as connection:
            transactions = connection.execute(COMMITTED).scalar_one()
        return cls(cpu, sandbox(system.sqs_url)["requests"], sum(erp["requests"].values()), transactions)


def rss_mb(system: System) -> float:
    """The worker's memory."""
    return float(psutil.Process(system.processes["worker"].pid).memory_info().rss) / 2**20


def work_off(system: System, ledger: Ledger, orders: Orders, count: int) -> float:
    """Send so many orders and wait until all that there are are done; the seconds that it took."""
    began = time.monotonic()
    port = int(system.receiver_url.rpartition(":")[2])
    sent = run(port, islice(orders, count), connections=CONNECTIONS)
    if sent.acknowledged != count:
        raise SystemExit(f"of {count} webhooks {sent.acknowledged} were acknowledged")
    while left := _open(ledger):
        system.check()
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise SystemExit(f"{left} orders are not done")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


def _open(ledger: Ledger) -> int:
    with ledger.read() as connection:
        return connection.execute(select(func.count()).where(syncs.c.state != State.DONE)).scalar_one()


def measure(folder: Path, url: str, orders: int) -> dict[str, Any]:
    """Run it; the figures."""
    tenth = max(orders // 10, 1)
    with running(folder, url) as (system, source):
        ledger = system.ledger()
        try:
            work_off(system, ledger, source, tenth)
            rss, before = rss_mb(system), Usage.of(system, ledger)
            seconds = work_off(system, ledger, source, orders)
            found = figures(orders, seconds, before, Usage.of(system, ledger))
            found |= {"rss_mb_worker": round(rss_mb(system), 1), "rss_mb_worker_at_a_tenth": round(rss, 1)}
            require_once(system, tenth + orders)
        finally:
            ledger.close()
        return found | machine()


def figures(orders: int, seconds: float, before: Usage, after: Usage) -> dict[str, Any]:
    """The figures by their keys."""
    cpu = {name: 1_000 * (after.cpu_seconds[name] - before.cpu_seconds[name]) / orders for name in PARTS}
    calls = {name: after.sqs_calls[name] - before.sqs_calls.get(name, 0) for name in after.sqs_calls}
    return {
        "orders_per_s": round(orders / seconds, 1),
        "cpu_ms_per_order": round(sum(cpu[name] for name in OURS), 2),
        "sqs_calls_per_order": round(sum(calls.values()) / orders, 2),
        **{f"cpu_ms_per_order_{name}": round(cpu[name], 2) for name in PARTS},
        **{f"sqs_{name}_per_order": round(count / orders, 2) for name, count in sorted(calls.items()) if count},
        "erp_requests_per_order": round((after.erp_requests - before.erp_requests) / orders, 2),
        "transactions_per_order": round((after.transactions - before.transactions) / orders, 1),
        "orders": orders,
        "latency_ms": LATENCY_MS,
        "tenants": TENANTS,
        "worker_threads": THREADS,
    }


def require_once(system: System, orders: int) -> None:
    """Exit unless the management system holds each order once."""
    with urllib.request.urlopen(f"{system.erp_url}/_sandbox/orders?limit=1") as answer:
        page = json.load(answer)
    if (page["creates"], page["references"]) != (orders, orders):
        raise SystemExit(f"of {orders} orders {page['references']} arrived, in {page['creates']} creates")


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description="Orders a second.")
    parser.add_argument("--short", action="store_true", help="a smoke test of a few seconds")
    parser.add_argument("--orders", type=int, default=3_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder, postgres() as url:
        print(json.dumps(measure(Path(folder), url, 40 if given.short else given.orders)))


if __name__ == "__main__":
    main()
