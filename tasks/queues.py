"""The queues on SQS: their names, the attributes they must have, and how full they are."""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import boto3
import orjson
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from integrator.config import Settings, settings
from integrator.shops.base import Kind
from tasks.counted import counted


@dataclass(frozen=True)
class Queue:
    """One queue, the kind of document whose syncs it rings for, and the task that answers."""

    name: str
    kind: str
    task: str
    visibility_seconds: int = 120
    max_receive_count: int = 10

    @property
    def dead_letters(self) -> str:
        """Its dead-letter queue: what no worker could start. Harmless, since the ledger rings again; an alarm."""
        return f"{self.name}-dlq"


QUEUES = (Queue("orders", Kind.ORDER, "tasks.orders.sync_order"),)
"""Every queue; each has a consumer wherever the system is deployed."""

OF_KIND = {queue.kind: queue for queue in QUEUES}


class QueueMismatch(Exception):
    """A queue is not as celeryconfig and the protocol need it. Its text is for people."""


_one_at_a_time = threading.Lock()


def new_client(config: Config, service: str = "sqs", **options: Any) -> Any:
    """A boto3 client of the process's one session, counted: each session holds all that is known of AWS, 9 MB."""
    with _one_at_a_time:
        made: Any = boto3.client
        return counted(made(service, config=config, **options))


@cache
def client() -> Any:
    """A boto3 client for counting and checking; publishing goes through Celery."""
    given = settings()
    return new_client(
        region_name=given.sqs_region,
        endpoint_url=given.sqs_endpoint_url,
        config=Config(connect_timeout=3, read_timeout=3, retries={"total_max_attempts": 1}),
    )


def depth(queue: Queue) -> int:
    """Messages in the queue: visible, in flight and delayed, as SQS counts them (PROTOCOL P5).

    Raises BotoCoreError or ClientError.
    """
    return counts(queue.name).all


def dead_letters(queue: Queue) -> int:
    """Messages in its dead-letter queue. Raises BotoCoreError or ClientError."""
    return counts(queue.dead_letters).all


@dataclass(frozen=True)
class Counts:
    """Messages of one queue, as SQS counts them: about."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def all(self) -> int:
        """All of them."""
        return self.visible + self.in_flight + self.delayed


def counts(name: str) -> Counts:
    """Count a queue by the name after the prefix. Raises BotoCoreError or ClientError."""
    names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
    url = settings().queue_url(name)
    found = client().get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return Counts(*(int(found.get(name, 0)) for name in names))


def redrive(queue: Queue) -> None:
    """Have SQS send the dead letters of a queue back into it; it does so by and by.

    Raises BotoCoreError or ClientError.
    """
    url = settings().queue_url(queue.dead_letters)
    found = client().get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    client().start_message_move_task(SourceArn=found["QueueArn"])


def check(queue: Queue, given: Settings) -> None:
    """Compare a queue's attributes with what the protocol needs, at start. Raises QueueMismatch."""
    url = given.queue_url(queue.name)
    try:
        found = client().get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    except (BotoCoreError, ClientError) as error:
        raise QueueMismatch(
            f"The queue {url} can't be read ({type(error).__name__}). Check INTEGRATOR_SQS_ENDPOINT_URL, "
            "INTEGRATOR_SQS_QUEUE_URL_PREFIX and the AWS credentials, and that the queue exists."
        ) from error
    wrong = [
        f"{name} is {is_} instead of {should}" for name, is_, should in _compare(queue, found) if is_ != should
    ]
    if wrong:
        raise QueueMismatch(f"The queue {url} is not as it must be: {'; '.join(wrong)}.")


def _compare(queue: Queue, found: dict[str, str]) -> list[tuple[str, Any, Any]]:
    redrive = orjson.loads(found.get("RedrivePolicy") or "{}")
    count = int(redrive.get("maxReceiveCount", 0))
    return [
        ("VisibilityTimeout", int(found.get("VisibilityTimeout", 0)), queue.visibility_seconds),
        ("DelaySeconds", int(found.get("DelaySeconds", 0)), 0),
        ("maxReceiveCount", max(count, 0), max(count, queue.max_receive_count)),
        ("deadLetterTargetArn", str(redrive.get("deadLetterTargetArn", "")).rpartition("-")[2], "dlq"),
    ]
