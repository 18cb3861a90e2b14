"""The transport leans on kombu's private names: this fails when one is gone, or when kombu needs no help."""

import inspect
import threading
from collections import deque
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import kombu
import pytest
from botocore.exceptions import ClientError
from kombu import asynchronous
from kombu.asynchronous import http
from kombu.asynchronous.aws.connection import AsyncAWSQueryConnection
from kombu.asynchronous.aws.sqs.connection import AsyncSQSConnection
from kombu.asynchronous.http.curl import CurlClient
from kombu.transport import SQS

from tasks import transport
from tasks.transport import Channel, EndpointFailed, Transport


def test_given_kombu_when_looked_at_then_all_that_is_overridden_is_there_and_is_called() -> None:
    assert "_on_messages_ready" in inspect.getsource(SQS.Channel._get_async)
    assert "self.asynsqs(" in inspect.getsource(SQS.Channel._get_async)
    assert issubclass(AsyncSQSConnection, AsyncAWSQueryConnection)
    for answered in ("_on_list_ready", "_on_obj_ready", "_on_status_ready"):
        assert "self._for_status(response" in inspect.getsource(getattr(AsyncAWSQueryConnection, answered))
    assert "get_event_loop()" in inspect.getsource(SQS.Channel.__init__)
    assert callable(asynchronous.set_event_loop)
    assert "hub._current_http_client" in inspect.getsource(http.get_client)
    assert "_process_pending_requests" in inspect.getsource(CurlClient._timeout_check)
    assert "_release_messages" in inspect.getsource(SQS.Channel._on_messages_ready)
    assert isinstance(SQS.Transport.connection_errors, tuple)


def test_given_kombu_by_itself_when_a_receive_fails_then_it_still_needs_our_help() -> None:
    kombus: Any = SQS.Channel
    asked: Any = AsyncAWSQueryConnection
    with pytest.raises(AttributeError):
        kombus._on_messages_ready(SimpleNamespace(), "queue", "queue", [])
    refused = asked._for_status(SimpleNamespace(), _answer(), b"<secret/>")
    assert not isinstance(refused, Transport.connection_errors), kombu.__version__


def test_given_an_answer_that_is_none_when_received_then_the_connection_is_lost() -> None:
    with pytest.raises(EndpointFailed):
        Channel._on_messages_ready(SimpleNamespace(), "queue", "queue", [])  # type: ignore[arg-type]


def test_given_a_refused_receive_when_judged_then_the_connection_is_lost_and_the_body_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client: Any = SimpleNamespace(_httpclient=None)
    monkeypatch.setattr(SQS.Channel, "asynsqs", lambda *_args, **_named: client)

    Channel.asynsqs(object.__new__(Channel), "queue")

    error = client._for_status(_answer(), b"<secret/>")
    assert isinstance(error, EndpointFailed)
    assert "secret" not in str(error)
    assert "429" in str(error)


def test_given_errors_of_the_endpoint_when_asked_then_each_is_a_lost_connection() -> None:
    assert issubclass(EndpointFailed, Transport.connection_errors)
    assert issubclass(ClientError, Transport.connection_errors)
    assert Transport.Channel is Channel


def test_given_a_loop_that_connects_anew_when_asked_then_it_is_alive_and_a_thread_that_publishes_shows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beats: list[str] = []
    pulse = SimpleNamespace(beat=lambda: beats.append(threading.current_thread().name))
    monkeypatch.setattr(transport, "pulse", lambda: pulse)
    monkeypatch.setattr(SQS.Transport, "establish_connection", lambda _self: "connected")
    ours: Any = object.__new__(Transport)

    assert ours.establish_connection() == "connected"
    publishing = threading.Thread(target=ours.establish_connection)
    publishing.start()
    publishing.join()

    assert beats == [threading.main_thread().name]


def test_given_an_endpoint_that_is_away_when_the_loop_connects_anew_then_it_takes_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(transport, "boottime", lambda: now)
    monkeypatch.setattr(transport, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(SQS.Transport, "establish_connection", lambda _self: "connected")
    monkeypatch.setattr(Channel, "_loop", object())
    monkeypatch.setattr(Transport, "_made", deque(maxlen=transport.AT_ONCE))
    ours: Any = object.__new__(Transport)

    for _ in range(33):
        ours.establish_connection()
        sleep(0.01)
    assert 50 < now - 1_000 < 70  # and not a third of a second
    sleep(60)
    later = now
    for _ in range(transport.AT_ONCE):
        ours.establish_connection()
    assert now == later


def test_given_a_channel_that_is_closed_when_its_consumer_is_cancelled_then_nothing_is_left_to_do() -> None:
    class Closed(Channel):
        def __init__(self) -> None:
            self._consumers, self.hub, self.connection = set(), SimpleNamespace(), None

    assert Closed().basic_cancel("nobody") is None


def _answer() -> Any:
    return SimpleNamespace(status=HTTPStatus.TOO_MANY_REQUESTS.value, reason="Too Many Requests")
