"""The two ends of a sync, ready to use: a connector with its tenant's configuration and credentials."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from integrator import connectors
from integrator.documents import Order
from integrator.erps.base import Action, Erp, ErpAccess, Found, Idempotency, Receipt, Request
from integrator.errors import IntegratorError, Side
from integrator.http import Http
from integrator.lease import Lease
from integrator.ledger.access import Assignment
from integrator.limits import Limiter
from integrator.shops.base import Shop, ShopAccess


@dataclass(frozen=True)
class ErpSide:
    """A tenant's management system."""

    connector: Erp
    access: ErpAccess = field(repr=False)

    @classmethod
    def of(cls, assignment: Assignment, lease: Lease, limiter: Limiter) -> "ErpSide":
        """The system of a run; its calls start only while the lease lets them, within the tenant's plan."""
        connector = connectors.erp(assignment.erp_kind)
        config = assignment.erp_config
        http = Http(
            connector.base_url(config),
            deadline_seconds=connector.deadline_seconds(config),
            guard=lease.guard,
            limit=limiter.of_gate(assignment.gate_id),
        )
        return cls(connector, ErpAccess(config, assignment.erp_secrets, http))

    @property
    def looks_up(self) -> bool:
        """Whether a doubt is settled by looking up, not by repeating."""
        return self.connector.idempotency(self.access.config) is Idempotency.LOOKUP

    @property
    def settle_seconds(self) -> float:
        """How long after a failure the system may still commit."""
        return self.connector.settle_seconds(self.access.config)

    def prepare(self, action: Action) -> Request:
        """The exact request of an action."""
        return self.connector.prepare(action)

    def send(self, request: Request) -> Receipt:
        """Have the effect."""
        return self.connector.send(self.access, request)

    def look_up(self, reference: str) -> list[Found]:
        """Every record with the reference."""
        return self.connector.look_up(self.access, reference)


@dataclass(frozen=True)
class ShopSide:
    """A tenant's shop."""

    connector: Shop
    access: ShopAccess = field(repr=False)

    @classmethod
    def of(cls, assignment: Assignment, lease: Lease, limiter: Limiter) -> "ShopSide":
        """The shop of a run; its calls start only while the lease lets them, at its platform's rate."""
        connector = connectors.shop(assignment.platform)
        config = assignment.shop_config
        limit = limiter.of_shop(assignment.shop_id, connector.rate(config))
        http = Http(connector.base_url(config), guard=lease.guard, limit=limit)
        return cls(connector, ShopAccess(config, assignment.shop_secrets, http))

    def map(self, topic: str, body: bytes) -> Order | None:
        """The order that a delivery holds; None when it does not hold a whole one."""
        return self.connector.map(topic, body)

    def fetch_order(self, external_id: str) -> Order:
        """The order as the shop has it now. Errors say that they are the shop's."""
        with _at_shop():
            return self.connector.fetch_order(self.access, external_id)


@contextmanager
def _at_shop() -> Iterator[None]:
    try:
        yield
    except IntegratorError as error:
        error.side = Side.SHOP
        raise
