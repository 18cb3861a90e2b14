"""Deliveries: how a webhook is kept (PROTOCOL D1), and what a worker reads of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from operator import eq
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select
from sqlalchemy.sql.dml import ReturningInsert

from integrator.clock import now
from integrator.ledger.many import copied, insert_many, parameters
from integrator.ledger.records import Accepted, Delivery
from integrator.ledger.schema import IS_OPEN, deliveries, delivery_keys, syncs
from integrator.ledger.text import storable
from integrator.ledger.transitions import raise_wanted

CANDIDATES = 20
"""How many of a sync's newest deliveries are looked at: more with one and the same time mean a fetch anyway."""


def accept(connection: Connection, batch: Sequence[Delivery]) -> list[Accepted]:
    """Keep the deliveries and raise their syncs, in the caller's transaction. One result each, in their order.

    Nothing is acknowledged before that transaction has committed.
    """
    fresh = _fresh(connection, batch)
    ordered = sorted((number for number in range(len(batch)) if number in fresh), key=lambda n: batch[n].sync_key)
    groups = [list(group) for _, group in groupby(ordered, key=lambda n: batch[n].sync_key)]
    results = [Accepted(None, None, None)] * len(batch)
    if not groups:
        return _name_duplicates(connection, batch, results)
    raised = raise_wanted(connection, ([batch[number] for number in group] for group in groups))
    rows = []
    for group in groups:
        sync = raised[batch[group[0]].sync_key]
        for version, number in enumerate(group, sync.wanted - len(group) + 1):
            results[number] = Accepted(sync.id, version, sync.correlation_id)
            rows.append(_row(batch[number], sync, version))
    connection.execute(copied(deliveries), rows)
    return _name_duplicates(connection, batch, results)


def _name_duplicates(connection: Connection, batch: Sequence[Delivery], results: list[Accepted]) -> list[Accepted]:
    """Give duplicates the correlation id of what they repeat: an event's key names its order, hence its sync."""
    again = {batch[number].sync_key for number, result in enumerate(results) if result.duplicate}
    if not again:
        return results
    key = (syncs.c.gate_id, syncs.c.shop_id, syncs.c.kind, syncs.c.external_id)
    rows = connection.execute(
        select(*key, syncs.c.correlation_id).where(or_(*(and_(*map(eq, key, one)) for one in sorted(again))))
    )
    named = {tuple(one): correlation_id for *one, correlation_id in rows}
    return [
        Accepted(None, None, named.get(batch[number].sync_key)) if result.duplicate else result
        for number, result in enumerate(results)
    ]


def _row(delivery: Delivery, sync: Any, version: int) -> dict[str, Any]:
    return {
        "shop_id": delivery.shop_id,
        "sync_id": sync.id,
        "version": version,
        "topic": storable(delivery.topic),
        "snapshot_updated_at": delivery.updated_at,
        "body_hash": delivery.body_hash,
        "headers": delivery.headers,
        "body": delivery.body,
        "received_at": sync.accepted_at,
    }


def _fresh(connection: Connection, batch: Sequence[Delivery]) -> set[int]:
    """The places in the batch of what is no duplicate, after claiming their keys."""
    first_place: dict[tuple[int, str], int] = {}
    without_key = {number for number, delivery in enumerate(batch) if delivery.event_key is None}
    for number, delivery in enumerate(batch):
        if delivery.event_key is not None:
            key = _key_hash(delivery.event_key, delivery.body_hash)
            first_place.setdefault((delivery.shop_id, key), number)
    if not first_place:
        return without_key
    rows = [{"shop_id": shop_id, "key_hash": key} for shop_id, key in sorted(first_place)]
    dialect = connection.dialect.name
    claimed = connection.execute(_claim_keys(dialect), parameters(dialect, rows))
    return without_key | {first_place[row.shop_id, row.key_hash] for row in claimed}


def _key_hash(event_key: str, body_hash: str) -> str:
    """What two deliveries of one event share. With the body's hash: a false duplicate would lose an order."""
    return hashlib.sha256(f"{event_key}:{body_hash}".encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _claim_keys(dialect: str) -> ReturningInsert[Any]:
    claim = insert_many(
        dialect, delivery_keys, ("shop_id", "key_hash"), received_at=now()
    ).on_conflict_do_nothing()
    return claim.returning(delivery_keys.c.shop_id, delivery_keys.c.key_hash)


@dataclass(frozen=True)
class Candidate:
    """A delivery that may hold the newest snapshot: everything but its body."""

    delivery_id: int
    version: int
    topic: str
    updated_at: datetime | None
    body_hash: str


def candidates(connection: Connection, sync_id: int) -> list[Candidate]:
    """The newest deliveries of a sync, those without a time first when they came after what is applied."""
    applied = select(syncs.c.applied).where(syncs.c.id == sync_id).scalar_subquery()
    timed = deliveries.c.snapshot_updated_at.is_not(None)
    rows = connection.execute(
        select(
            deliveries.c.id,
            deliveries.c.version,
            deliveries.c.topic,
            deliveries.c.snapshot_updated_at,
            deliveries.c.body_hash,
        )
        .where(deliveries.c.sync_id == sync_id, or_(timed, deliveries.c.version > applied))
        .order_by(timed, deliveries.c.snapshot_updated_at.desc(), deliveries.c.version.desc())
        .limit(CANDIDATES)
    )
    return [Candidate(*row) for row in rows]


def body(connection: Connection, delivery_id: int) -> bytes:
    """The raw body of a delivery."""
    raw: bytes = connection.execute(select(deliveries.c.body).where(deliveries.c.id == delivery_id)).scalar_one()
    return raw


def open_deliveries(connection: Connection, shop_id: int, limit: int) -> int:
    """How many deliveries of a shop are later than what is applied, counting at most `limit` syncs."""
    waiting = (
        select((syncs.c.wanted - syncs.c.applied).label("behind"))
        .where(syncs.c.shop_id == shop_id, IS_OPEN)
        .limit(limit)
        .subquery()
    )
    return int(connection.execute(select(func.coalesce(func.sum(waiting.c.behind), 0))).scalar_one())
