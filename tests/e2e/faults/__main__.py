"""The long form: each fault on a system of its own, round after round, and a table of what was seen.

    make faults ARGS="--seed 7 --rounds 2 --only database-restarted"

The seed decides what orders come, and when each fault strikes and ends; what the machine does meanwhile is its
own affair. `before` and `after` are orders a second, sent as fast as can be, on the same processes.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.faults.campaign import DONE_SECONDS, Outcome, full_rate, strike
from tests.e2e.faults.rig import Rig
from tests.e2e.faults.scenarios import BY_NAME, SCENARIOS, Scenario

ORDERS = 1_200
"""Of each shop in one system: more than are sent."""

WAVE = 10
"""Orders of each shop by which the rate is measured."""

LIMPS = 0.5
"""A rate after the fault below this share of the one before it is no full rate."""

COLUMNS = ("scenario", "acknowledged", "applied", "doubled", "held", "limbo", "5xx", "before", "after", "verdict")


def one(scenario: Scenario, seed: int, folder: Path) -> Outcome:
    """One fault on a system of its own."""
    dice = random.Random(f"{seed}:{scenario.name}")
    with Rig(folder, seed=dice.randrange(2**31), orders=ORDERS) as rig:
        full_rate(rig, WAVE)  # warm
        before = full_rate(rig, WAVE)
        outcome = strike(rig, [scenario], dice, long=True)
        outcome.settled = rig.wait_done(rig.shops.orders(), DONE_SECONDS)
        outcome.rate_before, outcome.rate_after = before, full_rate(rig, WAVE)
        outcome.settled &= rig.wait_done(rig.shops.orders(), DONE_SECONDS)
        outcome.found = rig.judge()
        return outcome


def wrong(outcome: Outcome, scenario: Scenario) -> list[str]:
    """What must not be, in words; also that it limps, or failed a request where none may fail."""
    said = outcome.wrong()
    if outcome.rate_after < LIMPS * outcome.rate_before:
        said.append(f"{outcome.rate_after:.1f} orders a second after {outcome.rate_before:.1f}")
    if scenario.unfailing and outcome.failures:
        said.append(f"failed requests: {outcome.failures}")
    return said


def row(outcome: Outcome, verdict: str) -> tuple[str, ...]:
    """One line of the table."""
    found = outcome.found
    assert found is not None
    failures = sum(count for kind, count in outcome.failures.items() if kind.startswith("5"))
    counts = (found.acknowledged, found.applied, len(found.doubled), len(found.held_with_both), len(found.limbo))
    rates = (f"{outcome.rate_before:.1f}", f"{outcome.rate_after:.1f}")
    return (outcome.name, *map(str, counts), str(failures), *rates, verdict)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="make faults", description="Parts go away under load, and come back.")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 2**31)
    parser.add_argument("--rounds", type=int, default=1, help="each has a seed of its own, made of the first")
    parser.add_argument("--only", action="append", choices=sorted(BY_NAME), help="can be given several times")
    parser.add_argument("--keep", type=Path, help="where logs are kept; else they are dropped")
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    chosen = [one for one in SCENARIOS if not given.only or one.name in given.only]
    rows, failed = [], 0
    for number in range(given.rounds):
        for scenario in chosen:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
                folder = given.keep / f"{scenario.name}-{number}" if given.keep else Path(temporary)
                folder.mkdir(parents=True, exist_ok=True)
                outcome = one(scenario, given.seed + number, folder)
            bad = wrong(outcome, scenario)
            failed += bool(bad)
            rows.append(row(outcome, "FAILED" if bad else "kept"))
            print(f"{table(rows[-1:])}\n    in {time.monotonic() - began:.0f} s", flush=True)
            for line in bad:
                print(f"    {line}", flush=True)
    print(f"\n{table(rows)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
