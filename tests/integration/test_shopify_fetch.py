"""Reading an order from the shop's API, over a real connection: the newest state, or an error of the taxonomy."""

from collections.abc import Iterator

import pytest

from integrator import errors
from integrator.http import Http
from integrator.shops.base import ShopAccess
from integrator.shops.shopify import Shopify
from sandbox.shop import ShopSimulation

CONNECTOR = Shopify()


@pytest.fixture(scope="module")
def shop() -> Iterator[ShopSimulation]:
    with ShopSimulation(20, seed=5) as simulation:
        for life in simulation.lives:
            simulation.state.advance(life.events[0])
        yield simulation


def access(shop: ShopSimulation, token: str | None = None) -> ShopAccess:
    CONNECTOR.validate(shop.config, shop.secrets)
    return ShopAccess(
        config=shop.config,
        secrets={"access_token": token or shop.access_token},
        http=Http(CONNECTOR.base_url(shop.config), deadline_seconds=5),
    )


def test_given_an_order_when_fetched_then_the_newest_that_the_shop_has_told_of(shop: ShopSimulation) -> None:
    life = next(life for life in shop.lives if len(life.events) > 2)
    for event in life.events:
        shop.state.advance(event)
        assert CONNECTOR.fetch_order(access(shop), life.external_id) == CONNECTOR.map(
            "orders/updated", event.shown
        )
    assert CONNECTOR.fetch_order(access(shop), life.external_id) == shop.expected_orders()[life.external_id]


def test_given_an_unknown_order_when_fetched_then_not_found(shop: ShopSimulation) -> None:
    with pytest.raises(errors.NotFound):
        CONNECTOR.fetch_order(access(shop), "404")


def test_given_a_wrong_token_when_fetched_then_unauthorized_and_the_token_is_not_told(
    shop: ShopSimulation,
) -> None:
    with pytest.raises(errors.Unauthorized) as caught:
        CONNECTOR.fetch_order(access(shop, "wrong-token"), shop.lives[0].external_id)
    assert "wrong-token" not in f"{caught.value!r} {caught.value.detail} {access(shop, 'wrong-token')!r}"


@pytest.mark.parametrize("external_id", ["", "abc", "1/../2", "1?x=1", "-1", "01", "1\n", "delivery:7"])
def test_given_what_is_no_id_when_fetched_then_no_request_is_made(shop: ShopSimulation, external_id: str) -> None:
    reads = shop.state.reads
    with pytest.raises(errors.Unmapped):
        CONNECTOR.fetch_order(access(shop), external_id)
    assert shop.state.reads == reads


@pytest.mark.parametrize(
    ("status", "expected", "says"),
    [
        (402, errors.Transient, "frozen"),
        (423, errors.Transient, "locked"),
        (401, errors.Unauthorized, "401"),
        (403, errors.Unauthorized, "403"),
        (404, errors.NotFound, "the shop shows no order 59"),
        (406, errors.Rejected, "406"),
        (429, errors.Throttled, "429"),
        (430, errors.Rejected, "430"),
        (500, errors.Transient, "500"),
        (502, errors.Transient, "502"),
        (503, errors.Transient, "503"),
        (504, errors.Transient, "504"),
    ],
)
def test_given_a_status_when_fetched_then_its_error_and_never_a_doubt(
    shop: ShopSimulation, status: int, expected: type[errors.IntegratorError], says: str
) -> None:
    shop.state.plan(status)
    with pytest.raises(expected, match=says) as caught:
        CONNECTOR.fetch_order(access(shop), shop.lives[0].external_id)
    assert type(caught.value) is expected
    assert not getattr(caught.value, "in_doubt", False)
    assert shop.lives[0].external_id not in caught.value.fingerprint + caught.value.subject


def test_given_a_time_to_come_back_when_fetched_then_it_is_passed_on(shop: ShopSimulation) -> None:
    shop.state.plan(429, {"Retry-After": "2.0"})
    with pytest.raises(errors.Throttled) as caught:
        CONNECTOR.fetch_order(access(shop), shop.lives[0].external_id)
    assert caught.value.retry_after_seconds == 2.0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html>Be right back</html>", errors.Transient),
        (b"", errors.Transient),
        (b"[]", errors.Transient),
        (b"{}", errors.Unmapped),
        (b'{"order":null}', errors.Unmapped),
        (b'{"order":[]}', errors.Unmapped),
        (b'{"order":{"id":7}}', errors.Unmapped),
        (b'{"order":{"id":%s,"currency":"EUR"}}', errors.Unmapped),
    ],
)
def test_given_a_200_that_is_no_order_when_fetched_then_transient_or_unmapped(
    shop: ShopSimulation, body: bytes, expected: type[errors.IntegratorError]
) -> None:
    external_id = shop.lives[0].external_id
    shop.state.plan(200, body=body.replace(b"%s", external_id.encode()))
    with pytest.raises(expected):
        CONNECTOR.fetch_order(access(shop), external_id)


def test_given_nobody_listening_when_fetched_then_transient() -> None:
    gone = ShopSimulation(1)
    gone.start()
    at = access(gone)
    gone.close()
    with pytest.raises(errors.Transient) as caught:
        CONNECTOR.fetch_order(at, gone.lives[0].external_id)
    assert not caught.value.in_doubt
