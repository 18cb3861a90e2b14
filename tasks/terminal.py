"""What Celery would print for a person at a terminal, as lines of the log: every line of a worker is JSON."""

import os
import sys
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

warnings.filterwarnings("ignore", "The parameter -d is used more than once", UserWarning)
"""Celery's own mistake in `celery events`."""


def silence(worker: Any) -> None:
    """Let a worker print no banner, and say in our form what it says of its shutdown."""
    from celery.apps import worker as program  # noqa: PLC0415 - only a worker has loaded it

    worker.quiet = True
    program.safe_say = say


def say(text: str, _stream: Any = None) -> None:
    """Write one line past all buffers and locks: Celery says this in a signal handler."""
    line = {
        "event": text,
        "level": "info",
        "logger": "celery.apps.worker",
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
    with suppress(OSError, AttributeError, ValueError):  # no stderr, or not one of a process
        os.write(sys.stderr.fileno(), orjson.dumps(line) + b"\n")
