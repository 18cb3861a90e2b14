"""What the constants of fairness do, with 1, 100 and 1,000 tenants, floods, slow systems and outages: simulated.

    python -m benchmarks.fairness_sim [--plot docs/fairness.svg] [--short]

A model in simpy of gates, bells and one worker. It takes the project's own constants, and its own code where
that is pure: the window (`gate.window`), the breaker, the limiter's rule and the worker's line of threads. What
it leaves out is what work costs: the ledger, SQS and the threads take no time but that of a bell. So it shows
what depends on what, and no speed. A minute after the start one tenant sends a flood, two whose systems take 8 s
send one each, and the systems of four hang for five minutes. The last line is one JSON object:
`quiet_p99_seconds`, from webhook to order, of the tenants that nothing befalls, with the constants as they are
and with each of them changed, by the number of tenants; `lone_per_second`, what one tenant alone gets done, by
its window; `live_p99_seconds`, of a tenant's live orders while its backlog of an outage runs, by the places that
are kept for them.
"""

import argparse
import json
import random
import statistics
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import simpy

from integrator.breaker import Breaker, Heard, Thresholds, next_state, take_place
from integrator.clock import EPOCH
from integrator.dispatch import LIVE_PLACES, LIVE_SECONDS
from integrator.gate import window
from integrator.ledger.limits import LONGEST_US
from integrator.ledger.tenants import ErpFile
from integrator.plans import DEFAULT, Rate, next_place
from tasks.line import Line

WINDOW = int(ErpFile.model_fields["window"].default)
BELL_SECONDS, RUN_SECONDS, SLOW_SECONDS, HANGS_SECONDS = 0.03, 0.4, 8.0, 15.0
SPREAD, P95 = (0.5, 1.5), 1.45
"""A run takes its gate's seconds, times something between these; the 95th percentile of that."""

ORDERS_PER_SECOND = 16.7
"""Of all tenants that nothing befalls, together: two fifths of what the threads can do."""

TROUBLE_AT, TROUBLE_SECONDS = 60.0, 300.0
FLOOD, SLOW_FLOOD, SLOW = 2_000, 200, 2
HANGING = 4
SEEDS = (1, 2, 3)
"""Each figure of quiet tenants is the median of as many runs."""


@dataclass(frozen=True)
class Constants:
    """What is changed: a window's cap, the places for live orders (None: all in turn), a tenant's share."""

    cap: int = WINDOW
    live_places: int | None = LIVE_PLACES
    share: float = 0.25
    threads: int = 16


@dataclass
class Order:
    """One order: when it came, and how often it failed."""

    came: float
    failures: int = 0


@dataclass
class Gate:
    """A tenant with its system: what waits, what is in flight, how long its runs take, when its system hangs."""

    number: int
    rate: Rate
    seconds: float = RUN_SECONDS
    hangs: tuple[float, float] = (0.0, 0.0)
    waiting: deque[Order] = field(default_factory=deque)
    flying: list[Order] = field(default_factory=list)
    breaker: Breaker = field(default_factory=Breaker)
    opens_at: float = 0.0
    next_us: int = 0
    took: list[tuple[float, float]] = field(default_factory=list)
    """When each order came, and how long it took."""


class World:
    """All gates and one worker."""

    def __init__(self, constants: Constants, seed: int = 1) -> None:
        self.env, self.constants, self.chance = simpy.Environment(), constants, random.Random(seed)
        self.line = Line[tuple[Gate, Order]](constants.threads)
        self.line.share = max(1, int(constants.threads * constants.share))

    def arrivals(self, gate: Gate, mean: float) -> Generator[Any, Any, None]:
        """Orders that come by chance, each `mean` seconds."""
        while True:
            yield self.env.timeout(self.chance.expovariate(1 / mean))
            self.come(gate, 1)

    def flood(self, gate: Gate, count: int, at: float) -> Generator[Any, Any, None]:
        """Many at once."""
        yield self.env.timeout(at)
        self.come(gate, count)

    def come(self, gate: Gate, count: int, age: float = 0.0) -> None:
        """Webhooks, that came so long ago."""
        gate.waiting.extend(Order(self.env.now - age) for _ in range(count))
        self.dispatch(gate)

    def dispatch(self, gate: Gate) -> None:
        """Fill the window (P1, P6)."""
        now, kept = self.env.now, self.constants.live_places
        trial = not gate.breaker.closed
        if gate.opens_at > now or (gate.breaker.until - EPOCH).total_seconds() > now:
            return
        places = window(self.constants.cap, gate.rate.per_second, gate.seconds * P95, on_trial=trial)
        for_others = places - min(kept or 0, places - 1)
        live = [one for one in gate.waiting if self._live(one)] if kept is not None else []
        while gate.waiting and len(gate.flying) < places:
            others = sum(not self._live(one) for one in gate.flying)
            if live:
                order = live.pop(0)
            elif kept is None or others < for_others:
                order = gate.waiting[0]
            else:
                return
            gate.waiting.remove(order)
            gate.flying.append(order)
            self.env.process(self._ring(gate, order))

    def _live(self, order: Order) -> bool:
        return self.env.now - order.came < LIVE_SECONDS

    def _ring(self, gate: Gate, order: Order) -> Generator[Any, Any, None]:
        yield self.env.timeout(BELL_SECONDS)
        self.line.add(str(gate.number), (gate, order))
        self._start()

    def _start(self) -> None:
        while taken := self.line.take():
            _, (gate, order) = taken
            self.env.process(self._run(gate, order))

    def _run(self, gate: Gate, order: Order) -> Generator[Any, Any, None]:
        by, us = (id(order), 1), round(self.env.now * 1_000_000)
        gate.breaker = take_place(gate.breaker, by, self._at())
        wait_us, gate.next_us = next_place(gate.next_us, us, gate.rate, LONGEST_US)
        done = False
        if wait_us > LONGEST_US:
            gate.opens_at = self.env.now + wait_us / 1_000_000
            self.env.process(self._again(gate, wait_us / 1_000_000))
        elif gate.breaker.closed or gate.breaker.probe == by:
            hangs = gate.hangs[0] <= self.env.now < gate.hangs[1]
            yield self.env.timeout(wait_us / 1_000_000 + (HANGS_SECONDS if hangs else self._seconds(gate)))
            heard, done = (Heard.FAILED if hangs else Heard.ANSWERED), not hangs
            gate.breaker = next_state(gate.breaker, heard, self._at(), by, Thresholds(), self.chance.random)
        self._end(gate, order, done=done)

    def _end(self, gate: Gate, order: Order, *, done: bool) -> None:
        gate.flying.remove(order)
        self.line.end(str(gate.number))
        if done:
            gate.took.append((order.came, self.env.now - order.came))
        else:
            gate.waiting.appendleft(order)
        if (until := (gate.breaker.until - EPOCH).total_seconds()) > self.env.now:
            self.env.process(self._again(gate, until - self.env.now))
        self.dispatch(gate)
        self._start()

    def _again(self, gate: Gate, seconds: float) -> Generator[Any, Any, None]:
        yield self.env.timeout(seconds)
        self.dispatch(gate)

    def _seconds(self, gate: Gate) -> float:
        return gate.seconds * self.chance.uniform(*SPREAD)

    def _at(self) -> Any:
        return EPOCH + timedelta(seconds=self.env.now)


LARGE = Rate(1_000, 100)


def p99(took: list[float]) -> float:
    """The 99th percentile."""
    return round(statistics.quantiles(took, n=100)[98], 2)


def quiet(count: int, constants: Constants, seconds: float, befallen: int = HANGING) -> float:
    """The 99th percentile of those that nothing befalls, in a system of so many tenants."""
    return statistics.median(_quiet(count, constants, seconds, befallen, seed) for seed in SEEDS)


def _quiet(count: int, constants: Constants, seconds: float, befallen: int, seed: int) -> float:
    world, gates = World(constants, seed), [Gate(number, DEFAULT.rate) for number in range(count)]
    flooding, slow = gates[0], gates[1 : 1 + SLOW]
    hanging = gates[1 + SLOW : 1 + SLOW + befallen]
    flooding.rate = LARGE
    world.env.process(world.flood(flooding, FLOOD, TROUBLE_AT))
    for gate in slow:
        gate.seconds, gate.rate = SLOW_SECONDS, LARGE
        world.env.process(world.flood(gate, SLOW_FLOOD, TROUBLE_AT))
    for gate in hanging:
        gate.hangs = (TROUBLE_AT, TROUBLE_AT + TROUBLE_SECONDS)
    for gate in gates:
        world.env.process(world.arrivals(gate, count / ORDERS_PER_SECOND))
    world.env.run(seconds)
    others = gates[1 + SLOW + befallen :]
    took = [took for gate in others for came, took in gate.took if came >= TROUBLE_AT]
    left = [world.env.now - one.came for gate in others for one in (*gate.waiting, *gate.flying)]
    return p99(took + left)


def lone(constants: Constants, seconds: float) -> float:
    """What one tenant alone gets done in a second, with a large plan and more than it can do."""
    world, gate = World(constants), Gate(0, LARGE)
    world.come(gate, 5_000)
    world.env.run(seconds)
    return round(len(gate.took) / seconds, 2)


def live(run_seconds: float, constants: Constants, seconds: float) -> float:
    """The 99th percentile of a tenant's live orders, one in 10 s, beside its backlog of an outage."""
    world, gate = World(constants), Gate(0, DEFAULT.rate, seconds=run_seconds)
    world.come(gate, 5_000, age=6 * 3_600)
    world.env.process(world.arrivals(gate, 10.0))
    world.env.run(seconds)
    waits = [world.env.now - one.came for one in (*gate.waiting, *gate.flying) if one.came >= 0]
    return p99([took for came, took in gate.took if came >= 0] + waits)


WINDOWS = (1, 2, 4, 8, 16, 32, 64)
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
PLACES = (None, 0, 1, 2, 4)
HANG = (0, 2, 4, 8, 16, 32)


def run(seconds: float, counts: tuple[int, ...], step: int = 1) -> dict[str, Any]:
    """All of it. `step` leaves out values of the constants."""
    usual = Constants()
    windows = {str(n): {str(cap): quiet(n, Constants(cap), seconds) for cap in WINDOWS[::step]} for n in counts}
    unshared = {
        str(n): {str(cap): quiet(n, Constants(cap, share=1.0), seconds) for cap in WINDOWS[::step]} for n in counts
    }
    shares = {
        str(n): {str(one): quiet(n, replace(usual, share=one), seconds) for one in SHARES[::step]} for n in counts
    }
    hanging = {str(n): {str(one): quiet(n, usual, seconds, one) for one in HANG[::step]} for n in counts}
    places = {
        f"{each:g} s": {
            "in turn" if one is None else str(one): live(each, replace(usual, live_places=one), seconds)
            for one in PLACES[::step]
        }
        for each in (RUN_SECONDS, SLOW_SECONDS)
    }
    return {
        "quiet_p99_seconds": {
            "as it is": {str(n): quiet(n, usual, seconds) for n in counts},
            "by window": windows,
            "by window, no share": unshared,
            "by share": shares,
            "by systems that hang": hanging,
        },
        "lone_per_second": {str(cap): lone(Constants(cap), 60.0) for cap in WINDOWS[::step]},
        "live_p99_seconds": places,
    }


def main() -> None:
    """Read the command line, simulate, draw, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness_sim", description="Simulate fairness.")
    parser.add_argument("--plot", type=Path, help="draw it into this SVG file")
    parser.add_argument("--short", action="store_true", help="few values, for two minutes and 50 tenants")
    given = parser.parse_args()
    found = run(120.0, (50,), step=3) if given.short else run(400.0, (100, 1_000))
    if given.plot:
        from benchmarks.fairness_plot import draw  # noqa: PLC0415 - matplotlib takes a second

        draw(found, given.plot)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
