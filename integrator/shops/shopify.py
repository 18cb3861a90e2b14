"""Shopify: signed webhooks of orders, and the REST Admin API to read one again.

The facts are Shopify's, as its documentation says them; where it says nothing, the docstring says so.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from integrator import errors
from integrator.documents import Order
from integrator.http import Answer, raise_for_status
from integrator.plans import Rate
from integrator.shops.base import Identity, Kind, ShopAccess, Unreadable, Unsigned
from integrator.shops.checks import check_rate, check_url, is_visible, refuse_unknown
from integrator.shops.payload import ID, Fields, parse, plain_id, utc_time
from integrator.shops.shopify_order import map_order
from integrator.shops.skim import skim

API_VERSION = "2026-07"
"""Shopify: a version is served for at least 12 months. The newest whose REST order its own libraries test."""

REQUESTS_PER_SECOND = 2.0
BUCKET_SECONDS = 20
"""Shopify: a bucket of 40 requests leaks 2 each second; both are larger in higher plans."""

ORDER_TOPICS = frozenset(
    {
        "orders/create",
        "orders/updated",
        "orders/paid",
        "orders/cancelled",
        "orders/fulfilled",
        "orders/partially_fulfilled",
    }
)
"""The topics whose body is the whole order, unwrapped."""

CHANGE_TOPICS = {"refunds/create": (), "orders/edited": ("order_edit",)}
"""The topics whose body is only a change, and where in it the order's id, `order_id`, stands."""

NOT_SHOWN = (
    "If the order is over 60 days old, give the app the scope `read_all_orders`; if it was deleted in the shop, "
    "cancel it in the management system by hand; then `celery -A tasks syncs requeue`. If it is another shop's, "
    "that one sends its webhooks to this one's address: correct them there."
)

DOMAIN = re.compile(r"[a-z0-9][a-z0-9-]*\.myshopify\.com", re.ASCII)
SHORT_TOKEN = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Shopify:
    """The connector to Shopify. It holds no state."""

    platform: ClassVar[str] = "shopify"
    topic_header: ClassVar[str] = "x-shopify-topic"

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
        """Check the signature with every secret. Raises Unsigned, never anything else.

        Shopify: base64 of HMAC-SHA256 over the raw body with the app's client secret; the old secret may sign
        for an hour after a rotation. Newer deliveries name their headers without `X-`. All comparisons are
        made, whatever the earlier ones gave, and each takes constant time.
        """
        given = [
            _header_bytes(headers[name])
            for name in ("x-shopify-hmac-sha256", "shopify-hmac-sha256")
            if name in headers
        ]
        genuine = False
        for secret in secrets:
            key = secret.encode("utf-8", "surrogatepass")
            expected = base64.b64encode(hmac.digest(key, body, "sha256"))
            for signature in given:
                genuine |= hmac.compare_digest(signature, expected) and bool(key)
        if not genuine:
            raise Unsigned

    def identify(self, headers: Mapping[str, str], body: bytes) -> Identity | None:
        """Say which order the delivery is about; None for another topic. Raises Unreadable.

        Shopify: `X-Shopify-Webhook-Id` is the same over a delivery's retries. It is not signed, so the key
        also holds the topic and the order's id: a false duplicate would lose an order. A change
        (a refund, an edit) says no time of the order, so that it is fetched.
        """
        topic = _header(headers, "topic")
        if topic not in ORDER_TOPICS and topic not in CHANGE_TOPICS:
            return None
        whole = topic in ORDER_TOPICS
        try:
            content = skim(body, "id", "updated_at") if whole else parse(body)
            for name in CHANGE_TOPICS.get(topic, ()):
                content = content.object(name) or Fields({})
        except errors.Unmapped as error:
            raise Unreadable(error.message) from None
        external_id = plain_id(content.values.get("id" if whole else "order_id"))
        if external_id is None:
            raise Unreadable("the body has no readable id")
        return Identity(
            kind=Kind.ORDER,
            external_id=external_id,
            topic=topic,
            updated_at=utc_time(content.values.get("updated_at")) if whole else None,
            event_key=_event_key(topic, external_id, _header(headers, "webhook-id")),
        )

    def is_from(self, headers: Mapping[str, str], config: Mapping[str, Any]) -> bool:
        """Whether the delivery names this shop, or none.

        Shopify: an app's client secret signs for every shop that has the app, and `X-Shopify-Shop-Domain` says
        which it was. A shop may change its domain once, so that another name alone is no proof.
        """
        named = _header(headers, "shop-domain").strip().lower()
        return not named or named == config["domain"]

    def map(self, topic: str, body: bytes) -> Order | None:
        """Make the canonical order of a delivery's body; None for another topic. Raises Unmapped."""
        return map_order(parse(body)) if topic in ORDER_TOPICS else None

    def fetch_order(self, access: ShopAccess, external_id: str) -> Order:
        """Read the order as it is now.

        Raises NotFound, Unauthorized, Throttled, Unmapped, Rejected (a status that retrying won't change),
        and Transient, never in doubt: reading has no effect. Shopify: without the scope `read_all_orders` an
        order over 60 days old is not found.
        """
        if not ID.fullmatch(external_id):
            raise errors.Unmapped("the order's id is not a number", subject="id")
        try:
            order = self._get(access, f"/admin/api/{API_VERSION}/orders/{external_id}.json").object("order")
        except errors.Transient as error:
            raise error.without_doubt() from None
        except errors.NotFound as error:
            said = {"subject": error.subject, "detail": error.detail}
            raise errors.NotFound(f"the shop shows no order {external_id}", remedy=NOT_SHOWN, **said) from None
        if order is None:
            raise errors.Unmapped("the answer holds no order", subject="order")
        if plain_id(order.values.get("id")) != external_id:
            raise errors.Unmapped("the answer is another order", subject="order.id")
        return map_order(order)

    def check(self, access: ShopAccess) -> datetime | None:
        """Read the shop and one order. Raises as `fetch_order` does, and Rejected for another shop.

        Shopify: any token may read the shop; without the scope `read_orders` the orders are answered 403.
        """
        answer = self._ask(access, f"/admin/api/{API_VERSION}/shop.json")
        shop = _content(answer).object("shop")
        if shop is None or shop.text("myshopify_domain") != access.config["domain"]:
            raise errors.Rejected(
                f"the answer is of another shop than {access.config['domain']}",
                subject="another shop",
                remedy="Correct the shop's domain and address in the tenants' file, and apply it.",
            )
        some = {"limit": "1", "status": "any", "fields": "id"}
        self._ask(access, f"/admin/api/{API_VERSION}/orders.json", some)
        return answer.date

    def _get(self, access: ShopAccess, path: str) -> Fields:
        return _content(self._ask(access, path))

    def _ask(self, access: ShopAccess, path: str, params: Mapping[str, str] | None = None) -> Answer:
        headers = {"Accept": "application/json", "X-Shopify-Access-Token": access.secrets["access_token"]}
        answer = access.http.request("GET", path, headers=headers, params=params)
        if answer.status in {402, 423}:
            # Not Unauthorized: the token is good, so nobody has one to store. The shop's owner ends it.
            why = "is frozen until its bill is paid" if answer.status == 402 else "is locked by Shopify"
            raise errors.Transient(f"the shop {why}", subject=f"Shopify orders {answer.status}")
        raise_for_status(answer, subject="Shopify orders")
        refuse_throttled(answer)
        return answer

    def validate(self, config: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        """Check a shop's configuration. Raises ValueError with a sentence that names no secret.

        config: `domain`, the shop's permanent one (example.myshopify.com); optional `url`, which replaces
        https://<domain> where the API is read, and `requests_per_second` of its plan (2, 4 or 20). secrets:
        `webhook`, the client secrets that may sign, newest first; `access_token` of the Admin API.
        """
        refuse_unknown("config", config, {"domain", "url", "requests_per_second"})
        check_rate(config.get("requests_per_second"))
        refuse_unknown("secrets", secrets, {"webhook", "access_token"})
        domain = config.get("domain")
        if not isinstance(domain, str) or not DOMAIN.fullmatch(domain):
            raise ValueError("domain must be the shop's permanent one, like example.myshopify.com")
        if "url" in config:
            check_url(config["url"])
        signing = secrets.get("webhook")
        if not isinstance(signing, list | tuple) or not signing or not all(map(is_visible, signing)):
            raise ValueError("webhook must be a list of at least one client secret, each of visible ASCII")
        if not is_visible(secrets.get("access_token")):
            raise ValueError("access_token must be the Admin API's token, of visible ASCII")

    def rate(self, config: Mapping[str, Any]) -> Rate:
        """Twice a second, or as often as the shop's plan allows, and twenty seconds' worth at once after a rest.

        Shopify: a bucket of 40 that leaks 2 a second for each app and shop, in higher plans 4 or 20 (then larger).
        """
        per_second = float(config.get("requests_per_second", REQUESTS_PER_SECOND))
        return Rate(per_second, max(int(per_second * BUCKET_SECONDS), 1))

    def base_url(self, config: Mapping[str, Any]) -> str:
        """Give the address of the shop's API, without a slash at its end."""
        return str(config.get("url") or f"https://{config['domain']}").rstrip("/")


def refuse_throttled(answer: Answer) -> None:
    """Raise Throttled for what Shopify's GraphQL answers 200 and means: too many points, come back later.

    Shopify: `errors[].extensions.code` is THROTTLED, and `extensions.cost` tells how many points the query needs,
    how many there are, and how many come back each second.
    """
    if b"THROTTLED" not in answer.body:
        return
    content = answer.json()
    found = content.get("errors") if isinstance(content, dict) else None
    if not any(
        _member(one, "extensions", "code") == "THROTTLED" for one in (found if isinstance(found, list) else ())
    ):
        return
    wanted = _member(content, "extensions", "cost", "requestedQueryCost")
    there = _member(content, "extensions", "cost", "throttleStatus", "currentlyAvailable")
    back = _member(content, "extensions", "cost", "throttleStatus", "restoreRate")
    told = all(isinstance(one, int | Decimal) for one in (wanted, there, back)) and back > 0
    wait = max(float((wanted - there) / back), 0.0) if told else None
    raise errors.Throttled("Shopify asked to wait", retry_after_seconds=wait, subject="Shopify THROTTLED")


def _member(content: Any, *names: str) -> Any:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _content(answer: Answer) -> Fields:
    try:
        return parse(answer.body)
    except errors.Unmapped:  # a page of a proxy or of maintenance, not the API's word
        raise errors.Transient("Shopify answered 200 without JSON", subject="Shopify orders") from None


def _header(headers: Mapping[str, str], name: str) -> str:
    return headers.get(f"x-shopify-{name}") or headers.get(f"shopify-{name}") or ""


def _header_bytes(value: str) -> bytes:
    return value.encode("ascii", "backslashreplace")


def _event_key(topic: str, external_id: str, webhook_id: str) -> str | None:
    if not webhook_id:
        return None
    if not SHORT_TOKEN.fullmatch(webhook_id):
        webhook_id = hashlib.sha256(_header_bytes(webhook_id)).hexdigest()
    return f"{topic}:{external_id}:{webhook_id}"
