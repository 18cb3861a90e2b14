"""The commands of `flask --app web`: what they do, and that what can go wrong is told in a sentence."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from flask.cli import FlaskGroup
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.exc import OperationalError

from integrator.clock import after
from integrator.config import Settings
from integrator.erps.rest import MAX_DEADLINE_SECONDS, RestErp
from integrator.gate import pause
from integrator.ledger import migrate
from integrator.ledger.access import find_shop
from integrator.ledger.engine import Ledger
from integrator.ledger.leases import LONGEST_CALL_SECONDS
from integrator.ledger.schema import erps, gates, shops, tenants
from integrator.plans import Plan
from integrator.secrets import KeyRing, key_ring, new_key
from tests.webhooks import ENVIRONMENT, JSON, KEYS, SECRETS, count, shop, store, tenant
from web import create_app

Run = Callable[..., Result]


def runner(ledger: Ledger, **changes: Any) -> Run:
    """Runs commands on this ledger as the shell does."""
    group = FlaskGroup(create_app=lambda: create_app(Settings(**changes), ledger=ledger), load_dotenv=False)

    def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(group, list(arguments), env=env, catch_exceptions=False)

    return run


@pytest.fixture
def run(ledger: Ledger) -> Run:
    return runner(ledger)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], str]:
    """Writes a file of tenants, or text that is none."""

    def write(content: Any) -> str:
        path = tmp_path / "tenants.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump({"tenants": content}))
        return str(path)

    return write


def told(result: Result, *parts: str) -> None:
    """It failed with one sentence for people, and with no traceback."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_given_an_empty_ledger_when_upgraded_then_check_is_content_and_needs_no_keys(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/deep/er/ledger.sqlite3")
    run = runner(ledger, secret_keys=())

    told(run("ledger", "check"), "schema is empty", "`flask --app web ledger upgrade`")
    assert run("ledger", "upgrade").output == f"The ledger's schema is {migrate.head()}.\n"
    assert run("ledger", "upgrade").exit_code == 0
    checked = run("ledger", "check")

    assert (checked.exit_code, migrate.head() in checked.output) == (0, True)
    ledger.close()


def test_given_a_lossy_ledger_when_checked_then_the_setting_is_named(postgresql_ledger: Ledger) -> None:
    url = postgresql_ledger.url.render_as_string(hide_password=False)
    lossy = Ledger(url)
    lossy._engine = create_engine(url, connect_args={"options": "-c synchronous_commit=off"})
    lossy._pid = os.getpid()

    told(runner(lossy)("ledger", "check"), "synchronous_commit = off", "INTEGRATOR_ALLOW_LOSSY_LEDGER")

    lossy.close()


@pytest.mark.parametrize("command", [["ledger", "check"], ["ledger", "upgrade"], ["tenants", "list"]])
@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://ada:hunter2@127.0.0.1:9/nothing", "sqlite:////proc/nothing/ledger.sqlite3"]
)
def test_given_a_ledger_that_is_not_there_when_run_then_it_is_said_without_the_password(
    command: list[str], url: str
) -> None:
    result = runner(Ledger(url))(*command)

    told(result)
    assert len(result.stderr.splitlines()) == 1
    assert "hunter2" not in result.stderr


def test_given_nothing_when_asked_for_a_key_then_it_is_one() -> None:
    result = runner(Ledger("sqlite:////proc/nothing/ledger.sqlite3"), secret_keys=())("ledger", "new-key")

    ring = KeyRing((result.output.strip(),))
    assert ring.open(ring.seal({"a": 1})) == {"a": 1}


def test_given_settings_that_are_wrong_when_run_then_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INTEGRATOR_WEB_THREADS", "many")
    monkeypatch.setattr("web.app.config.settings", Settings)

    result = CliRunner().invoke(FlaskGroup(create_app=create_app, load_dotenv=False), ["tenants", "list"])

    told(result, "INTEGRATOR_WEB_THREADS")


def test_given_a_file_when_applied_then_it_is_said_and_applied_again_nothing_changes(
    run: Run, write: Callable[[Any], str], ledger: Ledger
) -> None:
    path = write([tenant()])

    dry = run("tenants", "apply", path, "--dry-run", env=ENVIRONMENT)
    assert count(ledger, tenants) == 0
    first = run("tenants", "apply", path, env=ENVIRONMENT)
    again = run("tenants", "apply", path, env=ENVIRONMENT)

    assert (dry.exit_code, first.exit_code, again.exit_code) == (0, 0, 0)
    assert first.output.splitlines() == [
        "tenant acme: added",
        "management system acme/own: added",
        "shop acme/de: added",
    ]
    assert dry.output.splitlines() == [f"would be: {line}" for line in first.output.splitlines()]
    assert again.output == "nothing to change\n"
    with ledger.read() as connection:
        found = find_shop(connection, KEYS["KEY"], key_ring())
    assert found is not None
    assert found.webhook_secrets == (SECRETS["NEW"], SECRETS["OLD"])


def test_given_new_credentials_when_applied_then_the_gate_that_they_shut_opens(
    run: Run, write: Callable[[Any], str], ledger: Ledger
) -> None:
    path = write([tenant()])
    run("tenants", "apply", path, env=ENVIRONMENT)
    shut = {"credentials_until": after(900), "breaker_until": after(900), "breaker_state": "open"}
    with ledger.write() as connection:
        before = connection.execute(
            update(gates).values(**shut).returning(gates.c.credentials_version)
        ).scalar_one()
    assert "credentials were refused" in run("tenants", "list").output

    result = run("tenants", "apply", path, env=ENVIRONMENT | {"TOKEN": "a-new-token"})

    assert "management system acme/own: changed secrets" in result.output
    with ledger.read() as connection:
        row = connection.execute(select(gates)).one()
    assert row.credentials_version == before + 1
    assert "gate open" in run("tenants", "list").output


def wrong_shop(**changes: Any) -> list[JSON]:
    return [tenant("acme", shop() | changes)]


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        ("tenants: [", ["line 1, column 11"]),
        ("\x00", ["not YAML"]),
        ("", ["the file: "]),
        ("- 1", ["the file: "]),
        ("tenants: 3", ["tenants: "]),
        ("tenants: [{slug: A!}]", ["tenants[0].slug: ", "tenants[0].name: "]),
        ([tenant(more=1)], ["tenants[0].more: "]),
        ([tenant(tolerance="-1")], ["tenants[0].tolerance: "]),
        ([tenant(keep_days=2)], ["tenants[0].keep_days: Input should be greater than or equal to 3"]),
        ([tenant(keep_days="a while")], ["tenants[0].keep_days: Input should be a valid integer"]),
        (wrong_shop(max_open_deliveries=0), ["shops[0].max_open_deliveries: Input should be greater than"]),
        ([tenant("acme", shop(erp="other"))], ["tenants[0]: shop de: there is no management system other"]),
        (wrong_shop(key="plain-text-key-0123456789abcdef"), ["tenants[0].shops[0].key: "]),
        (wrong_shop(secrets={"webhook": "hunter2"}), ["shops[0].secrets.webhook: must be {env: NAME}, or a list"]),
        (wrong_shop(secrets={"webhook": [{"env": "NEW", "x": 1}]}), ["shops[0].secrets.webhook: must be"]),
        (wrong_shop(key={"env": "MISSING"}), ["MISSING is not set"]),
        (wrong_shop(key={"env": "TOKEN"}), ["shop de: its key has 7 characters"]),
        (wrong_shop(platform="nobody"), ["'nobody' in integrator.shops; installed are"]),
        (wrong_shop(platform="erp"), ["'erp'"]),
        (wrong_shop(config={"domain": "x"}), ["shop de: domain must be"]),
        ([tenant("acme", shop(), shop("at"))], ["shop at: another shop already has this key"]),
        ([tenant(), tenant("bolt", shop("at"))], ["shop at: another shop already has this key"]),
    ],
    ids=range(22),
)
def test_given_a_file_with_something_wrong_when_applied_then_it_is_said_and_nothing_changes(
    sqlite_ledger: Ledger, write: Callable[[Any], str], content: Any, sentences: list[str]
) -> None:
    result = runner(sqlite_ledger)("tenants", "apply", write(content), env=ENVIRONMENT)

    told(result, *sentences)
    assert len(result.stderr.splitlines()) == max(len(sentences), 1)
    assert "hunter2" not in result.stderr
    assert [count(sqlite_ledger, table) for table in (tenants, erps, gates, shops)] == [0, 0, 0, 0]


def test_s4_given_a_connector_whose_calls_fit_into_no_lease_when_applied_then_it_is_said_and_nothing_changes(
    sqlite_ledger: Ledger, write: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RestErp, "deadline_seconds", lambda _self, _config: 31.0)
    result = runner(sqlite_ledger)("tenants", "apply", write([tenant()]), env=ENVIRONMENT)
    told(result, "management system acme/own: a call of up to 31 s does not fit into a lease; 18 s do")
    assert count(sqlite_ledger, erps) == 0
    assert MAX_DEADLINE_SECONDS <= LONGEST_CALL_SECONDS


def test_given_a_tenant_that_says_how_long_it_keeps_when_applied_then_it_is_shown_and_can_be_taken_back(
    run: Run, write: Callable[[Any], str], ledger: Ledger
) -> None:
    assert run("tenants", "apply", write([tenant()]), env=ENVIRONMENT).exit_code == 0
    changed = run(
        "tenants", "apply", write([tenant("acme", shop(max_open_deliveries=9), keep_days=7)]), env=ENVIRONMENT
    )
    assert changed.output.splitlines() == [
        "tenant acme: changed keep_days",
        "shop acme/de: changed max_open_deliveries",
    ]
    assert "acme (Acme), keeps 7 days\n" in run("tenants", "list").output
    assert json.loads(run("tenants", "list", "--json").output)["tenants"][0]["keep_days"] == 7
    run("tenants", "apply", write([tenant()]), env=ENVIRONMENT)
    assert "acme (Acme)\n" in run("tenants", "list").output


def test_given_a_file_that_fails_at_its_end_when_applied_then_nothing_of_it_stays(
    run: Run, write: Callable[[Any], str], ledger: Ledger
) -> None:
    path = write([tenant(), tenant("bolt", shop("at", "MISSING"))])

    told(run("tenants", "apply", path, env=ENVIRONMENT), "MISSING")

    assert count(ledger, tenants) == 0


def test_given_no_file_when_applied_then_click_says_so(run: Run) -> None:
    result = run("tenants", "apply", "/no/such/file.yaml")

    assert result.exit_code == 2
    assert "/no/such/file.yaml" in result.stderr


@pytest.mark.parametrize("keys", [(), ("not-a-key",)])
def test_given_no_usable_keys_when_applied_then_it_is_said(
    sqlite_ledger: Ledger, write: Callable[[Any], str], keys: tuple[str, ...]
) -> None:
    run = runner(sqlite_ledger, secret_keys=keys)

    told(run("tenants", "apply", write([tenant()]), env=ENVIRONMENT), "INTEGRATOR_SECRET_KEYS")
    assert run("tenants", "list").exit_code == 0


def test_given_other_keys_when_applied_over_stored_secrets_then_it_is_said(
    run: Run, write: Callable[[Any], str], ledger: Ledger
) -> None:
    path = write([tenant()])
    run("tenants", "apply", path, env=ENVIRONMENT)

    told(runner(ledger, secret_keys=(new_key(),))("tenants", "apply", path, env=ENVIRONMENT), "None of the keys")


def test_given_a_new_key_in_front_when_rotated_then_it_alone_opens_everything(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    old, new = new_key(), new_key()
    store(ledger, tenant(), tenant("bolt", shop("at", "KEY_2")), ring=KeyRing((old,)))
    monkeypatch.setattr("web.tenants.BATCH", 1)

    result = runner(ledger, secret_keys=(new, old))("ledger", "rotate-keys")

    assert result.output.splitlines() == [
        "management systems: 2 encrypted with the first key",
        "shops: 2 encrypted with the first key",
    ]
    alone = KeyRing((new,))
    with ledger.read() as connection:
        for table in (erps, shops):
            assert all(alone.open(sealed) for sealed in connection.execute(select(table.c.secrets)).scalars())
        found = find_shop(connection, KEYS["KEY_2"], alone)
    assert found is not None
    assert found.webhook_secrets == (SECRETS["NEW"], SECRETS["OLD"])


def test_given_a_rotation_when_others_store_credentials_then_none_slip_in_between_and_again_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, postgresql_ledger: Ledger
) -> None:
    ledger, ring = postgresql_ledger, key_ring()
    store(ledger)
    seal = KeyRing.rotate
    refused: list[str] = []

    def rotate(ring: KeyRing, sealed: bytes) -> bytes:
        for table in (erps, shops):
            with suppress(OperationalError), ledger.write(lock_timeout_ms=1) as connection:
                connection.execute(update(table).values(secrets=b"lost"))
                connection.rollback()
                continue
            refused.append(table.name)
        return seal(ring, sealed)

    monkeypatch.setattr(KeyRing, "rotate", rotate)
    for _ in range(2):
        assert runner(ledger)("ledger", "rotate-keys").exit_code == 0

    assert refused == ["erps", "shops"] * 2
    with ledger.read() as connection:
        assert all(ring.open(sealed) for sealed in connection.execute(select(erps.c.secrets)).scalars())


def test_given_a_row_that_no_key_opens_when_rotated_then_it_is_named_and_stays(ledger: Ledger) -> None:
    store(ledger, ring=KeyRing((new_key(),)))
    with ledger.read() as connection:
        before = connection.execute(select(erps.c.secrets)).scalar_one()

    told(runner(ledger)("ledger", "rotate-keys"), "acme/own: None of the keys")

    with ledger.read() as connection:
        assert connection.execute(select(erps.c.secrets)).scalar_one() == before


def test_given_tenants_when_listed_then_gates_are_told_and_secrets_are_not(run: Run, ledger: Ledger) -> None:
    store(ledger, tenant(active=False), tenant("bolt", shop("at", "KEY_2", active=False)))
    with ledger.write() as connection:
        pause(connection, [connection.execute(select(gates.c.id).limit(1)).scalar_one()])

    shown = run("tenants", "list")
    as_json = run("tenants", "list", "--json")

    assert "acme (Acme), inactive" in shown.output
    assert "gate shut until resumed: paused by an operator" in shown.output
    assert "shop at: shopify to own, inactive" in shown.output
    first, second = json.loads(as_json.output)["tenants"]
    assert first["erps"][0]["gate"] == {
        "open": False,
        "opens_at": None,
        "cause": "paused by an operator",
    }
    assert second["erps"][0] == {
        "slug": "own",
        "kind": "rest",
        "config": {},
        "window": 8,
        "plan": Plan().as_dict(),
        "gate": {"open": True, "opens_at": None, "cause": None},
    }
    for private in (*SECRETS.values(), *KEYS.values(), "127.0.0.1", "hash"):
        assert private not in shown.output + as_json.output


def test_given_an_old_schema_when_applied_or_listed_then_the_command_is_named(
    run: Run, write: Callable[[Any], str], ledger: Ledger
) -> None:
    try:
        with ledger.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
        for command in (["tenants", "list"], ["tenants", "apply", write([tenant()])], ["ledger", "rotate-keys"]):
            told(run(*command, env=ENVIRONMENT), "`flask --app web ledger upgrade`")
    finally:
        with ledger.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": migrate.head()})
