"""gunicorn's configuration: `gunicorn -c python:web.server`.

What an installation may change is in `integrator.config`. The application is made in each worker, after the fork,
and opens its connections there. TLS ends in front of it.
"""

import gc
import os
import shutil
import sys
import tempfile
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from integrator import logs, metrics, readiness, tracing
from integrator.ledger.engine import Ledger
from web.bells import Bells

GARBAGE_OBJECTS = 20_000
"""How many more objects there are before the collector looks at the youngest; Python's own default is 700."""

_settings = readiness.settings_or_exit()
_on_sqlite = Ledger.from_settings(_settings).on_sqlite

wsgi_app = "web:create_app()"
bind = [_settings.bind]
if _settings.metrics_port:
    bind.append(f"{_settings.metrics_host}:{_settings.metrics_port}")
worker_class = "web.gunicorn_worker.Worker"
logger_class = "web.gunicorn_worker.JsonLogger"
workers = 1 if _on_sqlite else _settings.web_processes
threads = _settings.web_threads
worker_connections = max(1_000, 4 * threads)
backlog = 2_048

timeout = 30
graceful_timeout = int(_settings.web_read_seconds + _settings.web_answer_seconds) + 2
"""A stopping worker answers every request that it has begun to read."""
keepalive = 5

limit_request_line = 2_048
limit_request_fields = 64
limit_request_field_size = 8_190

forwarded_allow_ips = ""
"""Nobody's word on scheme or path is taken. Nothing here asks for it, and what a proxy on this machine passes on
could be a client's: SCRIPT_NAME moves the path, two schemes that differ are refused."""

if workers > 1:
    os.environ[metrics.MULTIPROCESS] = tempfile.mkdtemp(prefix="metrics-")
"""Where the processes keep their counts together, so that each shows all of them: gone with the server."""

accesslog = None
control_socket_disable = True


def on_starting(_server: Any) -> None:
    """Refuse to start on a ledger that can't keep webhooks, before there is a worker."""
    log = logs.get_logger("web.server")
    ledger = Ledger.from_settings(_settings)
    try:
        readiness.check(_settings, ledger)
        tracing.require(_settings)
    except (*readiness.EXPECTED, tracing.TracesUnavailable) as error:
        log.critical("start_refused", reason=readiness.sentence(error, ledger.url))
        sys.exit(1)
    finally:
        ledger.close()
    if _on_sqlite and _settings.web_processes > 1:
        log.warning("one_process_on_sqlite", asked=_settings.web_processes)


def on_exit(_server: Any) -> None:
    """Drop the processes' counts."""
    if metrics.MULTIPROCESS in os.environ:
        shutil.rmtree(os.environ[metrics.MULTIPROCESS], ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    """Load Celery and connect to the ledger before the first webhook needs it, and trace what this process does.

    Then tell the garbage collector that what is loaded stays, and to look less often for cycles among what
    webhooks leave behind, which is a thousand small objects each and no cycle: a twentieth of their cost. And
    write gunicorn's settings down as plain attributes: each request asks for two dozen and would look them up.
    """
    tracing.configure(_settings, "web")
    services = worker.wsgi.extensions["integrator"]
    if isinstance(services.publish, Bells):
        services.publish.load()
    _connect(services.ledger)
    vars(worker.cfg).update({name: setting.get() for name, setting in worker.cfg.settings.items()})
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def _connect(ledger: Ledger) -> None:
    """Open the connections of the writer and the reader. A ledger that is away now may be there later."""
    try:
        with ledger.read() as one, ledger.read() as another:
            for connection in (one, another):
                connection.execute(select(1))
    except SQLAlchemyError as error:
        logs.get_logger("web.server").warning("ledger_not_there_yet", error=type(error).__name__)
