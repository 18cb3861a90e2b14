"""Named points where a test kills this process with SIGKILL. Without INTEGRATOR_FAILPOINTS they do nothing.

A kill that is aimed finds what a random one finds in a million runs. Each is written to a log first, so that the
proof can count them: a point that never fired proved nothing.
"""

import os
import random
import signal
import threading
from collections.abc import Callable
from functools import cache

from integrator.config import settings

NAMES = (
    "receiver.committed",  # after the commit, before the 200
    "dispatch.marked",  # after marking queued, before publishing
    "worker.claimed",  # after the claim
    "http.unread",  # after the effect, before its answer is read
    "worker.answered",  # after the answer, before the ledger's write
)
"""Every failpoint there is."""


@cache
def _plan() -> dict[str, float]:
    pairs = (item.split("=", 1) for item in settings().failpoints.split(",") if item.strip())
    plan = {name.strip(): float(probability) for name, probability in pairs}
    if unknown := set(plan) - set(NAMES):
        raise ValueError(f"INTEGRATOR_FAILPOINTS names {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return plan


@cache
def _random(_pid: int, _thread: int) -> random.Random:
    return random.Random(f"{settings().failpoint_seed}:{_pid}:{_thread}")  # noqa: S311


def fire(name: str, *, first: Callable[[], object] | None = None) -> None:
    """Die here with the point's probability, after `first` has been called."""
    probability = _plan().get(name)
    if probability is None or _random(os.getpid(), threading.get_ident()).random() >= probability:
        return
    if first is not None:
        first()
    if log := settings().failpoint_log:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{name}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
