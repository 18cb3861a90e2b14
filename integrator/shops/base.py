"""What a shop platform's connector provides: the one Protocol, and the data that crosses it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from integrator import errors
from integrator.documents import Order
from integrator.http import Http
from integrator.plans import Rate


class Kind(StrEnum):
    """The kinds of document that a sync can be about."""

    ORDER = "order"


@dataclass(frozen=True)
class Identity:
    """What a delivery is about, read from headers and body before anything is kept.

    `event_key` is, with the body's hash, what makes the delivery the same as an earlier one (it always contains
    the resource id), or None when the platform gives no event id: then the delivery is never a duplicate.
    `updated_at` is the platform's time of the content, None when the body has none (then the worker fetches).
    """

    kind: Kind
    external_id: str
    topic: str
    updated_at: datetime | None
    event_key: str | None


class Unreadable(ValueError):
    """A signed body of a topic that we handle, without a readable id. It is kept, and held for a person."""


class Unsigned(Exception):
    """The signature is missing or wrong."""


class Ping(Exception):
    """The platform's own unsigned question whether anybody is there. It is answered 200, and nothing is kept."""


class Deleted(errors.NotFound):
    """The shop's API itself says that there is no such order: it was deleted.

    Not for a 404 that may come from anything else: a wrong address, a proxy, a plugin that is switched off.
    """

    remedy = "Cancel the order in the management system by hand; then `celery -A tasks syncs requeue`."


@dataclass(frozen=True)
class ShopAccess:
    """How to read from one shop: its configuration, decrypted secrets, and an HTTP client with a deadline."""

    config: Mapping[str, Any]
    secrets: Mapping[str, str] = field(repr=False)
    http: Http


class Shop(Protocol):
    """One platform. Implementations hold no state: all is given, so that threads share them freely."""

    platform: ClassVar[str]
    topic_header: ClassVar[str]
    """The header that says what a delivery is of, its name in lower case."""

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
        """Check the signature over the raw bytes with every valid secret, in constant time.

        Header names arrive in lower case. Raises Unsigned, or Ping instead of it.
        """
        ...

    def identify(self, headers: Mapping[str, str], body: bytes) -> Identity | None:
        """Say what the delivery is about; None for a topic that is not ours to handle.

        Raises Unreadable. Never raises anything else, whatever the bytes are.
        """
        ...

    def is_from(self, headers: Mapping[str, str], config: Mapping[str, Any]) -> bool:
        """Whether a genuine delivery may be of the shop that is so configured.

        Where one secret signs for several shops, the signature does not tell. False for a delivery that names
        another shop: its body is then no more than a hint to ask the shop itself.
        """
        ...

    def map(self, topic: str, body: bytes) -> Order | None:
        """Make the canonical order of a delivery's body; None when the topic's body is not a whole order.

        Raises Unmapped naming the field.
        """
        ...

    def fetch_order(self, access: ShopAccess, external_id: str) -> Order:
        """Read the order as it is now.

        Raises Deleted, NotFound, Unauthorized, Throttled, Transient, Unmapped.
        """
        ...

    def check(self, access: ShopAccess) -> datetime | None:
        """Ask for something harmless that needs these credentials; the shop's clock, None when it does not say.

        Raises what `fetch_order` raises when the shop does not answer, or refuses them.
        """
        ...

    def validate(self, config: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        """Check a shop's configuration before it is stored. Raises ValueError with a sentence for people.

        `secrets["webhook"]` is the list of secrets that may sign; the other names are the platform's own.
        """
        ...

    def rate(self, config: Mapping[str, Any]) -> Rate:
        """How fast the platform lets this shop be asked. `config` has passed `validate`."""
        ...

    def base_url(self, config: Mapping[str, Any]) -> str:
        """Give the address that `access.http` of this shop is made for. `config` has passed `validate`."""
        ...
