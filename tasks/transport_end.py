"""A channel's messages that end: acknowledged, rejected or given back, by tens."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger
from kombu.transport import SQS, virtual
from kombu.transport.SQS.exceptions import AccessDeniedQueueException

from tasks.transport_delete import BATCH, FLUSH_SECONDS, Deleter, Receipt, name_of

logger = get_logger(__name__)


def in_batches(handles: Iterable[str]) -> Iterable[list[str]]:
    """The handles by tens."""
    left = list(handles)
    return (left[start : start + BATCH] for start in range(0, len(left), BATCH))


class QoS(SQS.QoS):
    """What the consumer holds."""

    def restore_unacked(self) -> list[Any]:
        """Make all that is held visible again, at once and in batches. None is left: their time ends by itself."""
        self._flush()  # type: ignore[no-untyped-call]
        self.release(list(self._delivered))
        return []

    def release(self, tags: Iterable[str]) -> None:
        """Hold these no more, and make them visible again, at once and in batches."""
        held = [self._delivered.pop(tag).delivery_info for tag in tags if tag in self._delivered]
        for url, name in {(one["sqs_queue"], one.get("routing_key")) for one in held if "sqs_queue" in one}:
            messages = [
                one["sqs_message"] for one in held if (one.get("sqs_queue"), one.get("routing_key")) == (url, name)
            ]
            self.channel._release_messages(url, name, messages)


class Deleting(SQS.Channel):
    """A channel that deletes and releases messages by tens."""

    QoS = QoS
    deleter = Deleter()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._left: list[str] = []
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def leave(self, delivery_tag: str) -> None:
        """Hear of a message that is held, and that will not be begun here: it goes back with `release_left`."""
        self._left.append(delivery_tag)

    def release_left(self) -> None:
        """Give back what will not be begun. Not while something is listened to: it would come again."""
        left, self._left = self._left, []
        self.qos.release(left)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002 - kombu's
        """End a message; it is deleted soon. Blocks while too many wait for that."""
        try:
            if receipt := self._receipt(delivery_tag):
                self.deleter.add(receipt)
        except ClientError as error:
            if name_of(error).startswith("AccessDenied"):
                raise AccessDeniedQueueException(error.response["Error"]["Message"]) from None
            raise
        finally:  # its place is free, whatever became of its delete
            virtual.Channel.basic_ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def _receipt(self, delivery_tag: str) -> Receipt | None:
        """The receipt of a message that is held."""
        info = getattr(self.qos._delivered.get(delivery_tag), "delivery_info", {})
        if "sqs_message" not in info:
            return None
        client = self.sqs(queue=self._sqs_name(info.get("routing_key")))  # type: ignore[no-untyped-call]
        return Receipt(client, info["sqs_queue"], info["sqs_message"]["ReceiptHandle"])

    def _sqs_name(self, queue: str | None) -> str | None:
        """A queue's name on SQS; None for None, which is what a message says that is no message of kombu's."""
        return queue and self.canonical_queue_name(queue)  # type: ignore[no-untyped-call]

    def _delete_rejected_message(self, delivery_tag: str) -> None:
        """Have it deleted like others; where a dead-letter queue waits for it, leave it, as kombu does."""
        receipt = self._receipt(delivery_tag)
        if receipt is None:
            return
        queue = self._sqs_name(self.qos.get(delivery_tag).delivery_info.get("routing_key"))
        if not self._has_redrive_policy(queue, receipt.queue_url):  # type: ignore[no-untyped-call]
            with suppress(ClientError):  # that an earlier one was denied is said where that is acknowledged
                self.deleter.add(receipt)

    def _restore(self, message: Any, *args: Any) -> None:
        """Put a message back, as kombu does. One that can't be comes again by itself: that is no error."""
        try:
            super()._restore(message, *args)  # type: ignore[no-untyped-call]
        except (ClientError, BotoCoreError, OSError) as error:
            logger.warning("A message is not put back, it comes again by itself: %s", name_of(error))

    def _delete_message(self, queue_name: str, message: Mapping[str, Any]) -> None:
        client = self.sqs(queue=self.canonical_queue_name(queue_name))  # type: ignore[no-untyped-call]
        self.deleter.add(Receipt(client, self._new_queue(queue_name), message["ReceiptHandle"]))  # type: ignore[no-untyped-call]

    def _release_messages(self, queue: str, qname: str | None, messages: Sequence[Mapping[str, Any]]) -> None:
        """Make messages visible again at once. Those that SQS refuses become so by themselves, later."""
        logger.info("Releasing %d messages of %s", len(messages), qname)
        try:
            client = self._new_release_client(self.sqs(queue=self._sqs_name(qname)))  # type: ignore[no-untyped-call]
            for handles in in_batches(message["ReceiptHandle"] for message in messages):
                entries = [
                    {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                    for number, handle in enumerate(handles)
                ]
                client.change_message_visibility_batch(QueueUrl=queue, Entries=entries)
        except (ClientError, BotoCoreError, OSError) as error:
            logger.warning("Messages of %s are not released: %s", qname, name_of(error))

    def close(self) -> None:
        """Give back what is held, and have deleted what has ended."""
        super().close()  # type: ignore[no-untyped-call]
        if left := self.deleter.flush(FLUSH_SECONDS):
            logger.warning("%d messages that have ended are not deleted yet", left)
