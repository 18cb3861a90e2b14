"""Refunds become credits, each once: in every order of events, after every doubt, on both databases."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from integrator import errors
from integrator.documents import Fee, Money, Order, PaymentState, Refund, StatedTotals
from integrator.erps.base import Request
from integrator.errors import Settling, Transient
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State
from tests.integration.test_converge import IN_DOUBT, Bench, Killed
from tests.support import as_of, kept_back, make_tenant, moved, order, refund, sync_row

FIRST, SECOND = refund("88"), refund("77", amount="3.00", minute=2)
Script = Callable[[str, Request | None], None]


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger, make_tenant(ledger))


@pytest.fixture
def without_keys(bench: Bench) -> Bench:
    bench.erp.by_key, bench.erp.settle = False, 60.0
    return bench


def given_back(*refunds: Refund, minute: int = 1, cancelled: bool = False, quantity: int = 1) -> Order:
    return moved(order(minute=minute, cancelled=cancelled, quantity=quantity), refunds=refunds)


def credited(bench: Bench) -> list[str]:
    """The credits that the system holds, as refund and amount."""
    made = (credit for record in bench.erp.records.values() for credit in record.credits)
    return [f"{one.key.rpartition('/')[2]} {one.total.amount}" for one in made if one.total]


def at_credit(error: BaseException, *, when: str = "before", times: int = 1) -> Script:
    """A script that fails credits only, so many times."""
    left = iter(range(times))

    def script(moment: str, request: Request | None) -> None:
        hit = moment == when and request is not None and "/credit/" in request.key
        if hit and next(left, None) is not None:
            raise error

    return script


def created(bench: Bench) -> int:
    sync_id = bench.deliver(order())
    bench.run(sync_id)
    return sync_id


def kill_at_credit(bench: Bench, sync_id: int, *, effect: bool) -> None:
    bench.erp.script = at_credit(Killed(), when="after" if effect else "before")
    with bench.claimed(sync_id) as run, pytest.raises(Killed):
        bench.converge(run)
    bench.erp.script = lambda _when, _request: None
    bench.vanish(sync_id)


def test_given_an_order_when_it_is_refunded_again_and_again_then_each_refund_is_one_credit(bench: Bench) -> None:
    sync_id = created(bench)
    bench.deliver(given_back(FIRST))
    bench.run(sync_id)
    assert sync_row(bench.ledger, sync_id).reason == "credited"
    bench.deliver(given_back(FIRST, SECOND, minute=2))
    bench.run(sync_id)
    bench.deliver(given_back(FIRST, SECOND, minute=3))
    bench.run(sync_id)
    bench.deliver(moved(given_back(FIRST, SECOND, minute=4, cancelled=True), payment_state=PaymentState.REFUNDED))
    bench.run(sync_id)
    late = refund("99", amount="1.00", minute=5)
    bench.deliver(moved(given_back(FIRST, SECOND, late, minute=5, cancelled=True), note="never an update again"))
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create", "credit/88", "credit/77", "update/1", "cancel", "credit/99"]
    assert credited(bench) == ["88 4.00", "77 3.00", "99 1.00"]
    assert bench.clean()


def test_given_refunds_that_are_known_before_the_order_when_run_then_created_and_then_credited_oldest_first(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(given_back(SECOND, FIRST))
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "credit/88", "credit/77"]
    assert sync_row(bench.ledger, sync_id).reason == "created and credited"


def test_given_a_refunded_order_that_was_cancelled_before_it_was_created_when_run_then_no_step(
    bench: Bench,
) -> None:
    sync_id = bench.deliver(given_back(FIRST, cancelled=True))
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.calls == []


def test_given_content_and_a_refund_and_a_cancellation_at_once_when_run_then_in_this_order(bench: Bench) -> None:
    sync_id = created(bench)
    bench.deliver(given_back(FIRST, cancelled=True, quantity=2))
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "update/1", "credit/88", "cancel"]
    assert sync_row(bench.ledger, sync_id).reason == "updated and credited and cancelled"


def test_given_a_refund_that_was_credited_when_it_comes_to_more_then_held_and_nothing_is_sent(
    bench: Bench,
) -> None:
    sync_id = created(bench)
    bench.deliver(given_back(FIRST))
    bench.run(sync_id)
    bench.deliver(given_back(refund("88", amount="5.00"), minute=2, cancelled=True))
    bench.fails(sync_id, errors.Conflict, "Refund 88")
    assert bench.erp.sends() == ["create", "credit/88"]


@pytest.mark.parametrize(
    "wrong",
    [
        given_back(FIRST, refund("77", fees=kept_back("0.50"))),
        moved(given_back(FIRST), stated=StatedTotals(refunds=Money(amount=Decimal("4.02"), currency="EUR"))),
        given_back(
            refund("77", fees=(Fee(title="Duties", amount=Money(amount=Decimal(1), currency="USD")),)),
        ),
    ],
    ids=["one refund is off", "all are off what the shop states", "another currency"],
)
def test_given_refunds_that_do_not_add_up_when_run_then_held_before_any_call(bench: Bench, wrong: Order) -> None:
    sync_id = bench.deliver(wrong)
    bench.fails(sync_id, errors.TotalMismatch, "77|88")
    assert bench.erp.calls == []
    assert bench.states() == []


def test_given_the_systems_own_total_of_a_credit_is_off_when_credited_then_held_until_it_agrees(
    bench: Bench,
) -> None:
    bench.erp.wrong_credit = Money(amount=Decimal("4.50"), currency="EUR")
    sync_id = bench.deliver(given_back(FIRST))
    error = bench.fails(sync_id, errors.TotalMismatch, "credit CN1 comes to 4.50 EUR, the shop's refund 88")
    assert "0.50 off" in error.message
    bench.shop.orders["1001"] = given_back(FIRST)
    bench.fails(sync_id, errors.TotalMismatch)
    bench.erp.wrong_credit = None
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create", "credit/88"]


def test_given_a_credit_when_the_orders_total_is_off_then_it_is_the_orders_that_is_compared(bench: Bench) -> None:
    bench.erp.wrong_total = Money(amount=Decimal("4.00"), currency="EUR")
    sync_id = bench.deliver(given_back(FIRST))
    bench.fails(sync_id, errors.TotalMismatch, "order SO1 comes to 4.00 EUR")


def test_s1_given_a_credit_when_its_call_starts_then_its_step_is_committed(bench: Bench) -> None:
    sync_id = created(bench)
    seen = []
    bench.erp.script = lambda when, _request: seen.append((when, bench.states()[-1]))
    bench.deliver(given_back(FIRST))
    bench.run(sync_id)
    assert seen == [("before", ("credit", "intended")), ("after", ("credit", "intended"))]


def test_s2_given_keys_when_a_credit_is_in_doubt_then_the_same_bytes_go_out_again(bench: Bench) -> None:
    sync_id = created(bench)
    sent: list[bytes] = []
    cut = at_credit(IN_DOUBT, when="after")

    def script(when: str, request: Request | None) -> None:
        if when == "before" and request is not None:
            sent.append(request.body)
        cut(when, request)

    bench.erp.script = script
    bench.deliver(given_back(FIRST))
    bench.fails(sync_id, Transient)
    bench.deliver(given_back(FIRST, SECOND, minute=2))
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "credit/88", "credit/88", "credit/77"]
    assert sent[0] == sent[1]
    assert credited(bench) == ["88 4.00", "77 3.00"]


@pytest.mark.parametrize("effect", [True, False])
@pytest.mark.parametrize("by_key", [True, False])
def test_s2_given_the_holder_was_killed_at_a_credit_when_run_again_then_there_is_one(
    bench: Bench, effect: bool, by_key: bool
) -> None:
    bench.erp.by_key = by_key
    sync_id = created(bench)
    document = given_back(FIRST, SECOND)
    bench.deliver(document)
    kill_at_credit(bench, sync_id, effect=effect)
    bench.shop.orders["1001"] = document
    while sync_row(bench.ledger, sync_id).state != State.DONE:
        bench.settle_now()
        with bench.claimed(sync_id) as run:
            try:
                bench.converge(run)
            except Settling:
                bench.vanish(sync_id)
    assert credited(bench) == ["88 4.00", "77 3.00"]
    assert bench.clean()


def test_s2_given_no_keys_when_the_answer_to_a_credit_was_lost_then_the_first_look_finds_it_at_once(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = created(bench)
    bench.erp.script = at_credit(IN_DOUBT, when="after")
    bench.deliver(given_back(FIRST))
    assert bench.run(sync_id).finished == State.DONE
    assert credited(bench) == ["88 4.00"]


def until_the_last_look(bench: Bench) -> tuple[int, Request]:
    """A credit was lost on its way, given up after the second look, and sent again. The first request may come."""
    sync_id = created(bench)
    lost: list[Request] = []

    def lose(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and not lost:
            lost.append(request)
            raise IN_DOUBT

    bench.erp.script = lose
    bench.deliver(given_back(FIRST))
    first = bench.fails(sync_id, Settling, "credit may still happen")
    assert first.cause is IN_DOUBT
    bench.settle_now()
    bench.shop.orders["1001"] = given_back(FIRST)
    bench.fails(sync_id, Settling, "is alone")
    assert credited(bench) == ["88 4.00"]
    return sync_id, lost[0]


def test_s2_given_no_keys_when_a_credit_is_not_found_then_it_is_sent_again_and_looked_at_once_more(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id, _ = until_the_last_look(bench)
    bench.fails(sync_id, Settling, "is alone")
    bench.settle_now()
    assert bench.run(sync_id).finished == State.DONE
    assert bench.erp.sends() == ["create", "credit/88"]
    assert bench.clean()


def test_s2_given_no_keys_when_the_late_credit_comes_after_the_resend_then_held_naming_both(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id, lost = until_the_last_look(bench)
    bench.erp.effect(lost)
    bench.settle_now()
    bench.fails(sync_id, errors.Conflict, "the credits CN1 and CN2 for one refund of web/1001")


@pytest.mark.parametrize("kept", ["CN1", "CN2"])
def test_given_one_of_two_credits_was_removed_when_requeued_then_the_other_is_the_credit(
    without_keys: Bench, kept: str
) -> None:
    bench = without_keys
    sync_id, lost = until_the_last_look(bench)
    bench.erp.effect(lost)
    record = bench.erp.records["SO1"]
    record.credits = [credit for credit in record.credits if credit.credit_id == kept]
    bench.settle_now()
    assert bench.run(sync_id).finished == State.DONE
    bench.deliver(given_back(FIRST, SECOND, minute=2))
    bench.run(sync_id)
    assert credited(bench) == ["88 4.00", "77 3.00"]


def test_given_the_credit_is_gone_when_it_is_looked_at_for_the_last_time_then_not_found(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id, _ = until_the_last_look(bench)
    bench.erp.records["SO1"].credits.clear()
    bench.settle_now()
    bench.fails(sync_id, errors.NotFound, "Credit CN1")


def test_s2_given_no_keys_when_two_credits_show_at_the_look_after_a_resend_then_held_at_once(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = created(bench)
    bench.deliver(given_back(FIRST))
    kill_at_credit(bench, sync_id, effect=True)
    (record,) = bench.erp.records.values()
    record.credits.append(record.credits[0])
    bench.fails(sync_id, errors.Conflict, "CN1 and CN1")


def test_s2_given_no_keys_when_the_resend_of_a_credit_is_refused_then_the_last_look_is_still_owed(
    without_keys: Bench,
) -> None:
    bench = without_keys
    sync_id = created(bench)
    bench.erp.script = at_credit(IN_DOUBT)
    bench.deliver(given_back(FIRST))
    bench.fails(sync_id, Settling)
    bench.settle_now()
    bench.erp.script = at_credit(errors.Throttled("later"))
    bench.fails(sync_id, errors.Throttled)
    bench.deliver(as_of(order(), 3))
    bench.fails(sync_id, Settling, "is alone")
    bench.settle_now()
    assert bench.run(sync_id).finished == State.DONE
    assert credited(bench) == []


def test_given_another_record_is_kept_when_its_create_is_looked_at_last_then_its_credits_are_made_there(
    without_keys: Bench,
) -> None:
    bench = without_keys
    document = given_back(FIRST)
    sync_id = bench.deliver(document)
    lost: list[Request] = []

    def lose(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and not lost:
            lost.append(request)
            raise IN_DOUBT

    bench.erp.script = lose
    bench.fails(sync_id, Settling)
    bench.settle_now()
    bench.shop.orders["1001"] = document
    bench.fails(sync_id, Settling, "is alone")
    bench.erp.effect(lost[0])
    bench.settle_now()
    bench.fails(sync_id, errors.Conflict, "SO1 and SO2")
    assert credited(bench) == ["88 4.00"]
    del bench.erp.records["SO1"]
    bench.fails(sync_id, Settling, "SO2")
    assert bench.run(sync_id).finished == State.DONE
    assert [credit.key for credit in bench.erp.records["SO2"].credits] == ["acme/main/web/order/1001/credit/88"]
    assert bench.clean()


def test_given_a_run_killed_between_its_credits_when_an_older_delivery_is_all_there_is_then_the_shop_is_asked(
    bench: Bench,
) -> None:
    sync_id = created(bench)
    newest = given_back(FIRST, SECOND, minute=5)
    bench.shop.orders["1001"] = newest
    bench.deliver(order(minute=1), timed=False)

    def die_at_second(when: str, request: Request | None) -> None:
        if when == "before" and request is not None and request.key.endswith("credit/77"):
            raise Killed

    bench.erp.script = die_at_second
    with bench.claimed(sync_id) as run, pytest.raises(Killed):
        bench.converge(run)
    bench.vanish(sync_id)
    bench.erp.script = lambda _when, _request: None
    bench.run(sync_id)
    assert credited(bench) == ["88 4.00", "77 3.00"]
