"""`tenants check`: against the sandbox's shops and management system, well and ill."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask.cli import FlaskGroup

from integrator import checkup
from integrator.checkup import CLOCK_SECONDS
from integrator.config import Settings
from integrator.ledger.engine import Ledger
from integrator.ledger.tenants import File, apply
from integrator.secrets import key_ring
from sandbox.erp import Handler, Server
from sandbox.erp_system import System
from sandbox.shop import ShopSimulation
from sandbox.woo import WooSimulation
from tests.webhooks import ENVIRONMENT, JSON, shop, tenant, woo_shop
from web import create_app

DEADLINE_SECONDS = 1
GOOD = {"SHOPIFY_TOKEN": "sandbox-access-token", "WOO_KEY": "ck_sandbox", "WOO_SECRET": "cs_sandbox"}

Run = Callable[..., Result]


@pytest.fixture
def erp(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path / "erp.sqlite3", "a-token")
    with Server(("127.0.0.1", 0), type("Given", (Handler,), {"system": system})) as server:
        system.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield system
        server.shutdown()
    system.store.close()


@pytest.fixture
def shopify() -> Iterator[ShopSimulation]:
    with ShopSimulation(1, domain="de.myshopify.com") as simulation:
        yield simulation


@pytest.fixture
def woo() -> Iterator[WooSimulation]:
    with WooSimulation(1) as simulation:
        yield simulation


@pytest.fixture
def run(sqlite_ledger: Ledger) -> Run:
    def run(*arguments: str) -> Result:
        group = FlaskGroup(create_app=lambda: create_app(Settings(), ledger=sqlite_ledger), load_dotenv=False)
        return CliRunner().invoke(group, ["tenants", "check", *arguments], catch_exceptions=False)

    return run


@pytest.fixture
def store(sqlite_ledger: Ledger, erp: System, shopify: ShopSimulation, woo: WooSimulation) -> Callable[..., None]:
    """Stores acme with both shops and the management system of the sandbox."""

    def store(environment: dict[str, str] | None = None, **changes: Any) -> None:
        secrets = {"consumer_key": {"env": "WOO_KEY"}, "consumer_secret": {"env": "WOO_SECRET"}}
        shops = [
            shop(config=shopify.config, secrets=signed(access_token={"env": "SHOPIFY_TOKEN"})),
            woo_shop("at", "KEY_2", config=woo.config, secrets=signed(**secrets)),
        ]
        own = {
            "slug": "own",
            "kind": "rest",
            "config": {"url": erp.url, "deadline_seconds": DEADLINE_SECONDS},  # type: ignore[attr-defined]
            "secrets": {"token": {"env": "TOKEN"}},
        }
        document = {"tenants": [tenant("acme", *shops, erps=[own]) | changes]}
        with sqlite_ledger.write() as connection:
            apply(connection, File.model_validate(document), ENVIRONMENT | GOOD | (environment or {}), key_ring())

    return store


def signed(**secrets: JSON) -> JSON:
    return {"webhook": [{"env": "NEW"}], **secrets}


def wrong(result: Result) -> dict[str, JSON]:
    """What is wrong, by the slug of the part; everything else is well."""
    assert result.exit_code == 1
    return {one["slug"]: one for one in json.loads(result.stdout)["checks"] if not one["ok"]}


def test_given_all_is_well_when_checked_then_there_is_a_line_each(run: Run, store: Callable[..., None]) -> None:
    store()

    result = run()

    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split(" answers ")[0] for line in result.stdout.splitlines()] == [
        "ok     acme: management system own (rest)",
        "ok     acme: shop at (woocommerce)",
        "ok     acme: shop de (shopify)",
    ]


def test_given_dead_credentials_when_checked_then_each_is_said_with_what_to_do(
    run: Run, store: Callable[..., None], sqlite_ledger: Ledger
) -> None:
    dead = {"TOKEN": "dead-1", "SHOPIFY_TOKEN": "dead-2", "WOO_KEY": "ck_dead"}
    store(dead)

    found = wrong(run("--json"))

    assert found.keys() == {"own", "de", "at"}
    for one in found.values():
        assert "answered 401" in one["problem"]
        assert "Store new credentials with `flask --app web tenants apply`" in one["remedy"]
    said = run().output
    assert all(secret not in said for secret in dead.values())


def test_given_a_system_that_is_down_when_checked_then_it_alone_is_wrong(
    run: Run, store: Callable[..., None], erp: System
) -> None:
    store()
    erp.faults.change({"down": True})

    found = wrong(run("--json"))

    assert found.keys() == {"own"}
    assert found["own"]["problem"] == "127.0.0.1 cut the connection"
    assert found["own"]["remedy"].startswith("Check that it is up")


def test_given_a_shop_that_is_gone_when_checked_then_it_alone_is_wrong(
    run: Run, store: Callable[..., None], woo: WooSimulation
) -> None:
    store()
    woo.close()

    found = wrong(run("acme", "--json"))

    assert found.keys() == {"at"}
    assert "refused the connection" in found["at"]["problem"]


def test_given_a_system_slower_than_its_deadline_when_checked_then_the_deadline_is_named(
    run: Run, store: Callable[..., None], erp: System
) -> None:
    store()
    erp.faults.change({"latency_ms": DEADLINE_SECONDS * 1_500})

    found = wrong(run("--json"))

    assert found.keys() == {"own"}
    assert found["own"]["problem"] == f"127.0.0.1 did not answer in full within {DEADLINE_SECONDS} s"


@pytest.mark.parametrize(("ahead", "says"), [(3_600, "ahead of"), (-3_600, "behind")])
def test_given_a_clock_that_is_off_when_checked_then_it_is_said(
    run: Run, store: Callable[..., None], erp: System, ahead: int, says: str
) -> None:
    store()
    erp.faults.change({"clock_seconds": ahead})

    found = wrong(run("--json"))

    assert found.keys() == {"own"}
    assert says in found["own"]["problem"]
    assert abs(found["own"]["clock_ahead_seconds"] - ahead) < CLOCK_SECONDS
    assert "NTP" in found["own"]["remedy"]


def test_given_a_clock_within_a_minute_when_checked_then_that_is_well(
    run: Run, store: Callable[..., None], erp: System
) -> None:
    store()
    erp.faults.change({"clock_seconds": CLOCK_SECONDS // 2})

    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (429, b"{}", "Check again then"),
        (403, b"{}", "Store new credentials"),
        (404, b"{}", "Check the address"),
        (200, b'{"shop": {"myshopify_domain": "other.myshopify.com"}}', "Correct the shop's domain"),
        (200, b"<html>maintenance</html>", "Check that it is up"),
        (500, b"", "Check that it is up"),
    ],
)
def test_given_an_answer_that_is_not_well_when_checked_then_what_to_do_fits_it(
    run: Run, store: Callable[..., None], shopify: ShopSimulation, status: int, body: bytes, remedy: str
) -> None:
    store()
    shopify.state.plan(status, body=body)

    found = wrong(run("--json"))

    assert found.keys() == {"de"}
    assert found["de"]["remedy"].startswith(remedy) or remedy in found["de"]["remedy"]


def test_given_a_token_that_may_not_read_orders_when_checked_then_it_is_refused(
    run: Run, store: Callable[..., None], shopify: ShopSimulation
) -> None:
    store()
    shopify.state.plan(200, body=b'{"shop": {"myshopify_domain": "de.myshopify.com"}}')
    shopify.state.plan(403)

    assert "answered 403" in wrong(run("--json"))["de"]["problem"]


def test_given_a_connector_that_breaks_when_checked_then_the_others_are_told_all_the_same(
    run: Run, store: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: object, _access: object) -> None:
        raise RuntimeError("private")

    store()
    monkeypatch.setattr("integrator.shops.shopify.Shopify.check", broken)

    result = run("--json")

    assert wrong(result)["de"]["problem"] == "the connector failed with RuntimeError"
    assert "private" not in result.stdout


def test_given_inactive_parts_when_checked_then_only_a_named_tenant_is_asked(
    run: Run, store: Callable[..., None], sqlite_ledger: Ledger
) -> None:
    store(active=False)

    assert "There are no active tenants" in run().stderr
    assert run("acme").exit_code == 0
    assert "There is no tenant nobody" in run("nobody").stderr
    with sqlite_ledger.read() as connection:
        assert checkup.parts(connection, key_ring()) == []
