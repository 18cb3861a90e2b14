"""The settings: read from the environment, checked, secrets never shown; and what Celery makes of them."""

import importlib
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

import celeryconfig
from integrator.config import Settings, settings
from integrator.readiness import sentence
from integrator.secrets import new_key


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"INTEGRATOR_{name.upper()}", value)
    return Settings()


def test_given_nothing_but_defaults_when_read_then_one_machine_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEDGER_URL", "SQS_ENDPOINT_URL", "SECRET_KEYS"):
        monkeypatch.delenv(f"INTEGRATOR_{name}")
    found = Settings()
    assert found.ledger_url.startswith("sqlite:///")
    assert found.secret_keys == ()
    assert found.queue_url("orders") == "https://sqs.us-east-1.amazonaws.com/000000000000/integrator-orders"
    assert (found.allow_lossy_ledger, found.clock_offset_seconds, found.failpoints) == (False, 0, "")


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"sqs_endpoint_url": "http://127.0.0.1:9324"}, "http://127.0.0.1:9324/000000000000/integrator-orders"),
        ({"sqs_endpoint_url": "http://sqs/", "sqs_queue_prefix": ""}, "http://sqs/000000000000/orders"),
        (
            {"sqs_queue_url_prefix": "https://sqs.eu-west-1.amazonaws.com/123/", "sqs_queue_prefix": "prod-"},
            "https://sqs.eu-west-1.amazonaws.com/123/prod-orders",
        ),
        ({"sqs_queue_url_prefix": "https://x/1"}, "https://x/1/integrator-orders"),
    ],
)
def test_given_where_the_queues_are_when_asked_then_the_url(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], url: str
) -> None:
    assert given(monkeypatch, **values).queue_url("orders") == url


def test_given_several_keys_when_read_then_split_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = new_key(), new_key()
    found = given(monkeypatch, secret_keys=f" {one} , {two},", metrics_token="t0p")
    assert [key.get_secret_value() for key in found.secret_keys] == [one, two]
    for text in (repr(found), str(found.model_dump())):
        assert one not in text
        assert "t0p" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_threads", "0"),
        ("worker_threads", "many"),
        ("ledger_pool_size", "0"),
        ("web_answer_seconds", "5"),
        ("max_body_bytes", "-1"),
        ("ledger_pool_size", "abc"),
        ("ledger_url", "nonsense"),
        ("ledger_url", ""),
        ("ledger_url", "sqlite:///"),
        ("ledger_url", "sqlite:///:memory:"),
        ("ledger_url", "mysql://ada:hunter2@127.0.0.1/ledger"),
        ("ledger_url", "postgresql+psycopg://ada:hunter2@127.0.0.1:port/ledger"),
        ("bind", "abc"),
        ("bind", "127.0.0.1:"),
        ("bind", "127.0.0.1:65536"),
        ("bind", "unix:"),
        ("sqs_endpoint_url", "127.0.0.1:9324"),
        ("sqs_queue_url_prefix", "abc"),
        ("sqs_queue_url_prefix", "https://:443/1"),
        ("log_level", "loud"),
        ("sqs_endpoint_url", "https://ada:hunter2@sqs.example/"),
        ("control_plane_url", "http://:hunter2@127.0.0.1:6379"),
        ("control_plane_events", "0"),
    ],
)
def test_given_an_impossible_value_when_read_then_its_name_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ValidationError, match=name) as caught:
        given(monkeypatch, **{name: value})
    (line,) = sentence(caught.value).splitlines()
    assert line.startswith(f"INTEGRATOR_{name.upper()} ")
    assert "It is for: " in line
    assert "hunter2" not in line + str(caught.value)


def test_given_several_wrong_values_when_told_then_each_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as caught:
        given(monkeypatch, bind="abc", ledger_url="nonsense")
    lines = sentence(caught.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["INTEGRATOR_LEDGER_URL", "INTEGRATOR_BIND"]


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "0.0.0.0:8000", "[::1]:8000", "web.example:80", "unix:/run/web"])
def test_given_a_place_to_listen_at_when_read_then_it_stands(monkeypatch: pytest.MonkeyPatch, bind: str) -> None:
    assert given(monkeypatch, bind=bind).bind == bind


def test_given_settings_when_read_then_they_can_not_be_changed() -> None:
    with pytest.raises(ValidationError):
        settings().worker_threads = 2  # type: ignore[misc]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("INTEGRATOR_SQS_ENDPOINT_URL", "https://sqs.example:8443/")
    monkeypatch.setenv("INTEGRATOR_WORKER_THREADS", "5")
    settings.cache_clear()
    importlib.reload(celeryconfig)
    yield
    monkeypatch.undo()
    settings.cache_clear()
    importlib.reload(celeryconfig)


def test_given_settings_when_celery_is_configured_then_it_follows_and_the_rules_stand(configured: None) -> None:
    assert celeryconfig.broker_url == "sqs://sqs.example:8443"
    assert celeryconfig.broker_transport_options["is_secure"]
    assert celeryconfig.broker_transport_options["predefined_queues"] == {
        "integrator-orders": {
            "url": "https://sqs.example:8443/000000000000/integrator-orders",
            "region": "us-east-1",
        }
    }
    client = celeryconfig.broker_transport_options["client-config"]
    assert client == {"connect_timeout": 3, "read_timeout": 3, "retries": {"total_max_attempts": 1}}
    assert celeryconfig.worker_concurrency == 5
    assert celeryconfig.accept_content == [celeryconfig.task_serializer] == ["json"]
    assert celeryconfig.result_backend is None
    assert not celeryconfig.task_publish_retry
    assert not celeryconfig.task_acks_late
    assert not celeryconfig.task_create_missing_queues


@pytest.mark.parametrize(("value", "known"), [("redis://:hunter2@127.0.0.1:6379/0", True), ("", False)])
def test_given_a_control_plane_or_none_when_read_then_its_password_is_not_shown_and_events_are_sent_or_not(
    monkeypatch: pytest.MonkeyPatch, value: str, known: bool
) -> None:
    found = given(monkeypatch, control_plane_url=value)
    assert (found.control_plane_url is not None) is known
    assert "hunter2" not in repr(found)
    settings.cache_clear()
    importlib.reload(celeryconfig)
    assert celeryconfig.worker_send_task_events is known
    assert "hunter2" not in repr(vars(celeryconfig))
    monkeypatch.undo()
    settings.cache_clear()
    importlib.reload(celeryconfig)
