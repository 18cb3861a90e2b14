"""What a management system's connector provides: the one Protocol, and the data that crosses it.

A connector turns an action into an exact request (`prepare`, pure), sends it (`send`), and finds what a
reference has become (`look_up`). The ledger stores the request before it is sent; a step in doubt is settled by
sending the same bytes again, or by looking the reference up, as the system's `idempotency` allows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from integrator.documents import Money, Order, Refund
from integrator.http import Http


class Idempotency(StrEnum):
    """How a system keeps a repeated request from having a second effect."""

    KEY = "key"
    """It remembers the key of each accepted request: repeating the same bytes returns the first answer."""
    LOOKUP = "lookup"
    """It does not: what a reference has become is looked up before anything is sent again."""


class StepKind(StrEnum):
    """The effects on an order that a system knows; and, which no connector is asked for, what a person did there.

    `reopen`: the cancellation was taken back. `correct`: a credit has another total. `remove`: a credit is gone.
    """

    CREATE = "create"
    UPDATE = "update"
    CREDIT = "credit"
    CANCEL = "cancel"
    REOPEN = "reopen"
    CORRECT = "correct"
    REMOVE = "remove"


@dataclass(frozen=True)
class Action:
    """One effect to prepare.

    `key` identifies the effect for ever: (tenant, erp, shop, document, step). `reference` is what the record
    in the system carries and is looked up by, equal for all steps of one document. `remote_id` is the order's in
    the system, null only for a create. `refund` is what a credit gives back.
    """

    kind: StepKind
    key: str
    reference: str
    remote_id: str | None
    order: Order = field(repr=False)
    refund: Refund | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Request:
    """The exact request of a step, as it is stored and sent: repeated, it is the same bytes."""

    method: str
    path: str
    key: str
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Receipt:
    """What the system answered to an accepted request: its own id and its own total, when it tells one.

    Both are the order's, but for a credit: then they are the credit's.
    """

    remote_id: str
    total: Money | None = None


@dataclass(frozen=True)
class Credit:
    """A credit of a record: its own id, the key of the step that made it, and its total."""

    credit_id: str
    key: str
    total: Money | None = None


@dataclass(frozen=True)
class Found:
    """A record that carries the reference: its id, the keys of the steps it shows, its total and its credits.

    Two credits with one key are the two that must not be.
    """

    remote_id: str
    applied_keys: frozenset[str]
    cancelled: bool
    total: Money | None = None
    credits: tuple[Credit, ...] = ()


@dataclass(frozen=True)
class ErpAccess:
    """How to reach one tenant's system: configuration, decrypted secrets, an HTTP client with a deadline."""

    config: Mapping[str, Any]
    secrets: Mapping[str, str] = field(repr=False)
    http: Http


class Erp(Protocol):
    """One kind of management system. Implementations hold no state: all is given, so threads share them."""

    kind: ClassVar[str]

    def base_url(self, config: Mapping[str, Any]) -> str:
        """Where the system answers: scheme, host and path before every request's path."""
        ...

    def idempotency(self, config: Mapping[str, Any]) -> Idempotency:
        """How this system, so configured, is kept from a second effect."""
        ...

    def settle_seconds(self, config: Mapping[str, Any]) -> float:
        """How long after a failure the system may still commit a request whose caller has gone."""
        ...

    def deadline_seconds(self, config: Mapping[str, Any]) -> float:
        """The total deadline of one call, first to last byte."""
        ...

    def prepare(self, action: Action) -> Request:
        """Make the exact request of an action. Pure. Raises Unmapped."""
        ...

    def send(self, access: ErpAccess, request: Request) -> Receipt:
        """Have the effect. Raises any of the taxonomy; Transient says whether the outcome is in doubt."""
        ...

    def look_up(self, access: ErpAccess, reference: str) -> list[Found]:
        """Every record that carries the reference: none, one, or the two that must not be."""
        ...

    def check(self, access: ErpAccess) -> datetime | None:
        """Ask for something harmless that needs these credentials; the system's clock, None when it does not say.

        Raises what `look_up` raises when the system does not answer, or refuses them.
        """
        ...

    def validate(self, config: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        """Check a system's configuration before it is stored. Raises ValueError with a sentence for people."""
        ...
