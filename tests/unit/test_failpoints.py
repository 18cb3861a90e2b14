"""Failpoints: nothing without the environment, an unknown name refused, a real kill that is written down first."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integrator import failpoints
from integrator.config import settings


def forget() -> None:
    settings.cache_clear()
    failpoints._plan.cache_clear()
    failpoints._series.cache_clear()


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
    series = failpoints._series(1, "worker.claimed")
    assert 0.25 < sum(series.random() < 0.3 for _ in range(2_000)) / 2_000 < 0.35


def deaths(threads: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """At which of 2,000 passes of a point somebody would have died, in processes of so many threads each."""
    forget()
    died: list[int] = []
    passing = itertools.count()
    drawing = failpoints._series(os.getpid(), "worker.claimed")
    draw = drawing.random

    def counted() -> float:
        number, drawn = next(passing), draw()
        died.extend([number] * (drawn < 0.02))
        return drawn

    monkeypatch.setattr(drawing, "random", counted)
    monkeypatch.setattr(os, "kill", lambda *_: None)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(failpoints.fire, ["worker.claimed"] * 2_000))
    return died


def test_given_a_seed_a_part_and_a_start_when_run_again_then_the_same_pass_is_deadly_on_however_many_threads(
    arm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    arm("worker.claimed=0.02")
    monkeypatch.setenv("INTEGRATOR_FAILPOINT_PART", "worker-1#1")
    first = deaths(1, monkeypatch)
    assert len(first) > 10
    assert deaths(1, monkeypatch) == first
    assert deaths(8, monkeypatch) == first
    monkeypatch.setenv("INTEGRATOR_FAILPOINT_PART", "worker-1#2")
    assert deaths(1, monkeypatch) != first
    monkeypatch.setenv("INTEGRATOR_FAILPOINT_PART", "worker-2#1")
    assert deaths(1, monkeypatch) != first
    monkeypatch.setenv("INTEGRATOR_FAILPOINT_SEED", "1")
    assert deaths(1, monkeypatch) != first


def test_given_a_part_that_died_when_its_successor_passes_then_its_fate_is_another(
    arm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arm("worker.claimed=0.02")
    monkeypatch.setenv("INTEGRATOR_FAILPOINT_PART", "receiver#1")
    log = tmp_path / "kills"
    monkeypatch.setenv("INTEGRATOR_FAILPOINT_LOG", str(log))
    drawn = []
    for said in ("", "worker.claimed worker-1#1\n", "worker.claimed receiver#1\n"):
        log.write_text(said)
        forget()
        drawn.append(failpoints._series(os.getpid(), "worker.claimed").random())
    assert drawn[0] == drawn[1] != drawn[2]


def test_given_a_part_when_it_dies_then_the_log_names_it(tmp_path: Path) -> None:
    log = tmp_path / "kills"
    armed = {"failpoints": "worker.claimed=1", "failpoint_log": str(log), "failpoint_part": "worker-2#3"}
    run("failpoints.fire('worker.claimed')", **armed)
    assert log.read_text() == "worker.claimed worker-2#3\n"
