"""Caddy with our Caddyfile in front of the real receiver: certificates come and are renewed, and no webhook fails.

The authority is pebble, whose certificates are valid for seconds; Caddy looks each second, not each ten minutes.
"""

import http.client
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import deliveries, syncs
from sandbox.system_ports import free_port
from sandbox.system_process import Process, answers, says
from tests.acme import Authority, authority
from tests.unit.test_compose import ROOT, TOOLS, services
from tests.webhooks import KEYS, count, headers, order_body, server_environment, store
from tests.workers import until

SITE = "shops.example.com"
PATH = f"/webhooks/shopify/{KEYS['KEY']}"
VALID_SECONDS = 21


@dataclass
class Front:
    """The proxy and the receiver behind it, and the root that shops trust."""

    ports: dict[str, int]
    authority: Authority
    receiver: Process
    proxy: Process
    serials: set[str] = field(default_factory=set)

    def ask(
        self, method: str, path: str, body: bytes | None = None, given: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Ask over a new connection, whose certificate must be valid for the site, now, and by the authority."""
        trusted = ssl.create_default_context(cadata=self.authority.issuer())
        plain = socket.create_connection(("127.0.0.1", self.ports["https"]), timeout=50)
        with trusted.wrap_socket(plain, server_hostname=SITE) as secured:
            self.serials.add(str(secured.getpeercert()["serialNumber"]))  # type: ignore[index]
            return spoken(secured, method, path, body, given)

    def log(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.proxy.said().splitlines()]


def spoken(
    connected: socket.socket, method: str, path: str, body: bytes | None, given: dict[str, str] | None
) -> http.client.HTTPResponse:
    """One request and its answer over an open connection."""
    connection = http.client.HTTPConnection(SITE, timeout=50)
    connection.sock = connected
    connection.request(method, path, body, given or {})
    answer = connection.getresponse()
    answer.read()
    return answer


@pytest.fixture
def front(sqlite_ledger: Ledger, tmp_path: Path) -> Iterator[Front]:
    store(sqlite_ledger)
    ports: dict[str, int] = {}
    for name in ("http", "https", "receiver", "health"):
        ports[name] = free_port(frozenset(ports.values()))
    url = sqlite_ledger.url.render_as_string(hide_password=False)
    run = [sys.executable, "-m", "gunicorn", "-c", "python:web.server"]
    given = server_environment(url, INTEGRATOR_BIND=f"127.0.0.1:{ports['receiver']}")
    receiver = Process("web", run, given, tmp_path / "web.log", says("Booting worker"))
    with authority(
        tmp_path, http_port=ports["http"], https_port=ports["https"], valid_seconds=VALID_SECONDS
    ) as issuing:
        proxy = Process(
            "caddy", command(), environment(tmp_path, ports, issuing), tmp_path / "caddy.log", healthy(ports)
        )
        made = Front(ports, issuing, receiver, proxy)
        try:
            receiver.start()
            proxy.start()
            receiver.wait_ready()
            proxy.wait_ready()
            until(lambda: "certificate obtained successfully" in proxy.said())
            yield made
        finally:
            proxy.kill()
            receiver.kill()


def command() -> list[str]:
    """What the service runs, with the project's Caddyfile where the image has its copy."""
    program, *rest = services()["caddy"]["command"]
    place = str(ROOT / "infra" / "compose" / "Caddyfile")
    return [str(TOOLS / program), *(place if word == "/etc/caddy/Caddyfile" else word for word in rest)]


def environment(folder: Path, ports: dict[str, int], issuing: Authority) -> dict[str, str]:
    """The service's environment, with this test's places."""
    given = services()["caddy"]["environment"]
    assert given.keys() == {"CADDY_SITE", "CADDY_ACME_CA"}
    return {
        "HOME": str(folder),
        "CADDY_SITE": SITE,
        "CADDY_ACME_CA": issuing.directory,
        "SSL_CERT_FILE": str(issuing.certificate),
        "CADDY_HTTP_PORT": str(ports["http"]),
        "CADDY_HTTPS_PORT": str(ports["https"]),
        "CADDY_HEALTH_PORT": str(ports["health"]),
        "CADDY_RECEIVER": f"127.0.0.1:{ports['receiver']}",
        "CADDY_RENEW_INTERVAL": "1s",
    }


def healthy(ports: dict[str, int]) -> Any:
    """The service's health check, at this test's port."""
    (url,) = (word for word in services()["caddy"]["healthcheck"]["test"] if word.startswith("http"))
    return answers(url.replace(":8081/", f":{ports['health']}/"))


@dataclass
class Shops:
    """Send webhooks, each a new order over a new connection, until told to stop."""

    front: Front
    answered: list[int] = field(default_factory=list)
    failed: list[object] = field(default_factory=list)
    stopped: bool = False
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, how_many: int) -> None:
        self.threads = [threading.Thread(target=self._send, args=(10_000 * (one + 1),)) for one in range(how_many)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopped = True
        for thread in self.threads:
            thread.join(60)

    def _send(self, number: int) -> None:
        while not self.stopped:
            number += 1
            body = order_body(number)
            try:
                answer = self.front.ask("POST", PATH, body, headers(body, event=f"w-{number}"))
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                continue
            if answer.status == 200:
                self.answered.append(number)
            else:
                self.failed.append((answer.status, answer.headers["X-Correlation-Id"]))


@pytest.mark.timeout(150)
def test_given_webhooks_when_the_certificate_is_renewed_and_the_receiver_replaced_and_killed_then_none_fails(
    front: Front, sqlite_ledger: Ledger
) -> None:
    shops = Shops(front)
    shops.start(3)
    try:
        until(lambda: len(shops.answered) > 10)
        at_first = frozenset(front.serials)
        front.receiver.terminate()
        front.receiver.start()
        front.receiver.wait_ready()
        so_far = len(shops.answered)
        until(lambda: len(shops.answered) > so_far + 10)
        front.receiver.restart()  # killed
        until(lambda: front.serials > at_first)
        so_far = len(shops.answered)
        until(lambda: len(shops.answered) > so_far + 10)
    finally:
        shops.stop()

    assert shops.failed == []
    assert count(sqlite_ledger, syncs) == len(shops.answered) == len(set(shops.answered))
    assert count(sqlite_ledger, deliveries) == len(shops.answered), "what was sent again is kept once"


def test_given_requests_when_they_come_then_only_webhooks_pass_or_wait_and_the_log_tells_neither_key_nor_address(
    front: Front, sqlite_ledger: Ledger
) -> None:
    body = order_body()
    kept = front.ask("POST", PATH, body, headers(body) | {"X-Forwarded-For": "192.0.2.77"})
    assert (kept.status, kept.headers["Server"]) == (200, None)
    assert kept.headers["Strict-Transport-Security"] == "max-age=31536000"
    statuses = {
        (method, path): front.ask(method, path).status
        for method, path in (
            ("GET", "/up"),
            ("HEAD", "/up"),
            ("POST", "/up"),
            ("GET", PATH),
            ("GET", "/metrics"),
            ("GET", "/readyz"),
            ("GET", "/healthz"),
            ("GET", "/webhooks/../metrics"),
            ("GET", "/webhooks/%2e%2e/readyz"),
            ("GET", "/webhooks/..%2freadyz"),
            ("POST", f"/{KEYS['KEY']}"),
        )
    }
    assert list(statuses.values()) == [200, 200, 405, 405, *[404] * 7]
    with socket.create_connection(("127.0.0.1", front.ports["http"]), timeout=10) as plain:
        moved = spoken(plain, "POST", PATH, body, headers(body))
    assert (moved.status, moved.headers["Location"]) == (308, f"https://{SITE}{PATH}")
    assert count(sqlite_ledger, deliveries) == 1

    large = order_body(pad="x" * 400_000)
    outcome: list[int] = []
    front.receiver.kill()
    sender = threading.Thread(
        target=lambda: outcome.append(front.ask("POST", PATH, large, headers(large)).status), daemon=True
    )
    sender.start()
    assert front.ask("GET", "/up").status == 502
    front.receiver.start()
    sender.join(50)

    assert outcome == [200], "held until the receiver was there"
    assert count(sqlite_ledger, deliveries) == 2

    lines = [line for line in front.log() if line.get("status") == 200 and line["request"]["method"] == "POST"]
    assert [line["request"] for line in lines] == 2 * [
        {
            "remote_ip": "127.0.0.0",
            "client_ip": "127.0.0.0",
            "proto": "HTTP/1.1",
            "method": "POST",
            "host": SITE,
            "uri": "/webhooks/shopify/…",
        }
    ]
    assert KEYS["KEY"] not in front.proxy.said()
    assert "192.0.2.77" not in front.proxy.said()
    assert lines[0]["correlation_id"] == kept.headers["X-Correlation-Id"]
