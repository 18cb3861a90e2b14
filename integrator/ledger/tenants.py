"""Tenants, their shops and management systems: configuration as code, applied as often as one likes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Connection, Table, insert, select, update

from integrator import connectors
from integrator.clock import EPOCH
from integrator.ledger.leases import LONGEST_CALL_SECONDS
from integrator.ledger.limits import write_plan
from integrator.ledger.schema import erps, gates, shops, tenants
from integrator.plans import PlanFile
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
    """One management system in the file. Without a `plan` the stored one stays; with one it is the whole of it."""

    slug: Slug
    kind: str
    window: int = Field(8, ge=1, le=1_000)
    plan: PlanFile | None = None
    config: dict[str, Any] = {}
    secrets: dict[str, FromEnvironment | list[FromEnvironment]] = {}


class ShopFile(_Model):
    """One shop in the file. `key` is the unguessable token in its webhooks' URL; `max_open_deliveries` how many
    may wait before further ones are answered 503.
    """

    slug: Slug
    platform: str
    erp: Slug
    key: FromEnvironment
    active: bool = True
    max_open_deliveries: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    config: dict[str, Any] = {}
    secrets: dict[str, FromEnvironment | list[FromEnvironment]] = {}


class TenantFile(_Model):
    """One tenant in the file. `tolerance` is how far an order's amounts may be off, in its currency; `keep_days`
    how long what its finished syncs came from and did is kept.
    """

    slug: Slug
    name: str
    active: bool = True
    tolerance: Annotated[Decimal, Field(ge=0, le=1, allow_inf_nan=False)] = Decimal("0.01")
    keep_days: Annotated[int, Field(ge=3, le=3_650)] | None = None
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


@dataclass
class Changes:
    """What `apply` changed: a line each, and the shops that have new secrets, whose syncs may wait for them.

    Once it is committed, `transitions.hurry` lets those go on, in a transaction of its own: `apply` holds gates
    (PROTOCOL G1).
    """

    lines: list[str] = field(default_factory=list)
    renewed_shops: list[int] = field(default_factory=list)

    def note(self, what: str, stored: "_Stored") -> None:
        """Note one row, when it changed."""
        if stored.added or stored.changed:
            self.lines.append(f"{what}: {stored.said}")


def apply(connection: Connection, file: File, environment: Mapping[str, str], ring: KeyRing) -> Changes:
    """Bring the ledger's tenants to the file's, in the caller's transaction.

    What the file does not mention stays. Raises ApplyError, and the caller's transaction must roll back.
    """
    changes = Changes()
    for tenant in sorted(file.tenants, key=lambda tenant: tenant.slug):
        values = {"name": tenant.name, "active": tenant.active, "tolerance": f"{tenant.tolerance:f}"}
        values |= {"keep_days": tenant.keep_days}
        stored = _put(connection, tenants, {"slug": tenant.slug}, values)
        changes.note(f"tenant {tenant.slug}", stored)
        gate_of = {}
        for erp in tenant.erps:
            what = f"management system {tenant.slug}/{erp.slug}"
            gate_of[erp.slug] = _put_erp(connection, stored.id, erp, environment, ring, changes, what)
        for shop in tenant.shops:
            changed = _put_shop(connection, stored.id, gate_of[shop.erp], shop, environment, ring)
            changes.note(f"shop {tenant.slug}/{shop.slug}", changed)
            if "secrets" in changed.changed:
                changes.renewed_shops.append(changed.id)
    return changes


def _put_erp(
    connection: Connection,
    tenant_id: int,
    erp: ErpFile,
    environment: Mapping[str, str],
    ring: KeyRing,
    changes: Changes,
    what: str,
) -> int:
    secrets = _secrets(erp.secrets, environment)
    _validate(what, connectors.erp, erp.kind, erp.config, secrets)
    if (seconds := connectors.erp(erp.kind).deadline_seconds(erp.config)) > LONGEST_CALL_SECONDS:
        raise ApplyError(
            f"{what}: a call of up to {seconds:g} s does not fit into a lease; {LONGEST_CALL_SECONDS:g} s do."
        )
    where = {"tenant_id": tenant_id, "slug": erp.slug}
    stored = _put(connection, erps, where, {"kind": erp.kind, "config": erp.config}, secrets, ring)
    gate = _put(connection, gates, {"erp_id": stored.id}, {"tenant_id": tenant_id, "window_cap": erp.window})
    planned = write_plan(connection, gate.id, erp.plan.columns()) if erp.plan else ()
    changes.note(what, replace(stored, changed=(*stored.changed, *gate.changed, *planned)))
    if "secrets" in stored.changed:
        # New credentials, and the end of the old ones' refusal, in one transaction (PROTOCOL F2). An open breaker
        # may have opened for them too: one sync tries the system at once.
        version = {"credentials_version": gates.c.credentials_version + 1}
        fresh = {**version, "credentials_until": EPOCH, "breaker_until": EPOCH}
        connection.execute(update(gates).where(gates.c.id == gate.id).values(**fresh))
    return gate.id


def _put_shop(
    connection: Connection,
    tenant_id: int,
    gate_id: int,
    shop: ShopFile,
    environment: Mapping[str, str],
    ring: KeyRing,
) -> "_Stored":
    secrets = _secrets(shop.secrets, environment)
    _validate(f"shop {shop.slug}", connectors.shop, shop.platform, shop.config, secrets)
    key = shop.key.read(environment)
    if len(key) < KEY_LENGTH:
        raise ApplyError(f"shop {shop.slug}: its key has {len(key)} characters; at least {KEY_LENGTH} are needed.")
    taken = select(shops.c.id).where(shops.c.key_hash == hash_key(key), ~_same_shop(tenant_id, shop.slug))
    if connection.execute(taken).first():
        raise ApplyError(f"shop {shop.slug}: another shop already has this key.")
    values = {"gate_id": gate_id, "platform": shop.platform, "key_hash": hash_key(key)}
    values |= {"config": shop.config, "active": shop.active, "max_open_deliveries": shop.max_open_deliveries}
    return _put(connection, shops, {"tenant_id": tenant_id, "slug": shop.slug}, values, secrets, ring)


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


@dataclass(frozen=True)
class _Stored:
    """One row after `_put`: its id, and the columns that changed when it was there before."""

    id: int
    added: bool
    changed: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        return "added" if self.added else f"changed {', '.join(self.changed)}"


def _put(
    connection: Connection,
    table: Table,
    where: Mapping[str, Any],
    values: Mapping[str, Any],
    secrets: Mapping[str, Any] | None = None,
    ring: KeyRing | None = None,
) -> _Stored:
    """Insert or update one row; secrets are compared as they open, since sealed they always differ."""
    found = connection.execute(
        select(table).where(*(table.c[name] == value for name, value in where.items()))
    ).one_or_none()
    sealed = {} if ring is None else {"secrets": ring.seal(secrets)}
    if found is None:
        row = {**where, **values, **sealed}
        return _Stored(
            connection.execute(insert(table).values(**row).returning(table.c.id)).scalar_one(), added=True
        )
    changed = [name for name, value in values.items() if found._mapping[name] != value]
    if ring is not None and ring.open(found.secrets) != secrets:
        changed.append("secrets")
    if changed:
        stored = {name: value for name, value in {**values, **sealed}.items() if name in changed}
        connection.execute(update(table).where(table.c.id == found.id).values(**stored))
    return _Stored(found.id, added=False, changed=tuple(changed))
