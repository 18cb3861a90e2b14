"""Queues that are not predefined: they are made, named and used as kombu does it."""

from functools import partial
from typing import Any

import pytest

from benchmarks.transport_worker import BATCHING, STOCK, Wanted, celery
from tests.transport.consumer import Consumer, Given
from tests.transport.endpoint import Served, served

QUEUES = ("a", "b.c")
OPTIONS: dict[str, Any] = {
    "predefined_queues": {},
    "queue_name_prefix": "shop.",
    "visibility_timeout": 45,
    "sqs-creation-attributes": {"MessageRetentionPeriod": "3600"},
}


def send(sqs: Served, transport: str, count: int) -> None:
    """Send so many tasks to each queue, which are made if they are not there."""
    app = celery(Wanted(transport, sqs.url, QUEUES, "", options=OPTIONS))
    with app.producer_pool.acquire(block=True) as producer:
        sends = [
            partial(app.send_task, "noop", (number,), queue=queue, producer=producer, MessageGroupId="acme")
            for queue in QUEUES
            for number in range(count)
        ]
        if transport == BATCHING:
            assert producer.channel.publish_many(sends) == {}
        else:
            for one in sends:
                one()
    app.close()


def has_heard(consumer: Consumer, count: int) -> bool:
    """Whether it was given so many messages."""
    return len(consumer.deliveries) == count


def made(sqs: Served) -> dict[str, Any]:
    """The queues, with their attributes but for their age, and how many messages each has."""
    return {name: (queue.attributes, len(queue._messages)) for name, queue in sqs.watched.queues.items()}


@pytest.mark.parametrize("consumes_first", [True, False])
def test_given_no_queues_when_sent_to_and_consumed_then_they_are_made_as_kombu_makes_them(
    consumes_first: bool,
) -> None:
    found = {}
    for transport in (STOCK, BATCHING):
        with served() as sqs:
            if not consumes_first:
                send(sqs, transport, 12)
            given = Given(transport, sqs.url, QUEUES, prefetch=100, number=1, predefined=False, options=OPTIONS)
            consumer = Consumer(sqs, given)
            try:
                if consumes_first:
                    send(sqs, transport, 12)
                consumer.until(partial(has_heard, consumer, 24))
                consumer.settle("ack", list(consumer.held))
                consumer.close()
            finally:
                consumer.kill()
            found[transport] = made(sqs)
            assert sorted(one.queue for one in consumer.deliveries) == ["a"] * 12 + ["b.c"] * 12
    assert found[BATCHING] == found[STOCK]
    assert {name: count for name, (_, count) in found[BATCHING].items()} == {"shop-a": 0, "shop-b-c": 0}
    assert {given.visibility_timeout for given, _ in found[BATCHING].values()} == {45}
