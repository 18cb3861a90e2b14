"""Reading an order from WooCommerce, over a real connection: the newest state, or an error of the taxonomy."""

import json
from collections.abc import Iterator

import pytest

from integrator import errors
from integrator.http import Http
from integrator.shops.base import Deleted, ShopAccess
from integrator.shops.woocommerce import WooCommerce
from sandbox.woo import WooSimulation
from sandbox.woo_server import NO_ORDER, NO_ROUTE

CONNECTOR = WooCommerce()


@pytest.fixture(scope="module")
def shop() -> Iterator[WooSimulation]:
    with WooSimulation(150, seed=5, restore=True) as simulation:
        for life in simulation.lives:
            simulation.state.advance(life.events[0])
        yield simulation


def access(shop: WooSimulation, **secrets: str) -> ShopAccess:
    CONNECTOR.validate(shop.config, shop.secrets)
    return ShopAccess(
        config=shop.config,
        secrets=shop.secrets | secrets,
        http=Http(CONNECTOR.base_url(shop.config), deadline_seconds=5),
    )


def test_given_an_order_when_fetched_then_the_newest_that_the_shop_has_told_of() -> None:
    with WooSimulation(60, seed=5, restore=True) as shop:
        for life in shop.lives:
            for event in life.events:
                shop.state.advance(event)
                order = CONNECTOR.fetch_order(access(shop), life.external_id)
                body = CONNECTOR.map(event.topic, event.body)
                assert body in (None, order)
                assert (body is None) is (bool(order.refunds) or event.topic == "order.deleted")
            assert order == shop.expected_orders()[life.external_id]


def test_given_refunds_when_fetched_then_their_details_are_there(shop: WooSimulation) -> None:
    refunded = [order for order in shop.expected_orders().values() if order.refunds]
    assert {len(order.refunds) for order in refunded} == {1, 2}
    for expected in refunded:
        life = next(life for life in shop.lives if life.external_id == expected.external_id)
        shop.state.advance(life.events[-1])
        found = CONNECTOR.fetch_order(access(shop), expected.external_id).refunds
        assert found == expected.refunds
        assert all(line.line_id for refund in found for line in refund.lines)


def test_given_many_refunds_when_fetched_then_every_page_is_read(shop: WooSimulation) -> None:
    life = shop.lives[41]
    shown = json.loads(life.events[0].body)
    details = [{"id": n, "amount": "0.01", "line_items": []} for n in range(1, 251)]
    shown["refunds"] = [{"id": n, "total": "-0.01"} for n in range(1, 251)]
    shop.state.plan(200, body=json.dumps(shown).encode())
    for start in (0, 100, 200):
        shop.state.plan(200, body=json.dumps(details[start : start + 100]).encode())
    order = CONNECTOR.fetch_order(access(shop), life.external_id)
    assert [refund.external_id for refund in order.refunds] == [str(n) for n in range(1, 251)]


@pytest.mark.parametrize("details", [[], [{"id": 1, "amount": "1.00"}, {"id": 2, "amount": "1.00"}]])
def test_given_refunds_that_change_while_they_are_read_when_fetched_then_transient(
    shop: WooSimulation, details: list[object]
) -> None:
    life = shop.lives[41]
    shown = json.loads(life.events[0].body) | {"refunds": [{"id": 1, "total": "-1.00"}]}
    shop.state.plan(200, body=json.dumps(shown).encode())
    shop.state.plan(200, body=json.dumps(details).encode())
    with pytest.raises(errors.Transient, match="changed"):
        CONNECTOR.fetch_order(access(shop), life.external_id)


def test_given_an_order_in_the_trash_when_fetched_then_cancelled_and_restored_then_open() -> None:
    with WooSimulation(300, seed=6, restore=True) as shop:
        life = next(
            one for one in shop.lives if one.events[-1].topic == "order.restored" and not one.facts.cancelled
        )
        deleted, restored = life.events[-2:]
        assert json.loads(deleted.body) == {"id": int(life.external_id)}
        shop.state.advance(deleted)
        order = CONNECTOR.fetch_order(access(shop), life.external_id)
        assert (order.cancelled, order.cancel_reason) == (True, "trash")
        shop.state.advance(restored)
        assert not CONNECTOR.fetch_order(access(shop), life.external_id).cancelled


def test_given_an_order_deleted_for_good_when_fetched_then_the_shop_says_so(shop: WooSimulation) -> None:
    external_id = shop.lives[42].external_id
    shop.state.purge(external_id)
    with pytest.raises(Deleted) as caught:
        CONNECTOR.fetch_order(access(shop), external_id)
    assert isinstance(caught.value, errors.NotFound)
    assert external_id not in caught.value.message + caught.value.subject


@pytest.mark.parametrize("body", [json.dumps(NO_ROUTE).encode(), b"<html>Not Found</html>", b"", b"[]", b"{}"])
def test_given_another_404_when_fetched_then_it_is_not_taken_for_a_deleted_order(
    shop: WooSimulation, body: bytes
) -> None:
    shop.state.plan(404, body=body)
    with pytest.raises(errors.Transient, match="no WooCommerce API"):
        CONNECTOR.fetch_order(access(shop), shop.lives[0].external_id)


@pytest.mark.parametrize("wrong", ["consumer_key", "consumer_secret"])
def test_given_a_wrong_key_when_fetched_then_unauthorized_and_the_key_is_not_told(
    shop: WooSimulation, wrong: str
) -> None:
    wronged = access(shop, **{wrong: "wrong-key"})
    with pytest.raises(errors.Unauthorized) as caught:
        CONNECTOR.fetch_order(wronged, shop.lives[0].external_id)
    assert "wrong-key" not in f"{caught.value!r} {caught.value.detail} {wronged!r}"


@pytest.mark.parametrize("external_id", ["", "abc", "1/../2", "1?x=1", "-1", "01", "1\n", "delivery:7"])
def test_given_what_is_no_id_when_fetched_then_no_request_is_made(shop: WooSimulation, external_id: str) -> None:
    reads = shop.state.reads
    with pytest.raises(errors.Unmapped):
        CONNECTOR.fetch_order(access(shop), external_id)
    assert shop.state.reads == reads


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (301, errors.Rejected),
        (400, errors.Rejected),
        (401, errors.Unauthorized),
        (403, errors.Unauthorized),
        (410, errors.NotFound),
        (429, errors.Throttled),
        (500, errors.Transient),
        (502, errors.Transient),
        (503, errors.Transient),
        (504, errors.Transient),
    ],
)
@pytest.mark.parametrize("at", ["the order", "its refunds"])
def test_given_a_status_when_fetched_then_its_error_and_never_a_doubt(
    shop: WooSimulation, status: int, expected: type[errors.IntegratorError], at: str
) -> None:
    life = shop.lives[41]
    if at == "its refunds":
        shown = json.loads(life.events[0].body) | {"refunds": [{"id": 1, "total": "-1.00"}]}
        shop.state.plan(200, body=json.dumps(shown).encode())
    shop.state.plan(status)
    with pytest.raises(expected, match=str(status)) as caught:
        CONNECTOR.fetch_order(access(shop), life.external_id)
    assert type(caught.value) is expected
    assert not getattr(caught.value, "in_doubt", False)
    assert life.external_id not in caught.value.fingerprint + caught.value.subject


def test_given_a_time_to_come_back_when_fetched_then_it_is_passed_on(shop: WooSimulation) -> None:
    shop.state.plan(503, {"Retry-After": "30"})
    with pytest.raises(errors.Throttled) as caught:
        CONNECTOR.fetch_order(access(shop), shop.lives[0].external_id)
    assert caught.value.retry_after_seconds == 30


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html>Be right back</html>", errors.Transient),
        (b"", errors.Transient),
        (b"<b>Warning</b>: x in y.php<br />{}", errors.Transient),
        (b"[]", errors.Unmapped),
        (b"{}", errors.Unmapped),
        (b'{"id":7}', errors.Unmapped),
        (b'{"id":%s,"currency":"EUR"}', errors.Unmapped),
        (b'{"id":%s,"refunds":[{}]}', errors.Unmapped),
        (json.dumps(NO_ORDER).encode(), errors.Unmapped),
    ],
)
def test_given_a_200_that_is_no_order_when_fetched_then_transient_or_unmapped(
    shop: WooSimulation, body: bytes, expected: type[errors.IntegratorError]
) -> None:
    external_id = shop.lives[0].external_id
    shop.state.plan(200, body=body.replace(b"%s", external_id.encode()))
    with pytest.raises(expected) as caught:
        CONNECTOR.fetch_order(access(shop), external_id)
    assert type(caught.value) is expected


def test_given_another_order_for_an_answer_when_fetched_then_it_is_not_taken(shop: WooSimulation) -> None:
    shop.state.plan(200, body=shop.lives[1].events[0].body)
    with pytest.raises(errors.Unmapped, match="another order"):
        CONNECTOR.fetch_order(access(shop), shop.lives[0].external_id)


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"[{},", b"null"])
def test_given_a_200_that_is_no_list_of_refunds_when_fetched_then_an_error(
    shop: WooSimulation, body: bytes
) -> None:
    life = shop.lives[41]
    shown = json.loads(life.events[0].body) | {"refunds": [{"id": 1, "total": "-1.00"}]}
    shop.state.plan(200, body=json.dumps(shown).encode())
    shop.state.plan(200, body=body)
    with pytest.raises((errors.Unmapped, errors.Transient)):
        CONNECTOR.fetch_order(access(shop), life.external_id)


def test_given_nobody_listening_when_fetched_then_transient() -> None:
    gone = WooSimulation(1)
    gone.start()
    at = access(gone)
    gone.close()
    with pytest.raises(errors.Transient) as caught:
        CONNECTOR.fetch_order(at, gone.lives[0].external_id)
    assert not caught.value.in_doubt
