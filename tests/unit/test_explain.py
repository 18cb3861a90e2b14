"""What `flask --app web explain` says of every payload that we have, and that it says no less than all of it."""

import json
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask.cli import FlaskGroup

from integrator.config import Settings
from integrator.explain import Explanation, Verdict, explain
from integrator.ledger.engine import Ledger
from web import create_app

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
FIXTURES = ROOT.parent / "shared" / "fixtures"
TABLE = tomllib.loads((ROOT / "tests" / "fixtures.toml").read_text())
PLATFORMS = ("shopify", "woocommerce")


def files(folder: Path) -> list[str]:
    return sorted(f"{platform}/{path.name}" for platform in PLATFORMS for path in (folder / platform).iterdir())


def of_file(folder: Path, name: str, row: dict[str, Any]) -> Explanation:
    return explain(name.partition("/")[0], row["topic"], (folder / name).read_bytes())


def said(found: Explanation) -> dict[str, Any]:
    """What the table says of a file, but for its topic."""
    text = found.error.message if found.error and found.verdict is Verdict.HELD else found.reason
    steps = [" ".join([step.kind, *([step.refund.external_id] if step.refund else [])]) for step in found.steps]
    return {"verdict": found.verdict.value, "steps": steps, "text": text or ""}


def check(folder: Path, table: dict[str, dict[str, Any]]) -> None:
    assert sorted(table) == files(folder), "say in tests/fixtures.toml what is expected of each file"
    for name, row in table.items():
        found = said(of_file(folder, name, row))
        assert (found["verdict"], found["steps"]) == (row["verdict"], row.get("steps", [])), (name, found)
        assert row.get("says", "") in found["text"], (name, found)
        assert row.get("steps") or row.get("says"), f"{name}: the table says too little"


def test_given_our_samples_when_explained_then_each_is_what_the_table_says() -> None:
    check(SAMPLES, TABLE["samples"])


def test_given_the_platforms_own_payloads_when_explained_then_each_is_what_the_table_says() -> None:
    if not FIXTURES.is_dir():
        pytest.skip("../shared/fixtures is not there")
    check(FIXTURES, TABLE["fixtures"])


@pytest.mark.parametrize("tolerance", ["0", "0.01"])
def test_given_an_order_that_is_off_by_a_cent_when_explained_then_the_tolerance_decides(tolerance: str) -> None:
    body = json.loads((SAMPLES / "shopify/orders_create.json").read_bytes())
    body["total_price"] = str(Decimal(body["total_price"]) + Decimal("0.01"))
    body.pop("total_price_set", None)

    found = explain("shopify", "orders/create", json.dumps(body).encode(), Decimal(tolerance))

    assert found.verdict is (Verdict.HELD if tolerance == "0" else Verdict.MAPPED)
    assert found.as_dict()["sums"]["difference"] == "-0.01"
    assert found.as_dict()["document"]["external_id"] == found.order_id


@pytest.mark.parametrize(
    ("body", "verdict", "says"),
    [
        (b"", Verdict.NOT_AN_ORDER, "not strict JSON"),
        (b'{"id": 0}', Verdict.NOT_AN_ORDER, "no readable id"),
        (b'{"id": 7, "updated_at": "2026-03-01T12:00:00Z"}', Verdict.HELD, "currency is not a currency"),
        (b'{"id": 7}', Verdict.NOT_AN_ORDER, "neither a time of its content nor a currency"),
        (b'{"id": 7, "currency": "EUR"}', Verdict.FETCH, "says no time"),
    ],
)
def test_given_a_body_that_holds_no_order_when_explained_then_it_is_said(
    body: bytes, verdict: Verdict, says: str
) -> None:
    found = explain("shopify", "orders/create", body)

    assert found.verdict is verdict
    assert says in json.dumps(found.as_dict())
    assert found.steps == ()


# The command


def run(*arguments: str, given: bytes = b"") -> Result:
    """Runs the command as the shell does, with a ledger that nobody can open and without keys."""
    ledger = Ledger("sqlite:////proc/nothing/ledger.sqlite3")
    group = FlaskGroup(create_app=lambda: create_app(Settings(secret_keys=()), ledger=ledger), load_dotenv=False)
    return CliRunner().invoke(group, ["explain", *arguments], input=given, catch_exceptions=False)


def test_given_an_order_when_explained_then_all_is_said_as_json() -> None:
    result = run("woocommerce", "order.updated", str(SAMPLES / "woocommerce/order.updated-coupon-fees.json"))

    told = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (told["verdict"], told["steps"], told["error"]) == ("mapped", [{"kind": "create"}], None)
    assert told["sums"]["difference"] == "0.00"
    assert told["sums"]["sentence"].startswith("lines ")
    assert told["document"]["lines"][0]["unit_price"]["amount"]


def test_given_refunds_when_explained_then_each_is_a_step_with_its_sums() -> None:
    path = next((SAMPLES / "shopify").glob("orders_updated-refunded.json"), None)
    if path is None:
        pytest.skip("there is no such sample")
    told = json.loads(run("shopify", "orders/updated", str(path)).stdout)

    refunds = [step["refund"] for step in told["steps"] if step["kind"] == "credit"]
    assert refunds == [refund["external_id"] for refund in told["document"]["refunds"]]
    assert told["sums"]["refunds"].keys() == set(refunds)


def test_given_an_order_that_does_not_add_up_when_explained_then_it_is_held_with_what_to_do() -> None:
    body = (SAMPLES / "shopify/orders_create.json").read_bytes()
    order = json.loads(body)
    order["line_items"][0]["quantity"] += 1

    result = run("shopify", "orders/create", "-", given=json.dumps(order).encode())

    told = json.loads(result.stdout)
    assert (result.exit_code, told["verdict"], told["error"]["class"]) == (0, "held", "TotalMismatch")
    assert "off by" in told["error"]["message"]
    assert "requeue" in told["error"]["remedy"]
    assert told["document"]


def test_given_a_topic_of_something_else_when_explained_then_it_is_said_with_status_2() -> None:
    result = run("shopify", "app/uninstalled", "-", given=b"{}")

    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (2, "not an order")
    assert result.stderr.startswith("Not an order: app/uninstalled is no topic of orders")


def test_given_a_platform_or_a_file_that_is_not_there_when_explained_then_a_sentence_says_so() -> None:
    nobody = run("nobody", "orders/create", "-")
    nothing = run("shopify", "orders/create", "/no/such/file.json")

    assert (nobody.exit_code, nothing.exit_code) == (2, 2)
    assert "installed are shopify, woocommerce" in nobody.stderr
    assert "/no/such/file.json" in nothing.stderr
