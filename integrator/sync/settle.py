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
    """Have one effect, recorded before and after it; it has happened when this returns.

    Raises GateShut before it; the taxonomy after it, when it did not happen or is in doubt.
    """
    run.ask_gate()
    step_id = run.intend(kind, erp.prepare(action), order)
    step = _step(run, erp, step_id)
    try:
        receipt = _send(run, erp, step)
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


def _send(run: Run, erp: ErpSide, step: Step) -> Receipt:
    try:
        receipt = erp.send(step.request)
    except DECIDED:
        run.authorized = True
        raise
    except IntegratorError:
        raise
    except Exception as error:
        # Whatever broke in the connector, the request may have left: the step is in doubt, and the text stays out.
        log.exception("connector_failed", step_id=step.step_id)
        raise errors.Bug(
            f"The connector failed with {type(error).__name__}.", subject=type(error).__name__
        ) from None
    run.authorized = True
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
        if not erp.looks_up:
            _settle_by_repeat(run, erp, step)
        elif not _found(run, erp, step):
            if not step.settled:
                raise _settling(step)
            # Not found by the second look. A create that was stopped on its way may still come: a last one shows.
            again = erp.settle_seconds if step.kind is StepKind.CREATE else None
            run.refuse(step.step_id, after_doubt=True, verify_after=again)


def _settle_by_repeat(run: Run, erp: ErpSide, step: Step) -> None:
    """Send the same bytes under the same key: the system answers what it answered, or does it now.

    That it refuses them now says nothing of the first time, before that can't come any more.
    """
    run.resend(step.step_id)
    try:
        receipt = _send(run, erp, step)
    except IntegratorError as error:
        if isinstance(error, DECIDED) and step.settled:
            run.refuse(step.step_id)
        else:
            run.doubt(step.step_id)
        raise
    run.apply(step.step_id, receipt)


def _look_at_once(run: Run, erp: ErpSide, step_id: int, cause: Transient) -> None:
    """The first look, right after the failure that this run observed: it may find, and never gives up."""
    step = _step(run, erp, step_id)
    try:
        found = _found(run, erp, step)
    except Transient:
        raise cause from None
    if not found:
        settling = _settling(step)
        raise Settling(settling.message, not_before=settling.not_before, cause=cause)


def _settling(step: Step) -> Settling:
    at = step.settles_at
    return Settling(f"The {step.kind.value} may still happen until {at.isoformat()}.", not_before=at)


def _found(run: Run, erp: ErpSide, step: Step) -> bool:
    """Look the effect up by its reference, and record it when it is there. Raises Conflict."""
    found = _look(run, erp)
    shown = next((one for one in found if _shows(one, step)), None)
    if step.kind is StepKind.CREATE and len(found) > 1:
        raise two_records(run, found)
    if shown is not None:
        # A create sent more than once may have been done twice: it needs the last look, however it was found.
        again = erp.settle_seconds if step.kind is StepKind.CREATE and step.sends > 1 else None
        run.apply(step.step_id, Receipt(shown.remote_id, shown.total), verify_after=again)
    elif step.kind is StepKind.CREATE and found:
        raise Conflict(
            f"Record {found[0].remote_id} carries the reference {reference(run)}, but was not made by us.",
            subject="a reference that we did not make",
        )
    return shown is not None


def _shows(found: Found, step: Step) -> bool:
    return step.request.key in found.applied_keys or (step.kind is StepKind.CANCEL and found.cancelled)


def _look(run: Run, erp: ErpSide) -> list[Found]:
    try:
        found = erp.look_up(reference(run))
    except IntegratorError as error:
        error.burns_attempt = False
        raise
    run.authorized = True
    return found


def verify(run: Run, erp: ErpSide) -> None:
    """The last look at creates that followed a doubt, or were given up after one.

    Raises Settling until it is due, and when it found what had been given up: the plan is made anew then.
    Conflict for two records, NotFound for none where there was one.
    """
    for step in run.steps(erp.settle_seconds):
        if step.verify_at is None:
            continue
        if not step.verify_due:
            raise Settling(
                f"Whether {reference(run)} is alone is looked up at {step.verify_at.isoformat()}.",
                not_before=step.verify_at,
            )
        run.ask_gate()
        found = _look(run, erp)
        if len(found) > 1:
            raise two_records(run, found)
        _take_last_look(run, step, found)


def _take_last_look(run: Run, step: Step, found: list[Found]) -> None:
    given_up = step.state is StepState.REFUSED
    if not found:
        run.verified(step.step_id)
        if not given_up:
            raise errors.NotFound(
                f"Record {step.remote_id} of {reference(run)} is not in the management system any more.",
                subject="order removed",
            )
    elif found[0].remote_id == step.remote_id:
        run.verified(step.step_id)
    else:
        # A person kept the other of two, or what had been given up came late after all: that is the record now.
        run.apply(step.step_id, Receipt(found[0].remote_id, found[0].total))
        if given_up:
            at = step.verify_at or step.settles_at
            raise Settling(f"{found[0].remote_id} came late for {reference(run)}.", not_before=at)


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
