"""Whether each shop and management system answers, takes our credentials, and has the same time as we do."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from integrator import connectors, errors
from integrator.erps.base import ErpAccess
from integrator.http import Http
from integrator.ledger.schema import erps, gates, shops, tenants
from integrator.limits import Limiter, patient
from integrator.plans import Purpose
from integrator.secrets import KeyRing
from integrator.shops.base import ShopAccess

CLOCK_SECONDS = 60
"""How far two clocks may be apart: more, and times that both write are told in the wrong order."""

PLACE_SECONDS = 5.0
"""How long a check waits for a place within the limits that orders keep, too."""

AT_ONCE = 8
"""How many are asked at the same time."""

UNREACHED = (
    "Check that it is up, that the address in the tenants' file reaches it from here, and that it answers within "
    "its deadline."
)
NOT_IT = "Check the address in the tenants' file: what answers there is not what is expected."
BROKEN = "Report it to whoever wrote the connector, with the version that is installed."
LATER = "Nothing: it asked to come back later, or its plan does. Check again then."
CLOCKS = "Let both machines set their clocks by NTP; `timedatectl` tells whether this one does."


@dataclass(frozen=True)
class Part:
    """A shop or a management system, as it is configured. `kind` is the connector's name.

    `limit_id` is the id of its gate, or of the shop: whose limit a call to it keeps.
    """

    tenant: str
    what: str
    slug: str
    kind: str
    limit_id: int
    config: Mapping[str, Any]
    secrets: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Finding:
    """What came of asking one part: how long it took, how far its clock is ahead, and what is wrong."""

    tenant: str
    what: str
    slug: str
    kind: str
    seconds: float
    clock_ahead_seconds: float | None = None
    problem: str | None = None
    remedy: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem is None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        named = f"{self.tenant}: {self.what} {self.slug} ({self.kind})"
        if self.ok:
            return f"ok     {named} answers in {self.seconds:.2f} s"
        return f"wrong  {named}: {self.problem}. {self.remedy}"


def parts(connection: Connection, ring: KeyRing, tenant: str | None = None) -> list[Part]:
    """All parts that are active, or those of one tenant. Raises SecretsError."""
    found = []
    for what, table, kind in (("management system", erps, erps.c.kind), ("shop", shops, shops.c.platform)):
        query = (
            select(
                tenants.c.slug.label("tenant"),
                table.c.slug,
                kind.label("kind"),
                (gates.c.id if table is erps else shops.c.id).label("limit_id"),
                table.c.config,
                table.c.secrets,
            )
            .join(tenants, table.c.tenant_id == tenants.c.id)
            .where(tenants.c.active if tenant is None else tenants.c.slug == tenant)
            .order_by(tenants.c.slug, table.c.slug)
        )
        of_erp = gates.c.erp_id == erps.c.id
        query = query.where(shops.c.active) if table is shops else query.join(gates, of_erp)
        found += [
            Part(row.tenant, what, row.slug, row.kind, row.limit_id, row.config, ring.open(row.secrets))
            for row in connection.execute(query)
        ]
    return sorted(found, key=lambda part: (part.tenant, part.what))


def check_all(chosen: Sequence[Part], limiter: Limiter) -> list[Finding]:
    """Ask all of them, several at once; the findings in the same order."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="checks") as threads:
        return list(threads.map(partial(check, limiter=limiter), chosen))


def check(part: Part, limiter: Limiter) -> Finding:
    """Ask one part, once, within its limits. Whatever it does is a finding."""
    began, asked_at = time.monotonic(), datetime.now(UTC)
    try:
        its = _ask(part, limiter)
    except (connectors.NoConnector, errors.IntegratorError) as error:
        return _finding(part, began, problem=str(error).rstrip("."), remedy=_remedy(error))
    except Exception as error:  # noqa: BLE001 - its text may hold anything
        return _finding(part, began, problem=f"the connector failed with {type(error).__name__}", remedy=BROKEN)
    ahead = None if its is None else _ahead(its, asked_at, datetime.now(UTC))
    if ahead is None or abs(ahead) <= CLOCK_SECONDS:
        return _finding(part, began, ahead)
    said = f"its clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return _finding(part, began, ahead, said, CLOCKS)


def _finding(
    part: Part, began: float, ahead: float | None = None, problem: str | None = None, remedy: str | None = None
) -> Finding:
    seconds = round(time.monotonic() - began, 3)
    return Finding(part.tenant, part.what, part.slug, part.kind, seconds, ahead, problem, remedy)


def _ask(part: Part, limiter: Limiter) -> datetime | None:
    if part.what == "shop":
        shop = connectors.shop(part.kind)
        limit = patient(limiter.of_shop(part.limit_id, shop.rate(part.config)), PLACE_SECONDS)
        return shop.check(ShopAccess(part.config, part.secrets, Http(shop.base_url(part.config), limit=limit)))
    erp = connectors.erp(part.kind)
    limit = patient(limiter.of_gate(part.limit_id, Purpose.OTHERS), PLACE_SECONDS)
    http = Http(erp.base_url(part.config), deadline_seconds=erp.deadline_seconds(part.config), limit=limit)
    return erp.check(ErpAccess(part.config, part.secrets, http))


def _ahead(its: datetime, asked_at: datetime, answered_at: datetime) -> float:
    """How far its clock is ahead of ours: 0 for a second that began after we asked, or before it answered.

    HTTP: a Date has whole seconds, so that the second that it names may end a second later.
    """
    if its > answered_at:
        return round((its - answered_at).total_seconds(), 1)
    return round(min((its + timedelta(seconds=1) - asked_at).total_seconds(), 0.0), 1)


def _remedy(error: Exception) -> str:
    match error:
        case errors.Unauthorized():
            return error.advice
        case errors.Throttled() | errors.RateLimited() | errors.QuotaUsedUp():
            return LATER
        case errors.Transient():
            return UNREACHED
        case errors.IntegratorError() if error.advice != type(error).remedy:
            return error.advice
        case errors.IntegratorError():
            return NOT_IT
    return "Install the package that has it, or correct the tenants' file and apply it."
