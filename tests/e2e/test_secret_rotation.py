"""A shop's secret is rotated while its webhooks arrive without a pause: no valid one is refused."""

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import deliveries
from tests.e2e.test_gunicorn import HOST, PATH, Server, running, wait_for
from tests.webhooks import (
    ENVIRONMENT,
    JSON,
    SECRETS,
    count,
    headers,
    order_body,
    server_environment,
    shop,
    store,
    tenant,
)
from web.reader import SHOP_SECONDS

CACHED_SECONDS = SHOP_SECONDS + 0.5
"""After so long every process knows what the ledger says of a shop."""


@dataclass
class Sender:
    """Sends webhooks signed with one secret, one after the other, until it is told to stop."""

    port: int
    secret: str
    first: int
    statuses: list[int] = field(default_factory=list)
    stopped: bool = False

    def run(self) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        while not self.stopped:
            number = self.first + len(self.statuses)
            body = order_body(number)
            given = headers(body, secret=SECRETS[self.secret], event=f"w-{number}")
            connection.request("POST", PATH, body, given)
            answer = connection.getresponse()
            answer.read()
            self.statuses.append(answer.status)
            time.sleep(0.005)
        connection.close()


@contextmanager
def sending(server: Server, secret: str, first: int) -> Iterator[Sender]:
    """It has sent some before the block, and in the block."""
    sender = Sender(server.port, secret, first)
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        more(sender)
        yield sender
        more(sender)
    finally:
        sender.stopped = True
        thread.join()


def more(sender: Sender) -> None:
    """Wait until it has sent some more."""
    until = len(sender.statuses) + 5
    wait_for(lambda: len(sender.statuses) >= until)


def signed_with(*secrets: str) -> JSON:
    """The tenant whose shop signs its webhooks with any of these."""
    signing = {"webhook": [{"env": name} for name in secrets], "access_token": {"env": "TOKEN"}}
    return tenant("acme", shop(secrets=signing))


def apply(ledger: Ledger, folder: Path, *secrets: str) -> None:
    """Let these secrets sign from now on, as an operator does."""
    path = folder / "tenants.yaml"
    path.write_text(yaml.safe_dump({"tenants": [signed_with(*secrets)]}))
    command = [sys.executable, "-m", "flask", "--app", "web", "tenants", "apply", str(path)]
    environment = server_environment(ledger.url.render_as_string(hide_password=False)) | ENVIRONMENT
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


def test_given_webhooks_without_a_pause_when_their_secret_is_rotated_then_no_valid_one_is_refused(
    ledger: Ledger, tmp_path: Path
) -> None:
    store(ledger, signed_with("OLD"))
    with running(ledger, tmp_path, INTEGRATOR_WEB_PROCESSES="2") as server:
        with sending(server, "OLD", 1_000_000) as old:
            apply(ledger, tmp_path, "NEW", "OLD")
            time.sleep(CACHED_SECONDS)
            with sending(server, "NEW", 2_000_000) as new:
                more(old)
                more(new)
        with sending(server, "NEW", 3_000_000) as newer:
            apply(ledger, tmp_path, "NEW")
            time.sleep(CACHED_SECONDS)
        with sending(server, "OLD", 4_000_000) as revoked:
            pass

    for sender in (old, new, newer):
        assert set(sender.statuses) == {200}
    assert set(revoked.statuses) == {401}
    assert count(ledger, deliveries) == sum(len(sender.statuses) for sender in (old, new, newer))
