"""What a delivery is about, told from hostile bytes too: an identity, None, or Unreadable, and nothing else."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from integrator.shops.base import Identity, Kind, Unreadable
from integrator.shops.woocommerce import ORDER_TOPICS, WooCommerce
from tests.unit.test_shopify_identify import HOSTILE

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "woocommerce"
TOPICS = sorted({*ORDER_TOPICS, "order.deleted"})
SHOP = WooCommerce()


def identify(body: bytes, topic: str = "order.updated", **headers: str) -> Identity | None:
    return SHOP.identify({"x-wc-webhook-topic": topic, "x-wc-webhook-delivery-id": "d-1", **headers}, body)


def about(body: bytes, topic: str = "order.updated") -> Identity:
    identity = identify(body, topic)
    assert identity is not None
    return identity


@pytest.mark.parametrize("topic", sorted(ORDER_TOPICS))
def test_given_a_whole_order_when_identified_then_kind_id_and_time_in_utc(topic: str) -> None:
    body = (SAMPLES / "order.updated-paid.json").read_bytes()
    assert identify(body, topic) == Identity(
        kind=Kind.ORDER,
        external_id="7001",
        topic=topic,
        updated_at=datetime(2026, 10, 1, 9, 0, 30, tzinfo=UTC),
        event_key=None,
    )


def test_given_a_deleted_order_when_identified_then_its_id_and_no_time_so_that_it_is_fetched() -> None:
    body = (SAMPLES / "order.deleted.json").read_bytes()
    assert identify(body, "order.deleted") == Identity(Kind.ORDER, "7001", "order.deleted", None, None)
    # WordPress' hooks give the id as a number or as text.
    assert about(b'{"id":"7001"}', "order.deleted").external_id == "7001"


@pytest.mark.parametrize(
    "topic",
    ["", "order", "order.", "order.refunded", "product.updated", "action.woocommerce_x", "ORDER.CREATED", "é"],
)
def test_given_another_topic_when_identified_then_it_is_not_ours_whatever_the_body(topic: str) -> None:
    assert identify(b"\xff not JSON", topic) is None


def test_given_no_topic_when_identified_then_it_is_not_ours() -> None:
    assert SHOP.identify({}, b'{"id":1}') is None


def test_given_the_same_delivery_twice_when_identified_then_no_key_so_that_it_is_never_a_duplicate() -> None:
    body = (SAMPLES / "order.created.json").read_bytes()
    assert {about(body, topic).event_key for topic in TOPICS} == {None}


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_given_hostile_bytes_when_identified_then_unreadable(body: bytes, topic: str) -> None:
    with pytest.raises(Unreadable):
        identify(body, topic)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"code": "woocommerce_rest_cannot_view", "message": "Sorry", "data": {"status": 401}}, "_cannot_view"),
        ({"code": "woocommerce_rest_shop_order_invalid_id", "message": "?", "data": None}, "order_invalid_id"),
        ({"code": "Ada Example"}, "no readable id"),
        ({"code": 401}, "no readable id"),
        ({}, "no readable id"),
    ],
)
def test_given_woocommerce_s_own_error_as_body_when_identified_then_unreadable_says_it(
    body: dict[str, object], says: str
) -> None:
    with pytest.raises(Unreadable, match=says) as caught:
        identify(json.dumps(body).encode())
    assert "Ada" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "updated_at"),
    [
        ('"2026-10-01T09:00:07"', datetime(2026, 10, 1, 9, 0, 7, tzinfo=UTC)),
        ('"2026-10-01T09:00:07Z"', datetime(2026, 10, 1, 9, 0, 7, tzinfo=UTC)),
        ('"2026-10-01T11:00:07+02:00"', datetime(2026, 10, 1, 9, 0, 7, tzinfo=UTC)),
        ('"0000-00-00T00:00:00"', None),
        ('"yesterday"', None),
        ('"0001-01-01T00:00:00+23:59"', None),
        ('""', None),
        ("1790845207", None),
        ("null", None),
        ("{}", None),
    ],
)
def test_given_a_time_of_change_when_identified_then_in_utc_or_unknown(
    written: str, updated_at: datetime | None
) -> None:
    body = b'{"id":1,"date_modified":"2026-10-01T06:00:07","date_modified_gmt":%s}' % written.encode()
    found = about(body).updated_at
    assert found == updated_at
    assert found is None or found.tzinfo is UTC


def test_given_no_gmt_time_when_identified_then_the_local_one_is_not_taken_for_it() -> None:
    assert about(b'{"id":1,"date_modified":"2026-10-01T06:00:07"}').updated_at is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")), st.text(), st.text())
@example(b'{"id":1}', "\ud800", "\0")
def test_given_any_bytes_when_identified_then_nothing_but_unreadable(
    body: bytes, topic: str, delivery_id: str
) -> None:
    for named in (topic, "order.created", "order.deleted"):
        try:
            identity = identify(body, named, **{"x-wc-webhook-delivery-id": delivery_id})
        except Unreadable:
            continue
        assert identity is None or identity.external_id.isdigit()


@settings(deadline=None)
@given(JSON, JSON, JSON)
def test_given_any_json_when_identified_then_an_id_of_digits_or_unreadable(
    an_id: object, modified: object, code: object
) -> None:
    body = json.dumps({"id": an_id, "date_modified_gmt": modified, "code": code}).encode()
    try:
        identity = about(body)
    except Unreadable:
        return
    assert identity.external_id == str(an_id)
    assert not isinstance(an_id, float | bool)
