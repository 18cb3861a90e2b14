"""Webhooks are answered in the accepting thread: it waits for nobody, and many may wait in it."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.workers.gthread import ThreadWorker

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import deliveries
from tests.e2e.test_gunicorn import HOST, Server, head, running, wait_for
from tests.webhooks import count, headers, order_body, store
from web.accepting import AcceptingWorker, webhook_size

MANY = 40


@pytest.fixture
def ledger(sqlite_ledger: Ledger) -> Ledger:
    store(sqlite_ledger)
    return sqlite_ledger


@contextmanager
def locked(ledger: Ledger) -> Iterator[None]:
    """Nobody else writes meanwhile."""
    with ledger.write():
        yield


def webhook(number: int, *, pad: int = 0) -> bytes:
    body = order_body(number, pad="x" * pad)
    lines = [head(len(body)).partition(b"\r\n")[0].decode(), "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers(body, event=f"w-{number}").items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def status(one: socket.socket) -> bytes:
    """The status line of one answer without a body, which is all that has come."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = one.recv(65_536)
        assert part, got
        got += part
    return got.partition(b"\r\n")[0]


@contextmanager
def asked(server: Server, number: int = MANY) -> Iterator[list[socket.socket]]:
    """So many connections, each with a webhook on its way."""
    with ExitStack() as stack:
        found = []
        for order in range(number):
            one = stack.enter_context(socket.create_connection((HOST, server.port), timeout=20))
            one.sendall(webhook(order))
            found.append(one)
        yield found


def healthy(server: Server) -> int:
    with closing(HTTPConnection(HOST, server.port, timeout=20)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status


def test_given_one_thread_when_many_wait_for_the_ledger_then_others_are_answered_and_they_are_in_the_end(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path, INTEGRATOR_WEB_THREADS="1") as server, ExitStack() as stack:
        with locked(ledger):
            waiting = stack.enter_context(asked(server))
            assert healthy(server) == 200
            time.sleep(0.2)
            assert not select.select(waiting, [], [], 0)[0], "nobody is told before the commit"
        assert {status(one) for one in waiting} == {b"HTTP/1.1 200 OK"}

    assert count(ledger, deliveries) == MANY


def test_given_one_thread_when_the_ledger_is_locked_for_too_long_then_all_are_told_in_time(
    ledger: Ledger, tmp_path: Path
) -> None:
    limits = {"INTEGRATOR_WEB_THREADS": "1", "INTEGRATOR_WEB_ANSWER_SECONDS": "0.5"}
    with running(ledger, tmp_path, **limits) as server:
        with locked(ledger), asked(server) as waiting:
            began = time.monotonic()
            assert {status(one) for one in waiting} == {b"HTTP/1.1 503 SERVICE UNAVAILABLE"}
            assert time.monotonic() - began < 4, "and not when the ledger's own patience ends"
        wait_for(lambda: server.post(order_body(9_999)) == 200)
        assert not [line for line in server.lines() if line["level"] == "error"]


def test_given_a_webhook_in_pieces_when_the_last_has_come_then_it_is_kept(ledger: Ledger, tmp_path: Path) -> None:
    sent = webhook(1, pad=30_000)
    cuts = [0, 10, sent.index(b"\r\n\r\n") + 4, 9_000, 20_000, len(sent)]
    with (
        running(ledger, tmp_path, INTEGRATOR_WEB_THREADS="1") as server,
        socket.create_connection((HOST, server.port), timeout=20) as one,
    ):
        for start, end in pairwise(cuts):
            one.sendall(sent[start:end])
            time.sleep(0.05)
        assert status(one) == b"HTTP/1.1 200 OK"

    assert count(ledger, deliveries) == 1


def test_given_webhooks_that_stop_halfway_on_every_thread_when_others_come_then_they_are_answered(
    ledger: Ledger, tmp_path: Path
) -> None:
    sent = webhook(1, pad=30_000)
    with running(ledger, tmp_path, INTEGRATOR_WEB_THREADS="1") as server, ExitStack() as stack:
        for _ in range(5):
            half = stack.enter_context(socket.create_connection((HOST, server.port), timeout=20))
            half.sendall(sent[:20_000])
        assert [server.post(order_body(number)) for number in range(2, 5)] == [200] * 3
        half.sendall(sent[20_000:])
        assert status(half) == b"HTTP/1.1 200 OK"


def test_given_webhooks_in_a_row_on_one_connection_when_sent_at_once_then_each_is_answered(
    ledger: Ledger, tmp_path: Path
) -> None:
    number = 300
    sent = b"".join(webhook(order) for order in range(number))
    with (
        running(ledger, tmp_path, INTEGRATOR_WEB_THREADS="1") as server,
        socket.create_connection((HOST, server.port), timeout=20) as one,
    ):
        one.sendall(sent)
        got = b""
        while got.count(b"HTTP/1.1 200 OK") < number:
            part = one.recv(65_536)
            assert part
            got += part
        assert healthy(server) == 200

    assert count(ledger, deliveries) == number


@pytest.mark.parametrize(("alive", "done"), [(True, "back to the poller"), (False, "to a thread")])
def test_given_a_connection_that_says_nothing_yet_when_the_worker_stops_then_a_thread_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, alive: bool, done: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(ThreadWorker, "enqueue_req", lambda *_: said.append("to a thread"))
    monkeypatch.setattr(ThreadWorker, "finish_request", lambda *_: said.append("back to the poller"))
    worker: Any = object.__new__(AcceptingWorker)
    worker.alive = alive
    ours, theirs = socket.socketpair()
    connection = SimpleNamespace(sock=ours, initialized=False)
    with theirs:
        worker.enqueue_req(connection)
        connection.sock.close()
    assert said == [done]


HEAD = b"POST /webhooks/shopify/key HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (HEAD + b"Content-Length: 3\r\n\r\nabc", len(HEAD) + 24),
        (HEAD + b"content-LENGTH:3 \r\n\r\na", len(HEAD) + 24),
        (HEAD + b"Content-Length: 3\r\n\r", None),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", None),
        (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", None),
        (HEAD + b"Content-Length: 3\r\nexpect: 100-continue\r\n\r\nabc", None),
        (HEAD + b"Content-Length: +3\r\n\r\nabc", None),
        (HEAD + b"\r\nContent-Length: 3\r\n\r\nabc", None),
        (HEAD.replace(b"POST", b"GET") + b"Content-Length: 3\r\n\r\nabc", None),
        (HEAD.replace(b"/webhooks", b"/api") + b"Content-Length: 3\r\n\r\nabc", None),
        (b"", None),
    ],
)
def test_given_first_bytes_when_looked_at_then_only_a_usual_webhook_has_a_size(
    data: bytes, size: int | None
) -> None:
    assert webhook_size(data) == size
