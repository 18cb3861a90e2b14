"""What a person has put right in the management system ends a conflict, and what is due after it happens once."""

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import update

from integrator import errors, gate
from integrator.documents import Money, Order, Refund
from integrator.erps.base import Request
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, deliveries
from integrator.ledger.timeline import timeline
from integrator.shops.base import Deleted
from tests.integration.test_converge import IN_DOUBT, Bench, Killed
from tests.support import Record, as_of, fail, make_tenant, moved, order, refund, sync_row

BACK = refund("88", minute=1)


@pytest.fixture(params=[True, False], ids=["with keys", "without keys"])
def bench(ledger: Ledger, request: pytest.FixtureRequest) -> Bench:
    made = Bench(ledger, make_tenant(ledger))
    made.erp.by_key = request.param
    return made


def credited(*refunds: Refund, minute: int = 1) -> Order:
    return moved(order(minute=minute), refunds=refunds)


def euros(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="EUR")


def the_record(bench: Bench) -> Record:
    (record,) = bench.erp.records.values()
    return record


def cancelled_and_open_again(bench: Bench, minute: int = 2) -> int:
    sync_id = bench.deliver(order(minute=minute - 2))
    bench.run(sync_id)
    bench.deliver(order(minute=minute - 1, cancelled=True))
    bench.run(sync_id)
    bench.deliver(order(minute=minute, quantity=2))
    return sync_id


def test_given_an_order_open_again_when_it_is_not_there_then_held_each_time_and_nothing_is_sent(
    bench: Bench,
) -> None:
    sync_id = cancelled_and_open_again(bench)
    for _ in range(2):
        error = bench.fails(sync_id, errors.Conflict, "1001 .* SO1")
        assert "Reopen the order" in error.advice
        assert "syncs requeue" in error.advice
    assert bench.erp.sends() == ["create", "cancel"]


def test_given_an_order_open_again_when_a_person_reopened_it_there_then_it_goes_on_and_can_be_cancelled_again(
    bench: Bench,
) -> None:
    sync_id = cancelled_and_open_again(bench)
    bench.fails(sync_id, errors.Conflict)
    for minute, cancel in ((3, "cancel.2"), (5, "cancel.3")):
        the_record(bench).cancelled = False
        assert bench.run(sync_id).finished == State.DONE
        bench.deliver(order(minute=minute, quantity=2, cancelled=True))
        assert bench.run(sync_id).finished == State.DONE
        assert bench.erp.sends()[-1] == cancel
        assert the_record(bench).cancelled
        bench.deliver(order(minute=minute + 1, quantity=2))
        bench.fails(sync_id, errors.Conflict)
    assert bench.erp.sends() == ["create", "cancel", "update/1", "cancel.2", "cancel.3"]
    assert [kind for kind, _ in bench.states()] == [
        "create", "cancel", "reopen", "update", "cancel", "reopen", "cancel",
    ]  # fmt: skip
    with bench.ledger.read() as connection:
        texts = [event.text for event in timeline(connection, sync_id)]
    assert sum("reopen of SO1 by a person was seen" in text for text in texts) == 2
    assert bench.clean()


def test_given_an_order_open_again_when_it_is_cancelled_in_the_shop_too_then_done(bench: Bench) -> None:
    sync_id = cancelled_and_open_again(bench)
    bench.fails(sync_id, errors.Conflict)
    bench.deliver(order(minute=3, cancelled=True))
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create", "cancel"]


def test_given_a_second_cancellation_in_doubt_when_run_again_then_one_effect(bench: Bench) -> None:
    sync_id = cancelled_and_open_again(bench)
    the_record(bench).cancelled = False
    bench.run(sync_id)
    bench.erp.script = fail(IN_DOUBT, when="after")
    last = order(minute=3, quantity=2, cancelled=True)
    bench.deliver(last)
    if bench.erp.by_key:
        bench.fails(sync_id, errors.Transient)
    assert bench.run(sync_id).finished == State.DONE
    assert the_record(bench).cancelled
    assert the_record(bench).keys.count("acme/main/web/order/1001/cancel.2") == 1


def test_given_a_process_killed_after_it_saw_the_reopening_when_run_again_then_it_is_recorded_once(
    bench: Bench,
) -> None:
    sync_id = cancelled_and_open_again(bench)
    the_record(bench).cancelled = False

    def die(when: str, request: Request | None) -> None:
        if when == "before" and request is not None:
            raise Killed

    bench.erp.script = die
    with bench.claimed(sync_id) as run, pytest.raises(Killed):
        bench.converge(run)
    bench.vanish(sync_id)
    bench.erp.script = lambda _when, _request: None
    bench.shop.orders["1001"] = order(minute=2, quantity=2)
    while sync_row(bench.ledger, sync_id).state != State.DONE:
        bench.settle_now()
        bench.run(sync_id)
    assert [kind for kind, _ in bench.states()].count("reopen") == 1
    assert the_record(bench).body["lines"][0]["quantity"] == "2"


@pytest.mark.parametrize(
    ("now", "mending", "sends", "left"),
    [
        (credited(refund("88", amount="5.00"), minute=2), "5.00", [], ["5.00"]),
        (credited(refund("88", amount="5.00"), minute=2), None, ["credit.2/88"], ["5.00"]),
        (credited(minute=2), None, [], []),
        (credited(minute=2), "0.00", [], ["0.00"]),
        (credited(refund("77", amount="3.00"), minute=2), None, ["credit/77"], ["3.00"]),
    ],
    ids=[
        "corrected",
        "removed to be made anew",
        "taken back and removed",
        "taken back and zero",
        "another refund",
    ],
)
def test_given_a_credited_refund_that_changed_when_a_person_put_the_credit_right_then_it_goes_on(
    bench: Bench, now: Order, mending: str | None, sends: list[str], left: list[str]
) -> None:
    sync_id = bench.deliver(credited(BACK))
    bench.run(sync_id)
    bench.deliver(now)
    error = bench.fails(sync_id, errors.Conflict, r"Refund 88 .* as CN1")
    assert "syncs requeue" in error.advice
    record = the_record(bench)
    (credit,) = record.credits
    record.credits = [replace(credit, total=euros(mending))] if mending else []
    assert bench.run(sync_id).finished == State.DONE
    bench.deliver(as_of(now, 3))
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create", "credit/88", *sends]
    assert [str(one.total.amount) for one in record.credits if one.total] == left
    bench.deliver(as_of(moved(now, refunds=(*now.refunds, refund("99", amount="1.00", minute=4))), 4))
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends()[-1] == "credit/99"
    assert bench.clean()


@pytest.mark.parametrize("total", ["4.50", "4.00"])
def test_given_a_credited_refund_that_changed_when_the_credit_is_another_still_then_held(
    bench: Bench, total: str
) -> None:
    sync_id = bench.deliver(credited(BACK))
    bench.run(sync_id)
    bench.deliver(credited(refund("88", amount="5.00"), minute=2))
    record = the_record(bench)
    record.credits = [replace(record.credits[0], total=euros(total))]
    bench.fails(sync_id, errors.Conflict)
    assert bench.erp.sends() == ["create", "credit/88"]
    assert [kind for kind, _ in bench.states()] == ["create", "credit"]


def test_given_two_conflicts_when_a_person_ends_them_one_by_one_then_each_counts(bench: Bench) -> None:
    sync_id = bench.deliver(credited(BACK))
    bench.run(sync_id)
    bench.deliver(moved(credited(BACK, minute=2), cancelled_at=order().placed_at))
    bench.run(sync_id)
    bench.deliver(credited(refund("88", amount="5.00"), minute=3))
    record = the_record(bench)
    record.cancelled = False
    bench.fails(sync_id, errors.Conflict, "Refund 88")
    record.credits = []
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create", "credit/88", "cancel", "credit.2/88"]


def test_given_a_conflict_when_the_record_is_gone_or_there_are_two_then_that_is_said(bench: Bench) -> None:
    sync_id = cancelled_and_open_again(bench)
    kept = bench.erp.records.pop("SO1")
    bench.fails(sync_id, errors.NotFound, "SO1")
    bench.erp.records |= {"SO1": kept, "SO2": replace(kept, remote_id="SO2")}
    bench.fails(sync_id, errors.Conflict, "SO1 and SO2")


def test_s5_given_a_conflict_when_the_gate_is_shut_then_nothing_is_asked(bench: Bench) -> None:
    sync_id = cancelled_and_open_again(bench)
    with bench.claimed(sync_id) as run:
        with bench.ledger.write() as connection:
            gate.pause(connection, [bench.world.gate_id])
        with pytest.raises(errors.GateShut):
            bench.converge(run)
    assert ("look", "web/1001") not in bench.erp.calls


def test_given_a_deleted_order_that_nothing_tells_of_when_a_person_cancelled_it_there_then_done(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    bench.shop.deleted.add("1001")
    bench.deliver(order(minute=9), timed=False)
    with bench.ledger.write() as connection:
        connection.execute(update(deliveries).values(topic="order.deleted"))
    error = bench.fails(sync_id, Deleted)
    assert "syncs requeue" in error.advice
    the_record(bench).cancelled = True
    assert bench.run(sync_id).finished == State.DONE
    assert sync_row(bench.ledger, sync_id).reason == "deleted in the shop"
    assert bench.erp.sends() == ["create"]
    bench.shop.deleted.clear()
    bench.shop.orders["1001"] = order(minute=10)
    bench.deliver(order(minute=10))
    bench.fails(sync_id, errors.Conflict, "1001 .* SO1")
