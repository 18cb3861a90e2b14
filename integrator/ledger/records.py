"""What the ledger gives and takes: small immutable records, no behaviour."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from integrator.errors import IntegratorError
from integrator.ledger.schema import Priority
from integrator.ledger.text import storable

CLASS_LIMIT = 32
"""Characters of an error class that are kept: a connector may have named its own."""


@dataclass(frozen=True)
class Failure:
    """Why a sync stopped, as the ledger keeps it. `detail` may hold personal data: never log it."""

    error_class: str
    fingerprint: str
    message: str
    detail: str
    remedy: str

    @classmethod
    def of(cls, error: IntegratorError) -> "Failure":
        """The record of an error."""
        return cls(error.error_class, error.fingerprint, error.message, error.detail, error.advice)

    def columns(self) -> dict[str, Any]:
        """The error columns of a sync."""
        return {
            "error_class": self.error_class[:CLASS_LIMIT],
            "error_fingerprint": self.fingerprint,
            "error_message": storable(self.message),
            "error_detail": storable(self.detail),
            "error_remedy": storable(self.remedy),
        }


@dataclass(frozen=True)
class Delivery:
    """One webhook as received, verified and identified: what `accept` keeps.

    `event_key`, with the body's hash, is what makes it the same as an earlier one; None when the platform gives no
    event id: such a delivery is never a duplicate. `body_hash` is the hex SHA-256 of the raw body. `failure` is
    set when the body had no readable id; the delivery is then held under an id of its own.
    """

    shop_id: int
    gate_id: int
    kind: str
    external_id: str
    topic: str
    updated_at: datetime | None
    event_key: str | None
    correlation_id: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    priority: Priority = Priority.LIVE
    failure: Failure | None = None
    body_hash: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the body, where the request is: the writer's thread has to do with many."""
        object.__setattr__(self, "body_hash", hashlib.sha256(self.body).hexdigest())

    @property
    def sync_key(self) -> tuple[int, int, str, str]:
        """What makes the sync of this delivery unique, and the order in which batches lock (D2)."""
        return (self.gate_id, self.shop_id, self.kind, self.external_id)


@dataclass(frozen=True)
class Accepted:
    """What became of a delivery: the sync and its new version, or None for a duplicate.

    A duplicate's correlation id is that of the deliveries that it repeats.
    """

    sync_id: int | None
    version: int | None
    correlation_id: str | None

    @property
    def duplicate(self) -> bool:
        """Whether the same event had been kept before."""
        return self.sync_id is None


@dataclass(frozen=True)
class Claimed:
    """What a claim won: its number, the version to reach, what failed so far, and what the log calls it by.

    `waited_seconds`: from the newest delivery to the claim, by the database's clock.
    """

    sync_id: int
    gate_id: int
    claim: int
    wanted: int
    attempts: int
    throttled: int
    waited_seconds: float = 0.0
    external_id: str | None = None
    correlation_id: str | None = None

    @property
    def names(self) -> dict[str, str | None]:
        """What the log calls its sync by, beside its id."""
        return {"external_id": self.external_id, "correlation_id": self.correlation_id}


@dataclass(frozen=True)
class Rung:
    """A sync that was marked queued, to be rung: what its message says, and the mark to put it back by."""

    tenant: str
    sync_id: int
    wanted: int
    kind: str
    gate_id: int
    queued_at: datetime
