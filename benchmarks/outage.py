"""What an outage of six hours costs while 100,000 orders wait: hours are played.

    python -m benchmarks.outage [--orders 100000] [--hours 6] [--runs N] [--short]

The management system cuts every connection for so long, the worst kind of outage, since each call is in doubt. The
orders come in sixty parts while it is down, and run when it is back: all of them, or the first `--runs`. The last
line is one JSON object: `outage_calls` that the system saw while it was down; `allowed_probes`, how many calls the
breaker's settings allow in that time; `attempts_per_order`, runs after the recovery for each order that ran then;
`burnt`, the most attempts that an order lost to the outage; `dead`, `held` and `done` orders, and those that the
system has; `rss_growth_mb` of the worker's process until the end, and
`rss_growth_down_mb` while the system was down. `--short` plays 100 orders.
"""

import argparse
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks import virtual
from integrator.breaker import Thresholds
from integrator.breaking import thresholds
from integrator.ledger.schema import attempts, syncs
from sandbox import large

BEGAN = datetime(2026, 3, 2, 8, tzinfo=UTC)
STEPS = 60
"""In so many parts the orders come, over the whole outage."""

WARM = 50
"""Orders before the outage, which meet a short one: what a process allocates once is allocated by then."""


def allowed_probes(seconds: float, given: Thresholds) -> int:
    """The calls that a breaker lets out in an outage: those that open it, and one each time it may be tried."""
    calls, at, trips = given.failures, 0.0, 0
    while True:
        at += min(given.seconds * 2**trips, given.longest_seconds)
        trips += 1
        if at > seconds:
            return calls
        calls += 1


def rss_mb() -> float:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def play(orders: int, hours: float, runs: int | None = None) -> dict[str, Any]:
    """Play the outage and the recovery; the numbers."""
    virtual.be_quiet()
    with virtual.played(BEGAN, large.PLAN) as world:
        _warm(world)
        began, before, rss = world.clock.now, _calls(world.erp, down=True), rss_mb()
        for step in range(STEPS):
            world.deliver(orders * (step + 1) // STEPS - orders * step // STEPS)
            until = began + timedelta(hours=hours * (step + 1) / STEPS)
            world.work(until)
            world.clock.now = until
        burnt, rss_down = _most_burnt(world), rss_mb()
        calls, ended = _calls(world.erp, down=False) - before, world.clock.now
        world.work(ended + timedelta(days=10), runs)
        ran, ran_orders = _ran_since(world, ended)
        return {
            "outage_calls": calls,
            "allowed_probes": allowed_probes(hours * 3_600, thresholds()),
            "attempts_per_order": round(ran / ran_orders, 4),
            "burnt": burnt,
            "rss_growth_mb": round(rss_mb() - rss, 1),
            "rss_growth_down_mb": round(rss_down - rss, 1),
            "orders": orders,
            "ran": ran_orders,
            "done": world.count("done") - WARM,
            "dead": world.count("dead"),
            "held": world.count("held"),
            "created": virtual.control(world.erp)["answers"].get("201", 0) - WARM,
            "recovery_seconds": round((world.clock.now - ended).total_seconds(), 1),
        }


def _warm(world: virtual.Played) -> None:
    """An outage of ten minutes, and an hour after it in which its orders run and the breaker forgets it."""
    for down, minutes in ((True, 10), (False, 60)):
        virtual.control(world.erp, down=down)
        world.deliver(WARM // 2)
        until = world.clock.now + timedelta(minutes=minutes)
        world.work(until)
        world.clock.now = until


def _calls(erp: str, **changes: Any) -> int:
    """Change the system's settings; the calls that it has seen until now."""
    return sum(virtual.control(erp, **changes)["requests"].values())


def _most_burnt(world: virtual.Played) -> int:
    with world.ledger.read() as connection:
        return int(connection.execute(select(func.max(syncs.c.attempts))).scalar_one())


def _ran_since(world: virtual.Played, at: datetime) -> tuple[int, int]:
    """How many runs began since then, and of how many orders."""
    query = select(func.count(), func.count(attempts.c.sync_id.distinct())).where(attempts.c.started_at >= at)
    with world.ledger.read() as connection:
        runs, orders = connection.execute(query).one()
    return int(runs), int(orders)


def main() -> None:
    """Read the command line, play, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description="Play an outage.")
    parser.add_argument("--orders", type=int, default=100_000)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--runs", type=int, help="how many runs after the recovery; all by default")
    parser.add_argument("--short", action="store_true", help="100 orders")
    given = parser.parse_args()
    print(json.dumps(play(100 if given.short else given.orders, given.hours, given.runs)))


if __name__ == "__main__":
    main()
