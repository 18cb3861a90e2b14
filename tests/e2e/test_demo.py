"""The demo, as somebody runs it."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from integrator.ledger.engine import Ledger
from sandbox import demo
from sandbox.demo_report import StoredOrder
from sandbox.demo_tenants import stored_orders
from sandbox.system_process import ROOT
from tests.support import make_tenant

KEYS = {
    *("sent", "acknowledged", "unique_orders", "erp_orders", "erp_credits", "lost", "duplicated", "mismatched"),
    *("ack_ms_p50", "ack_ms_p99", "sync_ms_p50", "sync_ms_p99", "seconds"),
}


def test_given_duplicates_and_reordering_when_the_demo_ends_then_every_order_arrived_once(tmp_path: Path) -> None:
    report = tmp_path / "demo.json"
    command = [
        sys.executable,
        "-m",
        "sandbox.demo",
        "--exit",
        f"--report={report}",
        f"--folder={tmp_path / 'demo'}",
    ]
    options = ["--orders=25", "--duplicates=20", "--reorder=30", "--rate=50"]

    ran = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    numbers = json.loads(report.read_text())
    assert numbers.keys() == KEYS
    assert (numbers["lost"], numbers["duplicated"], numbers["mismatched"]) == (0, 0, 0)
    assert numbers["erp_orders"] == numbers["unique_orders"] == 25
    assert numbers["sent"] >= numbers["acknowledged"] > 25
    assert numbers["erp_credits"] > 0
    assert "exactly once" in ran.stdout
    assert ran.stderr == ""


@pytest.fixture
def main() -> Iterator[Callable[..., int]]:
    """The demo's main in this process, whose signals are as before afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield lambda *options: demo.main(options)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_given_a_postgresql_of_its_own_when_the_demo_ends_then_every_order_arrived_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: Callable[..., int]
) -> None:
    report = tmp_path / "demo.json"
    options = ["--ledger=postgresql", "--orders=10", "--rate=100", "--exit"]

    status = main(*options, f"--report={report}", f"--folder={tmp_path / 'demo'}")

    said = capsys.readouterr().out
    if "No PostgreSQL can be started" in said and not os.environ.get("CI"):
        pytest.skip("no PostgreSQL can be started here")
    assert status == 0, said
    numbers = json.loads(report.read_text())
    assert (numbers["lost"], numbers["duplicated"], numbers["mismatched"]) == (0, 0, 0)
    assert numbers["erp_orders"] == 10
    assert not list((tmp_path / "demo").glob("ledger.sqlite3*"))


@pytest.mark.parametrize(
    ("ledger", "says"),
    [
        (
            "postgresql+psycopg://ada:hunter2@127.0.0.1:9/nothing",
            "127.0.0.1:9/nothing is no ledger that can be used",
        ),
        ("nonsense", "What --ledger names is no ledger's URL; write `sqlite:///PATH`"),
        ("sqlite:///", "What --ledger names is no file, so that"),
        ("sqlite:////proc/nothing/ledger.sqlite3", "is no ledger that can be used"),
    ],
)
def test_given_a_ledger_that_is_not_there_when_the_demo_starts_then_it_says_so(
    ledger: str, says: str, capsys: pytest.CaptureFixture[str], main: Callable[..., int]
) -> None:
    assert main(f"--ledger={ledger}") == 1

    said = capsys.readouterr().out
    assert says in said
    assert "hunter2" not in said


def test_given_a_ledger_with_tenants_when_the_demo_starts_then_it_keeps_off(
    sqlite_ledger: Ledger, capsys: pytest.CaptureFixture[str], main: Callable[..., int]
) -> None:
    make_tenant(sqlite_ledger)

    assert main(f"--ledger={sqlite_ledger.url.render_as_string()}") == 1

    assert "Give the demo an empty database" in capsys.readouterr().out


def test_given_a_management_system_that_holds_other_orders_when_the_demo_ends_then_it_fails_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(erp_url: str) -> list[StoredOrder]:
        _, second, third, *rest = stored_orders(erp_url)
        return [second, second, replace(third, total=third.total + Decimal("0.01")), *rest]

    monkeypatch.setattr(demo, "stored_orders", tampered)
    report, output = tmp_path / "demo.json", io.StringIO()
    options = ["--orders=12", "--rate=100", "--exit", f"--report={report}", f"--folder={tmp_path / 'demo'}"]

    status = demo.Demo(demo.parser().parse_args(options), Console(file=output)).run()

    assert status == 1
    numbers = json.loads(report.read_text())
    assert (numbers["lost"], numbers["duplicated"], numbers["mismatched"]) == (2, 2, 2)
    assert "exactly once" not in output.getvalue()
    assert "lost at acme: shop/" in output.getvalue()


NONSENSE = {
    "--orders=0": "--orders: must be a whole number from 2 to 100000",
    "--orders=many": "--orders: must be a whole number from 2 to 100000",
    "--duplicates=101": "--duplicates: must be a number from 0 to 100",
    "--reorder=-1": "--reorder: must be a number from 0 to 100",
    "--rate=nan": "--rate: must be a number from 0.1 to 10000",
    "--workers=0": "--workers: must be a whole number from 1 to 64",
    "--limit=0": "--limit: must be a number from 1 to 86400",
    "--report=/proc/nothing": "--report: /proc/nothing can't be written: No such file or directory",
    "--sometimes": "unrecognized arguments: --sometimes",
}


@pytest.mark.parametrize("option", NONSENSE)
def test_given_an_argument_that_makes_no_sense_when_the_demo_starts_then_one_line_says_so(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main([option])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{NONSENSE[option]}. --help lists what there is.\n"


def test_given_parts_that_are_killed_when_the_demo_runs_and_stays_up_then_each_comes_back_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    report, folder = tmp_path / "demo.json", tmp_path / "demo"
    options = ["--orders=12", "--rate=16", f"--folder={folder}", f"--report={report}"]
    command = [sys.executable, "-m", "sandbox.demo", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as ran:
        assert ran.stdout
        said = until(ran.stdout, "acknowledged ")
        kill(folder, "worker-1")
        said += until(ran.stdout, "Ctrl-C stops")
        kill(folder, "receiver")
        said += until(ran.stdout, "receiver was killed")
        ran.send_signal(signal.SIGINT)
        said += ran.stdout.read()
    assert ran.returncode == 0, said
    assert "worker-1 was killed (signal 9); started again\n" in said
    assert "receiver was killed (signal 9); started again\n" in said
    assert f"kill -9 $(cat {folder}/worker-1.pid)" in said
    numbers = json.loads(report.read_text())
    assert (numbers["lost"], numbers["duplicated"], numbers["mismatched"]) == (0, 0, 0)
    assert numbers["erp_orders"] == 12


def until(lines: Iterable[str], words: str) -> str:
    """What is said up to the line with these words."""
    said = ""
    for line in lines:
        said += line
        if words in line:
            return said
    raise AssertionError(f"{words!r} is not in:\n{said}")


def kill(folder: Path, part: str) -> None:
    os.kill(int((folder / f"{part}.pid").read_text()), signal.SIGKILL)
