"""WooCommerce: signed webhooks of orders, and the REST API v3 to read one again.

The facts are those of its source, by file: `class-wc-webhook.php`, the controllers of `rest-api/`, and WordPress'
`formatting.php`.
"""

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from integrator import errors
from integrator.documents import Order
from integrator.http import Answer, raise_for_status
from integrator.plans import Rate
from integrator.shops.base import Deleted, Identity, Kind, Ping, ShopAccess, Unreadable, Unsigned
from integrator.shops.checks import check_rate, check_url, is_loopback, is_visible, refuse_unknown
from integrator.shops.payload import ID, Fields, parse, parse_list, plain_id
from integrator.shops.skim import skim
from integrator.shops.woocommerce_fields import gmt
from integrator.shops.woocommerce_order import map_order, refund_ids

ORDER_TOPICS = frozenset({"order.created", "order.updated", "order.restored"})
"""The topics whose body is the order as /orders/{id} gives it at the time of delivery."""

REQUESTS_PER_SECOND = 10.0
BURST = 10
"""What most hosts bear; WooCommerce itself has no limit."""

DELETED_TOPIC = "order.deleted"
"""WooCommerce: sent when an order goes to the trash, with its id only; of one deleted for good nothing is sent."""

PING = re.compile(rb"webhook_id=[0-9]{1,20}")
FORM = "application/x-www-form-urlencoded"

ENTITIES = (
    (re.compile("&amp;|&#0*38;|&#[xX]0*26;"), "&"),
    (re.compile("&lt;|&#0*60;"), "<"),
    (re.compile("&gt;|&#0*62;"), ">"),
    (re.compile("&quot;|&#0*34;|&#[xX]0*22;"), '"'),
    (re.compile("&#0*39;|&#[xX]0*27;"), "'"),
)
"""WordPress: what `wp_specialchars_decode(…, ENT_QUOTES)` decodes, and nothing else, in one pass."""

ENTITY = re.compile("|".join(f"(?:{pattern.pattern})" for pattern, _ in ENTITIES))

PER_PAGE = 100
"""WooCommerce: the most that a page of a list may hold."""

MOST_PAGES = 20
"""Pages of one order's refunds that are read: nobody has refunded an order two thousand times."""

NO_SUCH_ORDER = "woocommerce_rest_shop_order_invalid_id"
"""WooCommerce: the code of the 404 that means it. Where the plugin is switched off, WordPress answers its own."""

ERROR_CODE = re.compile(r"[a-z0-9_]{1,80}", re.ASCII)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class WooCommerce:
    """The connector to WooCommerce. It holds no state."""

    platform: ClassVar[str] = "woocommerce"
    topic_header: ClassVar[str] = "x-wc-webhook-topic"

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
        """Check the signature with every secret. Raises Unsigned, or Ping for the unsigned ping.

        WooCommerce: base64 of HMAC-SHA256 over the raw body, with the secret after `wp_specialchars_decode`
        (`a&amp;b` signs as `a&b`); versions before that signed with it as it is. Whoever knows one form knows the
        other, so both are tried, whatever the earlier comparisons gave, each in constant time. The ping on
        saving a webhook is a form body `webhook_id=N`, has no signature, and must be answered 200.
        """
        given = headers.get("x-wc-webhook-signature", "").encode("ascii", "backslashreplace")
        genuine = False
        for secret in secrets:
            for form in (secret, decoded(secret)):
                key = form.encode("utf-8", "surrogatepass")
                expected = base64.b64encode(hmac.digest(key, body, "sha256"))
                genuine |= hmac.compare_digest(given, expected) and bool(key)
        if genuine:
            return
        if not given and headers.get("content-type", "").lower().startswith(FORM) and PING.fullmatch(body):
            raise Ping
        raise Unsigned

    def identify(self, headers: Mapping[str, str], body: bytes) -> Identity | None:
        """Say which order the delivery is about; None for another topic. Raises Unreadable.

        No delivery is ever a duplicate. WooCommerce: the delivery id is a hash of the webhook and the second, so
        orders share it. And the body is built at delivery, with times in whole seconds, so that even topic, order
        and body together do not tell: an order that goes from A to B and back within a second sends A, B, A, and
        with the last A taken for the first one it would stay at B. Seeing an order once more costs a read.
        """
        topic = headers.get(self.topic_header, "")
        if topic not in ORDER_TOPICS and topic != DELETED_TOPIC:
            return None
        try:
            order = skim(body, "id", "date_modified_gmt", "code")
        except errors.Unmapped as error:
            raise Unreadable(error.message) from None
        external_id = plain_id(order.values.get("id"))
        if external_id is None:
            raise Unreadable(_without_id(order))
        return Identity(
            kind=Kind.ORDER,
            external_id=external_id,
            topic=topic,
            updated_at=gmt(order.values.get("date_modified_gmt")),
            event_key=None,
        )

    def is_from(self, headers: Mapping[str, str], config: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Whether it may be of this shop: the signature tells, since each webhook has a secret of its own."""
        return True

    def map(self, topic: str, body: bytes) -> Order | None:
        """Make the canonical order of a delivery's body. Raises Unmapped.

        None for another topic, and for an order with refunds: the body has no more of them than their totals.
        """
        if topic not in ORDER_TOPICS:
            return None
        order = parse(body)
        return None if refund_ids(order) else map_order(order)

    def fetch_order(self, access: ShopAccess, external_id: str) -> Order:
        """Read the order as it is now, with its refunds. One in the trash is a cancelled one.

        Raises Deleted, Unauthorized, Throttled, Unmapped, Rejected (a status that retrying won't change), and
        Transient, never in doubt: reading has no effect.
        """
        if not ID.fullmatch(external_id):
            raise errors.Unmapped("the order's id is not a number", subject="id")
        try:
            return self._fetch(access, external_id)
        except errors.Transient as error:
            raise error.without_doubt() from None

    def _fetch(self, access: ShopAccess, external_id: str) -> Order:
        path = f"/wp-json/wc/v3/orders/{external_id}"
        order = parse(_get(access, path))
        if plain_id(order.values.get("id")) != external_id:
            raise errors.Unmapped("the answer is another order", subject="id")
        wanted = refund_ids(order)
        refunds = _refunds(access, path) if wanted else ()
        if {plain_id(refund.values.get("id")) for refund in refunds} != wanted:
            raise errors.Transient("the order's refunds changed while they were read", subject="refunds changed")
        return map_order(order, refunds)

    def check(self, access: ShopAccess) -> datetime | None:
        """Read one order's id. WooCommerce: a key that may not read orders is answered 401."""
        return _ask(access, "/wp-json/wc/v3/orders", {"per_page": "1", "_fields": "id"}).date

    def validate(self, config: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        """Check a shop's configuration. Raises ValueError with a sentence that names no secret.

        config: `url`, where WordPress is (https://example.com or https://example.com/shop); optional
        `requests_per_second`, what its host bears. secrets: `webhook`,
        the webhooks' secrets, newest first; `consumer_key` and `consumer_secret` of a REST API key that may read.
        """
        refuse_unknown("config", config, {"url", "requests_per_second"})
        check_rate(config.get("requests_per_second"))
        refuse_unknown("secrets", secrets, {"webhook", "consumer_key", "consumer_secret"})
        parts = check_url(config.get("url"))
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ValueError("url must be https: WooCommerce takes a REST API key over nothing less")
        signing = secrets.get("webhook")
        if not isinstance(signing, list | tuple) or not signing or not all(map(_is_secret, signing)):
            raise ValueError("webhook must be a list of at least one secret, without line breaks")
        for name, prefix in (("consumer_key", "ck_"), ("consumer_secret", "cs_")):
            value = secrets.get(name)
            if not is_visible(value) or not str(value).startswith(prefix) or ":" in str(value):
                raise ValueError(f"{name} must be the REST API key's part that begins with {prefix}")

    def rate(self, config: Mapping[str, Any]) -> Rate:
        """Ten times a second unless the configuration says otherwise: WooCommerce has no limit, its hosts do."""
        return Rate(float(config.get("requests_per_second", REQUESTS_PER_SECOND)), BURST)

    def base_url(self, config: Mapping[str, Any]) -> str:
        """Give the address of WordPress, without a slash at its end."""
        return str(config["url"]).rstrip("/")


def decoded(secret: str) -> str:
    """Decode a secret as `wp_specialchars_decode(…, ENT_QUOTES)` does."""
    return ENTITY.sub(lambda found: next(c for pattern, c in ENTITIES if pattern.fullmatch(found[0])), secret)


def _without_id(order: Fields) -> str:
    """Say why a signed body has no id. WooCommerce sends its own error where it can't read the order itself."""
    code = order.values.get("code")
    if isinstance(code, str) and ERROR_CODE.fullmatch(code):
        return f"WooCommerce could not read the order itself: {code}"
    return "the body has no readable id"


def _get(access: ShopAccess, path: str, params: Mapping[str, str] | None = None) -> bytes:
    return _ask(access, path, params).body


def _ask(access: ShopAccess, path: str, params: Mapping[str, str] | None = None) -> Answer:
    """Read one path. Raises what the status means, and Transient for a 200 that is not JSON."""
    key = f"{access.secrets['consumer_key']}:{access.secrets['consumer_secret']}"
    token = base64.b64encode(key.encode("ascii")).decode("ascii")
    headers = {"Accept": "application/json", "Authorization": f"Basic {token}"}
    answer = access.http.request("GET", path, headers=headers, params=params)
    if answer.status == 404:
        raise _not_found(answer)
    raise_for_status(answer, subject="WooCommerce orders")
    if not answer.body.lstrip().startswith(
        (b"{", b"[")
    ):  # a page of a proxy or of maintenance, not the API's word
        raise errors.Transient("WooCommerce answered 200 without JSON", subject="WooCommerce orders")
    return answer


def _not_found(answer: Answer) -> errors.IntegratorError:
    subject, detail = "WooCommerce orders 404", answer.text()
    try:
        code = parse(answer.body).values.get("code")
    except errors.Unmapped:
        code = None
    if code == NO_SUCH_ORDER:
        return Deleted("the order was deleted in the shop", subject=subject, detail=detail)
    return errors.Transient("there is no WooCommerce API at the shop's address", subject=subject, detail=detail)


def _refunds(access: ShopAccess, path: str) -> tuple[Fields, ...]:
    """Read all refunds of an order, page by page."""
    found: list[Fields] = []
    for page in range(1, MOST_PAGES + 1):
        body = _get(access, f"{path}/refunds", {"per_page": str(PER_PAGE), "page": str(page)})
        refunds = parse_list(body, "refunds")
        found += refunds
        if len(refunds) < PER_PAGE:
            break
    return tuple(found)


def _is_secret(value: object) -> bool:
    """WordPress makes secrets with spaces in them, and people type any letter."""
    return isinstance(value, str) and bool(value) and CONTROL.search(value) is None
