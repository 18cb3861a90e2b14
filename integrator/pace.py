"""How long the runs of each gate take, kept in its row for the window (PROTOCOL P6).

A process gathers the seconds of a gate's runs that finished and, now and then, blends the 95th percentile of them
into the row: one write for `RUNS` runs, or for fewer that took `SECONDS` together, so that a system that became
slow is noticed soon however few runs its window lets through.
"""

import math
import threading
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import func, update

from integrator.ledger.engine import UNREACHABLE, Ledger
from integrator.ledger.schema import gates

RUNS = 20
"""After so many runs their 95th percentile is written."""

SECONDS = 10.0
"""Or after fewer that took so many seconds together."""

WEIGHT = 0.5
"""How much what is written counts against what stands there."""


class Pace:
    """What one process has seen of its gates' runs since it last wrote. Threads share it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._seen: dict[int, list[float]] = {}

    def ran(self, gate_id: int, seconds: float) -> None:
        """A run of this gate came to its end in `seconds`. The caller holds no sync and no transaction."""
        with self._lock:
            seen = self._seen.setdefault(gate_id, [])
            seen.append(seconds)
            if len(seen) < RUNS and sum(seen) < SECONDS:
                return
            del self._seen[gate_id]
        blended = func.coalesce(gates.c.run_seconds * (1 - WEIGHT) + p95(seen) * WEIGHT, p95(seen))
        with suppress(*UNREACHABLE), self._ledger.write() as connection:  # the next ones are written instead
            connection.execute(update(gates).where(gates.c.id == gate_id).values(run_seconds=blended))


def p95(seconds: Sequence[float]) -> float:
    """The least of these that 95 % of them do not exceed."""
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
