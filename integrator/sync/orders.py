"""Orders: bring one order in the management system to what the shop says."""

from decimal import Decimal

from integrator.documents import Order, sums
from integrator.erps.base import Action, StepKind
from integrator.errors import Bug, Conflict, NotFound, TotalMismatch, Transient, Unmapped
from integrator.ledger.schema import StepState
from integrator.ledger.steps import Step
from integrator.logs import get_logger
from integrator.sync import plan as planning
from integrator.sync.plan import Applied, Fetch, Keep, Take
from integrator.sync.run import Run
from integrator.sync.settle import perform, reference, settle, verify
from integrator.sync.sides import ErpSide, ShopSide

log = get_logger(__name__)

UNREADABLE = "delivery:"
"""What the external id of a delivery begins with whose body had no readable id."""


def converge(run: Run, shop: ShopSide, erp: ErpSide) -> None:
    """Run a claimed order sync to its end. Raises the taxonomy; what was applied until then stays applied.

    1. Settle what is in doubt. 2. Find the newest snapshot. 3. Plan. 4. Run the steps, asking the gate before
    each. 5. See that the totals agree, and that a create which followed a doubt is alone. 6. Finish.
    """
    if run.assignment.external_id.startswith(UNREADABLE):
        raise Unmapped("The delivery has no readable order id.", subject="unreadable body")
    settle(run, erp)
    done = run.steps(erp.settle_seconds)
    order = _newest(run, shop, done)
    if order is None:
        verify(run, erp)
        _finish_unchanged(run)
        return
    applied = planning.fold(done)
    missing = planning.plan(order, applied)
    if StepKind.CREATE in missing or StepKind.UPDATE in missing:
        sums.check(order, run.assignment.tolerance)
    for kind in missing:
        perform(run, erp, kind, _action(run, kind, order, planning.fold(run.steps(0)), done), order)
    if left := planning.plan(order, planning.fold(run.steps(0))):
        raise Bug(f"The steps {', '.join(left)} were run, but not applied.", subject="unapplied step")
    if not order.cancelled:
        _agree(run, erp, order)
    verify(run, erp)
    run.finish(_reason(order, applied, missing), seen_updated_at=order.updated_at, seen_digest=order.digest())


def _action(run: Run, kind: StepKind, order: Order, applied: Applied | None, done: list[Step]) -> Action:
    """An effect and its key (S3): only an update's has a number, which no other update of the order has."""
    about = run.assignment
    name = kind.value
    if kind is StepKind.UPDATE:
        name = f"update/{1 + sum(step.kind is StepKind.UPDATE for step in done)}"
    key = f"{about.tenant}/{about.erp}/{about.shop}/{about.kind}/{about.external_id}/{name}"
    return Action(kind, key, reference(run), applied.remote_id if applied else None, order)


def _newest(run: Run, shop: ShopSide, done: list[Step]) -> Order | None:
    """The snapshot to reach; None when what was done already is newer than all that came."""
    about = run.assignment
    newest = planning.known(about.seen_updated_at, about.seen_digest, done)
    choice = planning.choose(run.candidates(), newest)
    if isinstance(choice, Keep):
        return None
    if isinstance(choice, Take):
        order = shop.map(choice.topic, run.body(choice.delivery_id))
        if order is not None and choice.only_if_digest in (None, order.digest()):
            return _same_order(about.external_id, order)
        reason = "the body is no whole order" if order is None else "other content at the same time"
        choice = Fetch(reason, choice.updated_at)
    log.info("order_fetched", sync_id=run.sync_id, reason=choice.reason)
    return _not_older(choice, _same_order(about.external_id, shop.fetch_order(about.external_id)))


def _not_older(choice: Fetch, order: Order) -> Order:
    """What the shop answered, as of the newest time that is known when it says none itself. Raises Transient."""
    if order.updated_at is None:
        return order.model_copy(update={"updated_at": choice.not_before})
    if choice.not_before is not None and order.updated_at < choice.not_before:
        raise Transient(
            f"The shop answered order {order.external_id} as of {order.updated_at.isoformat()}, "
            f"which is older than {choice.not_before.isoformat()} that it sent before.",
            subject="older than known",
        )
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


def _reason(order: Order, applied: Applied | None, missing: list[StepKind]) -> str:
    if missing:
        return " and ".join(f"{kind.value}d" if kind is not StepKind.CANCEL else "cancelled" for kind in missing)
    return "cancelled before it was created" if applied is None and order.cancelled else "unchanged"


def _agree(run: Run, erp: ErpSide, order: Order) -> None:
    """The management system's own total must be the shop's (DESIGN §6). Raises TotalMismatch, NotFound."""
    contents = [
        step
        for step in run.steps(erp.settle_seconds)
        if step.state is StepState.APPLIED and step.kind is not StepKind.CANCEL
    ]
    if not contents or contents[-1].remote_total is None:
        return
    theirs, remote_id = contents[-1].remote_total, contents[-1].remote_id
    if _close(theirs.amount, theirs.currency, order, run.assignment.tolerance):
        return
    found = [one for one in erp.look_up(reference(run)) if one.remote_id == remote_id]
    if not found:
        raise NotFound(f"Order {remote_id} is not in the management system any more.", subject="order removed")
    now = found[0].total or theirs
    if not _close(now.amount, now.currency, order, run.assignment.tolerance):
        raise TotalMismatch(
            f"The management system's order {remote_id} comes to {now}, the shop's {order.external_id} to "
            f"{order.total}: {abs(now.amount - order.total.amount):f} off.",
            subject="the management system's total",
        )


def _close(amount: Decimal, currency: str, order: Order, tolerance: Decimal) -> bool:
    return currency == order.total.currency and abs(amount - order.total.amount) <= tolerance
