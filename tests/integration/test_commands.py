"""The commands of `celery -A tasks`: what they change, what they say, and what they refuse."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from click import Command
from click.testing import CliRunner, Result
from sqlalchemy import text, update

from integrator import gate
from integrator.clock import after
from integrator.config import settings
from integrator.ledger import transitions
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Failure
from integrator.ledger.schema import Priority, State, syncs
from tasks import commands, scheduler
from tasks.queue_commands import list_queues
from tests.support import World, deliver, delivery, make_tenant, order, sync_row

RunCommand = Callable[..., Result]


@pytest.fixture
def run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunCommand]:
    """Run a command on the ledger."""
    monkeypatch.setenv("INTEGRATOR_LEDGER_URL", ledger.url.render_as_string(hide_password=False))
    settings.cache_clear()

    def invoke(command: Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments, catch_exceptions=False)

    yield invoke
    monkeypatch.undo()
    settings.cache_clear()


def hold(
    ledger: Ledger, world: World, external_id: str, error_class: str = "Unmapped", fingerprint: str = "f1"
) -> int:
    """An order of the tenant that is held; its sync's id."""
    (kept,) = deliver(ledger, delivery(world, order(external_id)))
    assert kept.sync_id is not None
    failure = Failure(error_class, fingerprint, "said", "detail", "add it")
    with ledger.write() as connection:
        assert transitions.ring(connection, [kept.sync_id])
        won = transitions.claim(connection, world.tenant, kept.sync_id, worker="w")
        assert won is not None
        assert transitions.stop(connection, kept.sync_id, won.claim, failure, state=State.HELD)
    return kept.sync_id


@pytest.fixture
def held(ledger: Ledger) -> dict[str, int]:
    """Held syncs of two tenants, by a name each."""
    acme, globex = make_tenant(ledger), make_tenant(ledger, "globex")
    found = {
        "a1": hold(ledger, acme, "1"),
        "a2": hold(ledger, acme, "2", fingerprint="f2"),
        "a3": hold(ledger, acme, "3", "Rejected", "f3"),
        "g1": hold(ledger, globex, "1"),
    }
    with ledger.write() as connection:
        connection.execute(update(syncs).where(syncs.c.id == found["a2"]).values(changed_at=after(-3_600)))
    return found


def released(ledger: Ledger, held: dict[str, int]) -> set[str]:
    return {name for name, sync_id in held.items() if sync_row(ledger, sync_id).state == State.PENDING}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{a1}"], {"a1"}),
        (["{a1}", "{g1}"], {"a1", "g1"}),
        (["--tenant", "acme"], {"a1", "a2", "a3"}),
        (["--error-class", "Unmapped"], {"a1", "a2", "g1"}),
        (["--fingerprint", "f1"], {"a1", "g1"}),
        (["--shop", "web"], {"a1", "a2", "a3", "g1"}),
        (["--shop", "web", "--tenant", "globex"], {"g1"}),
        (["--kind", "order", "--order", "1"], {"a1", "g1"}),
        (["--older-than", "1m", "--tenant", "acme"], {"a2"}),
        (["--older-than", "2d"], set()),
        (["--tenant", "acme", "--error-class", "Unmapped", "--fingerprint", "f2"], {"a2"}),
        (["--tenant", "acme", "{g1}"], set()),
        (["--error-class", "Nonesuch"], set()),
    ],
)
def test_given_held_syncs_when_requeued_then_those_that_all_filters_choose(
    ledger: Ledger, run: RunCommand, held: dict[str, int], arguments: list[str], expected: set[str]
) -> None:
    chosen = [one.format(**held) for one in arguments]
    syncs_ = f"{len(expected)} sync{'' if len(expected) == 1 else 's'}"
    assert run(commands.requeue, *chosen, "--dry-run").output == f"{syncs_} would be released\n"
    assert released(ledger, held) == set()
    assert run(commands.requeue, *chosen).output == f"{syncs_} released\n"
    assert released(ledger, held) == expected


def test_f4_given_one_or_many_when_requeued_then_one_keeps_its_priority_and_many_go_behind(
    ledger: Ledger, run: RunCommand
) -> None:
    world = make_tenant(ledger)
    ids = [hold(ledger, world, str(number)) for number in range(3)]
    run(commands.requeue, str(ids[0]))
    run(commands.requeue, "--fingerprint", "f1")
    rows = [sync_row(ledger, sync_id) for sync_id in ids]
    assert [row.priority for row in rows] == [Priority.LIVE, Priority.BACKFILL, Priority.BACKFILL]
    assert {(row.attempts, row.error_class) for row in rows} == {(0, None)}


def test_given_a_sync_that_nothing_holds_when_requeued_then_it_is_said_and_left(
    ledger: Ledger, run: RunCommand
) -> None:
    world = make_tenant(ledger)
    held_id = hold(ledger, world, "1")
    (waiting,) = deliver(ledger, delivery(world, order("2")))
    before = sync_row(ledger, waiting.sync_id or 0)
    result = run(commands.requeue, str(held_id), str(waiting.sync_id))
    assert result.stdout == "1 sync released\n"
    assert result.stderr == f"sync {waiting.sync_id} is pending: only what is held or dead needs a release\n"
    assert sync_row(ledger, waiting.sync_id or 0) == before


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (commands.requeue, ["--tenant", "nobody"], "There is no tenant nobody. Nothing was changed."),
        (commands.requeue, [], "Name sync ids, or at least one filter."),
        (commands.requeue, ["one"], "'one' is not a valid integer"),
        (commands.requeue, ["--shop", "other"], "There is no shop other. Nothing was changed."),
        (
            commands.requeue,
            ["--tenant", "acme", "--shop", "x"],
            "There is no shop x of acme. Nothing was changed.",
        ),
        (commands.requeue, ["--older-than", "soon"], "'soon' is no age; write 90s, 15m, 2h or 3d."),
        (commands.requeue, ["--older-than", "-1h"], "'-1h' is no age; write 90s, 15m, 2h or 3d."),
        (commands.requeue, ["--kind", "rumour"], "'rumour' is not"),
        (commands.list_syncs, ["--state", "lost"], "'lost' is not one of"),
        (commands.list_syncs, ["--limit", "0"], "0 is not in the range"),
        (commands.list_syncs, ["--shop", "other"], "There is no shop other. Nothing was changed."),
        (commands.show, ["99"], "There is no sync 99."),
        (commands.show, [str(2**63)], "is not in the range"),
        (commands.requeue, ["1", "99"], "There is no sync 99. Nothing was changed."),
        (commands.requeue, [str(10**30)], "is not in the range"),
        (commands.pause, ["nobody"], "There is no tenant nobody. Nothing was changed."),
        (commands.pause, ["acme", "--erp", "other"], "There is no management system acme/other. Nothing was"),
        (commands.resume, ["nobody"], "There is no tenant nobody. Nothing was changed."),
    ],
)
def test_given_something_unknown_when_commanded_then_a_sentence_and_nothing_changed(
    ledger: Ledger, run: RunCommand, command: Command, arguments: list[str], says: str
) -> None:
    world = make_tenant(ledger)
    sync_id = hold(ledger, world, "1")
    before = sync_row(ledger, sync_id)
    result = run(command, *arguments)
    assert result.exit_code != 0
    assert says in result.output
    assert "Traceback" not in result.output
    assert sync_row(ledger, sync_id) == before
    with ledger.read() as connection:
        assert gate.ask(connection, world.gate_id).open


def test_given_two_tenants_when_one_is_paused_and_resumed_then_the_other_never_notices(
    ledger: Ledger, run: RunCommand
) -> None:
    acme, globex = make_tenant(ledger), make_tenant(ledger, "globex")

    def open_gates() -> list[bool]:
        with ledger.read() as connection:
            return [gate.ask(connection, world.gate_id).open for world in (acme, globex)]

    paused = run(commands.pause, "acme")
    assert (paused.exit_code, open_gates()) == (0, [False, True])
    assert "celery -A tasks resume acme" in paused.output
    assert run(commands.pause, "acme", "--erp", "main").exit_code == 0
    with ledger.write() as connection:
        gate.wait(connection, acme.gate_id, 600)
    assert run(commands.resume, "acme").exit_code == 0
    with ledger.read() as connection:
        assert gate.ask(connection, acme.gate_id).cause == "the system asked to wait", "other causes stand (G1)"


def test_given_nothing_in_limbo_when_audited_then_zero_and_status_zero(ledger: Ledger, run: RunCommand) -> None:
    make_tenant(ledger)
    assert (run(commands.audit).output, run(commands.audit, "--json").output) == ("0 in limbo\n", "[]\n")
    assert run(commands.audit).exit_code == 0


def test_given_a_row_in_limbo_when_audited_then_named_and_status_one(ledger: Ledger, run: RunCommand) -> None:
    world = make_tenant(ledger)
    (kept,) = deliver(ledger, delivery(world, order()))
    with ledger.write() as connection:
        connection.execute(update(syncs).values(due_at=after(-300)))
    result = run(commands.audit)
    assert result.exit_code == 1
    assert f"acme: sync {kept.sync_id} (pending): due long ago" in result.output
    (found,) = orjson.loads(run(commands.audit, "--json").output)
    assert (found["tenant"], found["sync_id"], found["state"]) == ("acme", kept.sync_id, "pending")


EVERY: list[tuple[Command, list[str]]] = [
    (list_queues, []),
    (commands.audit, []),
    (commands.list_syncs, []),
    (commands.show, ["1"]),
    (commands.requeue, ["1"]),
    (commands.pause, ["acme"]),
    (commands.resume, ["acme"]),
    (commands.scheduler, []),
]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler's command neither takes the process's signals and log, nor loops."""
    monkeypatch.setattr(commands, "configure", lambda _level: None)
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(scheduler, "run", lambda *_: pytest.fail("the scheduler started"))


@pytest.mark.parametrize(("command", "arguments"), EVERY)
def test_given_an_old_schema_when_commanded_then_the_upgrade_is_named(
    sqlite_ledger: Ledger, quiet: None, command: Command, arguments: list[str]
) -> None:
    with sqlite_ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert "flask --app web ledger upgrade" in refused(str(sqlite_ledger.url), command, arguments)


@pytest.mark.parametrize(("command", "arguments"), EVERY)
@pytest.mark.parametrize("url", ["postgresql+psycopg://u:s3cret@127.0.0.1:9/x", "sqlite:////dev/null/x"])
def test_given_a_ledger_that_is_away_when_commanded_then_a_sentence_without_its_password(
    quiet: None, command: Command, arguments: list[str], url: str
) -> None:
    said = refused(url, command, arguments)
    assert "s3cret" not in said
    assert "INTEGRATOR_LEDGER_URL" in said


def refused(url: str, command: Command, arguments: list[str]) -> str:
    """What a command on this ledger says when it refuses: one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTEGRATOR_LEDGER_URL", url)
        settings.cache_clear()
        result = CliRunner().invoke(command, arguments)
    settings.cache_clear()
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    return line


def test_given_the_celery_cli_when_asked_then_our_commands_are_there(sqlite_ledger: Ledger) -> None:
    """In a process of its own: through the entry points, with a ledger of the environment."""
    environment: dict[str, Any] = os.environ | {"INTEGRATOR_LEDGER_URL": str(sqlite_ledger.url)}
    del environment["INTEGRATOR_SECRET_KEYS"]  # no command needs them
    audited = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "syncs", "audit"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (audited.stdout, audited.stderr, audited.returncode) == ("0 in limbo\n", "", 0)
