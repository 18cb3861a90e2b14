"""Only who holds a secret of the shop can sign, WordPress' entities or not; and a ping is nothing but a ping."""

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator.shops.base import Ping, Unsigned
from integrator.shops.woocommerce import WooCommerce, decoded

ROOT = Path(__file__).resolve().parents[2]
HEADER = "x-wc-webhook-signature"
BODY = b'{"id":1,"customer_note":"caf\\u00e9"}'
FORM = {"content-type": "application/x-www-form-urlencoded"}
SHOP = WooCommerce()


def signature(secret: str, body: bytes = BODY) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def outcome(headers: dict[str, str], secrets: list[str], body: bytes = BODY) -> str:
    try:
        SHOP.verify(headers, body, secrets)
    except (Unsigned, Ping) as error:
        return type(error).__name__
    return "genuine"


def test_given_a_known_signature_when_verified_then_it_is_the_one_computed_elsewhere() -> None:
    # printf '{"id":1}' | openssl dgst -sha256 -hmac 'made-up secret' -binary | base64
    headers = {HEADER: "XEzt+Sn29NkRt4XT5NpWjzzPPr0RxM/uC/s3qShuLLk="}
    assert outcome(headers, ["made-up secret"], b'{"id":1}') == "genuine"
    assert outcome(headers, ["made-up secret"], b'{"id": 1}') == "Unsigned"


@pytest.mark.parametrize(
    ("stored", "signs"),
    [
        ("plain", "plain"),
        ("a&amp;b", "a&b"),
        ("a&b", "a&b"),
        ("&lt;&gt;&quot;&#039;", "<>\"'"),
        ("&#39;&#0039;&#x27;&#X0027;", "''''"),
        ("&#034;&#34;&#x22;&#60;&#062;&#38;&#x26;", '"""<>&&'),
        ("&amp;amp;", "&amp;"),
        ("&amp;lt;", "&lt;"),
        # WordPress decodes these five characters only, and not without the semicolon.
        ("&copy;&eacute;&nbsp;", "&copy;&eacute;&nbsp;"),
        ("&amp&lt", "&amp&lt"),
        ("&#x3c;&#x3e;&AMP;", "&#x3c;&#x3e;&AMP;"),
        ("é&amp;ü", "é&ü"),
    ],
)
def test_given_a_secret_with_entities_when_signed_as_wordpress_does_then_genuine(stored: str, signs: str) -> None:
    assert decoded(stored) == signs
    assert outcome({HEADER: signature(signs)}, [stored]) == "genuine"
    assert outcome({HEADER: signature(stored)}, [stored]) == "genuine"
    assert outcome({HEADER: signature(f"{signs} ")}, [stored]) == "Unsigned"


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        (["right"], "genuine"),
        (["new", "right"], "genuine"),
        (["right", "new"], "genuine"),
        (["wrong"], "Unsigned"),
        (["righ"], "Unsigned"),
        (["right "], "Unsigned"),
        ([""], "Unsigned"),
        ([], "Unsigned"),
    ],
)
def test_given_a_list_of_secrets_when_verified_then_any_of_them_may_have_signed(
    secrets: list[str], expected: str
) -> None:
    assert outcome({HEADER: signature("right")}, secrets) == expected


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
    assert outcome({HEADER: change(signature("right"))}, ["right"]) == "Unsigned"


def test_given_one_changed_byte_when_verified_then_unsigned() -> None:
    for at in range(len(BODY)):
        changed = BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :]
        assert outcome({HEADER: signature("right")}, ["right"], changed) == "Unsigned"


def test_given_no_secret_at_all_when_signed_with_the_empty_one_then_unsigned() -> None:
    assert outcome({HEADER: signature("")}, [""]) == "Unsigned"


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (FORM, (ROOT / "samples" / "woocommerce" / "ping.txt").read_bytes(), "Ping"),
        (FORM, b"webhook_id=184467", "Ping"),
        ({"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}, b"webhook_id=1", "Ping"),
        ({"content-type": "Application/X-WWW-Form-Urlencoded"}, b"webhook_id=1", "Ping"),
        (FORM | {HEADER: ""}, b"webhook_id=1", "Ping"),
        (FORM | {HEADER: "x"}, b"webhook_id=1", "Unsigned"),
        (FORM, b"webhook_id=", "Unsigned"),
        (FORM, b"webhook_id=1\n", "Unsigned"),
        (FORM, b"webhook_id=1&id=2", "Unsigned"),
        (FORM, b"webhook_id=" + b"1" * 21, "Unsigned"),
        (FORM, b'{"id":1}', "Unsigned"),
        (FORM, b"", "Unsigned"),
        ({"content-type": "application/json"}, b"webhook_id=1", "Unsigned"),
        ({}, b"webhook_id=1", "Unsigned"),
    ],
)
def test_given_no_signature_when_verified_then_only_the_form_ping_is_one(
    headers: dict[str, str], body: bytes, expected: str
) -> None:
    assert outcome(headers, ["right"], body) == expected


def test_given_a_signed_form_when_verified_then_it_is_genuine_and_no_ping() -> None:
    assert outcome(FORM | {HEADER: signature("right", b"webhook_id=1")}, ["right"], b"webhook_id=1") == "genuine"


@settings(deadline=None)
@given(st.text(), st.binary(), st.lists(st.text(st.characters(), max_size=20), max_size=3))
def test_given_anything_when_verified_then_nothing_but_unsigned(
    value: str, body: bytes, secrets: list[str]
) -> None:
    assert outcome({HEADER: value}, secrets, body) == "Unsigned"
    assert outcome(FORM | {HEADER: value}, secrets, body) == "Unsigned"


@given(st.text(st.sampled_from("&#0x2673lgtampquo;X")))
def test_given_any_secret_when_decoded_then_never_longer(secret: str) -> None:
    assert len(decoded(secret)) <= len(secret)


def test_given_a_match_when_verified_then_the_comparisons_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    genuine = hmac.compare_digest

    def spy(one: bytes, two: bytes) -> bool:
        compared.append(two)
        return genuine(one, two)

    monkeypatch.setattr("integrator.shops.woocommerce.hmac.compare_digest", spy)
    SHOP.verify({HEADER: signature("first")}, BODY, ["first", "second&amp;", "third"])
    assert len(compared) == 6
    assert len(set(compared)) == 4
