"""Failpoints: nothing without the environment, an unknown name refused, a real kill that is written down first."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integrator import failpoints
from integrator.config import settings


def forget() -> None:
    settings.cache_clear()
    failpoints._plan.cache_clear()
    failpoints._random.cache_clear()


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def set_to(text: str) -> None:
        monkeypatch.setenv("INTEGRATOR_FAILPOINTS", text)
        forget()

    yield set_to
    monkeypatch.undo()
    forget()


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    program = f"from integrator import failpoints\n{code}\nprint('survived')"
    environment = os.environ | {f"INTEGRATOR_{name.upper()}": value for name, value in env.items()}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", failpoints.NAMES)
def test_given_no_environment_when_fired_then_nothing_happens(name: str) -> None:
    failpoints.fire(name, first=lambda: pytest.fail("it was armed"))


def test_given_one_name_when_another_is_fired_then_nothing_happens(arm: Callable[[str], None]) -> None:
    arm(" worker.claimed=1 ,")
    for name in failpoints.NAMES:
        if name != "worker.claimed":
            failpoints.fire(name, first=lambda: pytest.fail("it was armed"))


def test_given_probability_zero_when_fired_then_it_lives(arm: Callable[[str], None]) -> None:
    arm("worker.claimed=0")
    for _ in range(100):
        failpoints.fire("worker.claimed")


def test_given_an_unknown_name_when_fired_then_refused_with_those_there_are(arm: Callable[[str], None]) -> None:
    arm("worker.clamed=1,worker.claimed=1")
    with pytest.raises(ValueError, match=r"worker\.clamed; there are .*worker\.claimed"):
        failpoints.fire("worker.claimed")


def test_given_an_armed_point_when_fired_then_logged_and_killed(tmp_path: Path) -> None:
    log = tmp_path / "kills"
    ended = run(
        "failpoints.fire('dispatch.marked')\n"
        "failpoints.fire('worker.answered', first=lambda: print('first', flush=True))",
        failpoints="worker.answered=1",
        failpoint_log=str(log),
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "first\n")
    assert log.read_text() == "worker.answered\n"


def test_given_a_seed_when_drawn_then_the_share_is_the_probability(arm: Callable[[str], None]) -> None:
    arm("worker.claimed=0.3")
    drawn = [failpoints._random(1, thread).random() < 0.3 for thread in range(2_000)]
    assert 0.25 < sum(drawn) / len(drawn) < 0.35
