"""A Celery project of one task that does nothing, for `benchmarks.transport` and for tests of the transport.

What it is to be is one JSON in the environment: see `Wanted`. It takes `tasks.transport` as another project would,
without this one's app, whose worker would ask for a ledger.
"""

import mmap
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
from celery import Celery
from celery.signals import worker_ready

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "BENCHMARK_WORKER"
STOCK, BATCHING = "sqs", "tasks.transport:Transport"
AWS = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
CLIENT = {"connect_timeout": 3, "read_timeout": 3, "retries": {"total_max_attempts": 1}}


@dataclass(frozen=True)
class Wanted:
    """The worker: its transport, the endpoint, its queues, and the file of its runs."""

    transport: str
    url: str
    queues: tuple[str, ...]
    runs: str
    pool: str = "threads"
    concurrency: int = 16
    prefetch: int = 4  # messages for each thread or process, Celery's default
    acks_late: bool = False
    work_seconds: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)  # more of the transport's

    def environment(self) -> dict[str, str]:
        """What the worker is started with."""
        settings = {
            "INTEGRATOR_LEDGER_URL": "sqlite:///there-is-no/ledger",
            "INTEGRATOR_SECRET_KEYS": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "INTEGRATOR_SQS_ENDPOINT_URL": self.url,
            **AWS,
            "PYTHONUNBUFFERED": "1",
            VARIABLE: orjson.dumps(asdict(self)).decode(),
        }
        return {name: value for name, value in os.environ.items() if not name.startswith("INTEGRATOR_")} | settings


class Runs:
    """When each numbered task ran, in a file that processes share: seconds of the monotonic clock, 0 for never."""

    def __init__(self, file: Path, count: int = 0) -> None:
        if count:
            file.write_bytes(bytes(8 * count))
        with file.open("r+b") as opened:
            self._at = memoryview(mmap.mmap(opened.fileno(), 0)).cast("d")

    def note(self, number: int) -> None:
        """It runs now."""
        self._at[number] = time.monotonic()

    def at(self, number: int) -> float:
        """When it ran last."""
        return self._at[number]

    def of(self, numbers: range) -> list[float]:
        """When those of them ran that did."""
        return [at for at in self._at[numbers.start : numbers.stop].tolist() if at]


def celery(wanted: Wanted) -> Celery:
    """The app: queues are predefined, and the transport's options are those of this project."""
    app = Celery("bench", set_as_current=False)
    app.conf.update(
        broker_url=f"sqs://{wanted.url.partition('://')[2]}",
        broker_transport=wanted.transport,
        broker_transport_options={
            "region": "us-east-1",
            "is_secure": False,
            "wait_time_seconds": 20,
            "polling_interval": 0.05,
            "predefined_queues": {
                name: {"url": f"{wanted.url}/000000000000/{name}", "region": "us-east-1"} for name in wanted.queues
            },
            "client-config": CLIENT,
            **wanted.options,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=3,
        task_acks_late=wanted.acks_late,
        task_create_missing_queues=False,
        task_default_queue=wanted.queues[0],
        task_ignore_result=True,
        task_publish_retry=False,
        task_queues={name: {} for name in wanted.queues},
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_redirect_stdouts=False,
    )
    return app


def take_transport_alone() -> None:
    """Let `tasks.transport` be found without running `tasks/__init__.py`, which makes this project's own app."""
    package = ModuleType("tasks")
    package.__path__ = [str(ROOT / "tasks")]
    sys.modules["tasks"] = package


def _app(wanted: Wanted) -> Celery:
    made, runs, lock = celery(wanted), Runs(Path(wanted.runs)), threading.Lock()

    @made.task(name="noop")  # type: ignore[untyped-decorator]
    def noop(number: int) -> None:
        if wanted.work_seconds:
            time.sleep(wanted.work_seconds)
        with lock:
            runs.note(number)

    return made


def main() -> None:
    """Be the worker. Not by Celery's command line, which loads every program that adds a command to it."""
    wanted = Wanted(**orjson.loads(os.environ[VARIABLE]))
    worker_ready.connect(lambda **_: print("ready", flush=True), weak=False)
    take_transport_alone()
    worker = _app(wanted).Worker(
        hostname="bench@localhost",
        pool_cls=wanted.pool,
        concurrency=wanted.concurrency,
        prefetch_multiplier=wanted.prefetch,
        queues=list(wanted.queues),
        loglevel="WARNING",
        without_mingle=True,
        without_gossip=True,
        quiet=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main()
