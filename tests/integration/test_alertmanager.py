"""Alertmanager's own checker takes our configurations, and says who would be told of which alert."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.debian import binaries
from tests.unit.test_compose import ROOT, services
from tests.unit.test_monitoring import RULES

FOLDER = ROOT / "infra" / "monitoring" / "alertmanager"

pytestmark = pytest.mark.timeout(600)  # the package may have to be fetched first


@pytest.fixture(scope="module")
def checker() -> Path:
    found = shutil.which("amtool")
    return Path(found) if found else binaries("prometheus-alertmanager") / "amtool"


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["nobody.yml", "mail.yml"])
def test_given_our_configurations_when_checked_then_they_are_taken(checker: Path, name: str) -> None:
    ran = run(checker, "check-config", name)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_given_every_alert_when_it_fires_then_who_is_told_follows_from_how_bad_it_is(checker: Path) -> None:
    told = {"critical": "on-call", "warning": "office"}
    for severity in {rule["labels"]["severity"] for rule in RULES}:
        asked = run(checker, "config", "routes", "test", "--config.file=mail.yml", f"severity={severity}")
        assert asked.stdout.split() == [told[severity]]


def test_given_no_file_of_our_own_when_compose_is_read_then_nobody_is_told() -> None:
    sources = [mount["source"] for mount in services()["alertmanager"]["volumes"] if mount["type"] == "bind"]
    assert [Path(source).name for source in sources] == ["nobody.yml"]
