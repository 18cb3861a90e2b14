"""`syncs list` and `syncs errors`: what an operator sees of what is held, and that nothing private is in it."""

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from click import Command
from click.testing import CliRunner, Result
from sqlalchemy import insert

from integrator.config import settings
from integrator.ledger import transitions
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Failure
from integrator.ledger.schema import State, steps
from tasks import commands
from tests.support import T0, World, deliver, delivery, make_tenant, order

Run = Callable[..., Result]


@pytest.fixture
def run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("INTEGRATOR_LEDGER_URL", ledger.url.render_as_string(hide_password=False))
    settings.cache_clear()

    def invoke(command: Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments, catch_exceptions=False)

    yield invoke
    monkeypatch.undo()
    settings.cache_clear()


def stop(ledger: Ledger, world: World, number: str, fingerprint: str, state: State = State.HELD) -> int:
    (kept,) = deliver(ledger, delivery(world, order(number)))
    assert kept.sync_id is not None
    failure = Failure("Unmapped", fingerprint, f"SKU of {fingerprint} is not known", "1 Private Road", "add it")
    with ledger.write() as connection:
        transitions.ring(connection, [kept.sync_id])
        won = transitions.claim(connection, world.tenant, kept.sync_id, worker="w")
        assert won is not None
        assert transitions.stop(connection, kept.sync_id, won.claim, failure, state=state)
    return kept.sync_id


@pytest.fixture
def stopped(ledger: Ledger) -> list[int]:
    acme, globex = make_tenant(ledger), make_tenant(ledger, "globex")
    deliver(ledger, delivery(acme, order("9")))
    return [
        stop(ledger, acme, "1", "aaa"),
        stop(ledger, acme, "2", "aaa"),
        stop(ledger, acme, "3", "bbb", State.DEAD),
        stop(ledger, globex, "1", "aaa"),
    ]


def test_given_held_syncs_when_listed_then_tenant_order_error_and_remedy_are_said(
    run: Run, stopped: list[int]
) -> None:
    said = run(commands.list_syncs).stdout

    assert f"sync {stopped[0]}  acme: order 1 of shop web\n  held since " in said
    assert "  Unmapped aaa: SKU of aaa is not known\n  do: add it\n" in said
    assert said.endswith("4 listed\n")
    assert "Private" not in said


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], [0, 1, 2, 3]),
        (["--tenant", "acme"], [0, 1, 2]),
        (["--state", "dead"], [2]),
        (["--order", "1"], [0, 3]),
        (["--fingerprint", "aaa", "--tenant", "globex"], [3]),
        (["--shop", "web", "--kind", "order", "--error-class", "Unmapped"], [0, 1, 2, 3]),
        (["--error-class", "Rejected"], []),
        (["--older-than", "1h"], []),
        (["--limit", "2"], [0, 1]),
    ],
)
def test_given_filters_when_listed_then_only_those_are(
    run: Run, stopped: list[int], arguments: list[str], found: list[int]
) -> None:
    listed = orjson.loads(run(commands.list_syncs, *arguments, "--json").stdout)

    assert [one["sync_id"] for one in listed] == [stopped[number] for number in found]
    assert "Private" not in str(listed)


def test_given_more_than_a_page_when_listed_then_the_next_page_goes_on(run: Run, stopped: list[int]) -> None:
    first = run(commands.list_syncs, "--limit", "3").stdout
    rest = orjson.loads(run(commands.list_syncs, "--after", str(stopped[2]), "--json").stdout)

    assert first.endswith(f"3 listed; --after {stopped[2]} goes on\n")
    assert [one["sync_id"] for one in rest] == stopped[3:]


def test_given_other_states_when_listed_then_they_have_no_error(run: Run, stopped: list[int]) -> None:
    said = run(commands.list_syncs, "--state", "pending", "--state", "done").stdout

    assert "acme: order 9 of shop web\n  pending since" in said
    assert "do:" not in said


def test_given_held_syncs_when_grouped_then_the_most_come_first_with_the_command_that_releases_them(
    run: Run, stopped: list[int]
) -> None:
    said = run(commands.list_errors).stdout
    groups = orjson.loads(run(commands.list_errors, "--tenant", "acme", "--json").stdout)

    assert said.startswith("2 held of acme (1 and others), the first since ")
    assert "then: celery -A tasks syncs requeue --tenant acme --fingerprint aaa\n" in said
    assert said.endswith("3 groups\n")
    assert [(one["fingerprint"], one["count"]) for one in groups] == [("aaa", 2), ("bbb", 1)]
    assert "Private" not in said + str(groups)


def test_given_nobody_when_listed_then_it_is_said(run: Run, stopped: list[int]) -> None:
    for command in (commands.list_syncs, commands.list_errors):
        result = run(command, "--tenant", "nobody")
        assert (result.exit_code, "There is no tenant nobody" in result.stderr) == (1, True)


def test_given_a_held_sync_when_shown_then_all_that_happened_is_there_and_the_detail_only_when_asked_for(
    run: Run, stopped: list[int]
) -> None:
    said = run(commands.show, str(stopped[0])).stdout
    detailed = run(commands.show, str(stopped[0]), "--detail").stdout

    lines = [line[22:] for line in said.splitlines() if line.startswith("  2")]
    assert [line.split(",")[0] for line in lines] == [
        "webhook 1 came: order",
        "run 1 began for version 1 on w",
        "run 1 ended held: Unmapped aaa",
    ]
    assert "Private" not in said
    assert detailed == f"{said}The other side said:\n1 Private Road\n"


def test_given_a_step_in_each_state_when_shown_then_each_is_told(run: Run, ledger: Ledger) -> None:
    world = make_tenant(ledger)
    (kept,) = deliver(ledger, delivery(world, order("1")))
    times = dict.fromkeys(("intended_at", "doubted_at"), T0)
    step: dict[str, Any] = {
        "sync_id": kept.sync_id,
        "method": "POST",
        "path": "/orders",
        "body": b"",
        "claim": 1,
        "sends": 1,
    }
    step |= {"digest": "d", "doubts": 1, "sends": 1, **times}
    with ledger.write() as connection:
        connection.execute(insert(steps).values(kind="create", key="k1", state="in_doubt", **step))
        connection.execute(insert(steps).values(kind="cancel", key="k2", state="refused", **step))
        total = {"remote_id": "SO1", "remote_amount": "10.00", "remote_currency": "EUR", "applied_at": T0}
        connection.execute(insert(steps).values(kind="update", key="k3", state="applied", **step, **total))

    said = run(commands.show, str(kept.sync_id)).stdout

    assert "create was intended by run 1, key k1" in said
    assert "create was in doubt" in said
    assert "cancel was refused: it did not happen" in said
    assert "update is applied as SO1, total 10.00 EUR" in said


def test_given_no_such_sync_when_shown_then_it_is_said(run: Run, stopped: list[int]) -> None:
    assert "There is no sync 999." in run(commands.show, "999").stderr
