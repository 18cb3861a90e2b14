"""After a restore: what the ledger has forgotten is looked up before anything is written (ADR 0011)."""

from datetime import timedelta

from integrator.documents import Order
from integrator.erps.base import Found, Receipt, StepKind
from integrator.errors import Settling
from integrator.ledger import restore
from integrator.ledger.schema import StepState
from integrator.sync import keys
from integrator.sync.keys import Effect
from integrator.sync.plan import UNKNOWN, fold
from integrator.sync.run import Run
from integrator.sync.settle import look, not_ours, one_credit, reference, two_records
from integrator.sync.sides import ErpSide

CLOCKS_APART = timedelta(days=1)
"""How far a shop's clock may be from the database's: an order placed so long after the restore is a new one."""

ORDER = (StepKind.CREATE, StepKind.UPDATE, StepKind.CREDIT, StepKind.CANCEL)
"""In which the fold reads what is remembered."""


def may_have_forgotten(run: Run, order: Order | None) -> bool:
    """Whether the system may hold effects on this order that the ledger does not know."""
    restored_at = run.assignment.restored_at
    if restored_at is None:
        return False
    return order is None or order.placed_at is None or order.placed_at < restored_at + CLOCKS_APART


def remember(run: Run, erp: ErpSide, order: Order | None) -> None:
    """Record as applied what the system shows of the order, and the ledger does not know.

    Raises Settling until the system has had its time with what was on its way at the restore; Conflict for two
    records, two credits of one refund, and a record that we did not make.
    """
    restored_at = run.assignment.restored_at
    assert restored_at is not None, "the ledger was restored"  # noqa: S101
    at, settled = run.read(lambda connection: restore.settles(connection, restored_at, erp.settle_seconds))
    if not settled:
        raise Settling(
            f"What a restored ledger has forgotten of {reference(run)} is looked up at {at.isoformat()}.",
            not_before=at,
        )
    run.ask_gate()
    found = look(run, erp)
    if len(found) > 1:
        raise two_records(run, found)
    for record in found:
        _remember_record(run, record, order)


def _remember_record(run: Run, record: Found, order: Order | None) -> None:
    known = {step.request.key for step in run.steps(0) if step.state is StepState.APPLIED}
    there = record.applied_keys | {credit.key for credit in record.credits}
    shown = [effect for key in there - known if (effect := keys.read(run.assignment, key))]
    if keys.effect(run.assignment, StepKind.CREATE, ()) not in known | there:
        raise not_ours(run, record)
    for effect in sorted(shown, key=lambda one: (ORDER.index(one.kind), one.refund or "", one.number)):
        _undo(run, effect, record)
        if effect.kind is StepKind.CREDIT:
            _remember_credit(run, record, effect, order)
        else:
            run.adopt(effect.kind, effect.key, Receipt(record.remote_id, record.total), digest=UNKNOWN)
    steps = run.steps(0)
    applied = fold(steps)
    if record.cancelled and applied is not None and not any(step.kind is StepKind.CANCEL for step in steps):
        # A system may show that an order is cancelled, and not by which key.
        cancel = keys.effect(run.assignment, StepKind.CANCEL, steps)
        run.adopt(StepKind.CANCEL, cancel, Receipt(record.remote_id, record.total), digest=UNKNOWN)


def _undo(run: Run, effect: Effect, record: Found) -> None:
    """What was done for the second time had been undone by a person before: that was forgotten, too."""
    undone = {StepKind.CANCEL: StepKind.REOPEN, StepKind.CREDIT: StepKind.REMOVE}.get(effect.kind)
    if undone is None:
        return
    steps = [
        step for step in run.steps(0) if step.kind is undone and keys.refund_id(step) == (effect.refund or "")
    ]
    for _ in range(effect.number - 1 - len(steps)):
        key = keys.seen(run.assignment, undone, run.steps(0), effect.refund)
        run.observe(undone, key, Receipt(record.remote_id), digest=UNKNOWN)


def _remember_credit(run: Run, record: Found, effect: Effect, order: Order | None) -> None:
    """A credit, as that of the refund that the shop shows now; `agree` compares the amounts.

    One that is not there any more was removed by a person: it stays removed, as if it had not been forgotten.
    """
    refunds = order.refunds if order else ()
    digest = next((one.digest() for one in refunds if one.external_id == effect.refund), UNKNOWN)
    credit = one_credit(run, [record], effect.key)
    receipt = Receipt(credit.credit_id, credit.total) if credit else Receipt("")
    run.adopt(StepKind.CREDIT, effect.key, receipt, digest=digest)
