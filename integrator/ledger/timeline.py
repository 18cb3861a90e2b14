"""Everything that happened to one sync, in its order: what came, who tried, which effects it had."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection, select

from integrator import gate
from integrator.clock import now
from integrator.ledger.schema import State, attempts, deliveries, steps, syncs

LATEST = 100
"""Of deliveries and attempts the latest are shown; an order has few steps."""


@dataclass(frozen=True)
class Event:
    """Something that happened at a time. Its text holds no personal data."""

    at: datetime
    text: str


def timeline(connection: Connection, sync_id: int) -> list[Event]:
    """What happened, the oldest first."""
    events = [
        *_deliveries(connection, sync_id),
        *_attempts(connection, sync_id),
        *_steps(connection, sync_id),
    ]
    return sorted(events, key=attrgetter("at"))


def waits(connection: Connection, sync_id: int) -> str | None:
    """Why it does not run now: its gate, or its own time. None when it runs, has ended, or is next."""
    row = connection.execute(
        select(syncs.c.gate_id, syncs.c.due_at, (syncs.c.due_at > now()).label("later"))
        .where(syncs.c.id == sync_id)
        .where(syncs.c.state.in_([State.PENDING, State.RETRYING, State.QUEUED]))
    ).one_or_none()
    if row is None:
        return None
    if trouble := gate.ask(connection, row.gate_id).trouble:
        return trouble
    return f"due at {row.due_at:%Y-%m-%d %H:%M:%S} UTC" if row.later else None


def detail(connection: Connection, sync_id: int) -> str | None:
    """What the other side said when the sync failed last. It may hold personal data."""
    text: str | None = connection.execute(select(syncs.c.error_detail).where(syncs.c.id == sync_id)).scalar()
    return text


def _deliveries(connection: Connection, sync_id: int) -> Iterator[Event]:
    rows = connection.execute(
        select(
            deliveries.c.received_at, deliveries.c.version, deliveries.c.topic, deliveries.c.snapshot_updated_at
        )
        .where(deliveries.c.sync_id == sync_id)
        .order_by(deliveries.c.version.desc())
        .limit(LATEST)
    )
    for received_at, version, topic, updated_at in rows:
        as_of = f", as of {updated_at:%Y-%m-%d %H:%M:%S}" if updated_at else ""
        yield Event(received_at, f"webhook {version} came: {topic}{as_of}")


def _attempts(connection: Connection, sync_id: int) -> Iterator[Event]:
    rows = connection.execute(
        select(attempts).where(attempts.c.sync_id == sync_id).order_by(attempts.c.claim.desc()).limit(LATEST)
    )
    for row in rows:
        yield Event(row.started_at, f"run {row.claim} began for version {row.wanted} on {row.worker}")
        if row.ended_at is not None:
            error = f": {row.error_class} {row.error_fingerprint}" if row.error_class else ""
            yield Event(row.ended_at, f"run {row.claim} ended {row.outcome}{error}")


def _steps(connection: Connection, sync_id: int) -> Iterator[Event]:
    for row in connection.execute(select(steps).where(steps.c.sync_id == sync_id).order_by(steps.c.id)):
        if not row.method:
            who = "by a person was seen" if row.sends == 0 else "was found, and had been forgotten,"
            yield Event(row.intended_at, f"{row.kind} of {row.remote_id} {who} by run {row.claim}")
            continue
        yield Event(row.intended_at, f"{row.kind} was intended by run {row.claim}, key {row.key}")
        if row.doubted_at is not None:
            yield Event(row.doubted_at, f"{row.kind} was in doubt")
        if row.applied_at is not None:
            total = f", total {row.remote_amount} {row.remote_currency}" if row.remote_amount else ""
            yield Event(row.applied_at, f"{row.kind} is applied as {row.remote_id}{total}")
        elif row.state == "refused":
            yield Event(row.intended_at, f"{row.kind} was refused: it did not happen")
