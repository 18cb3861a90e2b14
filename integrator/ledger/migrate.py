"""Bringing the ledger's schema to this version, and refusing to run on another."""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

from integrator.ledger.engine import Ledger

_one_at_a_time = threading.Lock()
"""Alembic keeps the migration that runs in a global of the process."""

_UPGRADE_LOCK = 0x1EDCE2
"""The advisory lock that lets one process upgrade at a time (PostgreSQL)."""


class OldSchema(Exception):
    """The ledger's schema is not the one that this version works with. Its text is for people."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The schema version of this code."""
    current = ScriptDirectory.from_config(_config()).get_current_head()
    assert current is not None, "there are migrations"  # noqa: S101
    return current


def current(ledger: Ledger) -> str | None:
    """The schema version of the ledger, None when it is empty."""
    with ledger.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(ledger: Ledger) -> str:
    """Bring the schema to this version; two at once are harmless. The version.

    Each statement waits at most 2 s for a lock: a busy table fails the upgrade rather than stalling the webhooks.
    """
    with _one_at_a_time, ledger.write(lock_timeout_ms=2_000) as connection:
        if not ledger.on_sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
        command.upgrade(_config(connection), "head")
    return head()


def check(ledger: Ledger) -> str:
    """Raise OldSchema unless the ledger has this code's schema. The version."""
    found, wanted = current(ledger), head()
    if found != wanted:
        raise OldSchema(
            f"The ledger's schema is {found or 'empty'}, this version needs {wanted}. "
            "Run `flask --app web ledger upgrade`, then start again."
        )
    return wanted
