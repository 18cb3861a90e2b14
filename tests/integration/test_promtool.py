"""Prometheus' own checker takes the rules, runs their cases and takes the configuration; and how it is had."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.promtool import NoPromtool, checker, promtool
from tests.unit.test_monitoring import PROMETHEUS

__all__ = ["checker"]

pytestmark = pytest.mark.timeout(600)  # the package may have to be fetched first


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


def test_given_no_apt_or_one_that_fails_when_it_is_wanted_then_the_reason_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(NoPromtool, match="apt-get"):
        promtool(cache)
    fake = programs / "apt-get"
    fake.write_text("#!/bin/sh\necho 'E: no mirror answers' >&2\nexit 100\n")
    fake.chmod(0o755)
    with pytest.raises(NoPromtool, match=r"apt install prometheus.*E: no mirror answers"):
        promtool(cache)
    assert list(cache.iterdir()) == []
