"""What an answer means: its status, its Retry-After, and its JSON. No socket."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from requests.structures import CaseInsensitiveDict

from integrator import errors
from integrator.http import Answer, raise_for_status, retry_after_seconds


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, CaseInsensitiveDict(headers or {}), body)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_given_a_success_when_judged_then_it_passes(status: int) -> None:
    raise_for_status(answer(status), subject="POST /orders")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (301, errors.Rejected),
        (302, errors.Rejected),
        (400, errors.Rejected),
        (401, errors.Unauthorized),
        (403, errors.Unauthorized),
        (404, errors.NotFound),
        (405, errors.Rejected),
        (409, errors.Conflict),
        (410, errors.NotFound),
        (413, errors.Rejected),
        (422, errors.Rejected),
        (429, errors.Throttled),
    ],
)
def test_given_a_refusal_when_judged_then_its_class_of_the_taxonomy(
    status: int, expected: type[errors.IntegratorError]
) -> None:
    with pytest.raises(expected, match=f"^POST /orders was answered {status}$") as raised:
        raise_for_status(answer(status, b"because of Jane"), subject="POST /orders")
    assert type(raised.value) is expected
    assert raised.value.subject == f"POST /orders {status}"
    assert raised.value.detail == "because of Jane"


@pytest.mark.parametrize(
    ("status", "in_doubt"),
    [*((status, True) for status in (101, 103, 408, 500, 501, 502, 504, 599, 600)), (503, False)],
)
def test_given_a_failure_of_the_server_when_judged_then_transient_and_only_503_not_in_doubt(
    status: int, in_doubt: bool
) -> None:
    with pytest.raises(errors.Transient) as raised:
        raise_for_status(answer(status), subject="POST /orders")
    assert raised.value.in_doubt is in_doubt


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "0"}, 0),
        ({"retry-after": " 120 "}, 120),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "86401"}, 86_400),
        ({"Retry-After": "9" * 5_000}, 86_400),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "NaN"}, None),
        ({"Retry-After": "\u0663"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
        ({"Retry-After": "Tue, 01 Jul 2098 10:01:30 GMT", "Date": "Tue, 01 Jul 2098 10:00:00 GMT"}, 90),
        ({"Retry-After": "Tue, 01 Jul 2098 09:00:00 GMT", "Date": "Tue, 01 Jul 2098 10:00:00 GMT"}, 0),
        ({"Retry-After": "Thu, 31 Dec 2099 10:00:00 GMT", "Date": "Tue, 01 Jul 2098 10:00:00 GMT"}, 86_400),
        ({"Retry-After": "Tue, 01 Jul 2098 10:00:00 GMT"}, None),
        ({"Retry-After": "Tue, 01 Jul 2098 10:00:00 GMT", "Date": "today"}, None),
        ({"Retry-After": "Tue, 01 Jul 99999999999999999999 10:00:00 GMT"}, None),
        ({"Retry-After": "Tue, 01 Jul 2098 10:00:00 -0000", "Date": "Tue, 01 Jul 2098 10:00:00 GMT"}, None),
    ],
)
def test_given_a_retry_after_when_read_then_seconds_by_the_servers_own_clock(
    headers: dict[str, str], expected: float | None
) -> None:
    assert retry_after_seconds(answer(429, headers=headers)) == expected


@pytest.mark.parametrize("status", [429, 503])
def test_given_a_retry_after_when_judged_then_throttled_with_its_seconds(status: int) -> None:
    with pytest.raises(errors.Throttled) as raised:
        raise_for_status(answer(status, headers={"Retry-After": "7"}), subject="POST /orders")
    assert raised.value.retry_after_seconds == 7


@pytest.mark.parametrize(("status", "headers", "seconds"), [(502, {"Retry-After": "7"}, 7), (502, {}, None)])
def test_f1_given_a_doubt_when_it_names_a_time_then_that_is_kept(
    status: int, headers: dict[str, str], seconds: float | None
) -> None:
    with pytest.raises(errors.Transient) as raised:
        raise_for_status(answer(status, headers=headers), subject="POST /orders")
    error, read = raised.value, raised.value.without_doubt()
    assert (error.retry_after_seconds, error.in_doubt) == (seconds, True)
    assert (read.retry_after_seconds, read.in_doubt, read.fingerprint) == (seconds, False, error.fingerprint)


def test_given_a_503_with_a_retry_after_that_says_nothing_when_judged_then_transient() -> None:
    with pytest.raises(errors.Transient):
        raise_for_status(answer(503, headers={"Retry-After": "soon"}), subject="POST /orders")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"total": 10.10}', {"total": Decimal("10.10")}),
        (b"[0.1, 1e2, 1E-7]", [Decimal("0.1"), Decimal("1E+2"), Decimal("1E-7")]),
        (b"12345678901234567890", 12_345_678_901_234_567_890),
        ('"\u00e9"'.encode(), "\u00e9"),
    ],
)
def test_given_json_when_parsed_then_numbers_are_exact(body: bytes, expected: Any) -> None:
    parsed = answer(200, body).json()
    assert parsed == expected
    assert repr(parsed) == repr(expected)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"NaN",
        b"[Infinity]",
        b'{"a": -Infinity}',
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b"1" * 5_000,
        b"1e99999999999999999999",
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_given_a_body_that_is_not_json_when_parsed_then_in_doubt(body: bytes) -> None:
    with pytest.raises(errors.Transient, match=r"^the answer 201 is not JSON$") as raised:
        answer(201, body).json()
    assert raised.value.in_doubt


def test_given_a_long_answer_when_it_becomes_detail_then_it_is_cut() -> None:
    with pytest.raises(errors.Rejected) as raised:
        raise_for_status(answer(422, b"\xc3\xa9" * 100_000), subject="POST /orders")
    assert raised.value.detail == "\u00e9" * errors.DETAIL_LIMIT


@pytest.mark.parametrize(
    ("told", "date"),
    [
        ("Tue, 01 Jul 2098 10:00:00 GMT", datetime(2098, 7, 1, 10, tzinfo=UTC)),
        ("Tue, 01 Jul 2098 10:00:00 -0000", datetime(2098, 7, 1, 10, tzinfo=UTC)),
        ("Tue, 01 Jul 99999999999999999999 10:00:00 GMT", None),
        ("Tue, 01 Jul 2098 10:00:00 +9999", None),
        ("today", None),
        ("", None),
    ],
)
def test_given_a_date_field_when_read_then_the_time_or_nothing(told: str, date: datetime | None) -> None:
    assert Answer(200, {"Date": told}, b"").date == date
