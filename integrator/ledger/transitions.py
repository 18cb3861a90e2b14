"""Every change of a sync's state: each one conditional UPDATE, never read-then-write (DESIGN §3, PROTOCOL).

The caller owns the transaction. Where a function returns a bool or None, False or None means that the row was
not in the state that the transition starts from: somebody else moved it, and the caller must stop.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    case,
    exists,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from integrator.breaker import BreakerState
from integrator.clock import Instant, after, greatest, now
from integrator.ledger.leases import LEASE_SECONDS, fence
from integrator.ledger.many import insert_many, parameters
from integrator.ledger.records import CLASS_LIMIT, Claimed, Delivery, Failure, Rung
from integrator.ledger.schema import (
    DUE_STATE,
    IN_FLIGHT,
    IS_QUEUED,
    IS_RUNNING,
    Priority,
    State,
    attempts,
    deliveries,
    gates,
    in_state,
    shops,
    syncs,
    tenants,
)

RUNG_SECONDS_LIMIT = 900
"""A sync that has been queued for longer is rung again whatever the queue counts (PROTOCOL P5)."""

VANISHED_LIMIT = 3
"""Claims in a row whose worker died: the sync kills its worker and is held (PROTOCOL C4)."""

KILLS_ITS_WORKER = "KillsWorker"
"""The error class of such a sync."""

_NO_ERROR: dict[str, Any] = dict.fromkeys(
    ("error_class", "error_fingerprint", "error_message", "error_detail", "error_remedy")
)
_NO_COUNTERS: dict[str, Any] = dict.fromkeys(("attempts", "vanished", "throttled"), 0)
_NO_HOLDER: dict[str, Any] = dict.fromkeys(("claim", "claimed_at", "lease_until", "queued_at"))
_FRESH: dict[str, Any] = {**_NO_COUNTERS, **_NO_ERROR, "reason": None}
_RUNG = (syncs.c.id, syncs.c.wanted, syncs.c.kind, syncs.c.gate_id, syncs.c.queued_at)


def raise_wanted(connection: Connection, groups: Iterable[list[Delivery]]) -> dict[tuple[Any, ...], Any]:
    """Raise the wanted version of each group's sync by the group's size, making the sync if need be (D1).

    Each group holds the deliveries of one sync; groups come in the order of their sync keys, so that two batches
    lock alike. Returns (id, wanted, correlation_id, accepted_at) rows by sync key.
    """
    groups, dialect = list(groups), connection.dialect.name
    errors = _NO_ERROR if any(group[0].failure for group in groups) else {}
    rows = [errors | _wanted_row(group) for group in groups]
    raised = connection.execute(_raise_wanted(dialect, tuple(rows[0])), parameters(dialect, rows))
    return {(row.gate_id, row.shop_id, row.kind, row.external_id): row for row in raised}


@cache
def _raise_wanted(dialect: str, names: tuple[str, ...]) -> ReturningInsert[Any]:
    upsert = insert_many(dialect, syncs, names, due_at=now(), accepted_at=now(), changed_at=now())
    ended = in_state(State.DONE, State.HELD, State.DEAD)
    urgent = upsert.excluded.priority < syncs.c.priority
    raised: ReturningInsert[Any] = upsert.on_conflict_do_update(
        index_elements=["gate_id", "shop_id", "kind", "external_id"],
        set_={
            "wanted": syncs.c.wanted + upsert.excluded.wanted,
            "state": case((ended, State.PENDING), else_=syncs.c.state),
            "due_at": case((ended, now()), else_=syncs.c.due_at),
            "priority": case((ended | urgent, upsert.excluded.priority), else_=syncs.c.priority),
            "accepted_at": now(),
            "changed_at": now(),
            **{name: case((ended, value), else_=syncs.c[name]) for name, value in _FRESH.items()},
        },
    ).returning(
        syncs.c.id,
        syncs.c.wanted,
        syncs.c.correlation_id,
        syncs.c.accepted_at,
        syncs.c.gate_id,
        syncs.c.shop_id,
        syncs.c.kind,
        syncs.c.external_id,
    )
    return raised


def _wanted_row(group: list[Delivery]) -> dict[str, Any]:
    first = group[0]
    return {
        "gate_id": first.gate_id,
        "shop_id": first.shop_id,
        "kind": first.kind,
        "external_id": first.external_id,
        "correlation_id": first.correlation_id,
        "priority": min(delivery.priority for delivery in group),
        "state": State.HELD if first.failure else State.PENDING,
        "wanted": len(group),
        **(first.failure.columns() if first.failure else {}),
    }


def hurry(connection: Connection, shop_ids: Sequence[int]) -> int:
    """Let what waits for better credentials of these shops go on at once."""
    waiting = and_(syncs.c.shop_id.in_(shop_ids), in_state(State.PENDING), syncs.c.error_class == "Unauthorized")
    return connection.execute(update(syncs).where(waiting).values(due_at=now())).rowcount


def requeue(connection: Connection, chosen: ColumnElement[bool], *, mass: bool) -> int:
    """A person's release of held and dead syncs; a mass release goes out at back-fill priority (DESIGN §3)."""
    urgency = {"priority": Priority.BACKFILL} if mass else {}
    released = connection.execute(
        update(syncs)
        .where(chosen, in_state(State.HELD, State.DEAD))
        .values(state=State.PENDING, due_at=now(), changed_at=now(), **_FRESH, **urgency)
    )
    return released.rowcount


def reopen(connection: Connection, since: datetime, *, ids: tuple[int, int]) -> int:
    """After a restore, run what was done and has changed since then again, ids from and to; how many.

    What lost its newest delivery stays: nothing of it is owed.
    """
    kept = exists().where(deliveries.c.sync_id == syncs.c.id, deliveries.c.version == syncs.c.wanted)
    reopened = connection.execute(
        update(syncs)
        .where(syncs.c.id.between(*ids), in_state(State.DONE), syncs.c.changed_at >= since, kept)
        .values(state=State.PENDING, due_at=now(), changed_at=now(), priority=Priority.BACKFILL, **_FRESH)
    )
    return reopened.rowcount


def ring(connection: Connection, sync_ids: Sequence[int]) -> list[Rung]:
    """Mark due syncs as queued (P1). The caller holds their gate's row and chose them in this transaction."""
    if not sync_ids:
        return []
    marked = connection.execute(
        update(syncs)
        .where(syncs.c.id.in_(sync_ids), DUE_STATE)
        .values(state=State.QUEUED, queued_at=now(), lease_until=after(LEASE_SECONDS), changed_at=now())
        .returning(*_RUNG)
    )
    return _with_tenants(connection, marked.all())


def _with_tenants(connection: Connection, marked: Sequence[Any]) -> list[Rung]:
    slugs = connection.execute(
        select(gates.c.id, tenants.c.slug)
        .join(tenants, gates.c.tenant_id == tenants.c.id)
        .where(gates.c.id.in_({row.gate_id for row in marked}))
    )
    slug_of = {row.id: row.slug for row in slugs}
    return [Rung(slug_of[row.gate_id], row.id, row.wanted, row.kind, row.gate_id, row.queued_at) for row in marked]


def _back_to_pending() -> Update:
    return update(syncs).values(state=State.PENDING, **_NO_HOLDER, changed_at=now())


def put_back(connection: Connection, rung: Iterable[Rung]) -> int:
    """Take back what could not be published, unless a worker or another bell had it since (P3)."""
    count = 0
    for sync_id, queued_at in sorted((one.sync_id, one.queued_at) for one in rung):
        result = connection.execute(
            _back_to_pending().where(syncs.c.id == sync_id, IS_QUEUED, syncs.c.queued_at == queued_at)
        )
        count += result.rowcount
    return count


def unring(connection: Connection, bells: Iterable[tuple[str, int]]) -> int:
    """Take back what a worker was rung for, as (tenant, sync id), and did not start: it is stopping (P6)."""
    count = 0
    for tenant, sync_id in sorted(bells, key=lambda bell: bell[1]):
        mine = and_(syncs.c.id == sync_id, IS_QUEUED, _of_tenant(tenant))
        count += connection.execute(_back_to_pending().where(mine)).rowcount
    return count


def ring_again(connection: Connection, kind: str, missing: int) -> list[Rung]:
    """Choose the expired queued rows whose message is really missing; extend the leases of the others (P5).

    Those whose gate is shut go back to pending: nothing of it is rung while it is. `missing` is how many queued
    rows have no message in the queue.
    """
    expired = connection.execute(
        select(syncs.c.id, (syncs.c.queued_at < after(-RUNG_SECONDS_LIMIT)).label("old"))
        .where(syncs.c.kind == kind, IS_QUEUED, IN_FLIGHT, syncs.c.lease_until <= now())
        .order_by(syncs.c.queued_at, syncs.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    if not expired:
        return []
    behind_shut_gates = and_(syncs.c.id.in_([row.id for row in expired]), IS_QUEUED, ~_gate_is_open())
    connection.execute(_back_to_pending().where(behind_shut_gates))
    chosen = {row.id for number, row in enumerate(expired) if number < missing or row.old}
    extended = update(syncs).where(IS_QUEUED).values(lease_until=after(LEASE_SECONDS))
    connection.execute(extended.where(syncs.c.id.in_([row.id for row in expired if row.id not in chosen])))
    again = connection.execute(extended.where(syncs.c.id.in_(chosen)).values(queued_at=now()).returning(*_RUNG))
    return _with_tenants(connection, again.all())


def _gate_is_open() -> ColumnElement[bool]:
    return exists(select(gates.c.id).where(gates.c.id == syncs.c.gate_id, gates.c.opens_at <= now()))


def _place_is_free() -> ColumnElement[bool]:
    """Whether the gate's breaker is closed, or nobody has the only place of a half-open one (G2)."""
    taken = and_(gates.c.breaker_state != BreakerState.CLOSED, gates.c.probe_until > now())
    return ~exists(select(gates.c.id).where(gates.c.id == syncs.c.gate_id, taken))


def _of_tenant(tenant: str) -> ColumnElement[bool]:
    owner = select(shops.c.id).join(tenants, shops.c.tenant_id == tenants.c.id)
    return exists(owner.where(shops.c.id == syncs.c.shop_id, tenants.c.slug == tenant))


_CLAIMED = ("gate_id", "claim", "wanted", "attempts", "throttled", "external_id", "correlation_id")


def claim(connection: Connection, tenant: str, sync_id: int, *, worker: str) -> Claimed | None:
    """Take a queued sync for one run, and write the attempt (C1).

    None when there is nothing to do: the row is in another state, or its gate is shut, or lets one other through
    to try the system, in which case it went back to pending.
    """
    queued = and_(syncs.c.id == sync_id, IS_QUEUED, _of_tenant(tenant))
    number = syncs.c.claims + 1
    row = connection.execute(
        update(syncs)
        .where(queued, _gate_is_open(), _place_is_free())
        .values(
            state=State.RUNNING,
            claims=number,
            claim=number,
            claimed_at=now(),
            lease_until=after(LEASE_SECONDS),
            queued_at=None,
            changed_at=now(),
        )
        .returning(*(syncs.c[name] for name in _CLAIMED), syncs.c.accepted_at, syncs.c.claimed_at)
    ).one_or_none()
    if row is None:
        # Whatever the gate is by now: it may have opened since, and the message of what stayed queued is gone.
        connection.execute(_back_to_pending().where(queued))
        return None
    attempt = {"sync_id": sync_id, "claim": row.claim, "wanted": row.wanted, "worker": worker}
    connection.execute(insert(attempts).values(**attempt, started_at=now()))
    waited = (row.claimed_at - row.accepted_at).total_seconds()
    return Claimed(sync_id, **{name: getattr(row, name) for name in _CLAIMED}, waited_seconds=waited)


def _end_run(
    connection: Connection,
    sync_id: int,
    claim: int,
    outcome: str,
    values: dict[str, Any],
    failure: Failure | None = None,
) -> str | None:
    """End a run by its fence and, when it still held, its attempt. The new state, None when fenced off."""
    ended = {**_NO_HOLDER, "vanished": 0, "changed_at": now(), **values}
    changed = update(syncs).where(fence(sync_id, claim)).values(**ended).returning(syncs.c.state)
    state: str | None = connection.execute(changed).scalar_one_or_none()
    if state is None:
        return None
    error = (
        {}
        if failure is None
        else {"error_class": failure.error_class[:CLASS_LIMIT], "error_fingerprint": failure.fingerprint}
    )
    connection.execute(
        update(attempts)
        .where(attempts.c.sync_id == sync_id, attempts.c.claim == claim)
        .values(ended_at=now(), outcome=outcome, **error)
    )
    return state


def finish(
    connection: Connection,
    sync_id: int,
    claim: int,
    wanted: int,
    *,
    reason: str,
    seen_updated_at: datetime | None,
    seen_digest: str | None,
) -> str | None:
    """Done, unless a newer version came meanwhile: then pending at once (C5). The state; None when fenced off."""
    reached = syncs.c.wanted == wanted
    values: dict[str, Any] = {
        "state": case((reached, State.DONE), else_=State.PENDING),
        "due_at": now(),
        "applied": wanted,
        "reason": reason,
        "seen_updated_at": seen_updated_at,
        "seen_digest": seen_digest,
        "reconciled_at": syncs.c.claimed_at,
        **_NO_ERROR,
        **{name: case((reached, 0), else_=syncs.c[name]) for name in ("attempts", "throttled")},
    }
    return _end_run(connection, sync_id, claim, "done", values)


def release(
    connection: Connection,
    sync_id: int,
    claim: int,
    *,
    delay_seconds: float = 0,
    not_before: datetime | None = None,
    failure: Failure | None = None,
    burns: bool = False,
) -> bool:
    """Back to pending: gate shut, lease too short, settling, shutting down. It burns an attempt only if told."""
    values: dict[str, Any] = {"state": State.PENDING, "due_at": _due(delay_seconds, not_before)}
    values |= failure.columns() if failure else _NO_ERROR
    if burns:
        values["attempts"] = syncs.c.attempts + 1
    return _end_run(connection, sync_id, claim, "released", values, failure) is not None


def retry(
    connection: Connection,
    sync_id: int,
    claim: int,
    failure: Failure,
    *,
    burns: str,
    delay_seconds: float = 0,
    not_before: datetime | None = None,
) -> bool:
    """To retrying. `burns` names the counter that rises: `attempts` or `throttled`, which counts in a row (F1)."""
    values: dict[str, Any] = {"state": State.RETRYING, "due_at": _due(delay_seconds, not_before)}
    values |= {**failure.columns(), "throttled": 0, burns: syncs.c[burns] + 1}
    return _end_run(connection, sync_id, claim, "retrying", values, failure) is not None


def _due(delay_seconds: float, not_before: datetime | None) -> ColumnElement[datetime]:
    delayed = after(delay_seconds)
    return delayed if not_before is None else greatest(delayed, literal(not_before, Instant()))


def stop(connection: Connection, sync_id: int, claim: int, failure: Failure, *, state: State) -> bool:
    """To held or dead, with what a person needs to act."""
    values = {"state": state, **failure.columns()}
    return _end_run(connection, sync_id, claim, state.value, values, failure) is not None


def take_over(connection: Connection, jitter: float) -> list[tuple[int, str]]:
    """Take over expired runs, whose workers vanished (C4). The (sync id, new state) pairs.

    Each is due 30 s x 2^n after its last sign of life, 30 s before its lease ended: a first time at once, so that
    a killed worker's syncs run elsewhere within 35 s. The sweep's `jitter` (0 to 1) lengthens that by a tenth at
    most. The third in a row is held. A claim's attempt ends with its lease: a step in doubt settles from there
    (S2).
    """
    expired = connection.execute(
        select(syncs.c.id, syncs.c.claim, syncs.c.lease_until)
        .where(IS_RUNNING, IN_FLIGHT, syncs.c.lease_until <= now())
        .order_by(syncs.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    return [(row.id, _take_over_one(connection, row, jitter)) for row in expired]


def _take_over_one(connection: Connection, row: Any, jitter: float) -> str:
    failure = Failure(
        KILLS_ITS_WORKER,
        "vanished",
        f"Sync {row.id} was claimed {VANISHED_LIMIT} times in a row by workers that died before they ended it.",
        "",
        "Look at the workers' last log lines and memory; then requeue with `celery -A tasks syncs requeue`.",
    )
    killer = syncs.c.vanished + 1 >= VANISHED_LIMIT
    doubled = case((syncs.c.vanished == 0, 1.0), (syncs.c.vanished == 1, 2.0), else_=4.0)
    connection.execute(
        update(attempts)
        .where(attempts.c.sync_id == row.id, attempts.c.claim == row.claim)
        .values(ended_at=row.lease_until, outcome="vanished")
    )
    state: str = connection.execute(
        update(syncs)
        .where(fence(row.id, row.claim))
        .values(
            **_NO_HOLDER,
            **{name: case((killer, value), else_=syncs.c[name]) for name, value in failure.columns().items()},
            state=case((killer, State.HELD), else_=State.PENDING),
            vanished=syncs.c.vanished + 1,
            due_at=after(doubled * (LEASE_SECONDS * (1 + jitter / 10)) - LEASE_SECONDS, syncs.c.lease_until),
            changed_at=now(),
        )
        .returning(syncs.c.state)
    ).scalar_one()
    return state
