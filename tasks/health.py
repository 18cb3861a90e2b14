"""The worker's pulse: it lives while it consumes, which is more than that its process runs.

The transport beats whenever it is about to ask SQS, finds that it may not since all its places are taken, or
connects anew: so a worker whose threads are all busy with long calls lives, and so does one that SQS does not
answer, which no restart would help. One whose event loop or whose receive hangs does not.
"""

from functools import cache

from integrator import monitor
from integrator.config import settings
from integrator.metrics import POLL_AGE, meters
from integrator.monitor import Pulse


@cache
def pulse() -> Pulse:
    """This process's pulse."""
    return Pulse(settings().worker_silent_seconds)


def serve() -> None:
    """Serve the worker's metrics and health, if the settings want it. Raises monitor.PortTaken."""
    beats = pulse()

    def healthy() -> str | None:
        if beats.alive:
            return None
        return f"The worker has not asked SQS for messages for {beats.age:.0f} s."

    if monitor.serve(settings(), meters(), healthy):
        meters().track(POLL_AGE, lambda: beats.age)
