"""What the receiver and the workers read of the configuration: a shop by its key, all that a run needs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import takewhile
from typing import Any

from sqlalchemy import Connection, case, func, or_, select

from integrator.clock import EPOCH
from integrator.ledger.records import Claimed
from integrator.ledger.schema import attempts, erps, gates, plans, shops, syncs, tenants
from integrator.ledger.tenants import hash_key
from integrator.plans import FIELDS, Plan, plan_of
from integrator.secrets import KeyRing


@dataclass(frozen=True)
class ShopRow:
    """A shop as the receiver knows it. `webhook_secrets` are all that may sign now; `max_open` is its own cap
    on open deliveries, None when the installation's holds.
    """

    shop_id: int
    gate_id: int
    tenant: str
    slug: str
    platform: str
    active: bool
    webhook_secrets: tuple[str, ...] = field(repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    max_open: int | None = None


def find_shop(connection: Connection, key: str, ring: KeyRing) -> ShopRow | None:
    """The shop with this webhook key, None when there is none."""
    row = connection.execute(
        select(shops, tenants.c.slug.label("tenant"), tenants.c.active.label("tenant_active"))
        .join(tenants, shops.c.tenant_id == tenants.c.id)
        .where(shops.c.key_hash == hash_key(key))
    ).one_or_none()
    if row is None:
        return None
    webhook: Any = ring.open(row.secrets).get("webhook", [])
    secrets = tuple(webhook) if isinstance(webhook, list) else (webhook,)
    active = row.active and row.tenant_active
    return ShopRow(
        row.id,
        row.gate_id,
        row.tenant,
        row.slug,
        row.platform,
        active,
        secrets,
        row.config,
        row.max_open_deliveries,
    )


def names(connection: Connection, sync_ids: Collection[int]) -> dict[int, dict[str, str]]:
    """What the log calls syncs by: tenant, external_id and correlation_id, by the sync's id."""
    rows = connection.execute(
        select(syncs.c.id, tenants.c.slug, syncs.c.external_id, syncs.c.correlation_id)
        .join(shops, syncs.c.shop_id == shops.c.id)
        .join(tenants, shops.c.tenant_id == tenants.c.id)
        .where(syncs.c.id.in_(sync_ids))
    )
    columns = ("tenant", "external_id", "correlation_id")
    return {sync_id: dict(zip(columns, named, strict=True)) for sync_id, *named in rows}


def ended_alike(connection: Connection, sync_id: int, error_class: str, *, at_most: int = 32) -> int:
    """How many of the sync's latest ended runs in a row ended with this class of error."""
    latest = connection.execute(
        select(attempts.c.error_class)
        .where(attempts.c.sync_id == sync_id, attempts.c.ended_at.is_not(None))
        .order_by(attempts.c.claim.desc())
        .limit(at_most)
    ).scalars()
    return sum(1 for _ in takewhile(lambda found: found == error_class, latest))


def neighbours_succeed(connection: Connection, claimed: Claimed, attempts_back: int) -> bool:
    """Whether another sync of the gate was done since this sync's last so many attempts began (F1)."""
    mine = (
        select(attempts.c.started_at)
        .where(attempts.c.sync_id == claimed.sync_id)
        .order_by(attempts.c.claim.desc())
        .limit(attempts_back)
        .subquery()
    )
    since = select(func.min(mine.c.started_at)).scalar_subquery()
    other = (
        select(attempts.c.id)
        .join(syncs, attempts.c.sync_id == syncs.c.id)
        .where(syncs.c.gate_id == claimed.gate_id, syncs.c.id != claimed.sync_id)
        .where(attempts.c.outcome == "done", attempts.c.ended_at > since)
        .limit(1)
    )
    return connection.execute(other).first() is not None


_forgetful = or_(syncs.c.reconciled_at.is_(None), syncs.c.reconciled_at <= gates.c.restored_at)


@dataclass(frozen=True)
class Assignment:
    """All that one run of a sync needs to know of its tenant, shop and management system.

    `restored_at` is when the ledger was restored, if no run that began later has brought this sync to its end: the
    system may hold effects then that the ledger has forgotten.
    """

    sync_id: int
    kind: str
    external_id: str
    correlation_id: str
    seen_updated_at: datetime | None
    seen_digest: str | None
    tenant: str
    tolerance: Decimal
    shop_id: int
    shop: str
    platform: str
    shop_config: Mapping[str, Any]
    shop_secrets: Mapping[str, Any] = field(repr=False)
    gate_id: int
    plan: Plan
    credentials_version: int
    on_trial: bool
    restored_at: datetime | None
    erp: str
    erp_kind: str
    erp_config: Mapping[str, Any]
    erp_secrets: Mapping[str, Any] = field(repr=False)


_ASSIGNED = (
    syncs.c.id.label("sync_id"),
    syncs.c.kind,
    syncs.c.external_id,
    syncs.c.correlation_id,
    syncs.c.seen_updated_at,
    syncs.c.seen_digest,
    tenants.c.slug.label("tenant"),
    tenants.c.tolerance,
    shops.c.id.label("shop_id"),
    shops.c.slug.label("shop"),
    shops.c.platform,
    shops.c.config.label("shop_config"),
    shops.c.secrets.label("shop_secrets"),
    gates.c.id.label("gate_id"),
    gates.c.credentials_version,
    (gates.c.credentials_until != EPOCH).label("on_trial"),
    case((_forgetful, gates.c.restored_at)).label("restored_at"),
    erps.c.slug.label("erp"),
    erps.c.kind.label("erp_kind"),
    erps.c.config.label("erp_config"),
    erps.c.secrets.label("erp_secrets"),
)
"""The columns of an Assignment, by its fields' names; its plan has columns of its own."""


def assignment(connection: Connection, sync_id: int, ring: KeyRing) -> Assignment:
    """Read it, after the claim."""
    row = connection.execute(
        select(*_ASSIGNED, gates.c.plan_version, *(plans.c[name] for name in FIELDS))
        .join(shops, syncs.c.shop_id == shops.c.id)
        .join(tenants, shops.c.tenant_id == tenants.c.id)
        .join(gates, syncs.c.gate_id == gates.c.id)
        .join(erps, gates.c.erp_id == erps.c.id)
        .outerjoin(plans, plans.c.gate_id == gates.c.id)
        .where(syncs.c.id == sync_id)
    ).one()
    found = {column.name: row._mapping[column.name] for column in _ASSIGNED} | {
        "plan": plan_of(row._asdict(), row.plan_version),
        "tolerance": Decimal(row.tolerance),
        "on_trial": bool(row.on_trial),
        "shop_secrets": ring.open(row.shop_secrets),
        "erp_secrets": ring.open(row.erp_secrets),
    }
    return Assignment(**found)
