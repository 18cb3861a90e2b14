"""Mutated webhooks against the real receiver: nothing forged is accepted, nothing fails, nothing grows.

    python -m benchmarks.hostile [--short] [--requests 100000] [--seed 1] [--clients 8]

starts the receiver on a fresh SQLite ledger with three shops, and sends it signed webhooks, most of them mutated:
bits flipped anywhere, parts cut off, added, repeated, spliced with another's. Request and mutation follow from the
seed and the request's number alone. What may be answered 200 is told by a reader of its own, which shares no code
with the receiver: the body must verify with the secret of the shop that the path names. The last line is JSON:

- `false_accepts`: answers 200 to what does not verify, and bodies in the ledger that no shop ever signed.
- `false_rejects`: unchanged webhooks that were not answered 200. `lost`: answered 200, but not in the ledger.
- `server_errors`: answers of 500 and above. `errors_logged`: lines of the receiver's log at ERROR and above.
- `unanswered`: requests that got no answer: so much is missing that they never end, or there is no request.
- `rss_growth_mb`: how much larger the receiver's process is at the end than after the first tenth, its warm-up.
- `kept`: deliveries in the ledger.
"""

import argparse
import hashlib
import json
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from benchmarks.hostile_mutations import MUTATIONS
from benchmarks.hostile_webhooks import SHOPS, Asked, requests_in, webhook
from integrator.ledger.engine import Ledger
from integrator.ledger.migrate import upgrade
from integrator.ledger.schema import deliveries
from integrator.ledger.tenants import File, apply
from integrator.secrets import KeyRing, new_key
from sandbox.system_ports import free_port
from sandbox.system_process import Process, says

HOST = "127.0.0.1"


@dataclass
class Score:
    """What was sent and answered. Threads share it."""

    answers: Counter[int] = field(default_factory=Counter)
    false_accepts: list[str] = field(default_factory=list)
    false_rejects: list[str] = field(default_factory=list)
    unanswered: int = 0
    signed: set[bytes] = field(default_factory=set)
    owed: set[bytes] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, name: str, sent: bytes, found: list[int]) -> None:
        """Compare the answers with what our own reader says of the requests."""
        asked = list(requests_in(sent))
        with self.lock:
            self.answers.update(found)
            self.unanswered += not found
            for place, status in enumerate(found):
                one = asked[place] if place < len(asked) else None
                if status == 200 and not self._owes(one):
                    self.false_accepts.append(f"{name}, answer {place + 1}: {sent[:300]!r}")
            if name.endswith(" nothing") and found != [200]:
                self.false_rejects.append(f"{name}: {found}")

    def _owes(self, asked: Asked | None) -> bool:
        shop = asked.shop() if asked else None
        if asked is None or shop is None or not asked.signed_for(shop):
            return False
        if asked.topic(shop) in shop.ours:
            self.owed.add(hashlib.sha256(asked.body).digest())
        return True


@dataclass
class Sender:
    """Makes the requests and sends them, each over a connection of its own."""

    port: int
    seed: int
    score: Score

    def send(self, number: int) -> None:
        """One request, and what becomes of it."""
        dice = random.Random(f"{self.seed}:{number}")
        one, other = webhook(dice, 2 * number), webhook(dice, 2 * number + 1)
        with self.score.lock:
            self.score.signed |= {hashlib.sha256(made.body).digest() for made in (one, other)}
        mutation = dice.choice(MUTATIONS)
        sent = mutation(dice, one, other)
        self.score.judge(f"{number} {mutation.__name__}", sent, self._exchange(sent))

    def _exchange(self, sent: bytes) -> list[int]:
        got = b""
        with socket.create_connection((HOST, self.port), timeout=60) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65_536):
                    got += part
            except ConnectionError:  # it is refused before all of it is sent
                pass
        found = [int(status) for status in re.findall(rb"(?:^|\n|\})HTTP/1\.1 (\d{3}) ", got)]
        return [status for status in found if status != 100]


@dataclass(frozen=True)
class Receiver:
    """The running receiver and its ledger."""

    ledger: Ledger
    process: Process
    port: int

    def rss_mb(self) -> float:
        """Of the process that answers."""
        booted = re.findall(r"Booting worker with pid: (\d+)", self.process.log.read_text())
        return float(psutil.Process(int(booted[-1])).memory_info().rss) / 2**20

    def errors_logged(self) -> int:
        """Lines of its log that somebody would have to look at."""
        lines = self.process.log.read_text().splitlines()
        return sum(json.loads(line)["level"] in {"error", "critical"} for line in lines)


@contextmanager
def receiver(folder: Path) -> Iterator[Receiver]:
    """The real one on a fresh SQLite ledger with our shops."""
    ledger, key, port = Ledger(f"sqlite:///{folder}/ledger.sqlite3"), new_key(), free_port()
    store(ledger, KeyRing((key,)))
    ours = {
        "INTEGRATOR_LEDGER_URL": str(ledger.url),
        "INTEGRATOR_SECRET_KEYS": key,
        "INTEGRATOR_SQS_ENDPOINT_URL": f"http://{HOST}:9",
        "INTEGRATOR_BIND": f"{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTEGRATOR_")}
    argv = [sys.executable, "-m", "gunicorn", "-c", "python:web.server"]
    process = Process("receiver", argv, inherited | ours, folder / "receiver.log", says("Booting worker"))
    process.start()
    try:
        process.wait_ready()
        yield Receiver(ledger, process, port)
    finally:
        process.terminate()
        ledger.close()


def store(ledger: Ledger, ring: KeyRing) -> None:
    """Make the ledger, with one tenant that has all our shops."""
    secrets = {f"SECRET_{shop.slug}": shop.secret for shop in SHOPS} | {
        f"KEY_{shop.slug}": shop.key for shop in SHOPS
    }
    secrets |= {"TOKEN": "t", "CK": "ck_1", "CS": "cs_1"}
    erp = {"slug": "own", "kind": "rest", "config": {"url": f"http://{HOST}:9"}}
    erp |= {"secrets": {"token": {"env": "TOKEN"}}}
    tenant = {"slug": "acme", "name": "Acme", "erps": [erp], "shops": [shop.config() for shop in SHOPS]}
    upgrade(ledger)
    with ledger.write() as connection:
        apply(connection, File.model_validate({"tenants": [tenant]}), secrets, ring)


def measure(requests: int, seed: int, clients: int) -> dict[str, Any]:
    """Send so many requests; the figures."""
    score, began, warm = Score(), time.monotonic(), max(requests // 10, min(requests, 500))
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder, receiver(Path(folder)) as running:
        sender = Sender(running.port, seed, score)
        with ThreadPoolExecutor(clients) as pool:
            deque(pool.map(sender.send, range(warm)), maxlen=0)
            before = running.rss_mb()
            deque(pool.map(sender.send, range(warm, requests)), maxlen=0)
        memory = {"rss_mb": round(before, 1), "rss_growth_mb": round(running.rss_mb() - before, 1)}
        kept = Counter(kept_in(running.ledger))
        errors = running.errors_logged()
    for told in [*score.false_accepts, *score.false_rejects][:20]:
        print(told)
    return {
        "requests": requests,
        "seed": seed,
        "false_accepts": len(score.false_accepts) + len(set(kept) - score.signed),
        "false_rejects": len(score.false_rejects),
        "server_errors": sum(count for status, count in score.answers.items() if status >= 500),
        "errors_logged": errors,
        "lost": len(score.owed - set(kept)),
        "unanswered": score.unanswered,
        **memory,
        "kept": kept.total(),
        "answers": {str(status): count for status, count in sorted(score.answers.items())},
        "seconds": round(time.monotonic() - began, 1),
    }


def kept_in(ledger: Ledger) -> Iterator[bytes]:
    """The hash of every body in the ledger."""
    with ledger.read() as connection:
        rows = connection.execution_options(yield_per=1_000).execute(select(deliveries.c.body))
        for body in rows.scalars():
            yield hashlib.sha256(body).digest()


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description="Mutated webhooks.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--short", action="store_true", help="a smoke test of a few seconds")
    given = parser.parse_args()
    print(json.dumps(measure(1_000 if given.short else given.requests, given.seed, given.clients)))


if __name__ == "__main__":
    main()
