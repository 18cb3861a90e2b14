"""The log as a process writes it, for a test to read; everything is as before afterwards."""

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import orjson
import structlog

from integrator import logs


class Lines:
    """What was written: parsed by calling it, or as it is."""

    def __init__(self) -> None:
        self.output = io.StringIO()

    def __call__(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.raw()]

    def raw(self) -> list[str]:
        *lines, rest = self.output.getvalue().split("\n")
        assert rest == ""
        return lines

    def named(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self() if line["event"] == event]


@contextmanager
def log_lines(level: str = "DEBUG") -> Iterator[Lines]:
    """Configure the log as a process does."""
    written = Lines()
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in logs.NOISY)]
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    with (
        mock.patch.object(sys, "excepthook"),
        mock.patch.object(threading, "excepthook"),
        mock.patch.object(warnings, "showwarning"),
        mock.patch.object(logging, "raiseExceptions", True),
        mock.patch.object(sys, "stderr", written.output),
    ):
        structlog.contextvars.clear_contextvars()
        logs.configure(level)
        yield written
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    for logger, before in zip(loggers, levels, strict=True):
        logger.setLevel(before)
    structlog.reset_defaults()
