"""The pure middle of order syncs: which snapshot counts, and which steps are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from integrator.clock import EPOCH
from integrator.documents import Order, Refund
from integrator.erps.base import StepKind
from integrator.errors import Conflict
from integrator.ledger.deliveries import Candidate
from integrator.ledger.schema import StepState
from integrator.ledger.steps import Step
from integrator.sync.keys import refund_id

CONTENTS = frozenset({StepKind.CREATE, StepKind.UPDATE})
"""The steps that carry the whole order, and are answered with its total."""

CANCELLED_HERE = (
    "Reopen the order that the message names in the management system, then `celery -A tasks syncs requeue`: what "
    "else the shop says follows by itself. If it is to stay cancelled, cancel it in the shop too."
)
CREDITED_OTHERWISE = (
    "Correct the credit that the message names to what the refund is in the shop, or remove it, so that what the "
    "shop still gives back is credited anew; then `celery -A tasks syncs requeue`."
)

DELETED = "deleted"
"""Stands for a digest: the shop said that the order was deleted. Whatever comes after that, the shop is asked."""

UNKNOWN = ""
"""The digest of what a forgotten step carried (ADR 0011): equal to none, so that the content is written again."""


@dataclass(frozen=True)
class Applied:
    """What the management system holds, folded from the steps that were applied to it.

    `credits` has the digest of each refund that was credited, and `credit_ids` the credit's own id, both by the
    refund's id.
    """

    remote_id: str
    digest: str
    cancelled: bool
    credits: Mapping[str, str] = field(default_factory=dict)
    credit_ids: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Missing:
    """One step that is missing; a credit's is about `refund`."""

    kind: StepKind
    refund: Refund | None = None


def content_digest(order: Order) -> str:
    """The digest of what a create or update carries: cancelling and crediting are steps of their own."""
    apart = {"cancelled_at": None, "cancel_reason": None, "not_yet": None, "refunds": ()}
    return order.model_copy(update=apart).digest()


def fold(steps: Sequence[Step]) -> Applied | None:
    """The applied state that the steps add up to; None before the first create."""
    applied = [step for step in steps if step.state is StepState.APPLIED]
    contents = [step for step in applied if step.kind in CONTENTS]
    if not contents:
        return None
    cancelled = [step.kind for step in applied if step.kind in {StepKind.CANCEL, StepKind.REOPEN}][-1:]
    credited = credits_that_stand(applied)
    return Applied(
        contents[0].remote_id or "",
        contents[-1].digest,
        cancelled == [StepKind.CANCEL],
        {refund: step.digest for refund, step in credited.items()},
        {refund: step.remote_id or "" for refund, step in credited.items()},
    )


def credits_that_stand(steps: Sequence[Step]) -> dict[str, Step]:
    """For each refund that is credited, by its id, the step that says how: a credit, or a person's correction."""
    standing: dict[str, Step] = {}
    for step in steps:
        if step.state is not StepState.APPLIED:
            continue
        if step.kind in {StepKind.CREDIT, StepKind.CORRECT}:
            standing[refund_id(step)] = step
        elif step.kind is StepKind.REMOVE:
            standing.pop(refund_id(step), None)
    return standing


def plan(order: Order, applied: Applied | None) -> list[Missing]:
    """The steps that bring the management system from `applied` to `order`, in their order.

    First the content, then one credit for each refund that has none, the oldest first, then the cancellation. What
    was cancelled before it was ever created needs nothing, whatever was given back, nor does what is no order yet;
    what is cancelled there takes credits, and no content. Raises Conflict for an order that counts in the shop
    but was cancelled in the management system, and for a credited refund that the shop has changed since.
    """
    if applied is None:
        return [] if order.cancelled or order.not_yet else [Missing(StepKind.CREATE), *_credits(order, None)]
    if applied.cancelled and not (order.cancelled or order.not_yet):
        raise Conflict(
            f"Order {order.external_id} is open in the shop, but was cancelled in the management system "
            f"as {applied.remote_id}.",
            subject="cancelled and open again",
            remedy=CANCELLED_HERE,
        )
    changed = not applied.cancelled and content_digest(order) != applied.digest
    return [
        *([Missing(StepKind.UPDATE)] if changed else []),
        *_credits(order, applied),
        *([Missing(StepKind.CANCEL)] if order.cancelled and not applied.cancelled else []),
    ]


def _credits(order: Order, applied: Applied | None) -> list[Missing]:
    credited = applied.credits if applied else {}
    credit_ids = applied.credit_ids if applied else {}
    known_refunds = {refund.external_id: refund for refund in order.refunds}
    for external_id, digest in credited.items():
        refund = known_refunds.get(external_id)
        if refund is None or refund.digest() != digest:
            now = "is not in the shop any more" if refund is None else f"comes to {refund.total} in the shop now"
            raise Conflict(
                f"Refund {external_id} of order {order.external_id} {now}, but was credited before as "
                f"{credit_ids.get(external_id)}.",
                subject="a credited refund has changed",
                remedy=CREDITED_OTHERWISE,
            )
    return [
        Missing(StepKind.CREDIT, refund)
        for refund in sorted(known_refunds.values(), key=_age)
        if refund.external_id not in credited
    ]


def _age(refund: Refund) -> tuple[bool, datetime]:
    """Refunds without a time stand after the others, all in the shop's order."""
    return refund.created_at is None, refund.created_at or EPOCH


@dataclass(frozen=True)
class Known:
    """The newest snapshot that has been acted on.

    `complete`: every step that it asked for was done, and `digest` is its. Else a run ended between its steps, and
    `begun` is what had been applied by then: the snapshot is one that shows all of that.
    """

    updated_at: datetime | None
    digest: str | None
    complete: bool
    begun: Applied | None = None


def shows(order: Order, begun: Applied) -> bool:
    """Whether a snapshot may be the one that was begun: its content, and all that was credited and cancelled."""
    credited = {refund.external_id: refund.digest() for refund in order.refunds}
    return (
        content_digest(order) == begun.digest
        and begun.credits.items() <= credited.items()
        and (order.cancelled or not begun.cancelled)
    )


def known(seen_updated_at: datetime | None, seen_digest: str | None, steps: Sequence[Step]) -> Known:
    """Fold what was finished and what was applied since into the newest known snapshot."""
    newest = Known(seen_updated_at, seen_digest, complete=True)
    for step in steps:
        at = step.snapshot_updated_at
        later = at is not None and (newest.updated_at is None or at > newest.updated_at)
        if step.state is StepState.APPLIED and later:
            newest = Known(at, None, complete=False, begun=fold(steps))
    return newest


@dataclass(frozen=True)
class Take:
    """Use the body of this delivery, which says `updated_at`.

    With `only_if_digest` it must map to that content; with `only_if_shows` it must show
    what was begun. Else fetch.
    """

    delivery_id: int
    topic: str
    updated_at: datetime
    only_if_digest: str | None = None
    only_if_shows: Applied | None = None

    def fits(self, order: Order) -> bool:
        """Whether the body's order may be used."""
        if self.only_if_shows is not None and not shows(order, self.only_if_shows):
            return False
        return self.only_if_digest in {None, order.digest()}


@dataclass(frozen=True)
class Fetch:
    """Ask the shop, and accept nothing older than `not_before`; `reason` says why."""

    reason: str
    not_before: datetime | None


@dataclass(frozen=True)
class Keep:
    """Nothing newer than what is known came, and that was done: there is nothing to do."""


def choose(  # noqa: C901, PLR0911 - one rule a line
    candidates: Sequence[Candidate], newest: Known
) -> Take | Fetch | Keep:
    """Which snapshot counts: a delivery's, the shop's, or the one already done (DESIGN §3, "Versions").

    An older `updated_at` never replaces a newer one. An equal one with other content, or none at all, means
    fetch: platform times have steps of one second. Where a run ended between the steps of a snapshot, as after a
    doubt, the only body of that time is it if it shows what was begun; what it asks for besides is planned then.
    """
    times = [candidate.updated_at for candidate in candidates if candidate.updated_at is not None]
    latest = max([*times, *([newest.updated_at] if newest.updated_at else [])], default=None)
    if newest.digest == DELETED:
        return Fetch("the shop had deleted it", latest)
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
    if newest.complete:
        return Take(top[0].delivery_id, top[0].topic, max(times), only_if_digest=newest.digest)
    if newest.begun is None:
        return Fetch("a snapshot of the same time was begun", latest)
    return Take(top[0].delivery_id, top[0].topic, max(times), only_if_shows=newest.begun)
