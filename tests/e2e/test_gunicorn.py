"""The real server on SQLite: many connections, slow clients, kills and stops, and every 200 is in the ledger."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import deliveries
from tests.webhooks import KEYS, all_syncs, count, headers, order_body, server_environment, store

PATH = f"/webhooks/shopify/{KEYS['KEY']}"
HOST = "127.0.0.1"


@dataclass
class Server:
    """A running server, and the lines that it logged."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def post(self, body: bytes, *, path: str = PATH) -> int:
        return post(http.client.HTTPConnection(HOST, self.port, timeout=20), body, path=path)

    def worker(self) -> int:
        """The pid of the one worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])


def post(connection: http.client.HTTPConnection, body: bytes, *, path: str = PATH) -> int:
    try:
        connection.request("POST", path, body, headers(body))
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@contextmanager
def running(ledger: Ledger, folder: Path, **changes: str) -> Iterator[Server]:
    """A server on a port of its own choice, killed at the end if need be."""
    log = folder / "server.log"
    with log.open("wb") as out:
        process = start(ledger, out, **changes)
        try:
            wait_for(lambda: b"Booting worker" in log.read_bytes() or process.poll() is not None)
            found = re.search(rb"Listening at: http://127\.0\.0\.1:(\d+)", log.read_bytes())
            assert found, log.read_text()
            yield Server(process, int(found[1]), log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(30)


def start(ledger: Ledger, out: IO[bytes], **changes: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gunicorn", "-c", "python:web.server"]
    environment = server_environment(ledger.url.render_as_string(hide_password=False), **changes)
    return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@dataclass
class Shop:
    """Sends webhooks over one connection until it is told to stop or the server goes."""

    port: int
    first: int
    kept: list[int] = field(default_factory=list)
    other: list[object] = field(default_factory=list)
    stopped: bool = False

    def run(self) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        number = self.first
        while not self.stopped:
            number += 1
            body = order_body(number, pad="x" * 8_000)
            try:
                connection.request("POST", PATH, body, headers(body, event=f"w-{number}"))
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.other.append(type(error))
                break
            (self.kept if answer.status == 200 else self.other).append(number)
        connection.close()


@contextmanager
def sending(server: Server, shops: int) -> Iterator[list[Shop]]:
    found = [Shop(server.port, number * 1_000_000) for number in range(shops)]
    threads = [threading.Thread(target=one.run) for one in found]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        for one in found:
            one.stopped = True
        for thread in threads:
            thread.join()


def kept_in(ledger: Ledger) -> set[int]:
    return {int(sync.external_id) - 5_000_000_000_000_000_000 for sync in all_syncs(ledger)}


@pytest.fixture
def ledger(sqlite_ledger: Ledger) -> Ledger:
    store(sqlite_ledger)
    return sqlite_ledger


def test_given_several_connections_when_they_send_then_every_webhook_is_kept_and_logged(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path, INTEGRATOR_WEB_PROCESSES="4") as server:
        with sending(server, 6) as shops:
            wait_for(lambda: sum(len(one.kept) for one in shops) > 100)
        assert server.worker()
        assert server.stop() == 0
        lines = server.lines()

    kept = {number for one in shops for number in one.kept}
    assert [one.other for one in shops] == [[]] * 6
    assert kept_in(ledger) == kept
    events = [line["event"] for line in lines]
    assert events.count("webhook_accepted") == len(kept)
    assert events.count("one_process_on_sqlite") == 1
    assert not any(KEYS["KEY"] in json.dumps(line) for line in lines)


def test_given_load_when_the_server_is_told_to_stop_then_what_it_took_is_answered_and_kept(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path) as server, sending(server, 8) as shops:
        wait_for(lambda: all(len(one.kept) > 3 for one in shops))
        assert server.stop() == 0

    kept = {number for one in shops for number in one.kept}
    assert kept_in(ledger) == kept  # nothing is missing, and nothing was taken without an answer
    assert count(ledger, deliveries) == len(kept)
    assert all(isinstance(what, type) for one in shops for what in one.other)


def test_given_a_worker_that_is_killed_under_load_when_it_is_back_then_every_200_is_in_the_ledger(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path) as server:
        with sending(server, 8) as shops:
            wait_for(lambda: all(len(one.kept) > 3 for one in shops))
            os.kill(server.worker(), signal.SIGKILL)
        assert kept_in(ledger) >= {number for one in shops for number in one.kept}
        wait_for(lambda: posted(server, order_body(9_999_999)) == 200)


def posted(server: Server, body: bytes) -> int | None:
    try:
        return server.post(body)
    except (OSError, http.client.HTTPException):
        return None


def test_given_a_kill_between_commit_and_answer_when_sent_again_then_it_was_kept_once(
    ledger: Ledger, tmp_path: Path
) -> None:
    points = tmp_path / "failpoints.log"
    armed = {"INTEGRATOR_FAILPOINTS": "receiver.committed=1", "INTEGRATOR_FAILPOINT_LOG": str(points)}
    with running(ledger, tmp_path, **armed) as server:
        assert posted(server, order_body(1)) is None
    assert points.read_text() == "receiver.committed\n"
    assert count(ledger, deliveries) == 1

    with running(ledger, tmp_path) as server:
        assert server.post(order_body(1)) == 200

    assert count(ledger, deliveries) == 1


@contextmanager
def connections(server: Server, number: int, first_bytes: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            one = stack.enter_context(socket.create_connection((HOST, server.port), timeout=20))
            one.sendall(first_bytes)
            found.append(one)
        yield found


def head(length: int) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers(b"").items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


CHUNKED = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
SLOW = {
    b"": None,
    b"POST /webhooks/shopify/": b"",
    head(100) + b"x" * 50: b"HTTP/1.1 408 ",
    CHUNKED + b"a\r\nxx": b"HTTP/1.1 408 ",
}
"""What a slow client sends before it says nothing more, and how its answer begins (None: not looked at)."""


def test_given_slow_clients_on_every_thread_when_their_time_is_over_then_others_are_served(
    ledger: Ledger, tmp_path: Path
) -> None:
    limits = {"INTEGRATOR_WEB_THREADS": "2", "INTEGRATOR_WEB_READ_SECONDS": "0.2"}
    with running(ledger, tmp_path, **limits) as server, ExitStack() as stack:
        slow = {sent: stack.enter_context(connections(server, 3, sent)) for sent in SLOW}

        assert server.post(order_body(1)) == 200

        for sent, found in slow.items():
            for one in found if SLOW[sent] is not None else []:
                got = one.recv(1_000)
                assert got.startswith(SLOW[sent] or b"")
                assert (got == b"") == (SLOW[sent] == b"")
                assert b"html" not in got
        assert not [line for line in server.lines() if line["level"] == "error"]


def test_given_a_body_over_the_limit_when_sent_then_413_is_read_before_all_of_it_is(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path, INTEGRATOR_MAX_BODY_BYTES="100000") as server:
        chunk = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000)
        for begun in (head(11 * 1024 * 1024), CHUNKED + 3 * chunk):
            with connections(server, 1, begun) as (one,):
                answer = one.recv(4_000)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"application/problem+json" in answer
        assert server.post(order_body(1)) == 200


NO_REQUESTS = {
    b"nonsense\r\n\r\n": 400,
    b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n": 414,
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100 + b"\r\n": 431,
    head(5).replace(b"Host: x", b"Transfer-Encoding: chunked") + b"0\r\n\r\n": 400,
    CHUNKED + b"zz\r\n": 400,
}


def test_given_what_is_no_request_when_sent_then_the_answer_is_a_problem_and_nobody_is_logged(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path) as server:
        for sent, status in NO_REQUESTS.items():
            with connections(server, 1, sent) as (one,):
                got = one.recv(4_000)
            assert got.startswith(f"HTTP/1.1 {status} ".encode())
            assert b"application/problem+json" in got
            assert b"html" not in got
        assert server.stop() == 0
        lines = [line for line in server.lines() if "Listening" not in line["event"]]

    assert not any(private in json.dumps(line) for line in lines for private in (HOST, "x" * 100, KEYS["KEY"]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"INTEGRATOR_LEDGER_URL": "sqlite:///{}/empty.sqlite3"}, "flask --app web ledger upgrade"),
        ({"INTEGRATOR_WEB_THREADS": "many"}, "INTEGRATOR_WEB_THREADS"),
    ],
    ids=["old schema", "wrong setting"],
)
def test_given_something_missing_when_started_then_it_refuses_with_one_line(
    ledger: Ledger, tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        process = start(ledger, out, **{name: value.format(tmp_path) for name, value in changes.items()})
        try:
            assert process.wait(20) == 1
        finally:
            process.kill()
            process.wait()
    text = log.read_text()

    assert len([line for line in text.splitlines() if reason in line]) == 1
    assert "Traceback" not in text
    assert "Booting worker" not in text
