"""How many webhooks a second are kept, beside a view that hands each to Celery as it is often written.

    python -m benchmarks.ingest [--short] [--seconds 5] [--rounds 3]

starts PostgreSQL, an SQS endpoint, the receiver and the naive peer (`benchmarks.naive`), the latter two with the
same server, processes and threads, and sends both the same orders of about 9 KB, taking turns, with the endpoint's
latency at 8 ms and at 0 ms. Everything shares this machine's processors: the load generator, the database, the
endpoint. It fails unless the ledger then holds exactly the orders that were acknowledged. The last line is JSON:

- `acks_per_s`, `naive_acks_per_s`, `ratio`: medians over the rounds at 8 ms; the same with `_at_0_ms`.
- `ack_ms_p99_half_load`, `ack_ms_p50_half_load`: of the receiver at half of `acks_per_s`, the requests being sent
  at fixed times and their time counting from then.
- `cpu_ms_per_ack`: of the receiver's processes; `naive_cpu_ms_per_ack`: of the peer's. `load_cpu_share`: how much
  of one processor the load generator used at the receiver's top rate.
- `acknowledged`, `kept`: orders that the receiver answered 200, and those in its ledger; `naive_acknowledged`,
  `naive_queued`: those of the peer, and messages in its queue.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import boto3
from sqlalchemy import func, select

from benchmarks.load import HOST, Measured, Orders, Target, run
from benchmarks.parts import SECRET, cpu_seconds, machine, slow_down, tenants
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import deliveries, syncs
from sandbox.postgres import postgres
from sandbox.system import System
from sandbox.system_ports import free_port
from sandbox.system_process import Process, answers_tcp

PROCESSES = 2
THREADS = 64
CONNECTIONS = PROCESSES * THREADS
"""So that each thread of both can be at work."""

MADE_AHEAD = 3_000
"""Requests a second that are made before a run; should more be sent, they are made meanwhile."""

LATENCIES_MS = (8, 0)
TENANTS = 4
QUEUE = "naive"


@dataclass
class Side:
    """One of the two: its server, what it is asked, and what was measured of it."""

    process: Process
    port: int
    orders: Orders
    runs: list[Measured] = field(default_factory=list)
    by_latency: dict[int, list[Measured]] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def load(self, seconds: float, **how: Any) -> Measured:
        """Send for so long, as much as it takes unless told otherwise."""
        self.orders.make_ready(int(seconds * MADE_AHEAD))
        before = cpu_seconds(self.process)
        measured = run(self.port, self.orders, seconds=seconds, connections=CONNECTIONS, **how)
        self.cpu_seconds += cpu_seconds(self.process) - before
        self.runs.append(measured)
        return measured

    def per_second(self, latency_ms: int) -> float:
        """Acknowledgements a second, the rounds' median."""
        return median(one.per_second for one in self.by_latency[latency_ms])

    @property
    def acknowledged(self) -> int:
        """All that it ever answered 200."""
        return sum(one.acknowledged for one in self.runs)

    @property
    def cpu_ms(self) -> float:
        """Of its processes for each acknowledgement."""
        return 1_000 * self.cpu_seconds / self.acknowledged


@contextmanager
def receiver(folder: Path, url: str, settings: dict[str, str]) -> Iterator[tuple[System, Side]]:
    """The receiver on an empty ledger, with the endpoint and the scheduler."""
    settings = settings | {"INTEGRATOR_WEB_PROCESSES": str(PROCESSES), "INTEGRATOR_WEB_THREADS": str(THREADS)}
    with System(folder, ledger_url=url, workers=0, erp=False, extra_env=settings) as system:
        document, secrets, targets = tenants(TENANTS)
        system.apply(document, secrets)
        port = int(system.receiver_url.rpartition(":")[2])
        yield system, Side(system.processes["receiver"], port, Orders(targets))


@contextmanager
def naive(folder: Path, sqs_url: str) -> Iterator[Side]:
    """The naive peer, and its queue on the same endpoint."""
    sqs(sqs_url).create_queue(QueueName=QUEUE)
    port = free_port()
    argv = [sys.executable, "-m", "gunicorn", "-k", "gthread", "-b", f"{HOST}:{port}", "benchmarks.naive:app"]
    argv += [f"--workers={PROCESSES}", f"--threads={THREADS}", "--backlog=2048"]
    environment = os.environ | {"NAIVE_SECRET": SECRET, "NAIVE_SQS_URL": sqs_url}
    environment |= {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
    process = Process("naive", argv, environment, folder / "naive.log", answers_tcp(port))
    process.start()
    try:
        process.wait_ready()
        yield Side(process, port, Orders([Target("/webhooks/shopify", SECRET.encode(), "naive.myshopify.com")]))
    finally:
        process.terminate()


def sqs(url: str) -> Any:
    """A client of the endpoint."""
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="sandbox",
        aws_secret_access_key="sandbox",
    )


def queued(sqs_url: str) -> int:
    """How many messages the naive peer's queue holds."""
    queue, name = f"{sqs_url}/000000000000/{QUEUE}", "ApproximateNumberOfMessages"
    return int(sqs(sqs_url).get_queue_attributes(QueueUrl=queue, AttributeNames=[name])["Attributes"][name])


def kept(ledger: Ledger) -> tuple[int, int]:
    """Deliveries and orders in the ledger."""
    with ledger.read() as connection:
        first, second = (
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (deliveries, syncs)
        )
        return first, second


def measure(folder: Path, url: str, settings: dict[str, str], *, seconds: float, rounds: int) -> dict[str, Any]:
    """All rounds; the figures."""
    with receiver(folder, url, settings) as (system, ours), naive(folder, system.sqs_url) as peer:
        for side in (peer, ours):
            side.load(seconds / 2)  # what a server loads with its first requests is not its rate
        for latency_ms in LATENCIES_MS:
            slow_down(system.sqs_url, latency_ms)
            for _ in range(rounds):
                for side in (peer, ours):
                    side.by_latency.setdefault(latency_ms, []).append(side.load(seconds))
        slow_down(system.sqs_url, LATENCIES_MS[0])
        half = ours.load(seconds * 2, rate=ours.per_second(LATENCIES_MS[0]) / 2)
        return figures(ours, peer, half) | accounts(system, ours, peer) | machine()


def figures(ours: Side, peer: Side, half: Measured) -> dict[str, Any]:
    """The figures by their keys."""
    found: dict[str, Any] = {}
    for latency_ms, suffix in zip(LATENCIES_MS, ("", "_at_0_ms"), strict=True):
        mine, other = ours.per_second(latency_ms), peer.per_second(latency_ms)
        found |= {f"acks_per_s{suffix}": round(mine), f"naive_acks_per_s{suffix}": round(other)}
        found |= {f"ratio{suffix}": round(mine / other, 2)}
    top = ours.by_latency[LATENCIES_MS[0]]
    return found | {
        "ack_ms_p99_half_load": round(half.percentile_ms(0.99), 1),
        "ack_ms_p50_half_load": round(half.percentile_ms(0.5), 1),
        "cpu_ms_per_ack": round(ours.cpu_ms, 3),
        "naive_cpu_ms_per_ack": round(peer.cpu_ms, 3),
        "load_cpu_share": round(sum(one.cpu_seconds for one in top) / sum(one.seconds for one in top), 2),
        "processes": PROCESSES,
        "threads": THREADS,
        "connections": CONNECTIONS,
    }


def accounts(system: System, ours: Side, peer: Side) -> dict[str, int]:
    """What was acknowledged and where it is now. Exits when the ledger holds anything else."""
    ledger = system.ledger()
    told, held = ours.acknowledged, kept(ledger)
    ledger.close()
    if held != (told, told):
        raise SystemExit(f"{told} orders were acknowledged, and the ledger holds {held[0]} of {held[1]}")
    return {
        "acknowledged": told,
        "kept": held[1],
        "refused": sum(one.refused for one in ours.runs),
        "naive_acknowledged": peer.acknowledged,
        "naive_queued": queued(system.sqs_url),
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description="Webhooks kept a second.")
    parser.add_argument("--short", action="store_true", help="a smoke test of a few seconds")
    parser.add_argument("--seconds", type=float, default=5, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--group-commit", type=int, default=64, help="webhooks of one transaction at most")
    given = parser.parse_args()
    seconds, rounds = (0.5, 1) if given.short else (given.seconds, given.rounds)
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder, postgres() as url:
        settings = {"INTEGRATOR_GROUP_COMMIT": str(given.group_commit)}
        print(json.dumps(measure(Path(folder), url, settings, seconds=seconds, rounds=rounds)))


if __name__ == "__main__":
    main()
