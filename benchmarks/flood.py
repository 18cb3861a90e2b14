"""How long quiet tenants' orders take beside a flood, with real processes: ours, and a plain queue.

    python -m benchmarks.flood [--short] [--tenants 50] [--seconds 90] [--latency-ms 2000]

starts the whole system three times: PostgreSQL, an SQS endpoint with a latency of 8 ms, the receiver, the
scheduler, two workers and the sandbox's management system, which takes `latency_ms` for each request. The quiet
tenants send an order each half minute; in the second and the third run one more tenant sends a hundred times as
many, which is more than the workers' threads can take. The plain queue of the third is the same system with
windows that bound nothing and Celery's own thread pool. `benchmarks.fairness` plays the same without waiting.

The last line is JSON: `quiet_p99_ratio`, the quiet tenants' 99th percentile from the webhook's acceptance to the
end of the run that made the order, by the ledger's clock, beside the flood over that without it; `fifo_p99_ratio`,
the plain queue's over the same; the seconds; and how many orders of the flood ran meanwhile. The machine's
processors are shared by all of it: what is found on a busy one says little.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.load import Orders, Target, run
from benchmarks.parts import machine, slow_down, tenants
from benchmarks.pools import CELERY, QUEUE
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, attempts, shops, syncs
from integrator.ledger.schema import tenants as tenants_table
from sandbox.postgres import postgres
from sandbox.system import System
from sandbox.system_process import Process, says

FLOOD = 100
"""How many times as many orders the flooding tenant sends as a quiet one."""

QUIET_SECONDS = 30.0
"""Between two orders of a quiet tenant."""

WORKERS = 2
SQS_LATENCY_MS = 8
NO_WINDOW = 1_000
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Way:
    """One of the three runs: who sends, and how orders are dispatched."""

    name: str
    flood: bool
    pool: str = "tasks.pool:FairPool"
    window: int = 8


WAYS = (
    Way("alone", flood=False),
    Way("beside the flood", flood=True),
    Way("plain queue", flood=True, pool="threads", window=NO_WINDOW),
)


def _start(system: System, way: Way, number: int, threads: int) -> Process:
    argv = [sys.executable, "-c", CELERY, way.pool, "--quiet", "-A", "tasks", "worker", f"--concurrency={threads}"]
    argv += ["--without-mingle", "--without-gossip", "--without-heartbeat", f"--queues={QUEUE}"]
    name = f"worker-{number}"
    argv += [f"--hostname={name}@localhost"]
    worker = Process(name, argv, system.environment, system.folder.logs / f"{name}.log", says(r" ready\."))
    worker.start()
    return worker


def took(ledger: Ledger, flooder: str) -> tuple[list[float], int]:
    """The seconds from acceptance to the end of each quiet order that is done; how many of the flood are."""
    ended = func.max(attempts.c.ended_at)
    query = (
        select(tenants_table.c.slug, syncs.c.accepted_at, ended.label("ended_at"))
        .join(attempts, attempts.c.sync_id == syncs.c.id)
        .join(shops, shops.c.id == syncs.c.shop_id)
        .join(tenants_table, tenants_table.c.id == shops.c.tenant_id)
        .where(syncs.c.state == State.DONE)
        .group_by(tenants_table.c.slug, syncs.c.id, syncs.c.accepted_at)
    )
    with ledger.read() as connection:
        rows = connection.execute(query).all()
    quiet = [(row.ended_at - row.accepted_at).total_seconds() for row in rows if row.slug != flooder]
    return quiet, len(rows) - len(quiet)


def send(system: System, targets: list[Target], count: int, rate: float, failed: list[str]) -> None:
    """Send so many orders at fixed times; what went wrong goes to `failed`."""
    port = int(system.receiver_url.rpartition(":")[2])
    sent = run(port, islice(Orders(targets), count), connections=8, rate=rate, seconds=count / rate + 60)
    if sent.acknowledged != count:
        failed.append(f"of {count} webhooks {sent.acknowledged} were acknowledged")


def measure(way: Way, given: argparse.Namespace, folder: Path, url: str) -> dict[str, Any]:
    """One run on a fresh system; the numbers."""
    with ExitStack() as stack:
        system = stack.enter_context(System(folder, ledger_url=url, workers=0, worker_threads=given.threads))
        document, secrets, targets = tenants(given.tenants, system.erp_url)
        for tenant in document["tenants"]:
            tenant["erps"][0]["window"] = way.window
        system.apply(document, secrets)
        slow_down(system.sqs_url, SQS_LATENCY_MS)
        told = json.dumps({"latency_ms": given.latency_ms}).encode()
        urllib.request.urlopen(f"{system.erp_url}/_sandbox", told).close()
        workers = [_start(system, way, number, given.threads) for number in range(WORKERS)]
        for worker in workers:
            stack.callback(worker.kill)
            worker.wait_ready()
        ledger = system.ledger()
        stack.callback(ledger.close)
        return _flow(way, given, system, ledger, targets)


def _flow(
    way: Way, given: argparse.Namespace, system: System, ledger: Ledger, targets: list[Target]
) -> dict[str, Any]:
    quiet, flooder, failed = targets[:-1], f"tenant-{given.tenants - 1}", list[str]()
    each = max(round(given.seconds / QUIET_SECONDS), 1)
    owed, rate = each * len(quiet), len(quiet) / QUIET_SECONDS
    senders = [(quiet, owed, rate)] + [(targets[-1:], each * FLOOD, FLOOD / QUIET_SECONDS)] * way.flood
    threads = [threading.Thread(target=send, args=(system, *one, failed), daemon=True) for one in senders]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + given.seconds + PATIENCE_SECONDS
    while len((found := took(ledger, flooder))[0]) < owed:
        system.check()
        if failed or time.monotonic() > give_up:
            raise SystemExit(f"{way.name}: {failed or len(found[0])} of {owed} quiet orders are done")
        time.sleep(1)
    ranks = statistics.quantiles(found[0], n=100)
    return {"p50": round(ranks[49], 2), "p99": round(ranks[98], 2), "done": owed, "flood_done": found[1]}


def measure_all(given: argparse.Namespace) -> dict[str, Any]:
    """All three, one after the other; the numbers."""
    found = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory(prefix="flood-") as folder, postgres() as url:
            found[way.name] = measure(way, given, Path(folder), url)
    alone, beside, plain = (found[way.name] for way in WAYS)
    return {
        "quiet_p99_ratio": round(beside["p99"] / alone["p99"], 2),
        "fifo_p99_ratio": round(plain["p99"] / alone["p99"], 2),
        "runs": found,
        "tenants": given.tenants,
        "threads": WORKERS * given.threads,
        "latency_ms": given.latency_ms,
        **machine(),
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flood", description="A flood beside quiet tenants."
    )
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--threads", type=int, default=4, help="of each of two workers")
    parser.add_argument("--latency-ms", type=float, default=2_000, help="of the management system, each request")
    parser.add_argument("--short", action="store_true", help="a smoke test of some seconds")
    given = parser.parse_args()
    if given.short:
        given.tenants, given.seconds, given.latency_ms = 8, 20.0, 300
    print(json.dumps(measure_all(given)))


if __name__ == "__main__":
    main()
