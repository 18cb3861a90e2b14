"""Interleavings that the protocol's model (tests/model) found to break a promise, each played step by step."""

from sqlalchemy import update

from integrator.clock import after
from integrator.dispatch import PUBLISH_PAUSE_SECONDS, Dispatcher, QueuePauses
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Rung
from integrator.ledger.schema import State, syncs
from tests.support import deliver, delivery, make_tenant, order, sync_row


def test_p5_given_lost_bells_that_fill_the_window_when_publishing_is_on_trial_then_they_ring_again(
    ledger: Ledger,
) -> None:
    """A dispatcher that failed to publish probes with its next bells. When all its places are taken by bells that
    another process rang and the queue lost, dispatching has none, so ringing again must do: else nobody rings."""
    now, broken, rung = 1_000.0, True, list[int]()

    def publish(bells: list[Rung]) -> list[Rung]:
        rung.extend(one.sync_id for one in bells if not broken)
        return bells if broken else []

    world = make_tenant(ledger, window=1)
    (accepted,) = deliver(ledger, delivery(world, order()))
    scheduler, web = Dispatcher(ledger, publish), Dispatcher(ledger, lambda _bells: [])
    scheduler._pauses = QueuePauses(lambda: now)
    assert scheduler.dispatch() == 0, "the queue is broken"
    assert web.dispatch() == 1, "and then takes a message, but loses it"
    with ledger.write() as connection:
        connection.execute(update(syncs).values(lease_until=after(-1)))
    broken = False
    assert scheduler.ring_missing("order", 0) == 0, "its pause stands"
    now += PUBLISH_PAUSE_SECONDS[0]
    assert scheduler.dispatch() == 0, "there is no room"
    assert scheduler.ring_missing("order", 0) == 1
    assert rung == [accepted.sync_id]
    assert accepted.sync_id is not None
    assert sync_row(ledger, accepted.sync_id).state == State.QUEUED
