"""The example in docs/howto/write-your-management-system.md, against the connector."""

import importlib.util
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from integrator import errors
from integrator.documents import Fee, Money, Order, Tax
from integrator.erps.base import Action, ErpAccess, StepKind
from integrator.erps.rest import RestErp
from integrator.http import Http
from tests.support import moved, order, refund

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "management_system.py"
PAGE = ROOT / "docs" / "howto" / "write-your-management-system.md"
ERP = RestErp()


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ErpAccess]:
    monkeypatch.setenv("ERP_TOKEN", "secret")
    monkeypatch.setenv("ERP_FILE", str(tmp_path / "erp.sqlite3"))
    spec = importlib.util.spec_from_file_location("management_system", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    server = make_server("127.0.0.1", 0, example.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    yield ErpAccess({"url": url}, {"token": "secret"}, Http(url))
    server.shutdown()
    thread.join()
    server.server_close()
    example.db.close()


def action(kind: StepKind = StepKind.CREATE, document: Order | None = None, **changes: Any) -> Action:
    document = document or order()
    made = Action(kind, f"acme/erp/shop/order/1001/{kind}", "shop/1001", None, document)
    return replace(made, **changes)


def do(access: ErpAccess, wanted: Action) -> tuple[str, Money | None]:
    receipt = ERP.send(access, ERP.prepare(wanted))
    return receipt.remote_id, receipt.total


def test_given_the_page_when_read_then_its_code_is_the_example() -> None:
    blocks = PAGE.read_text().split("```python\n")

    assert blocks[1].partition("```")[0] == EXAMPLE.read_text()


def test_given_an_order_when_it_lives_then_each_effect_happens_once(access: ErpAccess) -> None:
    changed, back = order(quantity=2), refund()
    steps = [
        action(),
        action(StepKind.UPDATE, changed, remote_id="1"),
        action(StepKind.CREDIT, changed, remote_id="1", refund=back),
        action(StepKind.CANCEL, moved(changed, cancelled_at=changed.placed_at), remote_id="1"),
    ]

    first = [do(access, step) for step in steps]
    again = [do(access, step) for step in steps]

    assert first == again
    assert first[0] == ("1", order().total)
    assert first[2] == ("1-1", back.total)
    (found,) = ERP.look_up(access, "shop/1001")
    assert (found.remote_id, found.cancelled, found.total) == ("1", True, changed.total)
    assert found.applied_keys == {step.key for step in steps}
    assert len(found.credits) == 1


def test_given_added_taxes_and_fees_when_created_then_its_total_is_ours(access: ErpAccess) -> None:
    def euros(amount: str) -> Money:
        return Money(amount=Decimal(amount), currency="EUR")

    fee = Fee(title="Gift wrap", amount=euros("2.00"), taxes=(Tax(title="VAT", amount=euros("0.40")),))
    document = moved(order(), taxes_included=False, fees=(fee,), total=euros("12.40"))

    assert do(access, action(document=document)) == ("1", euros("12.40"))


def test_given_a_total_that_is_wrong_when_created_then_it_is_refused_and_the_key_stays_free(
    access: ErpAccess,
) -> None:
    wrong = moved(order(), total=Money(amount=Decimal("9.99"), currency="EUR"))

    with pytest.raises(errors.TotalMismatch, match=r"the system's total is 10\.00 EUR"):
        do(access, action(document=wrong))

    assert ERP.look_up(access, "shop/1001") == []
    assert do(access, action())[0] == "1"


def test_given_a_key_for_other_bytes_an_order_that_is_gone_or_cancelled_when_asked_then_it_refuses(
    access: ErpAccess,
) -> None:
    do(access, action())
    do(access, action(StepKind.CANCEL, remote_id="1"))

    for kind, wanted in (
        (errors.Conflict, action(document=order(quantity=3))),
        (errors.Conflict, action(StepKind.UPDATE, remote_id="1")),
        (errors.NotFound, action(StepKind.UPDATE, remote_id="7", key="another")),
    ):
        with pytest.raises(kind):
            do(access, wanted)


def test_given_a_token_when_checked_then_a_wrong_one_is_told(access: ErpAccess) -> None:
    assert ERP.check(access) is not None
    with pytest.raises(errors.Unauthorized):
        ERP.check(replace(access, secrets={"token": "other"}))
