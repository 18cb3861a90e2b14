"""Whatever holds an order: the remedy's cause is ended, its error group released, and the order is done.

The management system is the sandbox, over HTTP; the runs are the task's, the release is the command's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import update

from integrator import connectors, errors
from integrator.clock import after
from integrator.config import settings
from integrator.documents import Order
from integrator.erps.rest import RestErp
from integrator.lease import LeaseKeeper
from integrator.ledger import transitions
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, deliveries, syncs
from integrator.secrets import key_ring
from integrator.shops.base import ShopAccess
from tasks import commands, sync_task
from tasks.orders import sync_order
from tasks.process import Process
from tests.integration.test_rest_erp_contract import Sandbox
from tests.support import MemoryShop, World, as_of, deliver, delivery, make_tenant, moved, order, refund, sync_row

REFUND = refund("88")


@dataclass
class Troubled(MemoryShop):
    """A shop that fails as it is told."""

    trouble: Exception | None = None

    def fetch_order(self, access: ShopAccess, external_id: str) -> Order:
        if self.trouble is not None:
            raise self.trouble
        return super().fetch_order(access, external_id)


@dataclass
class Night:
    """One tenant's order, the systems at its two ends, and the person on call."""

    ledger: Ledger
    world: World
    erp: Sandbox
    shop: Troubled = field(default_factory=Troubled)
    sync_id: int = 0

    def comes(self, document: Order, *, timed: bool = True) -> None:
        """A webhook comes, and a worker runs the order."""
        self.shop.orders[document.external_id] = document
        (kept,) = deliver(self.ledger, delivery(self.world, document, timed=timed))
        assert kept.sync_id is not None
        self.sync_id = kept.sync_id
        self.run()

    def run(self) -> None:
        with self.ledger.write() as connection:
            assert transitions.ring(connection, [self.sync_id])
        sync_order.apply(args=(self.world.tenant, self.sync_id), task_id=f"{self.sync_id}:1")

    @property
    def row(self) -> Any:
        return sync_row(self.ledger, self.sync_id)

    def mend(self, **what: Any) -> None:
        """What a person does with the order in the management system."""
        (stored,) = self.erp.stored("web/1001")
        self.erp.control("POST", f"/_sandbox/orders/{stored['id']}", **what)

    def remove_credit(self) -> None:
        (stored,) = self.erp.stored("web/1001")
        self.mend(credits=dict.fromkeys(one["id"] for one in stored["credits"]))

    def forget_bodies(self) -> None:
        with self.ledger.write() as connection:
            connection.execute(update(deliveries).values(topic="order.deleted"))


@pytest.fixture
def night(sqlite_ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    url = sqlite_ledger.url.render_as_string(hide_password=False)
    monkeypatch.setenv("INTEGRATOR_LEDGER_URL", url)
    settings.cache_clear()
    here = Process(sqlite_ledger, key_ring(), lambda _rung: [])
    erp = Sandbox(tmp_path / "erp.sqlite3")
    made = Night(sqlite_ledger, make_tenant(sqlite_ledger, erp_config={"url": erp.url}), erp)
    monkeypatch.setattr(here.dispatcher, "request", lambda _gate_id: None)
    monkeypatch.setattr(LeaseKeeper, "_run", lambda _self: None)
    monkeypatch.setattr(sync_task, "process", lambda: here)
    monkeypatch.setattr(connectors, "erp", lambda _kind: RestErp())
    monkeypatch.setattr(connectors, "shop", lambda _platform: made.shop)
    yield made
    erp.stop()
    settings.cache_clear()


@dataclass(frozen=True)
class Case:
    """What holds the order, and what the person does about it."""

    held: str
    cause: Callable[[Night], object]
    fix: Callable[[Night], object]
    says: str
    sends: tuple[str, ...] = ("create",)
    cancelled: bool = False


def refused_by(**faults: Any) -> Callable[[Night], object]:
    def cause(night: Night) -> None:
        night.erp.control(**faults)
        night.comes(order())

    return cause


def after_create(then: Callable[[Night], object], *documents: Order) -> Callable[[Night], object]:
    """The order was created; something happens; then the documents come."""

    def cause(night: Night) -> None:
        night.comes(order())
        then(night)
        for document in documents:
            night.comes(document)

    return cause


def nothing(_night: Night) -> None: ...


def shop_fails(error: Exception, runs: int = 1) -> Callable[[Night], object]:
    def cause(night: Night) -> None:
        night.shop.trouble = error
        night.comes(order(), timed=False)
        for _ in range(runs - 1):
            with night.ledger.write() as connection:
                connection.execute(update(syncs).values(due_at=after(-1)))
            night.run()

    return cause


def shop_is_well(night: Night) -> None:
    night.shop.trouble = None


def deleted(night: Night) -> None:
    night.shop.deleted.add("1001")
    deliver(night.ledger, delivery(night.world, order(minute=1), timed=False))
    night.forget_bodies()
    night.run()


def gone(night: Night) -> None:
    night.shop.trouble = errors.NotFound("the shop shows no order 1001", remedy="Cancel it, then requeue.")
    night.comes(order(minute=1), timed=False)


CREDITED = moved(order(minute=1), refunds=(REFUND,))
CHANGED = moved(order(minute=2), refunds=(refund("88", amount="5.00"),))
TAKEN_BACK = order(minute=2)

CASES = {
    "a SKU that is not known": Case(
        "Unmapped", refused_by(unknown_skus=["MUG"]), lambda n: n.erp.control(unknown_skus=[]), "sku MUG"
    ),
    "a payment that is not known": Case(
        "Unmapped", refused_by(unknown_payments=["paid"]), lambda n: n.erp.control(unknown_payments=[]), "paid"
    ),
    "a rule of the system": Case(
        "Rejected", refused_by(books_closed=True), lambda n: n.erp.control(books_closed=False), "books_closed"
    ),
    "a shop that refuses to answer": Case(
        "Rejected", shop_fails(errors.Rejected("orders was answered 418", subject="418")), shop_is_well, "418"
    ),
    "an order that the shop does not show yet": Case(
        "NotFound", shop_fails(errors.NotFound("no order 1001", subject="404")), shop_is_well, "1001"
    ),
    "a failure of ours": Case("Bug", shop_fails(RuntimeError("x"), runs=3), shop_is_well, "RuntimeError"),
    "an order that was removed there": Case(
        "NotFound",
        after_create(lambda n: n.mend(state="removed"), order(minute=1, quantity=2)),
        lambda n: n.mend(state="open"),
        "PUT /orders/{id}",
        ("create", "update"),
    ),
    "an order that was cancelled there by hand": Case(
        "Conflict",
        after_create(lambda n: n.mend(state="cancelled"), order(minute=1, quantity=2)),
        lambda n: n.mend(state="open"),
        "cancelled",
        ("create", "update"),
    ),
    "cancelled and open again": Case(
        "Conflict",
        after_create(nothing, order(minute=1, cancelled=True), order(minute=2, quantity=2)),
        lambda n: n.mend(state="open"),
        "1001",
        ("create", "cancel", "update"),
    ),
    "a credited refund that changed, corrected": Case(
        "Conflict",
        after_create(nothing, CREDITED, CHANGED),
        lambda n: n.mend(credits={"CN000001": "5.00"}),
        "Refund 88",
        ("create", "credit"),
    ),
    "a credited refund that changed, removed": Case(
        "Conflict",
        after_create(nothing, CREDITED, CHANGED),
        Night.remove_credit,
        "Refund 88",
        ("create", "credit", "credit.2"),
    ),
    "a credited refund that is gone": Case(
        "Conflict",
        after_create(nothing, CREDITED, TAKEN_BACK),
        Night.remove_credit,
        "Refund 88",
        ("create", "credit"),
    ),
    "deleted, and nothing tells what it was": Case(
        "Deleted", after_create(deleted), lambda n: n.mend(state="cancelled"), "1001", cancelled=True
    ),
    "not shown by the shop any more": Case(
        "NotFound", after_create(gone), lambda n: n.mend(state="cancelled"), "1001", cancelled=True
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_given_a_held_order_when_its_cause_is_ended_and_its_group_released_then_it_is_done(
    night: Night, case: Case
) -> None:
    case.cause(night)
    held = night.row
    assert (held.state, held.error_class) == (State.HELD, case.held), held.error_message
    assert case.says in f"{held.error_message} {held.error_detail}"
    assert "requeue" in held.error_remedy
    release(night, held.error_fingerprint)
    assert night.row.state == State.HELD, "released too early it is held again, and nothing is lost"
    case.fix(night)
    release(night, held.error_fingerprint)

    assert night.row.state == State.DONE, night.row.error_message
    (stored,) = night.erp.stored("web/1001")
    assert tuple(key.split("/order/1001/")[1].split("/")[0] for key in stored["applied_keys"]) == case.sends
    assert (stored["state"] == "cancelled") is case.cancelled
    with night.ledger.read() as connection:
        assert audit(connection) == []


def release(night: Night, fingerprint: str) -> None:
    """Release the group by the command that `syncs errors` shows, and let a worker run."""
    chosen = ["--tenant", night.world.tenant, "--fingerprint", fingerprint]
    said = CliRunner().invoke(commands.requeue, chosen, catch_exceptions=False).output
    assert said == "1 sync released\n"
    night.run()


def test_given_an_order_that_does_not_add_up_when_it_is_corrected_in_the_shop_then_it_is_done(
    night: Night,
) -> None:
    night.comes(moved(order(), total=order(quantity=2).total))
    assert (night.row.state, night.row.error_class) == (State.HELD, "TotalMismatch")
    night.comes(as_of(order(), 1))
    assert night.row.state == State.DONE
