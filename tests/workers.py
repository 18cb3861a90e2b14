"""Real worker processes for tests: an SQS endpoint, a management system and a ledger of their own."""

import base64
import json
import os
import runpy
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest
from celery import Celery
from sqlalchemy import select

from integrator.config import settings
from integrator.dispatch import Dispatcher
from integrator.ledger.deliveries import accept
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Delivery
from integrator.ledger.schema import shops, syncs
from integrator.ledger.tenants import File, apply
from integrator.secrets import KeyRing, new_key
from sandbox import large
from sandbox.shop import ShopSimulation
from sandbox.shop_orders import Life
from sandbox.system_ports import free_port
from sandbox.system_process import ROOT, Process, says
from tasks.publishing import publisher

PATIENCE_SECONDS = 40
QUEUE = "integrator-orders"
ALONE = ("--without-mingle", "--without-gossip")
AWS = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}


def until(happened: Callable[[], object]) -> None:
    """Wait until something is so."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.05)


def control(url: str, **change: Any) -> dict[str, Any]:
    """Read the sandbox's state at an address, or change it."""
    data = json.dumps(change).encode() if change else None
    with urllib.request.urlopen(f"{url}/_sandbox", data, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def served(folder: Path, module: str, *options: str) -> Iterator[str]:
    """A sandbox server; its address."""
    port = free_port()
    argv = [sys.executable, "-m", module, f"--port={port}", *options]
    process = Process(module, argv, {**os.environ}, folder / f"{module}.log", says("^ready "))
    process.start()
    try:
        process.wait_ready()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()


def celery_for(endpoint: str) -> Celery:
    """A Celery app with celeryconfig's settings for an endpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTEGRATOR_SQS_ENDPOINT_URL", endpoint)
        settings.cache_clear()
        found = runpy.run_path(str(ROOT / "celeryconfig.py"))
    settings.cache_clear()
    app = Celery("test", set_as_current=False)
    app.conf.update({name: value for name, value in found.items() if name.islower() and name[0] != "_"})
    return app


def sqs(endpoint: str) -> Any:
    """A client of the endpoint."""
    return boto3.client("sqs", region_name="us-east-1", endpoint_url=endpoint)


def messages(endpoint: str) -> list[dict[str, Any]]:
    """What can be received now, as SQS gives it."""
    url = f"{endpoint}/000000000000/{QUEUE}"
    wanted = {"AttributeNames": ["All"], "MessageAttributeNames": ["All"]}
    found: list[dict[str, Any]] = (
        sqs(endpoint).receive_message(QueueUrl=url, MaxNumberOfMessages=10, **wanted).get("Messages", [])
    )
    return found


def depth(endpoint: str) -> dict[str, int]:
    """Messages that are visible, and in flight."""
    names = {"visible": "ApproximateNumberOfMessages", "in flight": "ApproximateNumberOfMessagesNotVisible"}
    found = sqs(endpoint).get_queue_attributes(
        QueueUrl=f"{endpoint}/000000000000/{QUEUE}", AttributeNames=list(names.values())
    )
    return {name: int(found["Attributes"][attribute]) for name, attribute in names.items()}


def opened(message: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """A Celery message's envelope and its decoded body."""
    envelope: dict[str, Any] = orjson.loads(base64.b64decode(message["Body"]))
    return envelope, orjson.loads(base64.b64decode(envelope["body"]))


@dataclass
class Plant:
    """What workers work on: one tenant with a Shopify shop and a management system."""

    folder: Path
    ledger: Ledger
    sqs_url: str
    erp_url: str
    shop: ShopSimulation
    keys: str = field(default_factory=new_key)
    workers: list[Process] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process of the plant is started with."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("INTEGRATOR_", "AWS_"))},
            **AWS,
            "INTEGRATOR_LEDGER_URL": self.ledger.url.render_as_string(hide_password=False),
            "INTEGRATOR_SECRET_KEYS": self.keys,
            "INTEGRATOR_SQS_ENDPOINT_URL": self.sqs_url,
            "PYTHONUNBUFFERED": "1",
        }

    def apply(self) -> None:
        """Store the tenant."""
        erp = {"slug": "erp", "kind": "rest", "plan": large.PLAN, "config": {"url": self.erp_url}}
        erp |= {"secrets": {"token": {"env": "T"}}}
        shop: dict[str, Any] = {"slug": "web", "platform": "shopify", "erp": "erp", "key": {"env": "K"}}
        shop |= {"config": self.shop.config}
        shop |= {"secrets": {"webhook": [{"env": "T"}], "access_token": {"env": "ACCESS"}}}
        file = File.model_validate({"tenants": [{"slug": "acme", "name": "Acme", "erps": [erp], "shops": [shop]}]})
        with self.ledger.write() as connection:
            environment = {"T": "t0ken", "K": "k" * 24, "ACCESS": self.shop.access_token}
            apply(connection, file, environment, KeyRing((self.keys,)))

    def deliver(self, count: int) -> list[int]:
        """Keep the first webhook of so many orders; their syncs' ids."""
        with self.ledger.write() as connection:
            shop = connection.execute(select(shops.c.id, shops.c.gate_id)).one()
            return [
                kept.sync_id
                for kept in accept(connection, [self._delivery(life, shop) for life in self.shop.lives[:count]])
                if kept.sync_id is not None
            ]

    def _delivery(self, life: Life, shop: Any) -> Delivery:
        event = life.events[0]
        self.shop.state.advance(event)
        return Delivery(
            shop_id=shop.id,
            gate_id=shop.gate_id,
            kind="order",
            external_id=life.external_id,
            topic=event.topic,
            updated_at=event.updated_at,
            event_key=None,
            correlation_id=f"c{life.external_id}",
            headers={},
            body=event.body,
        )

    def dispatch(self) -> int:
        """Ring for what is due, as the scheduler does."""
        app = celery_for(self.sqs_url)
        try:
            return Dispatcher(self.ledger, publisher(app)).dispatch()
        finally:
            app.close()

    def worker(self, *, program: str | None = None, ready: str = r" ready\.", **env: str) -> Process:
        """Start a worker with two threads."""
        run = ["-c", program] if program else ["-m", "celery"]
        arguments = ["--quiet", "-A", "tasks", "worker", *ALONE]
        name = f"worker-{len(self.workers)}"
        given = {"INTEGRATOR_WORKER_THREADS": "2", **env}
        environment = {**self.environment, **given}
        log = self.folder / f"{name}.log"
        process = Process(name, [sys.executable, *run, *arguments], environment, log, says(ready))
        self.workers.append(process)
        process.start()
        return process

    def states(self) -> list[str]:
        """The states of all syncs, by id."""
        with self.ledger.read() as connection:
            return list(connection.execute(select(syncs.c.state).order_by(syncs.c.id)).scalars())

    def orders(self) -> list[dict[str, Any]]:
        """What the management system holds."""
        with urllib.request.urlopen(f"{self.erp_url}/_sandbox/orders?limit=100", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["orders"]
            return found

    def close(self) -> None:
        """Kill what is left."""
        for process in self.workers:
            process.kill()
