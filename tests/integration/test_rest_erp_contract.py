"""The connector to our own contract against the sandbox management system, a process of its own, with faults."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from integrator import errors
from integrator.documents import Fee, Line, Money, Order, PaymentState, Refund, RefundLine, ShippingLine, Tax
from integrator.erps.base import Action, ErpAccess, Receipt, Request, StepKind
from integrator.erps.rest import RestErp
from integrator.http import Answer, Http
from tests import openapi

ROOT = Path(__file__).parents[2]
ERP = RestErp()
PATIENCE_SECONDS = 20.0
_Found = TypeVar("_Found")


class Sandbox:
    """A sandbox management system in its own process."""

    def __init__(self, file: Path, *options: str) -> None:
        self.file, self.options = file, options
        self.port = "0"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "sandbox.erp",
            "--port",
            self.port,
            "--file",
            str(self.file),
            *self.options,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        word, self.url = self.process.stdout.readline().split()
        assert word == "ready"
        self.port = self.url.rpartition(":")[2]

    def stop(self, how: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
        """End it: its exit status, and what else it printed."""
        self.process.send_signal(how)
        printed, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, printed

    def access(self, *, deadline_seconds: float = 15.0, token: str = "made-up") -> ErpAccess:
        return ErpAccess({"url": self.url}, {"token": token}, Http(self.url, deadline_seconds=deadline_seconds))

    def control(self, method: str = "POST", path: str = "/_sandbox", **settings: Any) -> Any:
        body = json.dumps(settings).encode() if method == "POST" else None
        answer = Http(self.url).request(method, path, body=body)
        assert answer.status == 200, answer.text()
        return answer.json()

    def stored(self, reference: str, limit: int = 1000) -> list[dict[str, Any]]:
        """Every order with the reference, as stored: by paging through all of them."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = self.control("GET", f"/_sandbox/orders?after={after}&limit={limit}")
            found += [order for order in page["orders"] if order["reference"] == reference]
            after = page["next"]
        return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One process for all tests that only ask and set faults."""
    running = Sandbox(tmp_path_factory.mktemp("erp") / "erp.sqlite3")
    yield running
    running.stop()


@pytest.fixture
def sandbox(shared: Sandbox) -> Sandbox:
    """The shared process without faults."""
    shared.control("DELETE")
    return shared


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Start processes of one's own, to be killed."""
    started: list[Sandbox] = []

    def _start(*options: str) -> Sandbox:
        started.append(Sandbox(tmp_path / "erp.sqlite3", *options))
        return started[-1]

    yield _start
    for sandbox in started:
        sandbox.stop()


@pytest.fixture
def reference() -> str:
    return f"shop-1/{uuid.uuid4()}"


def eur(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="EUR")


def order(quantity: int = 2, total: str = "20.00", **changes: Any) -> Order:
    mug = Line(
        external_id="1",
        sku="MUG-BLUE",
        title="Blue mug",
        quantity=Decimal(quantity),
        unit_price=eur("10.00"),
        discount=eur("0.00"),
        taxes=(Tax(title="VAT", rate=Decimal("0.20"), amount=eur("3.33")),),
    )
    made = Order(
        external_id="1001",
        number="#1001",
        currency="EUR",
        taxes_included=True,
        lines=(mug,),
        total=eur(total),
        payment_state=PaymentState.PAID,
    )
    return made.model_copy(update=changes)


def create(reference: str, content: Order | None = None) -> Request:
    return ERP.prepare(Action(StepKind.CREATE, f"{reference}:create", reference, None, content or order()))


def step(kind: StepKind, reference: str, remote_id: str, content: Order) -> Request:
    return ERP.prepare(Action(kind, f"{reference}:{kind.value}", reference, remote_id, content))


def refund(total: str = "4.00", external_id: str = "88") -> Refund:
    back = eur("4.00")
    line = RefundLine(line_id="1", sku="MUG-BLUE", title="Blue mug", quantity=Decimal(1), amount=back)
    return Refund(external_id=external_id, lines=(line,), total=eur(total), paid=back)


def credit(reference: str, remote_id: str, given_back: Refund) -> Request:
    key = f"{reference}:credit:{given_back.external_id}"
    return ERP.prepare(Action(StepKind.CREDIT, key, reference, remote_id, order(), given_back))


def until(look: Callable[[], _Found]) -> _Found:
    """Look until it is true, or patience ends."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()) and time.monotonic() < ends:
        time.sleep(0.05)
    return found


# The contract


def test_given_an_order_when_created_changed_and_cancelled_then_each_shows_in_one_record(
    sandbox: Sandbox, reference: str
) -> None:
    access = sandbox.access()
    made = ERP.send(access, create(reference))
    assert made.total == eur("20.00")
    changed = ERP.send(access, step(StepKind.UPDATE, reference, made.remote_id, order(3, "30.00")))
    assert changed == Receipt(made.remote_id, eur("30.00"))
    assert ERP.send(access, step(StepKind.CANCEL, reference, made.remote_id, order())) == changed
    [found] = ERP.look_up(access, reference)
    assert (found.remote_id, found.cancelled, found.total) == (made.remote_id, True, eur("30.00"))
    assert found.applied_keys == {f"{reference}:{kind}" for kind in ("create", "update", "cancel")}
    [stored] = sandbox.stored(reference)
    assert stored["lines"][0]["quantity"] == "3"
    assert stored["state"] == "cancelled"


def test_given_nothing_when_looked_up_then_nothing_is_found(sandbox: Sandbox, reference: str) -> None:
    assert ERP.look_up(sandbox.access(), reference) == []


def test_given_a_reference_with_every_kind_of_text_when_looked_up_then_found(sandbox: Sandbox) -> None:
    reference = f"a b&c=d/\N{EURO SIGN}?#%2F \ud800\x00{uuid.uuid4()}"
    made = replace(Action(StepKind.CREATE, str(uuid.uuid4()), reference, None, order()))
    receipt = ERP.send(sandbox.access(), ERP.prepare(made))
    assert [found.remote_id for found in ERP.look_up(sandbox.access(), reference)] == [receipt.remote_id]


def test_given_an_order_that_does_not_add_up_when_sent_then_refused_stored_nowhere_and_its_key_is_free(
    sandbox: Sandbox, reference: str
) -> None:
    with pytest.raises(errors.TotalMismatch, match=r"the system's total is 20\.00 EUR"):
        ERP.send(sandbox.access(), create(reference, order(2, "20.01")))
    assert sandbox.stored(reference) == []
    assert ERP.send(sandbox.access(), create(reference, order(2, "20.00"))).total == eur("20.00")


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"unknown_skus": ["MUG-BLUE"]}, "sku MUG-BLUE"),
        ({"unknown_taxes": ["VAT"]}, "tax VAT"),
        ({"unknown_payments": ["paid"]}, "payment paid"),
    ],
)
def test_given_something_that_the_system_does_not_know_when_sent_then_unmapped(
    sandbox: Sandbox, reference: str, settings: dict[str, Any], subject: str
) -> None:
    sandbox.control(**settings)
    with pytest.raises(errors.Unmapped) as raised:
        ERP.send(sandbox.access(), create(reference))
    assert raised.value.subject == subject
    assert sandbox.stored(reference) == []


def test_given_a_key_that_was_used_for_something_else_when_sent_then_conflict_and_nothing_changes(
    sandbox: Sandbox, reference: str
) -> None:
    ERP.send(sandbox.access(), create(reference))
    with pytest.raises(errors.Conflict, match="key_reused"):
        ERP.send(sandbox.access(), create(reference, order(3, "30.00")))
    assert [stored["total"] for stored in sandbox.stored(reference)] == ["20.00"]


def test_given_a_cancelled_order_when_updated_then_conflict(sandbox: Sandbox, reference: str) -> None:
    made = ERP.send(sandbox.access(), create(reference))
    ERP.send(sandbox.access(), step(StepKind.CANCEL, reference, made.remote_id, order()))
    with pytest.raises(errors.Conflict, match="cancelled"):
        ERP.send(sandbox.access(), step(StepKind.UPDATE, reference, made.remote_id, order()))


def test_given_an_order_when_credited_open_and_cancelled_then_each_credit_shows_and_the_total_stays(
    sandbox: Sandbox, reference: str
) -> None:
    access = sandbox.access()
    made = ERP.send(access, create(reference))
    first = ERP.send(access, credit(reference, made.remote_id, refund()))
    ERP.send(access, step(StepKind.CANCEL, reference, made.remote_id, order()))
    second = ERP.send(access, credit(reference, made.remote_id, refund(external_id="77")))
    assert ERP.send(access, credit(reference, made.remote_id, refund())) == first
    assert first.total == eur("4.00")
    [found] = ERP.look_up(access, reference)
    assert (found.total, found.cancelled) == (eur("20.00"), True)
    assert [(one.credit_id, one.key, one.total) for one in found.credits] == [
        (first.remote_id, f"{reference}:credit:88", eur("4.00")),
        (second.remote_id, f"{reference}:credit:77", eur("4.00")),
    ]
    assert {f"{reference}:credit:88", f"{reference}:credit:77"} < found.applied_keys
    [stored] = sandbox.stored(reference)
    assert [(one["reference"], one["paid"], one["lines"][0]["amount"]) for one in stored["credits"]] == [
        ("88", "4.00", "4.00"),
        ("77", "4.00", "4.00"),
    ]


@pytest.mark.parametrize(("taxes_included", "total"), [(False, "5.20"), (True, "4.00")])
def test_given_a_credit_of_every_part_when_sent_then_the_system_comes_to_the_same_total(
    sandbox: Sandbox, reference: str, taxes_included: bool, total: str
) -> None:
    vat = (Tax(title="VAT", amount=eur("0.40")),)
    parts = {
        "lines": (refund().lines[0].model_copy(update={"taxes": vat}),),
        "shipping": (ShippingLine(title="Parcel", price=eur("3.00"), discount=eur("1.00"), taxes=vat),),
        "fees": (Fee(title="Restocking", amount=eur("-2.00"), taxes=vat),),
    }
    content = order(total="20.00" if taxes_included else "23.33", taxes_included=taxes_included)
    made = ERP.send(sandbox.access(), create(reference, content))
    given_back = refund(total).model_copy(update=parts)
    action = Action(StepKind.CREDIT, f"{reference}:credit", reference, made.remote_id, content, given_back)
    assert ERP.send(sandbox.access(), ERP.prepare(action)).total == eur(total)


def test_given_a_credit_that_does_not_add_up_when_sent_then_refused_and_its_key_is_free(
    sandbox: Sandbox, reference: str
) -> None:
    made = ERP.send(sandbox.access(), create(reference))
    with pytest.raises(errors.TotalMismatch, match=r"the system's total is 4\.00 EUR"):
        ERP.send(sandbox.access(), credit(reference, made.remote_id, refund("4.01")))
    assert sandbox.stored(reference)[0]["credits"] == []
    assert ERP.send(sandbox.access(), credit(reference, made.remote_id, refund())).total == eur("4.00")


def test_given_a_system_that_forgets_keys_when_a_credit_is_sent_again_then_both_credits_are_visible(
    sandbox: Sandbox, reference: str
) -> None:
    made = ERP.send(sandbox.access(), create(reference))
    sandbox.control(forget_keys=True, drop_after_effect={"count": 1, "on": ["credit"]})
    with pytest.raises(errors.Transient):
        ERP.send(sandbox.access(), credit(reference, made.remote_id, refund()))
    second = ERP.send(sandbox.access(), credit(reference, made.remote_id, refund()))
    [found] = ERP.look_up(sandbox.access(), reference)
    assert len({one.credit_id for one in found.credits}) == 2
    assert found.credits[-1].credit_id == second.remote_id
    assert [one["reference"] for one in sandbox.stored(reference)[0]["credits"]] == ["88", "88"]


def test_given_a_credit_of_an_order_that_is_not_there_when_sent_then_not_found(
    sandbox: Sandbox, reference: str
) -> None:
    with pytest.raises(errors.NotFound):
        ERP.send(sandbox.access(), credit(reference, "SO999999", refund()))


@pytest.mark.parametrize("kind", [StepKind.UPDATE, StepKind.CANCEL])
def test_given_an_id_that_is_not_there_when_sent_then_not_found(
    sandbox: Sandbox, reference: str, kind: StepKind
) -> None:
    with pytest.raises(errors.NotFound):
        ERP.send(sandbox.access(), step(kind, reference, "SO999999", order()))


def test_given_every_route_when_asked_then_its_answers_are_of_the_contract(
    sandbox: Sandbox, reference: str
) -> None:
    made = create(reference)
    ask = asking(sandbox)
    answers = {
        "created": (ask("POST", "/orders", made.key, made.body), 201, "OrderResource"),
        "repeated": (ask("POST", "/orders", made.key, made.body), 201, "OrderResource"),
        "found": (ask("GET", f"/orders?reference={reference}"), 200, "OrderList"),
        "none found": (ask("GET", "/orders?reference=none"), 200, "OrderList"),
        "no reference": (ask("GET", "/orders"), 422, "Problem"),
        "reused": (ask("POST", "/orders", made.key, create(reference, order(1, "10.00")).body), 409, "Problem"),
        "no key": (ask("POST", "/orders", None, made.body), 422, "Problem"),
        "not json": (ask("POST", "/orders", made.key + "2", b"<html>"), 422, "Problem"),
        "off by one": (ask("POST", "/orders", "x", create(reference, order(1, "9.99")).body), 422, "Problem"),
        "unknown id": (ask("GET", "/orders/SO999999"), 404, "Problem"),
        "unknown path": (ask("GET", "/invoices"), 404, "Problem"),
        "wrong method": (ask("POST", "/health"), 405, "Problem"),
        "health": (ask("GET", "/health"), 200, None),
        "no token": (Http(sandbox.url).request("GET", "/health"), 401, "Problem"),
    }
    remote_id = answers["created"][0].json()["id"]
    back, path = credit(reference, remote_id, refund()), f"/orders/{remote_id}/credits"
    off = credit(reference, remote_id, refund("3.99", "77"))
    dollars = back.body.replace(b'"EUR"', b'"USD"').replace(b":credit:88", b":credit:99")
    answers |= {
        "credited": (ask("POST", path, back.key, back.body), 201, "OrderResource"),
        "credited again": (ask("POST", path, back.key, back.body), 201, "OrderResource"),
        "credit reused": (ask("POST", path, made.key, back.body), 409, "Problem"),
        "credit off": (ask("POST", path, off.key, off.body), 422, "Problem"),
        "credit in dollars": (ask("POST", path, f"{reference}:credit:99", dollars), 422, "Problem"),
        "credit of none": (ask("POST", "/orders/SO999999/credits", off.key + "2", off.body), 422, "Problem"),
        "credits read": (ask("GET", path), 405, "Problem"),
    }
    answers["read"] = (ask("GET", f"/orders/{remote_id}"), 200, "OrderResource")
    for name, (answer, status, schema) in answers.items():
        assert answer.status == status, name
        if schema is not None:
            openapi.check(answer.json(), schema)
        wanted = "application/problem+json" if schema == "Problem" else "application/json"
        assert answer.headers["Content-Type"] == wanted, name
    assert answers["repeated"][0].body == answers["created"][0].body


def asking(sandbox: Sandbox) -> Callable[..., Answer]:
    def ask(method: str, path: str, key: str | None = None, body: bytes | None = None) -> Answer:
        headers = {"Authorization": "Bearer made-up", **({"Idempotency-Key": key} if key else {})}
        return Http(sandbox.url).request(method, path, headers=headers, body=body)

    return ask


# Faults


@pytest.mark.parametrize(
    ("settings", "expected", "in_doubt", "stored"),
    [
        ({"error_429": {"count": 1}}, errors.Throttled, None, 0),
        ({"error_503": {"count": 1}}, errors.Throttled, None, 0),
        ({"error_503": {"count": 1}, "retry_after_seconds": None}, errors.Transient, False, 0),
        ({"error_500": {"count": 1}}, errors.Transient, True, 0),
        ({"drop_before_effect": {"count": 1}}, errors.Transient, True, 0),
        ({"down": True}, errors.Transient, True, 0),
        ({"refuse_token": True}, errors.Unauthorized, None, 0),
        ({"error_500_after_effect": {"count": 1}}, errors.Transient, True, 1),
        ({"error_504_after_effect": {"count": 1}}, errors.Transient, True, 1),
        ({"drop_after_effect": {"count": 1}}, errors.Transient, True, 1),
        ({"drip": {"count": 1}, "drip_ms": 500}, errors.Transient, True, 1),
    ],
    ids=str,
)
def test_given_a_fault_when_sent_then_its_error_and_the_same_bytes_again_make_exactly_one_order(
    sandbox: Sandbox,
    reference: str,
    settings: dict[str, Any],
    expected: type[errors.IntegratorError],
    in_doubt: bool | None,
    stored: int,
) -> None:
    sandbox.control(**settings)
    with pytest.raises(expected) as raised:
        ERP.send(sandbox.access(deadline_seconds=2.0), create(reference))
    assert type(raised.value) is expected
    assert getattr(raised.value, "in_doubt", None) is in_doubt
    assert len(sandbox.stored(reference)) == stored
    sandbox.control(down=False, refuse_token=False)
    receipt = ERP.send(sandbox.access(), create(reference))
    assert [record["id"] for record in sandbox.stored(reference)] == [receipt.remote_id]


def test_given_a_system_slower_than_the_deadline_when_sent_then_in_doubt_and_the_order_appears_later(
    sandbox: Sandbox, reference: str
) -> None:
    sandbox.control(latency_ms=600)
    with pytest.raises(errors.Transient) as raised:
        ERP.send(sandbox.access(deadline_seconds=0.2), create(reference))
    assert raised.value.in_doubt
    sandbox.control(latency_ms=0)
    assert until(lambda: ERP.look_up(sandbox.access(), reference))


def test_given_a_late_commit_when_sent_again_meanwhile_then_in_progress_and_at_the_end_one_order(
    sandbox: Sandbox, reference: str
) -> None:
    sandbox.control(late_commit={"count": 1}, late_commit_min_seconds=2, late_commit_max_seconds=2)
    with pytest.raises(errors.Transient, match="cut the connection"):
        ERP.send(sandbox.access(), create(reference))
    assert ERP.look_up(sandbox.access(), reference) == []
    with pytest.raises(errors.Transient, match="same key") as raised:
        ERP.send(sandbox.access(), create(reference))
    assert raised.value.in_doubt
    [found] = until(lambda: ERP.look_up(sandbox.access(), reference))
    assert ERP.send(sandbox.access(), create(reference)).remote_id == found.remote_id
    assert len(sandbox.stored(reference)) == 1


def test_given_a_system_that_forgets_keys_when_sent_again_then_the_duplicate_is_visible(
    sandbox: Sandbox, reference: str
) -> None:
    sandbox.control(forget_keys=True, drop_after_effect={"count": 1})
    with pytest.raises(errors.Transient):
        ERP.send(sandbox.access(), create(reference))
    [first] = ERP.look_up(sandbox.access(), reference)
    second = ERP.send(sandbox.access(), create(reference))
    assert [found.remote_id for found in ERP.look_up(sandbox.access(), reference)] == [
        first.remote_id,
        second.remote_id,
    ]
    assert [record["applied_keys"] for record in sandbox.stored(reference)] == [[f"{reference}:create"]] * 2


def test_given_a_system_that_forgets_keys_when_a_late_commit_follows_a_resend_then_both_orders_are_there(
    sandbox: Sandbox, reference: str
) -> None:
    sandbox.control(
        forget_keys=True, late_commit={"count": 1}, late_commit_min_seconds=0.5, late_commit_max_seconds=0.5
    )
    with pytest.raises(errors.Transient):
        ERP.send(sandbox.access(), create(reference))
    ERP.send(sandbox.access(), create(reference))
    assert until(lambda: len(sandbox.stored(reference)) == 2)


def test_given_the_same_key_at_the_same_time_when_sent_by_many_then_one_order(
    sandbox: Sandbox, reference: str
) -> None:
    sandbox.control(latency_ms=50)

    def send(_: int) -> str:
        try:
            return ERP.send(sandbox.access(), create(reference)).remote_id
        except errors.Transient as error:
            return f"in doubt: {error.in_doubt}"

    with ThreadPoolExecutor(8) as pool:
        outcomes = set(pool.map(send, range(24)))
    [record] = sandbox.stored(reference)
    assert outcomes == {record["id"], "in doubt: True"}


def test_given_a_seed_when_the_same_requests_are_made_again_then_the_same_ones_fail(sandbox: Sandbox) -> None:
    ask = asking(sandbox)
    runs = []
    for _ in range(2):
        sandbox.control(seed=7, error_500=0.5)
        runs.append([ask("GET", "/health").status for _ in range(20)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


def test_given_a_fault_for_one_kind_of_request_when_others_are_made_then_they_pass(
    sandbox: Sandbox, reference: str
) -> None:
    sandbox.control(error_503={"on": ["create"]})
    assert ERP.look_up(sandbox.access(), reference) == []
    with pytest.raises(errors.Throttled) as raised:
        ERP.send(sandbox.access(), create(reference))
    assert raised.value.retry_after_seconds == 1
    report = sandbox.control("GET")
    assert (report["requests"], report["faults"]) == ({"find": 1, "create": 1}, {"error_503": 1})


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"unheard_of": 1}', b'{"drip": 2}', b'{"latency_ms": -1}'])
def test_given_a_setting_that_does_not_exist_when_set_then_refused_and_nothing_changes(
    sandbox: Sandbox, body: bytes
) -> None:
    before = sandbox.control("GET")["settings"]
    answer = Http(sandbox.url).request("POST", "/_sandbox", body=body)
    assert answer.status == 422
    openapi.check(answer.json(), "Problem")
    assert sandbox.control("GET")["settings"] == before


def test_given_many_orders_when_paged_then_each_once_and_the_counts_are_right(sandbox: Sandbox) -> None:
    before = sandbox.control("GET", "/_sandbox/orders")
    reference = f"shop-1/{uuid.uuid4()}"
    for number in range(5):
        action = Action(StepKind.CREATE, f"{reference}:{number}", reference, None, order())
        ERP.send(sandbox.access(), ERP.prepare(action))
    stored = sandbox.stored(reference, limit=2)
    assert [record["applied_keys"] for record in stored] == [[f"{reference}:{number}"] for number in range(5)]
    after = sandbox.control("GET", "/_sandbox/orders")
    assert (after["creates"] - before["creates"], after["references"] - before["references"]) == (5, 1)


# The process


def test_given_answered_orders_when_killed_and_started_again_then_it_knows_each_under_its_key(
    start: Callable[..., Sandbox], reference: str
) -> None:
    sandbox = start()
    answered: dict[str, str] = {}

    def send(number: int) -> None:
        one = f"{reference}/{number}"
        try:
            answered[one] = ERP.send(sandbox.access(deadline_seconds=5), create(one)).remote_id
        except errors.Transient:
            return
        if len(answered) == 50:
            sandbox.process.kill()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(200)))
    sandbox.stop()
    sandbox.start()
    assert 50 <= len(answered) < 200
    for one, remote_id in answered.items():
        assert ERP.send(sandbox.access(), create(one)).remote_id == remote_id
    page = sandbox.control("GET", "/_sandbox/orders?limit=5000")
    assert page["creates"] == page["references"]


def test_given_a_request_under_way_when_killed_then_nothing_of_it_is_kept(
    start: Callable[..., Sandbox], reference: str
) -> None:
    sandbox = start()
    sandbox.control(late_commit=True, late_commit_min_seconds=60, late_commit_max_seconds=60)
    with pytest.raises(errors.Transient):
        ERP.send(sandbox.access(), create(reference))
    sandbox.stop()
    sandbox.start()
    assert sandbox.stored(reference) == []
    ERP.send(sandbox.access(), create(reference))
    assert len(sandbox.stored(reference)) == 1


def test_given_a_token_when_started_then_no_other_is_taken_and_sigterm_ends_it_well(
    start: Callable[..., Sandbox], reference: str
) -> None:
    sandbox = start("--token", "the-only-one")
    with pytest.raises(errors.Unauthorized):
        ERP.look_up(sandbox.access(token="another"), reference)
    assert ERP.look_up(sandbox.access(token="the-only-one"), reference) == []
    assert sandbox.stop(signal.SIGTERM) == (0, "")
