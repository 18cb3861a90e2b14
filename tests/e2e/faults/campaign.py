"""Strikes a rig with scenarios while its shops send, and says what came of it."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.faults.load import Found
from tests.e2e.faults.rig import Moment, Rig, until
from tests.e2e.faults.scenarios import Scenario

FELT_SECONDS = 60
"""How long a fault lasts at most until it is felt."""

ACKNOWLEDGED_SECONDS = 120
DONE_SECONDS = 240
"""How long after a fault all webhooks may take to be acknowledged, and all orders to be done: leases, doubts and
backoffs run out in it."""

FULL_SECONDS = 60
"""How long orders that come after the return may take: a part that limps, or has to be restarted, takes longer."""


@dataclass
class Outcome:
    """What was seen of one fault, or of several one after the other, beside what became of the orders."""

    name: str
    unfelt: list[str] = field(default_factory=list)
    not_seen_after: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    unacknowledged: bool = False
    settled: bool = True
    rate_before: float = 0.0
    rate_after: float = 0.0
    found: Found | None = None

    def wrong(self) -> list[str]:
        """What must not be, in words; empty when the promise was kept."""
        said = [f"not felt: {name}" for name in self.unfelt]
        said += [f"not seen afterwards: {name}" for name in self.not_seen_after]
        said += [f"other processes: {name}" for name in self.replaced]
        hung = {kind: count for kind, count in self.failures.items() if kind in {"TimeoutError", "timeout"}}
        said += [f"{count} requests without an answer" for count in hung.values()]
        said += ["not everything was acknowledged"] * self.unacknowledged
        said += ["not at work again"] * (not self.rate_after)
        said += ["not everything was done"] * (not self.settled)
        if self.found:
            for kind in ("lost", "doubled", "mismatched", "limbo"):
                said += [f"{kind}: {one}" for one in getattr(self.found, kind)]
        return said


@contextmanager
def struck(rig: Rig, scenario: Scenario, seconds: float, outcome: Outcome) -> Iterator[Moment]:
    """A block in which a fault lasts: so long, and until it is felt."""
    since, began = rig.now(), time.monotonic()
    back = scenario.strike(rig)
    try:
        yield since
        time.sleep(max(began + seconds - time.monotonic(), 0))
        if not until(lambda: scenario.felt(rig, since), FELT_SECONDS):
            outcome.unfelt.append(scenario.name)
    finally:
        back()
    if not until(lambda: scenario.after(rig, since), FELT_SECONDS):
        outcome.not_seen_after.append(scenario.name)


def strike(rig: Rig, scenarios: Sequence[Scenario], dice: random.Random, *, long: bool = False) -> Outcome:
    """Let faults strike one after the other, each at a moment that the dice choose, while the shops send.

    Short, they last no longer than they must.
    """
    outcome = Outcome(" ".join(one.name for one in scenarios))
    replaces = frozenset[str]().union(*(one.replaces for one in scenarios))
    before = rig.ids()
    with rig.load() as load:
        for scenario in scenarios:
            time.sleep(dice.uniform(0.2, 2.0 if long else 0.6))
            shortest, longest = scenario.seconds
            with struck(rig, scenario, dice.uniform(shortest, longest) if long else shortest, outcome):
                pass
        load.stop()
    outcome.unacknowledged = not load.sent.wait(ACKNOWLEDGED_SECONDS)
    outcome.failures = dict(load.sent.failures())
    after = rig.ids()
    outcome.replaced = [
        f"{name} {before[name]} -> {after.get(name)}"
        for name in before.keys() - replaces - {"sqs"}
        if after.get(name) != before[name]
    ]
    return outcome


def full_rate(rig: Rig, orders: int) -> float:
    """Send orders of each shop as fast as can be; orders done in a second, 0 when not all were in time."""
    sent = rig.send(orders)
    if not (sent.wait(FULL_SECONDS) and rig.wait_done(sent.orders, FULL_SECONDS)):
        return 0.0
    return len(sent.orders) / (time.monotonic() - sent.began)
