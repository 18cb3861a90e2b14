"""The whole system on a PostgreSQL with a standby, with everything at hand that scenarios do to its parts.

    shops ── front (proxy) ── receiver ── database (proxy) ── primary, and its standby
                              two workers, a scheduler, SQS, Redis, two management systems

A commit returns when the standby has it on disk, too, so that nothing acknowledged is lost when the primary is.
"""

import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from sqlalchemy import func, select

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import StepState, attempts, steps
from sandbox.system import System
from sandbox.system_ports import free_port
from sandbox.system_process import Process, answers
from tests.e2e.faults.load import KEYLESS, Found, Load, Order, Sent, Shops, done
from tests.e2e.faults.postgres import Server, Servers
from tests.e2e.faults.proxy import Proxy
from tests.redis_server import RedisServer

SETTLE_SECONDS = 4.0
"""How long a doubt lasts in the system without keys."""

SHIFT_FOLDER = Path(__file__).parent / "shifted_clock"


@dataclass(frozen=True)
class Moment:
    """What every part had written, and the shops had seen, at some time."""

    written: Mapping[str, int]
    failures: Mapping[str, int]


class Rig:
    """Use it as a context manager. `orders` of each shop are all that its loads may send."""

    def __init__(self, folder: Path, *, seed: int, orders: int) -> None:
        self.shops = Shops(orders, seed)
        self.sent = Sent()
        self._servers = Servers()
        self.primary, self.standby = self._servers.make(), self._servers.make()
        self.database = Proxy(self.primary.port)
        self.redis = RedisServer(folder)
        self.system = System(
            folder / "system",
            ledger_url=f"postgresql+psycopg://postgres@127.0.0.1:{self.database.port}/postgres",
            workers=2,
            worker_threads=8,
            erp=("erp-acme", f"erp-{KEYLESS}"),
            extra_env={"INTEGRATOR_CONTROL_PLANE_URL": self.redis.url, "INTEGRATOR_WEB_PROCESSES": "2"},
        )
        self.front = Proxy(int(self.system.receiver_url.rpartition(":")[2]))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._stack.callback(self._servers.end)
        self.primary.create().start()
        self.guard(self.standby)
        self._stack.enter_context(self.database)
        self._stack.callback(self.redis.kill)
        self.redis.start()
        self._stack.callback(self.system.stop, 10)
        self.system.start()
        self._stack.enter_context(self.front)
        for tenant in self.shops.tenants:
            self._stack.enter_context(tenant.shop)
        self._apply()

    def guard(self, standby: Server) -> None:
        """Let a standby follow the primary; commits wait for it from then on."""
        self.standby = standby
        standby.copy(self.primary).start()
        until(lambda: self.primary.ask("SELECT state FROM pg_stat_replication") == "streaming")
        self.primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        until(lambda: self.primary.ask("SELECT sync_state FROM pg_stat_replication") == "sync")

    def take_over(self) -> None:
        """Promote the standby, and lead everybody to it."""
        self.primary = self.standby
        self.primary.promote()
        self.database.target = self.primary.port

    def _apply(self) -> None:
        documents = [tenant.document(self.erps[tenant.slug]) for tenant in self.shops.tenants]
        for document in documents:
            document["erps"][0]["config"] |= {
                "idempotency": "lookup" if document["slug"] == KEYLESS else "key",
                "settle_seconds": SETTLE_SECONDS,
                "deadline_seconds": 5,
            }
        secrets = {name: value for tenant in self.shops.tenants for name, value in tenant.secrets().items()}
        self.system.apply({"tenants": documents}, secrets)
        control(self.erps[KEYLESS], forget_keys=True)

    # The load

    @property
    def erps(self) -> dict[str, str]:
        """The address of each tenant's management system."""
        return {tenant.slug: self.system.erp_urls[f"erp-{tenant.slug}"] for tenant in self.shops.tenants}

    @property
    def addresses(self) -> dict[str, str]:
        """Where each tenant's shop sends its webhooks."""
        root = f"http://127.0.0.1:{self.front.port}/webhooks"
        return {tenant.slug: f"{root}/{tenant.shop.platform}/{tenant.key}" for tenant in self.shops.tenants}

    def load(self) -> Load:
        """A load, to be entered; `sent` is the latest."""
        load = Load(self.shops, self.addresses)
        self.sent = load.sent
        return load

    def send(self, orders: int) -> Sent:
        """Send so many orders of each shop as fast as can be."""
        self.sent = self.shops.send(self.addresses, orders)
        return self.sent

    def ledger(self) -> Ledger:
        """A connection to the primary that no proxy stands before, for the caller to close."""
        return Ledger(self.primary.url)

    def wait_done(self, orders: Iterable[Order], seconds: float) -> bool:
        """Wait until nothing of these orders is owed."""
        wanted, ledger = set(orders), self.ledger()
        try:
            return until(lambda: done(ledger, wanted), seconds)
        finally:
            ledger.close()

    def judge(self) -> Found:
        """Compare what was acknowledged with what the management systems hold."""
        ledger = self.ledger()
        try:
            return self.shops.judge(ledger, self.erps)
        finally:
            ledger.close()

    def in_effect(self, name: str) -> int:
        """How many effects a worker has begun, and does not know the outcome of."""
        worker = f"{socket.gethostname()}:{self.system.processes[name].pid}"
        its = (steps.c.sync_id == attempts.c.sync_id) & (steps.c.claim == attempts.c.claim)
        begun = (attempts.c.worker == worker, attempts.c.ended_at.is_(None), steps.c.state == StepState.INTENDED)
        ledger = self.ledger()
        try:
            with ledger.read() as connection:
                found = select(func.count()).select_from(attempts).join(steps, its).where(*begun)
                return int(connection.execute(found).scalar_one())
        finally:
            ledger.close()

    # The parts

    def now(self) -> Moment:
        """Remember how far everything is."""
        written = {
            name: one.log.stat().st_size if one.log.exists() else 0 for name, one in self.system.processes.items()
        }
        return Moment(written, dict(self.sent.failures()))

    def said(self, pattern: str, since: Moment, parts: str = "") -> bool:
        """Whether a part (of those whose name begins so) has written this since then."""
        for name, process in self.system.processes.items():
            if name.startswith(parts) and process.log.exists():
                with process.log.open("rb") as log:
                    log.seek(since.written.get(name, 0))
                    if re.search(pattern, log.read().decode(errors="replace")):
                        return True
        return False

    def last(self, name: str, pattern: str) -> str | None:
        """What a part has written last of what a pattern knows."""
        found = re.findall(pattern, self.system.processes[name].log.read_text(errors="replace"))
        return found[-1] if found else None

    def failed(self, kind: str, since: Moment) -> int:
        """How often the shops' requests failed in this way since then."""
        return self.sent.failures()[kind] - since.failures.get(kind, 0)

    def twin(self, name: str, env: Mapping[str, str], ready: Callable[[Process], bool]) -> Process:
        """Start a second process of a part, under the part's name with `-b`; it is ready when this returns."""
        like, folder = self.system.processes[name], self.system.folder
        name = f"{name}-b"
        log, pid_file = folder.logs / f"{name}.log", folder.pid_file(name)
        twin = Process(name, like.argv, {**like.env, **env}, log, ready, pid_file=pid_file)
        self.system.processes[name] = twin
        twin.start()
        twin.wait_ready()
        return twin

    def succeed_receiver(self) -> None:
        """Start a new receiver beside the old one, lead the shops to it, and ask the old one to end."""
        port = free_port()
        address = f"127.0.0.1:{port}"
        self.twin("receiver", {"INTEGRATOR_BIND": address}, answers(f"http://{address}/readyz"))
        self.front.target = port
        self.system.processes["receiver"].terminate(40)
        self.system.processes["receiver"] = self.system.processes.pop("receiver-b")

    def drop_twin(self, name: str) -> None:
        """Ask a part's second process to end."""
        self.system.processes.pop(f"{name}-b").terminate(40)

    def renew(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Ask a part to end, as a new version's installation does, and start it again."""
        process = self.system.processes[name]
        process.terminate(40)
        process.env |= env or {}
        process.start()
        process.wait_ready()

    def ids(self, but: Iterable[str] = ()) -> dict[str, list[int]]:
        """The ids of every part's processes, and of what they have started; without some parts."""
        found = {}
        for name, process in self.system.processes.items():
            if name not in set(but) and process.alive and process.pid:
                children = psutil.Process(process.pid).children(recursive=True)
                found[name] = [process.pid, *sorted(child.pid for child in children)]
        return found


def control(url: str, **change: Any) -> None:
    """Set faults of a sandbox's part."""
    with urllib.request.urlopen(f"{url}/_sandbox", json.dumps(change).encode(), timeout=10) as answer:
        assert answer.status == 200


def until(so: Callable[[], object], seconds: float = 30) -> bool:
    """Wait until something is so; False when it is not in time."""
    give_up = time.monotonic() + seconds
    while not so():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True
