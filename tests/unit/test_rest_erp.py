"""The connector to our own HTTP contract, without a socket: what it writes, reads and refuses."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast

import pytest
from openapi_spec_validator import validate as validate_openapi
from requests.structures import CaseInsensitiveDict

from integrator import errors
from integrator.documents import (
    Address,
    Customer,
    Fee,
    Line,
    LineKind,
    Money,
    Order,
    PaymentState,
    Refund,
    RefundLine,
    ShippingLine,
    Tax,
)
from integrator.erps.base import Action, Credit, Erp, ErpAccess, Found, Idempotency, Receipt, Request, StepKind
from integrator.erps.rest import RestErp
from integrator.http import Answer, Http
from tests import openapi

KEY = "acme:erp:shop-1:1001:create"
ERP: Erp = RestErp()
CONFIG = {"url": "https://erp.example/api"}
SECRETS = {"token": "made-up-token"}


def eur(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="EUR")


def order(**changes: Any) -> Order:
    vat = (Tax(title="VAT", rate=Decimal("0.20"), amount=eur("3.80")),)
    full = Order(
        external_id="9007199254740993",
        number="#1001",
        placed_at=datetime(2031, 5, 2, 11, 30, tzinfo=timezone(timedelta(hours=2))),
        currency="EUR",
        taxes_included=False,
        lines=(
            Line(
                external_id="1",
                sku="MUG-BLUE",
                title="Blue mug",
                quantity=Decimal(2),
                unit_price=eur("10.00"),
                discount=eur("1.00"),
                taxes=vat,
            ),
            Line(
                external_id="2",
                kind=LineKind.TIP,
                title="Tip",
                quantity=Decimal("1.000"),
                unit_price=eur("1E+1"),
                discount=eur("0"),
            ),
        ),
        shipping=(ShippingLine(title="Parcel", price=eur("5.00"), discount=eur("0.50")),),
        fees=(Fee(title="Rounding", amount=eur("-0.30")),),
        total=eur("37.00"),
        payment_state=PaymentState.PAID,
        customer=Customer(external_id="77", name="Jane Sample", email="jane@shop.example"),
        shipping_address=Address(name="Jane Sample", street="1 Sample Street", city="Sampleton", country="DE"),
    )
    return full.model_copy(update=changes)


def action(
    kind: StepKind = StepKind.CREATE, key: str = KEY, remote_id: str | None = None, **changes: Any
) -> Action:
    given_back = refund() if kind is StepKind.CREDIT else None
    return Action(kind, key, "shop-1/1001", remote_id, order(**changes), given_back)


def refund(**changes: Any) -> Refund:
    full = Refund(
        external_id="88",
        created_at=datetime(2031, 5, 2, 19, tzinfo=timezone(timedelta(hours=2))),
        lines=(
            RefundLine(
                line_id="1",
                sku="MUG-BLUE",
                title="Blue mug",
                quantity=Decimal(1),
                amount=eur("9.50"),
                taxes=(Tax(title="VAT", rate=Decimal("0.20"), amount=eur("1.90")),),
            ),
            RefundLine(title="Something", quantity=Decimal(0), amount=eur("1E+1")),
        ),
        shipping=(ShippingLine(title="Parcel", price=eur("2.00"), discount=eur("0")),),
        fees=(Fee(title="Restocking", amount=eur("-1.40")),),
        total=eur("22.00"),
        paid=eur("12.00"),
        note="It broke.",
    )
    return full.model_copy(update=changes)


# The contract itself


def test_given_the_contract_when_validated_then_it_is_openapi() -> None:
    validate_openapi(openapi.document())


EXAMPLES = {
    "TwoMugs": "Order",
    "Created": "OrderResource",
    "FoundOne": "OrderList",
    "BrokenMug": "Credit",
    "Credited": "OrderResource",
    "CancelledByCustomer": "Cancellation",
    "Cancelled": "OrderResource",
}


def test_given_the_examples_when_checked_then_each_is_of_its_schema() -> None:
    examples = openapi.document()["components"]["examples"]
    assert set(examples) == set(EXAMPLES)
    for name, schema in EXAMPLES.items():
        openapi.check(examples[name]["value"], schema)


def test_given_something_else_when_checked_against_the_contract_then_it_is_refused() -> None:
    with pytest.raises(openapi.Invalid):
        openapi.check({"orders": [{"id": "SO1"}]}, "OrderList")


# Writing requests


def test_given_an_order_when_prepared_then_its_json_is_the_contracts() -> None:
    request = ERP.prepare(action())
    assert (request.method, request.path, request.key) == ("POST", "/orders", KEY)
    content = json.loads(request.body)
    openapi.check(content, "Order")
    assert content["key"] == KEY
    assert content["reference"] == "shop-1/1001"
    assert content["placed_at"] == "2031-05-02T09:30:00+00:00"
    assert content["total"] == "37.00"
    assert content["lines"][0] == {
        "id": "1",
        "kind": "product",
        "sku": "MUG-BLUE",
        "title": "Blue mug",
        "quantity": "2",
        "unit_price": "10.00",
        "discount": "1.00",
        "taxes": [{"title": "VAT", "rate": "0.20", "amount": "3.80"}],
    }
    assert content["lines"][1]["unit_price"] == "10"
    assert content["lines"][1]["quantity"] == "1.000"
    assert content["shipping"] == [{"title": "Parcel", "price": "5.00", "discount": "0.50", "taxes": []}]
    assert content["fees"] == [{"title": "Rounding", "amount": "-0.30", "taxes": []}]
    assert content["customer"]["name"] == "Jane Sample"
    assert content["billing_address"] is None
    assert content["shipping_address"]["country"] == "DE"


def test_given_an_update_when_prepared_then_the_whole_order_is_put_at_its_id() -> None:
    request = ERP.prepare(action(StepKind.UPDATE, key="k:update:2", remote_id="SO000017"))
    assert (request.method, request.path, request.key) == ("PUT", "/orders/SO000017", "k:update:2")
    openapi.check(json.loads(request.body), "Order")


def test_given_a_credit_when_prepared_then_the_refund_is_posted_whole() -> None:
    request = ERP.prepare(action(StepKind.CREDIT, key="k:credit:88", remote_id="SO000017"))
    assert (request.method, request.path, request.key) == ("POST", "/orders/SO000017/credits", "k:credit:88")
    content = json.loads(request.body)
    openapi.check(content, "Credit")
    assert content == {
        "key": "k:credit:88",
        "reference": "88",
        "created_at": "2031-05-02T17:00:00+00:00",
        "currency": "EUR",
        "taxes_included": False,
        "lines": [
            {
                "line_id": "1",
                "sku": "MUG-BLUE",
                "title": "Blue mug",
                "quantity": "1",
                "amount": "9.50",
                "taxes": [{"title": "VAT", "rate": "0.20", "amount": "1.90"}],
            },
            {"line_id": None, "sku": None, "title": "Something", "quantity": "0", "amount": "10", "taxes": []},
        ],
        "shipping": [{"title": "Parcel", "price": "2.00", "discount": "0", "taxes": []}],
        "fees": [{"title": "Restocking", "amount": "-1.40", "taxes": []}],
        "total": "22.00",
        "paid": "12.00",
        "note": "It broke.",
    }


@pytest.mark.parametrize("changes", [{"paid": None}, {"created_at": None, "note": None, "lines": ()}])
def test_given_a_refund_that_says_little_when_prepared_then_it_is_of_the_contract(changes: dict[str, Any]) -> None:
    made = Action(StepKind.CREDIT, "k:credit", "shop-1/1001", "SO1", order(), refund(**changes))
    openapi.check(json.loads(ERP.prepare(made).body), "Credit")


def test_given_a_refund_in_another_currency_when_prepared_then_unmapped() -> None:
    made = Action(
        StepKind.CREDIT,
        "k:credit",
        "shop-1/1001",
        "SO1",
        order(),
        refund(paid=Money(amount=Decimal(1), currency="USD")),
    )
    with pytest.raises(errors.Unmapped, match="in USD, its order in EUR"):
        ERP.prepare(made)


def test_given_a_credit_without_its_refund_when_prepared_then_refused() -> None:
    with pytest.raises(ValueError, match="about a refund"):
        ERP.prepare(Action(StepKind.CREDIT, "k:credit", "shop-1/1001", "SO1", order()))


def test_given_a_cancellation_when_prepared_then_time_and_reason_are_posted() -> None:
    when = datetime(2031, 5, 3, 8, tzinfo=UTC)
    cancelled = action(
        StepKind.CANCEL, key="k:cancel", remote_id="SO000017", cancelled_at=when, cancel_reason="customer"
    )
    request = ERP.prepare(cancelled)
    assert (request.method, request.path) == ("POST", "/orders/SO000017/cancel")
    content = json.loads(request.body)
    openapi.check(content, "Cancellation")
    assert content == {"key": "k:cancel", "cancelled_at": "2031-05-03T08:00:00+00:00", "reason": "customer"}


@pytest.mark.parametrize("kind", list(StepKind))
def test_given_the_same_action_when_prepared_again_then_the_same_sorted_bytes(kind: StepKind) -> None:
    one, two = (ERP.prepare(action(kind, remote_id="SO1")) for _ in range(2))
    assert one == two
    names = list(json.loads(one.body))
    assert names == sorted(names)


def test_given_text_that_json_or_databases_can_not_carry_when_prepared_then_it_is_replaced_the_same_way() -> None:
    note = "a\ud800b\x00c\udfff\N{GRINNING FACE}"
    customer = Customer(name="Jane").model_copy(update={"name": "\udc80Jane"})
    line = order().lines[0].model_copy(update={"title": "Mug\x00"})
    request = ERP.prepare(action(note=note, customer=customer, lines=(line,)))
    content = json.loads(request.body)
    assert content["note"] == "a\ufffdb\ufffdc\ufffd\N{GRINNING FACE}"
    assert content["customer"]["name"] == "\ufffdJane"
    assert content["lines"][0]["title"] == "Mug\ufffd"
    assert b"\\u0000" not in request.body


@pytest.mark.parametrize(
    "key", ["", "with space", "n\N{LATIN SMALL LETTER N WITH TILDE}", "x" * 256, "line\nbreak"]
)
def test_given_a_key_that_no_header_can_carry_when_prepared_then_unmapped(key: str) -> None:
    with pytest.raises(errors.Unmapped, match="key"):
        ERP.prepare(action(key=key))


def test_given_an_amount_in_another_currency_when_prepared_then_unmapped_naming_it() -> None:
    with pytest.raises(errors.Unmapped, match="in USD, its order in EUR") as raised:
        ERP.prepare(action(total=Money(amount=Decimal(1), currency="USD")))
    assert raised.value.subject == "currency USD"


@pytest.mark.parametrize("remote_id", [None, "", "..", "a/b", "a?b", "x" * 101])
def test_given_an_id_that_is_not_of_the_contract_when_prepared_then_refused(remote_id: str | None) -> None:
    with pytest.raises(ValueError, match="needs the id"):
        ERP.prepare(action(StepKind.UPDATE, remote_id=remote_id))


# Reading answers


class Answering:
    """In the place of the HTTP client: keeps the request and gives the one answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def request(self, method: str, path: str, **given: Any) -> Answer:
        self.asked.append((method, path, given))
        return self.answer


def answering(status: int, content: Any, headers: Mapping[str, str] | None = None) -> tuple[Answering, ErpAccess]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    http = Answering(Answer(status, CaseInsensitiveDict(headers or {}), body))
    return http, ErpAccess(CONFIG, SECRETS, cast("Http", http))


CREATE = ERP.prepare(action())
UPDATE = ERP.prepare(action(StepKind.UPDATE, key="k:update", remote_id="SO1"))
CREDIT = ERP.prepare(action(StepKind.CREDIT, key="k:credit", remote_id="SO1"))
CANCEL = ERP.prepare(action(StepKind.CANCEL, key="k:cancel", remote_id="SO1"))


def resource(**changes: Any) -> dict[str, Any]:
    keys = [KEY, "k:update", "k:cancel", "k:credit"]
    fields = {"id": "SO1", "reference": "shop-1/1001", "state": "open", "total": "37.00", "currency": "EUR"}
    return {**fields, "applied_keys": keys, "credits": [credit()], "added later": 1, **changes}


def credit(number: int = 4, key: str = "k:credit", **changes: Any) -> dict[str, Any]:
    return {"id": f"CN{number}", "key": key, "reference": "88", "total": "22.00", "added later": 1, **changes}


@pytest.mark.parametrize("status", [200, 201])
def test_given_the_order_as_answer_when_sent_then_id_and_total(status: int) -> None:
    http, access = answering(status, resource())
    assert ERP.send(access, CREATE) == Receipt("SO1", eur("37.00"))
    [(method, path, given)] = http.asked
    assert (method, path, given["body"]) == ("POST", "/orders", CREATE.body)
    assert given["headers"] == {
        "Authorization": "Bearer made-up-token",
        "Idempotency-Key": KEY,
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize("request_", [CREATE, UPDATE], ids=["create", "update"])
def test_given_another_total_when_sent_then_it_is_returned_for_the_caller_to_compare(request_: Request) -> None:
    _, access = answering(200, resource(total="36.99"))
    assert ERP.send(access, request_).total == eur("36.99")


@pytest.mark.parametrize(
    ("request_", "content"),
    [
        (CREATE, b"<html>"),
        (CREATE, b""),
        (CREATE, b"[]"),
        (CREATE, {}),
        (CREATE, resource(total=37.00)),
        (CREATE, resource(total=None)),
        (CREATE, resource(total="1e3")),
        (CREATE, resource(total="9" * 30)),
        (CREATE, resource(currency="euro")),
        (CREATE, resource(id="..")),
        (CREATE, resource(id=17)),
        (CREATE, resource(state="draft")),
        (CREATE, resource(applied_keys=[])),
        (CREATE, resource(reference="another")),
        (UPDATE, resource(id="SO2")),
        (UPDATE, resource(applied_keys=[KEY])),
        (CREDIT, resource(credits=[])),
        (CREDIT, resource(credits=[credit(key="k:other")])),
        (CREDIT, resource(credits=[credit(total=22.00)])),
        (CREDIT, resource(credits=[credit(id="..")])),
        (CREDIT, resource(credits=None)),
        (CREDIT, resource(id="SO2")),
        (CREDIT, resource(applied_keys=[KEY])),
        (CANCEL, resource(state="open")),
        (CANCEL, resource(state="cancelled", id="SO2")),
    ],
)
def test_given_a_success_that_is_not_of_the_contract_when_sent_then_in_doubt(
    request_: Request, content: Any
) -> None:
    _, access = answering(201, content)
    with pytest.raises(errors.Transient) as raised:
        ERP.send(access, request_)
    assert raised.value.in_doubt


@pytest.mark.parametrize("state", ["open", "cancelled"])
def test_given_the_order_with_the_credit_as_answer_when_sent_then_the_credits_own_id_and_total(state: str) -> None:
    others = [
        credit(3, key="k:other", total="1.00"),
        credit(4, total="21.99"),
        credit(5, key="k:more", total="2.00"),
    ]
    _, access = answering(201, resource(state=state, credits=others))
    assert ERP.send(access, CREDIT) == Receipt("CN4", eur("21.99"))


def test_given_a_system_that_made_a_second_credit_when_sent_then_the_newest_is_the_answers() -> None:
    _, access = answering(201, resource(credits=[credit(4), credit(5)]))
    assert ERP.send(access, CREDIT) == Receipt("CN5", eur("22.00"))


def test_given_a_refused_credit_when_sent_then_the_error_groups_without_the_orders_id() -> None:
    _, access = answering(422, problem("total_mismatch", total="21.99", currency="EUR"))
    with pytest.raises(errors.TotalMismatch) as raised:
        ERP.send(access, CREDIT)
    assert raised.value.message == "POST /orders/{id}/credits: the system's total is 21.99 EUR, the shop's 22.00"


def test_given_a_cancelled_order_as_answer_when_a_cancellation_is_sent_then_accepted() -> None:
    _, access = answering(200, resource(state="cancelled"))
    assert ERP.send(access, CANCEL) == Receipt("SO1", eur("37.00"))


def problem(code: str, **members: Any) -> dict[str, Any]:
    return {"title": "made up", "status": 400, "code": code, "detail": "Jane Sample", **members}


@pytest.mark.parametrize(
    ("status", "content", "expected", "subject", "message"),
    [
        (
            422,
            problem("total_mismatch", total="29.90", currency="EUR"),
            errors.TotalMismatch,
            "system's total",
            "POST /orders: the system's total is 29.90 EUR, the shop's 37.00",
        ),
        (
            422,
            problem("total_mismatch", total="Jane Sample"),
            errors.TotalMismatch,
            "system's total",
            "POST /orders: the system's total is another amount, the shop's 37.00",
        ),
        (
            422,
            problem("unknown_sku", sku="MUG-BLUE"),
            errors.Unmapped,
            "sku MUG-BLUE",
            "POST /orders: the system does not know the sku MUG-BLUE",
        ),
        (
            422,
            problem("unknown_tax", tax="VAT"),
            errors.Unmapped,
            "tax VAT",
            "POST /orders: the system does not know the tax VAT",
        ),
        (
            422,
            problem("unknown_payment", payment="paid"),
            errors.Unmapped,
            "payment paid",
            "POST /orders: the system does not know the payment paid",
        ),
        (
            422,
            problem("unknown_sku", sku="a\nb"),
            errors.Unmapped,
            "sku",
            "POST /orders: the system does not know the sku",
        ),
        (
            422,
            problem("closed_month"),
            errors.Rejected,
            "POST /orders closed_month 422",
            "POST /orders closed_month was answered 422",
        ),
        (
            422,
            problem("Not a code"),
            errors.Rejected,
            "POST /orders 422",
            "POST /orders was answered 422",
        ),
        (400, b"<html>", errors.Rejected, "POST /orders 400", "POST /orders was answered 400"),
        (
            409,
            problem("key_reused"),
            errors.Conflict,
            "POST /orders key_reused 409",
            "POST /orders key_reused was answered 409",
        ),
        (401, problem("total_mismatch"), errors.Unauthorized, None, None),
        (404, problem("not_found"), errors.NotFound, None, None),
        (429, problem("throttled"), errors.Throttled, None, None),
        (500, problem("unknown_sku", sku="X"), errors.Transient, None, None),
    ],
)
def test_given_a_problem_when_sent_then_its_code_says_more_than_its_status(
    status: int,
    content: Any,
    expected: type[errors.IntegratorError],
    subject: str | None,
    message: str | None,
) -> None:
    _, access = answering(status, content)
    with pytest.raises(expected) as raised:
        ERP.send(access, CREATE)
    assert type(raised.value) is expected
    assert "Jane" not in raised.value.message
    assert subject is None or (raised.value.subject, raised.value.message) == (subject, message)
    assert raised.value.detail


def test_f1_given_a_key_in_progress_when_sent_then_in_doubt_and_not_before_the_time_it_names() -> None:
    _, access = answering(409, problem("in_progress"), {"Retry-After": "90"})
    with pytest.raises(errors.Transient, match="same key") as raised:
        ERP.send(access, CREATE)
    assert raised.value.in_doubt
    assert raised.value.retry_after_seconds == 90


def test_given_a_refused_update_when_sent_then_the_error_groups_without_the_orders_id() -> None:
    _, access = answering(404, problem("not_found"))
    with pytest.raises(errors.NotFound) as raised:
        ERP.send(access, UPDATE)
    assert raised.value.subject == "PUT /orders/{id} not_found 404"


def test_given_two_orders_when_looked_up_then_both_are_found() -> None:
    second = resource(id="SO2", state="cancelled", applied_keys=[], credits=[credit(4), credit(5, total="1.00")])
    http, access = answering(200, {"orders": [resource(), second]})
    assert ERP.look_up(access, "shop-1/1001") == [
        Found(
            "SO1",
            frozenset({KEY, "k:update", "k:cancel", "k:credit"}),
            False,
            eur("37.00"),
            (Credit("CN4", "k:credit", eur("22.00")),),
        ),
        Found(
            "SO2",
            frozenset(),
            True,
            eur("37.00"),
            (Credit("CN4", "k:credit", eur("22.00")), Credit("CN5", "k:credit", eur("1.00"))),
        ),
    ]
    assert http.asked == [
        (
            "GET",
            "/orders",
            {"headers": {"Authorization": "Bearer made-up-token"}, "params": {"reference": "shop-1/1001"}},
        )
    ]


def test_given_none_when_looked_up_then_an_empty_list() -> None:
    _, access = answering(200, {"orders": []})
    assert ERP.look_up(access, "shop-1/1001") == []


@pytest.mark.parametrize("content", [b"", {"orders": None}, {"orders": [resource(reference="another")]}, []])
def test_given_an_answer_that_is_not_of_the_contract_when_looked_up_then_transient(content: Any) -> None:
    _, access = answering(200, content)
    with pytest.raises(errors.Transient):
        ERP.look_up(access, "shop-1/1001")


def test_given_a_404_when_looked_up_then_not_found_and_never_an_empty_list() -> None:
    _, access = answering(404, problem("not_found"))
    with pytest.raises(errors.NotFound):
        ERP.look_up(access, "shop-1/1001")


# Configuration


def test_given_only_an_address_and_a_token_when_validated_then_accepted_with_the_defaults() -> None:
    ERP.validate(CONFIG, SECRETS)
    assert ERP.base_url(CONFIG) == "https://erp.example/api"
    assert ERP.idempotency(CONFIG) is Idempotency.KEY
    assert ERP.settle_seconds(CONFIG) == 30
    assert ERP.deadline_seconds(CONFIG) == 15


def test_given_everything_when_validated_then_accepted_and_used() -> None:
    config = {"url": "http://127.0.0.1:8080", "idempotency": "lookup", "settle_seconds": 0, "deadline_seconds": 18}
    ERP.validate(config, SECRETS)
    assert ERP.idempotency(config) is Idempotency.LOOKUP
    assert ERP.settle_seconds(config) == 0
    assert ERP.deadline_seconds(config) == 18


@pytest.mark.parametrize(
    ("changes", "secrets", "sentence"),
    [
        ({"url": None}, SECRETS, '"url" must be the address'),
        ({"url": 7}, SECRETS, '"url" must be the address'),
        ({"url": ""}, SECRETS, '"url" must be the address'),
        ({"url": "erp.example"}, SECRETS, '"url" must be the address'),
        ({"url": "ftp://erp.example"}, SECRETS, '"url" must be the address'),
        ({"url": "https://"}, SECRETS, '"url" must be the address'),
        ({"url": "https://erp.example:99999"}, SECRETS, '"url" must be the address'),
        ({"url": "https://[erp"}, SECRETS, '"url" must be the address'),
        ({"url": "https://erp.example/a b"}, SECRETS, '"url" must be the address'),
        ({"url": "https://me:pw@erp.example"}, SECRETS, "no user, password"),
        ({"url": "https://erp.example/?a=b"}, SECRETS, "query or fragment"),
        ({"url": "https://erp.example/#a"}, SECRETS, "query or fragment"),
        ({"idempotency": "unique"}, SECRETS, '"idempotency" must be "key"'),
        ({"idempotency": ["key"]}, SECRETS, '"idempotency" must be "key"'),
        ({"settle_seconds": -1}, SECRETS, '"settle_seconds" must be a number of seconds from 0 to 3600'),
        ({"settle_seconds": "30"}, SECRETS, '"settle_seconds" must be'),
        ({"settle_seconds": float("nan")}, SECRETS, '"settle_seconds" must be'),
        ({"deadline_seconds": True}, SECRETS, '"deadline_seconds" must be a number of seconds from 1 to 18'),
        ({"deadline_seconds": 26}, SECRETS, '"deadline_seconds" must be'),
        ({"deadline_seconds": 0}, SECRETS, '"deadline_seconds" must be'),
        ({"timeout": 3}, SECRETS, "unknown in the configuration: timeout; known are url"),
        ({}, {}, 'the secret "token" is missing'),
        ({}, {"token": ""}, 'the secret "token" is missing'),
        ({}, {"token": "line\nbreak"}, 'the secret "token" is missing'),
        ({}, {"token": ["made-up"]}, 'the secret "token" is missing'),
        ({}, {**SECRETS, "password": "x"}, "unknown in the secrets: password; known are token"),
    ],
)
def test_given_a_wrong_configuration_when_validated_then_a_sentence_says_what(
    changes: dict[str, Any], secrets: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        ERP.validate({**CONFIG, **changes}, secrets)
    assert "made-up" not in str(raised.value)
