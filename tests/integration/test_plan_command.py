"""Plans by the command and by the tenants' file: what they change, what they say, and what they refuse."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import select, update

from integrator.clock import EPOCH
from integrator.config import settings
from integrator.ledger.engine import Ledger
from integrator.ledger.limits import draw, key_of_gate, read_plan
from integrator.ledger.schema import gates
from integrator.plans import Plan, Purpose
from tasks.commands import pause
from tasks.plan_command import plan
from tests.support import make_tenant
from tests.webhooks import ENVIRONMENT, tenant
from web import create_app

Run = Callable[..., Result]


@pytest.fixture
def run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("INTEGRATOR_LEDGER_URL", ledger.url.render_as_string(hide_password=False))
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(plan, arguments, catch_exceptions=False)
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def apply(ledger: Ledger, tmp_path: Path) -> Run:
    def run(said: dict[str, Any] | None) -> Result:
        content = tenant()
        if said is not None:
            content["erps"][0]["plan"] = said
        path = tmp_path / "tenants.yaml"
        path.write_text(yaml.safe_dump({"tenants": [content]}))
        cli = create_app(ledger=ledger).test_cli_runner()
        return cli.invoke(args=["tenants", "apply", str(path)], env=ENVIRONMENT)

    return run


def stored(ledger: Ledger, gate_id: int = 1) -> Plan:
    with ledger.read() as connection:
        return read_plan(connection, gate_id)


def shut(ledger: Ledger) -> bool:
    with ledger.read() as connection:
        return bool(connection.execute(select(gates.c.quota_until)).scalar_one() != EPOCH)


def test_given_no_plan_when_shown_then_the_default_and_what_is_used(ledger: Ledger, run: Run) -> None:
    world = make_tenant(ledger)
    with ledger.write() as connection:
        draw(connection, key_of_gate(world.gate_id), Plan(), Purpose.ORDERS)
    assert run("acme").output == (
        "acme/main: 10/s (burst 1), 3 of 300 used today (UTC), 20 % kept for orders, window 8, "
        "retried within 2 s to 3600 s\n"
    )


def test_given_a_change_when_made_then_the_rest_stays_and_the_gate_that_it_shut_opens(
    ledger: Ledger, run: Run
) -> None:
    make_tenant(ledger)
    assert run("acme", "--per-day", "500", "--time-zone", "Europe/Madrid").exit_code == 0
    with ledger.write() as connection:
        connection.execute(update(gates).values(quota_until=datetime.now(UTC) + timedelta(hours=5)))
    (shown,) = orjson.loads(run("acme", "--per-second", "2.5", "--window", "3", "--json").output)
    assert {name: shown[name] for name in ("per_second", "per_day", "time_zone", "burst", "window")} == {
        "per_second": 2.5,
        "per_day": 500,
        "time_zone": "Europe/Madrid",
        "burst": 1,
        "window": 3,
    }
    assert stored(ledger).version == 2
    assert not shut(ledger)
    run("acme", "--default")
    assert (stored(ledger), stored(ledger).version) == (Plan(), 3)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (("--per-second", "0"), "--per-second: Input should be greater"),
        (("--per-second", "nan"), "--per-second"),
        (("--per-day", "-1"), "--per-day: Input should be greater"),
        (("--per-day", "1000000000000"), "--per-day: Input should be less"),
        (("--burst", "0"), "--burst"),
        (("--time-zone", "Mars/Olympus"), "is no time zone"),
        (("--order-percent", "100"), "--order-percent"),
        (("--window", "0"), "--window"),
        (("--per-second", "many"), "--per-second"),
    ],
)
def test_given_a_plan_that_makes_no_sense_when_given_then_it_is_said_and_nothing_changes(
    ledger: Ledger, run: Run, wrong: tuple[str, ...], why: str
) -> None:
    make_tenant(ledger)
    result = run("acme", "--per-day", "77", *wrong) if wrong[0] != "--per-day" else run("acme", *wrong)
    assert result.exit_code != 0
    assert why in result.output
    assert "Traceback" not in result.output
    assert (stored(ledger), stored(ledger).version) == (Plan(), 0)


@pytest.mark.parametrize("command", [plan, pause], ids=["plan", "pause"])
def test_given_an_unknown_tenant_when_named_then_it_is_said(ledger: Ledger, run: Run, command: Any) -> None:
    make_tenant(ledger)
    for names, said in (
        (("nobody",), "There is no tenant nobody"),
        (("acme", "--erp", "other"), "There is no management system acme/other"),
    ):
        result = CliRunner().invoke(command, names)
        assert result.exit_code == 1
        assert said in result.output
        assert "Nothing was changed" in result.output


def test_given_two_tenants_when_one_is_changed_then_the_other_is_not(ledger: Ledger, run: Run) -> None:
    first, second = make_tenant(ledger), make_tenant(ledger, "bolt")
    run("acme", "--per-day", "5")
    assert (stored(ledger, first.gate_id).per_day, stored(ledger, second.gate_id).per_day) == (5, 300)


def test_given_a_plan_in_the_file_when_applied_then_it_is_the_whole_plan_and_without_one_it_stays(
    ledger: Ledger, apply: Run
) -> None:
    assert "own: added" in apply({"per_day": 1_000, "per_second": 4}).output
    assert stored(ledger) == Plan(per_day=1_000, per_second=4)
    assert apply({"per_day": 1_000, "per_second": 4}).output == "nothing to change\n"
    assert "changed per_second, time_zone" in apply({"per_day": 1_000, "time_zone": "Asia/Tokyo"}).output
    assert stored(ledger) == Plan(per_day=1_000, time_zone="Asia/Tokyo")
    assert apply(None).output == "nothing to change\n"
    assert stored(ledger).per_day == 1_000


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"per_day": 0}, "tenants[0].erps[0].plan.per_day: Input should be greater than or equal to 1"),
        ({"per_second": -3}, "plan.per_second: Input should be greater"),
        ({"time_zone": "Mars/Olympus"}, "plan.time_zone: is no time zone; write one like America/"),
        ({"per_hour": 3}, "plan.per_hour: Extra inputs"),
    ],
)
def test_given_a_file_with_an_absurd_plan_when_applied_then_it_is_said_where_and_nothing_changes(
    sqlite_ledger: Ledger, tmp_path: Path, wrong: dict[str, Any], where: str
) -> None:
    content = tenant()
    content["erps"][0]["plan"] = wrong
    path = tmp_path / "tenants.yaml"
    path.write_text(yaml.safe_dump({"tenants": [content]}))
    cli = create_app(ledger=sqlite_ledger).test_cli_runner()
    result = cli.invoke(args=["tenants", "apply", str(path)], env=ENVIRONMENT)
    assert result.exit_code == 1
    assert where in result.output
    with sqlite_ledger.read() as connection:
        assert connection.execute(select(gates.c.id)).first() is None
