"""A shop's configuration is checked before it is stored, and no complaint shows a secret."""

from typing import Any

import pytest

from integrator import connectors
from integrator.shops.base import Shop
from integrator.shops.woocommerce import WooCommerce

SHOP: Shop = WooCommerce()
CONFIG = {"url": "https://shop.example"}
SECRETS = {"webhook": ["made-up"], "consumer_key": "ck_made-up", "consumer_secret": "cs_made-up"}


def test_given_the_platform_s_name_when_looked_up_then_this_connector() -> None:
    assert isinstance(connectors.shop("woocommerce"), WooCommerce)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://shop.example", "https://shop.example"),
        ("https://shop.example/", "https://shop.example"),
        ("https://example.com:8443/shop/", "https://example.com:8443/shop"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://localhost:8080/wp", "http://localhost:8080/wp"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_given_a_good_configuration_when_validated_then_its_address(url: str, address: str) -> None:
    SHOP.validate({"url": url}, SECRETS)
    assert SHOP.base_url({"url": url}) == address


@pytest.mark.parametrize(
    "secret", ["a&amp;b", "with a space ", "pässwörd", "-_ []{}<>~`+=,.;:/?|", "x" * 50, "\N{HOT BEVERAGE}"]
)
def test_given_a_secret_as_wordpress_makes_or_people_type_it_when_validated_then_good(secret: str) -> None:
    SHOP.validate(CONFIG, SECRETS | {"webhook": [secret, "old"]})


@pytest.mark.parametrize(
    ("config", "secrets", "named"),
    [
        ({"url": "http://shop.example"}, {}, "url must be https"),
        ({"url": "http://10.0.0.1"}, {}, "url must be https"),
        ({"url": "http://localhost.example"}, {}, "url must be https"),
        ({"url": "http://127.0.0.1.example"}, {}, "url must be https"),
        ({"url": ""}, {}, "url"),
        ({"url": None}, {}, "url"),
        ({"url": 7}, {}, "url"),
        ({"url": "shop.example"}, {}, "url"),
        ({"url": "ftp://shop.example"}, {}, "url"),
        ({"url": "https://"}, {}, "url"),
        ({"url": "https://shop.example:99999"}, {}, "url"),
        ({"url": "https://[::1"}, {}, "url"),
        ({"url": "https://user:word@shop.example"}, {}, "url"),
        ({"url": "https://shop.example/?rest_route=/"}, {}, "url"),
        ({"url": "https://shop.example/#a"}, {}, "url"),
        ({"url": "https://shop.example/ a"}, {}, "url"),
        ({"domain": "shop.example"}, {}, "domain"),
        ({}, {"webhook": []}, "webhook"),
        ({}, {"webhook": "made-up"}, "webhook"),
        ({}, {"webhook": [""]}, "webhook"),
        ({}, {"webhook": ["good", None]}, "webhook"),
        ({}, {"webhook": ["good\n"]}, "webhook"),
        ({}, {"webhook": ["go\0od"]}, "webhook"),
        ({}, {"webhook": None}, "webhook"),
        ({}, {"consumer_key": None}, "consumer_key"),
        ({}, {"consumer_key": "cs_swapped"}, "consumer_key"),
        ({}, {"consumer_key": "ck_two:parts"}, "consumer_key"),
        ({}, {"consumer_key": "ck_two\r\nlines"}, "consumer_key"),
        ({}, {"consumer_secret": ""}, "consumer_secret"),
        ({}, {"consumer_secret": "ck_swapped"}, "consumer_secret"),
        ({}, {"consumer_secret": "cs_é"}, "consumer_secret"),
        ({}, {"access_token": "x"}, "access_token"),
    ],
)
def test_given_a_bad_configuration_when_validated_then_refused_by_name_without_a_secret(
    config: dict[str, Any], secrets: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        SHOP.validate(CONFIG | config, SECRETS | secrets)
    assert not any(secret in str(caught.value) for secret in ("made-up", "good", "swapped", "lines", "word"))


@pytest.mark.parametrize("missing", ["url", "webhook", "consumer_key", "consumer_secret"])
def test_given_a_missing_key_when_validated_then_refused(missing: str) -> None:
    config = {name: value for name, value in CONFIG.items() if name != missing}
    secrets = {name: value for name, value in SECRETS.items() if name != missing}
    with pytest.raises(ValueError, match=missing):
        SHOP.validate(config, secrets)
