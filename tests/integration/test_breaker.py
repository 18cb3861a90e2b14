"""The breaker in the gate's row: what runs, dispatchers and the scheduler do with it, in turn and at once."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import update

from integrator import breaking, errors, gate
from integrator.breaker import Breaker, BreakerState, Heard, Thresholds
from integrator.clock import EPOCH, after
from integrator.dispatch import Dispatcher
from integrator.documents import Order
from integrator.erps.base import Request
from integrator.errors import IntegratorError
from integrator.ledger import breakers, transitions
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, gates, syncs
from integrator.metrics import BREAKER_CHANGES, meters
from integrator.secrets import KeyRing, new_key
from tasks.scheduler import take_over_expired
from tests.integration.test_sync_task import BOTH, Stage, database, lines, stage
from tests.log_lines import Lines
from tests.support import MemoryShop, deliver, delivery, fail, make_tenant, order, sync_row

__all__ = ["database", "lines", "stage"]

FAILURES = Thresholds().failures
DOWN = "connection refused"


def look(ledger: Ledger, gate_id: int = 1) -> Breaker:
    with ledger.read() as connection:
        return breakers.read(connection, gate_id).breaker


def change(ledger: Ledger, **values: Any) -> None:
    with ledger.write() as connection:
        connection.execute(update(gates).values(**values))


def half_open(ledger: Ledger, **values: Any) -> None:
    """The breaker opened, and its time has passed."""
    opened: dict[str, Any] = {"breaker_state": "open", "breaker_trips": 1, "breaker_until": after(-1)}
    change(ledger, **{**opened, **values})


def changes() -> dict[str, float]:
    return {state: meters().value(BREAKER_CHANGES, state=state) for state in BreakerState}


# One worker


@BOTH
def test_g2_given_failures_in_a_row_when_the_last_comes_then_the_gate_shuts_and_nothing_more_is_called(
    stage: Stage, lines: Lines
) -> None:
    ids = [stage.queue(order(str(number))) for number in range(FAILURES + 2)]
    called: list[Request | None] = []
    before = changes()

    def script(_moment: str, request: Request | None) -> None:
        called.append(request)
        raise errors.Transient(DOWN)

    stage.erp.script = script
    ends = [stage.run(sync_id).state for sync_id in ids]
    assert ends == ["RETRY"] * FAILURES + ["IGNORED"] * 2
    assert len(called) == FAILURES
    rows = [sync_row(stage.ledger, sync_id) for sync_id in ids]
    assert [(row.state, row.attempts) for row in rows] == [(State.RETRYING, 1)] * FAILURES + [
        (State.PENDING, 0)
    ] * 2
    assert (stage.gate().open, stage.gate().cause) == (False, "the system is failing")
    assert changes()[BreakerState.OPEN] == before[BreakerState.OPEN] + 1
    (line,) = lines.named("breaker_opened")
    assert (line["tenant"], line["erp"], line["error_class"], line["reason"]) == (
        "acme",
        "main",
        "Transient",
        DOWN,
    )
    assert line["until"] > "2"
    assert "Nothing" in line["do"]


@BOTH
def test_g2_given_a_half_open_breaker_when_the_probe_is_answered_then_closed_and_the_whole_window_goes(
    stage: Stage, lines: Lines
) -> None:
    ids = [stage.deliver(order(str(number))) for number in range(4)]
    half_open(stage.ledger)
    assert stage.here.dispatcher.dispatch() == 1
    assert stage.here.dispatcher.dispatch() == 0
    assert stage.run(stage.rung[0].sync_id).state == "SUCCESS"
    assert look(stage.ledger).closed
    assert [line["tenant"] for line in lines.named("breaker_closed")] == ["acme"]
    assert stage.here.dispatcher.dispatch() == len(ids) - 1


@BOTH
@pytest.mark.parametrize("error", [errors.Rejected("422"), errors.NotFound("404")])
def test_g2_given_a_half_open_breaker_when_the_probe_is_rejected_then_the_system_is_alive(
    stage: Stage, error: IntegratorError
) -> None:
    half_open(stage.ledger)
    stage.erp.script = fail(error)
    _, row = stage.end()
    assert (row.state, look(stage.ledger).closed) == (State.HELD, True)


@BOTH
def test_g2_given_a_half_open_breaker_when_the_probe_fails_then_open_for_longer_and_no_attempt_burns(
    stage: Stage, lines: Lines
) -> None:
    half_open(stage.ledger, breaker_trips=2)
    stage.erp.script = fail(errors.Transient(DOWN))
    result, row = stage.end()
    assert (result.state, row.state, row.attempts, row.error_class) == ("RETRY", State.PENDING, 0, "Transient")
    found = look(stage.ledger)
    assert (found.state, found.trips, found.probe) == (BreakerState.OPEN, 3, None)
    assert (found.until - found.since).total_seconds() >= 60
    assert [line["in_a_row"] for line in lines.named("breaker_opened")] == [3]


@BOTH
def test_g2_given_the_only_place_is_taken_when_another_sync_is_claimed_then_pending_and_no_attempt(
    stage: Stage,
) -> None:
    first, second = stage.queue(order("1")), stage.queue(order("2"))
    half_open(stage.ledger)
    inner: list[Any] = []

    def script(_moment: str, _request: Request | None) -> None:
        if not inner:
            inner.append(stage.run(second).state)

    stage.erp.script = script
    assert stage.run(first).state == "SUCCESS"
    assert inner == ["IGNORED"]
    assert (sync_row(stage.ledger, second).state, sync_row(stage.ledger, second).claims) == (State.PENDING, 0)


@BOTH
def test_s5_given_a_run_began_while_closed_when_another_tries_the_system_by_then_then_it_makes_no_call(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its breaker opened and turned half open between its claim and its first step."""
    other = stage.queue(order("2"))
    sync_id = stage.queue(order("1"))

    def meanwhile(topic: str, body: bytes) -> Order | None:
        half_open(stage.ledger, probe_sync=other, probe_claim=1, probe_until=after(60))
        return MemoryShop().map(topic, body)

    monkeypatch.setattr(stage.shop, "map", meanwhile)
    result = stage.run(sync_id)
    row = sync_row(stage.ledger, sync_id)
    assert (result.state, row.state, row.attempts, row.error_class) == ("RETRY", State.PENDING, 0, "GateShut")
    assert stage.erp.calls == []
    assert look(stage.ledger).probe == (other, 1)


@BOTH
@pytest.mark.parametrize(
    "error", [errors.NotStarted("x"), errors.Bug("x"), errors.Throttled("x", retry_after_seconds=7)]
)
def test_g2_given_the_probe_heard_nothing_of_the_system_when_it_ends_then_its_place_is_free(
    stage: Stage, error: IntegratorError
) -> None:
    half_open(stage.ledger)
    stage.erp.script = fail(error)
    stage.end()
    found = look(stage.ledger)
    assert (found.state, found.trips, found.probe, found.probe_until) == (BreakerState.HALF_OPEN, 1, None, None)


@BOTH
def test_g2_given_the_probes_worker_vanished_when_taken_over_then_it_counts_as_a_failure(
    stage: Stage, lines: Lines
) -> None:
    sync_id = stage.queue()
    half_open(stage.ledger)
    with stage.ledger.write() as connection:
        won = transitions.claim(connection, "acme", sync_id, worker="w")
        assert won is not None
    with stage.ledger.write() as connection:
        breaking.take_place(connection, stage.world.gate_id, (sync_id, won.claim))
    assert take_over_expired(stage.ledger) == 0
    assert look(stage.ledger).probe == (sync_id, won.claim)
    stage.force(sync_id, lease_until=after(-1))
    assert take_over_expired(stage.ledger) == 1
    found = look(stage.ledger)
    assert (found.state, found.trips, found.probe) == (BreakerState.OPEN, 2, None)
    (line,) = lines.named("breaker_opened")
    assert "taken back" in line["reason"]


@BOTH
def test_g2_given_the_next_run_of_a_sync_has_the_place_when_its_last_one_is_told_of_then_the_place_stays(
    stage: Stage,
) -> None:
    sync_id = stage.queue()
    half_open(stage.ledger)
    with stage.ledger.write() as connection:
        won = transitions.claim(connection, "acme", sync_id, worker="w")
        assert won is not None
    with stage.ledger.write() as connection:
        breaking.take_place(connection, stage.world.gate_id, (sync_id, won.claim))
    before = look(stage.ledger)
    breaking.taken_back(stage.ledger, [sync_id], Heard.VANISHED)
    assert look(stage.ledger) == before


@BOTH
def test_g2_given_the_probe_is_given_back_by_a_worker_that_stops_then_its_place_is_free(stage: Stage) -> None:
    sync_id = stage.queue()
    half_open(stage.ledger)
    probes: list[object] = []

    def script(moment: str, _request: Request | None) -> None:
        if moment == "before":
            probes.append(look(stage.ledger).probe)
            stage.here.give_back()
            probes.append(look(stage.ledger).probe)
            raise errors.Transient("cut")

    stage.erp.script = script
    assert stage.run(sync_id).state == "IGNORED"
    assert probes == [(sync_id, 1), None]
    found = look(stage.ledger)
    assert (found.state, found.trips, found.probe) == (BreakerState.HALF_OPEN, 1, None)
    assert (sync_row(stage.ledger, sync_id).state, sync_row(stage.ledger, sync_id).attempts) == (State.PENDING, 0)


@BOTH
def test_s2_given_a_doubt_that_opens_the_breaker_when_it_would_be_looked_up_at_once_then_the_next_run_looks(
    stage: Stage,
) -> None:
    stage.erp.by_key = False
    half_open(stage.ledger)
    stage.erp.script = fail(errors.Transient("cut", in_doubt=True), when="after")
    _, row = stage.end()
    assert (row.state, row.attempts, stage.steps()) == (State.PENDING, 0, [("create", "in_doubt")])
    assert [what for what, _ in stage.erp.calls] == ["send"]
    change(stage.ledger, breaker_until=after(-1))
    with stage.ledger.write() as connection:
        assert transitions.ring(connection, [row.id])
    assert stage.run(row.id).state == "SUCCESS"
    assert stage.erp.sends() == ["create"]
    assert look(stage.ledger).closed


@BOTH
def test_given_failures_in_a_row_when_a_run_succeeds_then_the_row_has_ended(stage: Stage) -> None:
    change(stage.ledger, breaker_failures=FAILURES - 1)
    stage.end()
    assert look(stage.ledger) == Breaker()


def test_given_a_failure_of_the_shop_or_of_our_own_ledger_when_it_ends_a_run_then_the_breaker_counts_nothing(
    stage: Stage,
) -> None:
    stage.shop.orders = {}
    stage.end(timed=False)
    stage.here.ring = KeyRing((new_key(),))
    stage.end(order("2"))
    assert [error_class for _, error_class in stage.attempts()] == ["NotFound", "Transient"]
    assert look(stage.ledger) == Breaker()


@BOTH
def test_g2_given_a_look_that_fails_when_it_ends_then_it_counts_as_any_call(stage: Stage) -> None:
    stage.erp.by_key = False

    def script(moment: str, _request: Request | None) -> None:
        if moment == "look":
            raise errors.Transient(DOWN)
        if moment == "before":
            raise errors.Transient("cut", in_doubt=True)

    stage.erp.script = script
    stage.end()
    assert look(stage.ledger).failures == 2, "the call, and the look after it"


# What credentials say


def test_f2_given_refused_credentials_when_heard_then_they_count_and_the_log_says_what_to_do(
    stage: Stage, lines: Lines
) -> None:
    stage.erp.script = fail(errors.Unauthorized("401"))
    _, row = stage.end()
    assert (row.state, row.attempts, look(stage.ledger).failures) == (State.PENDING, 0, 1)
    assert (stage.gate().open, stage.gate().cause) == (False, "the credentials were refused")
    (line,) = lines.named("credentials_refused")
    assert (line["tenant"], line["erp"]) == ("acme", "main")
    assert "tenants apply" in line["do"]


def test_f2_given_newer_credentials_meanwhile_when_the_old_are_refused_then_that_says_nothing(
    stage: Stage,
) -> None:
    def script(_moment: str, _request: Request | None) -> None:
        change(stage.ledger, credentials_version=2)
        raise errors.Unauthorized("401")

    half_open(stage.ledger)
    stage.erp.script = script
    stage.end()
    found = look(stage.ledger)
    assert (found.state, found.trips, found.probe) == (BreakerState.HALF_OPEN, 1, None)


# Several at once: each thread is a process of its own to the database


@pytest.fixture
def processes(ledger: Ledger) -> Iterator[list[Ledger]]:
    found = [Ledger(ledger.url.render_as_string(hide_password=False)) for _ in range(6)]
    yield found
    for one in found:
        one.close()


def at_once(processes: list[Ledger], do: Callable[[int, Ledger], object]) -> None:
    """Each does it, all beginning at the same time. What one raises is raised."""
    ready, raised = threading.Barrier(len(processes)), list[BaseException]()

    def run(number: int, ledger: Ledger) -> None:
        try:
            ledger.engine.connect().close()
            ready.wait(20)
            do(number, ledger)
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    threads = [threading.Thread(target=run, args=one) for one in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in raised:
        raise error


def test_g2_given_workers_that_report_at_once_when_they_have_then_every_failure_is_counted_once(
    ledger: Ledger, processes: list[Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaking, "thresholds", lambda: Thresholds(failures=len(processes) * 4))
    make_tenant(ledger)

    def report(number: int, mine: Ledger) -> None:
        for claim in range(4 if number else 3):
            breaking.tell(mine, 1, Heard.FAILED, (number, claim))

    at_once(processes, report)
    assert look(ledger).failures == len(processes) * 4 - 1


def test_g2_given_the_last_failures_come_at_once_when_told_then_it_opens_once(
    ledger: Ledger, processes: list[Ledger]
) -> None:
    make_tenant(ledger)
    change(ledger, breaker_failures=FAILURES - 1)
    told: list[object] = []
    at_once(processes, lambda number, mine: told.append(breaking.tell(mine, 1, Heard.FAILED, (number, 1))))
    assert len([one for one in told if one is not None]) == 1
    assert (look(ledger).state, look(ledger).trips) == (BreakerState.OPEN, 1)


@pytest.mark.parametrize("held", [False, True], ids=["free", "its holder's time has passed"])
def test_g2_given_many_ask_for_the_only_place_at_once_when_answered_then_one_has_it(
    ledger: Ledger, processes: list[Ledger], held: bool
) -> None:
    make_tenant(ledger)
    for _ in range(5):
        old = {"probe_sync": 99, "probe_claim": 1, "probe_until": after(-1)} if held else {}
        half_open(ledger, **{**dict.fromkeys(("probe_sync", "probe_claim", "probe_until")), **old})
        won: list[int] = []

        def ask(number: int, mine: Ledger, won: list[int] = won) -> None:
            with mine.write() as connection:
                taken = breaking.take_place(connection, 1, (number, 1))
            if taken.after.probe == (number, 1):
                won.append(number)

        at_once(processes, ask)
        assert len(won) == 1
        assert look(ledger).probe == (won[0], 1)


def test_g2_given_leftovers_of_a_full_window_when_the_breaker_is_half_open_then_one_of_them_calls_at_a_time(
    ledger: Ledger, processes: list[Ledger]
) -> None:
    """Eight had been rung before it opened; their messages are met once its time has passed."""
    world = make_tenant(ledger)
    kept = deliver(ledger, *(delivery(world, order(str(number))) for number in range(len(processes))))
    ids = [one.sync_id for one in kept if one.sync_id is not None]
    with ledger.write() as connection:
        assert len(transitions.ring(connection, ids)) == len(ids)
    half_open(ledger)
    may: list[int] = []

    def begin(number: int, mine: Ledger) -> None:
        with mine.write() as connection:
            won = transitions.claim(connection, world.tenant, ids[number], worker=str(number))
        if won is not None:
            with mine.write() as connection:
                taken = breaking.take_place(connection, world.gate_id, (won.sync_id, won.claim))
            may.extend([won.sync_id] * (taken.after.probe == (won.sync_id, won.claim)))

    at_once(processes, begin)
    assert len(may) == 1


def test_p1_given_a_breaker_that_is_not_closed_when_its_gate_is_dispatched_then_one_is_in_flight(
    ledger: Ledger,
) -> None:
    world = make_tenant(ledger)
    deliver(ledger, *(delivery(world, order(str(number))) for number in range(3)))
    dispatcher = Dispatcher(ledger, lambda _rung: [])
    half_open(ledger, breaker_until=after(60))
    assert dispatcher.dispatch() == 0
    half_open(ledger)
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [1, 0]
    with ledger.write() as connection:
        connection.execute(update(syncs).values(state=State.DONE, applied=1, queued_at=None, lease_until=None))
        connection.execute(update(syncs).where(syncs.c.id > 1).values(state=State.PENDING, applied=0))
    change(ledger, breaker_state="closed", breaker_until=EPOCH)
    assert dispatcher.dispatch() == 2
    with ledger.read() as connection:
        assert gate.ask(connection, world.gate_id).open
