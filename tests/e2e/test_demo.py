"""The demo, as somebody runs it."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from sandbox import demo
from sandbox.demo_report import StoredOrder
from sandbox.demo_tenants import stored_orders
from sandbox.system_process import ROOT

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
    options = ["--orders=25", "--duplicates=20", "--reorder=30"]

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


@pytest.mark.parametrize("option", ["--orders=1", "--duplicates=101", "--reorder=-1", "--rate=0", "--workers=0"])
def test_given_a_number_that_makes_no_sense_when_the_demo_starts_then_it_says_so(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main([option])
    assert ended.value.code == 2
    assert "must be" in capsys.readouterr().err
