"""The folder of one system: its lock, its logs, its databases, and the settings that another shell can read."""

import fcntl
import os
import shlex
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from sandbox.system_process import SystemFailed, shown


class Folder:
    """Everything that a system keeps. One system at a time has it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.logs = self.path / "logs"
        self.env = self.path / "env"
        self._descriptor: int | None = None

    def database(self, name: str) -> Path:
        """The SQLite file of a part."""
        return self.path / f"{name}.sqlite3"

    def pid_file(self, name: str) -> Path:
        """Where the id of a part's process stands while it runs."""
        return self.path / f"{name}.pid"

    def lock(self) -> None:
        """Take the folder, and make it when it is missing. Raises SystemFailed when another system has it."""
        if self._descriptor is None:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # orders are nobody else's business
            self.logs.mkdir(exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise SystemFailed(f"Another system runs in {shown(self.path)}. Stop it first.") from None
            self._descriptor = descriptor

    def unlock(self) -> None:
        """Give the folder back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def clear(self, databases: Iterable[str]) -> None:
        """Forget what an earlier system kept here: these databases and the logs. Raises SystemFailed."""
        self.lock()
        for name in databases:
            for path in self.path.glob(f"{self.database(name).name}*"):
                path.unlink()
        shutil.rmtree(self.logs)
        self.logs.mkdir()

    def write_env(self, environment: Mapping[str, str], *, own_queue: bool) -> None:
        """Write the settings for the command line in another shell: `. FOLDER/env`. Only the owner can read it.

        The credentials of an SQS of one's own stay out of it: they are in the shell that needs them.
        """
        ours = ("INTEGRATOR_", "AWS_") if own_queue else ("INTEGRATOR_",)
        chosen = {name: environment[name] for name in environment if name.startswith(ours)}
        self.env.touch(0o600)
        self.env.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in chosen.items()))

    def tidy_up(self) -> None:
        """Fold SQLite's side files into their databases, when all that used them has ended."""
        if self._descriptor is None:
            return
        for log in self.path.glob("*.sqlite3-wal"):
            with (
                suppress(sqlite3.Error),
                closing(sqlite3.connect(log.with_name(log.name[: -len("-wal")]))) as last,
            ):
                last.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # who closes last removes them
