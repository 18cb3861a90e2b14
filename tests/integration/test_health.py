"""Health pages: alive whatever the ledger does, ready only when webhooks can be kept."""

import time

import pytest
from sqlalchemy import text

from integrator.ledger import migrate
from integrator.ledger.engine import Ledger
from tests.webhooks import Site, site
from web.problems import MEDIA_TYPE


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Site:
    return site(monkeypatch, ledger)


def test_given_a_ledger_of_this_version_when_asked_then_it_is_ready(made: Site) -> None:
    answer = made.client.get("/readyz")

    assert (answer.status_code, answer.json) == (200, {"status": "ready"})


def test_given_another_schema_when_asked_then_the_problem_names_the_command(made: Site) -> None:
    with made.ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    try:
        answer = made.client.get("/readyz")
    finally:
        with made.ledger.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": migrate.head()})

    assert (answer.status_code, answer.content_type) == (503, MEDIA_TYPE)
    assert "flask --app web ledger upgrade" in answer.text


def test_given_no_ledger_when_asked_then_the_process_is_alive_and_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = site(monkeypatch, Ledger("postgresql+psycopg://nobody@127.0.0.1:9/nothing"))

    assert made.client.get("/healthz").status_code == 200
    answer = made.client.get("/readyz")

    assert (answer.status_code, answer.content_type) == (503, MEDIA_TYPE)
    assert "the ledger does not answer" in answer.text
    assert "nobody" not in answer.text


def test_given_a_ledger_that_hangs_when_asked_then_not_ready_within_its_time(
    monkeypatch: pytest.MonkeyPatch, postgresql_ledger: Ledger
) -> None:
    made = site(monkeypatch, postgresql_ledger)
    monkeypatch.setattr("web.health.READY_SECONDS", 0.2)
    other = Ledger(postgresql_ledger.url.render_as_string(hide_password=False))
    with other.write() as connection:
        connection.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))

        began = time.monotonic()
        answer = made.client.get("/readyz")
        took = time.monotonic() - began
        connection.rollback()
    other.close()

    assert answer.status_code == 503
    assert took < 5
    end = time.monotonic() + 10
    while made.client.get("/readyz").status_code != 200:  # its reader comes back, before the ledger is closed
        assert time.monotonic() < end
        time.sleep(0.01)
