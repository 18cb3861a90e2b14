"""Signed webhooks of three made-up shops as bytes, and a reader that tells which requests bytes hold.

It shares no code with the receiver, so that each can find the other wrong.
"""

import base64
import hmac
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

CRLF = b"\r\n"
END = CRLF * 2


@dataclass(frozen=True)
class Shop:
    """A shop whose webhooks are sent, as its platform signs them."""

    slug: str
    platform: str
    signature: str
    topic: str
    topics: tuple[str, ...]
    ours: frozenset[str]

    @property
    def key(self) -> str:
        """What of its address nobody guesses."""
        return f"{self.slug}-key-0123456789abcdefghij"

    @property
    def secret(self) -> str:
        """What it signs with, and no other shop."""
        return f"the-secret-of-{self.slug}"

    @property
    def path(self) -> str:
        """Where its webhooks go."""
        return f"/webhooks/{self.platform}/{self.key}"

    def sign(self, body: bytes) -> bytes:
        """The signature of a body."""
        return base64.b64encode(hmac.digest(self.secret.encode(), body, "sha256"))

    def config(self) -> dict[str, Any]:
        """The shop in the tenants' file."""
        secrets: dict[str, Any] = {"webhook": [{"env": f"SECRET_{self.slug}"}]}
        if self.platform == "shopify":
            config, secrets = (
                {"domain": f"{self.slug}.myshopify.com"},
                secrets | {"access_token": {"env": "TOKEN"}},
            )
        else:
            config = {"url": f"https://{self.slug}.example"}
            secrets |= {"consumer_key": {"env": "CK"}, "consumer_secret": {"env": "CS"}}
        return {
            "slug": self.slug,
            "platform": self.platform,
            "erp": "own",
            "key": {"env": f"KEY_{self.slug}"},
            "config": config,
            "secrets": secrets,
        }


SHOPIFY = ("X-Shopify-Hmac-Sha256", "X-Shopify-Topic")
WOO = ("X-WC-Webhook-Signature", "X-WC-Webhook-Topic")
ORDERS = frozenset({"orders/create", "orders/updated", "orders/paid", "orders/cancelled"})
SHOPS = (
    Shop("one", "shopify", *SHOPIFY, (*sorted(ORDERS), "products/update"), ORDERS),
    Shop("two", "shopify", *SHOPIFY, (*sorted(ORDERS),), ORDERS),
    Shop(
        "woo",
        "woocommerce",
        *WOO,
        ("order.created", "order.updated", "coupon.updated"),
        frozenset({"order.created", "order.updated"}),
    ),
)


@dataclass(frozen=True)
class Webhook:
    """A webhook as bytes: its first line, its fields, its body."""

    line: bytes
    fields: tuple[bytes, ...]
    body: bytes

    def __bytes__(self) -> bytes:
        return CRLF.join((self.line, *self.fields)) + END + self.body


def webhook(dice: random.Random, number: int) -> Webhook:
    """The genuine webhook of this number."""
    shop = dice.choice(SHOPS)
    order = {"id": 7_000_000_000_000 + number, "updated_at": "2026-03-01T12:00:00Z", "name": f"#{number}"}
    order |= {
        "note": "Grüße \ud800 " + "x" * dice.randrange(0, 3_000),
        "total_price": f"{dice.randrange(10**6)}.10",
    }
    body = json.dumps(order, ensure_ascii=True).encode()
    fields = {
        "Host": "receiver.example",
        "Content-Type": "application/json",
        shop.topic: dice.choice(shop.topics),
        shop.signature: shop.sign(body).decode(),
        "X-Shopify-Webhook-Id" if shop.platform == "shopify" else "X-WC-Webhook-Delivery-ID": f"w-{number}",
        "Content-Length": str(len(body)),
    }
    lines = tuple(f"{name}: {value}".encode() for name, value in fields.items())
    return Webhook(f"POST {shop.path} HTTP/1.1".encode(), lines, body)


@dataclass(frozen=True)
class Asked:
    """One request in what was sent, as our own reader reads it."""

    line: bytes
    fields: dict[bytes, list[bytes]]
    body: bytes

    def shop(self) -> Shop | None:
        """The shop that a POST to this path is for."""
        words = self.line.split(b" ")
        if len(words) != 3 or words[0] != b"POST":
            return None
        path = unquote_to_bytes(words[1].split(b"?")[0].split(b"#")[0])
        return next((shop for shop in SHOPS if path.endswith(shop.path.encode())), None)

    def value(self, name: str) -> bytes:
        """A field's value; of several, what HTTP makes of them."""
        return b",".join(self.fields.get(name.lower().encode(), []))

    def signed_for(self, shop: Shop) -> bool:
        """Whether the body is as this shop signed it."""
        names = {shop.signature, shop.signature.removeprefix("X-")}
        return any(self.value(name) == shop.sign(self.body) for name in names)

    def topic(self, shop: Shop) -> str:
        """What it says that it is about."""
        return (self.value(shop.topic) or self.value(shop.topic.removeprefix("X-"))).decode("latin-1")


def requests_in(sent: bytes) -> Iterator[Asked]:
    """Every whole request in a stream of bytes, up to the first that is none."""
    while True:
        head, end, rest = sent.partition(END)
        lines = head.split(CRLF)
        fields: dict[bytes, list[bytes]] = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
        framed = _body(fields, rest) if end else None
        if framed is None:
            return
        body, sent = framed
        yield Asked(lines[0], fields, body)


def _body(fields: dict[bytes, list[bytes]], rest: bytes) -> tuple[bytes, bytes] | None:
    """The body and what follows it; None when it does not end."""
    if b"transfer-encoding" in fields:
        return None if b"content-length" in fields else _unchunked(rest)
    length = fields.get(b"content-length", [b"0"])
    if len(length) > 1 or not re.fullmatch(rb"[0-9]{1,10}", length[0]) or int(length[0]) > len(rest):
        return None
    return rest[: int(length[0])], rest[int(length[0]) :]


def _unchunked(rest: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while found := re.match(rb"([0-9a-fA-F]{1,10})[ \t]*(?:;[^\r\n]*)?\r\n", rest):
        size, rest = int(found[1], 16), rest[found.end() :]
        if size == 0:
            trailers = re.match(rb"(?:[^\r\n]+\r\n)*\r\n", rest)
            return (body, rest[trailers.end() :]) if trailers else None
        if rest[size : size + 2] != CRLF:
            return None
        body, rest = body + rest[:size], rest[size + 2 :]
    return None
