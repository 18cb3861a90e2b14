"""Programs that only Debian has, for tests: downloaded and unpacked by apt and dpkg, without root.

Kept in the user's cache folder, so that each is fetched once. What a package depends on is not fetched: this is
for programs that stand alone, as those written in Go do.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

TRIES = 3


def binaries(package: str) -> Path:
    """The folder of a package's programs, say of `prometheus` the one with `promtool` in it.

    Skips the test, saying why, where Debian's packages can't be had; fails it instead if CI is set.
    """
    unpacked = cache() / package
    if not unpacked.is_dir():
        refused = "no apt-get or no dpkg here" if not tools() else fetch(package, unpacked)
        if refused:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"Debian's package {package}: {refused}")
    return unpacked / "usr" / "bin"


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "integrator" / "debian"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def tools() -> bool:
    return bool(shutil.which("apt-get") and shutil.which("dpkg"))


def fetch(package: str, unpacked: Path) -> str:
    """Download and unpack a package, all or nothing, and say what went wrong; another process may do the same."""
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{package}-") as name:
        work = Path(name)
        for folder in ("lists/partial", "cache/archives/partial", "root"):
            (work / folder).mkdir(parents=True)
        refused = ""
        for _ in range(TRIES):
            listed = run(work, *apt(work, "update"))  # fails, too, when the mirror of something else is away
            refused = run(work, *apt(work, "download", package))
            refused = refused and f"{listed} {refused}".strip()
            if not refused:
                break
        refused = refused or run(work, "dpkg", "-x", *(str(deb) for deb in work.glob("*.deb")), "root")
        if not refused:
            try:
                (work / "root").rename(unpacked)
            except OSError:  # another process was faster
                assert unpacked.is_dir()
        return refused


def apt(work: Path, *arguments: str) -> list[str]:
    """apt-get with lists of its own: those of a fresh machine are empty, and only root may fill them."""
    folders = [f"Dir::State::lists={work / 'lists'}", f"Dir::Cache={work / 'cache'}"]
    options = [*folders, "APT::Sandbox::User=root", "APT::Update::Error-Mode=any"]
    return ["apt-get", "-qq", *(part for option in options for part in ("-o", option)), *arguments]


def run(work: Path, *command: str) -> str:
    ran = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=100, check=False)
    return f"{command[0]} ended with {ran.returncode}: {ran.stderr.strip()}" if ran.returncode else ""
