"""The gate of one (tenant, management system): from when, and why not earlier, its work may run.

One column per cause; each writer touches its own, in a transaction of its own that holds no sync (PROTOCOL G1).
`opens_at` is the greatest of them, kept by the database.
"""

import math
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, literal, or_, select, update

from integrator.breaker import BreakerState
from integrator.clock import EPOCH, Instant, after, greatest, now
from integrator.ledger import limits
from integrator.ledger.schema import erps, gates, tenants

CREDENTIALS_PROBE_SECONDS = 15 * 60
"""A dead token is tried again this often, by one sync, until new credentials are stored (PROTOCOL F2)."""

PAUSE_SECONDS = 10 * 365 * 24 * 3600
"""An operator's pause lasts until `resume`: ten years stand for ever."""


CAUSE_WORDS = {
    "paused_until": "paused by an operator",
    "credentials_until": "the credentials were refused",
    "retry_after_until": "the system asked to wait",
    "quota_until": "the day's quota is used up",
    "breaker_until": "the system is failing",
}
"""What each cause means to a person, the most telling first."""


@dataclass(frozen=True)
class Gate:
    """A gate as it was read: open, or shut until a time for a cause. On trial, one sync at a time goes through."""

    gate_id: int
    tenant: str
    erp: str
    open: bool
    opens_at: datetime
    cause: str | None
    on_trial: bool

    @property
    def until_resumed(self) -> bool:
        """Whether it opens by a person's `resume`, and `opens_at` means nothing."""
        return self.cause == CAUSE_WORDS["paused_until"]

    @property
    def trouble(self) -> str | None:
        """Why a sync waits for it, as a person reads it; None when nothing but the window bounds it."""
        if self.until_resumed:
            return f"{self.cause}; `celery -A tasks resume {self.tenant}` opens the gate"
        if not self.open:
            return f"{self.cause}; the gate is shut until {self.opens_at:%Y-%m-%d %H:%M:%S} UTC"
        return "one sync at a time tries whether the system works again" if self.on_trial else None


SPARE_PLACES = 2
"""Places of a window beyond what the rate can use: for bells that are on their way (P6)."""


def window(cap: int, per_second: float, run_seconds: float | None, *, on_trial: bool) -> int:
    """How many syncs of a gate may be in flight (P6): at most the plan's cap; one while it is on trial (F2, G2).

    More than the calls per second times `run_seconds`, the 95th percentile of what a run takes, would only wait
    for their places. Until enough runs have ended it is None, and the cap alone holds.
    """
    if on_trial:
        return 1
    return cap if run_seconds is None else min(cap, math.ceil(per_second * run_seconds) + SPARE_PLACES)


ON_TRIAL = or_(gates.c.credentials_until != EPOCH, gates.c.breaker_state != BreakerState.CLOSED)
"""Whether a gate's credentials were refused, or its system failed, and no call has succeeded since."""


def ask(connection: Connection, gate_id: int) -> Gate:
    """Is the gate open, by the database's clock (S5)?"""
    causes = [gates.c[name] for name in CAUSE_WORDS]
    row = connection.execute(
        select(
            gates.c.id,
            tenants.c.slug.label("tenant"),
            erps.c.slug.label("erp"),
            (gates.c.opens_at <= now()).label("open"),
            gates.c.opens_at,
            ON_TRIAL.label("on_trial"),
            *causes,
        )
        .join(tenants, gates.c.tenant_id == tenants.c.id)
        .join(erps, gates.c.erp_id == erps.c.id)
        .where(gates.c.id == gate_id)
    ).one()
    cause = None if row.open else next(CAUSE_WORDS[c.name] for c in causes if row._mapping[c.name] == row.opens_at)
    if cause == CAUSE_WORDS["quota_until"]:
        cause = limits.use(connection, gate_id).why
    return Gate(row.id, row.tenant, row.erp, bool(row.open), row.opens_at, cause, bool(row.on_trial))


def pause(connection: Connection, gate_ids: list[int]) -> None:
    """Shut gates until `resume`."""
    connection.execute(update(gates).where(gates.c.id.in_(gate_ids)).values(paused_until=after(PAUSE_SECONDS)))


def resume(connection: Connection, gate_ids: list[int]) -> None:
    """End a pause, and nothing else: other causes stand (G1)."""
    connection.execute(update(gates).where(gates.c.id.in_(gate_ids)).values(paused_until=EPOCH))


def wait(connection: Connection, gate_id: int, seconds: float) -> None:
    """Shut for as long as the system asked; a longer wait that stands is kept."""
    until = greatest(gates.c.retry_after_until, after(seconds))
    connection.execute(update(gates).where(gates.c.id == gate_id).values(retry_after_until=until))


def wait_for_plan(connection: Connection, gate_id: int, until: datetime | float, version: int) -> bool:
    """Shut because the plan of this version allows nothing, until a time or for seconds. False: no need to."""
    moment = after(until) if isinstance(until, int | float) else literal(until, Instant())
    shut = connection.execute(
        update(gates)
        .where(gates.c.id == gate_id, gates.c.plan_version == version, gates.c.quota_until < moment)
        .values(quota_until=moment)
    )
    return shut.rowcount > 0


def refuse_credentials(connection: Connection, gate_id: int, version: int) -> bool:
    """Shut because the credentials of this version were refused (F2). False when newer ones are stored."""
    shut = connection.execute(
        update(gates)
        .where(gates.c.id == gate_id, gates.c.credentials_version == version)
        .values(credentials_until=after(CREDENTIALS_PROBE_SECONDS))
    )
    return shut.rowcount > 0


def accept_credentials(connection: Connection, gate_id: int, version: int) -> None:
    """The credentials work after all: clear the cause, if it stands."""
    connection.execute(
        update(gates)
        .where(gates.c.id == gate_id, gates.c.credentials_version == version, gates.c.credentials_until != EPOCH)
        .values(credentials_until=EPOCH)
    )
