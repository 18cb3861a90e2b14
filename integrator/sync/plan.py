"""The pure middle of order syncs: which snapshot counts, and which steps are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from integrator.documents import Order
from integrator.erps.base import StepKind
from integrator.errors import Conflict
from integrator.ledger.deliveries import Candidate
from integrator.ledger.schema import StepState
from integrator.ledger.steps import Step


@dataclass(frozen=True)
class Applied:
    """What the management system holds, folded from the steps that were applied to it."""

    remote_id: str
    digest: str
    cancelled: bool


def content_digest(order: Order) -> str:
    """The digest of what a create or update carries: cancelling is a step of its own."""
    return order.model_copy(update={"cancelled_at": None, "cancel_reason": None}).digest()


def fold(steps: Sequence[Step]) -> Applied | None:
    """The applied state that the steps add up to; None before the first create."""
    applied = [step for step in steps if step.state is StepState.APPLIED]
    contents = [step for step in applied if step.kind is not StepKind.CANCEL]
    if not contents:
        return None
    cancelled = any(step.kind is StepKind.CANCEL for step in applied)
    return Applied(contents[0].remote_id or "", contents[-1].digest, cancelled)


def plan(order: Order, applied: Applied | None) -> list[StepKind]:
    """The steps that bring the management system from `applied` to `order`, in their order.

    Raises Conflict for an order that is open in the shop but cancelled in the management system.
    """
    if applied is None:
        return [] if order.cancelled else [StepKind.CREATE]
    if applied.cancelled:
        if not order.cancelled:
            raise Conflict(
                f"Order {order.external_id} is open in the shop, but was cancelled in the management system "
                f"as {applied.remote_id}.",
                subject="cancelled and open again",
            )
        return []
    changed = [StepKind.UPDATE] if content_digest(order) != applied.digest else []
    return changed + ([StepKind.CANCEL] if order.cancelled else [])


@dataclass(frozen=True)
class Known:
    """The newest snapshot that has been acted on.

    `complete`: every step that it asked for was done. Else a run ended between its steps, and only the shop can
    say what else it asked for.
    """

    updated_at: datetime | None
    digest: str | None
    complete: bool


def known(seen_updated_at: datetime | None, seen_digest: str | None, steps: Sequence[Step]) -> Known:
    """Fold what was finished and what was applied since into the newest known snapshot."""
    newest = Known(seen_updated_at, seen_digest, complete=True)
    for step in steps:
        at = step.snapshot_updated_at
        later = at is not None and (newest.updated_at is None or at > newest.updated_at)
        if step.state is StepState.APPLIED and later:
            newest = Known(at, None, complete=False)
    return newest


@dataclass(frozen=True)
class Take:
    """Use the body of this delivery, which says `updated_at`.

    With `only_if_digest` it must map to that content, else fetch.
    """

    delivery_id: int
    topic: str
    updated_at: datetime
    only_if_digest: str | None = None


@dataclass(frozen=True)
class Fetch:
    """Ask the shop, and accept nothing older than `not_before`; `reason` says why."""

    reason: str
    not_before: datetime | None


@dataclass(frozen=True)
class Keep:
    """Nothing newer than what is known came, and that was done: there is nothing to do."""


def choose(  # noqa: PLR0911 - one rule a line
    candidates: Sequence[Candidate], newest: Known
) -> Take | Fetch | Keep:
    """Which snapshot counts: a delivery's, the shop's, or the one already done (DESIGN §3, "Versions").

    An older `updated_at` never replaces a newer one. An equal one with other content, or none at all, means
    fetch: platform times have steps of one second.
    """
    times = [candidate.updated_at for candidate in candidates if candidate.updated_at is not None]
    latest = max([*times, *([newest.updated_at] if newest.updated_at else [])], default=None)
    if len(times) < len(candidates):
        return Fetch("a delivery says no time", latest)
    if not candidates:
        return Fetch("no delivery is left", latest)
    top = [candidate for candidate in candidates if candidate.updated_at == max(times)]
    if newest.updated_at is not None and max(times) < newest.updated_at:
        return Keep() if newest.complete else Fetch("a newer snapshot was begun", latest)
    if len({candidate.body_hash for candidate in top}) > 1:
        return Fetch("two bodies say the same time", latest)
    if max(times) != newest.updated_at:
        return Take(top[0].delivery_id, top[0].topic, max(times))
    if not newest.complete:
        return Fetch("a snapshot of the same time was begun", latest)
    return Take(top[0].delivery_id, top[0].topic, max(times), only_if_digest=newest.digest)
