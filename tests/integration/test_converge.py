"""One order converges: every way in which a step can end, on both databases and both kinds of systems."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import InternalError, TimeoutError  # noqa: A004

from integrator import errors, gate
from integrator.clock import after, boottime
from integrator.documents import Money, Order, PaymentState
from integrator.erps.base import ErpAccess, Request
from integrator.errors import Settling, Transient
from integrator.http import Http
from integrator.lease import Lease
from integrator.ledger import access, transitions
from integrator.ledger.audit import audit
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, attempts, deliveries, steps, syncs
from integrator.limits import Limiter
from integrator.secrets import key_ring
from integrator.shops.base import ShopAccess
from integrator.sync.orders import converge
from integrator.sync.run import Run
from integrator.sync.sides import ErpSide, ShopSide
from tests.support import (
    MemoryErp,
    MemoryShop,
    World,
    as_of,
    deliver,
    delivery,
    fail,
    make_tenant,
    moved,
    order,
    refund,
    sync_row,
)

IN_DOUBT = Transient("cut", in_doubt=True)


@dataclass
class Bench:
    """One tenant's order at work: deliver, then run claims one after another."""

    ledger: Ledger
    world: World
    erp: MemoryErp = field(default_factory=MemoryErp)
    shop: MemoryShop = field(default_factory=MemoryShop)

    def deliver(self, document: Order, *, timed: bool = True) -> int:
        (accepted,) = deliver(self.ledger, delivery(self.world, document, timed=timed))
        assert accepted.sync_id is not None
        return accepted.sync_id

    @contextmanager
    def claimed(self, sync_id: int) -> Iterator[Run]:
        """Ring and claim the sync, whatever it waits for."""
        with self.ledger.write() as connection:
            connection.execute(update(syncs).where(syncs.c.id == sync_id).values(due_at=after(-1)))
            assert transitions.ring(connection, [sync_id])
            won = transitions.claim(connection, self.world.tenant, sync_id, worker="w")
            assert won is not None
        with self.ledger.read() as connection:
            assignment = access.assignment(connection, sync_id, key_ring())
        yield Run(self.ledger, assignment, won, Lease(won, boottime()), Limiter(self.ledger, None))

    def run(self, sync_id: int) -> Run:
        """One claim's run, to its end or its error."""
        with self.claimed(sync_id) as run:
            self.converge(run)
        return run

    def converge(self, run: Run) -> None:
        http = Http("http://memory.invalid", guard=run.lease.guard)
        shop = ShopSide(self.shop, ShopAccess({}, {}, http))
        converge(run, shop, ErpSide(self.erp, ErpAccess({}, {}, http)))

    def fails(self, sync_id: int, error: type[errors.IntegratorError], match: str | None = None) -> Any:
        """A run that fails, given back without burning anything."""
        with self.claimed(sync_id) as run, pytest.raises(error, match=match) as caught:
            self.converge(run)
        with self.ledger.write() as connection:
            assert transitions.release(connection, sync_id, run.claimed.claim)
        return caught.value

    def vanish(self, sync_id: int) -> None:
        """The holder of the running claim died: its lease ends now."""
        with self.ledger.write() as connection:
            connection.execute(update(syncs).where(syncs.c.id == sync_id).values(lease_until=after(-0.5)))
            assert transitions.take_over(connection, 0.0)

    def states(self) -> list[tuple[str, str]]:
        with self.ledger.read() as connection:
            rows = connection.execute(select(steps.c.kind, steps.c.state).order_by(steps.c.id))
            return [(row.kind, row.state) for row in rows]

    def settle_now(self) -> None:
        """Let the settle time pass: what is in doubt began long ago, what is to be verified is due."""
        with self.ledger.write() as connection:
            long_ago = {"doubted_at": after(-10_000, steps.c.doubted_at)}
            connection.execute(update(steps).where(steps.c.doubted_at.is_not(None)).values(**long_ago))
            connection.execute(update(steps).where(steps.c.verify_at.is_not(None)).values(verify_at=after(-1)))
            connection.execute(update(attempts).values(ended_at=after(-10_000, attempts.c.ended_at)))

    def clean(self) -> bool:
        with self.ledger.read() as connection:
            return audit(connection) == []


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger, make_tenant(ledger))


@pytest.fixture
def without_keys(bench: Bench) -> Bench:
    bench.erp.by_key, bench.erp.settle = False, 60.0
    return bench


def test_given_an_order_when_it_lives_then_each_version_is_one_effect(bench: Bench) -> None:
    sync_id = bench.deliver(order())
    assert bench.run(sync_id).finished == State.DONE
    bench.deliver(order(quantity=3, minute=1))
    bench.run(sync_id)
    bench.deliver(order(quantity=3, minute=1))
    bench.run(sync_id)
    bench.deliver(moved(order(quantity=3, minute=2, cancelled=True), payment_state=PaymentState.VOIDED))
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "update/1", "update/2", "cancel"]
    (record,) = bench.erp.records.values()
    assert (record.total.amount, record.cancelled, record.reference) == (Decimal("30.00"), True, "web/1001")
    assert bench.clean()


def test_given_versions_out_of_order_when_run_then_the_newest_is_applied_and_stays(bench: Bench) -> None:
    bench.deliver(order(quantity=3, minute=5))
    sync_id = bench.deliver(order(quantity=1, minute=1))
    bench.run(sync_id)
    bench.deliver(order(quantity=2, minute=3))
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create"]
    assert next(iter(bench.erp.records.values())).total.amount == Decimal("30.00")
    assert sync_row(bench.ledger, sync_id).reason == "unchanged"


def test_given_a_cancelled_order_that_was_never_created_when_run_then_no_step_and_the_reason(bench: Bench) -> None:
    sync_id = bench.deliver(order(cancelled=True))
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.calls == []
    assert sync_row(bench.ledger, sync_id).reason == "cancelled before it was created"


def test_given_two_bodies_of_one_time_when_run_then_the_shop_is_asked(bench: Bench) -> None:
    bench.shop.orders["1001"] = order(quantity=7)
    bench.deliver(order(quantity=1))
    sync_id = bench.deliver(order(quantity=2))
    bench.run(sync_id)
    assert bench.shop.fetched == ["1001"]
    assert next(iter(bench.erp.records.values())).total.amount == Decimal("70.00")


def test_given_the_same_time_with_other_content_after_it_was_done_when_run_then_the_shop_is_asked(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order(quantity=1))
    bench.run(sync_id)
    bench.shop.orders["1001"] = order(quantity=2)
    bench.deliver(order(quantity=2))
    bench.run(sync_id)
    assert bench.shop.fetched == ["1001"]
    assert bench.erp.sends() == ["create", "update/1"]


def test_given_no_time_when_the_shop_answers_older_than_known_then_transient_and_nothing_is_sent(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order(minute=5))
    bench.run(sync_id)
    bench.shop.orders["1001"] = order(minute=4, quantity=9)
    bench.deliver(order(minute=5), timed=False)
    bench.fails(sync_id, Transient, "older")
    assert bench.erp.sends() == ["create"]


def test_given_an_order_that_does_not_add_up_when_run_then_held_before_any_call(bench: Bench) -> None:
    sync_id = bench.deliver(moved(order(), total=Money(amount=Decimal("11.00"), currency="EUR")))
    bench.fails(sync_id, errors.TotalMismatch)
    assert bench.erp.calls == []
    assert bench.states() == []


def test_given_the_systems_own_total_is_off_when_created_then_held_until_it_agrees(bench: Bench) -> None:
    bench.erp.wrong_total = Money(amount=Decimal("10.50"), currency="EUR")
    sync_id = bench.deliver(order())
    error = bench.fails(sync_id, errors.TotalMismatch)
    assert "10.50 EUR" in error.message
    assert "0.50 off" in error.message
    bench.shop.orders["1001"] = order()
    bench.fails(sync_id, errors.TotalMismatch)
    bench.erp.wrong_total = None
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create"]


def test_s1_given_a_call_when_it_starts_then_its_step_is_committed(bench: Bench) -> None:
    seen = []
    bench.erp.script = lambda when, _request: seen.append((when, bench.states()))
    bench.run(bench.deliver(order()))
    assert seen == [("before", [("create", "intended")]), ("after", [("create", "intended")])]
    assert bench.states() == [("create", "applied")]


@pytest.mark.parametrize(
    "error",
    [errors.Rejected("no"), errors.Throttled("later"), errors.Unauthorized("who"), Transient("refused")],
)
def test_given_an_answer_without_effect_when_run_again_then_the_step_is_sent_again(
    bench: Bench, error: errors.IntegratorError
) -> None:
    bench.erp.script = fail(error)
    sync_id = bench.deliver(order())
    bench.fails(sync_id, type(error))
    assert bench.states() == [("create", "refused")]
    bench.run(sync_id)
    assert len(bench.erp.records) == 1
    assert bench.states() == [("create", "applied")]


def test_s2_given_keys_when_a_create_is_in_doubt_then_the_same_bytes_go_out_again(bench: Bench) -> None:
    sent: list[bytes] = []
    cut = fail(IN_DOUBT, when="after")

    def script(when: str, request: Request | None) -> None:
        if when == "before" and request is not None:
            sent.append(request.body)
        cut(when, request)

    bench.erp.script = script
    sync_id = bench.deliver(order())
    bench.fails(sync_id, Transient)
    assert bench.states() == [("create", "in_doubt")]
    bench.deliver(order(quantity=4, minute=1))
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "create", "update/1"]
    assert sent[0] == sent[1]
    assert len(bench.erp.records) == 1


def test_s2_given_keys_when_the_repeat_is_not_sent_then_the_doubt_stays(bench: Bench) -> None:
    bench.erp.script = fail(IN_DOUBT, when="after")
    sync_id = bench.deliver(order())
    bench.fails(sync_id, Transient)
    for error in (errors.Throttled("later"), errors.Unauthorized("who"), Transient("refused")):
        bench.erp.script = fail(error)
        bench.fails(sync_id, type(error))
        assert bench.states() == [("create", "in_doubt")]
    bench.shop.orders["1001"] = order()
    bench.run(sync_id)
    assert len(bench.erp.records) == 1


@pytest.mark.parametrize("effect", [True, False])
def test_s2_given_keys_when_the_holder_was_killed_then_its_step_is_repeated(bench: Bench, effect: bool) -> None:
    sync_id = bench.deliver(order())
    kill_during_send(bench, sync_id, effect=effect)
    assert bench.states() == [("create", "intended")]
    bench.shop.orders["1001"] = order()
    bench.run(sync_id)
    assert len(bench.erp.records) == 1
    assert bench.clean()


class Killed(BaseException):
    """The process is gone."""


def kill_during_send(bench: Bench, sync_id: int, *, effect: bool) -> None:
    def die(when: str, request: Request | None) -> None:
        if when == ("after" if effect else "before") and request is not None:
            raise Killed

    bench.erp.script = die
    with bench.claimed(sync_id) as run, pytest.raises(Killed):
        bench.converge(run)
    bench.erp.script = lambda _when, _request: None
    bench.vanish(sync_id)


def test_s2_given_no_keys_when_the_answer_was_lost_then_the_first_look_finds_it_at_once(
    without_keys: Bench,
) -> None:
    bench = without_keys
    bench.erp.script = fail(IN_DOUBT, when="after")
    sync_id = bench.deliver(order())
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.calls[1][0] == "look"
    assert len(bench.erp.records) == 1


def test_s2_given_no_keys_when_nothing_is_found_then_it_waits_for_the_second_look_and_then_the_last(
    without_keys: Bench,
) -> None:
    bench = without_keys
    bench.erp.script = fail(IN_DOUBT)
    sync_id = bench.deliver(order())
    first = bench.fails(sync_id, Settling)
    assert first.cause is IN_DOUBT
    second = bench.fails(sync_id, Settling)
    assert second.cause is None
    assert second.not_before == first.not_before
    assert bench.erp.records == {}
    bench.settle_now()
    last = bench.fails(sync_id, Settling)
    assert last.not_before > first.not_before
    assert len(bench.erp.records) == 1
    bench.settle_now()
    bench.shop.orders["1001"] = order()
    assert bench.run(sync_id).finished == State.DONE
    assert bench.clean()


def test_s2_given_no_keys_when_the_late_commit_shows_after_the_resend_then_held_naming_both(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    late: list[Request] = []

    def lose(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and not late:
            late.append(request)
            raise IN_DOUBT

    bench.erp.script = lose
    bench.fails(sync_id, Settling)
    bench.settle_now()
    bench.fails(sync_id, Settling)
    bench.erp.effect(late[0])
    bench.settle_now()
    bench.shop.orders["1001"] = order()
    bench.fails(sync_id, errors.Conflict, "SO1 and SO2")


def test_s2_given_no_keys_when_the_resends_answer_is_lost_and_a_look_finds_one_then_it_is_looked_at_once_more(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    sent: list[Request] = []

    def lose(when: str, request: Request | None) -> None:
        if request is None:
            return
        if when == "before":
            sent.append(request)
        if when == ("before" if len(sent) == 1 else "after"):
            raise IN_DOUBT

    bench.erp.script = lose
    bench.fails(sync_id, Settling)
    bench.settle_now()
    bench.fails(sync_id, Settling, "alone")
    assert len(bench.erp.records) == 1
    bench.erp.effect(sent[0])
    bench.settle_now()
    bench.shop.orders["1001"] = order()
    bench.fails(sync_id, errors.Conflict, "SO1 and SO2")


def test_s2_given_no_keys_when_the_holder_vanished_then_not_found_counts_from_its_leases_end(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    kill_during_send(bench, sync_id, effect=False)
    with bench.ledger.read() as connection:
        ended = connection.execute(select(attempts.c.ended_at)).scalar_one()
    error = bench.fails(sync_id, Settling)
    assert (error.not_before - ended).total_seconds() == pytest.approx(60, abs=0.01)
    assert bench.erp.sends() == []


def test_s2_given_no_keys_when_a_look_fails_then_no_attempt_burns(without_keys: Bench) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    kill_during_send(bench, sync_id, effect=True)
    bench.erp.script = fail(Transient("down"), when="look")
    assert bench.fails(sync_id, Transient).burns_attempt is False
    bench.shop.orders["1001"] = order()
    assert bench.run(sync_id).finished == State.DONE


@pytest.mark.parametrize("kind", ["update", "cancel"])
def test_s2_given_no_keys_when_a_later_step_is_in_doubt_then_a_look_settles_it(
    without_keys: Bench, kind: str
) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    bench.erp.script = fail(IN_DOUBT, when="after")
    bench.deliver(order(quantity=2, minute=1) if kind == "update" else order(cancelled=True, minute=1))
    assert bench.run(sync_id).finished == State.DONE
    assert len([name for name in bench.erp.sends() if name.startswith(kind)]) == 1


def test_s5_given_the_gate_shuts_when_the_next_step_comes_then_it_is_not_sent(bench: Bench) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)

    def shut(when: str, _request: Request | None) -> None:
        if when == "after":
            with bench.ledger.write() as connection:
                gate.pause(connection, [bench.world.gate_id])

    bench.erp.script = shut
    bench.deliver(moved(order(minute=1, cancelled=True), payment_state=PaymentState.VOIDED))
    error = bench.fails(sync_id, errors.GateShut, "paused by an operator")
    assert bench.states() == [("create", "applied"), ("update", "applied")]
    assert isinstance(error, errors.GateShut)
    with bench.ledger.write() as connection:
        gate.resume(connection, [bench.world.gate_id])
    bench.shop.orders["1001"] = moved(order(minute=1, cancelled=True), payment_state=PaymentState.VOIDED)
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "update/1", "cancel"]


def test_s5_given_a_shut_gate_when_the_last_look_is_due_then_the_system_is_not_asked(without_keys: Bench) -> None:
    bench = without_keys
    bench.erp.script = fail(IN_DOUBT)
    sync_id = bench.deliver(order())
    bench.fails(sync_id, Settling)
    bench.settle_now()
    bench.fails(sync_id, Settling, "alone")
    bench.settle_now()
    bench.shop.orders["1001"] = order()
    asked = len(bench.erp.calls)
    with bench.claimed(sync_id) as run:
        with bench.ledger.write() as connection:
            gate.pause(connection, [bench.world.gate_id])
        with pytest.raises(errors.GateShut):
            bench.converge(run)
    assert len(bench.erp.calls) == asked


def test_s5_given_the_gate_shuts_when_the_totals_differ_then_the_system_is_not_asked_before_it_opens(
    bench: Bench,
) -> None:
    def shut(when: str, _request: Request | None) -> None:
        if when == "after":
            with bench.ledger.write() as connection:
                gate.pause(connection, [bench.world.gate_id])

    bench.erp.script, bench.erp.wrong_total = shut, Money(amount=Decimal("9.00"), currency="EUR")
    sync_id = bench.deliver(order())
    with bench.claimed(sync_id) as run, pytest.raises(errors.GateShut):
        bench.converge(run)
    with bench.ledger.write() as connection:
        assert transitions.release(connection, sync_id, run.claimed.claim)
        gate.resume(connection, [bench.world.gate_id])
    assert [what for what, _ in bench.erp.calls] == ["send"]
    bench.fails(sync_id, errors.TotalMismatch)
    assert [what for what, _ in bench.erp.calls] == ["send", "look"]


def test_s4_given_a_lease_that_is_too_short_when_a_call_would_start_then_it_is_not_sent(bench: Bench) -> None:
    sync_id = bench.deliver(order())
    with bench.claimed(sync_id) as run:
        run.lease.end_by(boottime() + 10)
        with pytest.raises(errors.NotStarted):
            bench.converge(run)
    assert bench.erp.calls == []
    assert bench.states() == [("create", "refused")]


def test_c2_given_a_run_that_was_taken_over_when_it_writes_then_it_stops(bench: Bench) -> None:
    sync_id = bench.deliver(order())

    def taken_over(when: str, _request: Request | None) -> None:
        if when == "after":
            bench.vanish(sync_id)

    bench.erp.script = taken_over
    with bench.claimed(sync_id) as run, pytest.raises(errors.LeaseLost):
        bench.converge(run)
    assert bench.states() == [("create", "intended")]
    assert sync_row(bench.ledger, sync_id).state == State.PENDING


def test_given_an_order_removed_there_when_updated_then_not_found_and_never_made_again(bench: Bench) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    bench.erp.records.clear()
    bench.deliver(order(quantity=2, minute=1))
    bench.fails(sync_id, errors.NotFound)
    assert bench.erp.records == {}


def test_given_a_run_killed_between_its_steps_when_an_older_delivery_is_all_there_is_then_the_shop_is_asked(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    newest = moved(order(minute=5, cancelled=True), payment_state=PaymentState.VOIDED)
    bench.shop.orders["1001"] = newest
    bench.deliver(order(minute=1), timed=False)

    def die_at_cancel(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and request.key.endswith("cancel"):
            raise Killed

    bench.erp.script = die_at_cancel
    with bench.claimed(sync_id) as run, pytest.raises(Killed):
        bench.converge(run)
    bench.vanish(sync_id)
    bench.erp.script = lambda _when, _request: None
    bench.run(sync_id)
    (record,) = bench.erp.records.values()
    assert record.cancelled
    assert bench.erp.sends() == ["create", "update/1", "cancel"]


@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("newest", [order(), order(cancelled=True), moved(order(), refunds=(refund(),))])
def test_given_a_create_in_doubt_that_was_settled_when_its_body_is_the_one_of_that_time_then_no_fetch(
    bench: Bench, by_key: bool, newest: Order
) -> None:
    bench.erp.by_key, bench.erp.settle = by_key, 60.0
    created = moved(newest, cancelled_at=None)
    sync_id = bench.deliver(created)
    kill_during_send(bench, sync_id, effect=True)
    bench.run(sync_id)
    if newest.cancelled:
        bench.shop.orders["1001"] = as_of(newest, 0)
        bench.deliver(as_of(newest, 0))
        bench.run(sync_id)
    assert bench.shop.fetched == (["1001"] if newest.cancelled else [])
    (record,) = bench.erp.records.values()
    assert (record.cancelled, len(record.credits)) == (newest.cancelled, len(newest.refunds))
    assert bench.clean()


def test_given_a_snapshot_begun_from_a_fetch_when_the_body_of_that_time_lacks_a_credit_then_the_shop_is_asked(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    bench.shop.orders["1001"] = as_of(moved(order(cancelled=True), refunds=(refund(),)), 1)
    deliver(bench.ledger, replace(delivery(bench.world, order(minute=1)), topic="partial"))

    def die_at_cancel(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and request.key.endswith("cancel"):
            raise Killed

    bench.erp.script = die_at_cancel
    with bench.claimed(sync_id) as run, pytest.raises(Killed):
        bench.converge(run)
    bench.vanish(sync_id)
    bench.erp.script = lambda _when, _request: None
    with bench.ledger.write() as connection:
        connection.execute(update(deliveries).values(topic="order"))
    bench.run(sync_id)
    assert bench.shop.fetched == ["1001", "1001"]
    assert bench.erp.sends() == ["create", "credit/88", "cancel"]


def test_given_payments_that_fail_when_one_succeeds_then_created_once_and_never_cancelled(bench: Bench) -> None:
    failed = moved(order(), not_yet="failed", payment_state=PaymentState.PENDING)
    sync_id = bench.deliver(failed)
    bench.run(sync_id)
    assert bench.erp.calls == []
    assert sync_row(bench.ledger, sync_id).reason == "not an order yet: failed"
    bench.deliver(moved(as_of(failed, 1), not_yet=None))
    bench.run(sync_id)
    bench.deliver(as_of(failed, 2))
    bench.run(sync_id)
    bench.deliver(order(minute=3))
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "update/1"]
    (record,) = bench.erp.records.values()
    assert record.body["payment_state"] == "paid"
    assert bench.clean()


def test_given_a_body_without_a_readable_id_when_requeued_then_it_is_held_again(bench: Bench) -> None:
    sync_id = bench.deliver(moved(order(), external_id="delivery:abc"))
    bench.fails(sync_id, errors.Unmapped, "no readable id")
    assert bench.shop.fetched == []


@pytest.mark.parametrize("pending", ["create", "update", "cancel"])
def test_s2_given_no_keys_when_the_settle_time_is_over_at_the_first_look_then_it_still_never_gives_up(
    bench: Bench, pending: str
) -> None:
    bench.erp.by_key, bench.erp.settle = False, 0.0
    sync_id = bench.deliver(order())
    if pending != "create":
        bench.run(sync_id)
        bench.deliver(order(quantity=2, minute=1) if pending == "update" else order(cancelled=True, minute=1))
    bench.erp.script = fail(IN_DOUBT)
    assert bench.fails(sync_id, Settling).cause is IN_DOUBT
    bench.shop.orders["1001"] = order(quantity=2, minute=1) if pending == "update" else order(minute=1)
    if pending == "cancel":
        bench.shop.orders["1001"] = order(cancelled=True, minute=1)
    while sync_row(bench.ledger, sync_id).state != State.DONE:
        with suppress(Settling):
            bench.run(sync_id)
        if sync_row(bench.ledger, sync_id).state == State.RUNNING:
            bench.vanish(sync_id)
        bench.settle_now()
    (record,) = bench.erp.records.values()
    assert record.total.amount == (20 if pending == "update" else 10)
    assert record.cancelled is (pending == "cancel")


def test_s2_given_no_keys_when_the_first_look_fails_too_then_the_observed_failure_counts(
    without_keys: Bench,
) -> None:
    bench = without_keys

    def down(when: str, _request: Request | None) -> None:
        if when != "after":
            raise IN_DOUBT if when == "before" else Transient("down")

    bench.erp.script = down
    sync_id = bench.deliver(order())
    error = bench.fails(sync_id, Transient)
    assert error is IN_DOUBT
    assert error.burns_attempt


def test_given_a_body_that_is_no_whole_order_when_the_shop_answers_older_than_it_then_transient(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    partial = replace(delivery(bench.world, order(minute=5)), topic="partial")
    deliver(bench.ledger, partial)
    bench.shop.orders["1001"] = order(quantity=2, minute=2)
    bench.fails(sync_id, Transient, "older")
    assert bench.erp.sends() == ["create"]


def test_given_a_fetch_without_a_time_when_an_older_delivery_comes_again_then_it_does_not_win(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    bench.deliver(order(minute=5))
    bench.run(sync_id)
    bench.shop.orders["1001"] = moved(order(quantity=2), updated_at=None)
    bench.deliver(order(minute=5), timed=False)
    bench.run(sync_id)
    bench.deliver(order(minute=5))
    bench.run(sync_id)
    assert next(iter(bench.erp.records.values())).total.amount == Decimal("20.00")


def test_given_one_of_two_records_was_removed_when_requeued_then_the_other_is_the_record(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    bench.erp.script = fail(IN_DOUBT)
    bench.fails(sync_id, Settling)
    bench.settle_now()
    bench.fails(sync_id, Settling)
    kept = bench.erp.records.pop("SO1")
    bench.erp.records["SO9"] = replace(kept, remote_id="SO9")
    bench.settle_now()
    bench.shop.orders["1001"] = order()
    assert bench.run(sync_id).finished == State.DONE
    bench.deliver(order(quantity=3, minute=1))
    bench.run(sync_id)
    assert bench.erp.records["SO9"].total.amount == Decimal("30.00")


def test_given_the_record_is_gone_when_it_is_looked_at_for_the_last_time_then_not_found(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    bench.erp.script = fail(IN_DOUBT)
    bench.fails(sync_id, Settling)
    bench.settle_now()
    bench.fails(sync_id, Settling)
    bench.erp.records.clear()
    bench.settle_now()
    bench.shop.orders["1001"] = order()
    bench.fails(sync_id, errors.NotFound)


def test_s2_given_keys_when_the_repeat_is_refused_while_the_first_may_come_then_the_doubt_stays(
    bench: Bench,
) -> None:
    bench.erp.settle = 60.0
    sync_id = bench.deliver(order())
    late: list[Request] = []

    def lose(when: str, request: Request | None) -> None:
        if when == "before" and request is not None:
            late.append(request)
            raise IN_DOUBT if len(late) == 1 else errors.Rejected("no")

    bench.erp.script = lose
    bench.fails(sync_id, Transient)
    bench.fails(sync_id, errors.Rejected)
    assert bench.states() == [("create", "in_doubt")]
    bench.erp.effect(late[0])
    bench.erp.script = lambda _when, _request: None
    bench.deliver(order(minute=1, cancelled=True))
    assert bench.run(sync_id).finished == State.DONE
    (record,) = bench.erp.records.values()
    assert record.cancelled


def test_s2_given_keys_when_a_resend_was_killed_and_the_next_is_refused_then_the_doubt_counts_from_the_resend(
    bench: Bench,
) -> None:
    bench.erp.settle = 60.0
    bench.erp.script = fail(IN_DOUBT)
    sync_id = bench.deliver(order())
    bench.fails(sync_id, Transient)
    bench.settle_now()
    kill_during_send(bench, sync_id, effect=False)
    bench.erp.script = fail(errors.Rejected("no"))
    bench.fails(sync_id, errors.Rejected)
    assert bench.states() == [("create", "in_doubt")]


def test_s4_given_a_create_that_was_given_up_when_it_comes_late_and_the_order_is_cancelled_then_it_is_cancelled(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = bench.deliver(order())
    stopped: list[Request] = []

    def stop(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and not stopped:
            stopped.append(request)
            raise Killed

    bench.erp.script = stop
    with bench.claimed(sync_id) as run, pytest.raises(Killed):
        bench.converge(run)
    bench.vanish(sync_id)
    bench.settle_now()
    bench.deliver(order(minute=1, cancelled=True))
    bench.fails(sync_id, Settling, "alone")
    bench.erp.effect(stopped[0])
    bench.settle_now()
    bench.fails(sync_id, Settling, "came late")
    bench.shop.orders["1001"] = order(minute=1, cancelled=True)
    assert bench.run(sync_id).finished == State.DONE
    (record,) = bench.erp.records.values()
    assert record.cancelled
    assert bench.clean()


def test_given_a_cancelled_order_whose_total_changes_when_run_then_nobody_is_asked_to_mend_it(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    bench.deliver(order(minute=1, cancelled=True))
    bench.run(sync_id)
    bench.deliver(order(minute=2, quantity=2, cancelled=True))
    assert bench.run(sync_id).finished == State.DONE


def test_given_the_ledger_fails_after_the_effect_when_the_lease_stands_then_the_effect_is_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([TimeoutError("pool"), InternalError("x", None, Exception())])
    write = bench.ledger.write

    @contextmanager
    def hiccup(**kwargs: Any) -> Iterator[Any]:
        if bench.erp.records and (error := next(failures, None)) is not None:
            raise error
        with write(**kwargs) as connection:
            yield connection

    sync_id = bench.deliver(order())
    with bench.claimed(sync_id) as run:
        monkeypatch.setattr(bench.ledger, "write", hiccup)
        bench.converge(run)
    assert bench.states() == [("create", "applied")]
    assert bench.erp.sends() == ["create"]


def test_s2_given_keys_when_a_settled_repeat_is_refused_then_what_the_shop_put_right_is_created(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.erp.script = fail(IN_DOUBT)
    bench.fails(sync_id, Transient)
    bench.settle_now()
    refused: list[Request] = []

    def refuse_the_first(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and not refused:
            refused.append(request)
            raise errors.Rejected("no")

    bench.erp.script = refuse_the_first
    bench.deliver(order(minute=1, quantity=2))
    bench.run(sync_id)
    assert sync_row(bench.ledger, sync_id).state == State.DONE
    assert bench.states()[-1] == ("create", "applied")
    assert len(bench.erp.records) == 1
