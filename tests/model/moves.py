"""Who may do what to a row: the protocol as a table, held against every commit of every actor.

A broken rule often does no harm for a long time: a second claim of a running sync, a bell that is put back by the
wrong dispatcher. So the model does not wait for the harm. After each commit it compares the rows with what they
were at the commit before; whatever changed was changed by this one transaction, since one actor runs at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from integrator.ledger.leases import RUN_SECONDS
from integrator.ledger.schema import State, StepState, steps, syncs
from tests.model.baton import Actor, Clock
from tests.model.outside import SETTLE_SECONDS

Row = Any
Pair = tuple[int, int]
"""A sync's id and the number of a claim."""

MOVES: dict[str, set[tuple[str | None, str]]] = {
    "receiver": {
        (None, State.PENDING),
        (State.DONE, State.PENDING),
        (State.HELD, State.PENDING),
        (State.DEAD, State.PENDING),
    },
    "bell": {(State.PENDING, State.QUEUED), (State.RETRYING, State.QUEUED), (State.QUEUED, State.PENDING)},
    "scheduler": {
        (State.PENDING, State.QUEUED),
        (State.RETRYING, State.QUEUED),
        (State.QUEUED, State.PENDING),
        (State.RUNNING, State.PENDING),
        (State.RUNNING, State.HELD),
    },
    "worker": {
        (State.QUEUED, State.RUNNING),
        (State.QUEUED, State.PENDING),
        *((State.RUNNING, state) for state in (State.PENDING, State.RETRYING, State.HELD, State.DEAD, State.DONE)),
    },
    "keeper": {(State.RUNNING, State.PENDING)},
    "operator": {(State.HELD, State.PENDING), (State.DEAD, State.PENDING)},
}
"""Each role's changes of a sync's state."""

STEP_MOVES = {
    (None, StepState.INTENDED),
    (StepState.REFUSED, StepState.INTENDED),
    (StepState.REFUSED, StepState.REFUSED),  # the last look found nothing
    (StepState.REFUSED, StepState.APPLIED),  # or it found what had been given up
    (StepState.IN_DOUBT, StepState.INTENDED),
    *((StepState.INTENDED, state) for state in StepState),
    (StepState.IN_DOUBT, StepState.IN_DOUBT),
    (StepState.IN_DOUBT, StepState.APPLIED),
    (StepState.IN_DOUBT, StepState.REFUSED),
    (StepState.APPLIED, StepState.APPLIED),
}
"""The changes of a step's state, all of them by a worker that holds the sync's claim."""


@dataclass
class Moves:
    """The rows as they were at the last commit, and what was said of claims and bells since.

    `held` tells an actor's process's claims; `shut_since` whether a gate has been shut since a move.
    """

    clock: Clock
    by_key: bool
    held: Callable[[Actor], list[Pair]]
    shut_since: Callable[[int, int], bool]
    syncs: dict[int, Row] = field(default_factory=dict)
    steps: dict[int, Row] = field(default_factory=dict)
    rung: set[tuple[str, int, datetime]] = field(default_factory=set)
    wanted: dict[Pair, int] = field(default_factory=dict)
    owner: dict[Pair, str] = field(default_factory=dict)
    ended: dict[Pair, datetime] = field(default_factory=dict)

    def compare(self, connection: Connection, actor: Actor) -> Iterator[str]:
        """What this commit did that it should not have done."""
        role = actor.name.split()[1 if actor.name.startswith("web") else 0]
        rows = {row.id: row for row in connection.execute(select(syncs))}
        for sync_id, row in rows.items():
            before = self.syncs.get(sync_id)
            if before is None or before != row:
                for what in self._sync(role, actor, before, row):
                    state = None if before is None else before.state
                    yield f"{what}: sync {sync_id}, {state} -> {row.state}, by {actor}"
        known = {row.id: row for row in connection.execute(select(steps))}
        for step_id, row in known.items():
            before = self.steps.get(step_id)
            if before is None or before != row:
                for what in self._step(role, actor, before, row, rows[row.sync_id]):
                    yield f"{what}: {row.key} of sync {row.sync_id}, now {row.state}, by {actor}"
        self.syncs, self.steps = rows, known

    def _sync(  # noqa: C901 - one rule a line
        self, role: str, actor: Actor, before: Row | None, row: Row
    ) -> Iterator[str]:
        start = None if before is None else before.state
        if start != row.state and (start, row.state) not in MOVES[role]:
            yield "no such move"
        if before is None:
            return
        if (role != "receiver" and row.wanted != before.wanted) or row.wanted < before.wanted:
            yield "D1: only a delivery raises wanted"
        if row.state == State.QUEUED and row.queued_at != before.queued_at:
            yield from self._rings(role, actor, before, row)
        if start == State.QUEUED and row.state == State.PENDING and role in {"bell", "scheduler"}:
            expired = role == "scheduler" and before.lease_until <= self.clock.now
            if not expired and (actor.process, row.id, before.queued_at) not in self.rung:
                yield "P3: put back, but rung by another"
        if row.state == State.RUNNING and row.claim != before.claim:
            yield from self._claims(actor, before, row)
        if start == State.RUNNING:
            yield from self._runs(role, actor, before, row)

    def _rings(self, role: str, actor: Actor, before: Row, row: Row) -> Iterator[str]:
        self.rung.add((actor.process, row.id, row.queued_at))
        if before.state == State.QUEUED:
            if role != "scheduler" or before.lease_until > self.clock.now:
                yield "P5: rung again before its time"
            return
        if before.due_at > self.clock.now:
            yield "P1: rung before it was due"
        if actor.transaction is not None and self.shut_since(row.gate_id, actor.transaction.began):
            yield "P1: rung behind a shut gate"

    def _claims(self, actor: Actor, before: Row, row: Row) -> Iterator[str]:
        self.wanted[row.id, row.claim], self.owner[row.id, row.claim] = row.wanted, actor.process
        if before.state != State.QUEUED or row.claim != before.claims + 1:
            yield "C1: claimed from another state, or out of turn"
        if actor.transaction is not None and self.shut_since(row.gate_id, actor.transaction.began):
            yield "C1: claimed behind a shut gate"

    def _runs(  # noqa: C901 - one rule a line
        self, role: str, actor: Actor, before: Row, row: Row
    ) -> Iterator[str]:
        """What becomes of a running sync."""
        claim = (before.id, before.claim)
        taken_over = role == "scheduler"
        if row.state != State.RUNNING:
            self.ended[claim] = before.lease_until if taken_over else self.clock.now
        elif row.lease_until != before.lease_until:
            if role != "keeper" or row.lease_until > row.claimed_at + timedelta(seconds=RUN_SECONDS):
                yield "C3: lease extended by another, or for too long"
        elif role == "receiver":
            return
        if taken_over:
            if before.lease_until > self.clock.now:
                yield "C4: taken over before its lease ended"
        elif claim not in self.held(actor) and not (role == "keeper" and self.owner[claim] == actor.process):
            yield f"C2: changed while held by claim {before.claim}"
        if row.state == State.DONE and not row.wanted == row.applied == self.wanted[claim]:
            yield f"C5: done, but {row.wanted} are wanted and the claim was for {self.wanted[claim]}"

    def _step(self, role: str, actor: Actor, before: Row | None, row: Row, sync: Row) -> Iterator[str]:
        start = None if before is None else before.state
        if (start, row.state) not in STEP_MOVES:
            yield f"no such move from {start}"
        if role != "worker" or sync.state != State.RUNNING or (sync.id, sync.claim) not in self.held(actor):
            yield f"C2: a step changed while the sync is {sync.state} by claim {sync.claim}"
        given_up = row.state == StepState.REFUSED and start in {StepState.INTENDED, StepState.IN_DOUBT}
        if given_up and not self.by_key:
            yield from self._given_up(before, sync)

    def _given_up(self, before: Row | None, sync: Row) -> Iterator[str]:
        """Without keys a doubt ends with "not found" only when the effect can't come any more."""
        if before is None:
            return
        began = before.doubted_at
        if before.state == StepState.INTENDED and before.claim != sync.claim:
            began = self.ended.get((sync.id, before.claim))
        if began is not None and began + timedelta(seconds=SETTLE_SECONDS) > self.clock.now:
            yield f"S2: given up after a doubt of {began.isoformat()}"
