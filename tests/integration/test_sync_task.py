"""The task `tasks.orders.sync_order`, run here: how each run ends, in the ledger, the gate and Celery."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from celery.signals import task_retry
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from integrator import connectors, errors, gate
from integrator.clock import EPOCH, after
from integrator.documents import Order
from integrator.erps.base import Request
from integrator.errors import IntegratorError, Side
from integrator.lease import LeaseKeeper
from integrator.ledger import transitions
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Rung
from integrator.ledger.schema import State, attempts, gates, steps, syncs
from integrator.retry import decide
from integrator.secrets import KeyRing, key_ring, new_key
from integrator.sync import orders
from integrator.sync import run as sync_run
from tasks import outcome, pool, sync_task
from tasks import process as process_module
from tasks.orders import sync_order
from tasks.process import Process
from tests.log_lines import Lines, log_lines
from tests.support import (
    T0,
    MemoryErp,
    MemoryShop,
    World,
    deliver,
    delivery,
    fail,
    make_tenant,
    order,
    sync_row,
)

PERSONAL = "ana@example.com"


class Clock:
    """The process's clock, which the test moves."""

    at = 1_000.0

    def __call__(self) -> float:
        return self.at


class Fickle(Ledger):
    """A ledger that can't be reached for so many writes."""

    failures = 0

    @contextmanager
    def write(self, *, lock_timeout_ms: int | None = None) -> Iterator[Connection]:
        if self.failures > 0:
            self.failures -= 1
            raise OperationalError("UPDATE", None, Exception(PERSONAL))
        with super().write(lock_timeout_ms=lock_timeout_ms) as connection:
            yield connection


@dataclass
class Stage:
    """A worker process on a ledger, with a shop and a management system in memory."""

    ledger: Fickle
    world: World
    here: Process
    erp: MemoryErp
    shop: MemoryShop
    clock: Clock
    asked: list[int] = field(default_factory=list)
    """The gates for which a dispatch was asked."""
    rung: list[Rung] = field(default_factory=list)
    asked_later: list[tuple[int, float]] = field(default_factory=list)
    """Those for which one was asked some seconds later."""

    def ask(self, gate_id: int, after_seconds: float = 0.0) -> None:
        if after_seconds:
            self.asked_later.append((gate_id, after_seconds))
        else:
            self.asked.append(gate_id)

    def deliver(self, document: Order | None = None, *, timed: bool = True) -> int:
        (kept,) = deliver(self.ledger, delivery(self.world, document or order(), timed=timed))
        assert kept.sync_id is not None
        return kept.sync_id

    def queue(self, document: Order | None = None, *, timed: bool = True) -> int:
        """Deliver an order and ring for it; the sync's id."""
        sync_id = self.deliver(document, timed=timed)
        self.force(sync_id, due_at=after(-1))
        with self.ledger.write() as connection:
            assert transitions.ring(connection, [sync_id])
        return sync_id

    def run(self, sync_id: int, *, tenant: str = "acme", **more: Any) -> Any:
        """Run the task as for a message; Celery's view of the end."""
        return sync_order.apply(args=(tenant, sync_id), kwargs=more, task_id=f"{sync_id}:1")

    def end(self, document: Order | None = None, **kwargs: Any) -> tuple[Any, Any]:
        """Queue an order and run its task; the row and Celery's view."""
        sync_id = self.queue(document, **kwargs)
        return self.run(sync_id), sync_row(self.ledger, sync_id)

    def force(self, sync_id: int, **values: Any) -> None:
        with self.ledger.write() as connection:
            connection.execute(update(syncs).where(syncs.c.id == sync_id).values(**values))

    def attempts(self) -> list[tuple[str | None, str | None]]:
        with self.ledger.read() as connection:
            rows = connection.execute(select(attempts.c.outcome, attempts.c.error_class).order_by(attempts.c.id))
            return [tuple(row) for row in rows]

    def steps(self) -> list[tuple[str, str]]:
        with self.ledger.read() as connection:
            return [
                tuple(row) for row in connection.execute(select(steps.c.kind, steps.c.state).order_by(steps.c.id))
            ]

    def gate(self) -> gate.Gate:
        with self.ledger.read() as connection:
            return gate.ask(connection, self.world.gate_id)

    def take_over(self, sync_id: int) -> None:
        """The lease ended and the scheduler took the sync over."""
        self.force(sync_id, lease_until=after(-1))
        with self.ledger.write() as connection:
            assert transitions.take_over(connection, 0.5)

    def applied_once(self, minute: int = 5) -> Order:
        """Bring the order into the system; a later version that needs an update and a cancellation."""
        _, row = self.end()
        assert row.state == State.DONE
        later = self.shop.orders["1001"] = order(minute=minute, quantity=2, cancelled=True)
        return later

    def clean(self) -> bool:
        with self.ledger.read() as connection:
            return audit(connection) == []


BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"])
"""The transitions are held on both databases elsewhere; here it is where a run's transactions meet others."""


@pytest.fixture
def database() -> str:
    return "sqlite"


@pytest.fixture
def stage(database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    ledger: Ledger = request.getfixturevalue(f"{database}_ledger")
    fickle, clock = Fickle(ledger.url.render_as_string(hide_password=False)), Clock()
    made: list[Stage] = []

    def publish(rung: list[Rung]) -> list[Rung]:
        made[0].rung += rung
        return []

    here = Process(fickle, key_ring(), publish)
    here.leases = LeaseKeeper(fickle, clock=clock)
    monkeypatch.setattr(LeaseKeeper, "_run", lambda _self: None)
    made.append(Stage(fickle, make_tenant(ledger), here, MemoryErp(), MemoryShop(), clock))
    monkeypatch.setattr(here.dispatcher, "request", made[0].ask)
    monkeypatch.setattr(sync_task, "process", lambda: here)
    monkeypatch.setattr(sync_task, "boottime", clock)
    monkeypatch.setattr(connectors, "erp", lambda _kind: made[0].erp)
    monkeypatch.setattr(connectors, "shop", lambda _platform: made[0].shop)
    monkeypatch.setattr(sync_run, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(sync_task, "CLAIM_RETRY_SECONDS", 0.01)
    yield made[0]
    assert here.leases.held() == []
    fickle.close()


@pytest.fixture
def lines() -> Iterator[Lines]:
    with log_lines("INFO") as written:
        yield written


def said(result: Any) -> str:
    """All that Celery knows of the end, as it would log or send it."""
    cause = getattr(result.result, "exc", None)
    return f"{result.result!r} {result.result} {cause!r} {result.traceback}"


def fingerprint(error: IntegratorError) -> str:
    return f"{error.error_class} {error.fingerprint}"


@BOTH
def test_given_a_new_order_when_run_then_done_and_success(stage: Stage) -> None:
    result, row = stage.end()
    assert (result.state, row.state, row.reason, row.applied) == ("SUCCESS", State.DONE, "created", 1)
    assert stage.attempts() == [("done", None)]
    assert list(stage.erp.records) == ["SO1"]
    assert stage.clean()


# How each class of error ends (F1, F2, F3)

HELD = [
    errors.Rejected("the period is closed", subject="422 closed", detail=PERSONAL),
    errors.Unmapped("no SKU MUG", subject="sku MUG", detail=PERSONAL),
    errors.TotalMismatch("0.01 off", subject="total", detail=PERSONAL),
    errors.NotFound("SO1 is gone", subject="order", detail=PERSONAL),
    errors.Conflict("two records", subject="two", detail=PERSONAL),
]


@pytest.mark.parametrize("error", HELD, ids=lambda error: error.error_class)
def test_f1_given_what_only_a_person_can_mend_when_run_then_held_and_failure(
    stage: Stage, lines: Lines, error: IntegratorError
) -> None:
    stage.erp.script = fail(error)
    result, row = stage.end()
    assert (result.state, row.state) == ("FAILURE", State.HELD)
    assert isinstance(result.result, outcome.Held)
    assert str(result.result) == fingerprint(error)
    assert (row.error_class, row.error_message, row.error_detail) == (error.error_class, error.message, PERSONAL)
    assert row.error_remedy
    assert stage.attempts() == [("held", error.error_class)]
    assert stage.steps() == [("create", "refused")]
    assert stage.gate().open
    assert PERSONAL not in said(result) + str(lines())
    assert stage.clean()


@dataclass(frozen=True)
class Case:
    """An error that runs again, and what becomes of the sync and its gate."""

    error: IntegratorError
    state: State
    burnt: tuple[int, int] = (0, 0)
    """Attempts and refusals for haste."""
    shut: str | None = None
    due_within: tuple[float, float] = (-5, 2.1)


AGAIN = [
    Case(errors.Transient("503", subject="x", detail=PERSONAL), State.RETRYING, (1, 0)),
    Case(errors.Transient("cut", in_doubt=True, detail=PERSONAL), State.RETRYING, (1, 0)),
    Case(
        errors.Throttled("429", retry_after_seconds=60),
        State.RETRYING,
        (0, 1),
        "the system asked to wait",
        (55, 61),
    ),
    Case(errors.Throttled("429"), State.RETRYING, (0, 1), "the system asked to wait"),
    Case(errors.Unauthorized("401", detail=PERSONAL), State.PENDING, (0, 0), "the credentials were refused"),
    Case(errors.Bug("our mistake"), State.RETRYING, (1, 0)),
    Case(errors.NotStarted("no time left"), State.PENDING, (1, 0)),
]


@pytest.mark.parametrize("case", AGAIN, ids=lambda case: case.error.error_class)
def test_f1_f3_given_what_may_pass_when_run_then_it_runs_again_and_celery_shows_retry(
    stage: Stage, lines: Lines, case: Case
) -> None:
    stage.erp.script = fail(case.error)
    result, row = stage.end()
    assert (result.state, row.state) == ("RETRY", case.state)
    assert (row.attempts, row.throttled) == case.burnt
    assert row.error_class == case.error.error_class
    wait = (row.due_at - datetime.now(UTC)).total_seconds()
    assert case.due_within[0] <= wait <= case.due_within[1]
    assert stage.attempts() == [("retrying" if case.state is State.RETRYING else "released", row.error_class)]
    assert stage.gate().cause == case.shut
    assert str(result.result) == "runs again later"
    assert repr(result.result.exc) == f"RetryLater({fingerprint(case.error)!r})"
    assert isinstance(result.result.when, int | float)
    assert result.result.sig is None
    assert PERSONAL not in said(result) + str(lines())
    assert stage.clean()


def test_f3_given_a_retry_when_shown_then_nothing_was_published_but_bells(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_order.app, "send_task", lambda *_a, **_k: pytest.fail("published"))
    monkeypatch.setattr(type(sync_order.app.amqp), "send_task_message", lambda *_a, **_k: pytest.fail("published"))
    stage.erp.script = fail(errors.Transient("503"))
    assert stage.end()[0].state == "RETRY"


def test_f3_given_a_retry_when_it_is_over_then_no_copy_of_its_traceback_is_left(stage: Stage) -> None:
    told: list[Any] = []

    def hear(einfo: Any, **_: Any) -> None:
        told.append((bool(einfo.traceback), einfo.tb))

    task_retry.connect(hear)
    try:
        stage.erp.script = fail(errors.Transient("503"))
        assert stage.end()[0].state == "RETRY"
    finally:
        task_retry.disconnect(hear)
    assert told == [(True, None)]


def test_f1_given_our_own_bug_when_it_fails_a_third_time_then_held(stage: Stage) -> None:
    stage.erp.script = fail(errors.Bug("our mistake"), times=9)
    sync_id = stage.deliver()
    seen = []
    for _ in range(3):
        stage.force(sync_id, due_at=after(-1))
        with stage.ledger.write() as connection:
            transitions.ring(connection, [sync_id])
        result = stage.run(sync_id)
        seen.append((result.state, sync_row(stage.ledger, sync_id).state))
    assert seen == [("RETRY", State.RETRYING)] * 2 + [("FAILURE", State.HELD)]


@BOTH
@pytest.mark.parametrize(("neighbour_done", "state"), [(True, State.HELD), (False, State.RETRYING)])
def test_f1_given_twenty_refusals_in_a_row_when_neighbours_succeed_then_held(
    stage: Stage, neighbour_done: bool, state: State
) -> None:
    sync_id, neighbour = stage.queue(), stage.queue(order("2"))
    stage.force(sync_id, throttled=19)

    def script(_moment: str, request: Request | None) -> None:
        if request is not None and "/1001/" in request.key:
            if neighbour_done:
                assert stage.run(neighbour).state == "SUCCESS"
            raise errors.Throttled("429")

    stage.erp.script = script
    stage.run(sync_id)
    assert sync_row(stage.ledger, sync_id).state == state


@pytest.mark.parametrize(
    ("raised", "state", "celery"),
    [
        (errors.Unauthorized("401"), State.PENDING, "RETRY"),
        (errors.Throttled("429", retry_after_seconds=30), State.RETRYING, "RETRY"),
        (errors.Transient("503"), State.RETRYING, "RETRY"),
        (errors.NotFound("gone", subject="order"), State.HELD, "FAILURE"),
    ],
    ids=lambda given: getattr(given, "error_class", None),
)
def test_given_a_failure_of_the_shop_when_run_then_the_systems_gate_stays_open(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, raised: IntegratorError, state: State, celery: str
) -> None:
    def fetch(_access: Any, _external_id: str) -> Order:
        raise raised

    monkeypatch.setattr(stage.shop, "fetch_order", fetch)
    result, row = stage.end(timed=False)
    assert (result.state, row.state) == (celery, state)
    assert raised.side is Side.SHOP
    assert stage.gate().open
    assert row.attempts == int(isinstance(raised, errors.Transient))
    if isinstance(raised, errors.Unauthorized):
        assert 890 < (row.due_at - datetime.now(UTC)).total_seconds() < 901


def test_given_an_exception_that_nobody_expected_when_run_then_a_bug_without_its_text(
    stage: Stage, lines: Lines
) -> None:
    def script(_moment: str, _request: Request | None) -> None:
        raise RuntimeError(PERSONAL)

    stage.erp.script = script
    result, row = stage.end()
    assert (result.state, row.state, row.error_class) == ("RETRY", State.RETRYING, "Bug")
    assert stage.steps() == [("create", "in_doubt")]
    assert PERSONAL not in said(result) + str(lines()) + str(row)
    assert "RuntimeError" in {line.get("exception") for line in lines()}


def test_given_a_mapping_that_breaks_when_run_then_a_bug_and_no_step(stage: Stage, lines: Lines) -> None:
    stage.shop.map = lambda _topic, _body: int(PERSONAL)  # type: ignore[method-assign, assignment, return-value]
    result, row = stage.end()
    assert (result.state, row.error_class, row.error_message) == (
        "RETRY",
        "Bug",
        "The run failed with ValueError.",
    )
    assert stage.steps() == []
    assert PERSONAL not in said(result) + str(lines())


def test_given_a_run_that_returns_without_finishing_when_it_ends_then_a_bug(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "converge", lambda *_: None)
    result, row = stage.end()
    assert (result.state, row.state, row.error_class) == ("RETRY", State.RETRYING, "Bug")
    assert stage.clean()


def test_given_a_key_ring_that_opens_nothing_when_run_then_it_runs_again_and_says_so(stage: Stage) -> None:
    stage.here.ring = KeyRing((new_key(),))
    result, row = stage.end()
    assert (result.state, row.error_class) == ("RETRY", "Transient")
    assert "INTEGRATOR_SECRET_KEYS" in row.error_message


def test_f2_given_credentials_on_trial_when_a_run_succeeds_then_the_cause_is_cleared(stage: Stage) -> None:
    sync_id = stage.queue()
    with stage.ledger.write() as connection:
        connection.execute(update(gates).values(credentials_until=after(-1)))
    assert stage.run(sync_id).state == "SUCCESS"
    with stage.ledger.read() as connection:
        assert connection.execute(select(gates.c.credentials_until)).scalar_one() == EPOCH


@pytest.mark.parametrize(("error", "taken"), [(errors.Rejected("422"), True), (errors.Transient("down"), False)])
def test_f2_given_credentials_on_trial_when_a_run_fails_then_only_an_answer_that_took_them_ends_the_trial(
    stage: Stage, error: errors.IntegratorError, taken: bool
) -> None:
    sync_id = stage.queue()
    with stage.ledger.write() as connection:
        connection.execute(update(gates).values(credentials_until=after(-1)))
    stage.erp.script = fail(error)
    stage.run(sync_id)
    with stage.ledger.read() as connection:
        until = connection.execute(select(gates.c.credentials_until)).scalar_one()
    assert (until == EPOCH) is taken


@BOTH
def test_f2_given_newer_credentials_meanwhile_when_the_old_are_refused_then_the_gate_stays_open(
    stage: Stage,
) -> None:
    def script(_moment: str, _request: Request | None) -> None:
        with stage.ledger.write() as connection:
            connection.execute(update(gates).values(credentials_version=2))
        raise errors.Unauthorized("401")

    stage.erp.script = script
    result, row = stage.end()
    assert (result.state, row.state, row.attempts, stage.gate().open) == ("RETRY", State.PENDING, 0, True)


# The claim (C1, C6, C7)


@BOTH
def test_c1_given_nothing_to_claim_when_run_then_ignored_and_nothing_changes(stage: Stage) -> None:
    sync_id = stage.deliver()
    before = sync_row(stage.ledger, sync_id)
    assert stage.run(sync_id).state == "IGNORED"
    queued = stage.queue(order("2"))
    assert stage.run(queued, tenant="globex").state == "IGNORED"
    assert stage.run(12_345).state == "IGNORED"
    assert sync_row(stage.ledger, sync_id) == before
    assert sync_row(stage.ledger, queued).state == State.QUEUED
    assert (stage.attempts(), stage.erp.calls) == ([], [])


def test_c1_given_a_message_twice_when_run_then_the_second_is_ignored(stage: Stage) -> None:
    sync_id = stage.queue()
    assert [stage.run(sync_id).state, stage.run(sync_id).state] == ["SUCCESS", "IGNORED"]
    assert stage.erp.sends() == ["create"]


def test_c6_given_a_ledger_that_is_away_when_run_then_it_waits_and_claims(stage: Stage) -> None:
    sync_id = stage.queue()
    stage.ledger.failures = 3
    assert stage.run(sync_id).state == "SUCCESS"
    assert stage.ledger.failures == 0


@pytest.mark.parametrize("why", ["a minute passed", "draining"])
def test_c6_given_a_ledger_that_stays_away_when_time_is_up_then_retry_and_the_bell_stands(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, lines: Lines, why: str
) -> None:
    sync_id = stage.queue()
    stage.ledger.failures = 1_000
    if why == "draining":
        stage.here.leases.drain(20)
    else:
        monkeypatch.setattr(time, "sleep", lambda _s: setattr(stage.clock, "at", stage.clock.at + 7))
    result = stage.run(sync_id)
    tried = 1_000 - stage.ledger.failures
    assert (result.state, tried) == ("RETRY", 1 if why == "draining" else 10)
    stage.ledger.failures = 0
    assert sync_row(stage.ledger, sync_id).state == State.QUEUED
    assert PERSONAL not in said(result) + str(lines())


def test_c7_given_a_newer_versions_message_when_run_then_what_it_says_besides_is_passed_over(stage: Stage) -> None:
    assert stage.run(stage.queue(), trace_parent="00-abc", priority=3).state == "SUCCESS"


def test_given_a_task_that_breaks_outside_its_run_when_celery_sees_it_then_a_class_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    def claim(*_args: Any, **_kwargs: Any) -> None:
        raise IntegrityError("UPDATE", {"x": PERSONAL}, Exception(f"Key (email)=({PERSONAL}) exists"))

    monkeypatch.setattr(transitions, "claim", claim)
    result = stage.run(stage.queue())
    assert (result.state, repr(result.result)) == ("FAILURE", "Broken('IntegrityError')")
    assert result.result.__cause__ is result.result.__context__ is None
    assert PERSONAL not in said(result) + str(lines())
    assert "IntegrityError" in [line.get("exception") for line in lines()]


def test_given_two_runs_that_end_alike_when_shown_then_each_has_an_exception_of_its_own(stage: Stage) -> None:
    """One instance raised twice would grow a traceback, and keep the first run's frames alive."""
    first, second = stage.run(12_345), stage.run(12_345)
    assert first.result is not second.result
    sync_id = stage.queue()
    stage.erp.script = lambda *_: stage.take_over(sync_id)
    ended = stage.run(sync_id)
    stage.erp.script = lambda *_: None
    assert ended.result is not first.result


# Losing the lease, the gate, the time or the ledger (C2, C3, S4, S5)


@BOTH
def test_c2_given_a_lease_lost_between_two_steps_when_run_on_then_no_further_effect_and_no_write(
    stage: Stage,
) -> None:
    cancelled = stage.applied_once()
    sync_id = stage.queue(cancelled)
    stage.erp.script = lambda moment, _r: stage.take_over(sync_id) if moment == "after" else None
    result = stage.run(sync_id)
    assert result.state == "IGNORED"
    assert stage.erp.sends() == ["create", "update/1"]
    row = sync_row(stage.ledger, sync_id)
    assert (row.state, row.vanished, row.attempts, row.error_class) == (State.PENDING, 1, 0, None)
    assert stage.attempts() == [("done", None), ("vanished", None)]
    assert stage.steps() == [("create", "applied"), ("update", "intended")]
    assert stage.clean()


@pytest.mark.parametrize("error", [HELD[0], AGAIN[0].error, AGAIN[2].error], ids=lambda error: error.error_class)
def test_c2_given_a_lease_lost_when_the_run_fails_then_the_failure_is_not_written(
    stage: Stage, error: IntegratorError
) -> None:
    sync_id = stage.queue()

    def script(_moment: str, _request: Request | None) -> None:
        stage.take_over(sync_id)
        raise error

    stage.erp.script = script
    assert stage.run(sync_id).state == "IGNORED"
    row = sync_row(stage.ledger, sync_id)
    assert (row.state, row.error_class, row.throttled) == (State.PENDING, None, 0)


def test_s4_given_a_lease_that_the_ledger_denies_when_a_call_would_start_then_it_does_not(stage: Stage) -> None:
    cancelled = stage.applied_once()
    sync_id = stage.queue(cancelled)

    def script(moment: str, _request: Request | None) -> None:
        if moment == "before":
            (pair,) = stage.here.leases.held()
            stage.here.leases._held[pair].lose()

    stage.erp.script = script
    assert stage.run(sync_id).state == "IGNORED"
    assert stage.erp.sends() == ["create", "update/1"]


@BOTH
def test_s5_given_a_gate_that_shuts_between_two_steps_when_run_on_then_pending_and_what_was_done_stays(
    stage: Stage,
) -> None:
    cancelled = stage.applied_once()

    def script(moment: str, _request: Request | None) -> None:
        if moment == "after":
            with stage.ledger.write() as connection:
                gate.pause(connection, [stage.world.gate_id])

    stage.erp.script = script
    result, row = stage.end(cancelled)
    assert (result.state, row.state, row.attempts, row.error_class) == ("RETRY", State.PENDING, 0, "GateShut")
    assert stage.steps() == [("create", "applied"), ("update", "applied")]
    assert stage.attempts()[-1] == ("released", "GateShut")
    stage.erp.script = lambda *_: None
    with stage.ledger.write() as connection:
        gate.resume(connection, [stage.world.gate_id])
        assert transitions.ring(connection, [row.id])
    assert stage.run(row.id).state == "SUCCESS"
    assert stage.erp.sends() == ["create", "update/1", "cancel"]


@pytest.mark.parametrize(
    ("cancelled", "draining", "burnt", "sends"),
    [(True, False, 0, ["create", "update/1"]), (False, False, 1, []), (False, True, 0, [])],
    ids=["a step was applied", "nothing was applied", "the process drains"],
)
def test_c3_given_a_run_whose_time_is_up_when_a_call_would_start_then_pending(
    stage: Stage, cancelled: bool, draining: bool, burnt: int, sends: list[str]
) -> None:
    if cancelled:
        document = stage.applied_once()
        stage.erp.script = lambda *_: setattr(stage.clock, "at", stage.clock.at + 80)
        sync_id = stage.queue(document)
    else:
        document = order()
        sync_id = stage.queue(document, timed=False)

        def fetch(_access: Any, _id: str) -> Order:
            if draining:
                stage.here.leases.drain(10)
            else:
                stage.clock.at += 80
            return document

        stage.shop.fetch_order = fetch  # type: ignore[method-assign, assignment]
    result, row = stage.run(sync_id), sync_row(stage.ledger, sync_id)
    assert (result.state, row.state, row.attempts) == ("RETRY", State.PENDING, burnt)
    assert row.error_class == "NotStarted"
    assert stage.erp.sends() == sends
    assert stage.asked == ([] if draining else [stage.world.gate_id] * (2 if cancelled else 1))
    assert stage.clean()


def test_c3_given_renewals_when_ninety_seconds_pass_then_no_call_starts(stage: Stage) -> None:
    cancelled = stage.applied_once()

    def script(moment: str, _request: Request | None) -> None:
        if moment == "after":
            for _ in range(8):
                stage.clock.at += 10
                stage.here.leases.renew_all()

    stage.erp.script = script
    result, row = stage.end(cancelled)
    assert (result.state, row.state, row.error_class) == ("RETRY", State.PENDING, "NotStarted")
    assert stage.erp.sends() == ["create", "update/1"]


def test_given_a_ledger_that_is_away_for_a_moment_when_a_step_is_written_then_written_again(stage: Stage) -> None:
    def script(moment: str, _request: Request | None) -> None:
        stage.ledger.failures = 3 if moment == "after" else 0

    stage.erp.script = script
    result, row = stage.end()
    assert (result.state, row.state, stage.steps()) == ("SUCCESS", State.DONE, [("create", "applied")])
    assert stage.erp.sends() == ["create"]


@pytest.mark.parametrize("error", [HELD[0], AGAIN[0].error, AGAIN[2].error], ids=lambda error: error.error_class)
def test_given_a_ledger_that_is_away_for_a_moment_when_the_outcome_is_written_then_written_again(
    stage: Stage, error: IntegratorError, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = decide

    def then_down(*args: Any, **kwargs: Any) -> Any:
        stage.ledger.failures = 3
        return really(*args, **kwargs)

    monkeypatch.setattr(outcome, "decide", then_down)
    stage.erp.script = fail(error)
    result, row = stage.end()
    assert result.state in {"FAILURE", "RETRY"}
    assert row.error_class == error.error_class


@BOTH
def test_given_a_ledger_that_stays_away_when_the_lease_ends_then_the_sync_is_left_to_the_scheduler(
    stage: Stage, lines: Lines
) -> None:
    def script(moment: str, _request: Request | None) -> None:
        if moment == "after":
            stage.ledger.failures, stage.clock.at = 1_000, stage.clock.at + 31

    stage.erp.script, stage.shop.orders["1001"] = script, order()
    sync_id = stage.queue()
    result = stage.run(sync_id)
    assert (result.state, stage.ledger.failures) == ("IGNORED", 998), "one try for the step, one for the outcome"
    stage.ledger.failures = 0
    assert sync_row(stage.ledger, sync_id).state == State.RUNNING
    assert lines.named("outcome_not_written")
    stage.take_over(sync_id)
    stage.erp.script = lambda *_: None
    stage.force(sync_id, due_at=after(-1))
    with stage.ledger.write() as connection:
        transitions.ring(connection, [sync_id])
    assert stage.run(sync_id).state == "SUCCESS"
    assert len(stage.erp.records) == 1, "repeated under its key"


def test_given_a_failure_after_the_finish_when_run_then_the_sync_stays_done(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_id = stage.queue()
    with stage.ledger.write() as connection:
        connection.execute(update(gates).values(credentials_until=after(-1)))

    def accept(*_args: Any) -> None:
        raise ZeroDivisionError(PERSONAL)

    monkeypatch.setattr(gate, "accept_credentials", accept)
    assert stage.run(sync_id).state == "IGNORED"
    assert sync_row(stage.ledger, sync_id).state == State.DONE


# After the run (C5, D1) and the log


@pytest.mark.parametrize("error", [None, HELD[0], AGAIN[0].error], ids=["done", "held", "retrying"])
def test_c5_given_work_that_waits_when_a_run_ends_then_its_gate_is_dispatched(
    stage: Stage, error: IntegratorError | None
) -> None:
    with stage.ledger.write() as connection:
        connection.execute(update(gates).values(window_cap=1))
    sync_id, waiting = stage.queue(), stage.deliver(order("2"))
    if error is not None:
        stage.erp.script = fail(error)
    stage.erp.script, then = (lambda *given: (then(*given), stage.here.dispatcher.dispatch())[0]), stage.erp.script
    stage.run(sync_id)
    assert (stage.asked, stage.rung) == ([stage.world.gate_id], []), "no place was free before the end"
    stage.here.dispatcher.dispatch(stage.asked)
    assert [one.sync_id for one in stage.rung] == [waiting]


@BOTH
def test_c5_given_a_newer_version_during_the_run_when_it_ends_then_it_is_rung_again(stage: Stage) -> None:
    sync_id, newer = stage.queue(), order(minute=1, quantity=3)

    def script(moment: str, _request: Request | None) -> None:
        if moment == "after" and sync_row(stage.ledger, sync_id).wanted == 1:
            stage.deliver(newer)

    stage.erp.script = script
    assert stage.run(sync_id).state == "SUCCESS"
    stage.here.dispatcher.dispatch(stage.asked)
    assert [(one.sync_id, one.wanted) for one in stage.rung] == [(sync_id, 2)]
    assert stage.run(sync_id).state == "SUCCESS"
    assert stage.erp.records["SO1"].body["lines"][0]["quantity"] == "3"
    assert sync_row(stage.ledger, sync_id).seen_updated_at == newer.updated_at != T0


def test_given_a_run_when_it_logs_then_each_line_has_the_orders_correlation_id_and_the_next_run_not(
    stage: Stage, lines: Lines
) -> None:
    stage.erp.script = fail(errors.Transient("503"))
    _, row = stage.end()
    mine = [line for line in lines() if line.get("sync_id") == row.id]
    ending = "Task tasks.orders.sync_order[1:1] retry: runs again later"
    assert {line["event"] for line in mine} >= {"run_ended", ending}
    named = {(line["correlation_id"], line["external_id"], line["tenant"]) for line in mine}
    assert named == {(row.correlation_id, "1001", "acme")}
    (ended,) = lines.named("run_ended")
    assert (ended["error_class"], ended["reason"], ended["side"], ended["claim"]) == ("Transient", "503", "erp", 1)
    stage.run(12_345)
    (nothing,) = lines.named("nothing_to_claim")
    assert (nothing["sync_id"], "correlation_id" in nothing, "external_id" in nothing) == (12_345, False, False)


def test_given_a_bell_for_what_is_done_when_it_logs_then_with_the_orders_correlation_id(
    stage: Stage, lines: Lines
) -> None:
    _, row = stage.end()
    (applied,) = lines.named("step_applied")
    assert (applied["kind"], applied["external_id"]) == ("create", "1001")
    stage.run(row.id)
    (nothing,) = lines.named("nothing_to_claim")
    assert (nothing["correlation_id"], nothing["external_id"]) == (row.correlation_id, "1001")
    stage.run(row.id, tenant="globex")
    assert "correlation_id" not in lines.named("nothing_to_claim")[1], "another tenant's message learns nothing"


def test_given_a_ledger_that_is_away_when_it_is_reached_then_a_line_ties_the_wait_to_the_order(
    stage: Stage, lines: Lines
) -> None:
    sync_id = stage.queue()
    stage.ledger.failures = 2
    stage.run(sync_id)
    assert [line["sync_id"] for line in lines.named("claim_failed")] == [sync_id] * 2
    (reached,) = lines.named("ledger_reached")
    row = sync_row(stage.ledger, sync_id)
    assert (reached["sync_id"], reached["correlation_id"], reached["claimed"]) == (
        sync_id,
        row.correlation_id,
        True,
    )


def test_given_an_error_whose_sentence_names_a_person_when_it_logs_then_the_address_is_hidden(
    stage: Stage, lines: Lines
) -> None:
    stage.erp.script = fail(errors.Rejected(f"<{PERSONAL}> is blocked; {'x' * 400}"))
    _, row = stage.end()
    (ended,) = lines.named("run_ended")
    assert ended["reason"].startswith("<…> is blocked; xxx")
    assert len(ended["reason"]) <= 300
    assert PERSONAL in row.error_message, "the ledger keeps it as it was"


@BOTH
def test_given_a_process_that_gives_back_when_its_run_goes_on_then_it_is_fenced_off(
    stage: Stage, lines: Lines
) -> None:
    sync_id = stage.queue()

    def script(moment: str, _request: Request | None) -> None:
        if moment == "before":
            stage.here.give_back()

    stage.erp.script = script
    assert stage.run(sync_id).state == "IGNORED"
    row = sync_row(stage.ledger, sync_id)
    assert (row.state, row.attempts, row.vanished) == (State.PENDING, 0, 0)
    assert stage.attempts() == [("released", None)]
    (given,) = lines.named("sync_given_back")
    assert (given["sync_id"], given["correlation_id"]) == (sync_id, row.correlation_id)


@pytest.mark.parametrize(("failures", "state"), [(0, State.PENDING), (1, State.QUEUED)])
def test_p6_given_bells_that_did_not_start_when_the_pool_closes_then_pending_or_left_to_the_scheduler(
    stage: Stage, lines: Lines, monkeypatch: pytest.MonkeyPatch, failures: int, state: State
) -> None:
    monkeypatch.setattr(process_module, "process", lambda: stage.here)
    sync_id = stage.queue()
    pool.give_back([])
    stage.ledger.failures = failures
    pool.give_back([("acme", sync_id)])
    assert (sync_row(stage.ledger, sync_id).state, stage.ledger.failures) == (state, 0)
    told = lines.named("bells_not_given_back" if failures else "bells_given_back")
    assert [line["count"] for line in told] == [1]


def test_given_a_ledger_that_is_away_when_giving_back_then_it_is_left_to_the_scheduler(stage: Stage) -> None:
    sync_id = stage.queue()

    def script(moment: str, _request: Request | None) -> None:
        if moment == "before":
            stage.ledger.failures = 1
            stage.here.give_back()

    stage.erp.script = script
    assert stage.run(sync_id).state == "SUCCESS"
