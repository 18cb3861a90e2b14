"""Orders: bring one order in the management system to what the shop says."""

from contextlib import suppress
from decimal import Decimal

from integrator import unreadable
from integrator.clock import EPOCH
from integrator.documents import Order, sums
from integrator.erps.base import Action, StepKind
from integrator.errors import Bug, Conflict, NotFound, Side, Transient, Unmapped
from integrator.ledger.steps import Step
from integrator.logs import get_logger
from integrator.shops.base import Deleted
from integrator.sync import keys
from integrator.sync import plan as planning
from integrator.sync.agree import agree
from integrator.sync.forgotten import may_have_forgotten, remember
from integrator.sync.mend import cancelled_there, mended
from integrator.sync.plan import CONTENTS, Applied, Fetch, Keep, Missing, Take
from integrator.sync.run import Run
from integrator.sync.settle import perform, reference, settle, verify
from integrator.sync.sides import ErpSide, ShopSide

log = get_logger(__name__)

DONE = {
    StepKind.CREATE: "created",
    StepKind.UPDATE: "updated",
    StepKind.CREDIT: "credited",
    StepKind.CANCEL: "cancelled",
}
"""What is said of the steps of a run."""

RESTORED = "the ledger was restored"
"""Why the shop is asked: what the ledger knows to be the newest may not be."""


def converge(run: Run, shop: ShopSide, erp: ErpSide) -> None:
    """Run a claimed order sync to its end. Raises the taxonomy; what was applied until then stays applied.

    1. Settle what is in doubt. 2. Find the newest snapshot, and what a restored ledger has forgotten. 3. Plan.
    4. Run the steps, asking the gate before each. 5. See that the totals agree, and that a create or credit which
    followed a doubt is alone. 6. Finish.
    """
    if run.assignment.external_id.startswith(unreadable.PREFIX):
        raise unreadable.failure()
    settle(run, erp)
    done = run.steps(erp.settle_seconds)
    try:
        order = _newest(run, shop, done)
    except NotFound as error:
        _give_up(run, shop, erp, done, error)
        return
    if order is None:
        verify(run, erp)
        _finish_unchanged(run)
        return
    if may_have_forgotten(run, order):
        remember(run, erp, order)
        done = run.steps(erp.settle_seconds)
    if mended(run, erp, order, done):
        done = run.steps(erp.settle_seconds)
    applied = planning.fold(done)
    missing = planning.plan(order, applied)
    add_up(order, missing, run.assignment.tolerance)
    for step in missing:
        perform(run, erp, _action(run, step, order, planning.fold(run.steps(0)), done))
    if left := planning.plan(order, planning.fold(run.steps(0))):
        raise Bug(
            f"The steps {', '.join(step.kind for step in left)} were run, but not applied.",
            subject="unapplied step",
        )
    agree(run, erp, order)
    verify(run, erp)
    run.finish(_reason(order, applied, missing), seen_updated_at=order.updated_at, seen_digest=order.digest())


def add_up(order: Order, missing: list[Missing], tolerance: Decimal) -> None:
    """Everything that is about to be written must add up before any of it is. Raises TotalMismatch."""
    if CONTENTS.intersection(step.kind for step in missing):
        sums.check(order, tolerance)
    if refunds := [step.refund for step in missing if step.refund]:
        sums.check_refunds(order, refunds, tolerance)


def _action(run: Run, step: Missing, order: Order, applied: Applied | None, done: list[Step]) -> Action:
    """An effect, with its key (S3)."""
    refund = step.refund.external_id if step.refund else None
    key = keys.effect(run.assignment, step.kind, done, refund)
    return Action(step.kind, key, reference(run), applied.remote_id if applied else None, order, step.refund)


def _newest(run: Run, shop: ShopSide, done: list[Step]) -> Order | None:
    """The snapshot to reach; None when what was done already is newer than all that came."""
    about = run.assignment
    newest = planning.known(about.seen_updated_at, about.seen_digest, done)
    choice = planning.choose(run.candidates(), newest)
    if isinstance(choice, Keep):
        if about.restored_at is None:
            return None
        choice = Fetch(RESTORED, newest.updated_at)
    if isinstance(choice, Take):
        order = shop.map(choice.topic, run.body(choice.delivery_id))
        forgotten = order is not None and may_have_forgotten(run, order)
        if order is not None and not forgotten and choice.fits(order):
            return _same_order(about.external_id, order)
        reason = "the body is no whole order" if order is None else "other content at the same time"
        reason = RESTORED if forgotten else reason
        choice = Fetch(reason, choice.updated_at)
    log.info("order_fetched", sync_id=run.sync_id, reason=choice.reason)
    return _not_older(choice, _same_order(about.external_id, shop.fetch_order(about.external_id)))


def _give_up(run: Run, shop: ShopSide, erp: ErpSide, done: list[Step], error: NotFound) -> None:
    """Cancel what the shop has deleted, and nothing else: its content is not brought up to date first.

    What the shop only does not show is not cancelled: that may have another cause. Raises the error then, and when
    no delivery tells any more what the order was, until a person has cancelled it.
    """
    if may_have_forgotten(run, None):
        remember(run, erp, None)
        done = run.steps(erp.settle_seconds)
    deleted, applied = isinstance(error, Deleted), planning.fold(done)
    reason = "deleted in the shop" if deleted else "not in the shop any more, and cancelled"
    if applied is None:
        if not deleted:
            raise error
        reason = "deleted before it was created"
    elif not applied.cancelled:
        order = _last_known(run, shop) if deleted else None
        if order is None and not cancelled_there(run, erp, done):
            raise error
        if order is not None:
            at = order.updated_at or order.placed_at or EPOCH
            order = order.model_copy(update={"cancelled_at": at, "cancel_reason": reason})
            perform(run, erp, _action(run, Missing(StepKind.CANCEL), order, applied, done))
            reason = f"cancelled: {reason}"
    verify(run, erp)
    run.finish(reason, seen_updated_at=run.assignment.seen_updated_at, seen_digest=planning.DELETED)


def _last_known(run: Run, shop: ShopSide) -> Order | None:
    """The newest order that a delivery's body tells."""
    for candidate in run.candidates():
        with suppress(Unmapped):
            if order := shop.map(candidate.topic, run.body(candidate.delivery_id)):
                return _same_order(run.assignment.external_id, order)
    return None


def _not_older(choice: Fetch, order: Order) -> Order:
    """What the shop answered, as of the newest time that is known when it says none itself. Raises Transient."""
    if order.updated_at is None:
        return order.model_copy(update={"updated_at": choice.not_before})
    if choice.not_before is not None and order.updated_at < choice.not_before:
        error = Transient(
            f"The shop answered order {order.external_id} as of {order.updated_at.isoformat()}, "
            f"which is older than {choice.not_before.isoformat()} that it sent before.",
            subject="older than known",
        )
        error.side = Side.SHOP
        raise error
    return order


def _same_order(external_id: str, order: Order) -> Order:
    if order.external_id != external_id:
        raise Conflict(
            f"The shop answered order {order.external_id} when asked for {external_id}.", subject="another order"
        )
    return order


def _finish_unchanged(run: Run) -> None:
    about = run.assignment
    run.finish("nothing newer", seen_updated_at=about.seen_updated_at, seen_digest=about.seen_digest)


def _reason(order: Order, applied: Applied | None, missing: list[Missing]) -> str:
    if missing:
        return " and ".join(dict.fromkeys(DONE[step.kind] for step in missing))
    if applied is None and order.not_yet:
        return f"not an order yet: {order.not_yet}"
    return "cancelled before it was created" if applied is None and order.cancelled else "unchanged"
