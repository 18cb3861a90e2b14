"""Whether a used-up day stays used up, and work resumes by itself when it turns: days are played.

    python -m benchmarks.quota [--short]

A tenant with the default plan, 300 requests a day, has work for more than a day. Days are played in Buenos Aires,
and over the nights in which Madrid's clocks change, so that a day has 23 and 25 hours. What the system was sent is
judged by the places that its log shows. The last line is one JSON object: `sent_over_quota`, requests beyond the
300 of their day; `resumed`, days on which work went on by itself in the first second; `turns`, days that began
with work waiting; and `sent`, requests by day. `--short` plays the same with 10 requests a day.
"""

import argparse
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks import virtual
from integrator.plans import DEFAULT, day

PLAYED = (
    ("America/Argentina/Buenos_Aires", datetime(2026, 3, 2, 12, tzinfo=UTC)),
    ("Europe/Madrid", datetime(2026, 3, 28, 12, tzinfo=UTC)),
    ("Europe/Madrid", datetime(2026, 10, 24, 12, tzinfo=UTC)),
)
"""Where, and from when: three days begin in each."""

DAYS = 3


def play(zone: str, began: datetime, per_day: int) -> dict[str, Any]:
    """Play the rest of one day and the three that follow, with work for all of them but the end of the last."""
    owed = per_day * DAYS + per_day // 3
    with virtual.played(began, {"time_zone": zone, "per_day": per_day}) as world:
        world.deliver(owed)
        world.work(began + timedelta(days=DAYS + 1))
        sent = virtual.places(world.erp)
        done = world.count("done")
    return verdict(sent, zone, per_day) | {"done": done, "owed": owed}


def verdict(sent: list[datetime], zone: str, per_day: int) -> dict[str, Any]:
    """The numbers of what the system was sent at these times."""
    days = [day(at, zone) for at in sent]
    by_day = Counter(one.name for one in days)
    first = {
        one.name: (at - one.begins_at).total_seconds() for at, one in reversed(list(zip(sent, days, strict=True)))
    }
    began_by_itself = [0 <= seconds < 1 for name, seconds in first.items() if name != min(first)]
    return {
        "sent_over_quota": sum(max(count - per_day, 0) for count in by_day.values()),
        "resumed": sum(began_by_itself),
        "turns": DAYS,
        "sent": dict(sorted(by_day.items())),
    }


def run(per_day: int) -> dict[str, Any]:
    """All of them; the sums of the numbers, and each by itself."""
    virtual.be_quiet()
    each = [play(zone, began, per_day) for zone, began in PLAYED]
    names = ("sent_over_quota", "resumed", "turns", "done", "owed")
    sums = {name: sum(one[name] for one in each) for name in names}
    return sums | {"per_day": per_day, "sent": [one["sent"] for one in each]}


def main() -> None:
    """Read the command line, play, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quota", description="Play days of a small plan.")
    parser.add_argument("--short", action="store_true", help="10 requests a day")
    given = parser.parse_args()
    print(json.dumps(run(10 if given.short else DEFAULT.per_day)))


if __name__ == "__main__":
    main()
