"""What tests build a world from: a tenant in the ledger, deliveries, and a management system in memory."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import orjson
from sqlalchemy import insert, select

from integrator import errors
from integrator.clock import EPOCH
from integrator.documents import Fee, Line, Money, Order, PaymentState, Refund, RefundLine
from integrator.erps.base import (
    Action,
    Credit,
    Erp,
    ErpAccess,
    Found,
    Idempotency,
    Receipt,
    Request,
    StepKind,
)
from integrator.ledger.deliveries import accept
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Accepted, Delivery
from integrator.ledger.schema import CAUSES, erps, gates, shops, syncs, tenants
from integrator.plans import Rate
from integrator.secrets import KeyRing, key_ring
from integrator.shops.base import Deleted, Identity, Shop, ShopAccess

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """A tenant with one management system and one shop."""

    tenant: str
    tenant_id: int
    gate_id: int
    shop_id: int
    erp_id: int


def make_tenant(
    ledger: Ledger,
    slug: str = "acme",
    *,
    window: int = 8,
    erp_config: dict[str, Any] | None = None,
    ring: KeyRing | None = None,
) -> World:
    """Insert a tenant with its parts."""
    sealed = (ring or key_ring()).seal({"webhook": ["s3cret"], "token": "t0ken"})
    with ledger.write() as connection:

        def add(table: Any, **values: Any) -> int:
            made: int = connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()
            return made

        tenant_id = add(tenants, slug=slug, name=slug.title(), active=True, tolerance="0.01")
        config = erp_config or {}
        erp_id = add(erps, tenant_id=tenant_id, slug="main", kind="memory", config=config, secrets=sealed)
        gate_id = add(
            gates,
            tenant_id=tenant_id,
            erp_id=erp_id,
            window_cap=window,
            **dict.fromkeys(CAUSES, EPOCH),
        )
        shop_id = add(
            shops,
            tenant_id=tenant_id,
            gate_id=gate_id,
            slug="web",
            platform="memory",
            key_hash=uuid.uuid4().hex,
            config={},
            secrets=sealed,
            active=True,
        )
    return World(slug, tenant_id, gate_id, shop_id, erp_id)


def order(
    external_id: str = "1001",
    *,
    minute: int = 0,
    quantity: int = 1,
    cancelled: bool = False,
    updated_at: datetime | None = None,
) -> Order:
    """An order that adds up; a later minute is a later version."""
    price = Money(amount=Decimal("10.00"), currency="EUR")
    return Order(
        external_id=external_id,
        number=f"#{external_id}",
        placed_at=T0,
        updated_at=updated_at or T0 + timedelta(minutes=minute),
        currency="EUR",
        taxes_included=True,
        lines=(
            Line(
                external_id="1",
                sku="MUG",
                title="Mug",
                quantity=Decimal(quantity),
                unit_price=price,
                discount=Money.zero("EUR"),
            ),
        ),
        total=price * quantity,
        payment_state=PaymentState.PAID,
        cancelled_at=T0 if cancelled else None,
    )


def refund(external_id: str = "88", *, amount: str = "4.00", minute: int = 1, **changes: Any) -> Refund:
    """A refund of a part of the mug, paid back at once; it adds up."""
    back = Money(amount=Decimal(amount), currency="EUR")
    line = RefundLine(line_id="1", sku="MUG", title="Mug", quantity=Decimal(1), amount=back)
    made = Refund(
        external_id=external_id, created_at=T0 + timedelta(minutes=minute), lines=(line,), total=back, paid=back
    )
    return made.model_copy(update=changes)


def kept_back(amount: str) -> tuple[Fee, ...]:
    """A fee of a refund that takes so much off it."""
    return (Fee(title="Restocking", amount=Money(amount=-Decimal(amount), currency="EUR")),)


def delivery(world: World, document: Order, *, event: str | None = None, timed: bool = True) -> Delivery:
    """A webhook with this order as its body."""
    return Delivery(
        shop_id=world.shop_id,
        gate_id=world.gate_id,
        kind="order",
        external_id=document.external_id,
        topic="order",
        updated_at=document.updated_at if timed else None,
        event_key=event,
        correlation_id=uuid.uuid4().hex,
        headers={},
        body=document.model_dump_json().encode(),
    )


def deliver(ledger: Ledger, *batch: Delivery) -> list[Accepted]:
    """Keep deliveries in one transaction."""
    with ledger.write() as connection:
        return accept(connection, batch)


def sync_row(ledger: Ledger, sync_id: int) -> Any:
    """A sync as it stands."""
    with ledger.read() as connection:
        return connection.execute(select(syncs).where(syncs.c.id == sync_id)).one()


@dataclass
class Record:
    """One order in the management system in memory."""

    remote_id: str
    reference: str
    body: dict[str, Any]
    keys: list[str]
    cancelled: bool = False
    credits: list[Credit] = field(default_factory=list)

    @property
    def total(self) -> Money:
        return Money.model_validate(self.body["total"])


@dataclass
class MemoryErp:
    """A management system in memory: it remembers keys or does not, and fails as a script says.

    `script` is asked before and after each effect, and raises what the caller is to see.
    """

    kind: ClassVar[str] = "memory"
    by_key: bool = True
    settle: float = 0.0
    records: dict[str, Record] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    script: Callable[[str, Request | None], None] = lambda _when, _request: None
    lock: threading.Lock = field(default_factory=threading.Lock)
    wrong_total: Money | None = None
    wrong_credit: Money | None = None

    def base_url(self, config: Any) -> str:
        return "http://memory.invalid"

    def idempotency(self, config: Any) -> Idempotency:
        return Idempotency.KEY if self.by_key else Idempotency.LOOKUP

    def settle_seconds(self, config: Any) -> float:
        return self.settle

    def deadline_seconds(self, config: Any) -> float:
        return 15.0

    def validate(self, config: Any, secrets: Any) -> None: ...

    def check(self, access: ErpAccess) -> datetime | None:
        return None

    def prepare(self, action: Action) -> Request:
        body: dict[str, Any] = {"kind": action.kind, "reference": action.reference, "remote_id": action.remote_id}
        body["order"] = action.order.model_dump(mode="json")
        body["refund"] = action.refund.model_dump(mode="json") if action.refund else None
        return Request("POST", f"/{action.kind}", action.key, orjson.dumps(body))

    def send(self, access: ErpAccess, request: Request) -> Receipt:
        if access.http.guard is not None:
            access.http.guard(15.0)
        self.script("before", request)
        with self.lock:
            self.calls.append(("send", request.key))
            receipt = self.effect(request)
        self.script("after", request)
        return receipt

    def effect(self, request: Request) -> Receipt:
        """What the system does with a request, all or nothing."""
        if self.by_key and request.key in self.answers:
            return self._receipt(self.records[self.answers[request.key]], request)
        body = orjson.loads(request.body)
        if body["kind"] == StepKind.CREATE:
            remote_id = f"SO{len(self.records) + 1}"
            self.records[remote_id] = Record(remote_id, body["reference"], body["order"], [request.key])
        else:
            remote_id = body["remote_id"]
            if remote_id not in self.records:
                raise errors.NotFound(f"{remote_id} is gone", subject="order removed")
            record = self.records[remote_id]
            if body["kind"] == StepKind.CANCEL:
                record.cancelled = True
            elif body["kind"] == StepKind.CREDIT:
                self._credit(record, request.key, Money.model_validate(body["refund"]["total"]))
            else:
                record.body = body["order"]
            record.keys.append(request.key)
        self.answers[request.key] = remote_id
        return self._receipt(self.records[remote_id], request)

    def _credit(self, record: Record, key: str, total: Money) -> None:
        made = 1 + sum(len(one.credits) for one in self.records.values())
        record.credits.append(Credit(f"CN{made}", key, total))

    def _receipt(self, record: Record, request: Request) -> Receipt:
        for credit in reversed(record.credits):
            if credit.key == request.key:
                return Receipt(credit.credit_id, self.wrong_credit or credit.total)
        return Receipt(record.remote_id, self.wrong_total or record.total)

    def look_up(self, access: ErpAccess, reference: str) -> list[Found]:
        if access.http.guard is not None:
            access.http.guard(15.0)
        self.script("look", None)
        with self.lock:
            self.calls.append(("look", reference))
            return [
                Found(
                    one.remote_id,
                    frozenset(one.keys),
                    one.cancelled,
                    self.wrong_total or one.total,
                    tuple(replace(credit, total=self.wrong_credit or credit.total) for credit in one.credits),
                )
                for one in self.records.values()
                if one.reference == reference
            ]

    def sends(self) -> list[str]:
        """The kinds of effects that were asked for, in order."""
        return [key.rsplit("/order/", 1)[1].split("/", 1)[1] for what, key in self.calls if what == "send"]


@dataclass
class MemoryShop:
    """A shop in memory: its orders' bodies are canonical orders as JSON."""

    platform: ClassVar[str] = "memory"
    topic_header: ClassVar[str] = "x-topic"
    orders: dict[str, Order] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)

    def base_url(self, config: Any) -> str:
        return "http://memory.invalid"

    def rate(self, config: Any) -> Rate:
        return Rate(1_000)

    def verify(self, headers: Any, body: bytes, secrets: Any) -> None: ...

    def identify(self, headers: Any, body: bytes) -> Identity | None:
        return None

    def is_from(self, headers: Any, config: Any) -> bool:
        return True

    def validate(self, config: Any, secrets: Any) -> None: ...

    def check(self, access: ShopAccess) -> datetime | None:
        return None

    def map(self, topic: str, body: bytes) -> Order | None:
        return Order.model_validate_json(body) if topic == "order" else None

    def fetch_order(self, access: ShopAccess, external_id: str) -> Order:
        self.fetched.append(external_id)
        if external_id in self.deleted:
            raise Deleted(f"order {external_id} was deleted", subject="order")
        if external_id not in self.orders:
            raise errors.NotFound(f"no order {external_id}", subject="order")
        return self.orders[external_id]


def protocols(erp: MemoryErp, shop: MemoryShop) -> tuple[Erp, Shop]:
    """The fakes are of the Protocols, says the type checker."""
    return erp, shop


def fail(error: errors.IntegratorError, *, when: str = "before", times: int = 1) -> Callable[..., None]:
    """A script that raises `error` so many times."""
    left = iter(range(times))

    def script(moment: str, _request: Request | None) -> None:
        if moment == when and next(left, None) is not None:
            raise error

    return script


def moved(document: Order, **changes: Any) -> Order:
    """A copy with changes."""
    return document.model_copy(update=changes)


def as_of(document: Order, minute: int) -> Order:
    """The order as of another minute."""
    return moved(document, updated_at=T0 + timedelta(minutes=minute))
