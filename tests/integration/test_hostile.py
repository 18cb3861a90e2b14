"""Hostile and broken webhooks on both databases: what is answered, what is kept, and what a worker makes of it."""

import io
import json
import random
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app
from werkzeug.wrappers import Request

from integrator import connectors, unreadable
from integrator.clock import after
from integrator.erps.base import Action
from integrator.erps.base import Request as ErpRequest
from integrator.erps.rest import RestErp
from integrator.errors import Unmapped
from integrator.http import Answer
from integrator.ledger import transitions
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, deliveries, syncs
from integrator.secrets import key_ring
from tasks.orders import sync_order
from tasks.process import Process
from tests.hostile import PASSED_OVER, TOKENS, UNREADABLE, Path_, bomb, paths, replaced, sample, signed_by_nobody
from tests.support import MemoryErp, sync_row
from tests.webhooks import (
    KEYS,
    Bell,
    SilentDispatcher,
    Site,
    all_syncs,
    count,
    headers,
    shop,
    site,
    store,
    tenant,
    woo_headers,
)
from web.problems import MEDIA_TYPE

URLS = {
    "shopify": f"/webhooks/shopify/{KEYS['KEY']}",
    "woocommerce": f"/webhooks/woocommerce/{KEYS['KEY_2']}",
}
HEADERS = {
    "shopify": lambda body: headers(body, topic="orders/updated"),
    "woocommerce": woo_headers,
}
WOO = shop(
    "woo",
    "KEY_2",
    platform="woocommerce",
    config={"url": "https://de.example"},
    secrets={"webhook": [{"env": "NEW"}], "consumer_key": {"env": "CK"}, "consumer_secret": {"env": "CS"}},
)
ORDERS = {
    name: sample(name)
    for name in (
        "shopify/orders_create",
        "shopify/orders_create-gift-card-duties-fees",
        "shopify/orders_updated-refunded",
        "woocommerce/order.created",
        "woocommerce/order.updated-coupon-fees",
        "woocommerce/order.updated-refunded",
    )
}


class CheckedErp(MemoryErp):
    """A management system in memory to which everything is also written as the real connector would."""

    def prepare(self, action: Action) -> ErpRequest:
        RestErp().prepare(action)
        return super().prepare(action)


@dataclass(frozen=True)
class SameAgain:
    """A shop's API that answers what the webhook said."""

    said: dict[str, bytes]
    guard: Any = None

    def request(self, _method: str, path: str, **_: Any) -> Answer:
        body = self.said["body"]
        if path.endswith("/refunds"):
            (known, *_) = sample("woocommerce/refunds")
            body = json.dumps([known | {"id": one["id"]} for one in json.loads(body)["refunds"]]).encode()
        elif path.startswith("/admin/"):
            body = b'{"order": ' + body + b"}"
        return Answer(200, {}, body)


@dataclass
class Mill:
    """The receiver with two shops, and a worker for what it keeps."""

    site: Site
    said: dict[str, bytes]

    def post(self, body: bytes, platform: str = "shopify") -> TestResponse:
        self.said["body"] = body
        return self.site.post(body, HEADERS[platform](body), url=URLS[platform])

    def work(self, correlation_id: str) -> Any:
        """Ring for a sync and run its task; the sync's row."""
        with self.site.ledger.write() as connection:
            found = connection.execute(
                update(syncs)
                .where(syncs.c.correlation_id == correlation_id)
                .values(due_at=after(-1))
                .returning(syncs.c.id)
            )
            sync_id = found.scalar_one()
            transitions.ring(connection, [sync_id])
        sync_order.apply(args=("acme", sync_id), task_id=f"{sync_id}:1")
        return sync_row(self.site.ledger, sync_id)

    def takes(self, body: bytes, platform: str = "shopify") -> Any:
        """Post a genuine webhook, which is answered 200, and work on it; the sync's row."""
        answer = self.post(body, platform)
        assert answer.status_code == 200
        return self.work(answer.headers["X-Correlation-Id"])

    def body(self, sync_id: int) -> bytes:
        """The newest body of a sync."""
        newest = select(deliveries.c.body).where(deliveries.c.sync_id == sync_id).order_by(deliveries.c.id.desc())
        with self.site.ledger.read() as connection:
            return bytes(connection.execute(newest.limit(1)).scalar_one())

    def clean(self) -> bool:
        with self.site.ledger.read() as connection:
            return audit(connection) == []


@pytest.fixture
def mill(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Mill:
    monkeypatch.setitem(store.__globals__["ENVIRONMENT"], "CK", "ck_1")
    monkeypatch.setitem(store.__globals__["ENVIRONMENT"], "CS", "cs_1")
    store(ledger, tenant("acme", shop(), WOO))
    said: dict[str, bytes] = {}
    erp = CheckedErp()
    here = Process(ledger, key_ring(), Bell())
    here.dispatcher = SilentDispatcher()  # type: ignore[assignment]
    monkeypatch.setattr("tasks.sync_task.process", lambda: here)
    monkeypatch.setattr("integrator.sync.sides.Http", lambda *_, **__: SameAgain(said))
    monkeypatch.setattr(connectors, "erp", lambda _: erp)
    return Mill(site(monkeypatch, ledger), said)


def judged(row: Any, order: Any) -> None:
    """Done, or held for what the order says, naming a field of it; anything else is a defect of ours."""
    if row.state == State.DONE:
        return
    assert (row.state, row.error_class) in {(State.HELD, "Unmapped"), (State.HELD, "TotalMismatch")}, (
        row.error_class,
        row.error_message,
    )
    assert row.error_remedy
    if row.error_class == "Unmapped" and not row.external_id.startswith(unreadable.PREFIX):
        names = {*order, "refund", "refunds", "body"}
        words = set(re.findall("[a-z_]+", row.error_message))
        assert words & (names | {name.removesuffix("_set") for name in names}), row.error_message


def numbered(number: int, name: str) -> tuple[str, Any]:
    """A sample's platform, and its order with an id of its own."""
    order = ORDERS[name] | {"id": 6_000_000_000_000_000_000 + number}
    return name.split("/", maxsplit=1)[0], order


def test_given_any_field_of_an_order_replaced_when_sent_then_200_and_done_or_held_by_name(mill: Mill) -> None:
    for number in range(60):
        name = random.choice(sorted(ORDERS))
        platform, order = numbered(number, name)
        path, token = random.choice(list(paths(order))), random.choice(sorted(TOKENS.values()))
        body = replaced(order, (path, token))

        row = mill.takes(body, platform)

        judged(row, order)
        assert mill.body(row.id) == body
    assert mill.clean()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(st.data())
def test_given_any_fields_replaced_at_once_when_sent_then_200_and_done_or_held_by_name(
    mill: Mill, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(ORDERS)), label="sample")
    number = count(mill.site.ledger, syncs)
    platform, order = numbered(number, name)
    change = st.tuples(st.sampled_from(list(paths(order))), st.sampled_from(sorted(TOKENS.values())))
    body = replaced(order, *data.draw(st.lists(change, min_size=2, max_size=6), label="changes"))

    row = mill.takes(body, platform)

    judged(row, order)
    assert mill.body(row.id) == body


OPPOSED, TAXES = (
    json.dumps([{"title": price, "price": price} for price in prices])
    for prices in (("1", f"-0.{'9' * 20}"), ("9" * 20, f"0.{'0' * 19}1"))
)
TINY_MONEY, HUGE_MONEY = (
    json.dumps({"shop_money": {"amount": amount, "currency_code": "EUR"}})
    for amount in (f"0.{'0' * 19}1", "9" * 20)
)
SOLD = ("refunds", 1, "refund_line_items", 0)
SHIPPED = ("refunds", 0, "refund_shipping_lines", 0)
OUTGROWN: list[tuple[str, list[tuple[Path_, str]]]] = [
    ("refunds[0].refund_shipping_lines[0].subtotal_amount", [((*SHIPPED, "subtotal_amount_set"), HUGE_MONEY)]),
    (
        "refunds[0].refund_shipping_lines[0].shipping_line.price",
        [
            ((*SHIPPED, "subtotal_amount_set"), HUGE_MONEY),
            ((*SHIPPED, "shipping_line", "price_set"), TINY_MONEY),
            ((*SHIPPED, "shipping_line", "tax_lines"), TAXES),
        ],
    ),
    (
        "refunds[1].refund_line_items[0].total_tax",
        [((*SOLD, "total_tax_set"), HUGE_MONEY), ((*SOLD, "line_item", "tax_lines"), OPPOSED)],
    ),
]
"""Amounts that fit by themselves, and make others that do not; and which field is named then."""


@pytest.mark.parametrize(("field", "changes"), OUTGROWN, ids=[field for field, _ in OUTGROWN])
def test_given_amounts_of_a_refund_that_outgrow_others_when_mapped_then_unmapped_names_the_field(
    field: str, changes: list[tuple[Path_, str]]
) -> None:
    body = replaced(ORDERS["shopify/orders_updated-refunded"], *changes)

    with pytest.raises(Unmapped, match=rf"^{re.escape(field)} .* more than 20 digits$"):
        connectors.shop("shopify").map("orders/updated", body)


TOTAL = ("total_price_set", "shop_money", "amount")
LINE = ("line_items", 0)
READABLE: list[tuple[Path_, str, str | None]] = [
    (TOTAL, TOKENS["400 digits"], "total_price_set.shop_money.amount has more than 20 digits"),
    (TOTAL, "1e999999", "total_price_set.shop_money.amount has more than 20 digits"),
    (TOTAL, "-1e-999999", "total_price_set.shop_money.amount has more than 20 digits"),
    (TOTAL, '"NaN"', "total_price_set.shop_money.amount is not a number"),
    (TOTAL, '"1e3"', "total_price_set.shop_money.amount is not a number"),
    (TOTAL, TOKENS["no-break digits"], "total_price_set.shop_money.amount is not a number"),
    (TOTAL, "[]", "total_price_set.shop_money.amount is not a number"),
    (TOTAL, '""', "total_price is missing"),
    (TOTAL, '"-1"', "TotalMismatch"),
    (("total_price_set",), "[1]", "total_price_set is not an object"),
    ((*LINE, "quantity"), "-1", "line_items[0].quantity is missing or negative"),
    ((*LINE, "quantity"), "1e999999", "line_items[0].quantity has more than 20 digits"),
    ((*LINE, "quantity"), "99999999999999999999", "TotalMismatch"),
    ((*LINE, "id"), "{}", "line_items[0].id is not an id"),
    (LINE, "[]", "line_items[0] is not an object"),
    (("line_items",), "null", "line_items is missing"),
    (("line_items",), "{}", "line_items is not a list"),
    (("currency",), '"\\ud800\\udc00"', "currency is not a currency"),
    (("currency",), '"EUR\\n"', None),  # stripped, as all text is
    (("note",), '"\\ud800 \\u0000"', None),
    (("note",), json.dumps("x" * 100_000), None),
    (("note",), "1e999999", "note is not text"),
    (("customer", "email"), "[" * 500 + "]" * 500, "customer.email is not text"),
    (("updated_at",), TOKENS["the last moment"], None),
    (("updated_at",), '"0001-01-01T00:00:00Z"', None),
    (("updated_at",), TOKENS["before the first moment"], "updated_at is not a time with a zone"),
    (("updated_at",), "null", None),
    (("financial_status",), '"\\u0000"', "financial_status is not a state that we know"),
]
"""What of an order with a readable id is replaced, by what, and why it is held (None: it is not)."""


def test_given_a_hostile_field_and_a_readable_id_when_sent_then_it_is_kept_and_held_by_name(mill: Mill) -> None:
    for number, (path, token, why) in enumerate(READABLE):
        platform, order = numbered(number, "shopify/orders_create")
        body = replaced(order, (path, token))

        row = mill.takes(body, platform)

        assert row.external_id == str(order["id"])
        assert mill.body(row.id) == body
        held = f"{row.error_class}: {row.error_message}" if row.state == State.HELD else None
        assert held == why or (held is not None and why is not None and why in held), (path, token, held)
    assert mill.clean()


def test_given_a_held_hostile_order_when_the_shop_sends_it_whole_then_it_is_done(mill: Mill) -> None:
    platform, order = numbered(1, "shopify/orders_create")
    held = mill.takes(replaced(order, (("line_items",), "null")), platform)
    later = order | {"updated_at": "2027-01-01T00:00:00Z"}

    done = mill.takes(json.dumps(later).encode(), platform)

    assert (held.state, done.state, done.id) == (State.HELD, State.DONE, held.id)


@pytest.mark.parametrize("platform", URLS)
def test_given_genuine_bodies_that_can_t_be_read_when_sent_then_each_is_kept_and_held_and_stays_so(
    mill: Mill, platform: str
) -> None:
    answers = {name: mill.post(body, platform) for name, body in UNREADABLE.items()}

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(UNREADABLE, 200)
    found = dict(zip(UNREADABLE, all_syncs(mill.site.ledger), strict=True))
    for name, sync in found.items():
        assert (sync.state, sync.error_class) == (State.HELD, "Unmapped"), name
        assert sync.external_id == f"delivery:{answers[name].headers['X-Correlation-Id']}"
        assert mill.body(sync.id) == UNREADABLE[name]

    with mill.site.ledger.write() as connection:
        assert transitions.requeue(connection, syncs.c.state == State.HELD, mass=True) == len(UNREADABLE)
    for before in found.values():
        again = mill.work(before.correlation_id)
        assert (again.state, again.wanted) == (State.HELD, 1)
        clear = ("error_class", "error_fingerprint", "error_message", "error_remedy")
        assert [getattr(again, name) for name in clear] == [getattr(before, name) for name in clear]
        assert "body" in again.error_message
        assert "signing secret" in again.error_remedy
    assert mill.clean()


@pytest.mark.parametrize("platform", URLS)
def test_given_bodies_whose_order_alone_is_found_when_worked_on_then_it_is_held_by_its_own_id(
    mill: Mill, platform: str
) -> None:
    for body in PASSED_OVER.values():
        assert mill.post(body, platform).status_code == 200

    found = all_syncs(mill.site.ledger)
    assert [sync.external_id for sync in found] == ["91", "92", "93", "94"]
    for sync in found:
        after = mill.work(sync.correlation_id)
        assert (after.state, after.error_class) == (State.HELD, "Unmapped")
        assert "not strict JSON" in after.error_message
        assert "Save the order in the shop once more" in after.error_remedy
    assert mill.clean()


def test_given_forged_signatures_when_sent_then_401_and_nothing_is_kept(mill: Mill) -> None:
    _, order = numbered(1, "shopify/orders_create")
    body = json.dumps(order).encode()
    for name, signature in signed_by_nobody(body).items():
        for header, platform in (
            ("X-Shopify-Hmac-Sha256", "shopify"),
            ("X-WC-Webhook-Signature", "woocommerce"),
        ):
            forged = HEADERS[platform](body) | {header: signature}
            answer = mill.site.post(body, forged, url=URLS[platform])
            assert (answer.status_code, answer.content_type) == (401, MEDIA_TYPE), name
            assert mill.site.post(UNREADABLE["a bomb"], forged, url=URLS[platform]).status_code == 401, name

    assert mill.site.rows() == (0, 0)


def test_given_any_one_bit_of_a_webhook_changed_when_sent_then_401(mill: Mill) -> None:
    _, order = numbered(1, "shopify/orders_create")
    body = json.dumps(order).encode()
    genuine = headers(body)
    for place in random.sample(range(8 * len(body)), 200):
        changed = bytearray(body)
        changed[place // 8] ^= 1 << place % 8
        assert mill.site.post(bytes(changed), genuine).status_code == 401

    assert mill.site.rows() == (0, 0)


ENCODINGS = ["gzip", "deflate", "br", "gzip, gzip", "identity", "\xff", "x" * 5_000]


def test_given_a_bomb_when_sent_then_no_encoding_makes_anybody_open_it(mill: Mill) -> None:
    packed = bomb(100)
    for encoding in ENCODINGS:
        given = headers(packed) | {"Content-Encoding": encoding}
        assert mill.site.post(packed, given).status_code == 200

    with mill.site.ledger.read() as connection:
        assert set(connection.execute(select(deliveries.c.body)).scalars()) == {packed}
    assert {sync.state for sync in all_syncs(mill.site.ledger)} == {State.HELD}


def raw(mill: Mill, body: bytes, **changes: Any) -> TestResponse:
    """Send a genuine body with an environment that no client would make."""
    builder = EnvironBuilder(path=URLS["shopify"], method="POST", headers=list(headers(body).items()))
    ours = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.input_terminated": True}
    environ = builder.get_environ() | ours | changes
    return TestResponse(*run_wsgi_app(mill.site.app, environ), request=Request(environ))


def test_given_hostile_headers_on_genuine_webhooks_when_sent_then_they_are_kept_as_any_database_can(
    mill: Mill,
) -> None:
    hostile = ["\x00", "\xff" * 4_000, "\ud800", "{}", "a\nb", "\u0130", "", "'; DROP TABLE syncs; --", "%s%n"]
    names = ("WEBHOOK_ID", "EVENT_ID", "TRIGGERED_AT", "API_VERSION", "SHOP_DOMAIN")
    for number, value in enumerate(hostile):
        body = json.dumps(numbered(number, "shopify/orders_create")[1]).encode()
        mill.said["body"] = body  # the shop is asked, since the name is another's
        answer = raw(mill, body, **{f"HTTP_X_SHOPIFY_{name}": value for name in names})
        assert answer.status_code == 200, value
        assert mill.work(answer.headers["X-Correlation-Id"]).state == State.DONE

    with mill.site.ledger.read() as connection:
        kept = list(connection.execute(select(deliveries.c.headers)).scalars())
    assert len(kept) == len(hostile)
    assert all(len(value) <= 512 for one in kept for value in one.values())


TOPICS = ["\x00", "\xff\xfe", "\ud800", "orders/create\x00", "ORDERS/CREATE", "x" * 9_000]


def test_given_a_hostile_topic_on_a_genuine_webhook_when_sent_then_200_and_counted(mill: Mill) -> None:
    body = json.dumps(numbered(1, "shopify/orders_create")[1]).encode()

    answers = [raw(mill, body, HTTP_X_SHOPIFY_TOPIC=topic).status_code for topic in TOPICS]

    assert answers == [200] * len(TOPICS)
    assert (mill.site.rows(), mill.site.counted("unknown_topic")) == ((0, 0), len(TOPICS))


PATHS = [
    "/webhooks/shopify/{key}/",
    "/webhooks/shopify/{key}%00",
    "/webhooks/shopify/{key}%0a",
    "/webhooks/shopify/%20{key}",
    "/webhooks/shopify/{upper}",
    "/webhooks/shopify/../shopify/{key}",
    "/webhooks/./shopify/{key}",
    "/webhooks//shopify/{key}",
    "/webhooks/shopify//{key}",
    "/webhooks/%73hopify%00/{key}",
    "/webhooks/shopify/..%2f..%2fetc%2fpasswd",
    "/webhooks/shopify/{long}",
    "/webhooks/{long}/{key}",
    "/webhooks/shopify/%f0%9f%92%a9%ff%fe",
    "/webhooks/erp/{key}",
    "/webhooks/shopify/' OR 1=1 --",
    "/webhooks/shopify/{key};a=b",
    "/WEBHOOKS/shopify/{key}",
]


def test_given_absurd_paths_when_a_genuine_webhook_is_sent_to_them_then_404_and_no_redirect(mill: Mill) -> None:
    body = json.dumps(numbered(1, "shopify/orders_create")[1]).encode()
    for path in PATHS:
        url = path.format(key=KEYS["KEY"], upper=KEYS["KEY"].upper(), long="k" * 10_000)
        answer = mill.site.post(body, url=url)
        assert (answer.status_code, answer.content_type) == (404, MEDIA_TYPE), path

    assert mill.site.rows() == (0, 0)


METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "POST!", "P\xd6ST"]


def test_given_other_methods_when_a_genuine_webhook_is_sent_with_them_then_405(mill: Mill) -> None:
    body = json.dumps(numbered(1, "shopify/orders_create")[1]).encode()
    for method in METHODS:
        answer = mill.site.client.open(URLS["shopify"], method=method, data=body, headers=headers(body))
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST"), method

    assert mill.site.rows() == (0, 0)
