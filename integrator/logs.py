"""Structured logs: one JSON object a line, with the correlation id of the order it is about.

No personal data gets in: our own events carry identifiers, codes and counts; an exception is written as its type
and where it was raised, never with its text or its variables, since those hold what a request held. Of other
packages' records stands the template, and of their arguments only what can't hold such data.
"""

import contextlib
import json
import logging
import re
import select
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

Bound = structlog.stdlib.BoundLogger

HIDDEN = "…"
"""What stands for an argument of another package's record: it may be an address with its query, or a message."""

NOISY = ("botocore", "boto3", "urllib3", "alembic", "kombu", "celery.worker.strategy")
"""Packages of whose work only warnings are news. The last says of each message that it came, before anybody knows
whose it is; what becomes of it is said by the run, and by Celery's own line at its end.
"""

REASON_LIMIT = 300
"""Characters of an error's own sentence that a line has."""

_SPEAKS_OF_ITSELF = ("celery", "gunicorn")
"""Packages whose news (not their warnings, nor what they say for debugging) tell of themselves only."""

_NAMES = frozenset({"id", "name", "description", "hostname"})
"""Named arguments that are identifiers, whatever happened: those of Celery's records about a task."""


def get_logger(name: str) -> Bound:
    """A module's logger: `log.info("event_name", sync_id=7)`."""
    logger: Bound = structlog.get_logger(name)
    return logger


def configure(level: str) -> None:
    """Write everything, other packages' records too, to stderr as JSON lines. Called once by each process.

    Ours go there straight: made into a record of `logging` first, a line would cost three times as much.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_without_text,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, _put],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_foreign_without_values, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _as_json],
        pass_foreign_args=True,
        use_get_message=False,
    )
    handler = Lines(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    _catch_strays()


class _Held(threading.local):
    """The lines that a thread will write together; None: it writes each at once."""

    lines: list[str] | None = None


_held = _Held()


class Lines(logging.StreamHandler[Any]):
    """Writes each line at once, or with others of its thread."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line, or keep it for the end of the block."""
        if _held.lines is None:
            super().emit(record)
            return
        try:
            _held.lines.append(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001 - as logging does it
            self.handleError(record)

    def write(self, lines: Iterable[str]) -> None:
        """Write lines in pieces that a pipe, which other processes write to as well, takes as a whole."""
        piece = ""
        for line in [*lines, ""]:
            if piece and (not line or len((piece + line).encode("utf-8", "replace")) > select.PIPE_BUF):
                with (
                    contextlib.suppress(OSError, ValueError, AttributeError),
                    self.lock or contextlib.nullcontext(),
                ):
                    self.stream.write(piece)
                    self.flush()
                piece = ""
            piece += line


def _put(logger: WrappedLogger, name: str, event: EventDict) -> NoReturn:
    """Write an event of ours: the last of structlog's processors. Raises DropEvent, since it is written."""
    try:
        line = _as_json(logger, name, event) + "\n"
    except (TypeError, ValueError, RecursionError):
        line = _as_json(logger, name, {"event": "line_unwritable", "of": event["event"]}) + "\n"
    if _held.lines is None:
        _write([line])
    else:
        _held.lines.append(line)
    raise structlog.DropEvent


def _write(lines: Iterable[str]) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Lines):
            handler.write(lines)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Write what this thread logs in the block at its end, with few calls.

    Each call to write gives the interpreter away, and a thread that others wait for gets it back when all of them
    have had it.
    """
    _held.lines = []
    try:
        yield
    finally:
        lines, _held.lines = _held.lines, None
        _write(lines)


def sentence(text: str) -> str:
    """An error's own sentence, fit for a line: by our rules it holds no personal data, and a connector's may err.

    So what looks like an e-mail address is hidden, and a long one is cut.
    """
    return _ADDRESS.sub(HIDDEN, text[:REASON_LIMIT])


_ADDRESS = re.compile(r"[^\s\"'<>(),;:]+@[^\s\"'<>(),;:]+")


def _catch_strays() -> None:
    """What Python would print with its text, if nobody caught it, becomes a line like any other."""
    log = get_logger(__name__)
    logging.raiseExceptions = False  # a record that can't be written would be printed with its arguments

    def at_the_top(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        log.critical("uncaught", **describe(kind, trace))

    def in_a_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else None
        log.critical("thread_died", thread=name, **describe(args.exc_type, args.exc_traceback))

    def of_python(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *_: Any,
        **__: Any,
    ) -> None:
        of_itself = category.__module__.partition(".")[0] in _SPEAKS_OF_ITSELF
        said = {"reason": " ".join(str(message).split())} if of_itself else {}
        log.warning("python_warning", category=category.__qualname__, where=f"{filename}:{lineno}", **said)

    sys.excepthook, threading.excepthook, warnings.showwarning = at_the_top, in_a_thread, of_python


def _as_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate, or an integer over 64 bits
        return json.dumps(event, default=_plain)


def _plain(value: object) -> str:
    if not isinstance(value, BaseException):
        with contextlib.suppress(Exception):
            return str(value)
    return type(value).__qualname__


def _foreign_without_values(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Another package's record: its template, with the arguments that can hold nothing of a request."""
    record: logging.LogRecord = event["_record"]
    given = event.pop("positional_args", None)
    news = record.levelno == logging.INFO and record.name.partition(".")[0] in _SPEAKS_OF_ITSELF
    template = _plain(record.msg)
    shown = given if news and not record.exc_info else _without_values(given)
    try:
        event["event"] = template % shown if shown else template
    except (TypeError, ValueError, KeyError):
        event["event"] = template
    return event


def _without_values(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {name: value if name in _NAMES else _hidden(value) for name, value in given.items()}
    return tuple(_hidden(value) for value in given or ())


def _hidden(value: object) -> object:
    if isinstance(value, int | float | None):
        return value
    return type(value).__qualname__ if isinstance(value, BaseException) else HIDDEN


def _exception_without_text(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    record: Any = event.get("_record")
    given = event.pop("exc_info", None) or (record.exc_info if record is not None else None)
    if record is not None:
        record.exc_info = record.exc_text = None
    if given is True:
        given = sys.exc_info()
    if isinstance(given, BaseException):
        given = (type(given), given, given.__traceback__)
    if given and given[0] is not None:
        event.update(describe(given[0], given[2]))
    return event


def describe(kind: type[BaseException], trace: Any) -> dict[str, Any]:
    """An exception as its type and its frames, innermost last, without any text that it carries."""
    frames = traceback.extract_tb(trace)
    return {"exception": kind.__qualname__, "trace": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]}
