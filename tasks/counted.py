"""Counting the requests to SQS, whoever makes them."""

from typing import Any

from integrator.metrics import SQS_DELETED, SQS_REQUESTS, meters


def counted(client: Any) -> Any:
    """Count each request that this boto3 client begins, by its action; the client."""
    client.meta.events.register_first("before-call.sqs", _count)
    return client


def _count(model: Any, **_: Any) -> None:
    count(model.name)


def count(action: str) -> None:
    """Count one request that begins."""
    meters().count(SQS_REQUESTS, action=action)


def count_delete(outcome: str) -> None:
    """Count one message that SQS was asked to delete."""
    meters().count(SQS_DELETED, outcome=outcome)
