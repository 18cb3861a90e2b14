"""What the commands say and do about tenants: the overview, errors in the file, credentials sealed anew."""

import re
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Table, select, update

from integrator import gate
from integrator.ledger.engine import Ledger
from integrator.ledger.limits import read_plan
from integrator.ledger.schema import erps, gates, shops, tenants
from integrator.secrets import KeyRing, SecretsError

BATCH = 100
"""Rows that one transaction of a rotation holds."""


def overview(connection: Connection) -> list[dict[str, Any]]:
    """All tenants with their management systems, gates and shops; no URL, no secret, no key."""
    rows = connection.execute(select(tenants).order_by(tenants.c.slug)).all()
    return [
        {
            "slug": row.slug,
            "name": row.name,
            "active": bool(row.active),
            "tolerance": row.tolerance,
            "keep_days": row.keep_days,
            "erps": _erps(connection, row.id),
            "shops": _shops(connection, row.id),
        }
        for row in rows
    ]


def _erps(connection: Connection, tenant_id: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        select(erps.c.slug, erps.c.kind, erps.c.config, gates.c.id.label("gate_id"), gates.c.window_cap)
        .join(gates, gates.c.erp_id == erps.c.id)
        .where(erps.c.tenant_id == tenant_id)
        .order_by(erps.c.slug)
    ).all()
    return [
        {
            "slug": row.slug,
            "kind": row.kind,
            "config": {name: value for name, value in row.config.items() if "url" not in name},
            "window": row.window_cap,
            "plan": read_plan(connection, row.gate_id).as_dict(),
            "gate": _gate(gate.ask(connection, row.gate_id)),
        }
        for row in rows
    ]


def _gate(asked: gate.Gate) -> dict[str, Any]:
    until = None if asked.open or asked.until_resumed else asked.opens_at.isoformat()
    return {"open": asked.open, "opens_at": until, "cause": asked.cause}


def _shops(connection: Connection, tenant_id: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        select(shops.c.slug, shops.c.platform, shops.c.active, erps.c.slug.label("erp"))
        .join(gates, shops.c.gate_id == gates.c.id)
        .join(erps, gates.c.erp_id == erps.c.id)
        .where(shops.c.tenant_id == tenant_id)
        .order_by(shops.c.slug)
    ).all()
    return [
        {"slug": row.slug, "platform": row.platform, "active": bool(row.active), "erp": row.erp} for row in rows
    ]


def sentences(error: ValidationError) -> list[str]:
    """A line for each thing that is wrong with the file: where, and what. What the file says there stays out."""
    found: dict[str, str] = {}
    for one in error.errors(include_input=False, include_url=False, include_context=False):
        tag = next((place for place, part in enumerate(one["loc"]) if _is_type(part)), None)
        path = _path(one["loc"] if tag is None else one["loc"][:tag])
        text = one["msg"].removeprefix("Value error, ")
        found[path] = text if tag is None else "must be {env: NAME}, or a list of such"
    return [f"{path}: {text}" for path, text in found.items()]


def _is_type(part: int | str) -> bool:
    """Whether pydantic names one of a field's types here, and not a place in the file."""
    return isinstance(part, str) and re.fullmatch(r"FromEnvironment|list\[.*]", part) is not None


def _path(parts: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return path.removeprefix(".") or "the file"


def rotate(ledger: Ledger, ring: KeyRing) -> dict[str, int]:
    """Seal all stored credentials with the ring's first key, in batches; how many of what.

    Raises SecretsError naming the row that no key opens; what came before it is sealed anew by then.
    """
    return {
        "management systems": _rotate(ledger, ring, erps),
        "shops": _rotate(ledger, ring, shops),
    }


def _rotate(ledger: Ledger, ring: KeyRing, table: Table) -> int:
    count, last = 0, 0
    while True:
        with ledger.write() as connection:
            rows = connection.execute(
                select(table.c.id, table.c.slug, table.c.secrets, tenants.c.slug.label("tenant"))
                .join(tenants, table.c.tenant_id == tenants.c.id)
                .where(table.c.id > last)
                .order_by(table.c.id)
                .limit(BATCH)
                .with_for_update(of=table)
            ).all()
            for row in rows:
                sealed = _seal(ring, row.secrets, f"{row.tenant}/{row.slug}")
                connection.execute(update(table).where(table.c.id == row.id).values(secrets=sealed))
        if not rows:
            return count
        count, last = count + len(rows), rows[-1].id


def _seal(ring: KeyRing, sealed: bytes, whose: str) -> bytes:
    try:
        return ring.rotate(sealed)
    except SecretsError as error:
        raise SecretsError(f"{whose}: {error}") from None
