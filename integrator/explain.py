"""What the integrator would make of one webhook, said without a ledger, keys or a call."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from integrator import connectors
from integrator.documents import Order
from integrator.documents.sums import Breakdown, breakdown, refund_breakdown
from integrator.errors import IntegratorError
from integrator.shops.base import Shop, Unreadable
from integrator.sync.orders import add_up
from integrator.sync.plan import Missing, plan

TOLERANCE = Decimal("0.01")
"""What a tenant accepts that says nothing else."""

NOTHING_TO_UNDO = "the order was cancelled before it was created: there is nothing to undo"
NOT_YET = "nothing is to be done about the order yet, which the shop has as {}: it is created when that ends"
ONLY_A_CHANGE = "the body does not hold the whole order, so that it is read from the shop"
NO_ORDER = (
    "the body says neither a time of its content nor a currency, so that it holds no order: such a webhook is "
    "kept, and the order with its id is read from the shop"
)
NO_TIME = "the body says no time of its content, so that the order is read from the shop, whatever the body holds"


FIRST_READ = "currency"
"""What every mapper reads first. Without it no amount means anything: it is another document's body."""


class Verdict(StrEnum):
    """What becomes of the first webhook of an order with this body."""

    MAPPED = "mapped"
    """It is understood and adds up: the steps are run."""
    HELD = "held"
    """A person must act first: the error says on what."""
    FETCH = "fetch"
    """Only the shop knows the order: it is read from there, and that counts."""
    NOT_AN_ORDER = "not an order"
    """Another topic, or a body in which no order can be found."""


@dataclass(frozen=True)
class Explanation:
    """The verdict, and all that led to it. `steps` are those of a first arrival."""

    platform: str
    topic: str
    verdict: Verdict
    reason: str | None = None
    order_id: str | None = None
    error: IntegratorError | None = None
    order: Order | None = field(default=None, repr=False)
    steps: Sequence[Missing] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON. It holds the order whole, with the buyer's name and address."""
        return {
            "platform": self.platform,
            "topic": self.topic,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "order_id": self.order_id,
            "error": _error(self.error) if self.error else None,
            "steps": [_step(step) for step in self.steps],
            "sums": _sums(self.order) if self.order else None,
            "document": self.order.model_dump(mode="json") if self.order else None,
        }


def explain(platform: str, topic: str, body: bytes, tolerance: Decimal = TOLERANCE) -> Explanation:
    """Say what would become of a webhook. Raises connectors.NoConnector."""
    shop = connectors.shop(platform)
    try:
        identity = shop.identify({shop.topic_header: topic}, body)
    except Unreadable as error:
        why = f"{error}: such a webhook is kept, and held for a person"
        return Explanation(platform, topic, Verdict.NOT_AN_ORDER, why)
    if identity is None:
        why = f"{topic or 'no topic'} is no topic of orders: such a webhook is answered 200, and nothing is kept"
        return Explanation(platform, topic, Verdict.NOT_AN_ORDER, why)
    found = _judge(shop, topic, body, identity.external_id, tolerance)
    if identity.updated_at is not None or found.verdict is Verdict.FETCH:
        return found
    if found.error is not None and found.order is None and found.error.subject == FIRST_READ:
        return Explanation(platform, topic, Verdict.NOT_AN_ORDER, NO_ORDER, found.order_id, found.error)
    return Explanation(
        platform, topic, Verdict.FETCH, NO_TIME, found.order_id, found.error, found.order, found.steps
    )


def _judge(shop: Shop, topic: str, body: bytes, order_id: str, tolerance: Decimal) -> Explanation:
    """Map, plan and add up, as the worker does."""
    about = (shop.platform, topic)
    try:
        order = shop.map(topic, body)
    except IntegratorError as error:
        return Explanation(*about, Verdict.HELD, order_id=order_id, error=error)
    if order is None:
        return Explanation(*about, Verdict.FETCH, ONLY_A_CHANGE, order_id)
    steps = plan(order, None)
    try:
        add_up(order, steps, tolerance)
    except IntegratorError as error:
        return Explanation(*about, Verdict.HELD, None, order_id, error, order)
    nothing = NOT_YET.format(order.not_yet) if order.not_yet else NOTHING_TO_UNDO
    return Explanation(*about, Verdict.MAPPED, None if steps else nothing, order_id, None, order, steps)


def _error(error: IntegratorError) -> dict[str, str]:
    return {
        "class": error.error_class,
        "message": error.message,
        "remedy": error.advice,
        "subject": error.subject,
        "fingerprint": error.fingerprint,
    }


def _step(step: Missing) -> dict[str, str]:
    return {"kind": step.kind.value} | ({"refund": step.refund.external_id} if step.refund else {})


def _sums(order: Order) -> dict[str, Any] | None:
    """What the order's parts come to, and each refund's; None when they are in several currencies."""
    try:
        refunds = {refund.external_id: _amounts(refund_breakdown(order, refund)) for refund in order.refunds}
        return {**_amounts(breakdown(order)), "refunds": refunds}
    except IntegratorError:
        return None


def _amounts(parts: Breakdown) -> dict[str, Any]:
    names = ("lines", "discounts", "taxes", "shipping", "fees", "expected", "total", "difference")
    return {
        "currency": parts.currency,
        "taxes_included": parts.taxes_included,
        **{name: format(getattr(parts, name), "f") for name in names},
        "sentence": str(parts),
    }
