"""What the transport holds at most and asks at least, and that kombu's own does otherwise."""

import time
from typing import Any

import pytest

from benchmarks.transport_worker import BATCHING, STOCK
from tests.transport.consumer import Consumer, consuming
from tests.transport.endpoint import Served, served

QUEUES = ("a", "b", "c")
SLOW = {"latency_ms": 8, "latency_p99_ms": 40}
HELD_AT_MOST = 1_000
"""Messages whose delete may wait while SQS refuses deletes."""


def work_off(served: Served, consumer: Consumer, count: int) -> None:
    """Acknowledge what comes until so many messages came."""
    while len(consumer.deliveries) < count:
        consumer.hear(0.2)
        consumer.settle("ack", list(consumer.held)[:3])
    consumer.settle("ack", list(consumer.held))


def most(served: Served) -> int:
    return max(one.most for one in served.watched.connections.values())


@pytest.mark.parametrize("prefetch", [2, 8])
def test_given_several_queues_when_consumed_then_no_more_is_held_and_asked_for_than_prefetch(
    prefetch: int,
) -> None:
    with served(*QUEUES) as sqs, consuming(sqs, BATCHING, QUEUES, prefetch=prefetch) as consumer:
        sqs.fault(**SLOW)
        for queue in QUEUES:
            sqs.send(queue, [f"{queue}{number}" for number in range(20)])
        work_off(sqs, consumer, 60)
        consumer.close()
        assert most(sqs) <= prefetch
        assert {one.name for one in consumer.deliveries} == {f"{queue}{n}" for queue in QUEUES for n in range(20)}
        assert sqs.messages() == {"visible": set(), "hidden": set()}


def test_given_kombu_by_itself_when_there_are_several_queues_then_it_still_takes_too_much() -> None:
    with served(*QUEUES) as sqs, consuming(sqs, STOCK, QUEUES, prefetch=8) as consumer:
        sqs.fault(**SLOW)
        for queue in QUEUES:
            sqs.send(queue, [f"{queue}{number}" for number in range(20)])
        consumer.until(lambda: len(consumer.held) > 8)
        assert most(sqs) > 8


def test_given_nothing_to_do_when_a_consumer_waits_then_one_long_receive_of_each_queue_does() -> None:
    with served(*QUEUES) as sqs, consuming(sqs, BATCHING, QUEUES, prefetch=40) as consumer:
        sqs.send("a", [f"a{number}" for number in range(40)])
        work_off(sqs, consumer, 40)
        (one,) = sqs.watched.connections.values()
        consumer.until(lambda: len(one.waits) == len(QUEUES) and min(one.waits.values()) >= 15)
        asked = sqs.requests()["ReceiveMessage"]
        time.sleep(2)
        assert sqs.requests()["ReceiveMessage"] == asked


def test_given_a_consumer_that_stops_when_it_held_messages_then_others_see_them_at_once_in_few_calls() -> None:
    with served("a") as sqs, consuming(sqs, BATCHING, ("a",), prefetch=25) as consumer:
        sqs.fault(**SLOW)
        names = {f"a{number}" for number in range(25)}
        sqs.send("a", names)
        consumer.until(lambda: len(consumer.held) == 25)
        done = list(consumer.held)[:5]
        ran = {consumer.held[tag].name for tag in done}
        consumer.settle("ack", done)
        consumer.close()
        assert sqs.messages() == {"visible": names - ran, "hidden": set()}
        asked = sqs.requests()
        assert "ChangeMessageVisibility" not in asked
        assert asked["ChangeMessageVisibilityBatch"] <= 3


@pytest.mark.parametrize("fault", [{"throttling": 0.3}, {"entry_failures": 0.5}, {"duplicates": 0.5}])
def test_given_trouble_with_deletes_when_a_consumer_stops_then_all_that_ended_is_gone(
    fault: dict[str, Any],
) -> None:
    with served("a") as sqs, consuming(sqs, BATCHING, ("a",), prefetch=40) as consumer:
        names = {f"a{number}" for number in range(40)}
        sqs.fault(**SLOW, **(fault if "duplicates" in fault else {}))
        sqs.send("a", names)
        while {one.name for one in consumer.deliveries} != names:
            consumer.until(lambda: consumer.held)
            if "duplicates" in fault:  # copies take places, too
                consumer.settle("ack", list(consumer.held))
            consumer.hear(0.05)
        sqs.fault(**SLOW, **fault)
        consumer.settle("ack", list(consumer.held))
        while "duplicates" in fault and sqs.messages()["hidden"]:  # more copies come until all are deleted
            consumer.hear(0.05)
            consumer.settle("ack", list(consumer.held))
        consumer.close()
        assert sqs.messages()["hidden"] == set()


def test_given_deletes_that_are_refused_when_work_goes_on_then_it_waits_and_all_is_gone_later() -> None:
    count = 3 * HELD_AT_MOST
    with served("a") as sqs, consuming(sqs, BATCHING, ("a",), prefetch=100) as consumer:
        sqs.send("a", [f"a{number}" for number in range(count)])
        sqs.watched.refused = {"DeleteMessage", "DeleteMessageBatch"}
        give_up = time.monotonic() + 5
        while len(consumer.deliveries) < count and time.monotonic() < give_up:
            consumer.hear(0.05)
            consumer.post("ack", list(consumer.held))
        assert len(consumer.deliveries) <= HELD_AT_MOST + 100
        sqs.watched.refused = set()
        consumer.until(lambda: not consumer.unanswered)
        work_off(sqs, consumer, count)
        consumer.close()
        assert sqs.messages() == {"visible": set(), "hidden": set()}


def test_given_more_queues_than_kombu_has_requests_when_consumed_then_each_is_listened_to() -> None:
    queues = [f"q{number}" for number in range(14)]
    with served(*queues) as sqs, consuming(sqs, BATCHING, queues, prefetch=28) as consumer:
        listens = sqs.watched.connections
        consumer.until(lambda: [len(one.waiting) for one in listens.values()] == [len(queues)])


def test_given_a_message_that_is_rejected_when_sqs_refuses_deletes_then_it_is_gone_later() -> None:
    with served("a") as sqs, consuming(sqs, BATCHING, ("a",), prefetch=4) as consumer:
        sqs.send("a", ["a0"])
        consumer.until(lambda: consumer.held)
        sqs.watched.refused = {"DeleteMessage", "DeleteMessageBatch"}
        consumer.settle("reject", list(consumer.held))
        consumer.until(lambda: {"DeleteMessage", "DeleteMessageBatch"} & sqs.requests().keys())
        sqs.watched.refused = set()
        consumer.until(lambda: sqs.messages() == {"visible": set(), "hidden": set()})


def test_given_a_message_whose_time_has_ended_when_it_is_put_back_then_it_comes_again_and_nothing_is_lost() -> (
    None
):
    with served("a") as sqs, consuming(sqs, BATCHING, ("a",), prefetch=1) as consumer:
        sqs.send("a", ["a0"])
        consumer.until(lambda: consumer.held)
        sqs.pass_time(60)
        consumer.settle("requeue", list(consumer.held))
        consumer.until(lambda: consumer.held)
        assert [one.name for one in consumer.deliveries] == ["a0", "a0"]
        assert not consumer.losses
