"""The log: JSON lines with the correlation id, and no text that could hold what a request held."""

import json
import logging
import select
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.app.trace import TraceInfo
from celery.exceptions import SecurityWarning
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from structlog.contextvars import bound_contextvars

from integrator import logs
from tasks import terminal
from tasks.orders import sync_order
from tests.log_lines import Lines, log_lines

PERSONAL = "ana@example.com"


@pytest.fixture
def lines() -> Iterator[Lines]:
    with log_lines() as written:
        yield written


def raised(error: Exception) -> Exception:
    """The error with a traceback."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_given_an_event_when_logged_then_one_json_line_with_its_fields(lines: Lines) -> None:
    with bound_contextvars(correlation_id="c0ffee", tenant="acme"):
        logs.get_logger("integrator.x").info("step_applied", sync_id=7, names={"a", 1}.__class__.__name__)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "step_applied",
        "level": "info",
        "logger": "integrator.x",
        "sync_id": 7,
        "names": "set",
        "correlation_id": "c0ffee",
        "tenant": "acme",
    }


def test_given_a_text_of_many_lines_when_logged_then_one_line(lines: Lines) -> None:
    logs.get_logger("x").info("odd", value="a\nb\u2028c\x00\x1b[31m")
    (line,) = lines()
    assert line["value"] == "a\nb\u2028c\x00\x1b[31m"


@pytest.mark.parametrize("value", ["\ud800", 2**70, {"n": -(2**65)}, {1: "key"}])
def test_given_a_value_that_json_hardly_has_when_logged_then_still_one_json_line(
    lines: Lines, value: object
) -> None:
    logs.get_logger("x").info("odd", value=value)
    (line,) = lines.raw()
    assert json.loads(line)["event"] == "odd"


def test_given_an_exception_when_logged_in_any_way_then_its_class_and_frames_only(lines: Lines) -> None:
    log = logs.get_logger("x")
    error = ValueError(PERSONAL)
    error.__cause__ = KeyError(PERSONAL)
    try:
        raise error
    except ValueError:
        log.exception("broke")
        log.error("broke", exc_info=True)  # noqa: G201 - that way too
        logging.getLogger("foreign").exception("it broke for %s", PERSONAL)
    log.error("broke", exc_info=raised(error))
    log.error("broke", error=error, nested=[{"error": error}])
    assert PERSONAL not in str(lines())
    assert [line.get("exception") for line in lines()] == ["ValueError"] * 4 + [None]
    assert all("test_logs.py" in line["trace"][-1] for line in lines()[:4])
    assert lines()[-1]["error"] == "ValueError"


def test_given_an_error_of_the_database_when_logged_then_neither_statement_nor_values(lines: Lines) -> None:
    engine = create_engine("sqlite://")
    with pytest.raises(DBAPIError) as caught, engine.connect() as connection:
        connection.execute(text("INSERT INTO missing VALUES (:who)"), {"who": PERSONAL})
    assert PERSONAL in str(caught.value)
    logs.get_logger("x").error("write_failed", exc_info=caught.value)
    logging.getLogger("sqlalchemy.pool").error("Exception during reset", exc_info=caught.value)
    logging.getLogger("sqlalchemy.pool").error("Exception during reset: %s, %r", caught.value, str(caught.value))
    assert PERSONAL not in str(lines())
    assert [line.get("exception", line["event"]) for line in lines()] == [
        "OperationalError",
        "OperationalError",
        "Exception during reset: OperationalError, '…'",
    ]
    engine.dispose()


FOREIGN = [
    ("urllib3.connection", "WARNING", "Failed to parse headers (url=%s): %s", ("https://x/y?email={}", "{}")),
    (
        "urllib3.connectionpool",
        "WARNING",
        "Retrying (%r) after connection broken by '%r': %s",
        (1, "{}", "/?q={}"),
    ),
    (
        "urllib3.connectionpool",
        "DEBUG",
        '%s://%s:%s "%s %s %s" %s %s',
        ("https", "x", 1, "GET", "/?q={}", "", 1, 2),
    ),
    ("botocore.endpoint", "DEBUG", "Making request for %s with params: %s", ("Send", {"body": "{}"})),
    ("kombu.transport.SQS", "WARNING", "Failed to release messages for queue %s: %r", ("orders", "{}")),
    ("celery.worker.consumer.consumer", "WARNING", "unknown message. The full contents was: %s", ("{}",)),
    ("celery.worker.consumer.consumer", "ERROR", "consumer: Cannot connect to %s: %s.", ("sqs://", "{}")),
    ("celery.pool", "DEBUG", "TaskPool: Apply %s (args:%r kwargs:%r)", ("trace", ("{}",), {"k": "{}"})),
    ("celery.worker.strategy", "DEBUG", "Task received: %(name)s %(args)s", ({"name": "t", "args": "{}"},)),
    ("gunicorn.error", "WARNING", "Invalid request from ip=%s: %s", ("::1", "{}")),
    ("gunicorn.error", "DEBUG", "%s %s", ("GET", "/webhooks/shopify/{}")),
    ("somebody", "INFO", "hello %s", ("{}",)),
    ("somebody", "INFO", "hello %s %s", ("{}",)),
    ("somebody", "ERROR", "%(a)d %(b)s", ({"a": "{}", "b": "{}"},)),
]


def filled(value: Any) -> Any:
    if isinstance(value, str):
        return value.format(PERSONAL)
    if isinstance(value, dict):
        return {name: filled(one) for name, one in value.items()}
    return tuple(map(filled, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("name", "level", "template", "arguments"), FOREIGN)
def test_given_a_record_of_another_package_when_logged_then_no_address_body_or_argument(
    lines: Lines, name: str, level: str, template: str, arguments: tuple[Any, ...]
) -> None:
    logging.getLogger(name).log(getattr(logging, level), template, *filled(arguments))
    assert "ana" not in str(lines())
    assert [line["logger"] for line in lines()] in ([name], [])


def test_given_news_of_celery_and_gunicorn_when_logged_then_they_are_readable(lines: Lines) -> None:
    logging.getLogger("celery.worker").info("%s ready.", "celery@host")
    logging.getLogger("celery.app.trace").info(
        "Task %(name)s[%(id)s] succeeded in %(runtime)ss",
        {"name": "tasks.orders.sync_order", "id": "7:1", "runtime": 0.5},
    )
    logging.getLogger("gunicorn.error").info("Listening at: %s (%s)", "http://127.0.0.1:8000", 12)
    logging.getLogger("gunicorn.error").warning("Worker with pid %s was terminated due to signal %s", 12, 9)
    logging.getLogger("kombu.x").warning("Broker lost: %s", ConnectionResetError(PERSONAL))
    assert [line["event"] for line in lines()] == [
        "celery@host ready.",
        "Task tasks.orders.sync_order[7:1] succeeded in 0.5s",
        "Listening at: http://127.0.0.1:8000 (12)",
        "Worker with pid 12 was terminated due to signal 9",
        "Broker lost: ConnectionResetError",
    ]


def test_given_a_task_that_failed_when_celery_logs_it_then_task_and_class_but_not_the_text(lines: Lines) -> None:
    caught = raised(RuntimeError(f"for {PERSONAL}"))
    request: Any = SimpleNamespace(hostname="w1", id="7:1", args=(PERSONAL,), kwargs={}, shadow=None)
    request.get = lambda _name: None
    info = ExceptionInfo((RuntimeError, caught, caught.__traceback__))
    TraceInfo("FAILURE", caught)._log_error(sync_order, request, info)
    assert PERSONAL not in str(lines())
    (line,) = lines()
    assert line["event"] == "Task tasks.orders.sync_order[7:1] raised unexpected: …"
    assert line["exception"] == "RuntimeError"


def test_given_an_exception_that_nobody_caught_when_a_thread_or_the_process_ends_then_no_text(
    lines: Lines,
) -> None:
    def die() -> None:
        raise RuntimeError(PERSONAL)

    thread = threading.Thread(target=die, name="lease-keeper")
    thread.start()
    thread.join()
    caught = raised(LookupError(PERSONAL))
    sys.excepthook(LookupError, caught, caught.__traceback__)
    assert PERSONAL not in str(lines())
    assert [(line["event"], line["exception"]) for line in lines()] == [
        ("thread_died", "RuntimeError"),
        ("uncaught", "LookupError"),
    ]
    assert lines()[0]["thread"] == "lease-keeper"


def test_given_values_that_can_not_be_written_when_logged_then_the_rest_is_and_no_text_of_theirs(
    lines: Lines,
) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError(PERSONAL)

    endless: list[Any] = [PERSONAL]
    endless.append(endless)
    logs.get_logger("x").info("odd", value=Unprintable(), sync_id=7)
    logs.get_logger("x").info("odder", value=endless)
    assert [(line["event"], line.get("of"), line.get("sync_id")) for line in lines()] == [
        ("odd", None, 7),
        ("line_unwritable", "odder", None),
    ]
    assert PERSONAL not in "".join(lines.raw())


def test_given_a_warning_when_python_would_print_it_then_a_line_with_its_class_and_place(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logs_showwarning = warnings.showwarning
        warnings.warn(f"odd value {PERSONAL}", UserWarning, stacklevel=1)
        warnings.warn(SecurityWarning("You run as\n  root"), stacklevel=1)
    assert logs_showwarning is not None
    ours, celerys = lines.named("python_warning")
    assert (ours["category"], "reason" in ours) == ("UserWarning", False)
    assert "test_logs.py:" in ours["where"]
    assert (celerys["category"], celerys["reason"]) == ("SecurityWarning", "You run as root")
    assert PERSONAL not in str(lines())


def test_given_what_celery_says_in_a_signal_handler_then_one_line_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        terminal.say("worker: Warm shutdown\n(MainProcess)", sys.stdout)
    (line,) = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "worker: Warm shutdown\n(MainProcess)",
        "level": "info",
        "logger": "celery.apps.worker",
    }
    monkeypatch.setattr(sys, "stderr", None)
    terminal.say("nobody hears it")


class Pipe:
    """What was written to it, call by call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def write(self, text: str) -> None:
        self.calls.append(text)

    def flush(self) -> None:
        """Nothing is kept back."""


def test_given_many_lines_together_when_written_then_in_order_and_in_few_pieces_that_a_pipe_takes_whole(
    lines: Lines,
) -> None:
    pipe, log = Pipe(), logging.getLogger("celery")
    next(one for one in logging.getLogger().handlers if isinstance(one, logs.Lines)).setStream(pipe)

    with logs.together():
        for number in range(100):
            log.info("line %d", number)
        other = threading.Thread(target=log.info, args=("at once",))
        other.start()
        other.join()
    log.info("after")

    at_once, *pieces, after = pipe.calls
    assert [json.loads(piece)["event"] for piece in (at_once, after)] == ["at once", "after"]
    told = [json.loads(line)["event"] for line in "".join(pieces).splitlines()]
    assert told == [f"line {number}" for number in range(100)]
    assert len(pieces) < 10
    assert max(map(len, pieces)) <= select.PIPE_BUF
    assert all(piece.endswith("\n") for piece in pieces)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("create was answered 422", "create was answered 422"),
        ("no SKU MUG-1@2", "no SKU …"),
        ('"ana.b+c@example.com", <x@y>', '"…", <…>'),
        ("a" * 400, "a" * 300),
    ],
)
def test_given_an_errors_sentence_then_no_address_and_no_more_than_a_line_takes(text: str, said: str) -> None:
    assert logs.sentence(text) == said


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_given_a_level_when_configured_then_noisy_packages_only_warn(lines: Lines, level: str) -> None:
    logs.configure(level)
    assert logging.getLogger().level == getattr(logging, level)
    for name in logs.NOISY:
        assert logging.getLogger(name).level >= logging.WARNING
