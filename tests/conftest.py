"""What all tests share: a ledger on both databases, empty at the start of each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from integrator.config import settings
from integrator.ledger.engine import Ledger
from integrator.ledger.migrate import upgrade
from integrator.ledger.schema import metadata
from integrator.secrets import new_key
from sandbox.postgres import NoPostgres, postgres

LONGEST_FIRST = ("test_proof", "test_protocol_model", "e2e")
"""Modules and packages that take minutes: several processes share the rest of the tests while these run."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the random order, but begin with the longest, so that none of them runs on alone at the end."""

    def place(item: pytest.Item) -> int:
        parts = item.path.with_suffix("").parts
        return next((place for place, name in enumerate(LONGEST_FIRST) if name in parts), len(LONGEST_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """The process's settings do not come from the developer's shell."""
    for name in [name for name in os.environ if name.startswith("INTEGRATOR_")]:
        del os.environ[name]
    os.environ["INTEGRATOR_SECRET_KEYS"] = new_key()
    os.environ["INTEGRATOR_LEDGER_URL"] = "sqlite:///you-forgot-to-give-a-ledger/in-your-tests"
    os.environ["INTEGRATOR_SQS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "sandbox"
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server for the session. Missing, it fails in CI and skips at home."""
    try:
        with postgres() as url:
            yield url
    except NoPostgres as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ledger") / "template.sqlite3"
    ledger = Ledger(f"sqlite:///{path}")
    upgrade(ledger)
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    return path.read_bytes()


@pytest.fixture(scope="session")
def _postgres_ledger_url(postgres_url: str) -> str:
    ledger = Ledger(postgres_url)
    upgrade(ledger)
    ledger.close()
    return postgres_url


_END_OTHERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
"""What an earlier test's thread left open would make TRUNCATE wait."""


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """An empty ledger of this version, on each database."""
    name = "sqlite_ledger" if request.param == "sqlite" else "postgresql_ledger"
    found: Ledger = request.getfixturevalue(name)
    return found


@pytest.fixture
def sqlite_ledger(_sqlite_template: bytes, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger on SQLite."""
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(_sqlite_template)
    ledger = Ledger(f"sqlite:///{path}")
    yield ledger
    ledger.close()


@pytest.fixture
def postgresql_ledger(_postgres_ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger on PostgreSQL."""
    admin = create_engine(_postgres_ledger_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(_END_OTHERS)
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY CASCADE"))
    ledger = Ledger(_postgres_ledger_url)
    yield ledger
    ledger.close()
    admin.dispose()
