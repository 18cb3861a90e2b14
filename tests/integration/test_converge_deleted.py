"""Orders that the shop has deleted: cancelled once, never created, and looked for again when something comes."""

from typing import Any

from sqlalchemy import update

from integrator import errors
from integrator.ledger.schema import State, deliveries
from integrator.shops.base import Deleted
from tests.integration.test_converge import Bench, bench
from tests.support import fail, order, sync_row

__all__ = ["bench"]


def reason(bench: Bench, sync_id: int) -> Any:
    return sync_row(bench.ledger, sync_id).reason


def gone(bench: Bench) -> int:
    """The shop deletes the order, and a delivery without a time says that something happened."""
    bench.shop.orders.pop("1001", None)
    bench.shop.deleted.add("1001")
    return bench.deliver(order(minute=9), timed=False)


def test_given_a_created_order_when_it_is_deleted_then_cancelled_once_and_not_updated_first(bench: Bench) -> None:
    bench.run(bench.deliver(order()))
    bench.deliver(order(quantity=3, minute=1))
    sync_id = gone(bench)

    assert bench.run(sync_id).finished == State.DONE

    assert bench.erp.sends() == ["create", "cancel"]
    assert reason(bench, sync_id) == "cancelled: deleted in the shop"
    gone(bench)
    bench.run(sync_id)
    assert bench.erp.sends() == ["create", "cancel"]
    assert reason(bench, sync_id) == "deleted in the shop"
    assert bench.clean()


def test_given_an_order_that_was_never_created_when_it_is_deleted_then_no_step(bench: Bench) -> None:
    bench.deliver(order())
    sync_id = gone(bench)

    assert bench.run(sync_id).finished == State.DONE

    assert (bench.erp.calls, reason(bench, sync_id)) == ([], "deleted before it was created")


def test_given_a_deleted_order_when_an_older_body_comes_late_then_the_shop_is_asked_and_nothing_is_made(
    bench: Bench,
) -> None:
    sync_id = gone(bench)
    bench.run(sync_id)
    bench.deliver(order(minute=3))

    bench.run(sync_id)

    assert bench.shop.fetched == ["1001", "1001"]
    assert bench.erp.calls == []


def test_given_a_deleted_order_when_it_is_there_again_then_it_is_created(bench: Bench) -> None:
    bench.deliver(order())
    sync_id = gone(bench)
    bench.run(sync_id)
    bench.shop.deleted.clear()
    bench.shop.orders["1001"] = order(minute=9)
    bench.deliver(order(minute=9))

    bench.run(sync_id)

    assert bench.erp.sends() == ["create"]
    assert reason(bench, sync_id) == "created"


def test_given_a_cancellation_in_doubt_when_run_again_then_one_effect(bench: Bench) -> None:
    bench.run(bench.deliver(order()))
    sync_id = gone(bench)
    bench.erp.script = fail(errors.Transient("cut", in_doubt=True), when="after")
    bench.fails(sync_id, errors.Transient)

    assert bench.run(sync_id).finished == State.DONE

    assert next(iter(bench.erp.records.values())).cancelled
    assert bench.states() == [("create", "applied"), ("cancel", "applied")]


def test_given_no_delivery_that_tells_what_it_was_when_deleted_then_held_for_a_person(bench: Bench) -> None:
    bench.run(bench.deliver(order()))
    sync_id = gone(bench)
    with bench.ledger.write() as connection:
        connection.execute(update(deliveries).values(topic="order.deleted"))

    bench.fails(sync_id, Deleted)

    assert bench.erp.sends() == ["create"]
