"""What the actions of the SQS API do to one queue: parameters in, the answer out, no waiting."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sandbox.sqs_queue import AWS, MAX_BYTES, MAX_VISIBILITY, Message, Queue, SqsError, digests, payload_bytes

Json = dict[str, Any]
Action = Callable[[Queue, Json], Json | None]

NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")  # of a queue, and of a batch's entry
_RANGES = {"MaxNumberOfMessages": (1, 10), "VisibilityTimeout": (0, MAX_VISIBILITY), "WaitTimeSeconds": (0, 20)}
_NOT_EMULATED = {"DestinationArn", "MaxResults", "MessageDeduplicationId", "MessageSystemAttributes", "NextToken"}


def check(action: str, params: Json) -> None:
    """Refuse what is not emulated (tags alone are ignored) or out of range in a request or a batch's entry."""
    if action not in _EMULATED or _NOT_EMULATED & params.keys() or params.get("QueueName", "").endswith(".fifo"):
        raise SqsError(f"{AWS}UnsupportedOperation", "This endpoint does not emulate that.")
    for name, (low, high) in _RANGES.items():
        if not low <= params.get(name, low) <= high:
            raise SqsError("InvalidParameterValue", f"{name} must be between {low} and {high}, if provided.")


def check_batch(entries: list[Json]) -> None:
    """Refuse a whole batch; what is wrong with one entry only is left to that entry."""
    ids = [entry["Id"] for entry in entries]
    sizes = [payload_bytes(entry.get("MessageBody", ""), entry.get("MessageAttributes", {})) for entry in entries]
    wrong = {
        "EmptyBatchRequest": not entries,
        "TooManyEntriesInBatchRequest": len(entries) > 10,
        "InvalidBatchEntryId": not all(map(NAME.fullmatch, ids)),
        "BatchEntryIdsNotDistinct": len(set(ids)) < len(ids),
        "BatchRequestTooLong": sum(sizes) > MAX_BYTES,
    }
    text = f"A batch has 1 to 10 entries, with distinct ids like {NAME.pattern}, and at most {MAX_BYTES} bytes."
    for code, is_wrong in wrong.items():
        if is_wrong:
            raise SqsError(f"{AWS}{code}", text)


def _send(queue: Queue, params: Json) -> Json:
    attributes = params.get("MessageAttributes", {})
    system = {name: params[name] for name in ("MessageGroupId",) if name in params}
    message = queue.send(params["MessageBody"], params.get("DelaySeconds"), attributes, system)
    return {"MessageId": message.message_id, **digests("MD5OfMessageBody", message.body, attributes)}


def _get_attributes(queue: Queue, params: Json) -> Json:
    wanted, every = params.get("AttributeNames", []), queue.describe()
    if unknown := set(wanted) - {"All", "RedrivePolicy", *every}:
        raise SqsError("InvalidAttributeName", f"Unknown queue attributes: {sorted(unknown)}.")
    return {"Attributes": _chosen(every, wanted)}


def render(queue: Queue, message: Message, params: Json) -> Json:
    """A received message with what was asked for."""
    system = {
        "SenderId": "AIDASANDBOX",
        "SentTimestamp": str(int(message.sent_at * 1000)),
        "ApproximateReceiveCount": str(message.receive_count),
        "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
        **message.system_attributes,
    }
    attributes = _chosen(message.message_attributes, params.get("MessageAttributeNames", []))
    wanted = [*params.get("AttributeNames", []), *params.get("MessageSystemAttributeNames", [])]
    return {
        "MessageId": message.message_id,
        "ReceiptHandle": queue.receipt_handle(message),
        "Body": message.body,
        "Attributes": _chosen(system, wanted),
        "MessageAttributes": attributes,
        **digests("MD5OfBody", message.body, attributes),
    }


def _chosen(values: Mapping[str, Any], wanted: Collection[str]) -> Json:
    """The values asked for by name, by `prefix.*` or all."""
    stems = tuple(name.removesuffix(".*") for name in wanted if name.endswith(".*"))
    return {name: values[name] for name in values if "All" in wanted or name in wanted or name.startswith(stems)}


_ON_MESSAGES: dict[str, Action] = {
    "SendMessage": _send,
    "DeleteMessage": lambda q, p: q.delete(p["ReceiptHandle"]),
    "ChangeMessageVisibility": lambda q, p: q.change_visibility(p["ReceiptHandle"], p["VisibilityTimeout"]),
}
BATCHES = {f"{name}Batch": action for name, action in _ON_MESSAGES.items()}
ACTIONS: dict[str, Action] = {
    **_ON_MESSAGES,
    "GetQueueAttributes": _get_attributes,
    "SetQueueAttributes": lambda q, p: q.set_attributes(p["Attributes"]),
    "PurgeQueue": lambda q, _: q.purge(),
    "StartMessageMoveTask": lambda q, _: q.redrive(),
}
_EMULATED = {*ACTIONS, *BATCHES, "CreateQueue", "DeleteQueue", "GetQueueUrl", "ListQueues", "ReceiveMessage"}
