"""After the ledger was restored from a backup: it may not know of what was done since (ADR 0011)."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, exists, func, literal, select, update

from integrator.clock import Instant, after, now
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import IN_FLIGHT, gates, syncs
from integrator.ledger.transitions import reopen

BATCH = 1_000
"""Syncs that one transaction looks through at most."""


class NotRestored(Exception):
    """The mark can't be set now. Its text is for people."""


@dataclass(frozen=True)
class Restored:
    """What was marked: gates whose every order is looked up before it is written, and syncs that run again."""

    gates: int
    syncs: int


def restored(ledger: Ledger, since: datetime) -> Restored:
    """Mark the ledger as restored now, then run the syncs again that have changed since then.

    Only done ones are run again, at back-fill priority; the others run anyway. Called twice it does no harm.
    Raises NotRestored for a time to come, and while a lease stands: then somebody works on this ledger already.
    """
    with ledger.write() as connection:
        _refuse(connection, since)
        marked = connection.execute(update(gates).values(restored_at=now())).rowcount
        last = connection.execute(select(func.coalesce(func.max(syncs.c.id), 0))).scalar_one()
    count = 0
    for first in range(1, last + 1, BATCH):
        with ledger.write() as connection:
            count += reopen(connection, since, ids=(first, first + BATCH - 1))
    return Restored(marked, count)


def _refuse(connection: Connection, since: datetime) -> None:
    if connection.execute(select(literal(since, Instant()) > now())).scalar_one():
        raise NotRestored(f"{since.isoformat()} is yet to come. Name a time before the backup was made.")
    leased = select(exists().where(IN_FLIGHT, syncs.c.lease_until > now()))
    if connection.execute(leased).scalar_one():
        raise NotRestored(
            "Somebody works on this ledger already, and does not look first. Stop the receivers, workers and "
            "schedulers, wait 30 s, and run this before they start again."
        )


def settles(connection: Connection, restored_at: datetime, settle_seconds: float) -> tuple[datetime, bool]:
    """When nothing can come any more of what was on its way at the restore, and whether that is past."""
    at = after(settle_seconds, literal(restored_at, Instant()))
    row = connection.execute(select(at, at <= now())).one()
    return row[0], bool(row[1])
