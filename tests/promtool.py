"""Prometheus' own checker: the machine's, or that of Debian's package, unpacked without being installed.

The package is fetched once for each user, with package lists of its own, so that neither root nor a machine whose
lists are fresh is needed. Several test runs may do so at the same time.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PACKAGE = "prometheus"
APT_OPTIONS = {
    "APT::Sandbox::User": "root",  # the lists and the package go into a folder that only we can write
    "Acquire::Languages": "none",
    "Acquire::Retries": "2",
    "Acquire::http::Timeout": "20",
    "Acquire::https::Timeout": "20",
}


class NoPromtool(Exception):
    """It can't be had here. Its text is for people."""


def promtool(cache: Path | None = None) -> Path:
    """The program; `cache` is the folder that keeps it, by default the user's. Raises NoPromtool."""
    if cache is None and (found := shutil.which("promtool")):
        return Path(found)
    kept = (cache or _user_cache()) / "promtool"
    if not kept.exists():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
                _unpack(Path(folder)).replace(kept)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoPromtool(
                "No promtool: install Prometheus (`apt install prometheus`), or see why apt can't fetch "
                f"its package: {_reason(error)}"
            ) from error
    return kept


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "integrator-tests"


def _unpack(folder: Path) -> Path:
    """Fetch the package into the folder and unpack it; the program in it. Raises OSError and SubprocessError."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    places = {"Dir::State::lists": lists, "Dir::Cache": folder / "cache"}
    options = [f"--option={name}={value}" for name, value in {**APT_OPTIONS, **places}.items()]
    fetch = ["apt-get", "--quiet", *options]
    # A mirror of something else may be away: what counts is whether the package is there afterwards.
    script = f"{shlex.join([*fetch, 'update'])}; {shlex.join([*fetch, 'download', PACKAGE])} && dpkg -x *.deb ."
    subprocess.run(["/bin/sh", "-c", script], cwd=folder, capture_output=True, check=True, timeout=500)
    return folder / "usr" / "bin" / "promtool"


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stderr.decode(errors="replace")).strip()
    return str(error)


@pytest.fixture(scope="session")
def checker() -> Path:
    """The program. Missing, it fails in CI and skips at home."""
    try:
        return promtool()
    except NoPromtool as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
