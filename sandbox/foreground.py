"""What the demo and `make serve` share: they end in order on a signal, start again what died, and say in one line
what is wrong.
"""

import argparse
import errno
import math
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from integrator import readiness
from sandbox.system import System
from sandbox.system_process import Process, SystemFailed, shown

LONGEST_WAIT_SECONDS = 30.0
"""Who dies again and again is started at once the first time, then after waits that double from 1 s up to this."""

STEADY_SECONDS = 60.0
"""Who ran for so long has started well: it is started again at once."""


class Nurse:
    """Starts again what died: at once if it had run well, after ever longer waits if it had not."""

    def __init__(self, system: System, console: Console) -> None:
        self._system, self._console = system, console
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def look(self, now: float) -> None:
        """Say what has died since the last look, and start what is due. `now` is of `time.monotonic()`."""
        for process in self._system.dead():
            if process.name not in self._due:
                self._due[process.name] = now + self._mourn(process, now)
            if now >= self._due[process.name]:
                del self._due[process.name]
                self._system.start_again(process)

    def _mourn(self, process: Process, now: float) -> float:
        """Tell of a death; the seconds until it is started again."""
        steady = now - process.started_at > STEADY_SECONDS
        failures = 0 if steady else self._failures.get(process.name, 0)
        self._failures[process.name] = failures + 1
        wait = min(2.0 ** (failures - 1), LONGEST_WAIT_SECONDS) if failures else 0.0
        again = f"starts again in {wait:g} s" if wait else "started again"
        lines = [f"{process.fate()}; {again}"]
        if not process.was_killed:
            lines.append(process.last_words())
        self._console.print(Text("\n".join(lines), style="yellow"), soft_wrap=True)
        return wait


def end_on_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread from now on.

    A shell's script starts what it puts into the background with SIGINT ignored: it ends us all the same. An
    ignored SIGHUP is somebody's `nohup`, and stays so.
    """

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, leave)


def run(work: Callable[[], int], console: Console, *, stopped: str, status: int) -> int:
    """Do the work; the exit status. What is wrong is told in a line, with status 1.

    A signal ends it with `status`, and with the line `stopped`.
    """
    end_on_signals()
    try:
        return work()
    except KeyboardInterrupt:
        console.print(f"\n  {stopped}")
        return status
    except SystemFailed as error:
        said = str(error)
    except DBAPIError as error:
        said = readiness.sentence(error)
    except OSError as error:
        said = _sentence(error)
    console.print(Text(said, style="red"), soft_wrap=True)
    return 1


def _sentence(error: OSError) -> str:
    if error.filename is None and error.errno != errno.ENOSPC:
        return str(error)
    where = f"{shown(Path(str(error.filename)))}: " if error.filename else ""
    return f"{where}{error.strerror}. Check its owner and the disk, or choose another place with --folder."


def quoted(path: Path) -> str:
    """A path to paste into a shell."""
    return shlex.quote(shown(path))


# The command line


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{message.removeprefix('argument ')}. --help lists what there is.\n")


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number of this range."""

    def read(text: str) -> int:
        with suppress(ValueError):
            if least <= int(text) <= most:
                return int(text)
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """Reads a number of this range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}")
        return value

    return read


def writable_file(text: str) -> Path:
    """Reads the path of a file that can be written, before there is anything to write."""
    path = Path(text)
    try:
        path.open("a").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} can't be written: {error.strerror}") from None
    return path
