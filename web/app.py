"""The app factory: puts settings, ledger, receiver and commands together."""

from functools import cache

import click
from flask import Flask
from pydantic import ValidationError

from integrator import config, logs, readiness
from integrator.config import Settings
from integrator.dispatch import Dispatcher, Publish
from integrator.ledger.engine import Ledger
from integrator.metrics import meters
from web import cli, explain, health, metrics, problems, receiver
from web.bells import Bells
from web.metrics import Counters
from web.reader import Reader, Shops
from web.receiver import Receiver
from web.services import Services
from web.writer import Writer

STALL_SHARE = 0.75
"""The share of a webhook's time after which the ledger counts as stalled, and further ones are refused at once."""

DISPATCH_REST_SECONDS = 0.1
"""A webhook waits so long for its bell at most, when others came just before it."""


def create_app(
    settings: Settings | None = None, *, ledger: Ledger | None = None, publish: Publish | None = None
) -> Flask:
    """Make the app. It opens no connection and starts no thread before the first request asks for it.

    Settings come from the environment, the ledger from the settings, and bells are rung through Celery unless
    given. Under `flask run` it refuses to start as the server does (see `integrator.readiness`).
    """
    settings = settings or _settings()
    ledger = ledger or Ledger.from_settings(settings)
    publish = publish or Bells()
    app = Flask("web", static_folder=None)
    app.url_map.merge_slashes = False  # shops follow no redirect, and its target would be the client's Host
    problems.init_app(app)
    cli.init_app(app)
    explain.init_app(app)
    stall_seconds = settings.web_answer_seconds * STALL_SHARE
    counters = Counters(meters())
    reader = Reader(ledger, stall_seconds=stall_seconds)
    writer = Writer(
        ledger,
        Dispatcher(ledger, publish, rest_seconds=DISPATCH_REST_SECONDS),
        counters,
        batch=settings.group_commit,
        max_open=settings.max_open_deliveries,
        stall_seconds=stall_seconds,
    )
    shops = Shops(reader, cache(lambda: readiness.ring_of(settings)))
    receiver.init_app(app, Receiver(settings, shops, writer, counters))
    health.init_app(app, reader, writer)
    metrics.init_app(app, settings, counters)
    app.extensions["integrator"] = Services(settings, ledger, publish)
    _refuse_to_run_unready(settings, ledger)
    return app


def _settings() -> Settings:
    try:
        return config.settings()
    except ValidationError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise click.ClickException(readiness.sentence(error)) from None


def _refuse_to_run_unready(settings: Settings, ledger: Ledger) -> None:
    """Check as the server does when this is `flask run`; the other commands must work on any ledger."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run":
        return
    logs.configure(settings.log_level)
    try:
        readiness.check(settings, ledger)
    except readiness.EXPECTED as error:
        raise click.ClickException(readiness.sentence(error, ledger.url)) from None
