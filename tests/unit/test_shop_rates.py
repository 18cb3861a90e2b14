"""How fast each shop platform may be asked, and how Shopify says "too fast" in a 200."""

import json
from typing import Any

import pytest

from integrator import errors
from integrator.http import Answer
from integrator.plans import Rate
from integrator.shops.base import Shop
from integrator.shops.shopify import Shopify, refuse_throttled
from integrator.shops.woocommerce import WooCommerce

SHOPIFY = {"domain": "example.myshopify.com"}
WOO = {"url": "https://shop.example"}
SECRETS = {
    "shopify": {"webhook": ["made-up"], "access_token": "made-up-token"},
    "woocommerce": {"webhook": ["made-up"], "consumer_key": "ck_made-up", "consumer_secret": "cs_made-up"},
}


@pytest.mark.parametrize(
    ("shop", "config", "rate"),
    [
        (Shopify(), SHOPIFY, Rate(2, 40)),
        (Shopify(), {**SHOPIFY, "requests_per_second": 20}, Rate(20, 400)),
        (Shopify(), {**SHOPIFY, "requests_per_second": 0.1}, Rate(0.1, 2)),
        (WooCommerce(), WOO, Rate(10, 10)),
        (WooCommerce(), {**WOO, "requests_per_second": 1.5}, Rate(1.5, 10)),
    ],
)
def test_given_a_shop_when_asked_for_its_rate_then_the_platforms_or_its_own(
    shop: Shop, config: dict[str, Any], rate: Rate
) -> None:
    shop.validate(config, SECRETS[shop.platform])
    assert shop.rate(config) == rate


@pytest.mark.parametrize("wrong", [0, -2, 10**6, "2", True, float("nan")])
@pytest.mark.parametrize(("shop", "config"), [(Shopify(), SHOPIFY), (WooCommerce(), WOO)])
def test_given_an_absurd_rate_when_validated_then_refused(shop: Shop, config: dict[str, Any], wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"requests_per_second must be a number from 0\.1 to 1000"):
        shop.validate({**config, "requests_per_second": wrong}, SECRETS[shop.platform])


def throttled(cost: Any = None) -> bytes:
    said = {"errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]}
    return json.dumps(said if cost is None else {**said, "extensions": {"cost": cost}}).encode()


COST = {
    "requestedQueryCost": 600,
    "throttleStatus": {"maximumAvailable": 2000.0, "currentlyAvailable": 350, "restoreRate": 100.0},
}


@pytest.mark.parametrize(
    ("body", "wait"),
    [
        (throttled(COST), 2.5),
        (throttled({**COST, "requestedQueryCost": 100}), 0.0),
        (throttled({**COST, "throttleStatus": {**COST["throttleStatus"], "restoreRate": 0}}), None),  # type: ignore[dict-item]
        (throttled({"requestedQueryCost": None}), None),
        (throttled({"requestedQueryCost": "1"}), None),
        (throttled([]), None),
        (throttled(), None),
    ],
)
def test_given_throttled_in_a_200_when_read_then_throttled_for_as_long_as_the_points_need(
    body: bytes, wait: float | None
) -> None:
    with pytest.raises(errors.Throttled) as told:
        refuse_throttled(Answer(200, {}, body))
    assert told.value.retry_after_seconds == wait


@pytest.mark.parametrize(
    "body",
    [
        b'{"order": {"note": "THROTTLED"}}',
        b'{"errors": "THROTTLED"}',
        b'{"errors": [{"extensions": {"code": "OTHER", "why": "THROTTLED"}}]}',
        b'["THROTTLED"]',
        b'{"order": {}}',
    ],
)
def test_given_the_word_elsewhere_when_read_then_it_means_nothing(body: bytes) -> None:
    refuse_throttled(Answer(200, {}, body))
