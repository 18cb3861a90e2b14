"""What a process makes sure of before it works: schema, durability and keys; and sentences for what is wrong."""

import sys

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError

from integrator import config
from integrator.config import LEDGER_URL_FORMS, Settings
from integrator.ledger import migrate
from integrator.ledger.engine import Ledger, LossyLedger
from integrator.ledger.migrate import OldSchema
from integrator.ledger.schema import erps, shops
from integrator.ledger.tenants import ApplyError
from integrator.secrets import KeyRing, SecretsError

BUDGET_PERCENT = 80
"""Of the connections that PostgreSQL takes, ours are so many at most: people, backups and monitoring need some."""


class TooManyConnections(Exception):
    """All processes together might open more connections than the ledger has for them. Its text is for people."""


EXPECTED = (
    SecretsError,
    ApplyError,
    OldSchema,
    LossyLedger,
    TooManyConnections,
    DBAPIError,
    ArgumentError,
    OSError,
    ValidationError,
)
"""What goes wrong by configuration or circumstance: it is told in a sentence, not with a traceback."""


def settings_or_exit() -> Settings:
    """The process's settings; what is wrong with them ends it with a line for each, instead of a traceback."""
    try:
        return config.settings()
    except ValidationError as error:
        sys.exit(f"Error: {sentence(error)}")


def ring_of(settings: Settings) -> KeyRing:
    """The key ring that the settings hold. Raises SecretsError."""
    return KeyRing(tuple(key.get_secret_value() for key in settings.secret_keys))


def check(settings: Settings, ledger: Ledger) -> None:
    """Raise one of EXPECTED unless this ledger can be worked on, and its secrets read."""
    ring = ring_of(settings)
    check_ledger(settings, ledger)
    with ledger.read() as connection:
        for table in (erps, shops):
            sealed = connection.execute(select(table.c.secrets).order_by(table.c.id.desc()).limit(1)).scalar()
            if sealed is not None:
                ring.open(sealed)


def check_ledger(settings: Settings, ledger: Ledger) -> str:
    """Raise one of EXPECTED unless the ledger has our schema, loses nothing, takes all connections. The schema."""
    version = migrate.check(ledger)
    if not settings.allow_lossy_ledger:
        ledger.check_durability()
    _check_budget(settings, ledger.max_connections())
    return version


def _check_budget(settings: Settings, max_connections: int | None) -> None:
    size, processes = settings.ledger_pool_size, settings.ledger_processes
    if max_connections is None or size * processes * 100 <= max_connections * BUDGET_PERCENT:
        return
    budget = max_connections * BUDGET_PERCENT // 100
    raise TooManyConnections(
        f"{processes} processes (INTEGRATOR_LEDGER_PROCESSES) with up to {size} connections each "
        f"(INTEGRATOR_LEDGER_POOL_SIZE) come to {processes * size}; {BUDGET_PERCENT} % of PostgreSQL's "
        f"max_connections = {max_connections} are {budget}. Raise max_connections to "
        f"{-(-processes * size * 100 // BUDGET_PERCENT)}, or bring one of the two down."
    )


def sentence(error: Exception, ledger_url: URL | None = None) -> str:
    """Say what is wrong and what to do, in one line; of settings, in one for each. Nothing of it is a secret."""
    if isinstance(error, ValidationError):
        return "\n".join(
            _setting(str(found["loc"][0]) if found["loc"] else "", found["msg"])
            for found in error.errors(include_input=False, include_url=False, include_context=False)
        )
    if isinstance(error, ArgumentError):
        return f"INTEGRATOR_LEDGER_URL is no ledger's URL; write {LEDGER_URL_FORMS}."
    if isinstance(error, DBAPIError | OSError):
        where = ledger_url.render_as_string(hide_password=True) if ledger_url else "INTEGRATOR_LEDGER_URL"
        cause = error.orig if isinstance(error, DBAPIError) else error.strerror
        said = str(cause).strip().splitlines() or [type(error).__name__]
        return (
            f"The ledger at {where} can't be used ({said[0]}). "
            "Check that it runs and that INTEGRATOR_LEDGER_URL is right."
        )
    return str(error)


def _setting(name: str, wrong: str) -> str:
    """A line about one setting: its variable, what is wrong with its value, and what it is for."""
    field = Settings.model_fields.get(name)
    meaning = f" It is for: {field.description}" if field else ""
    wrong = wrong.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"INTEGRATOR_{name.upper()} {wrong}.{meaning}"
