"""What a serving process refuses to start on, and the sentence that it says."""

import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import click
import pytest
from flask.cli import run_command
from sqlalchemy import create_engine, text

from integrator import readiness
from integrator.config import Settings
from integrator.ledger.engine import Ledger, LossyLedger
from integrator.secrets import new_key
from tests.webhooks import store
from web import create_app


def refusal(ledger: Ledger, **changes: Any) -> str:
    """The sentence; "" when it starts."""
    try:
        readiness.check(Settings(**changes), ledger)
    except readiness.EXPECTED as error:
        return readiness.sentence(error, ledger.url)
    return ""


def test_given_a_ledger_and_the_keys_of_its_secrets_when_checked_then_it_starts(ledger: Ledger) -> None:
    assert refusal(ledger) == ""
    store(ledger)
    assert refusal(ledger) == ""


def test_given_no_or_other_keys_when_checked_then_it_refuses(ledger: Ledger) -> None:
    store(ledger)

    assert refusal(ledger, secret_keys=()).startswith("INTEGRATOR_SECRET_KEYS is not set")
    assert refusal(ledger, secret_keys=("short",)).startswith("INTEGRATOR_SECRET_KEYS holds something")
    assert refusal(ledger, secret_keys=(new_key(),)).startswith("None of the keys")


def test_given_an_empty_database_when_checked_then_the_command_is_named(tmp_path: Any) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/empty.sqlite3")

    assert "`flask --app web ledger upgrade`" in refusal(ledger)
    ledger.close()


def test_given_a_lossy_database_when_checked_then_it_refuses_unless_told(postgresql_ledger: Ledger) -> None:
    url = postgresql_ledger.url
    postgresql_ledger.engine.dispose()
    postgresql_ledger._engine = create_engine(url, connect_args={"options": "-c synchronous_commit=off"})

    assert "synchronous_commit = off" in refusal(postgresql_ledger)
    assert refusal(postgresql_ledger, allow_lossy_ledger=True) == ""


def test_l1_given_a_file_when_a_connection_is_opened_then_each_commit_is_on_disk_and_waits_are_bounded(
    sqlite_ledger: Ledger,
) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5_000}
    with sqlite_ledger.read() as connection:
        found = {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in wanted}
    assert found == wanted


def test_given_a_server_when_a_connection_is_opened_then_nobody_is_waited_for_without_end(
    postgresql_ledger: Ledger,
) -> None:
    wanted = {"lock_timeout": "5s", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "10s"}
    with postgresql_ledger.read() as connection:
        found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in wanted}
    assert found == wanted


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync", "full_page_writes"])
def test_given_any_setting_that_loses_commits_when_checked_then_it_is_named(
    postgresql_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    off = dict.fromkeys(["synchronous_commit", "fsync", "full_page_writes"], "on") | {setting: "off"}

    class Answers:
        def execute(self, asked: Any) -> Any:
            return SimpleNamespace(scalar_one=lambda: off[str(asked).removeprefix("SHOW ")])

    monkeypatch.setattr(postgresql_ledger, "read", lambda: nullcontext(Answers()))
    with pytest.raises(LossyLedger, match=f"{setting} = off"):
        postgresql_ledger.check_durability()


def test_given_a_budget_of_connections_when_checked_then_it_is_kept_to_the_last(postgresql_ledger: Ledger) -> None:
    takes = postgresql_ledger.max_connections()
    assert takes is not None
    most = takes * 80 // 100

    assert refusal(postgresql_ledger, ledger_pool_size=1, ledger_processes=most) == ""
    said = refusal(postgresql_ledger, ledger_pool_size=1, ledger_processes=most + 1)
    for part in (f"come to {most + 1}", f"max_connections = {takes} are {most}", "INTEGRATOR_LEDGER_PROCESSES"):
        assert part in said
    size = most // 4
    assert refusal(postgresql_ledger, ledger_pool_size=size) == ""
    assert "INTEGRATOR_LEDGER_POOL_SIZE" in refusal(postgresql_ledger, ledger_pool_size=size + 1)


def test_given_too_few_connections_when_told_then_the_number_named_is_enough(
    postgresql_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "max_connections", lambda _: 20)
    said = refusal(postgresql_ledger, ledger_pool_size=7, ledger_processes=3)
    (enough,) = (int(word) for word in said.partition("Raise max_connections to ")[2].split(",")[:1])

    for takes, refused in ((enough, False), (enough - 1, True)):
        monkeypatch.setattr(Ledger, "max_connections", lambda _, takes=takes: takes)
        assert bool(refusal(postgresql_ledger, ledger_pool_size=7, ledger_processes=3)) is refused


def test_given_a_file_when_its_connections_are_counted_then_there_is_no_budget(sqlite_ledger: Ledger) -> None:
    assert refusal(sqlite_ledger, ledger_pool_size=200, ledger_processes=1_000) == ""


@pytest.mark.parametrize("command", ["run", "ledger"])
def test_given_flask_run_when_it_makes_the_app_then_it_checks_and_other_commands_do_not(
    monkeypatch: pytest.MonkeyPatch, sqlite_ledger: Ledger, command: str
) -> None:
    monkeypatch.setattr("web.app.logs.configure", lambda _: None)
    settings = Settings(secret_keys=())

    with click.Context(run_command, info_name=command):
        if command == "run":
            with pytest.raises(click.ClickException, match="INTEGRATOR_SECRET_KEYS is not set"):
                create_app(settings, ledger=sqlite_ledger)
        else:
            create_app(settings, ledger=sqlite_ledger)


@pytest.mark.parametrize(
    "command",
    [
        ["flask", "--app", "web", "ledger", "check"],
        ["flask", "--app", "web", "run"],
        ["celery", "-A", "tasks", "syncs", "audit"],
        ["celery", "-A", "tasks", "worker"],
        ["celery", "-A", "tasks", "scheduler"],
        ["gunicorn", "-c", "python:web.server"],
        ["sandbox.serve"],
    ],
    ids="-".join,
)
def test_given_wrong_settings_when_any_command_starts_then_each_is_told_in_a_line(command: list[str]) -> None:
    wrong = {"INTEGRATOR_LEDGER_URL": "mysql://ada:hunter2@x/y", "INTEGRATOR_LEDGER_POOL_SIZE": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | wrong,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    told = ended.stderr.strip().splitlines()[-2:]
    assert ended.returncode == 1
    assert [line.removeprefix("Error: ").partition(" ")[0] for line in told] == list(wrong)
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


def test_given_a_url_that_is_none_when_it_fails_then_it_is_told_without_it() -> None:
    with pytest.raises(readiness.EXPECTED) as caught:
        Ledger("hunter2")

    assert readiness.sentence(caught.value).startswith("INTEGRATOR_LEDGER_URL is no ledger's URL; write `sqlite")
    assert "hunter2" not in readiness.sentence(caught.value)
