"""One webhook between the request and the ledger: what is known of it, and what of it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from integrator import connectors, unreadable
from integrator.ledger.access import ShopRow
from integrator.ledger.records import Delivery, Failure
from integrator.ledger.text import storable
from integrator.logs import get_logger
from integrator.shops.base import Kind, Unreadable

log = get_logger(__name__)

KEPT_HEADERS = (
    "-topic",
    "-webhook-id",
    "-event-id",
    "-delivery-id",
    "-triggered-at",
    "-api-version",
    "-shop-domain",
    "-webhook-source",
)
"""The ends of the headers' names that connectors look at again; signatures and cookies are never kept."""

HEADER_LIMIT = 512
EXTERNAL_ID_LIMIT = 255
"""Characters: a longer id is no platform's, and an index would refuse it."""


@dataclass
class Webhook:
    """One request, and what is known of it so far. `deadline` is in seconds of `time.monotonic()`.

    `ping`: it is unsigned, and the platform's question whether anybody is there. `reading_seconds`: how long the
    client took to send the body.
    """

    platform: str
    key: str = field(repr=False)
    correlation_id: str
    deadline: float
    shop: ShopRow | None = None
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ping: bool = False
    reading_seconds: float = 0.0


def headers_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """The request's headers with their names in lower case."""
    headers = {
        name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")
    }
    return headers | {"content-type": environ.get("CONTENT_TYPE", "")}


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: storable(headers[name][:HEADER_LIMIT]) for name in headers if name.endswith(KEPT_HEADERS)}


def delivery_of(webhook: Webhook, shop: ShopRow) -> Delivery | None:
    """What is to be kept of a genuine webhook; None when its topic is not ours to handle."""
    kept = _kept(webhook.headers)
    connector = connectors.shop(shop.platform)
    try:
        identity = connector.identify(webhook.headers, webhook.body)
        if identity is None:
            return None
        _check(identity.external_id, identity.updated_at)
    except Unreadable as error:
        return _held(webhook, shop, kept, str(error))
    ours = connector.is_from(webhook.headers, shop.config)
    if not ours:
        log.warning(
            "webhook_names_another_shop",
            tenant=shop.tenant,
            shop=shop.slug,
            topic=identity.topic,
            external_id=identity.external_id,
            correlation_id=webhook.correlation_id,
        )
    return Delivery(
        shop_id=shop.shop_id,
        gate_id=shop.gate_id,
        kind=identity.kind,
        external_id=identity.external_id,
        topic=identity.topic,
        updated_at=identity.updated_at if ours else None,  # without a time the shop itself is asked
        event_key=identity.event_key,
        correlation_id=webhook.correlation_id,
        headers=kept,
        body=webhook.body,
    )


def _check(external_id: str, updated_at: datetime | None) -> None:
    """Raise Unreadable for what no database keeps."""
    if not 1 <= len(external_id) <= EXTERNAL_ID_LIMIT or storable(external_id) != external_id:
        raise Unreadable("the id is not one")
    if updated_at is not None and updated_at.tzinfo is None:
        raise Unreadable("its time has no zone")


def _held(webhook: Webhook, shop: ShopRow, kept: dict[str, str], why: str) -> Delivery:
    """An unreadable body is kept all the same, under an id of its own, for a person to look at."""
    return Delivery(
        shop_id=shop.shop_id,
        gate_id=shop.gate_id,
        kind=Kind.ORDER,
        external_id=f"{unreadable.PREFIX}{webhook.correlation_id}",
        topic=next((value for name, value in kept.items() if name.endswith("-topic")), ""),
        updated_at=None,
        event_key=None,
        correlation_id=webhook.correlation_id,
        headers=kept,
        body=webhook.body,
        failure=Failure.of(unreadable.failure(why)),
    )
