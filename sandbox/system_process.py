"""One real process of a system under supervision: started, waited for, killed, stopped, and never left behind.

A child must not outlive us, however we end:

- Linux kills it when we die (PR_SET_PDEATHSIG). A small program sets that and then becomes the child, because
  Python's own hook between fork and exec (`preexec_fn`) may deadlock in a process with threads. The kernel looks
  at the *thread* that forked, so all children are forked by one thread that lives as long as we do.
- Elsewhere, and for a child's own children, it leads a session and process group of its own, which is killed
  as a whole; the session also keeps a terminal's Ctrl-C to us, so that we can stop things in order.
"""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
"""Where the code is, and where every child starts."""

READY_SECONDS = 60
"""How long a process may take to be ready: thirty times what it takes on an idle machine."""

STOP_SECONDS = 30
"""How long a process may take to end by itself; a worker gives its runs back after 25."""

TAIL_LINES = 8
"""Lines of a log that are shown when its process failed."""

_LEASH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
_forker = ThreadPoolExecutor(1, thread_name_prefix="forks-the-children")


class SystemFailed(Exception):
    """A part of the system did not start, or ended by itself. Its text is for people."""


class Process:
    """A process to be: it runs `argv` with `env`, both of which may be changed before the next start.

    `ready` says whether it does its work by now. It is wanted from `start` to `terminate`: dead in between, even
    by `kill`, it has failed. `pid_file` holds its id while it is wanted, for who wants to kill it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        ready: "Callable[[Process], bool]",
        *,
        pid_file: Path | None = None,
    ) -> None:
        self.pid_file = pid_file
        self.name, self.argv, self.env, self.log = name, list(argv), dict(env), log
        self.wanted = False
        self.starts = 0
        self.started_at = 0.0
        self._ready = ready
        self._child: subprocess.Popen[bytes] | None = None
        self._log_begins = 0
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start it; returns before it is ready. Nothing happens when it runs."""
        with self._lock:
            self.wanted = True
            if not self.alive:
                self._child = _forker.submit(self._fork).result()
                self.starts += 1
                self.started_at = time.monotonic()
                if self.pid_file:
                    self.pid_file.write_text(f"{self._child.pid}\n")

    def _fork(self) -> subprocess.Popen[bytes]:
        leash = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid())]
        with self.log.open("ab") as output:
            self._log_begins = output.tell()
            return subprocess.Popen(
                [*leash, *self.argv],
                cwd=ROOT,
                env=self.env | {"INTEGRATOR_FAILPOINT_PART": f"{self.name}#{self.starts + 1}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The process's id, None before its first start."""
        return self._child.pid if self._child else None

    @property
    def exit_code(self) -> int | None:
        """How it ended, a signal as its negative number; None while it runs, and before its first start."""
        return self._child.returncode if self._child and not self.alive else None

    @property
    def alive(self) -> bool:
        """Whether it runs. What it started itself is killed when it has ended."""
        with self._lock:
            if self._child is None or self._child.returncode is not None:
                return False
            ended = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended is None:
                return True
            self._signal_group(signal.SIGKILL)  # the id is ours until it is waited for
            self._child.wait()
            return False

    def wait_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until it does its work. Raises SystemFailed."""
        give_up = time.monotonic() + timeout_seconds
        while not self._ready(self):
            if not self.alive:
                raise SystemFailed(self.obituary())
            if time.monotonic() > give_up:
                raise SystemFailed(f"{self.name} is not ready after {timeout_seconds:g} s. {self.last_words()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it and all that it started, at once, as a crash would."""
        with self._lock:
            if self.alive:
                self._signal_group(signal.SIGKILL)
                self._wait(STOP_SECONDS)

    def restart(self) -> None:
        """Kill it and start it again; returns before it is ready."""
        with self._lock:
            self.kill()
            self.start()

    def ask_to_end(self) -> None:
        """Send SIGTERM; returns at once. It is not wanted any more."""
        with self._lock:
            self.wanted = False
            if self.alive and self._child:
                self._child.terminate()

    def terminate(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Ask it to end, and kill it when it does not in time."""
        self.ask_to_end()
        self._wait(timeout_seconds)
        self.kill()
        if self.pid_file:
            self.pid_file.unlink(missing_ok=True)

    def _wait(self, timeout_seconds: float) -> None:
        give_up = time.monotonic() + timeout_seconds
        while self.alive and time.monotonic() < give_up:
            time.sleep(0.01)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._child:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    def said(self) -> str:
        """What it has written since its last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode(errors="replace")

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it: nothing that it wrote explains that."""
        return self.exit_code == -signal.SIGKILL

    def fate(self) -> str:
        """Say how it ended."""
        code = self.exit_code
        how = f"was killed (signal {-code})" if code and code < 0 else f"ended with status {code}"
        return f"{self.name} {how}"

    def obituary(self) -> str:
        """Say how it ended, with its last lines and where the rest is."""
        return f"{self.fate()}. {self.last_words()}"

    def last_words(self) -> str:
        """The last lines of its log, and where the rest is."""
        lines = [line for line in self.said().splitlines() if line.strip()][-TAIL_LINES:]
        if not lines:
            return f"It wrote nothing to {shown(self.log)}."
        return "\n".join([f"The end of {shown(self.log)}:", *(f"  {line[:400]}" for line in lines)])


def shown(path: Path) -> str:
    """A path as people read it: relative when it is below the current folder."""
    with suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def says(pattern: str) -> Callable[[Process], bool]:
    """Ready when it has written this since its start."""
    return lambda process: re.search(pattern, process.said(), re.MULTILINE) is not None


def answers(url: str) -> Callable[[Process], bool]:
    """Ready when this address answers 200."""
    return lambda _process: get_status(url) == 200


def get_status(url: str, timeout_seconds: float = 3) -> int | None:
    """The status that an address answers a GET with, None when it does not."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def answers_tcp(port: int) -> Callable[[Process], bool]:
    """Ready when something listens on this port of this machine."""

    def listens(_process: Process) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    return listens
