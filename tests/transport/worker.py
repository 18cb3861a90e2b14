"""A real Celery worker on a watched endpoint, with credentials that a program renews."""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from benchmarks.transport_worker import Runs, Wanted
from sandbox.system_process import Process, says
from tests.transport.endpoint import Served, served, task
from tests.workers import until

QUEUE = "q"
VISIBILITY_SECONDS = 30
AGAIN_SECONDS = 5.0
"""How soon after the endpoint's return a worker consumes again."""

ROOM = 100_000


@dataclass
class Worker:
    """The worker, its endpoint, and what it ran: numbers are given out one by one."""

    served: Served
    process: Process
    runs: Runs
    credentials: Path
    sent: int = 0
    keys: int = 0
    slowest: dict[str, float] = field(default_factory=dict)

    def send(self, count: int = 1) -> range:
        """Put tasks on the queue."""
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        self.served.put(QUEUE, [task(number, QUEUE) for number in numbers])
        return numbers

    def ran(self, numbers: range, seconds: float = 30) -> float:
        """Wait until all of them ran; the seconds that it took."""
        began = time.monotonic()
        while len(self.runs.of(numbers)) < len(numbers):
            assert self.process.alive, self.process.obituary()
            assert time.monotonic() - began < seconds, self.process.last_words()
            time.sleep(0.01)
        return time.monotonic() - began

    @property
    def losses(self) -> int:
        """How often it has lost its connection."""
        return self.process.said().count("Connection to broker lost")

    def renew(self) -> None:
        """Give out another access key; botocore asks for it anew at each call, since its end is near."""
        self.keys += 1
        end = datetime.now(UTC) + timedelta(minutes=5)
        key = {"Version": 1, "AccessKeyId": f"K{self.keys}", "SecretAccessKey": "s", "SessionToken": "t"}
        new = self.credentials.with_suffix(".new")
        new.write_bytes(orjson.dumps({**key, "Expiration": end.isoformat()}))
        new.rename(self.credentials)

    def suffer(self, fault: str, dice: random.Random) -> float:
        """Let the endpoint go away and return; after how many seconds the worker consumes again."""
        busy = self.send(dice.randrange(8)) if dice.random() < 0.5 else self.send(0)
        end = FAULTS[fault](self)
        time.sleep(dice.uniform(0.1, 1.5))
        end()
        took = self.ran(self.send())
        self.served.pass_time(VISIBILITY_SECONDS)  # for what was on its way when the connection was lost
        self.ran(busy)
        self.slowest[fault] = max(took, self.slowest.get(fault, 0.0))
        return took


def stopped(worker: Worker) -> Callable[[], None]:
    worker.served.stop()
    return worker.served.start


def refusing(worker: Worker) -> Callable[[], None]:
    worker.served.fault(unavailable="503")
    worker.served.cut()
    return lambda: worker.served.fault(unavailable=False)


def hanging(worker: Worker) -> Callable[[], None]:
    """It returns, takes calls and never answers them, not even when others are answered again."""
    losses = worker.losses
    worker.served.stop()
    until(lambda: worker.losses > losses)  # else what is open is sent once more, and waits for so long
    worker.served.fault(unavailable="hang")
    worker.served.start()
    return lambda: worker.served.fault(unavailable=False)


def throttling(worker: Worker) -> Callable[[], None]:
    worker.served.fault(throttling=1.0)
    worker.served.cut()
    return lambda: worker.served.fault(throttling=0.0)


def cut(worker: Worker) -> Callable[[], None]:
    worker.served.cut()
    return lambda: None


def expired(worker: Worker) -> Callable[[], None]:
    worker.served.watched.expired.add(f"K{worker.keys}")
    worker.served.cut()
    return worker.renew


FAULTS = {one.__name__: one for one in (stopped, refusing, hanging, throttling, cut, expired)}


@contextmanager
def working(folder: Path, transport: str, **wanted: Any) -> Iterator[Worker]:
    """A worker that consumes."""
    file = folder / "runs"
    runs = Runs(file, ROOM)
    with served(QUEUE, visibility=VISIBILITY_SECONDS) as sqs:
        given = Wanted(transport, sqs.url, (QUEUE,), str(file), **wanted)
        config = folder / "aws"
        credentials = folder / "credentials.json"
        config.write_text(f"[default]\ncredential_process = cat {credentials}\n")
        env = {name: value for name, value in given.environment().items() if not name.startswith("AWS_")}
        env |= {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        argv = [sys.executable, "-m", "benchmarks.transport_worker"]
        process = Process("worker", argv, env, folder / "worker.log", says("^ready$"))
        worker = Worker(sqs, process, runs, credentials)
        worker.renew()
        process.start()
        try:
            process.wait_ready()
            worker.ran(worker.send())
            yield worker
        finally:
            process.kill()
