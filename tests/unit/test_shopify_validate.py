"""A shop's configuration is checked before it is stored, and no complaint shows a secret."""

from typing import Any

import pytest

from integrator.shops.base import Shop
from integrator.shops.shopify import Shopify

SHOP: Shop = Shopify()
CONFIG = {"domain": "example.myshopify.com"}
SECRETS = {"webhook": ["made-up"], "access_token": "made-up-token"}


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ({}, "https://example.myshopify.com"),
        ({"url": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"url": "https://proxy.example/shop/"}, "https://proxy.example/shop"),
        ({"url": "http://[::1]:8080"}, "http://[::1]:8080"),
    ],
)
def test_given_a_good_configuration_when_validated_then_its_address(config: dict[str, str], url: str) -> None:
    SHOP.validate(CONFIG | config, SECRETS)
    SHOP.validate(CONFIG | config, SECRETS | {"webhook": ["new", "old"]})
    assert SHOP.base_url(CONFIG | config) == url


@pytest.mark.parametrize(
    ("config", "secrets", "named"),
    [
        ({"domain": None}, {}, "domain"),
        ({"domain": 7}, {}, "domain"),
        ({"domain": "example.com"}, {}, "domain"),
        ({"domain": "myshopify.com"}, {}, "domain"),
        ({"domain": "a.b.myshopify.com"}, {}, "domain"),
        ({"domain": "evil.example/.myshopify.com"}, {}, "domain"),
        ({"domain": "example.myshopify.com\n"}, {}, "domain"),
        ({"domain": "Example.myshopify.com"}, {}, "domain"),
        ({"url": ""}, {}, "url"),
        ({"url": None}, {}, "url"),
        ({"url": "ftp://shop.example"}, {}, "url"),
        ({"url": "//shop.example"}, {}, "url"),
        ({"url": "http://"}, {}, "url"),
        ({"url": "http://shop.example:99999"}, {}, "url"),
        ({"url": "http://[::1"}, {}, "url"),
        ({"url": "http://user:word@shop.example"}, {}, "url"),
        ({"url": "http://shop.example/?a=1"}, {}, "url"),
        ({"url": "http://shop.example/#a"}, {}, "url"),
        ({"url": "http://shop.example/ a"}, {}, "url"),
        ({"password": "x"}, {}, "password"),
        ({}, {"webhook": []}, "webhook"),
        ({}, {"webhook": "made-up"}, "webhook"),
        ({}, {"webhook": [""]}, "webhook"),
        ({}, {"webhook": ["good", None]}, "webhook"),
        ({}, {"webhook": ["trailing "]}, "webhook"),
        ({}, {"webhook": None}, "webhook"),
        ({}, {"access_token": ""}, "access_token"),
        ({}, {"access_token": None}, "access_token"),
        ({}, {"access_token": "two\r\nlines"}, "access_token"),
        ({}, {"access_token": "é"}, "access_token"),
        ({}, {"token": "x"}, "token"),
    ],
)
def test_given_a_bad_configuration_when_validated_then_refused_by_name_without_a_secret(
    config: dict[str, Any], secrets: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        SHOP.validate(CONFIG | config, SECRETS | secrets)
    assert not any(secret in str(caught.value) for secret in ("made-up", "good", "trailing", "lines"))


@pytest.mark.parametrize(
    ("config", "secrets"),
    [
        ({}, SECRETS),
        (CONFIG, {"webhook": ["made-up"]}),
        (CONFIG, {"access_token": "made-up-token"}),
    ],
)
def test_given_a_missing_key_when_validated_then_refused(config: dict[str, Any], secrets: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SHOP.validate(config, secrets)
