"""Structured logs: one JSON object a line, with the correlation id of the order it is about.

No personal data gets in: our own events carry identifiers, codes and counts; an exception is written as its type
and where it was raised, never with its text or its variables, since those hold what a request held.
"""

import logging
import sys
import traceback
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

Bound = structlog.stdlib.BoundLogger


def get_logger(name: str) -> Bound:
    """A module's logger: `log.info("event_name", sync_id=7)`."""
    logger: Bound = structlog.get_logger(name)
    return logger


def configure(level: str) -> None:
    """Write everything, other packages' records too, to stderr as JSON lines. Called once by each process."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_without_text,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _as_json],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("botocore", "boto3", "urllib3", "alembic", "kombu"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def _as_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


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
