"""A worker and a ledger whose time is played: hours pass while nobody waits, and nothing else is made up.

The ledger is SQLite whose clock is `Clock`; the dispatcher, the tasks, the connectors and the breaker are the
project's own, and the management system is the sandbox's in its own process, over HTTP. One run goes after the
other in this process, so what is played are counts and order, not how much is done at once.
"""

import json
import logging
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import event, func, select

from integrator.clock import EPOCH, greatest
from integrator.dispatch import Dispatcher
from integrator.ledger import tenants
from integrator.ledger.deliveries import accept
from integrator.ledger.engine import Ledger
from integrator.ledger.migrate import upgrade
from integrator.ledger.records import Delivery, Rung
from integrator.ledger.schema import DUE_STATE, gates, shops, syncs
from integrator.limits import Limiter
from integrator.secrets import key_ring, new_key
from sandbox.shop_orders import Life, lives
from sandbox.system_process import Process, says

TENANT = "acme"
BATCH = 500
"""Deliveries that one transaction keeps."""


@dataclass
class Clock:
    """The time that is played. The ledger's statements read it; `sleep` makes it pass."""

    now: datetime

    def attach(self, ledger: Ledger) -> None:
        """Have this SQLite ledger take its time from here."""
        event.listen(ledger.engine, "connect", lambda connection, _record: self._install(connection))

    def _install(self, connection: Any) -> None:
        connection.create_function("strftime", -1, self._strftime, deterministic=True)

    def _strftime(self, _form: str, start: str, *moves: str) -> str:
        at = self.now.replace(tzinfo=None) if start == "now" else datetime.fromisoformat(start)
        for move in moves:
            seconds, _, unit = move.partition(" ")
            assert unit == "seconds"
            at += timedelta(seconds=float(seconds))
        return at.isoformat(sep=" ", timespec="milliseconds")

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += timedelta(seconds=seconds)


@contextmanager
def ledger_at(clock: Clock, folder: Path) -> Iterator[Ledger]:
    """A fresh ledger with that clock."""
    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
    clock.attach(ledger)
    event.listen(ledger.engine, "connect", _unsynced)
    upgrade(ledger)
    yield ledger
    ledger.close()


def _unsynced(connection: Any, _record: Any) -> None:
    """No machine is cut off in what is played, so nothing has to wait for the disk."""
    connection.execute("PRAGMA synchronous = OFF")


def be_quiet() -> None:
    """Let the runs write no logs: the numbers are what is asked for."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def control(erp: str, **changes: Any) -> Any:
    """Change the sandbox system's settings; what it has counted."""
    with urllib.request.urlopen(f"{erp}/_sandbox", json.dumps(changes).encode(), timeout=60) as answer:
        return json.load(answer)


def places(erp: str) -> list[datetime]:
    """When the places of all requests were that the system has seen, by the ledger's clock."""
    found: list[datetime] = []
    while True:
        url = f"{erp}/_sandbox/grants?after={len(found)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            page = json.load(answer)["grants"]
        if not page:
            return found
        stamps = (int(said.partition("=")[2].partition(",")[0]) for said, _arrived in page)
        found += [EPOCH + timedelta(microseconds=stamp) for stamp in stamps]


@dataclass
class Played:
    """A tenant with a plan, and the worker that works for it."""

    clock: Clock
    ledger: Ledger
    erp: str
    task: Any
    receiver: ProcessPoolExecutor
    rung: list[Rung] = field(default_factory=list)
    delivered: int = 0

    def __post_init__(self) -> None:
        self._dispatcher = Dispatcher(self.ledger, self._hear)

    def _hear(self, rung: list[Rung]) -> list[Rung]:
        self.rung += rung
        return []

    def deliver(self, count: int) -> None:
        """Keep the first webhook of so many new orders, now: in another process, as the receiver is one."""
        first, self.delivered = self.delivered, self.delivered + count
        self.receiver.submit(_keep, str(self.ledger.url), self.clock.now, range(first, first + count)).result()

    def work(self, until: datetime, runs: int | None = None) -> None:
        """Run all that gets due, letting the time pass, until then, until so many ran or nothing more is owed."""
        left = sys.maxsize if runs is None else runs
        while self.clock.now < until and left > 0:
            if self._dispatcher.dispatch():
                bells, self.rung = self.rung, []
                left -= len(bells)
                for bell in bells:
                    self.task.apply(args=(bell.tenant, bell.sync_id))
                continue
            at = self._next_due()
            if at is None:
                return
            self.clock.now = min(max(at, self.clock.now + timedelta(milliseconds=1)), until)

    def _next_due(self) -> datetime | None:
        due = func.min(greatest(syncs.c.due_at, gates.c.opens_at), type_=syncs.c.due_at.type)
        query = select(due).join(gates, syncs.c.gate_id == gates.c.id).where(DUE_STATE)
        with self.ledger.read() as connection:
            found: datetime | None = connection.execute(query).scalar_one()
        return found

    def count(self, state: str) -> int:
        """How many syncs are in a state."""
        with self.ledger.read() as connection:
            query = select(func.count()).select_from(syncs).where(syncs.c.state == state)
            return int(connection.execute(query).scalar_one())


def _keep(url: str, at: datetime, orders: range) -> None:
    """Keep the first webhook of these orders."""
    ledger = Ledger(url)
    Clock(at).attach(ledger)
    event.listen(ledger.engine, "connect", _unsynced)
    (life,) = lives(1, seed=1)
    with ledger.read() as connection:
        shop = connection.execute(select(shops.c.id, shops.c.gate_id)).one()
    for start in range(0, len(orders), BATCH):
        with ledger.write() as connection:
            accept(connection, [_delivery(life, shop, number) for number in orders[start : start + BATCH]])
    ledger.close()


def _delivery(life: Life, shop: Any, number: int) -> Delivery:
    told, external_id = life.events[0], str(int(life.external_id) + number)
    return Delivery(
        shop_id=shop.id,
        gate_id=shop.gate_id,
        kind="order",
        external_id=external_id,
        topic=told.topic,
        updated_at=told.updated_at,
        event_key=None,
        correlation_id=external_id,
        headers={},
        body=told.body.replace(life.external_id.encode(), external_id.encode()),
    )


@contextmanager
def played(began: datetime, plan: dict[str, Any]) -> Iterator[Played]:
    """One tenant with this plan, a ledger that begins at a time, and a management system that keeps grants."""
    with tempfile.TemporaryDirectory(prefix="played-") as name, ExitStack() as stack:
        folder, clock = Path(name), Clock(began)
        os.environ |= {"INTEGRATOR_SECRET_KEYS": new_key(), "INTEGRATOR_SQS_ENDPOINT_URL": "http://127.0.0.1:9"}
        ledger = stack.enter_context(ledger_at(clock, folder))
        argv = [sys.executable, "-m", "sandbox.erp", "--port=0", f"--file={folder / 'erp.sqlite3'}"]
        erp = Process("erp", argv, {**os.environ}, folder / "erp.log", says("^ready "))
        stack.callback(erp.kill)
        erp.start()
        erp.wait_ready()
        url = (folder / "erp.log").read_text("utf-8").split("ready ")[1].split()[0]
        control(url, keep_grants=True)
        _store(ledger, url, plan)
        receiver = ProcessPoolExecutor(1, get_context("spawn"))
        stack.callback(receiver.shutdown)
        yield Played(clock, ledger, url, _task(ledger, clock), receiver)


def _store(ledger: Ledger, erp: str, plan: dict[str, Any]) -> None:
    token = {"env": "TOKEN"}
    system = {"slug": "erp", "kind": "rest", "plan": plan, "config": {"url": erp}, "secrets": {"token": token}}
    shop: dict[str, Any] = {"slug": "web", "platform": "shopify", "erp": "erp", "key": {"env": "KEY"}}
    shop |= {"config": {"domain": "sandbox.myshopify.com", "url": "http://127.0.0.1:9"}}
    shop |= {"secrets": {"webhook": [token], "access_token": token}}
    tenant = {"slug": TENANT, "name": "Acme", "erps": [system], "shops": [shop]}
    file = tenants.File.model_validate({"tenants": [tenant]})
    with ledger.write() as connection:
        tenants.apply(connection, file, {"TOKEN": "t0ken", "KEY": "k" * 24}, key_ring())


def _task(ledger: Ledger, clock: Clock) -> Any:
    """The task, with a process of its own that dispatches nothing by itself."""
    from tasks import sync_task  # noqa: PLC0415 - reads the environment
    from tasks.orders import sync_order  # noqa: PLC0415
    from tasks.process import Process as Here  # noqa: PLC0415

    here = Here(ledger, key_ring(), lambda _rung: [])
    here.limiter = Limiter(ledger, None, sleep=clock.sleep)
    vars(here.dispatcher)["request"] = lambda *_, **__: None
    vars(sync_task)["process"] = lambda: here
    return sync_order
