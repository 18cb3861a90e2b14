"""The Celery app, and what happens in the life of a worker process."""

import threading
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_shutting_down

from integrator.config import settings
from integrator.ledger.migrate import check as check_schema
from integrator.logs import configure, get_logger
from tasks import queues

log = get_logger(__name__)

SHUTDOWN_SECONDS = 25
"""How long a worker that is told to stop lets its runs finish, under the 30 s that Kubernetes gives."""

app = Celery("integrator")
app.config_from_object("celeryconfig")


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure(settings().log_level)


@worker_init.connect
def _check_before_work(**_: Any) -> None:
    """Refuse to start on an old schema, a ledger that may lose, or queues that are not as they must be."""
    from tasks.process import process  # noqa: PLC0415 - in the worker only, after fork

    given = settings()
    ledger = process().ledger
    check_schema(ledger)
    if not given.allow_lossy_ledger:
        ledger.check_durability()
    for queue in queues.QUEUES:
        queues.check(queue, given)
    ledger.close()


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    """Start no call that would not end in time; what is still running then is given back by its claim number."""
    from tasks.process import process  # noqa: PLC0415

    process().leases.drain(SHUTDOWN_SECONDS)
    timer = threading.Timer(SHUTDOWN_SECONDS, process().give_back)
    timer.daemon = True
    timer.start()
    log.info("worker_draining", running=len(process().leases.held()))
