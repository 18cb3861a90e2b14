"""What is sent by tens is what kombu sends one by one, and what was not sent is known by its place."""

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
import pytest

from benchmarks.transport_worker import BATCHING, STOCK, Wanted, celery
from tests.transport.endpoint import Served, served

QUEUES = ("a", "b")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"MessageGroupId": "acme"},
    {"DelaySeconds": 30},
    {"message_attributes": {"shop": {"DataType": "String", "StringValue": "web"}}},
    {"headers": {"traceparent": "00-1-2-01"}, "priority": 3},
)
Send = Callable[[Sequence[dict[str, Any]]], dict[int, str]]


@contextmanager
def sender(sqs: Served, transport: str) -> Iterator[Send]:
    """What sends numbered tasks with options, to one queue after the other; the places of those that failed."""
    app = celery(Wanted(transport, sqs.url, QUEUES, ""))

    def send(options: Sequence[dict[str, Any]]) -> dict[int, str]:
        with app.producer_pool.acquire(block=True) as producer:
            sends = [
                partial(app.send_task, "noop", (n,), task_id=str(n), queue="ab"[n % 2], producer=producer, **one)
                for n, one in enumerate(options)
            ]
            if transport == BATCHING:
                failed: dict[int, str] = producer.channel.publish_many(sends)
                return failed
            for each in sends:
                each()
            return {}

    try:
        yield send
    finally:
        app.close()


def arrived(sqs: Served) -> list[tuple[Any, ...]]:
    """What is on the queues: the number, and all but what is drawn anew for each message."""
    found = []
    for queue in sqs.watched.queues.values():
        for message in queue._messages.values():
            envelope = orjson.loads(base64.b64decode(message.body))
            for drawn in ("delivery_tag", "reply_to"):
                del envelope["properties"][drawn]
            number = orjson.loads(base64.b64decode(envelope["body"]))[0][0]
            attributes = (dict(message.message_attributes), dict(message.system_attributes))
            found.append((number, queue.name, envelope, attributes, message.until > message.sent_at))
    return found


def test_given_tasks_when_sent_by_tens_then_they_arrive_as_kombu_sends_them_and_in_order() -> None:
    options = OPTIONS * 6
    with (
        served(*QUEUES) as ours,
        served(*QUEUES) as kombus,
        sender(ours, BATCHING) as send,
        sender(kombus, STOCK) as send_singly,
    ):
        assert send(options) == {}
        send_singly(options)
        assert arrived(ours) == arrived(kombus)
        assert len(arrived(ours)) == len(options)
        assert ours.requests()["SendMessageBatch"] == 4
        assert "SendMessage" not in ours.requests()


@pytest.mark.parametrize("fault", [{"entry_failures": 0.3}, {"throttling": 0.3}, {"unavailable": "503"}])
def test_given_an_endpoint_in_trouble_when_sent_by_tens_then_what_failed_is_what_is_not_there(fault: Any) -> None:
    with served(*QUEUES) as sqs, sender(sqs, BATCHING) as send:
        send(OPTIONS[:1] * 2)  # kombu looks at each queue once
        sqs.watched.queues["a"].purge()
        sqs.watched.queues["b"].purge()
        sqs.fault(seed=5, **fault)
        failed = send(OPTIONS[:1] * 60)
        assert failed
        assert sorted(number for number, *_ in arrived(sqs)) == sorted({*range(60)} - failed.keys())
