"""Two tenants who name everything alike: the same slugs, order numbers and times, and nothing crosses."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import update

from integrator import connectors
from integrator.clock import after
from integrator.erps.base import ErpAccess, Found, Receipt, Request
from integrator.ledger import transitions
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, syncs
from integrator.secrets import key_ring
from tasks.orders import sync_order
from tasks.process import Process
from tests.hostile import sample
from tests.support import MemoryErp, sync_row
from tests.webhooks import (
    KEYS,
    SECRETS,
    Bell,
    SilentDispatcher,
    Site,
    all_syncs,
    headers,
    shop,
    site,
    store,
    tenant,
)

OF = {"acme": ("KEY", "NEW", "TOKEN"), "globex": ("KEY_2", "OTHER", "OLD")}
"""Each tenant's shop key, webhook secret and token, by their names in the environment."""


@dataclass
class ByToken(MemoryErp):
    """One address with a management system for each token, as tenants of one provider have it."""

    systems: dict[str, MemoryErp] = field(default_factory=lambda: defaultdict(MemoryErp))

    def send(self, access: ErpAccess, request: Request) -> Receipt:
        return self.systems[access.secrets["token"]].send(access, request)

    def look_up(self, access: ErpAccess, reference: str) -> list[Found]:
        return self.systems[access.secrets["token"]].look_up(access, reference)


def named(slug: str) -> dict[str, Any]:
    key, secret, token = OF[slug]
    erp = {"slug": "own", "kind": "rest", "config": {"url": "http://127.0.0.1:9"}}
    secrets = {"webhook": [{"env": secret}], "access_token": {"env": token}}
    return tenant(slug, shop("de", key, secrets=secrets), erps=[erp | {"secrets": {"token": {"env": token}}}])


@dataclass
class Street:
    """A receiver and a worker for both tenants."""

    site: Site
    erp: ByToken

    def post(self, slug: str, body: bytes, *, signed_by: str | None = None, topic: str = "orders/create") -> int:
        key, _, _ = OF[slug]
        given = headers(body, topic=topic, secret=SECRETS[OF[signed_by or slug][1]])
        return self.site.post(body, given, url=f"/webhooks/shopify/{KEYS[key]}").status_code

    def work(self, slug: str, sync_id: int) -> str:
        """Ring for a sync under a tenant's name, and run its task; the sync's state."""
        with self.site.ledger.write() as connection:
            connection.execute(update(syncs).where(syncs.c.id == sync_id).values(due_at=after(-1)))
            transitions.ring(connection, [sync_id])
        sync_order.apply(args=(slug, sync_id), task_id=f"{sync_id}:1")
        return str(sync_row(self.site.ledger, sync_id).state)

    def held_by(self, slug: str) -> list[tuple[str, str, Any]]:
        """What a tenant's management system has: reference, keys, and the order's note."""
        records = self.erp.systems[SECRETS[OF[slug][2]]].records.values()
        return [(one.reference, ",".join(one.keys), one.body["note"]) for one in records]


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Street:
    store(ledger, named("acme"), named("globex"))
    erp, here = ByToken(), Process(ledger, key_ring(), Bell())
    here.dispatcher = SilentDispatcher()  # type: ignore[assignment]
    monkeypatch.setattr("tasks.sync_task.process", lambda: here)
    monkeypatch.setattr(connectors, "erp", lambda _: erp)
    return Street(site(monkeypatch, ledger), erp)


def order(note: str, **changes: Any) -> bytes:
    return json.dumps(sample("shopify/orders_create") | {"note": note} | changes).encode()


def test_given_equal_ids_when_both_tenants_orders_are_worked_on_then_each_system_has_its_own(
    street: Street,
) -> None:
    number = str(sample("shopify/orders_create")["id"])
    for slug in OF:
        assert street.post(slug, order(slug)) == 200
    acmes, globexs = (sync.id for sync in all_syncs(street.site.ledger))

    assert [street.work("acme", acmes), street.work("globex", globexs)] == [State.DONE, State.DONE]

    for slug in OF:
        assert street.held_by(slug) == [(f"de/{number}", f"{slug}/own/de/order/{number}/create", slug)]
    cancelled = order("acme", cancelled_at="2026-11-01T00:00:00Z", updated_at="2026-11-01T00:00:00Z")
    assert street.post("acme", cancelled, topic="orders/cancelled") == 200
    assert street.work("acme", acmes) == State.DONE
    systems = [street.erp.systems[SECRETS[token]] for _, _, token in OF.values()]
    assert [one.cancelled for system in systems for one in system.records.values()] == [True, False]
    assert sync_row(street.site.ledger, globexs).wanted == 1
    with street.site.ledger.read() as connection:
        assert audit(connection) == []


def test_given_a_message_that_names_the_other_tenant_when_worked_on_then_nothing_happens(street: Street) -> None:
    assert street.post("acme", order("acme")) == 200
    (sync,) = all_syncs(street.site.ledger)

    assert street.work("globex", sync.id) == State.QUEUED

    assert (street.held_by("acme"), street.held_by("globex")) == ([], [])


def test_given_one_tenants_signature_when_posted_to_the_other_then_refused(street: Street) -> None:
    assert street.post("acme", order("globex"), signed_by="globex") == 401
    assert street.post("globex", order("acme"), signed_by="acme") == 401
    assert street.site.rows() == (0, 0)
