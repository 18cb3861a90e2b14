"""The rules of an SQS standard queue: no socket, and no clock but the one handed in.

Messages live in memory only: the ledger is the truth, and what a lost queue owed is rung again. Times are seconds
since the epoch. The rules come from the SQS API reference; tests/integration compares them with moto.
"""

import base64
import hashlib
import itertools
import re
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, Field, Json, ValidationError
from pydantic.alias_generators import to_camel, to_pascal

Clock = Callable[[], float]
Choice = Callable[[int], int] | None  # a number below the given one, at random
Chance = Callable[[], bool] | None  # whether it happens this time
Values = Mapping[str, Any] | None  # a message's attributes by name

AWS = "AWS.SimpleQueueService."  # begins the codes of SQS's own errors
ACCOUNT = "000000000000"
MAX_BYTES = 1_048_576  # a message, and all messages of a batch together: 1 MiB
MAX_DELAY = 900  # seconds
MAX_VISIBILITY = 43_200  # seconds
_ATTRIBUTE = re.compile(r"[A-Za-z0-9_.-]{1,256}: (String|Number|Binary)(\..{1,249})?")  # name: type
_NAMES = {f"{AWS}NonExistentQueue": "QueueDoesNotExist", "QueueAlreadyExists": "QueueNameExists"}


@dataclass(eq=False)
class SqsError(Exception):
    """An error answer, known by the code that botocore shows; its class in botocore is `name`."""

    code: str
    message: str
    status: int = 400

    @property
    def name(self) -> str:
        """The error's shape in the service model."""
        return _NAMES.get(self.code, self.code.removeprefix(AWS))


class RedrivePolicy(BaseModel, frozen=True, alias_generator=to_camel, serialize_by_alias=True):
    """After how many receives a message goes to which dead-letter queue."""

    dead_letter_target_arn: str
    max_receive_count: int = Field(ge=1, le=1000)


class Attributes(BaseModel, frozen=True, extra="forbid", alias_generator=to_pascal):
    """What can be set on a queue, with the ranges and defaults of SetQueueAttributes."""

    delay_seconds: int = Field(0, ge=0, le=MAX_DELAY)
    maximum_message_size: int = Field(MAX_BYTES, ge=1024, le=MAX_BYTES)
    message_retention_period: int = Field(345_600, ge=60, le=1_209_600)
    receive_message_wait_time_seconds: int = Field(0, ge=0, le=20)
    visibility_timeout: int = Field(30, ge=0, le=MAX_VISIBILITY)
    redrive_policy: Json[RedrivePolicy] | Literal[""] = ""

    def in_words(self) -> dict[str, str]:
        """As clients write and read them."""
        return {name: str(value) for name, value in self.model_dump(by_alias=True, round_trip=True).items()}

    def changed(self, changes: Mapping[str, str]) -> "Attributes":
        """With these changes. Raises SqsError for what is out of range or not emulated."""
        try:
            return Attributes.model_validate({**self.in_words(), **changes})
        except ValidationError as error:
            name, problem = error.errors()[0]["loc"][0], error.errors()[0]["type"]
            code = "InvalidParameterValue" if name == "RedrivePolicy" else "InvalidAttributeValue"
            code = "InvalidAttributeName" if problem == "extra_forbidden" else code
            raise SqsError(code, f"The queue attribute {name} is unknown or its value invalid.") from None


@dataclass(slots=True)
class Message:
    """One message. `place` is its position in its queue; from the time `until` on it is visible."""

    body: str
    sent_at: float
    message_attributes: Mapping[str, Any]
    system_attributes: Mapping[str, str]
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    place: int = 0
    until: float = 0.0
    receive_count: int = 0
    first_received_at: float = 0.0
    repeated: bool = False


class Queue:
    """A standard queue among its siblings, where its dead-letter queue is found by name."""

    def __init__(self, name: str, clock: Clock, given: Mapping[str, str], siblings: dict[str, "Queue"]) -> None:
        self.name, self.arn = name, f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"
        self.attributes = Attributes()
        self.listeners: set[Callable[[], None]] = set()  # called when a waiting receive should look again
        self._clock, self._siblings = clock, siblings
        self._purged_at, self._places = 0.0, itertools.count()
        # By place. A receive steps over what is hidden (few, P1); in a plain dict, over all that was deleted, too.
        self._messages: OrderedDict[int, Message] = OrderedDict()
        self.set_attributes(given)

    def set_attributes(self, changes: Mapping[str, str]) -> None:
        """Change attributes; hidden messages keep the timeout that they were hidden with."""
        changed = self.attributes.changed(changes)
        policy = changed.redrive_policy if "RedrivePolicy" in changes else ""
        others = {queue.arn for queue in self._siblings.values() if queue is not self}
        if policy and policy.dead_letter_target_arn not in others:
            raise SqsError(f"{AWS}NonExistentQueue", "No other queue has the deadLetterTargetArn.")
        self.attributes = changed

    def describe(self) -> dict[str, str]:
        """Every attribute. The counts include messages past their retention that nobody came for."""
        received = [each.receive_count > 0 for each in self._messages.values() if each.until > self._clock()]
        return {
            **{name: value for name, value in self.attributes.in_words().items() if value},
            "ApproximateNumberOfMessages": str(len(self._messages) - len(received)),
            "ApproximateNumberOfMessagesDelayed": str(received.count(False)),
            "ApproximateNumberOfMessagesNotVisible": str(received.count(True)),
            "QueueArn": self.arn,
        }

    def send(
        self, body: str, delay: int | None = None, attributes: Values = None, system: Values = None
    ) -> Message:
        """Add a message. MessageGroupId, kept on standard queues since July 2025, is a system attribute."""
        message = Message(body, self._clock(), attributes or {}, system or {})
        limit = self.attributes.maximum_message_size
        delay = self.attributes.delay_seconds if delay is None else delay
        if not body:
            raise SqsError("MissingParameter", "The request must contain the parameter MessageBody.")
        if payload_bytes(body, message.message_attributes) > limit:
            raise SqsError("InvalidParameterValue", f"Message must be shorter than {limit} bytes.")
        if not 0 <= delay <= MAX_DELAY:
            raise SqsError("InvalidParameterValue", f"DelaySeconds must be >= 0 and <= {MAX_DELAY}.")
        self._insert(message, delay)
        return message

    def receive(
        self, limit: int = 1, visibility: int | None = None, *, choose: Choice = None, repeat: Chance = None
    ) -> list[Message]:
        """Take up to `limit` visible messages, the oldest first or as `choose` draws them, and hide them.

        What `repeat` picks is delivered once more whatever becomes of it: SQS promises delivery at least once.
        """
        now = self._clock()
        seconds = self.attributes.visibility_timeout if visibility is None else visibility
        taken = self._first(limit, choose)
        while sum(map(self._retire, taken)):  # of all of them: any() would stop at the first
            taken = self._first(limit, choose)
        for message in taken:
            message.receive_count += 1
            message.first_received_at = message.first_received_at or now
            self._show(message, now + seconds)
        for message in taken:
            if repeat is not None and not message.repeated and repeat():
                self._insert(replace(message, repeated=True))
        return taken

    def receipt_handle(self, message: Message) -> str:
        """The handle of a message's latest receive; the id tells it from what had its place before a restart."""
        return f"{self.name}/{message.place}/{message.receive_count}/{message.message_id}"

    def delete(self, receipt_handle: str) -> None:
        """Delete a message, by its latest handle only; "the request succeeds" with others too (API reference)."""
        if message := self._held(receipt_handle):
            del self._messages[message.place]

    def change_visibility(self, receipt_handle: str, seconds: int) -> None:
        """Hide a message in flight until `seconds` from now; 0 shows it at once."""
        message, now = self._held(receipt_handle), self._clock()
        if message is None:
            text = "Message does not exist or is not available for visibility timeout change."
            raise SqsError("InvalidParameterValue", text)
        if message.until <= now:
            raise SqsError(f"{AWS}MessageNotInflight", "The message isn't in flight.")
        self._show(message, now + seconds)

    def purge(self) -> None:
        """Delete every message; SQS does so once in 60 seconds."""
        now = self._clock()
        if now < self._purged_at + 60:
            raise SqsError(f"{AWS}PurgeQueueInProgress", "A queue is purged once in 60 seconds.", status=403)
        self._purged_at = now
        self._messages.clear()

    def redrive(self) -> None:
        """Send what is visible back to the queues that it died in, as new: StartMessageMoveTask, but at once."""
        for message in self._first(len(self._messages), None):
            system = dict(message.system_attributes)
            source = self._siblings.get(system.pop("DeadLetterQueueSourceArn", "").rpartition(":")[2])
            if source is not None:
                del self._messages[message.place]
                source.send(message.body, None, message.message_attributes, system)

    def next_change(self) -> float | None:
        """When the next hidden message becomes visible, or None."""
        now = self._clock()
        return min((message.until for message in self._messages.values() if message.until > now), default=None)

    def _insert(self, message: Message, delay: int = 0) -> None:
        message.place = next(self._places)
        self._messages[message.place] = message
        self._show(message, self._clock() + delay)

    def _show(self, message: Message, until: float) -> None:
        """Make a message visible from `until` on, and tell the listeners if that is sooner than they expect."""
        expected = self.next_change() if self.listeners else None
        message.until = until
        if expected is None or until < expected:
            for listener in self.listeners:
                listener()

    def _first(self, limit: int, choose: Choice) -> list[Message]:
        now = self._clock()
        visible: Iterable[Message] = (message for message in self._messages.values() if message.until <= now)
        if choose is not None:
            visible = sorted(visible, key=lambda _message: choose(1 << 32))
        return list(itertools.islice(visible, limit))

    def _retire(self, message: Message) -> bool:
        """Drop a message past its retention, bury one received too often. Tells whether it was either."""
        expired = message.sent_at + self.attributes.message_retention_period <= self._clock()
        policy, dead_letters = self.attributes.redrive_policy, None
        if policy and message.receive_count >= policy.max_receive_count:
            dead_letters = self._siblings.get(policy.dead_letter_target_arn.rpartition(":")[2])
        if expired or dead_letters:
            del self._messages[message.place]
        if dead_letters and not expired:
            system = {**message.system_attributes, "DeadLetterQueueSourceArn": self.arn}
            dead_letters._insert(replace(message, system_attributes=system))
        return expired or dead_letters is not None

    def _held(self, receipt_handle: str) -> Message | None:
        parts = re.fullmatch(rf"{self.name}/(\d+)/\d+/[0-9a-f-]{{36}}", receipt_handle)
        if parts is None:
            raise SqsError("ReceiptHandleIsInvalid", f'"{receipt_handle}" is not a receipt handle of this queue.')
        message = self._messages.get(int(parts[1]))
        return message if message and self.receipt_handle(message) == receipt_handle else None


def payload_bytes(body: str, attributes: Mapping[str, Any]) -> int:
    """What counts against the size limit: the body, and each attribute's name, type and value, in UTF-8."""
    return len(body.encode()) + len(_framed(attributes)) - 13 * len(attributes)  # framed by 3 x 4 + 1 bytes each


def digests(title: str, body: str, attributes: Mapping[str, Any]) -> dict[str, str]:
    """What clients check that a message arrived whole by; the body's digest has more than one title."""
    digested = {title: body.encode(), "MD5OfMessageAttributes": _framed(attributes)}
    return {key: hashlib.md5(value, usedforsecurity=False).hexdigest() for key, value in digested.items() if value}


def _framed(attributes: Mapping[str, Any]) -> bytes:
    """As digested: developer guide, "Calculating the MD5 message digest for message attributes"."""
    framed = b""
    for name in sorted(attributes):
        kind = attributes[name].get("DataType", "")
        binary = kind.startswith("Binary")
        value = attributes[name].get("BinaryValue" if binary else "StringValue")
        if not (value and _ATTRIBUTE.fullmatch(f"{name}: {kind}")):
            raise SqsError("InvalidParameterValue", f"Message attribute {name} lacks a valid name, type or value.")
        parts = (name.encode(), kind.encode(), base64.b64decode(value) if binary else value.encode())
        title, sort, content = (len(part).to_bytes(4, "big") + part for part in parts)
        framed += title + sort + (b"\x02" if binary else b"\x01") + content
    return framed
