"""Deleting messages from SQS in batches, in threads of their own (ten cost as much as one).

A message that is to be deleted is nobody's business any more: its task has ended, or was begun for good. Until it
is gone it stays invisible, or comes again when its visibility ends, which every consumer of SQS must take.
"""

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger

logger = get_logger(__name__)

BATCH = 10
"""Messages that SQS takes in one call."""

LINGER_SECONDS = 0.005
"""How long a message waits for others to be deleted with."""

CAPACITY = 1_000
"""Messages that wait to be deleted at most; further ones wait in `add`."""

LOOK_SECONDS = 0.5
"""How often one that waits in `add` looks whether the process is to stop."""

THREADS = 4
"""So many calls under way at most. One thread does until more wait than it takes in a call."""

PAUSE_SECONDS = (0.1, 2.0)
"""How long a thread rests after a call that failed: twice as long each time, from the first to the second."""

DOUBLED_AT_MOST = 10
"""How often that is, so that an outage of hours leads to no numbers that are too large."""

EXPIRED = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "InvalidIdFormat"})
"""Errors of a receipt that is no longer good: the message has been handed out again, or is gone."""

PASSING = frozenset({"InternalError", "InternalFailure", "RequestThrottled", "Throttling", "ThrottlingException"})
"""Errors that another try may not meet, beside those that say so by a status of 429 or from 500 on."""


FLUSH_SECONDS = 5.0
"""How long a channel that is closed waits for what is to be deleted, while SQS answers."""

LAST_SECONDS = 3.0
"""How long a process that ends tries to delete what is left, also while SQS refuses."""


@dataclass(frozen=True)
class Receipt:
    """One message to delete: by which boto3 client, from which queue, by which receipt handle."""

    client: Any
    queue_url: str
    handle: str


class Deleter:
    """Deletes what it is given. Threads share it; each process has threads of its own.

    `note` is told what became of each message: "deleted", "expired" (the receipt was no longer good), "refused"
    (SQS will not delete it), or "left" (too many waited when the process was to stop, which `stops` says).
    """

    def __init__(
        self, note: Callable[[str], None] = lambda _outcome: None, stops: Callable[[], bool] = lambda: False
    ) -> None:
        self._note = note
        self._stops = stops
        self._fork_lock = threading.Lock()
        self._reset()
        atexit.register(self.flush, LAST_SECONDS, patient=True)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[tuple[int, str], deque[tuple[float, Receipt]]] = {}  # by client and queue
        self._count = 0  # those that wait and those under way
        self._threads = 0
        self._failures = 0
        self._hurry = 0  # flushes that wait: nothing lingers
        self._denied: ClientError | None = None
        self._pid = os.getpid()

    def add(self, receipt: Receipt) -> None:
        """Have a message deleted soon; blocks while as many wait as may, unless the process is to stop.

        Raises the ClientError by which an earlier one was denied, once: nobody else would hear of it.
        """
        self._after_fork()
        with self._changed:
            while self._count >= CAPACITY:
                if self._stops():
                    self._note("left")
                    return
                self._changed.wait(LOOK_SECONDS)
            self._count += 1
            self._put(receipt, time.monotonic())
            if self._threads < THREADS and self._count > self._threads * BATCH:
                self._threads += 1
                threading.Thread(target=self._run, name="sqs-delete", daemon=True).start()
            self._changed.notify_all()
            denied, self._denied = self._denied, None
        if denied is not None:
            raise denied

    def flush(self, seconds: float, *, patient: bool = False) -> int:
        """Wait until all is deleted, or so long; how many are left. While SQS fails, only who is patient waits."""
        self._after_fork()
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._count or (self._failures > 1 and not patient), seconds)
            self._hurry -= 1
            return self._count

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            with self._fork_lock:
                if self._pid != os.getpid():
                    self._reset()

    def _put(self, receipt: Receipt, since: float) -> None:
        key = (id(receipt.client), receipt.queue_url)
        self._waiting.setdefault(key, deque()).append((since, receipt))

    def _run(self) -> None:
        while True:
            batch = self._take()
            again = self._delete(batch)
            with self._changed:
                for receipt in again:
                    self._put(receipt, time.monotonic())
                self._count -= len(batch) - len(again)
                self._failures = self._failures + 1 if len(again) == len(batch) else 0
                doubled = 2 ** min(self._failures, DOUBLED_AT_MOST)
                pause = min(PAUSE_SECONDS[0] / 2 * doubled, PAUSE_SECONDS[1])
                self._changed.notify_all()
            if again:
                time.sleep(pause)

    def _take(self) -> list[Receipt]:
        """The next batch: of the queue whose first has waited longest, when it is full or has waited enough."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting)
                key = min(self._waiting, key=lambda one: self._waiting[one][0][0])
                line = self._waiting[key]
                left = line[0][0] + LINGER_SECONDS - time.monotonic()
                if len(line) >= BATCH or left <= 0 or self._hurry:
                    batch = [line.popleft()[1] for _ in range(min(BATCH, len(line)))]
                    if not line:
                        del self._waiting[key]
                    return batch
                self._changed.wait(left)

    def _delete(self, batch: list[Receipt]) -> list[Receipt]:
        """Delete them; those that another try may delete."""
        client, url = batch[0].client, batch[0].queue_url
        entries = [{"Id": str(number), "ReceiptHandle": one.handle} for number, one in enumerate(batch)]
        try:
            answer = client.delete_message_batch(QueueUrl=url, Entries=entries)
        except Exception as error:  # noqa: BLE001 - this thread serves all others
            return self._judge(batch, error)
        failed = {int(one["Id"]) for one in answer.get("Failed", ())}
        for _ in range(len(batch) - len(failed)):
            self._note("deleted")
        return [one for number in sorted(failed) for one in self._delete_singly(batch[number])]

    def _delete_singly(self, one: Receipt) -> list[Receipt]:
        try:
            one.client.delete_message(QueueUrl=one.queue_url, ReceiptHandle=one.handle)
        except Exception as error:  # noqa: BLE001 - as above
            return self._judge([one], error)
        self._note("deleted")
        return []

    def _judge(self, batch: list[Receipt], error: Exception) -> list[Receipt]:
        """Those of a failed call that another try may delete; of the others, say what became of them."""
        if may_pass(error, batch[0].client):
            logger.warning(
                "Deleting %d messages from SQS failed, it is tried again: %s", len(batch), name_of(error)
            )
            return batch
        code = name_of(error)
        for _ in batch:
            self._note("expired" if code in EXPIRED else "refused")
        if code not in EXPIRED:
            logger.error("SQS does not delete %d messages of %s: %s", len(batch), batch[0].queue_url, code)
        if isinstance(error, ClientError) and code.startswith("AccessDenied"):
            self._denied = error
        return []


def may_pass(error: Exception, client: Any) -> bool:
    """Whether another try may succeed: SQS is away, does not answer, is overloaded, or wants a new token."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = name_of(error)
        renewed = "Expired" in code and isinstance(client._request_signer._credentials, RefreshableCredentials)
        return status == 429 or status >= 500 or code in PASSING or renewed or "Throttl" in code
    return isinstance(error, BotoCoreError | OSError)


def name_of(error: Exception) -> str:
    """The error's code, or its class: never its text, which may name whom it is about."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
