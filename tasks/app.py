"""The Celery app, and what happens in the life of a worker process."""

import sys
import threading
from typing import Any

from celery import Celery
from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    import_modules,
    setup_logging,
    worker_init,
    worker_shutdown,
    worker_shutting_down,
)

from integrator import readiness, tracing
from integrator.config import settings
from integrator.ledger.engine import Ledger
from integrator.logs import configure, get_logger
from integrator.monitor import PortTaken
from integrator.tracing import TracesUnavailable
from tasks import control_plane, flower_guard, health, startup, terminal
from tasks.pool import FairPool

log = get_logger(__name__)

SHUTDOWN_SECONDS = 25
"""How long a worker that is told to stop lets its runs finish, under the 30 s that Kubernetes gives."""

readiness.settings_or_exit()  # before Celery asks for its own, in whose midst nobody could tell it
app = Celery("integrator", control=control_plane.Control, events=control_plane.Events)
app.config_from_object("celeryconfig")
app.steps["consumer"].add(control_plane.ControlPlane)


@celeryd_init.connect
def _log_from_the_first_line(instance: Any, **_: Any) -> None:
    """Celery warns of root, and makes itself ready, before it sets up logging."""
    configure(settings().log_level)
    terminal.silence(instance)


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure(settings().log_level)


@worker_init.connect
def _check_before_work(**_: Any) -> None:
    """Refuse to start with one sentence. It must be SystemExit: Celery only logs what else a handler raises."""
    try:
        startup.check(settings(), Ledger.from_settings(settings()))
        health.serve()
        tracing.configure(settings(), "worker")
    except (startup.Refused, PortTaken, TracesUnavailable) as refusal:
        sys.exit(str(refusal))


@celeryd_after_setup.connect
def _warn_of_another_pool(instance: Any, **_: Any) -> None:
    """`--pool` on the command line wins against celeryconfig."""
    chosen = instance.pool_cls.__module__
    if chosen != FairPool.__module__:
        log.warning("tenants_do_not_share_threads", pool=chosen, reason="Leave --pool out: P6 needs tasks.pool.")


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    """Drain in a thread: this runs in a signal handler, where the main thread must wait for no lock."""
    from tasks.process import process  # noqa: PLC0415 - it imports this module

    drain = threading.Thread(target=process().drain, args=(SHUTDOWN_SECONDS,), name="drain", daemon=True)
    drain.start()


@worker_shutdown.connect
def _send_last_events(**_: Any) -> None:
    control_plane.event_queue().close(control_plane.FLUSH_SECONDS)


@import_modules.connect
def _guard_flower(sender: Celery, **_: Any) -> None:
    """Flower asks for this too, after it has read its options and before it serves."""
    flower_guard.guard(sender)
