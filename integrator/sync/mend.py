"""What a person has put right in the management system since: seen before an order is held, and recorded.

A conflict that only a person can end must end when it has been ended: the steps that are applied say for ever that
the order was cancelled or a refund credited. So before anybody is asked, the system is; what a person did there is
recorded as a step that was seen, not sent, and counts from then on.
"""

from collections.abc import Iterator, Sequence

from integrator.documents import Order
from integrator.erps.base import Found, Receipt, StepKind
from integrator.errors import Conflict, NotFound
from integrator.ledger.steps import Step
from integrator.logs import get_logger
from integrator.sync import keys
from integrator.sync import plan as planning
from integrator.sync.agree import close
from integrator.sync.run import Run
from integrator.sync.settle import look, reference, two_records
from integrator.sync.sides import ErpSide

log = get_logger(__name__)


def mended(run: Run, erp: ErpSide, order: Order, done: Sequence[Step]) -> bool:
    """Record what a person has done about a conflict of this order; whether there was anything.

    Raises NotFound when the record has been removed, Conflict when there are two, and what a look-up raises.
    """
    applied = planning.fold(done)
    try:
        planning.plan(order, applied)
    except Conflict:
        record = _record(run, erp, applied)
        if applied is None or record is None:
            raise
    else:
        return False
    reopened = applied.cancelled and not record.cancelled and not order.cancelled
    if reopened:
        _see(run, StepKind.REOPEN, Receipt(record.remote_id, record.total))
    handled = list(_credits(run, order, done, record))
    for kind, step, receipt, digest in handled:
        _see(run, kind, receipt, refund=keys.refund_id(step), digest=digest)
    return reopened or bool(handled)


def cancelled_there(run: Run, erp: ErpSide, done: Sequence[Step]) -> bool:
    """Whether the record is cancelled, though not by a step of ours; it is recorded then.

    Raises as `mended` does.
    """
    record = _record(run, erp, planning.fold(done))
    if record is None or not record.cancelled:
        return False
    _see(run, StepKind.CANCEL, Receipt(record.remote_id, record.total))
    return True


def _record(run: Run, erp: ErpSide, applied: planning.Applied | None) -> Found | None:
    """The order's record as the system has it now."""
    if applied is None:
        return None
    run.ask_gate()
    found = look(run, erp)
    if len(found) > 1:
        raise two_records(run, found)
    record = next((one for one in found if one.remote_id == applied.remote_id), None)
    if record is None:
        raise NotFound(
            f"Order {applied.remote_id} of {reference(run)} is not in the management system any more.",
            subject="order removed",
        )
    return record


def _credits(
    run: Run, order: Order, done: Sequence[Step], record: Found
) -> Iterator[tuple[StepKind, Step, Receipt, str]]:
    """What was done with the credits whose refund has changed or is gone: removed, or made what the refund is."""
    there = {credit.credit_id: credit for credit in record.credits}
    refunds = {refund.external_id: refund for refund in order.refunds}
    for external_id, step in planning.credits_that_stand(done).items():
        refund = refunds.get(external_id)
        if refund is not None and refund.digest() == step.digest:
            continue
        credit = there.get(step.remote_id or "")
        if credit is None:
            yield StepKind.REMOVE, step, Receipt(step.remote_id or "", step.remote_total), step.digest
        elif credit.total is None:
            continue
        elif refund is None and not credit.total.amount:
            yield StepKind.REMOVE, step, Receipt(credit.credit_id, credit.total), step.digest
        elif refund is not None and close(credit.total, refund.total, run.assignment.tolerance):
            yield StepKind.CORRECT, step, Receipt(credit.credit_id, credit.total), refund.digest()


def _see(run: Run, kind: StepKind, receipt: Receipt, *, refund: str | None = None, digest: str = "") -> None:
    key = keys.seen(run.assignment, kind, run.steps(0), refund)
    run.observe(kind, key, receipt, digest=digest)
    log.info("mended_by_hand", sync_id=run.sync_id, kind=kind.value, remote_id=receipt.remote_id)
