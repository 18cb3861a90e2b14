"""What a delivery is about, told from hostile bytes too: an identity, None, or Unreadable, and nothing else."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from integrator.errors import Unmapped
from integrator.shops.base import Identity, Kind, Unreadable
from integrator.shops.shopify import ORDER_TOPICS, Shopify
from tests.hostile import PASSED_OVER

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "shopify"
SHOP = Shopify()


def identify(body: bytes, topic: str = "orders/create", **headers: str) -> Identity | None:
    return SHOP.identify({"x-shopify-topic": topic, "x-shopify-webhook-id": "w-1", **headers}, body)


def about(body: bytes) -> Identity:
    identity = identify(body)
    assert identity is not None
    return identity


@pytest.mark.parametrize("topic", sorted(ORDER_TOPICS))
def test_given_a_whole_order_when_identified_then_kind_id_time_and_key(topic: str) -> None:
    body = (SAMPLES / "orders_updated.json").read_bytes()
    order = json.loads(body)
    assert identify(body, topic) == Identity(
        kind=Kind.ORDER,
        external_id=str(order["id"]),
        topic=topic,
        updated_at=datetime.fromisoformat(order["updated_at"]),
        event_key=f"{topic}:{order['id']}:w-1",
    )


@pytest.mark.parametrize(
    ("topic", "body", "external_id"),
    [
        ("refunds/create", b'{"id":88,"order_id":5900000000000000001,"updated_at":"2026-10-01T09:00:07Z"}', None),
        ("refunds/create", b'{"order_id":"7"}', "7"),
        ("orders/edited", b'{"order_edit":{"id":9,"order_id":5900000000000000001}}', None),
    ],
)
def test_given_a_change_of_an_order_when_identified_then_it_is_about_the_order_at_no_time(
    topic: str, body: bytes, external_id: str | None
) -> None:
    about_order = external_id or "5900000000000000001"
    assert identify(body, topic) == Identity(
        kind=Kind.ORDER,
        external_id=about_order,
        topic=topic,
        updated_at=None,
        event_key=f"{topic}:{about_order}:w-1",
    )


@pytest.mark.parametrize(
    ("name", "topic"), [("refunds_create", "refunds/create"), ("orders_edited", "orders/edited")]
)
def test_given_a_sample_of_a_change_when_identified_then_its_order(name: str, topic: str) -> None:
    body = (SAMPLES / f"{name}.json").read_bytes()
    identity = identify(body, topic)
    content = json.loads(body)
    assert identity is not None
    assert identity.external_id == str(content.get("order_edit", content)["order_id"])


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("refunds/create", b'{"id":88}'),
        ("refunds/create", b'{"id":88,"order_id":null}'),
        ("refunds/create", b"[]"),
        ("orders/edited", b'{"id":1,"order_id":1}'),
        ("orders/edited", b'{"order_edit":null}'),
        ("orders/edited", b'{"order_edit":[{"order_id":1}]}'),
        ("orders/edited", b'{"order_edit":{"id":1}}'),
        ("orders/edited", b'{"order_edit":{"order_id":"01"}}'),
    ],
)
def test_given_a_change_that_names_no_order_when_identified_then_unreadable(topic: str, body: bytes) -> None:
    with pytest.raises(Unreadable):
        identify(body, topic)


def test_given_headers_without_x_when_identified_then_the_same() -> None:
    headers = {"shopify-topic": "orders/create", "shopify-webhook-id": "w-1"}
    assert SHOP.identify(headers, b'{"id":1}') == identify(b'{"id":1}')


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "orders/delete",
        "refunds/delete",
        "app/uninstalled",
        "shop/redact",
        "ORDERS/CREATE",
        "orders/create ",
        "é",
    ],
)
def test_given_another_topic_when_identified_then_it_is_not_ours_whatever_the_body(topic: str) -> None:
    assert identify(b"\xff not JSON", topic) is None


def test_given_no_topic_when_identified_then_it_is_not_ours() -> None:
    assert SHOP.identify({}, b'{"id":1}') is None


@pytest.mark.parametrize(
    ("written", "external_id"),
    [
        ("1", "1"),
        ('"450789469"', "450789469"),
        ("9007199254740993", "9007199254740993"),
        ("9223372036854775808", "9223372036854775808"),
        ('"18446744073709551617"', "18446744073709551617"),
        ("9" * 40, "9" * 40),
    ],
)
def test_given_an_id_of_any_size_when_identified_then_its_digits(written: str, external_id: str) -> None:
    assert about(b'{"id":%s}' % written.encode()).external_id == external_id


HOSTILE = {
    "nothing": b"",
    "blank": b" \n",
    "not JSON": b"id=1",
    "cut": b'{"id":1',
    "more behind": b'{"id":1}{"id":2}',
    "a list": b'[{"id":1}]',
    "a number": b"1",
    "null": b"null",
    "no id": b"{}",
    "null id": b'{"id":null}',
    "true id": b'{"id":true}',
    "false id": b'{"id":false}',
    "zero": b'{"id":0}',
    "negative": b'{"id":-1}',
    "minus zero": b'{"id":-0}',
    "float": b'{"id":1.0}',
    "exponent": b'{"id":1e3}',
    "huge exponent": b'{"id":1e999999999}',
    "41 digits": b'{"id":1' + b"0" * 40 + b"}",
    "400 digits": b'{"id":' + b"9" * 400 + b"}",
    "5000 digits": b'{"id":' + b"9" * 5000 + b"}",
    "NaN": b'{"id":NaN}',
    "Infinity elsewhere": b'{"id":1,"x":-Infinity}',
    "text": b'{"id":"gid://shopify/Order/1"}',
    "empty text": b'{"id":""}',
    "signed text": b'{"id":"+1"}',
    "leading zero": b'{"id":"01"}',
    "spaced text": b'{"id":" 1"}',
    "line feed": b'{"id":"1\\n"}',
    "other digits": '{"id":"١٢٣"}'.encode(),
    "fullwidth digits": '{"id":"\uff11\uff12"}'.encode(),
    "NUL in it": b'{"id":"1\\u00002"}',
    "raw NUL": b'{"id":1}\0',
    "surrogate": b'{"id":"\\ud800"}',
    "object": b'{"id":{"id":1}}',
    "list": b'{"id":[1]}',
    "byte order mark": b'\xef\xbb\xbf{"id":1}',
    "UTF-16": '{"id":1}'.encode("utf-16"),
    "Latin-1": b'{"id":1,"note":"caf\xe9"}',
    "raw surrogate": b'{"id":1,"note":"\xed\xa0\x80"}',
    "single quotes": b"{'id':1}",
    "comment": b'{"id":1/**/}',
    "trailing comma": b'{"id":1,}',
    "deep lists": b'{"id":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
    "deep and cut": b"[" * 100_000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_given_hostile_bytes_when_identified_then_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        identify(body)


@pytest.mark.parametrize("body", PASSED_OVER.values(), ids=PASSED_OVER)
def test_given_a_body_that_only_mapping_refuses_when_identified_then_the_order_is_found(body: bytes) -> None:
    assert about(body).external_id in {"91", "92", "93", "94"}
    with pytest.raises(Unmapped):
        SHOP.map("orders/create", body)


def test_given_strange_values_elsewhere_when_identified_then_the_order_is_still_found() -> None:
    body = b'{"id":1,"note":"\\ud800 \\u0000","x":' + b"9" * 400 + b',"y":1e400,"z":0.1}'
    assert about(body).external_id == "1"


@pytest.mark.parametrize(
    ("written", "updated_at"),
    [
        ('"2026-10-01T09:00:07+02:00"', datetime(2026, 10, 1, 7, 0, 7, tzinfo=UTC)),
        ('"2026-10-01T09:00:07Z"', datetime(2026, 10, 1, 9, 0, 7, tzinfo=UTC)),
        ('"2026-10-01T09:00:07"', None),
        ('"yesterday"', None),
        ('"0001-01-01T00:00:00+23:59"', None),
        ('"9999-12-31T23:59:59-23:59"', None),
        ('""', None),
        ("1790845207", None),
        ("null", None),
        ("{}", None),
    ],
)
def test_given_a_time_of_update_when_identified_then_in_utc_or_unknown(
    written: str, updated_at: datetime | None
) -> None:
    found = about(b'{"id":1,"updated_at":%s}' % written.encode()).updated_at
    assert found == updated_at
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize("name", ["x-shopify-shop-domain", "shopify-shop-domain"])
def test_given_the_shops_name_when_compared_then_another_is_told(name: str) -> None:
    assert Shopify().is_from({name: "acme.myshopify.com"}, {"domain": "acme.myshopify.com"})
    assert not Shopify().is_from({name: "globex.myshopify.com"}, {"domain": "acme.myshopify.com"})
    assert Shopify().is_from({}, {"domain": "acme.myshopify.com"})


def test_given_no_webhook_id_when_identified_then_no_key_so_that_it_is_never_a_duplicate() -> None:
    identity = SHOP.identify({"x-shopify-topic": "orders/create"}, b'{"id":1}')
    assert identity is not None
    assert identity.event_key is None


def test_given_deliveries_that_differ_in_anything_when_identified_then_their_keys_differ() -> None:
    deliveries = [
        identify(b'{"id":1}'),
        identify(b'{"id":2}'),
        identify(b'{"id":1}', "orders/paid"),
        identify(b'{"id":1}', **{"x-shopify-webhook-id": "w-2"}),
    ]
    assert len({delivery.event_key for delivery in deliveries if delivery}) == len(deliveries)


@pytest.mark.parametrize("webhook_id", ["x" * 5_000, "a b", "é", "\ud800", "a:b", "a\nb"])
def test_given_a_strange_webhook_id_when_identified_then_the_key_is_short_plain_text(webhook_id: str) -> None:
    identity = identify(b'{"id":1}', **{"x-shopify-webhook-id": webhook_id})
    assert identity is not None
    assert identity.event_key is not None
    assert identity.event_key.isascii()
    assert identity.event_key.isprintable()
    assert len(identity.event_key) < 256


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")), st.text(), st.text())
@example(b'{"id":1}', "\ud800", "\0")
def test_given_any_bytes_when_identified_then_nothing_but_unreadable(
    body: bytes, topic: str, webhook_id: str
) -> None:
    for named in (topic, "orders/create", "refunds/create", "orders/edited"):
        try:
            identity = identify(body, named, **{"x-shopify-webhook-id": webhook_id})
        except Unreadable:
            continue
        assert identity is None or identity.external_id.isdigit()


@settings(deadline=None)
@given(JSON, JSON)
def test_given_any_json_when_identified_then_an_id_of_digits_or_unreadable(
    an_id: object, updated_at: object
) -> None:
    body = json.dumps({"id": an_id, "updated_at": updated_at}).encode()
    try:
        identity = about(body)
    except Unreadable:
        return
    assert identity.external_id == str(an_id)
    assert not isinstance(an_id, float | bool)
