"""Celery on SQS with kombu's own transport and with the batching one, in one run.

    python -m benchmarks.transport [--short] [--latency-ms 8] [--rounds 3] [--curve] [--plot FILE]

starts an SQS endpoint for each measurement, puts tasks that do nothing on its queue, lets each of its answers take
so long, and starts a Celery worker of 16 threads that takes them off; the two transports take turns, with the same
options and the same prefetch (Celery's 4 for each thread). The last line is JSON:

- `tasks_per_s`, `stock_tasks_per_s`: from the first run until SQS holds no message any more, the median of the
  rounds; `ratio`: the median of each round's. `curve`: the same by milliseconds of latency.
- `calls_per_task`, `stock_calls_per_task`: requests that the endpoint counted, from the send to the delete, with
  receives that found nothing. `sends_`, `receives_`, `deletes_`: its parts.
- `publishes_per_s`, `stock_publishes_per_s`: what one thread sends.
- `pickup_ms_p50`, `pickup_ms_p99`: from the moment that a message is visible to the start of its task, the worker
  having had nothing to do before; `stock_` beside them.
- `rss_mb`, `stock_rss_mb`: the worker's memory at the end.

It fails unless every task ran and every message is gone.
"""

import argparse
import base64
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import boto3
import orjson
import psutil
from botocore.config import Config

from benchmarks.parts import machine, sandbox, slow_down
from benchmarks.transport_worker import AWS, BATCHING, STOCK, Runs, Wanted, celery, take_transport_alone
from sandbox.system_ports import free_port
from sandbox.system_process import Process, says

QUEUE = "bench"
NAMES = {STOCK: "stock_", BATCHING: ""}
CURVE_MS = (1, 2, 4, 8, 16, 32, 64, 100)
SECONDS = 6.0
"""About how long one measurement of a rate takes."""

ENOUGH = {STOCK: 900.0, BATCHING: 9_000.0}
"""Tasks for a second at a latency of a millisecond, so that a rate is measured for about so long; a guess."""

PATIENCE_SECONDS = 300
PUBLISHED = 401
PICKUPS = 200
SHORT = 40
CALLS = {"sends": "SendMessage", "receives": "ReceiveMessage", "deletes": "DeleteMessage"}


@dataclass
class Found:
    """What was measured of one transport, by latency, and of one latency in more detail."""

    tasks_per_s: dict[float, list[float]] = field(default_factory=dict)
    calls: list[dict[str, float]] = field(default_factory=list)
    publishes: list[float] = field(default_factory=list)
    pickups_ms: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)


class Bench:
    """An endpoint, and a worker that does nothing, on one transport."""

    def __init__(self, folder: Path, transport: str, endpoint: Process, url: str, count: int) -> None:
        self.runs = Runs(folder / "runs", count)
        self.wanted = Wanted(transport, url, (QUEUE,), str(folder / "runs"))
        self.app = celery(self.wanted)
        self.endpoint = endpoint
        log = folder / "worker.log"
        self.worker = Process(
            "worker",
            [sys.executable, "-m", "benchmarks.transport_worker"],
            self.wanted.environment(),
            log,
            says("^ready$"),
        )
        self._sqs: Any = boto3.client(
            "sqs",
            region_name="us-east-1",
            endpoint_url=url,
            config=Config(retries={"total_max_attempts": 1}),
        )
        self._url = f"{url}/000000000000/{QUEUE}"

    def calls(self) -> dict[str, int]:
        """Requests by what they are for, single and in batches; looking at the queue is not counted."""
        counted = sandbox(self.wanted.url)["requests"]
        return {
            name: sum(counted.get(f"{action}{end}", 0) for end in ("", "Batch")) for name, action in CALLS.items()
        }

    def publish(self, numbers: Sequence[int]) -> float:
        """Send tasks as a program of this transport does; how many a second, the first left out."""
        with self.app.producer_pool.acquire(block=True) as producer:
            first, *others = (
                partial(self.app.send_task, "noop", (number,), queue=QUEUE, producer=producer, retry=False)
                for number in numbers
            )
            first()
            began = time.monotonic()
            if self.wanted.transport == STOCK:
                for send in others:
                    send()
            elif failed := producer.channel.publish_many(others):
                raise SystemExit(f"Messages were not sent: {failed}")
            return len(others) / (time.monotonic() - began)

    def fill(self, numbers: Sequence[int]) -> None:
        """Put tasks on the queue as copies of one that is there; quickly, not as anybody would."""
        body = self._sqs.receive_message(QueueUrl=self._url, VisibilityTimeout=0)["Messages"][0]["Body"]
        envelope = orjson.loads(base64.b64decode(body))
        _, named, embedded = orjson.loads(base64.b64decode(envelope["body"]))
        for begin in range(0, len(numbers), 10):
            entries = []
            for number in numbers[begin : begin + 10]:
                envelope["body"] = base64.b64encode(orjson.dumps([[number], named, embedded])).decode()
                envelope["headers"]["id"] = f"task-{number}"
                copy = base64.b64encode(orjson.dumps(envelope)).decode()
                entries.append({"Id": str(number), "MessageBody": copy})
            self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)

    def work_off(self, count: int) -> float:
        """Wait until all that are there ran and are gone; the seconds from the first run."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        numbers = range(count)
        while len(ran := self.runs.of(numbers)) < count or self._left():
            if time.monotonic() > give_up or not (self.endpoint.alive and self.worker.alive):
                raise SystemExit(f"{len(ran)} of {count} tasks ran. {self.worker.last_words()}")
            time.sleep(0.01)
        return time.monotonic() - min(ran)

    def _left(self) -> int:
        names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible")]
        found = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)["Attributes"]
        return sum(map(int, found.values()))

    def pick_up(self, numbers: Sequence[int]) -> Iterator[float]:
        """Send one at a time to a worker with nothing to do; milliseconds from visible to begun."""
        with self.app.producer_pool.acquire(block=True) as producer:
            for number in numbers:
                time.sleep(random.uniform(0.05, 0.15))
                self.app.send_task("noop", (number,), queue=QUEUE, producer=producer, retry=False)
                visible, give_up = time.monotonic(), time.monotonic() + PATIENCE_SECONDS
                while not self.runs.at(number):
                    if time.monotonic() > give_up:
                        raise SystemExit(f"A message was not picked up. {self.worker.last_words()}")
                    time.sleep(0.001)
                yield max(1_000 * (self.runs.at(number) - visible), 0.0)  # it may have begun before we knew

    def rss_mb(self) -> float:
        """The worker's memory."""
        return float(psutil.Process(self.worker.pid).memory_info().rss) / 2**20


@contextmanager
def bench(transport: str, count: int) -> Iterator[Bench]:
    """An endpoint and all that asks it; the worker is not started yet."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="transport-") as name:
        folder = Path(name)
        argv = [sys.executable, "-m", "sandbox.sqs", f"--port={port}", f"--queue={QUEUE}"]
        endpoint = Process("sqs", argv, os.environ, folder / "sqs.log", says("^ready "))
        endpoint.start()
        endpoint.wait_ready()
        made = Bench(folder, transport, endpoint, f"http://127.0.0.1:{port}", count)
        try:
            yield made
        finally:
            made.worker.terminate(10)
            made.app.close()
            endpoint.kill()


def measure(transport: str, latency_ms: float, found: Found, *, count: int, pickups: int) -> None:
    """One round of one transport: publish, work off, and wait for messages that come alone."""
    published = min(PUBLISHED, count)
    with bench(transport, count + pickups) as made:
        slow_down(made.wanted.url, latency_ms)
        before = made.calls()
        rate = made.publish(range(published))
        sends = (made.calls()["sends"] - before["sends"]) / published
        slow_down(made.wanted.url, 0)
        made.fill(range(published, count))
        slow_down(made.wanted.url, latency_ms)
        before = made.calls()
        made.worker.start()
        made.worker.wait_ready()
        seconds = made.work_off(count)
        used = {name: (calls - before[name]) / count for name, calls in made.calls().items()} | {"sends": sends}
        found.tasks_per_s.setdefault(latency_ms, []).append(count / seconds)
        if pickups:
            found.publishes.append(rate)
            found.calls.append(used)
            found.pickups_ms += made.pick_up(range(count, count + pickups))
            found.rss_mb.append(made.rss_mb())


def tasks_for(transport: str, latency_ms: float, seconds: float) -> int:
    """How many tasks a measurement takes."""
    return max(SHORT, int(seconds * ENOUGH[transport] / (latency_ms + 3)))


def compare(latencies: Sequence[float], given: argparse.Namespace) -> dict[str, Found]:
    """Both transports take turns, round after round; more than the rate is looked at for the first latency."""
    found = {transport: Found() for transport in NAMES}
    for latency in latencies:
        for _ in range(given.rounds):
            for transport in NAMES:
                count = SHORT if given.short else tasks_for(transport, latency, given.seconds)
                pickups = 0 if latency != given.latency_ms else 5 if given.short else PICKUPS // given.rounds
                measure(transport, latency, found[transport], count=count, pickups=pickups)
    return found


def figures(found: dict[str, Found], latency_ms: float) -> dict[str, Any]:
    """The figures by their keys."""
    said: dict[str, Any] = {}
    for transport, prefix in NAMES.items():
        one = found[transport]
        calls = {name: median(round_[name] for round_ in one.calls) for name in CALLS}
        said[f"{prefix}tasks_per_s"] = round(median(one.tasks_per_s[latency_ms]), 1)
        said[f"{prefix}calls_per_task"] = round(sum(calls.values()), 3)
        said |= {f"{prefix}{name}_per_task": round(value, 3) for name, value in calls.items()}
        said[f"{prefix}publishes_per_s"] = round(median(one.publishes), 1)
        said[f"{prefix}pickup_ms_p50"] = round(median(one.pickups_ms), 1)
        said[f"{prefix}pickup_ms_p99"] = round(quantiles(one.pickups_ms, n=100, method="inclusive")[98], 1)
        said[f"{prefix}rss_mb"] = round(max(one.rss_mb), 1)
    rates = zip(found[BATCHING].tasks_per_s[latency_ms], found[STOCK].tasks_per_s[latency_ms], strict=True)
    said["ratio"] = round(median(ours / stock for ours, stock in rates), 2)
    said["curve"] = {
        f"{latency:g}": {
            f"{prefix}tasks_per_s": median_of(found, transport, latency) for transport, prefix in NAMES.items()
        }
        for latency in found[STOCK].tasks_per_s
    }
    return said | {"latency_ms": latency_ms}


def median_of(found: dict[str, Found], transport: str, latency: float) -> float:
    """A rate of the curve."""
    return round(median(found[transport].tasks_per_s[latency]), 1)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport", description="Celery on SQS, two ways.")
    parser.add_argument("--short", action="store_true", help="a smoke test of a few seconds")
    parser.add_argument("--latency-ms", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="about how long each rate is measured for")
    parser.add_argument("--curve", action="store_true", help=f"also at latencies of {CURVE_MS} ms")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curve as SVG")
    given = parser.parse_args()
    if given.short:
        given.rounds = 1
    latencies = [given.latency_ms]
    if given.curve or given.plot:
        latencies += [latency for latency in CURVE_MS if latency != given.latency_ms]
    take_transport_alone()
    os.environ |= AWS
    said = figures(compare(latencies, given), given.latency_ms)
    if given.plot:
        from benchmarks.transport_plot import draw  # noqa: PLC0415 - only who draws needs matplotlib

        draw(said["curve"], given.plot)
    print(json.dumps(said | machine()))


if __name__ == "__main__":
    main()
