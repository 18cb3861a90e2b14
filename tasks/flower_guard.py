"""Flower on this app (`celery -A tasks flower`): on the control plane, behind a password, unable to send tasks.

Flower is started by its own command. It asks the app to import its modules when it has read its options and before
it serves; that is where this comes in. Nothing happens in any other process.
"""

import sys
from functools import partialmethod
from typing import Any

from celery import Celery
from kombu import transport
from kombu.utils.imports import symbol_by_name

from integrator.config import settings
from tasks import redis_link

NO_TASKS = "Tasks are not sent from here: they would go to Redis, and the ledger would not know of them."
NO_REVOKE = "The ledger would ring again. `celery -A tasks pause TENANT` stops a tenant's work."
NO_QUEUES = "The queues are on SQS: `celery -A tasks queues list` shows them."

CLOSED = {
    "flower.api.tasks:TaskApply": NO_TASKS,
    "flower.api.tasks:TaskAsyncApply": NO_TASKS,
    "flower.api.tasks:TaskSend": NO_TASKS,
    "flower.api.tasks:TaskAbort": NO_TASKS,
    "flower.api.tasks:GetQueueLengths": NO_QUEUES,
    "flower.api.control:TaskRevoke": NO_REVOKE,
    "flower.views.broker:BrokerView": NO_QUEUES,
}
"""Flower's handlers that would publish a task, say that they did what can't be, or count the wrong queues."""


def guard(app: Celery) -> None:
    """Prepare the app and Flower if this process is one. Exits with one sentence when it must not start."""
    if "flower.command" not in sys.modules or "flower" not in sys.argv:
        return
    from tornado.options import options  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    address = redis_link.url()
    if address is None:
        sys.exit("Flower needs the control plane: set INTEGRATOR_CONTROL_PLANE_URL.")
    if not (options.basic_auth or options.auth or settings().flower_without_password):
        sys.exit("Flower needs a password: set FLOWER_BASIC_AUTH=NAME:PASSWORD in its environment.")
    options.address = options.address or "127.0.0.1"
    _to_redis(app, address)
    _close_routes()


def _to_redis(app: Celery, address: str) -> None:
    transport.TRANSPORT_ALIASES["redis"] = transport.TRANSPORT_ALIASES["rediss"] = redis_link.TRANSPORT
    app.conf.update(
        broker_url=address,
        broker_transport=None,
        broker_transport_options=redis_link.OPTIONS,
        broker_use_ssl=redis_link.tls(address),
    )


def _close_routes() -> None:
    from tornado.web import HTTPError  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    def ask(handler: Any, why_not: str = "") -> None:
        if handler.get_current_user() is None:
            raise HTTPError(401)
        if why_not:
            raise HTTPError(403, why_not)

    symbol_by_name("flower.views.monitor:Metrics").prepare = ask  # Flower shows it to everybody
    for name, why_not in CLOSED.items():
        symbol_by_name(name).prepare = partialmethod(ask, why_not)
