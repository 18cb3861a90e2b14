"""One effect per step: performing it, and settling it when its outcome is in doubt (PROTOCOL S1-S5)."""

from integrator import errors, failpoints
from integrator.documents import Order
from integrator.erps.base import Action, Found, Receipt, StepKind
from integrator.errors import Conflict, IntegratorError, Settling, Transient
from integrator.ledger.schema import StepState
from integrator.ledger.steps import Step
from integrator.logs import get_logger
from integrator.sync.run import Run
from integrator.sync.sides import ErpSide

log = get_logger(__name__)

UNSETTLED = (StepState.INTENDED, StepState.IN_DOUBT)

DECIDED = (errors.Rejected, errors.Unmapped, errors.TotalMismatch, errors.NotFound, errors.Conflict)
"""Answers by which a system that remembers keys says that the request never had its effect, nor will."""


def perform(run: Run, erp: ErpSide, kind: StepKind, action: Action, order: Order) -> None:
    """Have one effect, recorded before and after it. Raises GateShut before it, the taxonomy after it."""
    run.ask_gate()
    step_id = run.intend(kind, erp.prepare(action), order)
    step = _step(run, erp, step_id)
    try:
        receipt = _send(erp, step)
    except Transient as error:
        if not error.in_doubt:
            run.refuse(step_id)
            raise
        run.doubt(step_id)
        if not erp.looks_up:
            raise
        _look_at_once(run, erp, step_id, error)
        return
    except errors.Bug:
        run.doubt(step_id)
        raise
    except IntegratorError:
        run.refuse(step_id)
        raise
    _applied(run, erp, step, receipt)


def _send(erp: ErpSide, step: Step) -> Receipt:
    try:
        receipt = erp.send(step.request)
    except IntegratorError:
        raise
    except Exception as error:
        # Whatever broke in the connector, the request may have left: the step is in doubt, and the text stays out.
        log.exception("connector_failed", step_id=step.step_id)
        raise errors.Bug(
            f"The connector failed with {type(error).__name__}.", subject=type(error).__name__
        ) from None
    failpoints.fire("worker.answered")
    return receipt


def _applied(run: Run, erp: ErpSide, step: Step, receipt: Receipt) -> None:
    """Record it. A create that followed a doubt on a system without keys is looked up once more later (S2)."""
    followed_doubt = step.kind is StepKind.CREATE and step.doubts > 0 and erp.looks_up
    run.apply(step.step_id, receipt, verify_after=erp.settle_seconds if followed_doubt else None)


def settle(run: Run, erp: ErpSide) -> None:
    """Settle every step in doubt before anything new is planned. Raises Settling when only time can tell."""
    for step in run.steps(erp.settle_seconds):
        if step.state not in UNSETTLED:
            continue
        run.ask_gate()
        if erp.looks_up:
            _settle_by_look(run, erp, step)
        else:
            _settle_by_repeat(run, erp, step)


def _settle_by_repeat(run: Run, erp: ErpSide, step: Step) -> None:
    """Send the same bytes under the same key: the system answers what it answered, or does it now."""
    run.resend(step.step_id)
    try:
        receipt = _send(erp, step)
    except DECIDED:
        run.refuse(step.step_id)
        raise
    except IntegratorError:
        run.doubt(step.step_id)
        raise
    run.apply(step.step_id, receipt)


def _look_at_once(run: Run, erp: ErpSide, step_id: int, cause: Transient) -> None:
    """The first look, right after the failure that this run observed."""
    try:
        _settle_by_look(run, erp, _step(run, erp, step_id))
    except Settling as settling:
        raise Settling(settling.message, not_before=settling.not_before, cause=cause) from None


def _settle_by_look(run: Run, erp: ErpSide, step: Step) -> None:
    """Find the effect by its reference. "Not found" counts only once settle_seconds have passed (S2)."""
    found = _look(erp, run)
    shown = next((one for one in found if _shows(one, step)), None)
    if step.kind is StepKind.CREATE and len(found) > 1:
        raise two_records(run, found)
    if shown is not None:
        run.apply(step.step_id, Receipt(shown.remote_id, shown.total), verify_after=_again(erp, step))
    elif step.kind is StepKind.CREATE and found:
        raise Conflict(
            f"Record {found[0].remote_id} carries the reference {reference(run)}, but was not made by us.",
            subject="a reference that we did not make",
        )
    elif step.settled:
        run.refuse(step.step_id, after_doubt=True)
    else:
        raise Settling(
            f"The {step.kind.value} of {reference(run)} may still happen until {step.settles_at.isoformat()}.",
            not_before=step.settles_at,
        )


def _again(erp: ErpSide, step: Step) -> float | None:
    """A create sent more than once may have been done twice: it needs the last look, however it was found."""
    return erp.settle_seconds if step.kind is StepKind.CREATE and step.sends > 1 else None


def _shows(found: Found, step: Step) -> bool:
    return step.request.key in found.applied_keys or (step.kind is StepKind.CANCEL and found.cancelled)


def _look(erp: ErpSide, run: Run) -> list[Found]:
    try:
        return erp.look_up(reference(run))
    except Transient as error:
        error.burns_attempt = False
        raise


def verify(run: Run, erp: ErpSide) -> None:
    """The last look at creates that followed a doubt. Raises Settling until it is due, Conflict for two."""
    for step in run.steps(erp.settle_seconds):
        if step.verify_at is None:
            continue
        if not step.verify_due:
            raise Settling(
                f"Whether {reference(run)} is alone is looked up at {step.verify_at.isoformat()}.",
                not_before=step.verify_at,
            )
        run.ask_gate()
        found = _look(erp, run)
        if len(found) > 1:
            raise two_records(run, found)
        run.verified(step.step_id)


def two_records(run: Run, found: list[Found]) -> Conflict:
    """Two records with one reference: a person keeps one."""
    names = " and ".join(sorted(one.remote_id for one in found))
    return Conflict(
        f"The management system holds {names} for {reference(run)}: keep one and remove the other.",
        subject="two records with one reference",
    )


def reference(run: Run) -> str:
    """What the record in the management system carries: unique per order within the tenant's system."""
    return f"{run.assignment.shop}/{run.assignment.external_id}"


def _step(run: Run, erp: ErpSide, step_id: int) -> Step:
    return next(step for step in run.steps(erp.settle_seconds) if step.step_id == step_id)
