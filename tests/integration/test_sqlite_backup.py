"""A copy of an SQLite ledger, made while others write."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner
from flask.cli import FlaskGroup
from sqlalchemy import select

from integrator.config import Settings
from integrator.ledger import migrate
from integrator.ledger.deliveries import accept
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import syncs
from tests.support import deliver, delivery, make_tenant, order
from web import create_app


def invoke(ledger: Ledger, *arguments: str) -> Any:
    group = FlaskGroup(create_app=lambda: create_app(Settings(), ledger=ledger), load_dotenv=False)
    return CliRunner().invoke(group, ["ledger", "backup", *arguments])


def test_given_an_sqlite_ledger_in_use_when_it_is_copied_then_the_copy_has_all_that_was_committed(
    sqlite_ledger: Ledger, tmp_path: Path
) -> None:
    world = make_tenant(sqlite_ledger)
    deliver(sqlite_ledger, delivery(world, order("1")))
    copied = tmp_path / "copy.sqlite3"
    with sqlite_ledger.write() as writing:
        accept(writing, [delivery(world, order("2"))])
        told = invoke(Ledger(str(sqlite_ledger.url)), str(copied))
    assert told.exit_code == 0, told.output
    assert copied.stat().st_mode & 0o077 == 0
    copy = Ledger(f"sqlite:///{copied}")
    assert migrate.check(copy) == migrate.head()
    with copy.read() as connection:
        assert connection.execute(select(syncs.c.external_id)).scalars().all() == ["1"]
    copy.close()
    assert {one.name for one in tmp_path.glob("*.part")} == set()


def test_given_a_ledger_that_can_not_be_copied_when_asked_then_it_says_why_and_writes_nothing(
    sqlite_ledger: Ledger, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    broken = tmp_path / "broken.sqlite3"
    broken.write_bytes(b"no database" * 999)
    for url, target, why in (
        (str(sqlite_ledger.url), there, "is there already"),
        (f"sqlite:///{tmp_path}/none.sqlite3", tmp_path / "a", "There is no ledger"),
        (f"sqlite:///{broken}", tmp_path / "b", "could not be copied"),
        ("postgresql+psycopg://nobody@127.0.0.1:9/none", tmp_path / "c", "bin/backup"),
    ):
        told = invoke(Ledger(url), str(target))
        assert told.exit_code == 1, url
        assert why in told.output
    assert there.read_text() == "mine"
    assert {
        one.name for one in tmp_path.iterdir() if one.name in {"a", "b", "c"} or one.suffix == ".part"
    } == set()
