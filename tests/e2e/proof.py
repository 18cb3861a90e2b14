"""The proof: real processes, killed where it hurts and at random, and nothing acknowledged is lost or doubled.

Two shops send orders with duplicates and out of order; their management systems fail in every way that the
sandbox knows; the receiver, the workers and the scheduler are killed by failpoints and at random, and restarted.
Then the faults end, and what the management systems hold is compared with what the shops know.

    PROOF_SEED=7 pytest tests/e2e/test_proof.py -s
"""

import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from integrator.failpoints import NAMES
from integrator.ledger.transitions import KILLS_ITS_WORKER
from sandbox import demo_ledger
from sandbox.demo_report import compare
from sandbox.demo_tenants import SHOP, DemoTenant, stored_orders
from sandbox.shop import SendOptions
from sandbox.shop_orders import Life
from sandbox.system import System

SETTLE_SECONDS = 4.0
"""How long a doubt lasts in the proof; the latest late commit stays below it."""

PROBABILITIES = {
    "receiver.committed": 0.04,
    "dispatch.marked": 0.05,
    "worker.claimed": 0.06,
    "http.unread": 0.06,
    "worker.answered": 0.08,
}
"""How often each failpoint kills its process when it passes it."""

FAULTS: Mapping[str, Any] = {
    "latency_ms": 20,
    "retry_after_seconds": 1,
    "error_429": 0.01,
    "error_500": 0.01,
    "error_503": 0.02,
    "error_500_after_effect": 0.01,
    "error_504_after_effect": 0.01,
    "drop_before_effect": 0.01,
    "drop_after_effect": 0.03,
    "late_commit": 0.02,
    "late_commit_min_seconds": 0.2,
    "late_commit_max_seconds": SETTLE_SECONDS - 1,
    "drip": 0.01,
    "drip_ms": 20,
}
"""What the management systems do while the storm lasts."""

MORTAL = ("receiver", "worker-1", "worker-2", "scheduler")
"""The parts that are killed at random."""

BATCH = 12
"""Orders of each shop that are sent before it is looked whether every failpoint has killed often enough."""

BATCHES = 8
"""Batches that are sent at most until every failpoint has killed often enough."""

KILLS = 3
"""How often each failpoint kills at least: one that fired once may have met an idle process."""

CALM_SECONDS = 240
"""How long after the storm everything may take to settle: leases, doubts and backoffs run out in it."""


@dataclass
class Proven:
    """What was done, and what came of it."""

    seed: int
    orders: int = 0
    requests: int = 0
    acknowledged: int = 0
    failpoint_kills: dict[str, int] = field(default_factory=dict)
    random_kills: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    requeued: int = 0
    open_syncs: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    limbo: list[Any] = field(default_factory=list)
    storm_seconds: float = 0.0
    calm_seconds: float = 0.0

    def as_json(self) -> str:
        """One line, for the report."""
        return json.dumps(asdict(self))


class Proof:
    """One run on one database, with keys that the management systems remember or forget."""

    def __init__(self, folder: Path, *, seed: int, keys: bool, ledger_url: str | None = None) -> None:
        self.seed, self.keys = seed, keys
        self.random = random.Random(seed)
        self.kill_log = folder / "kills.log"
        failpoints = ",".join(f"{name}={PROBABILITIES[name]}" for name in NAMES)
        self.storm_env = {
            "INTEGRATOR_FAILPOINTS": failpoints,
            "INTEGRATOR_FAILPOINT_SEED": str(seed),
            "INTEGRATOR_FAILPOINT_LOG": str(self.kill_log),
        }
        self.system = System(
            folder / "system",
            ledger_url=ledger_url,
            workers=2,
            worker_threads=8,
            erp=("erp-acme", "erp-globex"),
            auto_restart=True,
        )
        self.tenants = [
            DemoTenant.make(slug, BATCH * BATCHES, seed + number) for number, slug in enumerate(("acme", "globex"))
        ]
        self.proven = Proven(seed)
        self.random_kills: Counter[str] = Counter()

    def run(self) -> Proven:
        """Storm, calm, comparison."""
        with ExitStack() as stack:
            stack.callback(self.system.stop, 20)
            self.system.start()
            for tenant in self.tenants:
                stack.enter_context(tenant.shop)
            self._apply()
            began = time.monotonic()
            sent = self._storm()
            self.proven.storm_seconds = round(time.monotonic() - began, 1)
            self._calm()
            self.proven.calm_seconds = round(time.monotonic() - began - self.proven.storm_seconds, 1)
            self._compare(sent)
        return self.proven

    def _apply(self) -> None:
        documents = [tenant.document(self.system.erp_urls[f"erp-{tenant.slug}"]) for tenant in self.tenants]
        for document in documents:
            document["erps"][0]["config"] |= {
                "idempotency": "key" if self.keys else "lookup",
                "settle_seconds": SETTLE_SECONDS,
                "deadline_seconds": 5,
            }
        secrets = {name: value for tenant in self.tenants for name, value in tenant.secrets().items()}
        self.system.apply({"tenants": documents}, secrets)

    # The storm

    def _storm(self) -> dict[str, list[Life]]:
        """Send batches while everything fails, until each failpoint has killed often enough."""
        self._set_faults({**FAULTS, "forget_keys": not self.keys, "seed": self.seed})
        self._restart_with(self.storm_env)
        sent: dict[str, list[Life]] = {tenant.slug: [] for tenant in self.tenants}
        with self._killing_at_random():
            for number in range(BATCHES):
                for tenant in self.tenants:
                    sent[tenant.slug] += tenant.lives[number * BATCH : (number + 1) * BATCH]
                self._send_batch(number)
                if min(self.kills()[name] for name in NAMES) >= KILLS and number >= 1:
                    break
        return sent

    def _send_batch(self, number: int) -> None:
        options = SendOptions(
            concurrency=4, duplicates=0.2, reordering=0.3, orders_per_second=3, seed=self.seed + number
        )
        senders = []
        for tenant in self.tenants:
            lives = tenant.lives[number * BATCH : (number + 1) * BATCH]
            url = self.system.webhook_url(tenant.shop.platform, tenant.key)
            senders.append(tenant.shop.send(url, options, only=lives))
        for sender in senders:
            assert sender.wait(180), f"not every webhook was acknowledged: {sender.progress()}"
            progress = sender.progress()
            self.proven.requests += progress.requests
            self.proven.acknowledged += progress.acknowledged

    @contextmanager
    def _killing_at_random(self) -> Iterator[None]:
        over = threading.Event()

        def kill() -> None:
            while not over.wait(self.random.uniform(2, 6)):
                name = self.random.choice(MORTAL)
                if self.system.processes[name].alive:
                    self.system.processes[name].kill()
                    self.random_kills[name] += 1

        thread = threading.Thread(target=kill, name="kills-at-random")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def kills(self) -> Counter[str]:
        """How often each failpoint killed."""
        lines = self.kill_log.read_text().splitlines() if self.kill_log.exists() else []
        return Counter(line.split()[0] for line in lines)

    # The calm

    def _calm(self) -> None:
        """End all faults, and wait until the ledger owes nothing."""
        self._set_faults({**dict.fromkeys(FAULTS, 0), "retry_after_seconds": 1, "forget_keys": not self.keys})
        self._restart_with({name: "" for name in self.storm_env if name == "INTEGRATOR_FAILPOINTS"})
        ledger = self.system.ledger()
        try:
            give_up = time.monotonic() + CALM_SECONDS
            while time.monotonic() < give_up:
                states = demo_ledger.states(ledger)
                self.proven.open_syncs = {state: count for state, count in states.items() if state != "done"}
                if not self.proven.open_syncs:
                    return
                if self.proven.open_syncs.get("held"):
                    self.proven.requeued += self._requeue()
                time.sleep(1)
        finally:
            ledger.close()

    def _requeue(self) -> int:
        """Release what was held because its workers kept dying: here it was not the sync that killed them."""
        said = self._celery("syncs", "requeue", "--error-class", KILLS_ITS_WORKER).stdout
        return int(said.split()[0])

    def _celery(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "celery", "-A", "tasks", *arguments]
        return subprocess.run(
            argv, env=self.system.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def _compare(self, sent: Mapping[str, list[Life]]) -> None:
        ledger = self.system.ledger()
        try:
            for tenant in self.tenants:
                lives = sent[tenant.slug]
                facts = {f"{SHOP}/{life.external_id}": life.facts for life in lives}
                stored = stored_orders(self.system.erp_urls[f"erp-{tenant.slug}"])
                compared = compare(facts, stored, unneeded=demo_ledger.unneeded(ledger, tenant.slug))
                self.proven.lost += compared.lost
                self.proven.duplicated += compared.duplicated
                self.proven.mismatched += compared.mismatched
                self.proven.orders += len(lives)
        finally:
            ledger.close()
        audit = self._celery("syncs", "audit", "--json")
        self.proven.limbo = json.loads(audit.stdout)
        self.proven.failpoint_kills = {name: self.kills()[name] for name in NAMES}
        self.proven.random_kills = dict(self.random_kills)
        self.proven.restarts = dict(self.system.restarts)

    # The levers

    def _set_faults(self, faults: Mapping[str, Any]) -> None:
        for url in self.system.erp_urls.values():
            request = urllib.request.Request(
                f"{url}/_sandbox", json.dumps(faults).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200

    def _restart_with(self, env: Mapping[str, str]) -> None:
        for name in MORTAL:
            process = self.system.processes[name]
            process.env |= env
            process.restart()
        for name in MORTAL:
            self.system.processes[name].wait_ready()
