"""The HTTP client against scripted servers: what it sends, when it gives up, and when it says "in doubt"."""

import datetime
import gzip
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from integrator import errors
from integrator.http import Answer, Http
from integrator.plans import Grant
from tests.scripted_server import PATIENCE_SECONDS, Peer, Script, Server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers; all have ended when the test has."""
    servers: list[Server] = []

    def _start(script: Script, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(script, tls))
        return servers[-1]

    yield _start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and its self-made certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made up for tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    """Every test with this fixture runs over plain HTTP and over TLS."""
    return server_tls if request.param == "https" else None


def answer_each(*answers: bytes) -> Script:
    """Answer one request after the other on one connection, then close it."""

    def script(peer: Peer) -> None:
        for answer in answers:
            if not peer.read_request():
                return
            peer.send(answer)

    return script


def keep_answering(peer: Peer) -> None:
    while peer.read_request():
        peer.send(OK)


def cut(peer: Peer) -> None:
    peer.read_request()


def dripping(head: bytes, dripped: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(head)
        peer.drip(dripped)

    return script


def silent(peer: Peer) -> None:
    peer.read_request()
    peer.wait_until_left()


TOO_SLOW = {
    "never answers": silent,
    "drips its status line": dripping(b"", b"HTTP/1.1 200 OK"),
    "drips its headers": dripping(b"HTTP/1.1 200 OK\r\n", b"X-Some: thing\r\n"),
    "drips a body of known length": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"x"),
    "drips chunks": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "drips a body that ends with the connection": dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
    "answers 100 Continue for ever": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("script", TOO_SLOW.values(), ids=TOO_SLOW.keys())
def test_given_a_server_slower_than_the_deadline_when_called_then_the_client_leaves_in_doubt(
    start: Start, tls: ssl.SSLContext | None, certificate: Path, script: Script
) -> None:
    server = start(script, tls)
    http = Http(server.url, deadline_seconds=0.25, ca_file=str(certificate))
    began = time.monotonic()
    with pytest.raises(errors.Transient, match=r"127\.0\.0\.1 did not answer in full within 0\.25 s") as raised:
        http.request("POST", "/orders", body=b"{}")
    assert raised.value.in_doubt
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    assert server.client_left.wait(PATIENCE_SECONDS / 2), "the server was to be left while it was still sending"


@pytest.mark.parametrize("pause_seconds", [0.02, PATIENCE_SECONDS], ids=["slowly", "nothing"])
def test_given_a_server_that_reads_slowly_when_a_large_body_is_sent_then_the_client_leaves_in_doubt(
    start: Start, tls: ssl.SSLContext | None, certificate: Path, pause_seconds: float
) -> None:
    finished = threading.Event()

    def script(peer: Peer) -> None:
        while not finished.wait(pause_seconds) and peer.sock.recv(8_192):
            pass

    server = start(script, tls)
    http = Http(server.url, deadline_seconds=0.25, ca_file=str(certificate))
    began = time.monotonic()
    with pytest.raises(errors.Transient, match="did not answer in full") as raised:
        http.request("POST", "/orders", body=bytes(40_000_000))
    finished.set()
    assert raised.value.in_doubt
    assert time.monotonic() - began < PATIENCE_SECONDS / 2


CUTS = {
    "without an answer": cut,
    "within the headers": answer_each(b"HTTP/1.1 200 OK\r\nContent-"),
    "within a body of known length": answer_each(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
    "within a chunk": answer_each(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"),
    "after something that is not HTTP": answer_each(b"220 mail.example ready\r\n"),
    "after a gzip that is none": answer_each(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    ),
}


@pytest.mark.parametrize("script", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_given_a_connection_cut_after_the_first_byte_when_called_then_in_doubt_and_never_sent_again(
    start: Start, script: Script, method: str
) -> None:
    server = start(script)
    with pytest.raises(errors.Transient) as raised:
        Http(server.url).request(method, "/orders")
    assert raised.value.in_doubt
    assert len(server.received) == 1
    assert server.received[0].count(b"/orders HTTP/1.1") == 1


def test_given_nobody_listens_when_called_then_not_in_doubt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(errors.Transient, match=r"127\.0\.0\.1 refused the connection") as raised:
        Http(f"http://127.0.0.1:{port}").request("POST", "/orders", body=b"{}")
    assert not raised.value.in_doubt


def test_given_a_name_that_does_not_resolve_when_called_then_not_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(errors.Transient, match=r"erp\.example is a name that could not be resolved") as raised:
        Http("http://erp.example").request("POST", "/orders", body=b"{}")
    assert not raised.value.in_doubt


def test_given_a_listener_that_never_shakes_hands_when_called_over_tls_then_not_in_doubt(
    start: Start,
) -> None:
    server = start(lambda peer: peer.wait_until_left())
    url = server.url.replace("http:", "https:")
    with pytest.raises(errors.Transient, match="could not be reached in time") as raised:
        Http(url, connect_seconds=0.25).request("POST", "/orders", body=b"{}")
    assert not raised.value.in_doubt


def test_given_a_certificate_that_nobody_trusts_when_called_then_nothing_of_the_request_leaves(
    start: Start, server_tls: ssl.SSLContext
) -> None:
    server = start(keep_answering, server_tls)
    with pytest.raises(errors.Transient, match="has a certificate that is not trusted") as raised:
        Http(server.url).request("POST", "/orders", body=b"{}")
    assert not raised.value.in_doubt
    server.wait_until_served(1)
    assert server.received == [b""]


def refuse(deadline_seconds: float) -> None:
    raise errors.NotStarted(f"{deadline_seconds:g} s would end after the lease")


def test_given_a_guard_that_refuses_when_called_then_connected_but_not_one_byte_left(
    start: Start, tls: ssl.SSLContext | None, certificate: Path
) -> None:
    server = start(keep_answering, tls)
    http = Http(server.url, deadline_seconds=7, guard=refuse, ca_file=str(certificate))
    with pytest.raises(errors.NotStarted, match="7 s would end"):
        http.request("POST", "/orders", body=b"{}")
    server.wait_until_served(1)
    assert server.received == [b""]


def test_given_a_kept_connection_and_a_guard_that_refuses_when_called_then_not_one_more_byte_left(
    start: Start, tls: ssl.SSLContext | None, certificate: Path
) -> None:
    server = start(keep_answering, tls)
    Http(server.url, ca_file=str(certificate)).request("GET", "/first")
    sent = len(server.received[0])
    with pytest.raises(errors.NotStarted):
        Http(server.url, guard=refuse, ca_file=str(certificate)).request("POST", "/second", body=b"{}")
    server.wait_until_served(1)
    assert [len(received) for received in server.received] == [sent]


def test_given_a_guard_that_agrees_when_called_then_asked_once_per_call(start: Start) -> None:
    server = start(keep_answering)
    asked: list[float] = []
    http = Http(server.url, deadline_seconds=9, guard=asked.append)
    http.request("POST", "/orders", body=b"{}")
    http.request("POST", "/orders", body=b"{}")
    assert asked == [9, 9]


def test_given_nobody_listens_when_called_then_the_guard_was_not_asked_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(errors.Transient):
        Http(f"http://127.0.0.1:{port}", guard=refuse).request("GET", "/orders")


def test_given_a_server_that_keeps_connections_when_called_twice_then_one_connection(
    start: Start, tls: ssl.SSLContext | None, certificate: Path
) -> None:
    server = start(keep_answering, tls)
    http = Http(server.url, ca_file=str(certificate))
    assert [http.request("GET", "/orders").body for _ in range(2)] == [b"hi", b"hi"]
    assert len(server.received) == 1


def test_given_a_kept_connection_that_the_server_closed_when_called_then_a_new_one_and_each_request_once(
    start: Start, tls: ssl.SSLContext | None, certificate: Path
) -> None:
    server = start(answer_each(OK), tls)
    http = Http(server.url, ca_file=str(certificate))
    http.request("POST", "/first", body=b"")
    server.wait_until_served(1)
    assert http.request("POST", "/second", body=b"").status == 200
    assert [received.split(b" ")[1] for received in server.received] == [b"/first", b"/second"]


def test_given_a_kept_connection_cut_at_the_second_request_when_called_then_in_doubt_and_not_sent_again(
    start: Start,
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        peer.read_request()

    server = start(script)
    Http(server.url).request("GET", "/first")
    with pytest.raises(errors.Transient, match="cut the connection") as raised:
        Http(server.url).request("POST", "/second", body=b"")
    assert raised.value.in_doubt
    assert len(server.received) == 1
    assert server.received[0].count(b"POST /second") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere",
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere",
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0",
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0",
    ],
)
def test_given_a_redirect_or_a_request_to_wait_when_called_then_it_is_the_answer_and_one_request_was_sent(
    start: Start, head: bytes
) -> None:
    server = start(keep_answering_with(head + b"\r\nContent-Length: 0\r\n\r\n"))
    assert Http(server.url).request("GET", "/orders").status == int(head.split()[1])
    assert len(server.received) == 1
    assert server.received[0].count(b"HTTP/1.1") == 1


def keep_answering_with(answer: bytes) -> Script:
    def script(peer: Peer) -> None:
        while peer.read_request():
            peer.send(answer)

    return script


def test_given_a_server_that_sets_a_cookie_when_called_again_then_no_cookie_is_sent(start: Start) -> None:
    server = start(keep_answering_with(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"))
    assert Http(server.url).request("GET", "/").headers["set-cookie"] == "a=b; Path=/"
    Http(server.url).request("GET", "/")
    assert server.received[0].count(b"GET / HTTP/1.1") == 2
    assert b"cookie" not in server.received[0].lower()


def test_given_proxies_and_a_netrc_in_the_environment_when_called_then_neither_is_used(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login made-up password made-up\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = start(keep_answering)
    assert Http(server.url).request("GET", "/").status == 200
    assert b"authorization" not in server.received[0].lower()


def test_given_headers_params_and_a_body_when_called_then_they_are_sent_beside_the_usual_ones(
    start: Start,
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        if not peer.received.endswith(b"{}"):
            peer.received.extend(peer.sock.recv(2))
        peer.send(OK)

    server = start(script)
    http = Http(server.url + "/api/", headers={"X-One": "1", "X-Two": "2"})
    http.request("PUT", "/orders/7", headers={"x-two": "3"}, params={"reference": "a b&c"}, body=b"{}")
    head, body = bytes(server.received[0]).split(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "PUT /api/orders/7?reference=a+b%26c HTTP/1.1"
    assert {"X-One: 1", "x-two: 3", "Content-Length: 2"} < set(headers)
    assert "X-Two: 2" not in headers
    assert any(header.startswith("User-Agent: integrator/") for header in headers)
    assert any(header.startswith("Accept-Encoding: gzip") for header in headers)
    assert body == b"{}"


def gzipped(size: int) -> bytes:
    body = gzip.compress(bytes(size))
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001), gzipped(50_000_000)]
)
def test_given_a_body_over_the_limit_when_called_then_in_doubt(start: Start, answer: bytes) -> None:
    server = start(answer_each(answer))
    with pytest.raises(errors.Transient, match="more than 1000 bytes") as raised:
        Http(server.url, max_body_bytes=1000).request("GET", "/orders")
    assert raised.value.in_doubt


def test_given_a_gzipped_body_within_the_limit_when_called_then_decoded(start: Start) -> None:
    server = start(answer_each(gzipped(1000)))
    assert Http(server.url, max_body_bytes=1000).request("GET", "/orders").body == bytes(1000)


def test_given_secrets_in_the_request_when_the_call_fails_then_the_error_names_only_the_host(
    start: Start,
) -> None:
    server = start(cut)
    http = Http(server.url, headers={"Authorization": "Bearer s3cret"})
    with pytest.raises(errors.Transient) as raised:
        http.request("POST", "/s3cret", params={"reference": "s3cret"}, body=b"s3cret")
    assert raised.value.message == "127.0.0.1 cut the connection"
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert "s3cret" not in repr(http)


@pytest.mark.parametrize("value", ["line\r\nbreak: s3cret", "s3cret \N{EURO SIGN}"])
def test_given_a_header_that_can_not_be_written_when_called_then_nothing_is_sent_and_the_value_is_not_told(
    start: Start, value: str
) -> None:
    server = start(keep_answering)
    with pytest.raises(ValueError, match=r"a request to 127\.0\.0\.1 can't be written") as raised:
        Http(server.url, headers={"X-Token": value}).request("GET", "/")
    assert "s3cret" not in str(raised.value)
    assert raised.value.__context__ is None
    assert not server.received


def test_given_an_answer_when_shown_then_its_body_and_headers_are_not() -> None:
    assert repr(Answer(200, {"X-Token": "s3cret"}, b"s3cret")) == "Answer(status=200)"


def test_given_a_kept_connection_when_the_process_forks_then_the_child_makes_its_own(start: Start) -> None:
    server = start(keep_answering)
    program = f"""
import os
from integrator.http import Http
http = Http({server.url!r})
http.request("GET", "/parent")
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
http.request("GET", "/child")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert [received.split(b" ")[1] for received in server.received] == [b"/parent", b"/child"]


# The limiter


class Places:
    """A limiter that grants, and counts what is given back."""

    def __init__(self) -> None:
        self.asked = self.refunded = 0

    def __call__(self) -> Grant:
        self.asked += 1
        return Grant(1_760_000_000_123_456 + self.asked, "gate:12", self._refund)

    def _refund(self) -> None:
        self.refunded += 1


def no_place() -> Grant:
    raise errors.RateLimited("no place", wait_seconds=1)


def test_given_a_limit_when_called_then_one_place_a_call_and_the_header_tells_it(
    start: Start, tls: ssl.SSLContext | None, certificate: Path
) -> None:
    server, places = start(keep_answering, tls), Places()
    http = Http(server.url, limit=places, ca_file=str(certificate))
    for _ in range(2):
        http.request("POST", "/orders", body=b"{}")
    assert (places.asked, places.refunded) == (2, 0)
    for number in (1, 2):
        assert b"Integrator-Grant: at=176000000012345%d, of=gate:12\r\n" % (6 + number) in server.received[0]


def test_given_no_place_when_called_then_connected_but_not_one_byte_left(
    start: Start, tls: ssl.SSLContext | None, certificate: Path
) -> None:
    server = start(keep_answering, tls)
    with pytest.raises(errors.RateLimited):
        Http(server.url, limit=no_place, ca_file=str(certificate)).request("POST", "/orders", body=b"{}")
    server.wait_until_served(1)
    assert server.received == [b""]


def test_given_a_guard_that_refuses_after_a_place_when_called_then_the_place_is_given_back(
    start: Start,
) -> None:
    places = Places()
    with pytest.raises(errors.NotStarted):
        Http(start(keep_answering).url, limit=places, guard=refuse).request("GET", "/orders")
    assert (places.asked, places.refunded) == (1, 1)


def test_given_nobody_listens_when_called_then_no_place_was_taken() -> None:
    places = Places()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(errors.Transient):
        Http(f"http://127.0.0.1:{port}", limit=places).request("GET", "/orders")
    assert (places.asked, places.refunded) == (0, 0)


def test_given_a_call_that_left_and_failed_when_it_ends_then_its_place_is_used(start: Start) -> None:
    places = Places()
    with pytest.raises(errors.Transient):
        Http(start(lambda peer: peer.read_request()).url, limit=places).request("POST", "/orders", body=b"{}")
    assert (places.asked, places.refunded) == (1, 0)
