"""The transport's parts: which receives are begun, what goes into a call, what becomes of a delete."""

import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pycurl
import pytest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ClientError, EndpointConnectionError
from kombu.transport import SQS, virtual
from kombu.transport.SQS.exceptions import UndefinedQueueException

from tasks import transport_delete
from tasks.transport import Channel
from tasks.transport_delete import Deleter, Receipt
from tasks.transport_end import QoS
from tasks.transport_receive import LOOK_SECONDS, Ask, Receives
from tasks.transport_send import BATCH_BYTES, NOT_TRIED, DelayRefused, Keeper, Send, batches, send_all

# Receives


def begun(receives: Receives, queue: str, queues: set[str], free: int | None, prefetch: int) -> list[Ask]:
    """All that are begun of a queue at a time."""
    found = []
    while ask := receives.next(queue, queues, free, prefetch):
        receives.begin(queue, ask)
        found.append(ask)
    return found


def test_given_one_queue_when_nothing_comes_then_one_long_receive_is_open() -> None:
    receives = Receives()
    assert begun(receives, "a", {"a"}, 64, 64) == [Ask(10, wait=True)]
    receives.end("a", Ask(10, wait=True), 0)
    assert begun(receives, "a", {"a"}, 64, 64) == [Ask(10, wait=True)]


def test_given_messages_that_flow_when_there_are_places_then_more_are_asked_for_without_a_wait() -> None:
    receives = Receives()
    (first,) = begun(receives, "a", {"a"}, 64, 64)
    receives.end("a", first, 10)
    assert begun(receives, "a", {"a"}, 54, 64) == [Ask(10, wait=True), *[Ask(10, wait=False)] * 3]
    assert receives.asked == 40
    receives.end("a", Ask(10, wait=False), 0)
    assert not begun(receives, "a", {"a"}, 54, 64), "nothing came"


@pytest.mark.parametrize("prefetch", [1, 2, 7, 16, 100])
def test_given_any_queues_when_receives_are_begun_then_no_more_is_asked_for_than_there_are_places(
    prefetch: int,
) -> None:
    receives, queues = Receives(), {"a", "b", "c"}
    for queue in sorted(queues):
        for ask in begun(receives, queue, queues, prefetch, prefetch):
            receives.end(queue, ask, 1)
        begun(receives, queue, queues, prefetch, prefetch)
        assert receives.asked <= prefetch
    assert sum(map(receives.waits, queues)) == min(len(queues), prefetch), "each that can has its long one"


def test_given_few_places_that_are_left_when_a_queue_waits_long_then_the_others_find_one() -> None:
    receives, queues = Receives(), {"a", "b", "c"}
    assert begun(receives, "a", queues, 8, 30) == [Ask(6, wait=True)]
    assert begun(receives, "b", queues, 8, 30) == [Ask(1, wait=True)]
    assert begun(receives, "c", queues, 8, 30) == [Ask(1, wait=True)]


def test_given_no_limit_when_receives_are_begun_then_there_are_four_at_most() -> None:
    receives = Receives()
    (first,) = begun(receives, "a", {"a"}, None, 0)
    receives.end("a", first, 10)
    assert len(begun(receives, "a", {"a"}, None, 0)) == 4


def test_given_few_places_when_messages_flow_then_it_is_not_worth_a_call_yet() -> None:
    receives = Receives()
    assert not receives.worth_asking(7, 16)
    assert receives.worth_asking(8, 16)
    assert receives.worth_asking(10, 100)
    assert receives.worth_asking(1, 2)
    assert receives.worth_asking(None, 0)


def test_given_a_receive_when_it_is_begun_then_it_may_take_its_wait_and_a_little_and_the_first_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Receiver(Channel):
        def __init__(self) -> None:
            self.hub = None

    client: Any = SimpleNamespace(_httpclient="of the loop")
    monkeypatch.setattr(SQS.Channel, "asynsqs", lambda *_args, **_named: client)
    channel: Any = Receiver()

    def limits() -> dict[int, int]:
        set_: dict[int, int] = {}
        channel.asynsqs("a").get_http_connection().getrequest().on_prepare(
            SimpleNamespace(setopt=set_.__setitem__)
        )
        return set_

    first = {pycurl.CONNECTTIMEOUT_MS: 3_000, pycurl.TIMEOUT_MS: 3_000, pycurl.NOSIGNAL: 1}
    assert limits() == first
    channel._answered, channel._wait = True, 20
    assert limits() == first | {pycurl.TIMEOUT_MS: 25_000}


def test_given_all_places_taken_when_there_is_no_interval_then_the_loop_is_not_kept_busy() -> None:
    later: list[float] = []

    class Full(Channel):
        def __init__(self) -> None:
            self._receives, self._hungry, self._ticking = Receives(), {}, set()
            self._active_queues = ["a"]
            self.connection = SimpleNamespace(polling_interval=0)
            self.hub = SimpleNamespace(call_later=lambda seconds, *_: later.append(seconds))
            self._qos = SimpleNamespace(can_consume_max_estimate=lambda: 0, prefetch_count=4)

    channel: Any = Full()
    channel._schedule_queue("a")
    assert later == [LOOK_SECONDS]


# Sends


class Sqs:
    """A client that notes its calls, and fails as it is told."""

    def __init__(self, *answers: Any) -> None:
        self._request_signer = SimpleNamespace(_credentials=None)
        self.answers = list(answers)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.called = threading.Condition()

    def __getattr__(self, name: str) -> Any:
        def call(**given: Any) -> Any:
            with self.called:
                self.calls.append((name, given))
                answer = self.answers.pop(0) if self.answers else {}
                self.called.notify_all()
            if isinstance(answer, Exception):
                raise answer
            entries = [{"Id": one["Id"]} for one in given.get("Entries", ())]
            failed = {one["Id"] for one in answer.get("Failed", ())}
            return {"Successful": [one for one in entries if one["Id"] not in failed]} | answer

        return call


def refused(code: str, status: int = 400) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "any")


def sends(client: Any, count: int, *, queue: str = "a", size: int = 10, first: int = 0) -> list[Send]:
    given = {"QueueUrl": queue, "MessageBody": "x" * size}
    return [Send(first + number, client, given) for number in range(count)]


def test_given_messages_when_batched_then_each_call_is_of_one_queue_and_within_its_bounds() -> None:
    client = Sqs()
    several = [*sends(client, 12), *sends(client, 3, queue="b", first=12)]
    assert [[one.place for one in batch] for batch in batches(several)] == [
        [*range(10)],
        [10, 11],
        [12, 13, 14],
    ]
    large = sends(client, 5, size=BATCH_BYTES // 2)
    assert [len(batch) for batch in batches(large)] == [2, 2, 1]
    attributes = {"MessageAttributes": {"name": {"DataType": "String", "StringValue": "x" * 100}}}
    assert Send(0, client, {"QueueUrl": "a", "MessageBody": "é"} | attributes).size == 2 + 4 + 6 + 100


def test_given_a_call_that_fails_as_a_whole_when_sent_then_no_other_is_begun() -> None:
    client = Sqs({}, refused("ServiceUnavailable", 503))
    failed = send_all(sends(client, 40), lambda: True)
    assert failed == dict.fromkeys(range(10, 20), "ServiceUnavailable") | dict.fromkeys(range(20, 40), NOT_TRIED)
    assert len(client.calls) == 2


def test_given_messages_that_are_refused_when_sent_then_they_alone_have_failed() -> None:
    client = Sqs({"Failed": [{"Id": "3", "Code": "InternalError"}]})
    assert send_all(sends(client, 12), lambda: True) == {3: "InternalError"}


def test_given_a_client_that_keeps_messages_back_when_asked_for_anything_else_then_it_goes_through() -> None:
    kept: list[Any] = []
    client = Sqs()
    keeper = Keeper(client, lambda *given: kept.append(given))
    keeper.send_message(QueueUrl="a", MessageBody="x")
    keeper.get_queue_url(QueueName="a")
    assert kept == [(client, {"QueueUrl": "a", "MessageBody": "x"})]
    assert client.calls == [("get_queue_url", {"QueueName": "a"})]


def test_given_a_delay_when_sent_to_a_fifo_queue_then_it_is_refused_with_a_sentence() -> None:
    message = {"body": "", "properties": {"DelaySeconds": 3}}
    with pytest.raises(DelayRefused, match=r"orders\.fifo is a FIFO queue"):
        Channel._put(object.__new__(Channel), "orders.fifo", message)


# Deletes


def receipts(client: Any, *handles: str) -> list[Receipt]:
    return [Receipt(client, "a", handle) for handle in handles]


def deleted(*answers: Any, count: int = 3) -> tuple[Sqs, Counter[str]]:
    """What was asked for, and what was noted, when so many are deleted and SQS answers so."""
    noted: Counter[str] = Counter()
    deleter, client = Deleter(lambda outcome: noted.update([outcome])), Sqs(*answers)
    for one in receipts(client, *map(str, range(count))):
        deleter.add(one)
    assert deleter.flush(10) == 0
    return client, noted


def test_given_many_when_deleted_then_ten_go_in_a_call() -> None:
    client, noted = deleted(count=20)
    assert noted == {"deleted": 20}
    assert [name for name, _ in client.calls] == ["delete_message_batch"] * len(client.calls)
    assert len(client.calls) <= 4


def test_given_as_many_as_a_call_takes_when_deleted_then_they_wait_for_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_delete, "LINGER_SECONDS", 60)
    deleter, client = Deleter(), Sqs()
    for one in receipts(client, *map(str, range(11))):
        deleter.add(one)
    with client.called:
        assert client.called.wait_for(lambda: client.calls, 10)
    assert [len(given["Entries"]) for _, given in client.calls] == [10]
    assert deleter.flush(10) == 0


def test_given_one_that_is_refused_in_a_batch_when_deleted_then_it_is_tried_by_itself() -> None:
    client, noted = deleted({"Failed": [{"Id": "0", "Code": "InternalError"}]}, count=1)
    assert noted == {"deleted": 1}
    assert [name for name, _ in client.calls] == ["delete_message_batch", "delete_message"]


@pytest.mark.parametrize("error", [refused("ReceiptHandleIsInvalid"), refused("InvalidParameterValue")])
def test_given_a_receipt_that_is_no_longer_good_when_deleted_then_it_is_counted_and_not_tried_again(
    error: ClientError,
) -> None:
    client, noted = deleted({"Failed": [{"Id": "0", "Code": "x"}]}, error, count=1)
    assert noted == {"expired": 1}
    assert len(client.calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        refused("InternalError", 500),
        refused("RequestThrottled"),
        refused("ThrottlingException", 429),
        EndpointConnectionError(endpoint_url="x"),
        TimeoutError(),
    ],
)
def test_given_a_failure_that_may_pass_when_deleted_then_it_is_tried_until_it_is_done(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_delete, "PAUSE_SECONDS", (0.001, 0.002))
    client, noted = deleted(error, count=1)
    assert noted == {"deleted": 1}
    assert len(client.calls) == 2


@pytest.mark.parametrize(
    ("credentials", "outcome"),
    [(object.__new__(RefreshableCredentials), "deleted"), (Credentials("key", "secret", "token"), "refused")],
)
def test_given_a_token_that_has_expired_when_deleted_then_it_is_tried_again_if_boto3_renews_it(
    credentials: Credentials, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_delete, "PAUSE_SECONDS", (0.001, 0.002))
    noted: Counter[str] = Counter()
    deleter, client = Deleter(lambda outcome: noted.update([outcome])), Sqs(refused("ExpiredToken", 403))
    client._request_signer = SimpleNamespace(_credentials=credentials)
    deleter.add(*receipts(client, "1"))
    assert deleter.flush(10) == 0
    assert noted == {outcome: 1}


def test_given_a_queue_that_denies_it_when_the_next_is_added_then_that_says_so_once() -> None:
    noted: Counter[str] = Counter()
    deleter, client = Deleter(lambda outcome: noted.update([outcome])), Sqs(refused("AccessDenied", 403))
    first, second, third = receipts(client, "1", "2", "3")
    deleter.add(first)
    assert deleter.flush(10) == 0
    with pytest.raises(ClientError):
        deleter.add(second)
    deleter.add(third)
    assert deleter.flush(10) == 0
    assert noted == {"refused": 1, "deleted": 2}


def test_given_a_client_that_can_not_be_had_when_a_message_ends_then_its_place_is_free_all_the_same() -> None:
    class Unknown(Channel):
        def __init__(self) -> None:
            self.connection = self.hub = None
            self._hungry = {}
            self._qos = QoS(self, prefetch_count=1)  # type: ignore[no-untyped-call]
            info = {"sqs_message": {"ReceiptHandle": "1"}, "sqs_queue": "url", "routing_key": "unknown"}
            self._qos.append(SimpleNamespace(delivery_info=info), "1")  # type: ignore[no-untyped-call]

        def sqs(self, queue: str | None = None) -> Any:
            raise UndefinedQueueException(queue)

        canonical_queue_name: Any = lambda _self, name: name

    channel: Any = Unknown()
    assert not channel.qos.can_consume()
    with pytest.raises(UndefinedQueueException):
        channel.basic_ack("1")
    assert channel.qos.can_consume()


def test_given_an_endpoint_that_is_away_when_flushed_then_only_who_is_patient_waits_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_delete, "PAUSE_SECONDS", (0.01, 0.01))
    noted: Counter[str] = Counter()
    back = threading.Event()

    def delete_message_batch(**given: Any) -> Any:
        if not back.is_set():
            raise EndpointConnectionError(endpoint_url="x")
        return {"Successful": given["Entries"]}

    deleter = Deleter(lambda outcome: noted.update([outcome]))
    for one in receipts(SimpleNamespace(delete_message_batch=delete_message_batch), *map(str, range(25))):
        deleter.add(one)
    assert deleter.flush(60) == 25
    threading.Timer(0.1, back.set).start()
    assert deleter.flush(60, patient=True) == 0
    assert noted == {"deleted": 25}


def test_given_too_many_that_wait_when_the_process_is_to_stop_then_the_next_is_left_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_delete, "CAPACITY", 1)
    monkeypatch.setattr(transport_delete, "LOOK_SECONDS", 0.01)
    looks = iter([False, False, True])
    noted: Counter[str] = Counter()
    deleter = Deleter(lambda outcome: noted.update([outcome]), lambda: next(looks))
    away = SimpleNamespace(delete_message_batch=threading.Event().wait)  # never answers
    first, second = receipts(
        SimpleNamespace(delete_message_batch=lambda **_: away.delete_message_batch()), "1", "2"
    )
    deleter.add(first)
    deleter.add(second)
    assert noted == {"left": 1}
    assert list(looks) == []


def test_given_messages_that_linger_when_flushed_then_they_wait_for_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_delete, "LINGER_SECONDS", 60)
    assert deleted()[1] == {"deleted": 3}


def test_given_a_channel_that_closes_when_deletes_wait_then_it_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_delete, "LINGER_SECONDS", 60)
    monkeypatch.setattr(virtual.Channel, "close", lambda _self: None)
    noted: Counter[str] = Counter()
    channel: Any = object.__new__(Channel)
    channel.deleter = Deleter(lambda outcome: noted.update([outcome]))
    for one in receipts(Sqs(), "1", "2"):
        channel.deleter.add(one)
    channel.close()
    assert noted == {"deleted": 2}


def test_given_an_outage_of_hours_when_it_ends_then_all_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_delete, "PAUSE_SECONDS", (0.0, 0.0))
    noted: Counter[str] = Counter()
    deleter = Deleter(lambda outcome: noted.update([outcome]))
    client = Sqs(*[EndpointConnectionError(endpoint_url="x")] * 1_100)
    deleter.add(*receipts(client, "1"))
    with deleter._changed:
        assert deleter._changed.wait_for(lambda: not deleter._count, 10)
    assert noted == {"deleted": 1}
    assert len(client.calls) == 1_101


def test_given_a_message_that_kombu_did_not_write_when_it_ends_then_it_does_so_like_others() -> None:
    client, noted = Sqs(), Counter[str]()

    class Foreign(Channel):
        def __init__(self) -> None:
            self.deleter = Deleter(lambda outcome: noted.update([outcome]))
            self.connection = self.hub = None
            self._hungry = {}
            self._qos = QoS(self)  # type: ignore[no-untyped-call]
            for tag in ("acked", "rejected", "held"):
                info = {"sqs_message": {"ReceiptHandle": tag}, "sqs_queue": "url"}  # and no routing key
                self._qos.append(SimpleNamespace(delivery_info=info), tag)  # type: ignore[no-untyped-call]

        predefined_queues: Any = {}  # noqa: RUF012
        sqs: Any = lambda _self, *_args, **_named: client
        _new_release_client: Any = sqs
        _has_redrive_policy = lambda _self, _queue, _url: False  # noqa: E731

    channel: Any = Foreign()
    channel.basic_ack("acked")
    channel.basic_reject("rejected")
    assert channel.deleter.flush(10) == 0
    assert channel.qos.restore_unacked() == []
    assert noted == {"deleted": 2}
    name, given = client.calls[-1]
    assert name == "change_message_visibility_batch"
    assert [one["ReceiptHandle"] for one in given["Entries"]] == ["held"]


def test_given_a_worker_that_stops_when_there_is_no_room_then_not_even_one_look_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_delete, "CAPACITY", 0)
    monkeypatch.setattr(threading.Condition, "wait", lambda *_args: pytest.fail("it waited"))
    noted: Counter[str] = Counter()
    deleter = Deleter(lambda outcome: noted.update([outcome]), lambda: True)
    for one in receipts(Sqs(), "1", "2", "3"):
        deleter.add(one)
    assert noted == {"left": 3}
