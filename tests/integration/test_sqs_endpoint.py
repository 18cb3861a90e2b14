"""Our SQS endpoint, held to what moto's server answers, and to AWS where moto is laxer."""

import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.asynchronous import Hub, set_event_loop
from kombu.connection import Connection
from kombu.entity import Queue
from moto.server import ThreadedMotoServer

import sandbox

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

Step = tuple[Any, ...]


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """The endpoint as its own process, and its address from the line that it prints."""
    command = [sys.executable, "-W", "error", "-m", "sandbox.sqs", "--port", "0", *arguments]
    root = Path(sandbox.__path__[0]).parent
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready, _, url = process.stdout.readline().rstrip("\n").partition(" ")
    assert ready == "ready", process.communicate()
    return process, url


def client_for(url: str, read_timeout: float = 30) -> "SQSClient":
    config = Config(read_timeout=read_timeout, retries={"total_max_attempts": 1})
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=config,
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, url = start()
    with process:
        yield url
        process.terminate()


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # a line for each request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def clients(url: str, moto_url: str) -> Iterator[tuple["SQSClient", "SQSClient"]]:
    ours, moto = client_for(url), client_for(moto_url)
    yield ours, moto
    ours.close()
    moto.close()


class Session:
    """Runs operations on one server and keeps a transcript of the answers.

    Ids and receipt handles are told apart by the order of their appearance; times, hosts, accounts and the
    wording of errors are left out.
    """

    def __init__(self, client: "SQSClient") -> None:
        self.client = client
        self.transcript: list[Any] = []
        self._urls: dict[str, str] = {}
        self._seen: dict[str, str] = {}

    def __call__(self, operation: str, queue: str | None = "orders", **params: Any) -> dict[str, Any]:
        if queue is not None:
            params["QueueUrl"] = self._urls.get(queue, f"{self.client.meta.endpoint_url}/000000000000/{queue}")
        try:
            answer: dict[str, Any] = getattr(self.client, operation)(**params)
        except ClientError as error:
            answer = dict(error.response)
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            known = (type(error).__name__, answer["Error"]["Code"], answer["Error"]["QueryErrorCode"], status)
            self.transcript.append((operation, *known))
            return {}
        answer.pop("ResponseMetadata")
        self.transcript.append((operation, self._mask(answer)))
        return answer

    def create(self, name: str = "orders", **attributes: str) -> None:
        answer = self("create_queue", None, QueueName=name, Attributes=attributes)
        self._urls[name] = answer.get("QueueUrl", "")

    def arn(self, name: str) -> str:
        answer = self.client.get_queue_attributes(QueueUrl=self._urls[name], AttributeNames=["QueueArn"])
        return answer["Attributes"]["QueueArn"]

    def receive(self, queue: str = "orders", **params: Any) -> list[str]:
        """The receipt handles of what came."""
        answer = self("receive_message", queue, **{"AttributeNames": ["All"], **params})
        return [message["ReceiptHandle"] for message in answer.get("Messages", [])]

    def counts(self, queue: str = "orders") -> None:
        names = [f"ApproximateNumberOfMessages{suffix}" for suffix in ("", "Delayed", "NotVisible")]
        self("get_queue_attributes", queue, AttributeNames=names)

    def close(self) -> None:
        for url in self.client.list_queues().get("QueueUrls", []):
            self.client.delete_queue(QueueUrl=url)

    def _mask(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            kept = {name: self._mask(each, name) for name, each in value.items()}
            return {name: each for name, each in kept.items() if each not in (None, {}, [])}
        if isinstance(value, list):
            return [self._mask(each, key) for each in value]
        return self._mask_text(value, key)

    def _mask_text(self, value: Any, key: str) -> Any:
        if key in {"MessageId", "ReceiptHandle"}:
            return self._seen.setdefault(value, f"{key} {len(self._seen)}")
        if key in {"QueueUrl", "QueueUrls", "QueueArn", "DeadLetterQueueSourceArn"}:
            return None if key.startswith("Dead") else value.replace(":", "/").rsplit("/", 1)[-1]
        if key == "RedrivePolicy":
            policy = json.loads(value)
            return (policy["deadLetterTargetArn"].rsplit(":", 1)[-1], policy["maxReceiveCount"])
        dropped = "Timestamp" in key or key in {"Message", "SenderId", "SqsManagedSseEnabled"}
        return None if dropped else value


def attribute_script(run: Session) -> None:
    run.create()
    attributes: dict[str, Any] = {
        "shop": {"DataType": "String", "StringValue": "ñandú"},
        "trace.id": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        "trace.depth": {"DataType": "Number", "StringValue": "3"},
    }
    run("send_message", MessageBody="one", MessageAttributes=attributes, MessageGroupId="acme")
    for names in (["All"], [".*"], ["trace.*"], ["shop", "absent"], []):
        run.receive(MessageAttributeNames=names, VisibilityTimeout=0)
    for names in (["ApproximateReceiveCount"], ["MessageGroupId", "SentTimestamp"], []):
        run.receive(AttributeNames=names, VisibilityTimeout=0)
        run("receive_message", MessageSystemAttributeNames=names, VisibilityTimeout=0)


def body_script(run: Session) -> None:
    run.create()
    for body in ("x", "ñandú 🦤", '{"a": "\\u0000 \\" \n"}', " ", "x" * 1_048_576, "x" * 1_048_577):
        run("send_message", MessageBody=body)
    run.receive(MaxNumberOfMessages=10)


def visibility_script(run: Session) -> None:
    run.create(VisibilityTimeout="1")
    run("send_message", MessageBody="one")
    run.receive()
    run.receive()
    run.counts()
    (handle,) = run.receive(WaitTimeSeconds=5, VisibilityTimeout=60)
    run.counts()
    run("change_message_visibility", ReceiptHandle=handle, VisibilityTimeout=0)
    run.counts()
    (handle,) = run.receive(VisibilityTimeout=60)
    entries = [
        {"Id": "1", "ReceiptHandle": handle, "VisibilityTimeout": 0},
        {"Id": "2", "ReceiptHandle": "garbage", "VisibilityTimeout": 0},
        {"Id": "3", "ReceiptHandle": handle, "VisibilityTimeout": 43_201},
    ]
    run("change_message_visibility_batch", Entries=entries)
    (handle,) = run.receive(VisibilityTimeout=0)
    run("delete_message", ReceiptHandle=handle)
    run("delete_message", ReceiptHandle=handle)
    run.counts()


def delay_script(run: Session) -> None:
    run.create(DelaySeconds="1")
    run("send_message", MessageBody="late")
    run("send_message", MessageBody="later", DelaySeconds=5)
    run("send_message", MessageBody="now", DelaySeconds=0)
    run.counts()
    run.receive(MaxNumberOfMessages=10)
    run.receive(MaxNumberOfMessages=10, WaitTimeSeconds=6)  # answered by the first that is due, without the other


def redrive_script(run: Session) -> None:
    run.create("dead")
    run.create(
        "orders", RedrivePolicy=json.dumps({"deadLetterTargetArn": run.arn("dead"), "maxReceiveCount": "2"})
    )
    run("get_queue_attributes", AttributeNames=["RedrivePolicy", "VisibilityTimeout"])
    run("send_message", MessageBody="poison", MessageGroupId="acme")
    run("send_message", MessageBody="more poison")
    for _ in range(4):
        run.receive(VisibilityTimeout=0, MaxNumberOfMessages=10)
        run.counts("dead")
    run("send_message", MessageBody="good")
    run.receive()
    handles = run.receive("dead", MaxNumberOfMessages=10)
    entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)]
    run("delete_message_batch", "dead", Entries=entries)
    run.counts("dead")
    run("set_queue_attributes", Attributes={"RedrivePolicy": ""})
    run("get_queue_attributes", AttributeNames=["RedrivePolicy"])


def batch_script(run: Session) -> None:
    run.create()
    attributes = {"a": {"DataType": "String", "StringValue": "v"}}
    entries: list[dict[str, Any]] = [
        {"Id": "a-1", "MessageBody": "one", "MessageAttributes": attributes, "MessageGroupId": "acme"},
        {"Id": "b_2", "MessageBody": "two", "DelaySeconds": 901},
        {"Id": "c", "MessageBody": "three", "DelaySeconds": 900},
    ]
    run("send_message_batch", Entries=entries)
    run.counts()
    (handle,) = run.receive(MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    entries = [{"Id": "1", "ReceiptHandle": handle}, {"Id": "2", "ReceiptHandle": "garbage"}]
    run("delete_message_batch", Entries=entries)
    run("send_message_batch", Entries=[])
    run("delete_message_batch", Entries=[])
    run("send_message_batch", Entries=[{"Id": str(number), "MessageBody": "x"} for number in range(11)])
    run("send_message_batch", Entries=[{"Id": "1", "MessageBody": "x"}] * 2)
    run("send_message_batch", Entries=[{"Id": "not an id", "MessageBody": "x"}])
    run("send_message_batch", Entries=[{"Id": "x" * 81, "MessageBody": "x"}])
    run("send_message_batch", Entries=[{"Id": str(number), "MessageBody": "x" * 600_000} for number in range(2)])
    run("send_message_batch", Entries=[{"Id": str(number), "MessageBody": "x" * 524_288} for number in range(2)])
    run.counts()


def error_script(run: Session) -> None:
    run.create()
    text = {"DataType": "Text", "StringValue": "v"}
    run("send_message", MessageBody="x", DelaySeconds=901)
    run("send_message", MessageBody="x", MessageAttributes={"a": text})
    run("receive_message", MaxNumberOfMessages=0)
    run("receive_message", MaxNumberOfMessages=11)
    run("receive_message", WaitTimeSeconds=21)
    run("receive_message", VisibilityTimeout=43_201)
    run("delete_message", ReceiptHandle="garbage")
    run("change_message_visibility", ReceiptHandle="garbage", VisibilityTimeout=1)
    run("change_message_visibility", ReceiptHandle="garbage", VisibilityTimeout=43_201)
    run("get_queue_attributes", AttributeNames=["Nonsense"])
    run("set_queue_attributes", Attributes={"RedrivePolicy": '{"maxReceiveCount": "2"}'})
    nowhere = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:nowhere", "maxReceiveCount": "2"}
    run("set_queue_attributes", Attributes={"RedrivePolicy": json.dumps(nowhere)})
    run("create_queue", None, QueueName="not a name")


def unknown_queue_script(run: Session) -> None:
    run("get_queue_url", None, QueueName="nowhere")
    run("send_message", "nowhere", MessageBody="x")
    run("send_message_batch", "nowhere", Entries=[{"Id": "1", "MessageBody": "x"}])
    run("receive_message", "nowhere", WaitTimeSeconds=1)
    run("delete_message", "nowhere", ReceiptHandle="x")
    run("delete_message_batch", "nowhere", Entries=[{"Id": "1", "ReceiptHandle": "x"}])
    run("change_message_visibility", "nowhere", ReceiptHandle="x", VisibilityTimeout=1)
    run("get_queue_attributes", "nowhere", AttributeNames=["All"])
    run("set_queue_attributes", "nowhere", Attributes={"DelaySeconds": "1"})
    run("purge_queue", "nowhere")
    run("delete_queue", "nowhere")


def queue_script(run: Session) -> None:
    run("list_queues", None)
    run.create("orders", VisibilityTimeout="45", ReceiveMessageWaitTimeSeconds="1", MessageRetentionPeriod="60")
    run.create("orders", VisibilityTimeout="45")
    run.create("orders")
    run("create_queue", None, QueueName="orders", Attributes={"VisibilityTimeout": "46"})
    run.create("stock", DelaySeconds="900", MaximumMessageSize="1024")
    run("list_queues", None, QueueNamePrefix="ord")
    run("list_queues", None, QueueNamePrefix="none")
    run("get_queue_url", None, QueueName="orders")
    run("get_queue_attributes", AttributeNames=["All"])
    run("get_queue_attributes", "stock", AttributeNames=["All"])
    run("get_queue_attributes", AttributeNames=["VisibilityTimeout", "RedrivePolicy"])
    run("get_queue_attributes")
    run("send_message", "stock", MessageBody="x" * 1025)
    run("set_queue_attributes", Attributes={"VisibilityTimeout": "0", "DelaySeconds": "0"})
    run("send_message", MessageBody="one")
    run.receive()
    run.receive()
    run("purge_queue")
    run.receive()
    run("delete_queue")
    run("get_queue_url", None, QueueName="orders")
    run.create("orders")
    run.counts()


SCRIPTS: list[Callable[[Session], None]] = [
    attribute_script,
    body_script,
    visibility_script,
    delay_script,
    redrive_script,
    batch_script,
    error_script,
    unknown_queue_script,
    queue_script,
]


def transcripts(
    clients: tuple["SQSClient", "SQSClient"], script: Callable[[Session], None]
) -> tuple[list[Any], list[Any]]:
    """What both servers answered; they are asked at the same time, since some scripts wait."""
    sessions = [Session(client) for client in clients]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(script, sessions))
    finally:
        for session in sessions:
            session.close()
    return sessions[0].transcript, sessions[1].transcript


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_given_a_script_when_run_on_both_then_the_answers_are_those_of_moto(
    clients: tuple["SQSClient", "SQSClient"], script: Callable[[Session], None]
) -> None:
    ours, moto = transcripts(clients, script)
    assert ours == moto
    assert len(ours) > 5


class Player:
    """Plays generated steps on messages in flight by their latest handles: elsewhere moto is laxer than SQS."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    def __call__(self, run: Session) -> None:
        run.create("dead")
        policy = {"deadLetterTargetArn": run.arn("dead"), "maxReceiveCount": 3}
        run.create("orders", RedrivePolicy=json.dumps(policy))
        held: list[str] = []
        for name, *arguments in self.steps:
            held = getattr(self, name)(run, held, *arguments)
            run.counts()
        run.counts("dead")

    def send(self, run: Session, held: list[str], count: int) -> list[str]:
        entries = [{"Id": str(number), "MessageBody": f"body {number}"} for number in range(count)]
        run("send_message_batch", Entries=entries)
        return held

    def receive(self, run: Session, held: list[str], limit: int, visibility: int) -> list[str]:
        handles = run.receive(MaxNumberOfMessages=limit, VisibilityTimeout=visibility)
        return held + handles if visibility else held

    def bury(self, run: Session, held: list[str]) -> list[str]:
        for _ in range(3):
            run.receive(MaxNumberOfMessages=2, VisibilityTimeout=0)
        run.receive("dead", MaxNumberOfMessages=10)
        return held

    def delete(self, run: Session, held: list[str], count: int) -> list[str]:
        entries = [{"Id": str(number), "ReceiptHandle": each} for number, each in enumerate(held[:count])]
        run("delete_message_batch", Entries=entries)
        return held[count:]

    def release(self, run: Session, held: list[str], count: int) -> list[str]:
        for handle in held[:count]:
            run("change_message_visibility", ReceiptHandle=handle, VisibilityTimeout=0)
        return held[count:]

    def purge(self, run: Session, held: list[str]) -> list[str]:
        run("purge_queue")
        refused = len(run.transcript[-1]) > 2  # as the second in a minute is
        return held if refused else []


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 10)),
    st.tuples(st.just("receive"), st.integers(1, 10), st.sampled_from([0, 600])),
    st.tuples(st.just("bury")),
    st.tuples(st.just("delete"), st.integers(0, 4)),
    st.tuples(st.just("release"), st.integers(1, 4)),
    st.tuples(st.just("purge")),
)


@settings(max_examples=15, derandomize=True, deadline=None, database=None)
@given(steps=st.lists(STEPS, min_size=4, max_size=12))
def test_given_any_script_when_run_on_both_then_the_answers_are_those_of_moto(
    clients: tuple["SQSClient", "SQSClient"], steps: list[Step]
) -> None:
    ours, moto = transcripts(clients, Player([("send", 5), *steps]))
    assert ours == moto


@pytest.fixture
def sqs(url: str) -> Iterator["SQSClient"]:
    client = client_for(url)
    yield client
    end_faults(url)
    Session(client).close()
    client.close()


@pytest.fixture
def queue_url(sqs: "SQSClient") -> str:
    return sqs.create_queue(QueueName="orders")["QueueUrl"]


def set_faults(url: str, **faults: Any) -> None:
    requests.post(f"{url}/_sandbox", json=faults, timeout=5).raise_for_status()


def end_faults(url: str) -> None:
    requests.delete(f"{url}/_sandbox", timeout=5).raise_for_status()


def requests_by_action(url: str) -> dict[str, int]:
    counts: dict[str, int] = requests.get(f"{url}/_sandbox", timeout=5).json()["requests"]
    return counts


def receive_bodies(sqs: "SQSClient", queue_url: str, limit: int = 10, **params: Any) -> list[str]:
    answer = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=limit, **params)
    return [message["Body"] for message in answer.get("Messages", [])]


def code_of(operation: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as refused:
        operation(**params)
    return refused.value.response["Error"]["Code"]


def test_given_a_superseded_handle_when_used_then_sqs_rules_hold_where_moto_is_laxer(
    sqs: "SQSClient", queue_url: str
) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="one")
    handles = [
        sqs.receive_message(QueueUrl=queue_url, VisibilityTimeout=seconds)["Messages"][0]["ReceiptHandle"]
        for seconds in (0, 0)
    ]
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=handles[0])
    change = {"QueueUrl": queue_url, "VisibilityTimeout": 5}
    not_in_flight = "AWS.SimpleQueueService.MessageNotInflight"
    assert code_of(sqs.change_message_visibility, ReceiptHandle=handles[1], **change) == not_in_flight
    assert receive_bodies(sqs, queue_url) == ["one"]
    assert code_of(sqs.change_message_visibility, ReceiptHandle=handles[1], **change) == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("create_queue", {"QueueName": "orders.fifo", "Attributes": {"FifoQueue": "true"}}),
        ("start_message_move_task", {"SourceArn": "arn:aws:sqs:us-east-1:0:orders-dlq", "DestinationArn": "x"}),
        ("list_queues", {"MaxResults": 1}),
        ("send_message", {"QueueUrl": "/0/orders", "MessageBody": "x", "MessageDeduplicationId": "x"}),
    ],
)
def test_given_what_is_not_emulated_when_asked_for_then_it_is_an_unsupported_operation(
    sqs: "SQSClient", queue_url: str, operation: str, params: dict[str, Any]
) -> None:
    code = code_of(getattr(sqs, operation), **params)
    assert code == "AWS.SimpleQueueService.UnsupportedOperation"


def test_given_batches_when_too_long_or_not_distinct_then_deletes_and_changes_are_refused_too(
    sqs: "SQSClient", queue_url: str
) -> None:
    eleven = [{"Id": str(number), "ReceiptHandle": "x"} for number in range(11)]
    twice = [{"Id": "1", "ReceiptHandle": "x", "VisibilityTimeout": 0}] * 2
    prefix = "AWS.SimpleQueueService."
    too_many = code_of(sqs.delete_message_batch, QueueUrl=queue_url, Entries=eleven)
    repeated = code_of(sqs.change_message_visibility_batch, QueueUrl=queue_url, Entries=twice)
    empty = code_of(sqs.change_message_visibility_batch, QueueUrl=queue_url, Entries=[])
    assert (too_many, repeated) == (f"{prefix}TooManyEntriesInBatchRequest", f"{prefix}BatchEntryIdsNotDistinct")
    assert empty == f"{prefix}EmptyBatchRequest"


@pytest.mark.parametrize(
    "body", ["not json", "[]", '{"QueueUrl": 7}', '{"QueueUrl": "/0/orders", "WaitTimeSeconds": {}}']
)
def test_given_a_malformed_request_when_posted_then_it_is_refused_and_the_connection_lives(
    url: str, queue_url: str, body: str
) -> None:
    headers = {"X-Amz-Target": "AmazonSQS.ReceiveMessage"}
    with requests.Session() as session:
        answers = [session.post(url, data=body, headers=headers, timeout=5) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[1].json()["__type"] == "com.amazonaws.sqs#SerializationException"


def test_given_two_long_polls_when_one_message_arrives_then_one_of_them_gets_it(
    url: str, sqs: "SQSClient", queue_url: str
) -> None:
    before = requests_by_action(url).get("ReceiveMessage", 0)
    with ThreadPoolExecutor(2) as pool:
        polls = [pool.submit(receive_bodies, sqs, queue_url, WaitTimeSeconds=2) for _ in range(2)]
        while requests_by_action(url).get("ReceiveMessage", 0) < before + 2:
            time.sleep(0.01)
        sqs.send_message(QueueUrl=queue_url, MessageBody="one")
        got = sorted(poll.result() for poll in polls)
    assert got == [[], ["one"]]


def test_given_a_client_that_died_in_a_long_poll_when_a_message_arrives_then_it_is_left_to_others(
    url: str, sqs: "SQSClient", queue_url: str
) -> None:
    before = requests_by_action(url).get("ReceiveMessage", 0)
    body = json.dumps({"QueueUrl": queue_url, "WaitTimeSeconds": 20})
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as dying:
        head = "POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n"
        dying.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        while requests_by_action(url).get("ReceiveMessage", 0) == before:
            time.sleep(0.01)
    sqs.send_message(QueueUrl=queue_url, MessageBody="one")
    answer = sqs.receive_message(QueueUrl=queue_url, AttributeNames=["ApproximateReceiveCount"])
    assert answer["Messages"][0]["Attributes"] == {"ApproximateReceiveCount": "1"}


@pytest.mark.parametrize(
    ("faults", "code", "status"),
    [
        ({"throttling": 1}, "RequestThrottled", 403),
        ({"unavailable": "503"}, "ServiceUnavailable", 503),
    ],
)
def test_given_a_refusing_endpoint_when_called_then_the_error_is_as_aws_sends_it_until_it_ends(
    url: str, sqs: "SQSClient", queue_url: str, faults: dict[str, Any], code: str, status: int
) -> None:
    set_faults(url, **faults)
    with pytest.raises(ClientError) as refused:
        sqs.send_message(QueueUrl=queue_url, MessageBody="lost")
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    end_faults(url)
    sqs.send_message(QueueUrl=queue_url, MessageBody="kept")
    assert receive_bodies(sqs, queue_url) == ["kept"]


def test_given_a_hanging_endpoint_when_called_then_only_the_client_ends_the_call(url: str, queue_url: str) -> None:
    set_faults(url, unavailable="hang")
    hasty = client_for(url, read_timeout=0.3)
    with pytest.raises(ReadTimeoutError):
        hasty.send_message(QueueUrl=queue_url, MessageBody="lost")
    end_faults(url)
    assert receive_bodies(hasty, queue_url) == []
    hasty.close()


def test_given_throttling_with_a_seed_when_played_twice_then_the_same_calls_fail(
    url: str, sqs: "SQSClient", queue_url: str
) -> None:
    def played() -> list[bool]:
        set_faults(url, throttling=0.5, seed=3)
        outcomes = []
        for _ in range(20):
            try:
                sqs.send_message(QueueUrl=queue_url, MessageBody="x")
                outcomes.append(True)
            except ClientError:
                outcomes.append(False)
        return outcomes

    first = played()
    assert first == played()
    assert {True, False} == set(first)


def test_given_duplicates_when_a_message_is_deleted_then_it_is_delivered_once_more(
    url: str, sqs: "SQSClient", queue_url: str
) -> None:
    set_faults(url, duplicates=1)
    sent = sqs.send_message(QueueUrl=queue_url, MessageBody="one")["MessageId"]
    got = []
    while messages := sqs.receive_message(QueueUrl=queue_url).get("Messages", []):
        got += [message["MessageId"] for message in messages]
        sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=messages[0]["ReceiptHandle"])
    assert got == [sent, sent]


def test_given_reordering_when_received_then_all_come_and_not_in_order(
    url: str, sqs: "SQSClient", queue_url: str
) -> None:
    sent = [str(number) for number in range(10)]
    entries = [{"Id": body, "MessageBody": body} for body in sent]
    sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]
    set_faults(url, reordering=True, seed=1)
    got = receive_bodies(sqs, queue_url)
    assert got != sent
    assert sorted(got) == sent


def test_given_failing_entries_when_a_batch_is_sent_then_it_is_answered_entry_by_entry(
    url: str, sqs: "SQSClient", queue_url: str
) -> None:
    set_faults(url, entry_failures=0.5, seed=2)
    entries = [{"Id": str(number), "MessageBody": str(number)} for number in range(10)]
    answer = sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]
    end_faults(url)
    failed, sent = answer["Failed"], [each["Id"] for each in answer["Successful"]]
    assert {(each["Code"], each["SenderFault"]) for each in failed} == {("InternalError", False)}
    assert sorted([*sent, *(each["Id"] for each in failed)]) == [str(number) for number in range(10)]
    assert receive_bodies(sqs, queue_url) == sent


def test_given_faults_that_make_no_sense_when_posted_then_they_are_refused_and_named(url: str) -> None:
    answer = requests.post(f"{url}/_sandbox", json={"throtling": 1, "duplicates": 2}, timeout=5)
    assert answer.status_code == 422
    assert "throtling" in answer.json()["message"]
    assert "duplicates" in answer.json()["message"]
    assert requests.get(f"{url}/_sandbox", timeout=5).json()["settings"]["duplicates"] == 0


def test_given_faults_when_others_are_named_then_they_stay_until_all_are_ended(url: str, sqs: "SQSClient") -> None:
    set_faults(url, reordering=True, seed=3)
    set_faults(url, duplicates=0.5)
    sqs.list_queues()
    state = requests.get(f"{url}/_sandbox", timeout=5).json()
    assert (state["settings"]["reordering"], state["settings"]["duplicates"]) == (True, 0.5)
    assert state["requests"]["ListQueues"] > 0
    end_faults(url)
    state = requests.get(f"{url}/_sandbox", timeout=5).json()
    assert not any(state["settings"].values())
    assert state["requests"] == {}


def test_given_calls_when_counted_then_each_action_has_its_own_number(
    url: str, sqs: "SQSClient", queue_url: str
) -> None:
    before = requests_by_action(url)
    for _ in range(3):
        sqs.send_message(QueueUrl=queue_url, MessageBody="x")
    receive_bodies(sqs, queue_url)
    after = requests_by_action(url)
    added = {action: count - before.get(action, 0) for action, count in after.items()}
    assert {action: count for action, count in added.items() if count} == {"SendMessage": 3, "ReceiveMessage": 1}


def test_given_queues_on_the_command_line_when_started_then_they_and_their_dead_letter_queues_exist() -> None:
    process, url = start("--queue", "orders", "--queue", "stock:7:3")
    sqs = client_for(url)
    found = {}
    for queue_url in sqs.list_queues()["QueueUrls"]:
        attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
        policy = json.loads(attributes.get("RedrivePolicy", "{}"))
        target = policy.get("deadLetterTargetArn", "").rsplit(":", 1)[-1]
        found[queue_url] = (attributes["VisibilityTimeout"], target, policy.get("maxReceiveCount"))
    sqs.close()
    process.terminate()
    process.communicate()
    assert found == {
        f"{url}/000000000000/orders": ("120", "orders-dlq", 10),
        f"{url}/000000000000/orders-dlq": ("30", "", None),
        f"{url}/000000000000/stock": ("7", "stock-dlq", 3),
        f"{url}/000000000000/stock-dlq": ("30", "", None),
    }


def test_given_a_long_poll_when_told_to_end_then_it_exits_with_zero_and_has_nothing_more_to_say() -> None:
    process, url = start("--queue", "orders")
    body = json.dumps({"QueueUrl": f"{url}/000000000000/orders", "WaitTimeSeconds": 20})
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as polling:
        head = "POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n"
        polling.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        while not requests_by_action(url):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=10)
    assert (process.returncode, *rest) == (0, "", "")


def kombu_connection(url: str, queue_url: str) -> Any:
    options = {
        "predefined_queues": {"orders": {"url": queue_url}},
        "wait_time_seconds": 1,
        "polling_interval": 0,
        "is_secure": False,
        "region": "us-east-1",
    }
    connect: Any = Connection
    return connect(f"sqs://any:any@{url.removeprefix('http://')}", transport_options=options)


@contextmanager
def event_loop() -> Iterator[Any]:
    """Kombu's loop; a channel opened while there is one receives by pycurl on it."""
    hub: Any = Hub()  # type: ignore[no-untyped-call]
    set_event_loop(hub)
    try:
        yield hub.create_loop()
    finally:
        hub.close()
        set_event_loop(None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:kombu.asynchronous.http.curl")  # pycurl 7.49 gives them
@pytest.mark.parametrize("receive_by", ["boto3", "pycurl"])
def test_given_kombu_when_it_produces_and_consumes_then_messages_arrive_and_are_acknowledged(
    url: str, sqs: "SQSClient", queue_url: str, receive_by: str
) -> None:
    got: list[Any] = []

    def take(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    before = requests_by_action(url)
    queue = Queue("orders", routing_key="orders")  # type: ignore[no-untyped-call]
    with (
        event_loop() if receive_by == "pycurl" else nullcontext() as loop,
        kombu_connection(url, queue_url) as connection,
    ):
        producer = connection.Producer()
        for number in range(3):
            producer.publish({"sync": number}, routing_key="orders", MessageGroupId="acme")
        with connection.Consumer(queue, callbacks=[take]):
            while len(got) < 3:
                if loop is None:
                    connection.drain_events(timeout=5)
                else:
                    next(loop)
    assert sorted(body["sync"] for body in got) == [0, 1, 2]
    after = requests_by_action(url)
    assert after["SendMessage"] - before.get("SendMessage", 0) == 3
    assert after["DeleteMessage"] - before.get("DeleteMessage", 0) == 3
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    left = {key: value for key, value in attributes.items() if key.startswith("Approximate") and value != "0"}
    assert left == {}
