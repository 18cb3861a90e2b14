"""What runs tell the breaker of their gate, and what the log and the metrics say of its changes."""

import random
from collections.abc import Collection
from contextlib import suppress

from sqlalchemy import Connection

from integrator import breaker, errors
from integrator.breaker import Breaker, BreakerState, Heard, Holder, Thresholds
from integrator.config import settings
from integrator.ledger import breakers
from integrator.ledger.breakers import Change, Seen
from integrator.ledger.engine import UNREACHABLE, Ledger
from integrator.logs import get_logger, sentence
from integrator.metrics import BREAKER_CHANGES, meters

log = get_logger(__name__)

LASTS = (
    "Nothing: one sync at a time tries it from then on. If it lasts, check that the system is up and reachable."
)


def thresholds() -> Thresholds:
    """What the settings say."""
    given = settings()
    return Thresholds(given.breaker_failures, given.breaker_seconds, given.breaker_longest_seconds)


def next_state(seen: Seen, outcome: Heard, by: Holder) -> Breaker:
    """The state after `by` has heard this."""
    return breaker.next_state(seen.breaker, outcome, seen.at, by, thresholds(), random.random)


def take_place(connection: Connection, gate_id: int, by: Holder) -> Change:
    """Take the only place of a half-open breaker, if it can be had; whose it is then stands in the change."""
    return breakers.change(connection, gate_id, lambda seen: breaker.take_place(seen.breaker, by, seen.at))


def tell(
    ledger: Ledger,
    gate_id: int,
    outcome: Heard,
    by: Holder,
    *,
    error: errors.IntegratorError | None = None,
    credentials_version: int | None = None,
) -> Change | None:
    """Tell a gate's breaker what `by` has heard, in a transaction of its own, and only if that changes anything.

    What old credentials met says nothing once newer ones are stored. None when nothing changed, or the ledger
    could not be reached: a place that is not given back ends by itself.
    """

    def rule(seen: Seen) -> Breaker:
        outdated = isinstance(error, errors.Unauthorized) and seen.credentials_version != credentials_version
        return seen.breaker if outdated else next_state(seen, outcome, by)

    with suppress(*UNREACHABLE):
        with ledger.read() as connection:
            seen = breakers.read(connection, gate_id)
        if rule(seen) == seen.breaker:
            return None
        with ledger.write() as connection:
            change = breakers.change(connection, gate_id, rule)
        announce(change, error)
        return change if change.after != change.before else None
    log.warning("breaker_not_told", gate_id=gate_id, outcome=outcome.value)
    return None


def taken_back(ledger: Ledger, sync_ids: Collection[int], outcome: Heard) -> None:
    """Tell the breakers that these syncs run no more; an unreachable ledger is let be, as in `tell`.

    `vanished` counts as a failure of the system: its call may be what the holder hung in.
    """
    if not sync_ids:
        return
    with suppress(*UNREACHABLE):
        with ledger.read() as connection:
            gone = breakers.gone(connection, sync_ids)
        for gate_id, by in gone:
            tell(ledger, gate_id, outcome, by)


def announce(change: Change, error: errors.IntegratorError | None = None) -> None:
    """Count a change of the state, and write who it is about, why, until when, and what to do."""
    before, after = change.before, change.after
    if after.state is before.state:
        return
    meters().count(BREAKER_CHANGES, state=after.state.value)
    about = {"tenant": change.tenant, "erp": change.erp}
    match after.state:
        case BreakerState.OPEN:
            log.warning(
                "breaker_opened",
                until=after.until.isoformat(timespec="seconds"),
                in_a_row=after.trips,
                reason=sentence(error.message) if error else "its only sync was taken back from its worker",
                error_class=error.error_class if error else None,
                do=LASTS,
                **about,
            )
        case BreakerState.HALF_OPEN:
            log.info("breaker_half_open", reason="one sync tries the system", **about)
        case BreakerState.CLOSED:
            log.info("breaker_closed", reason="the system answered", **about)
