"""Named points where a test kills this process with SIGKILL. Without INTEGRATOR_FAILPOINTS they do nothing.

A kill that is aimed finds what a random one finds in a million runs. Each is written to a log first, with the
part, so that the proof can count them: a point that never fired proved nothing.

The same seed gives the same fates: of this part, in this start, at this point, the n-th to pass it dies. A part's
processes that somebody else starts again (gunicorn its workers) are told apart by how many of the part have died
here before. Which thread is the n-th, what it works on, and when, is up to the machine, and is not the same again.
"""

import os
import random
import signal
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

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


_drawing = threading.Lock()
"""So that the n-th draw is of the n-th to pass, and two first ones don't both begin a series."""


@cache
def _series(_pid: int, name: str) -> random.Random:
    """The fates of those who pass this point in this process."""
    part = settings().failpoint_part
    log = Path(settings().failpoint_log or os.devnull)
    deaths = log.read_text().split().count(part) if log.exists() else 0
    return random.Random(f"{settings().failpoint_seed}:{part}:{deaths}:{name}")  # noqa: S311


def fire(name: str, *, first: Callable[[], object] | None = None) -> None:
    """Die here with the point's probability, after `first` has been called."""
    probability = _plan().get(name)
    if probability is None:
        return
    with _drawing:
        lives = _series(os.getpid(), name).random() >= probability
    if lives:
        return
    if first is not None:
        first()
    if log := settings().failpoint_log:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{name} {settings().failpoint_part}".rstrip().encode() + b"\n")
    os.kill(os.getpid(), signal.SIGKILL)
