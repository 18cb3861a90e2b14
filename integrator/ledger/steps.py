"""Steps: the effects on a management system, recorded as intended before the call and as applied after it.

Every write locks the sync's row by its fence first, in the same transaction (PROTOCOL C2), and raises LeaseLost
when the claim is not ours any more.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from integrator.clock import Instant, after, greatest, now
from integrator.documents import Money
from integrator.erps.base import Receipt, Request, StepKind
from integrator.errors import LeaseLost
from integrator.ledger.leases import hold_fence
from integrator.ledger.schema import StepState, attempts, steps
from integrator.ledger.text import storable


@dataclass(frozen=True)
class Step:
    """One effect, as the ledger knows it.

    `settled` and `verify_due` are the database's answers, when the row was read, to: has `settle_seconds` passed
    since the doubt began; is the last look at a create or credit that followed a doubt due.
    """

    step_id: int
    kind: StepKind
    state: StepState
    claim: int
    request: Request = field(repr=False)
    digest: str
    snapshot_updated_at: datetime | None
    sends: int
    doubts: int
    settles_at: datetime
    settled: bool
    verify_at: datetime | None
    verify_due: bool
    remote_id: str | None
    remote_total: Money | None


def load(
    connection: Connection, sync_id: int, settle_seconds: float, restored_at: datetime | None = None
) -> list[Step]:
    """All steps of a sync, oldest first.

    A doubt counts from the failure that was observed or, for a holder that vanished, from the end of its lease,
    which is where its attempt ended (S2); in a restored ledger not from before the restore, for it may have been
    sent again since the backup.
    """
    rows = connection.execute(_load(settle_seconds, restored_at), {"sync": sync_id})
    return [
        Step(
            step_id=row.id,
            kind=StepKind(row.kind),
            state=StepState(row.state),
            claim=row.claim,
            request=Request(row.method, row.path, row.key, row.body),
            digest=row.digest,
            snapshot_updated_at=row.snapshot_updated_at,
            sends=row.sends,
            doubts=row.doubts,
            settles_at=row.settles_at,
            settled=bool(row.settled),
            verify_at=row.verify_at,
            verify_due=bool(row.verify_due),
            remote_id=row.remote_id,
            remote_total=_total(row.remote_amount, row.remote_currency),
        )
        for row in rows
    ]


@lru_cache(maxsize=64)  # a few connectors' settle times; building it takes longer than reading the rows
def _load(settle_seconds: float, restored_at: datetime | None) -> Select[Any]:
    doubt_began: ColumnElement[datetime] = func.coalesce(
        steps.c.doubted_at, attempts.c.ended_at, steps.c.intended_at
    )
    if restored_at is not None:
        doubt_began = greatest(doubt_began, literal(restored_at, Instant()))
    settles_at = after(settle_seconds, doubt_began)
    return (
        select(
            steps,
            settles_at.label("settles_at"),
            (settles_at <= now()).label("settled"),
            func.coalesce(steps.c.verify_at <= now(), False).label("verify_due"),
        )
        .outerjoin(attempts, and_(attempts.c.sync_id == steps.c.sync_id, attempts.c.claim == steps.c.claim))
        .where(steps.c.sync_id == bindparam("sync"))
        .order_by(steps.c.id)
    )


def _total(amount: str | None, currency: str | None) -> Money | None:
    return None if amount is None or currency is None else Money(amount=Decimal(amount), currency=currency)


def intend(
    connection: Connection,
    sync_id: int,
    claim: int,
    kind: StepKind,
    request: Request,
    *,
    digest: str,
    snapshot_updated_at: datetime | None,
) -> int:
    """Record an effect before its call, with the exact request. The step's id.

    A step that was refused is intended again under the same key; its doubts are remembered. Called twice by one
    claim, because a commit's answer was lost, it changes nothing more.
    """
    _hold(connection, sync_id, claim)
    values = {
        "method": request.method,
        "path": request.path,
        "body": request.body,
        "state": StepState.INTENDED,
        "claim": claim,
        "digest": digest,
        "snapshot_updated_at": snapshot_updated_at,
        "intended_at": now(),
        "doubted_at": None,
        "verify_at": None,
    }
    refused = steps.c.state == StepState.REFUSED
    mine = and_(steps.c.state == StepState.INTENDED, steps.c.claim == claim)
    again = (
        update(steps)
        .where(steps.c.sync_id == sync_id, steps.c.key == request.key, or_(refused, mine))
        .values(**values, sends=steps.c.sends + case((refused, 1), else_=0))
        .returning(steps.c.id)
    )
    step_id: int | None = connection.execute(again).scalar_one_or_none()
    if step_id is None:
        fresh = {"sync_id": sync_id, "kind": kind, "key": request.key, "sends": 1, **values}
        step_id = connection.execute(insert(steps).values(**fresh).returning(steps.c.id)).scalar_one()
    return step_id


def observe(
    connection: Connection,
    sync_id: int,
    claim: int,
    kind: StepKind,
    key: str,
    receipt: Receipt,
    *,
    digest: str,
) -> None:
    """Record what a person did in the management system, as a step that was never sent.

    Called twice by one claim, because a commit's answer was lost, it changes nothing more.
    """
    _hold(connection, sync_id, claim)
    known = select(steps.c.id).where(steps.c.sync_id == sync_id, steps.c.key == key)
    if connection.execute(known).first() is not None:
        return
    values = {"claim": claim, "digest": digest, **_applied(receipt)}
    connection.execute(_without_request(sync_id, kind, key, sends=0).values(**values))


def resend(connection: Connection, sync_id: int, claim: int, step_id: int) -> None:
    """Record, before it happens, that the same bytes go out again: the doubt starts anew with the resend."""
    _hold(connection, sync_id, claim)
    again = {"state": StepState.INTENDED, "claim": claim, "doubted_at": None, "intended_at": now()}
    counted = {"sends": steps.c.sends + 1, "doubts": steps.c.doubts + 1}
    connection.execute(update(steps).where(steps.c.id == step_id).values(**again, **counted))


def doubt(connection: Connection, sync_id: int, claim: int, step_id: int) -> None:
    """The call failed after its first byte: what it did is not known. The doubt counts from now."""
    _hold(connection, sync_id, claim)
    connection.execute(
        update(steps)
        .where(steps.c.id == step_id)
        .values(state=StepState.IN_DOUBT, doubted_at=now(), doubts=steps.c.doubts + 1)
    )


def refuse(
    connection: Connection,
    sync_id: int,
    claim: int,
    step_id: int,
    *,
    after_doubt: bool = False,
    verify_after: float | None = None,
) -> None:
    """The effect did not happen, or is gone; the next plan may intend it again, and remembers its doubts.

    With `verify_after` seconds, its reference is looked up once more then, should it not be intended again.
    """
    _hold(connection, sync_id, claim)
    doubts = steps.c.doubts + (1 if after_doubt else 0)
    verify_at = None if verify_after is None else after(verify_after)
    refused = {"state": StepState.REFUSED, "doubts": doubts, "verify_at": verify_at, "applied_at": None}
    connection.execute(update(steps).where(steps.c.id == step_id).values(**refused))


def apply(
    connection: Connection,
    sync_id: int,
    claim: int,
    step_id: int,
    receipt: Receipt,
    *,
    verify_after: float | None,
) -> None:
    """The effect happened. With `verify_after` seconds, its reference is looked up once more then (S2)."""
    _hold(connection, sync_id, claim)
    verify_at = None if verify_after is None else after(verify_after)
    connection.execute(update(steps).where(steps.c.id == step_id).values(**_applied(receipt), verify_at=verify_at))


def _applied(receipt: Receipt) -> dict[str, Any]:
    total = receipt.total
    return {
        "state": StepState.APPLIED,
        "applied_at": now(),
        "remote_id": storable(receipt.remote_id),
        "remote_amount": f"{total.amount:f}" if total else None,
        "remote_currency": total.currency if total else None,
    }


def adopt(
    connection: Connection, sync_id: int, claim: int, kind: StepKind, key: str, receipt: Receipt, *, digest: str
) -> None:
    """Record an effect that the system shows, and a restored ledger does not know: our request is forgotten."""
    _hold(connection, sync_id, claim)
    known = {"claim": claim, "digest": digest, **_applied(receipt)}
    there = update(steps).where(steps.c.sync_id == sync_id, steps.c.key == key).values(**known)
    if not connection.execute(there).rowcount:
        connection.execute(_without_request(sync_id, kind, key, sends=1).values(**known))


def _without_request(sync_id: int, kind: StepKind, key: str, *, sends: int) -> Insert:
    """A step of which there is no request of ours, or none any more."""
    request = {"method": "", "path": "", "body": b"", "sends": sends, "intended_at": now()}
    return insert(steps).values(sync_id=sync_id, kind=kind, key=key, **request)


def verified(connection: Connection, sync_id: int, claim: int, step_id: int) -> None:
    """The last look found one record and no second."""
    _hold(connection, sync_id, claim)
    connection.execute(update(steps).where(steps.c.id == step_id).values(verify_at=None))


def _hold(connection: Connection, sync_id: int, claim: int) -> None:
    if not hold_fence(connection, sync_id, claim):
        raise LeaseLost(f"Sync {sync_id} is not held by claim {claim} any more.")
