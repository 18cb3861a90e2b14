"""One effect per step: performing it, and settling it when its outcome is in doubt (PROTOCOL S1-S5)."""

from integrator import errors, failpoints
from integrator.erps.base import Action, Credit, Found, Receipt, StepKind
from integrator.errors import Conflict, IntegratorError, Settling, Transient
from integrator.ledger.schema import StepState
from integrator.ledger.steps import Step
from integrator.logs import get_logger
from integrator.sync.plan import CONTENTS, UNKNOWN
from integrator.sync.run import Run
from integrator.sync.sides import ErpSide

log = get_logger(__name__)

UNSETTLED = (StepState.INTENDED, StepState.IN_DOUBT)

DECIDED = (errors.Rejected, errors.Unmapped, errors.TotalMismatch, errors.NotFound, errors.Conflict)
"""Answers by which a system that remembers keys says that the request never had its effect, nor will."""

MADE = frozenset({StepKind.CREATE, StepKind.CREDIT})
"""Steps that make a thing: done twice there are two of it, so after a doubt they need a last look (S2)."""


def perform(run: Run, erp: ErpSide, action: Action) -> None:
    """Have one effect, recorded before and after it; it has happened when this returns.

    Raises GateShut before it; the taxonomy after it, when it did not happen or is in doubt.
    """
    run.ask_gate()
    step_id = run.intend(action, erp.prepare(action))
    step = _step(run, erp, step_id)
    try:
        receipt = _send(run, erp, step)
    except Transient as error:
        if not error.in_doubt:
            _refused(run, erp, step)
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
        _refused(run, erp, step)
        raise
    _applied(run, erp, step, receipt)


def _send(run: Run, erp: ErpSide, step: Step) -> Receipt:
    try:
        receipt = erp.send(step.request)
    except IntegratorError as error:
        run.authorized = run.authorized or isinstance(error, DECIDED)
        run.hear(error)
        raise
    except Exception as error:
        # Whatever broke in the connector, the request may have left: the step is in doubt, and the text stays out.
        log.exception("connector_failed", step_id=step.step_id)
        raise errors.Bug(
            f"The connector failed with {type(error).__name__}.", subject=type(error).__name__
        ) from None
    run.authorized = True
    failpoints.fire("worker.answered")
    run.hear()
    return receipt


def _applied(run: Run, erp: ErpSide, step: Step, receipt: Receipt) -> None:
    run.apply(step, receipt, verify_after=_last_look_after(erp, step))


def _refused(run: Run, erp: ErpSide, step: Step) -> None:
    run.refuse(step.step_id, verify_after=_last_look_after(erp, step))


def _last_look_after(erp: ErpSide, step: Step) -> float | None:
    """What is made, or refused, after a doubt on a system without keys is looked up once more later (S2)."""
    followed_doubt = step.kind in MADE and step.doubts > 0 and erp.looks_up
    return erp.settle_seconds if followed_doubt else None


def settle(run: Run, erp: ErpSide) -> None:
    """Settle every step in doubt before anything new is planned. Raises Settling when only time can tell.

    A restored ledger may have forgotten what became of a step's key, so that it looks whatever the system is.
    """
    for step in run.steps(erp.settle_seconds):
        if step.state not in UNSETTLED:
            continue
        run.ask_gate()
        if not erp.looks_up and run.assignment.restored_at is None:
            _settle_by_repeat(run, erp, step)
        elif not _found(run, erp, step):
            if not step.settled:
                raise _settling(step)
            # Not found by the second look. What was stopped on its way may still come: a last one shows.
            again = erp.settle_seconds if step.kind in MADE else None
            run.refuse(step.step_id, after_doubt=True, verify_after=again)


def _settle_by_repeat(run: Run, erp: ErpSide, step: Step) -> None:
    """Send the same bytes under the same key: the system answers what it answered, or does it now.

    That it refuses them now says nothing of the first time, before that can't come any more. Then nothing has
    happened, and the plan is made from what the shop says now: it may have put right what was refused.
    """
    run.resend(step.step_id)
    try:
        receipt = _send(run, erp, step)
    except IntegratorError as error:
        if isinstance(error, DECIDED) and step.settled:
            run.refuse(step.step_id)
            return
        run.doubt(step.step_id)
        raise
    run.apply(step, receipt)


def _look_at_once(run: Run, erp: ErpSide, step_id: int, cause: Transient) -> None:
    """The first look, right after the failure that this run observed: it may find, and never gives up.

    Where that failure has opened the breaker, or the plan allows no look now, the next run looks.
    """
    step = _step(run, erp, step_id)
    try:
        run.ask_gate()
        found = _found(run, erp, step)
    except (Transient, errors.GateShut, errors.RateLimited, errors.QuotaUsedUp):
        raise cause from None
    if not found:
        settling = _settling(step)
        raise Settling(settling.message, not_before=settling.not_before, cause=cause)


def _settling(step: Step) -> Settling:
    at = step.settles_at
    return Settling(f"The {step.kind.value} may still happen until {at.isoformat()}.", not_before=at)


def _found(run: Run, erp: ErpSide, step: Step) -> bool:
    """Look the effect up by its reference, and record it when it is there. Raises Conflict."""
    found = look(run, erp)
    if step.kind is StepKind.CREATE and len(found) > 1:
        raise two_records(run, found)
    receipt = _shown(run, found, step)
    forgotten = run.assignment.restored_at is not None and step.claim != run.claimed.claim
    if receipt is not None and forgotten and step.kind in CONTENTS:
        # Since the backup other bytes may have gone out under its key.
        run.adopt(step.kind, step.request.key, receipt, digest=UNKNOWN)
    elif receipt is not None:
        # What was sent more than once may have been done twice: it needs the last look, however it was found.
        again = erp.settle_seconds if step.kind in MADE and step.sends > 1 else None
        run.apply(step, receipt, verify_after=again)
    elif step.kind is StepKind.CREATE and found:
        raise not_ours(run, found[0])
    return receipt is not None


def _shown(run: Run, found: list[Found], step: Step) -> Receipt | None:
    """What the records say of a step's effect; None when they don't show it. Raises Conflict for two credits."""
    if step.kind is StepKind.CREDIT:
        credit = one_credit(run, found, step.request.key)
        return Receipt(credit.credit_id, credit.total) if credit else None
    for one in found:
        if step.request.key in one.applied_keys or (step.kind is StepKind.CANCEL and one.cancelled):
            return Receipt(one.remote_id, one.total)
    return None


def one_credit(run: Run, found: list[Found], key: str) -> Credit | None:
    """The credit that a key made, None when there is none. Raises Conflict for two."""
    made = [credit for one in found for credit in one.credits if credit.key == key]
    if len(made) > 1:
        names = " and ".join(sorted(credit.credit_id for credit in made))
        raise Conflict(
            f"The management system holds the credits {names} for one refund of {reference(run)}: keep one and "
            "remove the other.",
            subject="two credits for one refund",
        )
    return made[0] if made else None


def look(run: Run, erp: ErpSide) -> list[Found]:
    """Every record with the order's reference. An error burns no attempt (S2)."""
    try:
        found = erp.look_up(reference(run))
    except IntegratorError as error:
        error.burns_attempt = False
        run.hear(error)
        raise
    run.authorized = True
    run.hear()
    return found


def verify(run: Run, erp: ErpSide) -> None:
    """The last look at what was made after a doubt, or was given up after one.

    Raises Settling until it is due, and when it found what had been given up: the plan is made anew then.
    Conflict for two records or two credits of one refund, NotFound for none where there was one.
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
        found = look(run, erp)
        if len(found) > 1:
            raise two_records(run, found)
        _take_last_look(run, erp, step, found)


def _take_last_look(run: Run, erp: ErpSide, step: Step, found: list[Found]) -> None:
    given_up = step.state is StepState.REFUSED
    there = _made(run, found, step)
    if there is None:
        run.verified(step.step_id)
        if not given_up:
            what = "Credit" if step.kind is StepKind.CREDIT else "Record"
            raise errors.NotFound(
                f"{what} {step.remote_id} of {reference(run)} is not in the management system any more.",
                subject="credit removed" if step.kind is StepKind.CREDIT else "order removed",
            )
    elif there.remote_id == step.remote_id:
        run.verified(step.step_id)
    else:
        # A person kept the other of two, or what had been given up came late after all: that is the one now.
        run.apply(step, there)
        if _undo_elsewhere(run, erp, step, found) or given_up:
            at = step.verify_at or step.settles_at
            raise Settling(f"{there.remote_id} came late for {reference(run)}.", not_before=at)


def _made(run: Run, found: list[Found], step: Step) -> Receipt | None:
    """What a create or a credit made, as far as it is there. Raises Conflict for two credits."""
    if step.kind is StepKind.CREDIT:
        return _shown(run, found, step)
    return Receipt(found[0].remote_id, found[0].total) if found else None


def _undo_elsewhere(run: Run, erp: ErpSide, created: Step, found: list[Found]) -> bool:
    """Another record is the order's now: what it does not show is missing again. Whether there is any."""
    if created.kind is not StepKind.CREATE:
        return False
    gone = [
        step
        for step in run.steps(erp.settle_seconds)
        if step.state is StepState.APPLIED and step.kind is not StepKind.CREATE and not _shown(run, found, step)
    ]
    for step in gone:
        run.refuse(step.step_id)
    return bool(gone)


def two_records(run: Run, found: list[Found]) -> Conflict:
    """Two records with one reference: a person keeps one."""
    names = " and ".join(sorted(one.remote_id for one in found))
    return Conflict(
        f"The management system holds {names} for {reference(run)}: keep one and remove the other.",
        subject="two records with one reference",
    )


def not_ours(run: Run, record: Found) -> Conflict:
    """A record with the order's reference, which nobody here has made."""
    return Conflict(
        f"Record {record.remote_id} carries the reference {reference(run)}, but was not made by us.",
        subject="a reference that we did not make",
    )


def reference(run: Run) -> str:
    """What the record in the management system carries: unique per order within the tenant's system."""
    return f"{run.assignment.shop}/{run.assignment.external_id}"


def _step(run: Run, erp: ErpSide, step_id: int) -> Step:
    return next(step for step in run.steps(erp.settle_seconds) if step.step_id == step_id)
