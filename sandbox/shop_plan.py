"""In which order and how often the webhooks of made-up orders go out: laid out beforehand, from a seed."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.shop_orders import Event, Life

LATER_SECONDS = (0.3, 1.5)
"""When a late duplicate follows its original."""


@dataclass(frozen=True)
class SendOptions:
    """How to send.

    `duplicates` is the share (0 to 1) of events sent twice, half of those at once, half later. `reordering` is
    the share of orders of which a later event goes out before an earlier one. `orders_per_second` spreads the
    orders' creations; None sends as fast as the threads can. Otherwise an order's event waits until the one
    before it was answered once. `retry_seconds` are the waits before each further try, the last one for ever.
    """

    concurrency: int = 8
    duplicates: float = 0.0
    reordering: float = 0.0
    orders_per_second: float | None = None
    retry_seconds: tuple[float, ...] = (0.1, 0.3, 1.0, 2.0, 4.0)
    timeout_seconds: float = 5.0
    seed: int = 0


@dataclass(eq=False)
class Delivery:
    """One event on its way, original or copy, and what follows it.

    `position` is its place among the orders' creations: order 7 is created at 7.0. A copy follows
    `copy_after` seconds after the first try.
    """

    event: Event
    position: float
    duplicate: bool = False
    tries: int = 0
    then: "Delivery | None" = None
    copy_after: float | None = None


@dataclass(frozen=True)
class Plan:
    """What is sent after what: the first delivery of each order, with what follows it; and the numbers."""

    firsts: tuple[Delivery, ...]
    deliveries: int
    duplicates: int
    reordered: int


def make_plan(lives: Sequence[Life], options: SendOptions) -> Plan:
    """Lay out the deliveries of these lives. The same lives and options give the same plan."""
    dice = random.Random(f"send:{options.seed}")
    reordered = 0
    chains = []
    for n, life in enumerate(lives):
        events = list(life.events)
        if len(events) > 1 and dice.random() < options.reordering:
            at = dice.randrange(len(events) - 1)
            events[at], events[at + 1] = events[at + 1], events[at]
            reordered += 1
        chains.append(_chain(events, float(n), options, dice))
    every = [delivery for chain in chains for delivery in chain]
    duplicates = sum(delivery.copy_after is not None for delivery in every)
    return Plan(tuple(chain[0] for chain in chains), len(every) + duplicates, duplicates, reordered)


def _chain(events: list[Event], position: float, options: SendOptions, dice: random.Random) -> list[Delivery]:
    chain = []
    for event in events:
        copy_after = None
        if dice.random() < options.duplicates:
            copy_after = 0.0 if dice.random() < 0.5 else dice.uniform(*LATER_SECONDS)
        chain.append(Delivery(event, position, copy_after=copy_after))
        position += dice.uniform(1, 40)
    for delivery, following in itertools.pairwise(chain):
        delivery.then = following
    return chain
