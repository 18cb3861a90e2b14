"""Only who holds a secret of the shop can sign, and nothing in a header makes the check fail otherwise."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator.shops.base import Unsigned
from integrator.shops.shopify import Shopify

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "signatures" / "vectors.json"
BODY = b'{"id":1,"note":"caf\xc3\xa9 \xe2\x98\x95"}'
SHOP = Shopify()


def signature(secret: str, body: bytes = BODY) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def signed(headers: dict[str, str], secrets: list[str], body: bytes = BODY) -> bool:
    try:
        SHOP.verify(headers, body, secrets)
    except Unsigned:
        return False
    return True


def vectors() -> list[Any]:
    if not SHARED.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason="../shared is not here"))]
    return [vector for vector in json.loads(SHARED.read_text()) if vector["platform"] == "shopify"]


def test_given_a_known_signature_when_verified_then_it_is_the_one_computed_elsewhere() -> None:
    # printf '{"id":1}' | openssl dgst -sha256 -hmac 'made-up secret' -binary | base64
    headers = {"x-shopify-hmac-sha256": "XEzt+Sn29NkRt4XT5NpWjzzPPr0RxM/uC/s3qShuLLk="}
    assert signed(headers, ["made-up secret"], b'{"id":1}')
    assert not signed(headers, ["made-up secret"], b'{"id": 1}')


@pytest.mark.parametrize("vector", vectors())
def test_given_a_published_vector_when_verified_then_as_published(vector: dict[str, Any]) -> None:
    headers = {vector["header"].lower(): vector["value"]}
    assert signed(headers, [vector["secret"]], vector["body"].encode()) is vector["valid"]


@pytest.mark.parametrize("name", ["x-shopify-hmac-sha256", "shopify-hmac-sha256"])
@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        (["right"], True),
        (["new", "right"], True),
        (["right", "new"], True),
        (["wrong"], False),
        (["righ"], False),
        (["right "], False),
        ([""], False),
        ([], False),
    ],
)
def test_given_a_list_of_secrets_when_verified_then_any_of_them_may_have_signed(
    name: str, secrets: list[str], expected: bool
) -> None:
    assert signed({name: signature("right")}, secrets) is expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("right", "right", True), ("right", "wrong", True), ("wrong", "right", True), ("wrong", "wrong", False)],
)
def test_given_both_headers_when_verified_then_one_good_one_suffices(old: str, new: str, expected: bool) -> None:
    headers = {"x-shopify-hmac-sha256": signature(old), "shopify-hmac-sha256": signature(new)}
    assert signed(headers, ["right"]) is expected


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-1],
        lambda value: value.rstrip("="),
        lambda value: value + "=",
        lambda value: value.swapcase(),
        lambda value: " " + value,
        lambda value: base64.b64decode(value).hex(),
        lambda value: value.replace("=", "\uff1d"),
        lambda value: "é" + value,
        lambda value: value[:0],
        lambda value: "\ud800" + value,
        lambda value: "\0" + value,
        lambda value: value * 1000,
    ],
)
def test_given_a_changed_signature_when_verified_then_unsigned(change: Any) -> None:
    assert not signed({"x-shopify-hmac-sha256": change(signature("right"))}, ["right"])


def test_given_one_changed_byte_when_verified_then_unsigned() -> None:
    for at in range(len(BODY)):
        changed = BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :]
        assert not signed({"x-shopify-hmac-sha256": signature("right")}, ["right"], changed)


def test_given_no_secret_at_all_when_signed_with_the_empty_one_then_unsigned() -> None:
    assert not signed({"x-shopify-hmac-sha256": signature("")}, [""])


def test_given_no_header_when_verified_then_unsigned() -> None:
    assert not signed({"content-type": "application/json"}, ["right"])


@settings(deadline=None)
@given(st.text(), st.binary(), st.lists(st.text(st.characters(), max_size=20), max_size=3))
def test_given_anything_when_verified_then_nothing_but_unsigned(
    value: str, body: bytes, secrets: list[str]
) -> None:
    for name in ("x-shopify-hmac-sha256", "shopify-hmac-sha256"):
        assert not signed({name: value}, secrets, body)


def test_given_a_match_when_verified_then_the_comparisons_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    genuine = hmac.compare_digest

    def spy(one: bytes, two: bytes) -> bool:
        compared.append(two)
        return genuine(one, two)

    monkeypatch.setattr("integrator.shops.shopify.hmac.compare_digest", spy)
    SHOP.verify({"x-shopify-hmac-sha256": signature("first")}, BODY, ["first", "second", "third"])
    assert len(compared) == 3
