"""The dispatcher: moves due syncs from the ledger onto the queue, in windows (PROTOCOL P1-P5).

The broker is a doorbell: what is rung here is owed by the ledger whether the bell is heard or not.
"""

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Integer, Select, and_, bindparam, case, func, select
from sqlalchemy.exc import SQLAlchemyError

from integrator import failpoints
from integrator.clock import after, boottime, now
from integrator.gate import ON_TRIAL, window
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Rung
from integrator.ledger.schema import DUE_STATE, IN_FLIGHT, IS_QUEUED, Priority, gates, plans, syncs
from integrator.ledger.transitions import put_back, ring, ring_again
from integrator.logs import get_logger
from integrator.plans import DEFAULT
from integrator.shops.base import Kind

log = get_logger(__name__)

QUEUES: Mapping[str, str] = {Kind.ORDER: "orders"}
"""The queue of each kind of document."""

GATE_LOCK_TIMEOUT_MS = 200
"""How long one dispatch waits for another that holds the same gate (P1)."""

GATES_A_ROUND = 50
"""How many gates one round serves; the rest come in the next (L2)."""

LIVE_PLACES = 2
"""Places of a window that only live orders may take, so that a backlog never stands before them (P6)."""

LIVE_SECONDS = 300
"""How long after its last delivery an order counts as live (P6)."""

PUBLISH_PAUSE_SECONDS = (1.0, 30.0)
"""The first and the longest pause of a queue that could not be published to (P3)."""

PROBE_SIZE = 10
"""How many syncs are rung to see whether a queue takes messages again: one batch."""


class Publish(Protocol):
    """Rings the bell for each sync; returns those whose message certainly or possibly did not go out.

    It begins no message after 3 s, and each ends within its own timeouts; it retries nothing and raises nothing.
    """

    def __call__(self, rung: list[Rung], /) -> list[Rung]:
        """Publish one message each."""
        ...


def due_gates(connection: Connection, among: Collection[int] | None = None) -> list[int]:
    """Open gates, all or `among` these, that have due work: an index probe a priority, nothing for shut ones (P4).

    Priority and order are named so that each probe ends at the index's first entry, whatever is not due yet; and
    it is a scalar subquery, since a planner may turn `EXISTS` into a hash of all that is due behind shut gates.
    """
    if among is None:
        return list(connection.execute(_due_gates()).scalars())
    return list(connection.execute(_due_gates_among(), {"among": list(among)}).scalars())


@cache
def _due_gates() -> Select[int]:
    mine = select(syncs.c.id).where(syncs.c.gate_id == gates.c.id, _is_due()).order_by(syncs.c.due_at).limit(1)
    first = func.coalesce(*(mine.where(syncs.c.priority == one).scalar_subquery() for one in Priority))
    return select(gates.c.id).where(gates.c.opens_at <= now(), first.is_not(None)).order_by(gates.c.id)


@cache
def _due_gates_among() -> Select[int]:
    return _due_gates().where(gates.c.id.in_(bindparam("among", expanding=True)))


def _is_due() -> ColumnElement[bool]:
    return and_(DUE_STATE, syncs.c.due_at <= now())


def mark(
    connection: Connection,
    gate_ids: Collection[int],
    *,
    kinds: Collection[str],
    skip_locked: bool = False,
    limit: int | None = None,
) -> list[Rung]:
    """Fill the windows of these gates: lock each gate's row, count what is in flight, mark what is due (P1).

    Only syncs of `kinds` are marked, at most `limit` in all. They come in the order in which they should be rung.
    """
    left = sys.maxsize if limit is None else limit
    chosen: list[int] = []
    for room in _rooms(connection, gate_ids, skip_locked=skip_locked):
        found = _choose(connection, room, kinds, left - len(chosen))
        chosen.extend(found)
    place = {sync_id: number for number, sync_id in enumerate(chosen)}
    return sorted(ring(connection, chosen), key=lambda one: place[one.sync_id])


@dataclass(frozen=True)
class Room:
    """How many syncs of a gate may be rung now: in all, and of those that are not live orders."""

    gate_id: int
    places: int
    other_places: int


def _rooms(connection: Connection, gate_ids: Collection[int], *, skip_locked: bool) -> list[Room]:
    locked = connection.execute(_lock(skip_locked=skip_locked), {"gate_ids": list(gate_ids)}).all()
    counted = connection.execute(_count(), {"gate_ids": [row.id for row in locked]})
    busy = {row.gate_id: (row.busy, row.others) for row in counted}
    return [_room(row, *busy.get(row.id, (0, 0))) for row in locked]


@cache
def _lock(*, skip_locked: bool) -> Select[Any]:
    own = select(plans.c.per_second).where(plans.c.gate_id == gates.c.id).scalar_subquery()
    per_second = func.coalesce(own, DEFAULT.per_second).label("per_second")
    return (
        select(gates.c.id, gates.c.window_cap, gates.c.run_seconds, per_second, ON_TRIAL.label("on_trial"))
        .where(gates.c.id.in_(bindparam("gate_ids", expanding=True)), gates.c.opens_at <= now())
        .order_by(gates.c.id)
        .with_for_update(key_share=True, skip_locked=skip_locked)
    )


@cache
def _count() -> Select[int, int, int]:
    return (
        select(
            syncs.c.gate_id,
            func.count().label("busy"),
            func.count(case((~_is_live(), 1))).label("others"),
        )
        .where(syncs.c.gate_id.in_(bindparam("gate_ids", expanding=True)), IN_FLIGHT)
        .group_by(syncs.c.gate_id)
    )


def _room(gate: Any, busy: int, others: int) -> Room:
    places = window(gate.window_cap, gate.per_second, gate.run_seconds, on_trial=gate.on_trial)
    for_others = places - min(LIVE_PLACES, places - 1)
    return Room(gate.id, places - busy, min(places - busy, for_others - others))


def _is_live() -> ColumnElement[bool]:
    return and_(syncs.c.priority == Priority.LIVE, syncs.c.accepted_at > after(-LIVE_SECONDS))


def _choose(connection: Connection, room: Room, kinds: Collection[str], left: int) -> list[int]:
    """Live orders first, then what is due by priority and time, up to the places for others (P6)."""
    live = _first(connection, room.gate_id, kinds, min(room.places, left), live=True)
    places = min(room.places - len(live), room.other_places, left - len(live))
    return live + _first(connection, room.gate_id, kinds, places, live=False)


def _first(connection: Connection, gate_id: int, kinds: Collection[str], places: int, *, live: bool) -> list[int]:
    if places <= 0:
        return []
    given = {"gate": gate_id, "kinds": list(kinds), "places": places}
    return list(connection.execute(_due(live=live), given).scalars())


@cache
def _due(*, live: bool) -> Select[int]:
    return (
        select(syncs.c.id)
        .where(
            syncs.c.gate_id == bindparam("gate"),
            syncs.c.kind.in_(bindparam("kinds", expanding=True)),
            _is_live() if live else ~_is_live(),
            _is_due(),
        )
        .order_by(syncs.c.priority, syncs.c.due_at)
        .limit(bindparam("places", type_=Integer()))
        .with_for_update(skip_locked=True)
    )


class QueuePauses:
    """When this process may publish to each queue again after a failure: 1 to 30 s, then one batch probes (P3)."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._pauses: dict[str, tuple[float, float]] = {}

    def usable(self, queue: str) -> bool:
        """Whether the queue may be published to now."""
        return self._pauses.get(queue, (0.0, 0.0))[0] <= self._clock()

    def on_trial(self, queue: str) -> bool:
        """Whether the last publishing failed, so that no more than a probe may go out."""
        return queue in self._pauses

    def record(self, queue: str, *, failed: bool) -> None:
        """Learn how publishing went."""
        if not failed:
            self._pauses.pop(queue, None)
            return
        first, longest = PUBLISH_PAUSE_SECONDS
        seconds = min(self._pauses[queue][1] * 2, longest) if queue in self._pauses else first
        self._pauses[queue] = (self._clock() + seconds, seconds)


class Dispatcher:
    """One process's dispatcher: one dispatch at a time; requests that come meanwhile make one more (P2).

    After one that was requested it rests for `rest_seconds`, so that a process with other things to do, and whose
    requests come in crowds, dispatches for many of them at once.
    """

    def __init__(self, ledger: Ledger, publish: Publish, *, rest_seconds: float = 0.0) -> None:
        self._ledger = ledger
        self._publish = publish
        self._rest_seconds = rest_seconds
        self._pauses = QueuePauses()
        self._one_at_a_time = threading.Lock()
        self._asked = threading.Condition()
        self._requests: set[int] = set()
        self._later: list[tuple[float, int]] = []
        self._thread: threading.Thread | None = None

    def request(self, gate_id: int, after_seconds: float = 0.0) -> None:
        """Ask for a dispatch of this gate in the background, after a commit (D3, C5). Returns at once.

        One `after_seconds` is for a gate that opens then, whatever is asked before: the scheduler's loop, too,
        finds it within a second.
        """
        with self._asked:
            if after_seconds:
                heappush(self._later, (boottime() + after_seconds, gate_id))
            else:
                self._requests.add(gate_id)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
                self._thread.start()
            self._asked.notify()

    def _run(self) -> None:
        while True:
            gate_ids = self._take_due()
            try:
                self.dispatch(gate_ids)
            except SQLAlchemyError as error:
                # The scheduler's loop asks again within a second, so nothing waits for this one.
                log.warning("dispatch_failed", error=type(error).__name__, gates=len(gate_ids))
            time.sleep(self._rest_seconds)

    def _take_due(self) -> set[int]:
        """Wait for requests whose time has come, and take them."""
        with self._asked:
            while True:
                while self._later and self._later[0][0] <= boottime():
                    self._requests.add(heappop(self._later)[1])
                if self._requests:
                    due, self._requests = self._requests, set()
                    return due
                self._asked.wait(self._later[0][0] - boottime() if self._later else None)

    def dispatch(self, gate_ids: Collection[int] | None = None, *, skip_locked: bool = False) -> int:
        """Ring for as many due syncs of these gates as their windows have room for; all due gates by default.

        Returns how many bells were rung. Raises SQLAlchemyError when the ledger can't be reached.
        """
        with self._one_at_a_time:
            with self._ledger.read() as connection:  # no lock is taken where nothing is due
                due = due_gates(connection, gate_ids)
            return sum(self._round(some, skip_locked) for some in batched(due, GATES_A_ROUND))

    def _round(self, gate_ids: Collection[int], skip_locked: bool) -> int:
        usable = [kind for kind, queue in QUEUES.items() if self._pauses.usable(queue)]
        if not usable:
            return 0
        on_trial = any(self._pauses.on_trial(QUEUES[kind]) for kind in usable)
        limit = PROBE_SIZE if on_trial else None
        with self._ledger.write(lock_timeout_ms=GATE_LOCK_TIMEOUT_MS) as connection:
            rung = mark(connection, gate_ids, kinds=usable, skip_locked=skip_locked, limit=limit)
        failpoints.fire("dispatch.marked")
        return self.publish(rung)

    def publish(self, rung: list[Rung]) -> int:
        """Ring what has been marked and committed; put back what failed (P3). How many bells were rung."""
        failed = self._publish(rung) if rung else []
        for queue in {QUEUES[one.kind] for one in rung}:
            self._pauses.record(queue, failed=any(QUEUES[one.kind] == queue for one in failed))
        if failed:
            with self._ledger.write() as connection:
                put_back(connection, failed)
            log.warning("bells_put_back", count=len(failed))
        return len(rung) - len(failed)

    def ring_missing(self, kind: str, messages: int) -> int:
        """Ring again for queued syncs whose message is not in the queue any more (P5).

        `messages` is how many messages the queue holds, visible and in flight. The scheduler asks every 10 s. On
        trial one batch probes, as in dispatch: where lost bells fill every window, no dispatch ever would.
        """
        if not self._pauses.usable(QUEUES[kind]):
            return 0
        with self._ledger.write() as connection:
            queued = select(func.count()).where(IS_QUEUED, IN_FLIGHT, syncs.c.kind == kind)
            missing = max(connection.execute(queued).scalar_one() - messages, 0)
            if self._pauses.on_trial(QUEUES[kind]):
                missing = min(missing, PROBE_SIZE)
            again = ring_again(connection, kind, missing)
        return self.publish(again)


def batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The items in runs of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
