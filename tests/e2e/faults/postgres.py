"""PostgreSQL servers to be mistreated: killed, frozen, filled, copied and promoted, as their own account."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psutil
from sqlalchemy import create_engine, text

from sandbox.postgres import Programs, programs
from sandbox.system_ports import free_port
from sandbox.system_process import Process, says

SEGMENT_BYTES = 2**20
"""A file of the log of changes: as small as PostgreSQL allows, so that the limit of a full disk is above it."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "autovacuum": "off",  # it would give a full disk's pages back
    "shared_buffers": "32MB",
}

_AS_ACCOUNT = """
import ctypes, os, signal, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # a change of the account has taken the leash off
os.execv(sys.argv[3], sys.argv[3:])
"""

_LIMIT = """
import contextlib, os, resource, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
for pid in map(int, sys.argv[4:]):
    with contextlib.suppress(ProcessLookupError):
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (int(sys.argv[3]), hard))
"""
"""Their own account does it: nobody else, not even root everywhere, may limit its processes."""


class Server:
    """One server on 127.0.0.1:`port`, which trusts everybody. `folder` is the account's own."""

    def __init__(self, programs: Programs, folder: Path, port: int) -> None:
        self._programs, self._data, self.port = programs, folder / f"data-{port}", port
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        argv = [self._program("postgres"), "-D", str(self._data), "-p", str(port)]
        for name, value in SETTINGS.items():
            argv += ["-c", f"{name}={value}"]
        if programs.user:
            argv = [sys.executable, "-I", "-S", "-c", _AS_ACCOUNT, *_ids(programs), *argv]
        log = folder / f"{port}.log"
        self.process = Process(f"postgres-{port}", argv, {**os.environ}, log, says("ready to accept"))

    def create(self) -> Self:
        """Make an empty server."""
        size = f"--wal-segsize={SEGMENT_BYTES // 2**20}"
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", size)
        return self

    def copy(self, primary: "Server") -> Self:
        """Become the standby of a running server."""
        where = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "--no-sync"]
        self._run("pg_basebackup", *where, "-R", "-X", "stream", "-c", "fast")
        return self

    def start(self) -> Self:
        """Start it, and wait until it takes connections."""
        self.process.start()
        self.process.wait_ready()
        return self

    def crash(self) -> None:
        """End all of it at once, as `pg_ctl -m immediate` does: it will have to recover."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGQUIT)
        give_up = time.monotonic() + 20
        while self.process.alive and time.monotonic() < give_up:
            time.sleep(0.01)
        self.process.terminate(0)

    def promote(self) -> None:
        """From standby to primary; it takes writes when this returns."""
        self._run("pg_ctl", "-w", "promote")

    def freeze(self) -> None:
        """Stop all its processes where they are."""
        for process in self._processes():
            process.suspend()

    def thaw(self) -> None:
        """Let them go on."""
        for process in self._processes():
            process.resume()

    def limit_files(self, size: int) -> None:
        """Let none of its processes, nor those that it starts, write beyond this place in a file."""
        assert self.process.pid is not None
        self._limit(size, [self.process.pid])
        self._limit(size, [process.pid for process in self._processes()])

    def _limit(self, size: int, ids: list[int]) -> None:
        argv = [sys.executable, "-I", "-S", "-c", _LIMIT, *_ids(self._programs), str(size), *map(str, ids)]
        subprocess.run(argv, check=True, timeout=60)

    def ask(self, *statements: str) -> Any:
        """Run statements, each for itself; the last one's first value."""
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                found = [connection.execute(text(statement)) for statement in statements][-1]
                return found.scalar() if found.returns_rows else None
        finally:
            engine.dispose()

    def _processes(self) -> list[psutil.Process]:
        """The server and all that it has started: the server first, so that it starts no more meanwhile."""
        assert self.process.pid is not None
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def _program(self, name: str) -> str:
        return str(self._programs.folder / name)

    def _run(self, name: str, *arguments: str) -> None:
        argv = [self._program(name), "-D", str(self._data), *arguments]
        subprocess.run(argv, check=True, capture_output=True, cwd="/", timeout=60, **self._as_account())

    def _as_account(self) -> dict[str, Any]:
        user = self._programs.user
        return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


def _ids(programs: Programs) -> tuple[str, str]:
    """The account's own id and its group's."""
    account = pwd.getpwnam(programs.user) if programs.user else pwd.getpwuid(os.geteuid())
    return str(account.pw_uid), str(account.pw_gid)


class Servers:
    """Makes servers in a folder of their own, and ends them all."""

    def __init__(self) -> None:
        self._programs = programs()
        self._folder = tempfile.TemporaryDirectory(prefix="faults-")
        self._made: list[Server] = []
        if user := self._programs.user:
            os.chown(self._folder.name, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)

    def make(self) -> Server:
        """A server that holds nothing yet."""
        self._made.append(Server(self._programs, Path(self._folder.name), free_port()))
        return self._made[-1]

    def end(self) -> None:
        """Kill them, and drop what they kept."""
        for server in self._made:
            server.process.terminate(0)
        self._folder.cleanup()
