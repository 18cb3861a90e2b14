"""What must hold: at each commit, at each request's first byte, and when everything has settled.

A violation found in an actor's thread is kept, not raised there: the code under test would take it for a failure
of its own and handle it. The controller raises it after the move.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Connection, select

from integrator.documents import Order
from integrator.erps.base import Request
from integrator.ledger import breakers
from integrator.ledger.audit import audit
from integrator.ledger.schema import State, StepState, attempts, gates, steps, syncs
from integrator.ledger.transitions import KILLS_ITS_WORKER
from tests.model.baton import Actor, acting
from tests.model.databases import Database
from tests.model.moves import Moves, Pair
from tests.model.outside import CALL_SECONDS, System
from tests.support import Record
from tests.support import World as Tenant

FLYING = (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class Opens:
    """From which move on a gate's `opens_at` was what."""

    move: int
    at: datetime


@dataclass(frozen=True)
class Trial:
    """From which move on a gate's breaker was in which state, and whose claim had its only place."""

    move: int
    closed: bool
    probe: tuple[int, int] | None


@dataclass(frozen=True)
class Stray:
    """A request that left after its claim had been taken over. `seen`: some look was still to come."""

    gate_id: int
    external_id: str
    kind: str
    seen: bool


@dataclass
class Checks:
    """The invariants. `windows` holds each gate's cap by its id, `held` an actor's process's claims."""

    database: Database
    systems: dict[str, System]
    windows: dict[int, int]
    held: Callable[[Actor], list[Pair]]
    moves: Moves = field(init=False)
    violations: list[str] = field(default_factory=list)
    gates: dict[int, list[Opens]] = field(default_factory=dict)
    trials: dict[int, list[Trial]] = field(default_factory=dict)
    strays: list[Stray] = field(default_factory=list)
    conflicts: set[tuple[int, str]] = field(default_factory=set)
    older: set[tuple[int, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        by_key = all(system.store.by_key for system in self.systems.values())
        self.moves = Moves(self.database.clock, by_key, self.held, self.shut_since)

    def raise_violations(self) -> None:
        """Raise what was found. In the controller only."""
        if self.violations:
            raise AssertionError("; ".join(self.violations))

    def wrong(self, what: str) -> None:
        """Keep a violation."""
        self.violations.append(what)

    # --- at each commit

    def committed(self, actor: Actor) -> None:
        """A writing transaction has been committed."""
        with self.database.watch.read() as connection:
            self.look_at_gates(connection)
            self.violations += self.moves.compare(connection, actor)
        flying = Counter(row.gate_id for row in self.moves.syncs.values() if row.state in FLYING)
        for gate_id, busy in flying.items():
            if busy > self.windows[gate_id]:
                self.wrong(
                    f"P1: {busy} in flight at gate {gate_id}, its window is {self.windows[gate_id]} ({actor})"
                )

    def look_at_gates(self, connection: Connection) -> None:
        """Note how the gates stand now."""
        for row in connection.execute(select(gates)):
            history = self.gates.setdefault(row.id, [])
            if not history or history[-1].at != row.opens_at:
                history.append(Opens(self.database.moves, row.opens_at))
            found, trials = breakers.of_row(row), self.trials.setdefault(row.id, [])
            trial = Trial(self.database.moves, found.closed, found.probe)
            if not trials or replace(trials[-1], move=trial.move) != trial:
                trials.append(trial)

    def shut_since(self, gate_id: int, move: int) -> bool:
        """Whether a gate has been shut all the time since a move."""
        now, history = self.database.clock.now, self.gates[gate_id]
        then = [one for one in history if one.move <= move][-1:]
        return all(one.at > now for one in [*then, *(one for one in history if one.move > move)])

    # --- at each request's first byte

    def first_byte(self, request: Request, guarded_at: float, held: tuple[int, int]) -> bool:
        """A request is about to leave. Whether its claim was taken over while its process stood still."""
        sync_id, claim = held
        query = (
            select(steps, syncs.c.claim.label("holder"), syncs.c.gate_id, syncs.c.external_id)
            .join(syncs, steps.c.sync_id == syncs.c.id)
            .where(steps.c.key == request.key, steps.c.sync_id == sync_id)
        )
        with self.database.watch.read() as connection:
            step = connection.execute(query).one_or_none()
        if step is None:
            self.wrong(f"S1: {request.key} was sent before it was recorded")
        elif step.holder != claim:
            if self.database.clock.boot - guarded_at < CALL_SECONDS:
                self.wrong(f"S4: {request.key} was sent by claim {claim}, but is held by {step.holder}")
            looked = step.state == StepState.APPLIED and (
                step.verify_at is None or step.verify_at <= self.database.clock.now
            )
            self.strays.append(Stray(step.gate_id, step.external_id, step.kind, seen=not looked))
            return True
        elif step.state != StepState.INTENDED or step.claim != claim or step.body != request.body:
            self.wrong(f"S1: {request.key} was sent, but what is recorded is {step.state} by claim {step.claim}")
        else:
            self._asked_gate(acting(), step.gate_id, request.key, held)
        return False

    def _asked_gate(self, actor: Actor, gate_id: int, key: str, held: tuple[int, int]) -> None:
        """S5: the transaction before the one that recorded the step read the gate, so it was not shut by then."""
        known = [one for one in actor.transactions if one.committed or not one.writes]
        recorded = max(number for number, one in enumerate(known) if one.writes)
        if self.shut_since(gate_id, known[max(recorded - 1, 0)].began):
            self.wrong(f"S5: {key} was sent although its gate had been shut before")
        self._had_the_place(gate_id, known[max(recorded - 1, 0)].began, key, held)

    def _had_the_place(self, gate_id: int, move: int, key: str, held: tuple[int, int]) -> None:
        """G2: since it asked, the breaker was closed at some time, or this claim had its only place."""
        history = self.trials[gate_id]
        then = [one for one in history if one.move <= move][-1:]
        if not any(
            one.closed or one.probe == held for one in [*then, *(one for one in history if one.move > move)]
        ):
            self.wrong(f"G2: {key} was sent by {held} through a breaker that was not closed, without its place")

    # --- when everything has settled

    def stuck(self) -> list[int]:
        """The held syncs that a person has to release now, each with a reason that the run gave."""
        query = select(syncs).where(syncs.c.state.in_([State.HELD, State.DEAD])).order_by(syncs.c.id)
        with self.database.watch.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            order = (row.gate_id, row.external_id)
            if row.error_class == "Conflict" and self._may_be_two(*order):
                self.conflicts.add(order)
            elif row.error_class == "TotalMismatch" and self._may_be_older(*order):
                self.older.add(order)
            elif row.error_class not in {KILLS_ITS_WORKER, "Rejected"}:
                self.wrong(f"sync {row.id} is {row.state}: {row.error_class}: {row.error_message}")
        return [row.id for row in rows]

    def _may_be_two(self, gate_id: int, external_id: str) -> bool:
        """Two records: only without unique keys, and only if a process stood still between check and write."""
        stray = any((one.gate_id, one.external_id) == (gate_id, external_id) for one in self.strays)
        return stray and not all(system.store.by_key for system in self.systems.values())

    def _may_be_older(self, gate_id: int, external_id: str) -> bool:
        """Older content over newer: only without keys, by an update that left late, and its total tells."""
        late = any(
            (one.gate_id, one.external_id, one.kind) == (gate_id, external_id, "update") for one in self.strays
        )
        return late and not all(system.store.by_key for system in self.systems.values())

    def settled(self) -> bool:
        """Whether no sync has anything left to do."""
        with self.database.watch.read() as connection:
            return (
                connection.execute(select(syncs.c.id).where(syncs.c.state != State.DONE).limit(1)).first() is None
            )

    def end_state(self, system: System, truth: Order, tenant: Tenant) -> None:
        """One order: it is in the management system once, as the shop says, and got there step by step."""
        about = f"{tenant.tenant} {truth.external_id}"
        records = system.of(f"web/{truth.external_id}")
        effects = [one for one in system.effects if one.reference == f"web/{truth.external_id}"]
        strays = [
            one for one in self.strays if (one.gate_id, one.external_id) == (tenant.gate_id, truth.external_id)
        ]
        residual = bool(strays) and not system.store.by_key
        if len(records) > 1 and (not residual or any(one.seen and one.kind == "create" for one in strays)):
            self.wrong(f"{about}: {len(records)} records, and nobody was told")
        credits_ = [credit.key for record in records for credit in record.credits]
        doubled = len(credits_) > len(set(credits_))
        if doubled and (not residual or any(one.seen and one.kind == "credit" for one in strays)):
            self.wrong(f"{about}: a refund was credited twice, and nobody was told: {credits_}")
        keys = [one.key for one in effects]
        quantities = [one.quantity for one in effects if one.kind in {"create", "update"} and not one.stray]
        if not residual and len(keys) != len(set(keys)):
            self.wrong(f"S3: {about}: a step had two effects: {keys}")
        if quantities != sorted(quantities):
            self.wrong(f"{about}: older content over newer: {quantities}")
        if not residual and not (truth.cancelled and not records):
            self._content(about, records, truth)

    def _content(self, about: str, records: list[Record], truth: Order) -> None:
        refunds = sorted(refund.external_id for refund in truth.refunds)
        should = (str(truth.lines[0].quantity), truth.cancelled, refunds)
        found = [
            (
                str(one.body["lines"][0]["quantity"]),
                one.cancelled,
                sorted(credit.key.rpartition("/")[2] for credit in one.credits),
            )
            for one in records
        ]
        if found != [should]:
            self.wrong(f"{about}: acknowledged as {should}, but the management system has {found}")

    def ledger_is_sound(self) -> None:
        """No row in limbo, no failure of our own code."""
        bugs = select(attempts.c.sync_id).where(attempts.c.error_class == "Bug")
        with self.database.watch.read() as connection:
            for finding in audit(connection):
                self.wrong(f"limbo: sync {finding.sync_id} ({finding.state}): {finding.finding}")
            for sync_id in connection.execute(bugs).scalars():
                self.wrong(f"sync {sync_id}: an attempt ended with a Bug")
        for system in self.systems.values():
            for key in system.reused_keys:
                self.wrong(f"S3: {key} was sent again with other bytes")

    def tell(self) -> Counter[str]:
        """What the run has been through: a model that breaks nothing proves nothing."""
        seen = Counter[str]({"runs": 1, "moves": self.database.moves, "strays": len(self.strays)})
        seen["conflicts"], seen["older found out"] = len(self.conflicts), len(self.older)
        for system in self.systems.values():
            seen.update(f"effect {one.kind}" for one in system.effects)
        with self.database.watch.read() as connection:
            seen.update(f"attempt {one}" for one in connection.execute(select(attempts.c.outcome)).scalars())
            seen.update(
                f"attempt {one}" for one in connection.execute(select(attempts.c.error_class)).scalars() if one
            )
            seen["steps in doubt"] = len(connection.execute(select(steps.c.id).where(steps.c.doubts > 0)).all())
            seen["changes of breakers"] = sum(len(one) - 1 for one in self.trials.values())
            seen["sent again"] = len(connection.execute(select(steps.c.id).where(steps.c.sends > 1)).all())
        return seen
