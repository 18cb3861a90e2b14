"""A copy of an SQLite ledger, while all goes on. PostgreSQL's own programs do it for PostgreSQL (bin/backup)."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from integrator.ledger.engine import Ledger


class NoBackup(Exception):
    """No copy was made. Its text is for people."""


def copy(ledger: Ledger, target: Path) -> int:
    """Copy the ledger of one moment to a new file, all or nothing; its size in bytes.

    Nobody waits for it: readers and writers go on. Only the file's owner may read it. Raises NoBackup and OSError.
    """
    if not ledger.on_sqlite:
        raise NoBackup(
            "This ledger is on PostgreSQL: pg_dump copies it (bin/backup does, for docker-compose.yml)."
        )
    source = Path(ledger.url.database or "")
    if not source.is_file():
        raise NoBackup(f"There is no ledger at {source}.")
    if target.exists():
        raise NoBackup(f"{target} is there already. Name another file.")
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as connection,
            closing(sqlite3.connect(part)) as copied,
        ):
            connection.backup(copied)
            copied.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        _check(part)
        part.rename(target)
    except sqlite3.Error as error:
        raise NoBackup(f"The ledger could not be copied: {error}.") from None
    finally:
        part.unlink(missing_ok=True)
    return target.stat().st_size


def _check(part: Path) -> None:
    """Read the copy from end to end, and have it on disk."""
    with closing(sqlite3.connect(part)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        raise NoBackup(f"The copy is damaged: {found}.")
    with part.open("rb") as copied:
        os.fsync(copied.fileno())
