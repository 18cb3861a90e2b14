"""Tenants, their shops and management systems: configuration as code, applied as often as one likes."""

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Connection, Table, insert, select, update

from integrator import connectors
from integrator.clock import EPOCH, now
from integrator.ledger.schema import IN_FLIGHT, State, erps, gates, shops, syncs, tenants
from integrator.secrets import KeyRing

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

KEY_LENGTH = 24
"""The shortest webhook key in characters: on platforms that sign nothing it is the only proof."""


class ApplyError(Exception):
    """The configuration can't be applied; nothing was changed. Its text is for people."""


class FromEnvironment(BaseModel):
    """A secret by reference: the name of the environment variable that holds it."""

    model_config = ConfigDict(extra="forbid")

    env: str

    def read(self, environment: Mapping[str, str]) -> str:
        """The secret. Raises ApplyError when it is not set."""
        if not (value := environment.get(self.env)):
            raise ApplyError(f"The environment variable {self.env} is not set, but the file refers to it.")
        return value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErpFile(_Model):
    """One management system in the file."""

    slug: Slug
    kind: str
    window: int = Field(8, ge=1, le=1_000)
    config: dict[str, Any] = {}
    secrets: dict[str, FromEnvironment | list[FromEnvironment]] = {}


class ShopFile(_Model):
    """One shop in the file. `key` is the unguessable token in its webhooks' URL."""

    slug: Slug
    platform: str
    erp: Slug
    key: FromEnvironment
    active: bool = True
    config: dict[str, Any] = {}
    secrets: dict[str, FromEnvironment | list[FromEnvironment]] = {}


class TenantFile(_Model):
    """One tenant in the file. `tolerance` is how far an order's amounts may be off, in its currency."""

    slug: Slug
    name: str
    active: bool = True
    tolerance: Annotated[Decimal, Field(ge=0, le=1, allow_inf_nan=False)] = Decimal("0.01")
    erps: list[ErpFile] = []
    shops: list[ShopFile] = []

    @model_validator(mode="after")
    def _known_erps(self) -> "TenantFile":
        known = {erp.slug for erp in self.erps}
        for what, parts in (("management system", self.erps), ("shop", self.shops)):
            _refuse_twice(what, [part.slug for part in parts])
        for shop in self.shops:
            if shop.erp not in known:
                raise ValueError(
                    f"shop {shop.slug}: there is no management system {shop.erp} among {sorted(known)}"
                )
        return self


class File(_Model):
    """The whole file."""

    tenants: list[TenantFile]

    @model_validator(mode="after")
    def _each_once(self) -> "File":
        _refuse_twice("tenant", [tenant.slug for tenant in self.tenants])
        return self


def _refuse_twice(what: str, slugs: Sequence[str]) -> None:
    if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        raise ValueError(f"each {what} may stand there once, but {', '.join(twice)} stands twice")


def hash_key(key: str) -> str:
    """What is stored of a webhook key: enough to find the shop, too little to call it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def apply(connection: Connection, file: File, environment: Mapping[str, str], ring: KeyRing) -> list[str]:
    """Bring the ledger's tenants to the file's, in the caller's transaction; what changed, a line each.

    What the file does not mention stays. Raises ApplyError, and the caller's transaction must roll back.
    """
    changes: list[str] = []
    for tenant in file.tenants:
        values = {"name": tenant.name, "active": tenant.active, "tolerance": f"{tenant.tolerance:f}"}
        tenant_id, changed = _put(connection, tenants, {"slug": tenant.slug}, values)
        changes += [f"tenant {tenant.slug}: {changed}"] * bool(changed)
        gate_of = {}
        for erp in tenant.erps:
            gate_of[erp.slug], changed = _put_erp(connection, tenant_id, erp, environment, ring)
            changes += [f"management system {tenant.slug}/{erp.slug}: {changed}"] * bool(changed)
        for shop in tenant.shops:
            changed = _put_shop(connection, tenant_id, gate_of[shop.erp], shop, environment, ring)
            changes += [f"shop {tenant.slug}/{shop.slug}: {changed}"] * bool(changed)
    return changes


def _put_erp(
    connection: Connection, tenant_id: int, erp: ErpFile, environment: Mapping[str, str], ring: KeyRing
) -> tuple[int, str]:
    secrets = _secrets(erp.secrets, environment)
    _validate(f"management system {erp.slug}", connectors.erp, erp.kind, erp.config, secrets)
    where = {"tenant_id": tenant_id, "slug": erp.slug}
    erp_id, changed = _put(connection, erps, where, {"kind": erp.kind, "config": erp.config}, secrets, ring)
    plan = {"tenant_id": tenant_id, "window_cap": erp.window}
    gate_id, replanned = _put(connection, gates, {"erp_id": erp_id}, plan)
    if "secrets" in changed:
        # New credentials, and the end of the old ones' refusal, in one transaction (PROTOCOL F2).
        fresh = {"credentials_version": gates.c.credentials_version + 1, "credentials_until": EPOCH}
        connection.execute(update(gates).where(gates.c.id == gate_id).values(**fresh))
    return gate_id, changed or replanned


def _put_shop(
    connection: Connection,
    tenant_id: int,
    gate_id: int,
    shop: ShopFile,
    environment: Mapping[str, str],
    ring: KeyRing,
) -> str:
    secrets = _secrets(shop.secrets, environment)
    _validate(f"shop {shop.slug}", connectors.shop, shop.platform, shop.config, secrets)
    key = shop.key.read(environment)
    if len(key) < KEY_LENGTH:
        raise ApplyError(f"shop {shop.slug}: its key has {len(key)} characters; at least {KEY_LENGTH} are needed.")
    taken = select(shops.c.id).where(shops.c.key_hash == hash_key(key), ~_same_shop(tenant_id, shop.slug))
    if connection.execute(taken).first():
        raise ApplyError(f"shop {shop.slug}: another shop already has this key.")
    values = {"gate_id": gate_id, "platform": shop.platform, "key_hash": hash_key(key)}
    values |= {"config": shop.config, "active": shop.active}
    where = {"tenant_id": tenant_id, "slug": shop.slug}
    shop_id, changed = _put(connection, shops, where, values, secrets, ring)
    if "secrets" in changed:
        # What waited for better credentials of the shop goes on at once.
        waiting = (syncs.c.shop_id == shop_id, ~IN_FLIGHT, syncs.c.state == State.PENDING)
        refused = syncs.c.error_class == "Unauthorized"
        connection.execute(update(syncs).where(*waiting, refused).values(due_at=now()))
    return changed


def _same_shop(tenant_id: int, slug: str) -> Any:
    return (shops.c.tenant_id == tenant_id) & (shops.c.slug == slug)


def _validate(what: str, find: Any, name: str, config: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
    try:
        find(name).validate(config, secrets)
    except (connectors.NoConnector, ValueError) as error:
        raise ApplyError(f"{what}: {error}") from error


def _secrets(
    references: Mapping[str, FromEnvironment | list[FromEnvironment]], environment: Mapping[str, str]
) -> dict[str, Any]:
    return {
        name: [one.read(environment) for one in given] if isinstance(given, list) else given.read(environment)
        for name, given in references.items()
    }


def _put(
    connection: Connection,
    table: Table,
    where: Mapping[str, Any],
    values: Mapping[str, Any],
    secrets: Mapping[str, Any] | None = None,
    ring: KeyRing | None = None,
) -> tuple[int, str]:
    """Insert or update one row; its id, and what changed in words ("" when nothing did)."""
    found = connection.execute(
        select(table).where(*(table.c[name] == value for name, value in where.items()))
    ).one_or_none()
    changed = [name for name, value in values.items() if found is None or found._mapping[name] != value]
    stored = dict(values)
    if ring is not None and (found is None or ring.open(found.secrets) != secrets):
        stored["secrets"] = ring.seal(secrets)
        changed.append("secrets")
    if found is None:
        made = connection.execute(insert(table).values(**where, **stored).returning(table.c.id)).scalar_one()
        return made, "added with its secrets" if ring is not None else "added"
    if changed:
        connection.execute(update(table).where(table.c.id == found.id).values(**stored))
    return found.id, f"changed {', '.join(changed)}" if changed else ""
