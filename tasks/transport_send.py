"""Sending messages to SQS in batches: ten cost as much as one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kombu.transport import SQS

from tasks.transport_delete import BATCH, name_of

BATCH_BYTES = 1_048_576
"""What the messages of one call may have together: their bodies and their attributes."""

NOT_TRIED = "not tried"
"""Why a message is not sent whose call was not begun: an earlier one failed, or there was no time left."""


@dataclass(frozen=True)
class Send:
    """One message that is kept back: of which publish, by which client, and what `send_message` was given."""

    place: int
    client: Any
    given: dict[str, Any]

    @property
    def queue_url(self) -> str:
        """Where to."""
        return str(self.given["QueueUrl"])

    @property
    def size(self) -> int:
        """What SQS counts of it, in bytes."""
        attributes: dict[str, dict[str, Any]] = self.given.get("MessageAttributes") or {}
        texts = [self.given["MessageBody"], *attributes]
        texts += [str(value) for one in attributes.values() for value in one.values()]
        return sum(len(text.encode("utf-8", "replace")) for text in texts)


class Keeper:
    """A boto3 client whose `send_message` keeps the message back. All else goes through."""

    def __init__(self, client: Any, keep: Callable[[Any, dict[str, Any]], None]) -> None:
        self._client = client
        self._keep = keep

    def send_message(self, **given: Any) -> None:
        """Keep it."""
        self._keep(self._client, given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def batches(sends: Sequence[Send]) -> Iterator[list[Send]]:
    """Group them as calls take them: of one queue, in their order, ten at most and so many bytes."""
    lines: dict[tuple[int, str], list[Send]] = {}
    for one in sends:
        lines.setdefault((id(one.client), one.queue_url), []).append(one)
    for line in lines.values():
        batch: list[Send] = []
        for one in line:
            if batch and (len(batch) == BATCH or sum(each.size for each in [*batch, one]) > BATCH_BYTES):
                yield batch
                batch = []
            batch.append(one)
        yield batch


def send_all(sends: Sequence[Send], goes_on: Callable[[], bool]) -> dict[int, str]:
    """Send them; the places of those that failed, and why. After a call that failed as a whole none is begun."""
    failed: dict[int, str] = {}
    stopped = False
    for number, batch in enumerate(batches(sends)):
        if stopped or (number and not goes_on()):
            stopped = True
            failed |= dict.fromkeys((one.place for one in batch), NOT_TRIED)
            continue
        try:
            failed |= _send(batch)
        except Exception as error:  # noqa: BLE001 - whatever the way to SQS throws, the caller hears which are not sent
            stopped = True
            failed |= dict.fromkeys((one.place for one in batch), name_of(error))
    return failed


def _send(batch: list[Send]) -> dict[int, str]:
    entries = [
        {"Id": str(number)} | {name: value for name, value in one.given.items() if name != "QueueUrl"}
        for number, one in enumerate(batch)
    ]
    answer = batch[0].client.send_message_batch(QueueUrl=batch[0].queue_url, Entries=entries)
    sent = {int(one["Id"]) for one in answer.get("Successful", ())}
    codes = {int(one["Id"]): str(one["Code"]) for one in answer.get("Failed", ())}
    return {one.place: codes.get(number, "not answered") for number, one in enumerate(batch) if number not in sent}


class DelayRefused(ValueError):
    """A message for a FIFO queue has a delay of its own, which SQS does not have."""


class Sending(SQS.Channel):
    """A channel that sends messages by tens, if asked to."""

    _kept: list[Send] | None = None
    _place = 0

    def sqs(self, queue: str | None = None) -> Any:
        """The boto3 client; within `publish_many`, one that keeps its messages back."""
        client = super().sqs(queue)  # type: ignore[no-untyped-call]
        return client if self._kept is None else Keeper(client, self._keep)

    def _keep(self, client: Any, given: dict[str, Any]) -> None:
        assert self._kept is not None, "within publish_many"  # noqa: S101
        self._kept.append(Send(self._place, client, given))

    def publish_many(
        self, publishes: Sequence[Callable[[], object]], goes_on: Callable[[], bool] = lambda: True
    ) -> dict[int, str]:
        """Run these, and send what they publish on this channel by tens; the places of those that failed, and why.

        `goes_on` is asked before each call but the first. A call that is not answered may have sent its messages
        all the same. What a publish raises is raised, and nothing is sent.
        """
        kept: list[Send] = []
        self._kept = kept
        try:
            for self._place, publish in enumerate(publishes):
                publish()
        finally:
            self._kept = None
        return send_all(kept, goes_on)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        properties = message.get("properties", {})
        if queue.endswith(".fifo") and self._resolve_delay_seconds(properties):  # type: ignore[no-untyped-call]
            raise DelayRefused(
                f"{queue} is a FIFO queue: SQS delays none of its messages by itself. Set no delay."
            )
        super()._put(queue, message, **kwargs)  # type: ignore[no-untyped-call]
