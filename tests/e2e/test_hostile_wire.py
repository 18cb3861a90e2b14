"""Broken and hostile bytes at the real server: every connection gets its answer, and nobody else waits for it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, deliveries
from tests.e2e.test_gunicorn import HOST, PATH, Server, running, wait_for
from tests.hostile import UNREADABLE, bomb
from tests.webhooks import KEYS, all_syncs, count, headers, order_body, signature, store
from web import timed_socket

BODY = order_body(1)


@pytest.fixture
def ledger(sqlite_ledger: Ledger) -> Ledger:
    store(sqlite_ledger)
    return sqlite_ledger


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, server.port), timeout=20) as one:
        yield one


def request(
    body: bytes = BODY,
    *more: str,
    line: str = f"POST {PATH} HTTP/1.1",
    without: tuple[str, ...] = (),
    sent: bytes | None = None,
    **changes: str,
) -> bytes:
    """A genuine webhook's bytes, with header lines more or less, other values, and other bytes for its body."""
    fields = {"Host": "x", "Content-Length": str(len(body)), **headers(body)} | {
        name.replace("_", "-"): value for name, value in changes.items()
    }
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if name not in without), *more]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body if sent is None else sent)


def chunked(sent: bytes, *more: str, coding: str = "chunked") -> bytes:
    """The same webhook, streamed as these bytes."""
    return request(BODY, f"Transfer-Encoding: {coding}", *more, without=("Content-Length",), sent=sent)


def chunks(body: bytes = BODY, size: int = 7, *, end: bytes = b"0\r\n\r\n") -> bytes:
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


def read_all(one: socket.socket) -> bytes:
    got = b""
    while part := one.recv(65_536):
        got += part
    return got


def exchange(server: Server, sent: bytes) -> bytes:
    """All that is answered to these bytes, after which nothing more is sent."""
    with connected(server) as one:
        one.sendall(sent)
        one.shutdown(socket.SHUT_WR)
        return read_all(one)


def statuses(got: bytes) -> list[int]:
    return [int(part[:3]) for part in got.replace(b"HTTP/1.0", b"HTTP/1.1").split(b"HTTP/1.1 ")[1:]]


LENGTH = str(len(BODY))
SIGNATURE = "X-Shopify-Hmac-Sha256"
TOO_MANY = tuple(f"A{number}: b" for number in range(100))

CASES: dict[str, tuple[bytes, list[int]]] = {
    "a genuine one": (request(), [200]),
    # What is not a body of the size that it says
    "cut short": (request(sent=BODY[:-1]), [400]),
    "longer than it says": (request(sent=BODY + b"x"), [200]),
    "no length": (request(without=("Content-Length",)), [401]),
    "a length of 4,000 digits": (request(Content_Length="9" * 4_000), [413]),
    "a length of 5,000 digits": (request(Content_Length="9" * 5_000), [400]),
    "a negative length": (request(Content_Length="-1"), [400]),
    "a signed length": (request(Content_Length=f"+{LENGTH}"), [400]),
    "a length in hex": (request(Content_Length="0x10"), [400]),
    "a length with a unit": (request(Content_Length=f"{LENGTH} bytes"), [400]),
    "no digits as length": (request(Content_Length="\xb2"), [400]),
    "a list of lengths": (request(Content_Length=f"{LENGTH}, {LENGTH}"), [400]),
    # What two servers could read in two ways
    "two lengths": (request(BODY, f"Content-Length: {LENGTH}"), [400]),
    "length and coding": (request(BODY, "Transfer-Encoding: chunked", sent=chunks()), [400]),
    "coding, then length": (chunked(chunks(), f"Content-Length: {LENGTH}"), [400]),
    "two codings": (chunked(chunks(), "Transfer-Encoding: chunked"), [400]),
    "chunked twice": (chunked(chunks(), coding="chunked, chunked"), [400]),
    "chunked, then identity": (chunked(chunks(), coding="chunked, identity"), [400]),
    "identity alone": (chunked(BODY, coding="identity"), [400]),
    "a coding of nobody": (chunked(chunks(), coding="xchunked"), [400]),
    "a coding behind a line break": (request(BODY, "Transfer-Encoding:\r\n chunked"), [400]),
    "a space before the colon": (request(BODY, "Transfer-Encoding : chunked"), [400]),
    "chunked in HTTP/1.0": (chunked(chunks()).replace(b"HTTP/1.1", b"HTTP/1.0"), [400]),
    "a genuine one inside another": (request(sent=b"", Content_Length="0") + request(), [401, 200]),
    # Chunks
    "in chunks": (chunked(chunks()), [200]),
    "in chunks of one byte": (chunked(chunks(size=1)), [200]),
    "with trailers": (chunked(chunks(end=f"0\r\n{SIGNATURE}: x\r\nX-Shopify-Topic: y\r\n\r\n".encode())), [200]),
    "a length as trailer": (chunked(chunks(end=b"0\r\nContent-Length: 1\r\n\r\n")), [400]),
    "without the last chunk": (chunked(chunks(end=b"")), [408]),
    "a negative chunk": (chunked(b"-1\r\nx\r\n0\r\n\r\n"), [400]),
    "a chunk of 0x10 bytes": (chunked(b"0x10\r\nx\r\n0\r\n\r\n"), [400]),
    "a chunk of 15 digits": (chunked(b"f" * 15 + b"\r\nx"), [408]),
    "a chunk with no end to its size": (chunked(b"0" * 20_000 + b"1\r\nx\r\n0\r\n\r\n"), [400]),
    "a chunk that is longer than it says": (chunked(b"1\r\nxx\r\n0\r\n\r\n"), [400]),
    # The same field twice
    "the signature twice": (request(BODY, f"{SIGNATURE}: {signature(BODY)}"), [401]),
    "a wrong signature beside it": (request(BODY, f"{SIGNATURE}: AAAA"), [401]),
    "the signature with underscores": (
        request(BODY, f"{SIGNATURE.replace('-', '_')}: {signature(BODY)}", without=(SIGNATURE,)),
        [401],
    ),
    "two hosts": (request(BODY, "Host: y"), [400]),
    # Fields
    "100 fields": (request(BODY, *TOO_MANY), [431]),
    "50 fields": (request(BODY, *TOO_MANY[:50]), [200]),
    "9,000 bytes of a field": (request(BODY, f"A: {'x' * 9_000}"), [431]),
    "1 MB of a field": (request(BODY, f"A: {'x' * 1_000_000}"), [431]),
    "8,000 bytes of a field": (request(BODY, f"A: {'x' * 8_000}"), [200]),
    "bytes over 127 in a field": (request(BODY, "A: \xff\x80", X_Shopify_Triggered_At="\xe4\xff"), [200]),
    "bytes over 127 as signature": (request(X_Shopify_Hmac_Sha256="\xff" * 44), [401]),
    "bytes over 127 in a name": (request(BODY, "\xc4: b"), [400]),
    "NUL in a field": (request(BODY, "A: \x00"), [400]),
    "a bare CR in a field": (request(BODY, "A: b\rC: d"), [400]),
    "no colon": (request(BODY, "A"), [400]),
    "no host": (request(without=("Host",)), [200]),
    "a host of nobody": (request(Host="\xff[:99999999"), [200]),
    "another path from a proxy": (request(BODY, "SCRIPT_NAME: /webhooks", "PATH_INFO: /healthz"), [200]),
    "two schemes from proxies": (request(BODY, "X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"), [200]),
    "an expectation": (request(BODY, "Expect: 100-continue"), [100, 200]),
    "an expectation of nobody": (request(BODY, "Expect: a miracle"), [417]),
    "an upgrade": (
        request(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"),
        [200],
    ),
    # First lines
    "HEAD": (request(line=f"HEAD {PATH} HTTP/1.1"), [405]),
    "OPTIONS": (request(line=f"OPTIONS {PATH} HTTP/1.1"), [405]),
    "OPTIONS of all": (request(line="OPTIONS * HTTP/1.1"), [404]),
    "PUT": (request(line=f"PUT {PATH} HTTP/1.1"), [405]),
    "CONNECT": (request(line="CONNECT x:443 HTTP/1.1"), [404]),
    "post": (request(line=f"post {PATH} HTTP/1.1"), [400]),
    "another site": (request(line=f"POST http://x{PATH} HTTP/1.1"), [200]),
    "NUL at the end": (request(line=f"POST {PATH}%00 HTTP/1.1"), [404]),
    "a raw NUL at the end": (request(line=f"POST {PATH}\x00 HTTP/1.1"), [400]),
    "up and down": (request(line=f"POST /webhooks/../webhooks/shopify/{KEYS['KEY']} HTTP/1.1"), [404]),
    "a doubled slash": (request(line=f"POST /webhooks//shopify/{KEYS['KEY']} HTTP/1.1"), [404]),
    "a key of 1,900 bytes": (request(line=f"POST /webhooks/shopify/{'k' * 1_900} HTTP/1.1"), [404]),
    "a key of 10,000 bytes": (request(line=f"POST /webhooks/shopify/{'k' * 10_000} HTTP/1.1"), [414]),
    "bytes over 127 in the path": (request(line=f"POST {PATH}\xff HTTP/1.1"), [400]),
    "HTTP/1.0": (request(line=f"POST {PATH} HTTP/1.0"), [200]),
    "HTTP/0.9": (f"POST {PATH}\r\n\r\n".encode(), [400]),
    "HTTP/9.9": (request(line=f"POST {PATH} HTTP/9.9"), [400]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "a proxy's first line": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + request(), [400]),
    "bare line feeds": (request().replace(b"\r\n", b"\n"), [400]),
    "TLS": (bytes.fromhex("16030100a5010000a10303") + b"\x00" * 100, []),
    # Several
    "three in a row": (request() * 3, [200, 200, 200]),
    "a forged one between two": (request() + request(X_Shopify_Hmac_Sha256="x") + request(), [200, 401, 200]),
    "nonsense behind one": (request() + b"\x00\x01\r\n\r\n", [200, 400]),
}
"""What is sent, and the statuses of what is answered."""


def test_given_bytes_of_any_kind_when_sent_then_each_gets_its_answer_and_none_is_a_failure_of_ours(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path) as server:
        for name, (sent, wanted) in CASES.items():
            got = exchange(server, sent)
            found = statuses(got)
            assert found[: len(wanted)] == wanted, (name, got[:300])
            assert all(status == 400 for status in found[len(wanted) :]), (name, got)
            assert b"<" not in got, name
        head = exchange(server, CASES["HEAD"][0])
        assert server.post(order_body(2)) == 200
        assert server.stop() == 0
        lines = server.lines()

    assert head.endswith(b"\r\n\r\n")
    assert not [line for line in lines if line["level"] in {"error", "critical"}]
    assert {sync.external_id for sync in all_syncs(ledger)} == {
        "5000000000000000001",
        "5000000000000000002",
    }
    with ledger.read() as connection:
        assert set(connection.execute(select(deliveries.c.body)).scalars()) == {BODY, order_body(2)}


def test_given_genuine_bodies_that_can_t_be_read_when_sent_then_each_is_kept_byte_for_byte(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path) as server:
        for name, body in UNREADABLE.items():
            assert statuses(exchange(server, request(body))) == [200], name
        packed = bomb(100)
        assert statuses(exchange(server, request(packed, "Content-Encoding: gzip"))) == [200]

    with ledger.read() as connection:
        kept = list(connection.execute(select(deliveries.c.body).order_by(deliveries.c.id)).scalars())
    assert kept == [*UNREADABLE.values(), packed]
    assert {sync.state for sync in all_syncs(ledger)} == {State.HELD}


def drip(one: socket.socket, sent: bytes, stop: threading.Event) -> None:
    """Send a byte at a time, for as long as somebody reads them."""
    try:
        for byte in sent:
            if stop.wait(0.05):
                return
            one.sendall(bytes([byte]))
    except OSError:
        return


DRIPPED: dict[str, Callable[[], bytes]] = {
    "the first line": lambda: request(line=f"POST /{'x' * 2_000} HTTP/1.1"),
    "the fields": lambda: request(BODY, *TOO_MANY[:50]),
    "the body": lambda: request(order_body(9, pad="x" * 2_000)),
    "the chunks": lambda: chunked(chunks(size=1)),
}


def test_given_more_clients_that_drip_than_threads_when_their_time_is_over_then_others_are_served(
    ledger: Ledger, tmp_path: Path
) -> None:
    limits = {"INTEGRATOR_WEB_THREADS": "3", "INTEGRATOR_WEB_READ_SECONDS": "0.3"}
    stop = threading.Event()
    with running(ledger, tmp_path, **limits) as server, ExitStack() as stack:
        threads = []
        for sent in [made() for made in DRIPPED.values()] * 2:
            one = stack.enter_context(connected(server))
            threads.append(threading.Thread(target=drip, args=(one, sent, stop)))
            threads[-1].start()

        found = [server.post(order_body(number)) for number in range(1, 6)]
        wait_for(lambda: not any(thread.is_alive() for thread in threads))  # each was cut off before its end
        stop.set()
        lines = server.lines()

    assert found == [200] * 5
    assert count(ledger, deliveries) == 5
    assert not [line for line in lines if line["level"] == "error"]


def test_given_many_clients_that_say_nothing_when_they_hold_their_connections_then_others_are_served(
    ledger: Ledger, tmp_path: Path
) -> None:
    with running(ledger, tmp_path, INTEGRATOR_WEB_THREADS="2") as server, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(server))

        assert [server.post(order_body(number)) for number in range(1, 4)] == [200] * 3


def test_given_a_client_that_takes_no_answers_when_it_asks_on_then_its_thread_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timed_socket, "TAKE_SECONDS", 0.1)
    ours, theirs = socket.socketpair()
    with theirs, timed_socket.TimedSocket.adopt(ours) as timed:
        began = time.monotonic()
        with pytest.raises(timed_socket.TooSlow):
            timed.sendall(b"x" * 50_000_000)
        assert time.monotonic() - began < 10
        theirs.close()
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            timed.sendall(b"x" * 50_000_000)
