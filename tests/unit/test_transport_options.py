"""What kombu documents of its SQS options means the same here: each client is told what kombu's is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from botocore.loaders import create_loader
from kombu.asynchronous import Hub, set_event_loop
from kombu.connection import Connection
from kombu.transport import SQS

from benchmarks.transport_worker import BATCHING, STOCK
from tasks.transport import Channel, Transport

QUEUES = {
    "own": {"url": "https://sqs.eu-west-1.amazonaws.com/1/own", "access_key_id": "k1", "secret_access_key": "s1"},
    "far": {"url": "https://sqs.sa-east-1.amazonaws.com/1/far", "region": "sa-east-1"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "secure": {"is_secure": True},
    "not secure": {"is_secure": False},
    "region": {"region": "eu-west-3"},
    "no config": {"client-config": None},
    "config": {"client-config": {"connect_timeout": 5, "read_timeout": 7, "retries": {"total_max_attempts": 2}}},
    "attributes": {"fetch_message_attributes": ["SenderId"]},
    "more attributes": {
        "fetch_message_attributes": {
            "MessageSystemAttributeNames": ["SentTimestamp"],
            "MessageAttributeNames": ["shop"],
        }
    },
    "exchanges": {
        "supports_fanout": True,
        "predefined_exchanges": {
            "news": {"arn": "arn:aws:sns:us-east-1:1:news", "access_key_id": "k2", "secret_access_key": "s2"}
        },
    },
}


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of AWS is read once, else each of kombu's clients does so; and we connect without a pause."""
    monkeypatch.setattr("botocore.session.create_loader", cache(create_loader))
    monkeypatch.setattr(Channel, "_loop", None)
    monkeypatch.setattr(Transport, "_take_time", lambda _self: None)


@contextmanager
def channel(transport: str, address: str = "sqs://key:secret@", **options: Any) -> Iterator[Any]:
    """A channel on a loop; SQS is not asked, since the queues are known."""
    set_event_loop(Hub())  # type: ignore[no-untyped-call]
    connect: Any = Connection
    connection: Any = connect(
        address, transport=transport, transport_options={"predefined_queues": QUEUES} | options
    )
    try:
        yield connection.channel()
    finally:
        connection.release()
        set_event_loop(None)


def told(client: Any) -> dict[str, Any]:
    """All that a client was told."""
    credentials, config = client._request_signer._credentials, client.meta.config
    return {
        "service": client.meta.service_model.service_name,
        "url": client.meta.endpoint_url,
        "region": client.meta.region_name,
        "credentials": (credentials.access_key, credentials.secret_key, credentials.token),
        "config": (config.connect_timeout, config.read_timeout, config.retries),
    }


def clients(opened: Any) -> dict[str, Any]:
    """What each of a channel's clients was told, for all that it does."""
    found: dict[str, Any] = {queue: told(opened.sqs(queue=queue)) for queue in QUEUES}
    found["any"] = told(opened.sqs())
    found["release"] = told(opened._new_release_client(opened.sqs(queue="own")))
    found["exchange"] = told(opened.fanout.get_client("news" if opened.predefined_exchanges else None))
    for queue in QUEUES:
        one = opened.asynsqs(queue)
        found[f"receive {queue}"] = (
            told(one.sqs_connection),
            one.message_system_attribute_names,
            one.message_attribute_names,
        )
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning:kombu.asynchronous.http.curl")  # pycurl 7.49 gives them
@pytest.mark.parametrize(
    ("name", "address"),
    [(name, "sqs://key:secret@") for name in OPTIONS]
    + [("none", "sqs://"), ("secure", "sqs://k:s@localhost:4566")],
)
def test_given_an_option_when_clients_are_made_then_they_are_told_what_kombus_are(name: str, address: str) -> None:
    with channel(STOCK, address, **OPTIONS[name]) as kombus:
        wanted = clients(kombus)
    with channel(BATCHING, address, **OPTIONS[name]) as ours:
        assert clients(ours) == wanted


def test_given_a_role_when_its_token_ends_then_the_next_client_has_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, Any]] = []

    def assume(role: str, seconds: int) -> dict[str, Any]:
        end = datetime.now(UTC) + timedelta(seconds=-1 if not given else seconds)
        key = {
            "AccessKeyId": f"{role}{len(given)}",
            "SecretAccessKey": "s",
            "SessionToken": "t",
            "Expiration": end,
        }
        given.append(key)
        return key

    monkeypatch.setattr(SQS.Channel, "generate_sts_session_token", staticmethod(assume))
    with channel(BATCHING, sts_role_arn="role") as opened:
        keys = [told(opened.sqs(queue="own"))["credentials"] for _ in range(3)]
    assert keys == [("role0", "s", "t"), ("role1", "s", "t"), ("role1", "s", "t")]
