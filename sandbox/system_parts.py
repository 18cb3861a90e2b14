"""The command lines of a system's parts, for Python."""

import socket
from collections.abc import Mapping

from tasks.queues import QUEUES, Queue

RECEIVER = ["-m", "gunicorn", "-c", "python:web.server"]
SCHEDULER = ["-m", "celery", "-A", "tasks", "scheduler"]
_WORKER = ["-m", "celery", "--quiet", "-A", "tasks", "worker", "--without-mingle", "--without-gossip"]


def worker(name: str, env: Mapping[str, str]) -> list[str]:
    """A worker of all queues."""
    queues = ",".join(_queue(queue, env) for queue in QUEUES)
    return [*_WORKER, f"--queues={queues}", f"--hostname={name}@{socket.gethostname()}"]


def sqs_queues(env: Mapping[str, str]) -> list[str]:
    """The options that make our queues at the SQS endpoint."""
    return [f"--queue={_queue(one, env)}:{one.visibility_seconds}:{one.max_receive_count}" for one in QUEUES]


def _queue(queue: Queue, env: Mapping[str, str]) -> str:
    return f"{env.get('INTEGRATOR_SQS_QUEUE_PREFIX', 'integrator-')}{queue.name}"


def erp_names(erp: bool | tuple[str, ...]) -> tuple[str, ...]:
    """The names of the management systems: True is one called `erp`."""
    if isinstance(erp, bool):
        return ("erp",) if erp else ()
    return erp
