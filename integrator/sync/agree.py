"""Whether the management system comes to the shop's totals (DESIGN §6): the order's, and each credit's."""

from decimal import Decimal

from integrator.documents import Money, Order
from integrator.erps.base import Found
from integrator.errors import NotFound, TotalMismatch
from integrator.ledger.schema import StepState
from integrator.ledger.steps import Step
from integrator.sync.plan import CONTENTS, credits_that_stand
from integrator.sync.run import Run
from integrator.sync.settle import look
from integrator.sync.sides import ErpSide


def agree(run: Run, erp: ErpSide, order: Order) -> None:
    """See that the system's own totals are the shop's. Raises TotalMismatch, NotFound, and GateShut before a look.

    A cancelled order's own total is no matter any more; its credits' are.
    """
    applied = [step for step in run.steps(erp.settle_seconds) if step.state is StepState.APPLIED]
    contents = [step for step in applied if step.kind in CONTENTS]
    if contents and not order.cancelled:
        _same(run, erp, contents[-1], order.total, f"the shop's {order.external_id}")
    totals = {refund.external_id: refund.total for refund in order.refunds}
    for refund_id, step in credits_that_stand(applied).items():
        _same(run, erp, step, totals[refund_id], f"the shop's refund {refund_id}")


def _same(run: Run, erp: ErpSide, step: Step, total: Money, shops: str) -> None:
    """Compare what the step was answered or, when that is off, what the system says now."""
    tolerance = run.assignment.tolerance
    if step.remote_total is None or close(step.remote_total, total, tolerance):
        return
    run.ask_gate()
    now = _now(look(run, erp), step) or step.remote_total
    if not close(now, total, tolerance):
        raise TotalMismatch(
            f"The management system's {_what(step)} {step.remote_id} comes to {now}, {shops} to {total}: "
            f"{abs(now.amount - total.amount):f} off.",
            subject="the management system's total",
        )


def _now(found: list[Found], step: Step) -> Money | None:
    there = {one.remote_id: one.total for one in found}
    if step.kind not in CONTENTS:
        there = {credit.credit_id: credit.total for one in found for credit in one.credits}
    if step.remote_id not in there:
        raise NotFound(
            f"{_what(step).capitalize()} {step.remote_id} is not in the management system any more.",
            subject=f"{_what(step)} removed",
        )
    return there[step.remote_id]


def _what(step: Step) -> str:
    return "order" if step.kind in CONTENTS else "credit"


def close(one: Money, other: Money, tolerance: Decimal) -> bool:
    """Whether two amounts are the same within the tenant's tolerance."""
    return one.currency == other.currency and abs(one.amount - other.amount) <= tolerance
