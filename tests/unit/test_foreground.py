"""What the demo and serve share: who died is started again, at once and then after ever longer waits."""

import io
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from sandbox.foreground import Nurse, run
from sandbox.system import System
from sandbox.system_folder import Folder
from sandbox.system_process import Process


class Part(Process):
    """A part that never runs."""

    def __init__(self, code: int, folder: Path) -> None:
        super().__init__("worker-1", [sys.executable], {}, folder / "log", lambda _: True)
        self.code, self.wanted = code, True
        self.log.write_text("reason\n")

    @property
    def exit_code(self) -> int | None:
        return self.code

    def start(self) -> None:
        self.starts += 1


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def nursed(tmp_path: Path, console: Console, code: int) -> tuple[Nurse, Part]:
    system = System(tmp_path, erp=False)
    part = Part(code, tmp_path)
    system.processes[part.name] = part
    return Nurse(system, console), part


def said(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_given_a_part_that_was_killed_when_looked_at_then_it_is_started_at_once_with_one_line(
    tmp_path: Path, console: Console
) -> None:
    nurse, part = nursed(tmp_path, console, -9)
    nurse.look(1_000)
    assert part.starts == 1
    assert said(console) == ["worker-1 was killed (signal 9); started again"]


def test_given_a_part_that_ended_by_itself_when_looked_at_then_its_last_words_are_shown(
    tmp_path: Path, console: Console
) -> None:
    nurse, _ = nursed(tmp_path, console, 3)
    nurse.look(1_000)
    first, second, third = said(console)
    assert first == "worker-1 ended with status 3; started again"
    assert second.endswith("log:")
    assert third == "  reason"


def test_given_a_part_that_dies_each_time_when_looked_at_then_the_waits_double_up_to_half_a_minute(
    tmp_path: Path, console: Console
) -> None:
    nurse, part = nursed(tmp_path, console, -9)
    starts: list[int] = []
    now = 1_000
    while len(starts) < 8:
        part.started_at = now - 1.0
        before = part.starts
        nurse.look(now)
        if part.starts > before:
            starts.append(now)
        now += 1
    assert [late - early for early, late in pairwise(starts)] == [2, 3, 5, 9, 17, 31, 31]
    assert said(console)[-1] == "worker-1 was killed (signal 9); starts again in 30 s"


def test_given_a_part_that_ran_well_for_a_minute_when_it_dies_again_then_it_is_started_at_once(
    tmp_path: Path, console: Console
) -> None:
    nurse, part = nursed(tmp_path, console, -9)
    for now in (1_000, 1_100):
        part.started_at = now - 61
        nurse.look(now)
    assert part.starts == 2
    assert said(console) == ["worker-1 was killed (signal 9); started again"] * 2


def test_given_a_queue_of_ones_own_when_the_settings_are_written_then_no_credentials_are_among_them(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path)
    everything = {"INTEGRATOR_BIND": "here", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_PROFILE": "mine"}
    folder.write_env(everything, own_queue=False)
    assert folder.env.read_text() == "export INTEGRATOR_BIND=here\n"
    folder.write_env(everything, own_queue=True)
    assert folder.env.read_text().count("AWS_") == 2


def test_given_a_full_disk_when_it_runs_then_one_line_says_where(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.foreground.end_on_signals", lambda: None)

    def work() -> int:
        raise OSError(28, "No space left on device", "/somewhere/file")

    assert run(work, console, stopped="", status=0) == 1
    (line,) = said(console)
    assert line.startswith("/somewhere/file: No space left on device. Check ")
