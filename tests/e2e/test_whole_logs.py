"""All that real processes write while orders come, repeat, fail, are held and are cut off, line by line."""

import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, syncs
from sandbox import large
from sandbox.shop import ShopSimulation
from sandbox.system import System
from tests.webhooks import headers
from tests.workers import control, until

KEY = "k" * 24
SECRET = "the-webhook-secret"
BUYER = {
    "first_name": "Wilhelmina",
    "last_name": "Quackenbush",
    "name": "Wilhelmina Quackenbush",
    "email": "wilhelmina.q@example.com",
    "phone": "+49 30 5550187",
    "company": "Quackenbush Ltd",
    "address1": "Kurfuerstendamm 218b",
    "address2": "Hinterhaus",
    "city": "Charlottenburg",
    "zip": "10719x",
}
"""One buyer; no value of it may stand in any log."""

OURS = ("receiver", "worker-1", "scheduler")
MARK = re.compile(r"\[(\d+):\d+]")
"""How Celery names a task: the sync's id and the version."""


@dataclass
class Site:
    """A system with one tenant, and the correlation ids that the receiver answered, by the order's id."""

    system: System
    ledger: Ledger
    domain: str
    answered: dict[str, set[str]] = field(default_factory=dict)
    sent: int = 0

    def post(self, body: dict[str, Any], *, event: str | None = None) -> None:
        """Send a webhook; it is taken."""
        self.sent += 1
        raw = json.dumps(body).encode()
        given = headers(raw, event=event or f"w-{self.sent}", secret=SECRET)
        given["X-Shopify-Shop-Domain"] = self.domain
        url = urlsplit(self.system.webhook_url("shopify", KEY))
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)
        connection.request("POST", url.path, raw, given)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 200
        about = str(body.get("id") or "unreadable")
        self.answered.setdefault(about, set()).add(answer.headers["X-Correlation-Id"])

    def rows(self) -> dict[str, Any]:
        """The syncs by the order's id."""
        with self.ledger.read() as connection:
            return {row.external_id: row for row in connection.execute(select(syncs))}

    def states(self) -> list[str]:
        return [row.state for _, row in sorted(self.rows().items())]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All that a process wrote, each line of it parsed."""
        return [json.loads(line) for line in self.raw(name).splitlines()]

    def raw(self, name: str) -> str:
        return (self.system.folder.logs / f"{name}.log").read_text()


def order(shop: ShopSimulation, number: int, **changes: Any) -> dict[str, Any]:
    """The first webhook of an order, from our buyer."""
    body: dict[str, Any] = json.loads(shop.lives[number].events[0].body)
    shop.state.advance(shop.lives[number].events[0])
    body |= {"email": BUYER["email"], "contact_email": BUYER["email"], "phone": BUYER["phone"]}
    body |= {"customer": {"id": 7, **BUYER}, "shipping_address": BUYER, "billing_address": BUYER}
    return body | {"note": f"for {BUYER['name']}"} | changes


def wrong_total(shop: ShopSimulation) -> dict[str, Any]:
    """Totals to which the third order does not add up."""
    first: dict[str, Any] = json.loads(shop.lives[2].events[0].body)
    names = [name for name in first if name.endswith("total_price_set")]
    assert names
    return {name: {side: money | {"amount": "1.00"} for side, money in first[name].items()} for name in names}


@pytest.fixture
def shop() -> Iterator[ShopSimulation]:
    with ShopSimulation(6, seed=5) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, shop: ShopSimulation) -> Iterator[Site]:
    with System(tmp_path / "system", workers=1, worker_threads=4) as system:
        erp = {
            "slug": "erp",
            "kind": "rest",
            "plan": large.PLAN,
            "config": {"url": system.erp_url},
            "secrets": {"token": {"env": "T"}},
        }
        web: dict[str, Any] = {"slug": "web", "platform": "shopify", "erp": "erp", "key": {"env": "K"}}
        web |= {"config": shop.config}
        web |= {"secrets": {"webhook": [{"env": "S"}], "access_token": {"env": "A"}}}
        tenant = {"slug": "acme", "name": "Acme", "erps": [erp], "shops": [web]}
        system.apply({"tenants": [tenant]}, {"T": "t0ken", "K": KEY, "S": SECRET, "A": shop.access_token})
        ledger = system.ledger()
        yield Site(system, ledger, shop.config["domain"])
        ledger.close()


def test_given_orders_repeated_failing_held_and_cut_off_when_all_stop_then_each_line_is_json_and_tells_whose(
    site: Site, shop: ShopSimulation
) -> None:
    play(site, shop)
    assert {State.DONE, State.HELD} < set(site.states())
    rows = site.rows()
    by_id = {row.id: row for row in rows.values()}
    for external_id, row in rows.items():
        about = external_id if external_id in site.answered else "unreadable"
        assert site.answered[about] == {row.correlation_id}, "a duplicate is answered what it repeats"
    events = {name: [line["event"] for line in site.lines(name)] for name in OURS}
    for name in OURS:
        whole = site.raw(name)
        assert whole.endswith("\n")
        for personal in (*BUYER.values(), SECRET, "t0ken", shop.access_token, KEY):
            assert personal not in whole, f"{name} wrote {personal}"
        for line in site.lines(name):
            _tells_whose(line, by_id)
    assert events["receiver"].count("webhook_accepted") == site.sent
    assert {"step_applied", "sync_finished", "run_ended", "worker_draining"} <= {*events["worker-1"]}
    assert any("Warm shutdown" in event for event in events["worker-1"])
    assert [line["duplicate"] for line in site.lines("receiver") if line.get("duplicate")] == [True]
    assert [line["held"] for line in site.lines("receiver") if line.get("held")] == [True]
    assert {line["error_class"] for line in site.lines("worker-1") if line["event"] == "run_ended"} >= {
        "TotalMismatch",
        "Transient",
    }


def play(site: Site, shop: ShopSimulation) -> None:
    """Send what there is, let the worker be stopped amid a call, and stop everything."""
    url, worker = site.system.erp_url, site.system.processes["worker-1"]
    worker.env = {**worker.env, "PYTHONWARNINGS": "default::UserWarning"}
    worker.argv = [argument for argument in worker.argv if argument != "--quiet"]  # the banner is off without it
    worker.restart()
    worker.wait_ready()
    control(url, down=True)
    site.post(order(shop, 0), event="the same")
    until(lambda: site.rows()[str(shop.lives[0].external_id)].attempts == 1)
    control(url, down=False)
    site.post(order(shop, 0), event="the same")
    site.post(order(shop, 1))
    site.post(order(shop, 2, **wrong_total(shop)))
    site.post({"email": BUYER["email"], "customer": BUYER})
    until(lambda: site.states() == [State.DONE, State.DONE, State.HELD, State.HELD])
    control(url, latency_ms=40_000)
    site.post(order(shop, 3))
    until(lambda: State.RUNNING in site.states())
    worker.ask_to_end()
    until(lambda: not worker.alive)
    site.system.stop()


def _tells_whose(line: dict[str, Any], by_id: dict[int, Any]) -> None:
    """Whatever names a sync has its webhook's correlation id, and the order's id."""
    marked = MARK.search(line["event"])
    sync_id = int(marked[1]) if marked else line.get("sync_id")
    assert {"event", "level", "logger", "timestamp"} <= line.keys()
    if sync_id is not None:
        row = by_id[sync_id]
        assert (line.get("correlation_id"), line.get("external_id")) == (row.correlation_id, row.external_id), line
    elif line["event"] == "webhook_accepted":
        assert line["correlation_id"] in {row.correlation_id for row in by_id.values()}, line
