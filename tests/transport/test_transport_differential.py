"""The same script on kombu's own transport and on the batching one: what ran, how often, and what is left."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from benchmarks.transport_worker import BATCHING, STOCK
from tests.transport.consumer import Consumer, Given
from tests.transport.endpoint import Served, Watched, envelope, served

QUEUES = ("a", "b")
VISIBILITY_SECONDS = 30
ENDS = ("ack", "ack", "reject", "requeue", "keep")


@dataclass(frozen=True)
class Turn:
    """Messages come, each is ended in one of ENDS, then perhaps one queue or the connection; then time passes."""

    sends: tuple[int, int]
    ends: tuple[str, ...]
    then: str


turns = st.builds(
    Turn,
    st.tuples(st.integers(0, 12), st.integers(0, 12)),
    st.lists(st.sampled_from(ENDS), min_size=1, max_size=6).map(tuple),
    st.sampled_from(["nothing", "nothing", "cancel", "again", "close", "kill"]),
)


class Script:
    """One run on one transport."""

    def __init__(self, served: Served, transport: str) -> None:
        self.served, self.transport = served, transport
        self.runs: Counter[str] = Counter()
        self.redelivered: Counter[str] = Counter()
        self.number = 0
        self.start()

    def start(self) -> None:
        self.number += 1
        self.listens = set(QUEUES)
        given = Given(self.transport, self.served.url, QUEUES, 200, self.number)
        self.consumer = Consumer(self.served, given)

    def take(self) -> None:
        """Wait until all that can be seen was delivered."""
        before = len(self.consumer.deliveries)
        give_up = time.monotonic() + 20
        while any(name[0] in self.listens for name in self.served.messages()["visible"]):
            assert time.monotonic() < give_up, self.served.messages()
            self.consumer.hear(0.02)
        self.consumer.until(self.all_is_heard)
        self.taken = self.consumer.deliveries[before:]  # not what was kept: its visibility has ended
        self.runs.update(one.name for one in self.taken)

    def all_is_heard(self) -> bool:
        """Whether it holds all that its connection was given, or gave it back."""
        connection = self.served.watched.connections[self.consumer.key]
        return connection.given <= connection.back | {one.tag for one in self.consumer.deliveries}

    def play(self, turn: Turn) -> None:
        for queue, count in zip(QUEUES, turn.sends, strict=True):
            self.served.send(queue, [f"{queue}{self.number}-{len(self.runs)}-{number}" for number in range(count)])
        self.take()
        held = sorted(self.taken, key=lambda one: (one.name, one.tag))
        for place, end in enumerate(turn.ends):
            tags = [one.tag for one in held[place :: len(turn.ends)] if one.tag in self.consumer.held]
            if end != "keep":
                self.consumer.settle(end, tags)
        getattr(self, f"then_{turn.then}")()
        self.settle_deletes()
        self.served.pass_time(VISIBILITY_SECONDS)

    def then_nothing(self) -> None: ...

    def then_cancel(self) -> None:
        if "b" in self.listens:
            self.listens.remove("b")
            self.consumer.do("cancel", "b")

    def then_again(self) -> None:
        for command in ("cancel", "listen_again"):
            for queue in self.listens:
                self.consumer.do(command, queue)

    def then_close(self) -> None:
        self.consumer.close()
        self.start()

    def then_kill(self) -> None:
        self.settle_deletes()
        self.consumer.kill()
        self.start()

    def settle_deletes(self) -> None:
        """What was acknowledged may be deleted a little later."""
        ended, give_up = self.served.watched.ended, time.monotonic() + 5
        while time.monotonic() < give_up:
            backs = set().union(*(one.gone for one in self.served.watched.connections.values()))
            if ended <= backs:
                return
            time.sleep(0.005)
        raise AssertionError("what ended was not deleted")

    def outcome(self) -> dict[str, Any]:
        """How often each message ran, and what is left when all timeouts are over."""
        self.consumer.close()
        self.served.pass_time(VISIBILITY_SECONDS)
        return {"runs": dict(self.runs), "left": sorted(self.served.messages()["visible"])}


def played(transport: str, script: Sequence[Turn]) -> dict[str, Any]:
    with served(*QUEUES, visibility=VISIBILITY_SECONDS) as sqs:
        run = Script(sqs, transport)
        try:
            for turn in script:
                run.play(turn)
            return run.outcome()
        finally:
            run.consumer.kill()


@settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@example(
    [Turn((2, 1), ("ack",), "again"), Turn((2, 1), ("ack", "keep"), "cancel"), Turn((1, 1), ("ack",), "again")]
)
@example(
    [Turn((12, 5), ENDS, "cancel"), Turn((3, 3), ("ack", "requeue"), "close"), Turn((1, 0), ("keep",), "kill")]
)
@given(st.lists(turns, min_size=1, max_size=5))
def test_given_a_script_when_played_on_both_transports_then_it_ends_the_same(script: list[Turn]) -> None:
    assert played(BATCHING, script) == played(STOCK, script)


@contextmanager
def moto() -> Iterator[str]:
    """An endpoint that has FIFO queues, which the sandbox's has not."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # a line for each request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.mark.parametrize("transport", [STOCK, BATCHING])
def test_given_a_fifo_queue_when_consumed_then_each_group_runs_in_order_and_once(transport: str) -> None:
    with moto() as url:
        sqs: Any = boto3.client("sqs", region_name="us-east-1", endpoint_url=url)
        attributes = {"FifoQueue": "true", "VisibilityTimeout": "60"}
        queue = f"{uuid.uuid4().hex}.fifo"  # moto's queues outlive its server
        address = sqs.create_queue(QueueName=queue, Attributes=attributes)["QueueUrl"]
        names = [f"{group}{number}" for number in range(6) for group in "xyz"]
        for name in names:
            body = envelope(name, queue)
            sqs.send_message(
                QueueUrl=address, MessageBody=body, MessageGroupId=name[0], MessageDeduplicationId=name
            )
        options = {"predefined_queues": {queue: {"url": address}}, "wait_time_seconds": 1}
        given = Given(transport, url, (queue,), prefetch=5, number=1, options=options)
        consumer = Consumer(SimpleNamespace(watched=Watched()), given)
        try:
            while len(consumer.deliveries) < len(names):
                consumer.until(lambda: consumer.held)
                consumer.settle("ack", list(consumer.held)[:2])
            consumer.settle("ack", list(consumer.held))
            consumer.close()
        finally:
            consumer.kill()
        ran = [one.name for one in consumer.deliveries]
        assert [[name for name in ran if name[0] == group] for group in "xyz"] == [
            [f"{group}{number}" for number in range(6)] for group in "xyz"
        ]
        wanted = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        left = sqs.get_queue_attributes(QueueUrl=address, AttributeNames=wanted)["Attributes"]
        assert set(left.values()) == {"0"}
