"""The rules of a standard queue, played on a clock that only the test moves."""

import json
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sandbox.sqs import Faults
from sandbox.sqs_queue import MAX_BYTES, Message, Queue, SqsError, digests

ARN = "arn:aws:sqs:us-east-1:000000000000"


@dataclass
class FakeClock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queues(clock: FakeClock) -> dict[str, Queue]:
    queues: dict[str, Queue] = {}
    queues["dead"] = Queue("dead", clock, {}, queues)
    policy = json.dumps({"deadLetterTargetArn": queues["dead"].arn, "maxReceiveCount": "2"})
    queues["orders"] = Queue("orders", clock, {"RedrivePolicy": policy, "VisibilityTimeout": "30"}, queues)
    return queues


@pytest.fixture
def queue(queues: dict[str, Queue]) -> Queue:
    return queues["orders"]


def bodies(messages: list[Message]) -> list[str]:
    return [message.body for message in messages]


def counts(queue: Queue) -> tuple[int, int, int]:
    """Visible, delayed, in flight."""
    described = queue.describe()
    names = ("", "Delayed", "NotVisible")
    visible, delayed, in_flight = (int(described[f"ApproximateNumberOfMessages{name}"]) for name in names)
    return visible, delayed, in_flight


def received(queue: Queue, visibility: int | None = None) -> str:
    """The receipt handle of the one message that a receive gives."""
    (message,) = queue.receive(visibility=visibility)
    return queue.receipt_handle(message)


def test_given_a_received_message_when_its_timeout_ends_then_it_comes_again_and_not_before(
    queue: Queue, clock: FakeClock
) -> None:
    queue.send("a")
    assert bodies(queue.receive()) == ["a"]
    clock.now += 29.9
    assert queue.receive() == []
    assert counts(queue) == (0, 0, 1)
    clock.now += 0.1
    (again,) = queue.receive()
    assert (again.body, again.receive_count) == ("a", 2)
    assert again.first_received_at == clock.now - 30


def test_given_a_timeout_of_zero_when_received_then_it_comes_in_the_next_call_only(queue: Queue) -> None:
    queue.send("a")
    assert bodies(queue.receive(10, 0)) == ["a"]
    assert bodies(queue.receive(10, 60)) == ["a"]
    assert queue.receive(10) == []


@pytest.mark.parametrize(("seconds", "visible"), [(0, True), (10, False), (1_000, False)])
def test_given_a_message_in_flight_when_its_visibility_changes_then_the_new_timeout_counts_from_now(
    queue: Queue, clock: FakeClock, seconds: int, visible: bool
) -> None:
    queue.send("a")
    handle = received(queue)
    clock.now += 29
    queue.change_visibility(handle, seconds)
    assert counts(queue)[0] == int(visible)
    clock.now += max(seconds - 0.1, 0)
    assert counts(queue)[0] == int(visible)
    clock.now += 0.1
    assert counts(queue)[0] == 1


@pytest.mark.parametrize(("delay", "wait"), [(None, 5), (0, 0), (900, 900)])
def test_given_a_delay_when_it_is_over_then_the_message_becomes_visible(
    queue: Queue, clock: FakeClock, delay: int | None, wait: int
) -> None:
    queue.set_attributes({"DelaySeconds": "5"})
    queue.send("a", delay)
    assert counts(queue) == ((0, 1, 0) if wait else (1, 0, 0))
    clock.now += wait
    assert counts(queue) == (1, 0, 0)
    assert bodies(queue.receive()) == ["a"]


def test_given_a_delayed_message_when_its_queue_is_purged_then_nothing_comes_out_of_its_delay(
    queue: Queue, clock: FakeClock
) -> None:
    queue.send("a", 5)
    queue.send("b")
    queue.purge()
    clock.now += 5
    assert counts(queue) == (0, 0, 0)
    assert queue.receive() == []


def test_given_a_purge_when_repeated_within_a_minute_then_it_is_refused(queue: Queue, clock: FakeClock) -> None:
    queue.purge()
    queue.send("a")
    clock.now += 59
    with pytest.raises(SqsError) as refused:
        queue.purge()
    assert (refused.value.name, refused.value.status, counts(queue)) == ("PurgeQueueInProgress", 403, (1, 0, 0))
    clock.now += 1
    queue.purge()
    assert counts(queue) == (0, 0, 0)


def test_given_max_receives_when_a_message_comes_up_again_then_it_moves_to_the_dead_letter_queue(
    queues: dict[str, Queue], queue: Queue, clock: FakeClock
) -> None:
    sent = queue.send("poison", system={"MessageGroupId": "acme"})
    queue.receive(visibility=0)
    queue.receive(visibility=0)
    assert counts(queue) == (1, 0, 0)  # the second receive is still one
    queue.send("good")
    assert bodies(queue.receive(10)) == ["good"]
    assert counts(queues["dead"]) == (1, 0, 0)
    (buried,) = queues["dead"].receive()
    assert (buried.body, buried.message_id, buried.receive_count) == ("poison", sent.message_id, 3)
    assert buried.system_attributes == {"MessageGroupId": "acme", "DeadLetterQueueSourceArn": queue.arn}


def test_given_no_dead_letter_queue_any_more_when_received_too_often_then_the_message_stays(
    queues: dict[str, Queue], queue: Queue
) -> None:
    queue.send("a")
    del queues["dead"]
    assert [bodies(queue.receive(visibility=0)) for _ in range(4)] == [["a"]] * 4


def test_given_a_timed_out_receive_when_nobody_received_since_then_its_handle_still_deletes(
    queue: Queue, clock: FakeClock
) -> None:
    queue.send("a")
    handle = received(queue)
    clock.now += 31
    queue.delete(handle)
    assert counts(queue) == (0, 0, 0)
    assert queue.receive() == []
    queue.delete(handle)  # again, without an error


def test_given_a_later_receive_when_the_earlier_handle_is_used_then_it_deletes_and_hides_nothing(
    queue: Queue, clock: FakeClock
) -> None:
    queue.send("a")
    early = received(queue)
    clock.now += 31
    late = received(queue)
    queue.delete(early)
    with pytest.raises(SqsError) as refused:
        queue.change_visibility(early, 0)
    assert refused.value.code == "InvalidParameterValue"
    assert counts(queue) == (0, 0, 1)
    queue.delete(late)
    assert counts(queue) == (0, 0, 0)


def test_given_a_message_not_in_flight_when_its_visibility_changes_then_that_is_refused(queue: Queue) -> None:
    queue.send("a")
    handle = received(queue, 0)
    with pytest.raises(SqsError) as refused:
        queue.change_visibility(handle, 10)
    assert refused.value.name == "MessageNotInflight"
    queue.delete(handle)
    with pytest.raises(SqsError, match="does not exist or is not available for visibility timeout change"):
        queue.change_visibility(handle, 10)


@pytest.mark.parametrize("mangle", [lambda _: "garbage", lambda _: "", lambda handle: handle[:-8] + "!"])
def test_given_a_handle_that_is_none_when_deleted_then_it_is_invalid(
    queue: Queue, mangle: Callable[[str], str]
) -> None:
    queue.send("a")
    with pytest.raises(SqsError) as refused:
        queue.delete(mangle(received(queue)))
    assert refused.value.name == "ReceiptHandleIsInvalid"


def test_given_the_handle_of_another_queue_when_deleted_then_it_is_invalid(
    queues: dict[str, Queue], queue: Queue
) -> None:
    queue.send("a")
    with pytest.raises(SqsError) as refused:
        queues["dead"].delete(received(queue))
    assert refused.value.name == "ReceiptHandleIsInvalid"


def test_given_a_message_past_its_retention_when_received_then_it_is_gone(queue: Queue, clock: FakeClock) -> None:
    queue.set_attributes({"MessageRetentionPeriod": "60"})
    queue.send("old")
    clock.now += 59
    queue.send("new")
    clock.now += 1
    assert bodies(queue.receive(10)) == ["new"]


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"VisibilityTimeout": "43201"}, "InvalidAttributeValue"),
        ({"VisibilityTimeout": "-1"}, "InvalidAttributeValue"),
        ({"DelaySeconds": "901"}, "InvalidAttributeValue"),
        ({"MessageRetentionPeriod": "59"}, "InvalidAttributeValue"),
        ({"FifoQueue": "true"}, "InvalidAttributeName"),
        ({"RedrivePolicy": "{}"}, "InvalidParameterValue"),
        ({"RedrivePolicy": "[]"}, "InvalidParameterValue"),
        ({"RedrivePolicy": '{"deadLetterTargetArn": "nowhere", "maxReceiveCount": 2}'}, "QueueDoesNotExist"),
        ({"RedrivePolicy": '{"deadLetterTargetArn": "nowhere", "maxReceiveCount": 0}'}, "InvalidParameterValue"),
        (
            {"RedrivePolicy": f'{{"deadLetterTargetArn": "{ARN}:orders", "maxReceiveCount": 2}}'},
            "QueueDoesNotExist",
        ),
    ],
)
def test_given_attributes_that_sqs_refuses_when_set_then_nothing_changes(
    queue: Queue, attributes: dict[str, str], name: str
) -> None:
    before = queue.describe()
    with pytest.raises(SqsError) as refused:
        queue.set_attributes({"VisibilityTimeout": "7", **attributes})
    assert refused.value.name == name
    assert queue.describe() == before


@pytest.mark.parametrize(
    ("body", "attributes", "fits"),
    [
        ("x" * MAX_BYTES, {}, True),
        ("x" * (MAX_BYTES + 1), {}, False),
        ("ñ" * (MAX_BYTES // 2) + "x", {}, False),  # bytes count, not characters
        ("x" * (MAX_BYTES - 8), {"a": {"DataType": "String", "StringValue": "v"}}, True),
        ("x" * (MAX_BYTES - 7), {"a": {"DataType": "String", "StringValue": "v"}}, False),
    ],
)
def test_given_the_size_limit_when_sent_then_bytes_of_body_and_attributes_count(
    queue: Queue, body: str, attributes: dict[str, dict[str, str]], fits: bool
) -> None:
    if fits:
        assert queue.send(body, attributes=attributes).body == body
    else:
        with pytest.raises(SqsError, match="must be shorter than 1048576 bytes"):
            queue.send(body, attributes=attributes)
        assert counts(queue) == (0, 0, 0)


@pytest.mark.parametrize(
    "attribute", [{"DataType": "Text", "StringValue": "v"}, {"DataType": "String"}, {"StringValue": "v"}]
)
def test_given_a_message_attribute_without_type_or_value_when_sent_then_it_is_refused(
    queue: Queue, attribute: dict[str, str]
) -> None:
    with pytest.raises(SqsError) as refused:
        queue.send("a", attributes={"a": attribute})
    assert refused.value.code == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("body", "delay", "code"),
    [("", None, "MissingParameter"), ("a", -1, "InvalidParameterValue"), ("a", 901, "InvalidParameterValue")],
)
def test_given_an_empty_body_or_a_delay_out_of_range_when_sent_then_nothing_is_kept(
    queue: Queue, body: str, delay: int | None, code: str
) -> None:
    with pytest.raises(SqsError) as refused:
        queue.send(body, delay)
    assert (refused.value.code, counts(queue)) == (code, (0, 0, 0))


def test_given_attributes_in_any_order_when_digested_then_the_digest_is_the_one_clients_compute() -> None:
    text, number = {"DataType": "String", "StringValue": "v"}, {"DataType": "Number", "StringValue": "1"}
    digest = digests("MD5OfBody", "body", {"a": text})["MD5OfMessageAttributes"]
    assert digest == "a18cbb58171ebf4ce88d9fb787f9210b"  # what moto answers
    assert digests("MD5OfBody", "body", {"a": text, "b": number}) == digests(
        "MD5OfBody", "body", {"b": number, "a": text}
    )


def test_given_reordering_when_received_then_every_message_comes_once_and_not_in_order(queue: Queue) -> None:
    names = [str(number) for number in range(50)]
    for name in names:
        queue.send(name)
    rng = random.Random(7)
    got = [bodies(queue.receive(choose=rng.randrange))[0] for _ in names]
    assert got != names
    assert sorted(got, key=int) == names
    assert queue.receive() == []


def test_given_reordering_for_a_while_when_it_ends_then_the_oldest_come_first_again(queue: Queue) -> None:
    for number in range(100):
        queue.send(str(number))
    rng = random.Random(7)
    drawn = [int(body) for body in bodies(queue.receive(50, choose=rng.randrange))]
    rest = [int(body) for body in bodies(queue.receive(100))]
    assert rest == sorted(set(range(100)) - set(drawn))


def test_given_a_duplicate_when_the_message_is_deleted_then_it_comes_exactly_once_more(queue: Queue) -> None:
    sent = queue.send("a")
    (first,) = queue.receive(10, repeat=lambda: True)
    queue.delete(queue.receipt_handle(first))
    (second,) = queue.receive(10, repeat=lambda: True)
    assert (second.message_id, second.receive_count) == (sent.message_id, 2)
    queue.delete(queue.receipt_handle(second))
    assert counts(queue) == (0, 0, 0)


def test_given_a_listener_when_something_may_have_become_visible_sooner_then_it_is_told(
    queue: Queue, clock: FakeClock
) -> None:
    told: list[str] = []
    queue.listeners.add(lambda: told.append("told"))
    queue.send("a")
    assert len(told) == 1
    handle = received(queue, 60)
    assert len(told) == 2  # before this receive a listener had nothing to wait for
    assert queue.next_change() == clock.now + 60
    queue.send("b", 90)
    assert len(told) == 2  # later than what it waits for
    queue.change_visibility(handle, 10)
    assert len(told) == 3
    assert queue.next_change() == clock.now + 10
    queue.delete(handle)
    assert queue.next_change() == clock.now + 90


@pytest.mark.parametrize(
    ("faults", "median", "p99"),
    [
        (Faults(), 0.0, 0.0),
        (Faults(latency_ms=20), 0.020, 0.020),
        (Faults(latency_ms=20, latency_p99_ms=200), 0.020, 0.200),
    ],
)
def test_given_a_latency_when_drawn_often_then_median_and_99th_percentile_are_as_asked(
    faults: Faults, median: float, p99: float
) -> None:
    rng = random.Random(faults.seed)
    drawn = [faults.latency_seconds(rng) for _ in range(10_000)]
    assert statistics.median(drawn) == pytest.approx(median, rel=0.05)
    assert statistics.quantiles(drawn, n=100)[98] == pytest.approx(p99, rel=0.15)


def test_given_dead_letters_when_redriven_then_those_that_are_visible_are_new_in_the_queue_they_died_in(
    queues: dict[str, Queue], queue: Queue
) -> None:
    for body in ("a", "b"):
        queue.send(body, system={"MessageGroupId": "acme"})
    for _ in range(3):
        queue.receive(10, visibility=0)
    dead = queues["dead"]
    dead.send("of nobody")
    (hidden,) = dead.receive(1, visibility=60)
    dead.redrive()
    (back,) = queue.receive(10)
    assert {hidden.body, back.body} == {"a", "b"}
    assert (back.receive_count, back.system_attributes) == (1, {"MessageGroupId": "acme"})
    assert bodies(dead.receive(10)) == ["of nobody"]
