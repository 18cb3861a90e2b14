"""Health: `/healthz` says that the process lives, `/readyz` that it can keep webhooks."""

import time
from functools import cache

from alembic.migration import MigrationContext
from flask import Flask, Response, jsonify
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from integrator.ledger import migrate
from web.batcher import Busy
from web.problems import problem
from web.reader import Reader
from web.writer import Writer

READY_SECONDS = 2.0
"""How long the ledger may take to answer a readiness check."""


def init_app(app: Flask, reader: Reader, writer: Writer) -> None:
    """Add the two pages."""

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> Response:
        troubles = [text for text in (_ledger_trouble(reader), writer.trouble()) if text]
        if troubles:
            return problem(503, f"Not ready: {'; '.join(troubles)}.", retry_after_seconds=5, troubles=troubles)
        return jsonify(status="ready")


def _ledger_trouble(reader: Reader) -> str | None:
    try:
        found = reader.read(_version, time.monotonic() + READY_SECONDS)
    except (Busy, SQLAlchemyError, OSError) as error:
        return f"the ledger does not answer ({type(error).__name__})"
    if found != _head():
        return f"the ledger's schema is {found or 'empty'}, not {_head()}: run `flask --app web ledger upgrade`"
    return None


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache
def _head() -> str:
    return migrate.head()
