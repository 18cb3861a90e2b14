"""Celery's remote commands as they work here: those that would do harm or nothing say so, and say what does."""

import os
import signal
from typing import Any

from celery.worker.control import Panel, control_command, inspect_command, nok, ok

from integrator.config import settings
from tasks.control_plane import event_queue
from tasks.queues import QUEUES

_stats, _time_limit = Panel.data["stats"], Panel.data["time_limit"]
_grow, _shrink = Panel.data["pool_grow"], Panel.data["pool_shrink"]

NOT_CANCELLED = (
    "Nothing was done: a message is a doorbell, and the ledger would ring again. "
    "`celery -A tasks pause TENANT` stops a tenant's work, `control shutdown` this worker."
)


@inspect_command()
def stats(state: Any) -> Any:
    """Request worker statistics/information, and events sent, dropped and waiting."""
    return {**_stats(state), "events": event_queue().counts()}


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(_state: Any, **_given: Any) -> Any:
    """Refused: the ledger decides what runs."""
    return nok(NOT_CANCELLED)


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(_state: Any, **_given: Any) -> Any:
    """Refused: a thread can't be ended, and the ledger would ring again."""
    return nok(NOT_CANCELLED)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(_state: Any, **_given: Any) -> Any:
    """Refused: our messages carry no stamps."""
    return nok(NOT_CANCELLED)


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)], signature="<task_name> <soft_secs> [hard_secs]"
)
def time_limit(state: Any, **given: Any) -> Any:
    """Tell workers with processes to modify the time limit of a task; threads have none."""
    if _has_threads(state):
        return nok("Nothing was done: threads have no time limit. A run ends with its lease, after 90 s at most.")
    return _time_limit(state, **given)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **_given: Any) -> Any:
    """Grow a pool of processes; threads are fixed."""
    return _fixed() if _has_threads(state) else _grow(state, n)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **_given: Any) -> Any:
    """Shrink a pool of processes; threads are fixed."""
    return _fixed() if _has_threads(state) else _shrink(state, n)


def _has_threads(state: Any) -> bool:
    return not hasattr(state.consumer.pool, "grow")


def _fixed() -> Any:
    return nok("Nothing was done: threads are fixed. Set INTEGRATOR_WORKER_THREADS, or start one worker more.")


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(state: Any, queue: str, **_given: Any) -> Any:
    """Tell workers to consume one of our queues again."""
    if queue not in _ours():
        return _unknown()
    state.consumer.add_task_queue(queue)
    return ok(f"consuming from {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **_given: Any) -> Any:
    """Tell workers to stop consuming one of our queues."""
    if queue not in _ours():
        return _unknown()
    state.consumer.cancel_task_queue(queue)
    return ok(f"no longer consuming from {queue}")


def _ours() -> list[str]:
    return [settings().queue_name(one.name) for one in QUEUES]


def _unknown() -> Any:
    return nok(f"Nothing was done: the queues are {', '.join(_ours())}.")


@control_command()
def election(_state: Any, **_given: Any) -> Any:
    """Refused: workers don't know of each other."""
    return nok("Nothing was done: workers hold no elections, the ledger decides.")


@control_command()
def shutdown(_state: Any, **_given: Any) -> Any:
    """Shut workers down as SIGTERM does: runs end or are given back."""
    os.kill(os.getpid(), signal.SIGTERM)
    return ok("shutting down")
