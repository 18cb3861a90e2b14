"""Prometheus' own checker takes the rules, runs their cases and takes the configuration."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.debian import binaries
from tests.unit.test_monitoring import PROMETHEUS

pytestmark = pytest.mark.timeout(600)  # the package may have to be fetched first


@pytest.fixture(scope="module")
def checker() -> Path:
    found = shutil.which("promtool")
    return Path(found) if found else binaries("prometheus") / "promtool"


def run(*command: str | Path, folder: Path = PROMETHEUS) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["check", "test"])
def test_given_the_rules_when_checked_and_their_cases_run_then_all_pass(checker: Path, command: str) -> None:
    ran = run(checker, command, "rules", "rules.yml" if command == "check" else "rules_test.yml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_given_a_rule_that_fires_late_when_its_cases_run_then_they_fail(checker: Path, tmp_path: Path) -> None:
    rules = (PROMETHEUS / "rules.yml").read_text()
    assert "integrator_dead_letters) > 0" in rules
    (tmp_path / "rules.yml").write_text(
        rules.replace("integrator_dead_letters) > 0", "integrator_dead_letters) > 9")
    )
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())
    cases["tests"] = [case for case in cases["tests"] if case["name"].startswith("DeadLetters")]
    (tmp_path / "rules_test.yml").write_text(yaml.safe_dump(cases))
    ran = run(checker, "test", "rules", "rules_test.yml", folder=tmp_path)
    assert ran.returncode == 1
    assert "DeadLetters" in ran.stdout + ran.stderr


def test_given_the_configuration_when_checked_then_it_finds_its_rules(checker: Path, tmp_path: Path) -> None:
    given = (PROMETHEUS / "prometheus.yml").read_text()
    assert "[/etc/prometheus/rules.yml]" in given
    placed = tmp_path / "prometheus.yml"
    placed.write_text(given.replace("/etc/prometheus", str(PROMETHEUS)))
    ran = run(checker, "check", "config", placed)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "rules found" in ran.stdout
