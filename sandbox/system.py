"""The whole system as real processes on embedded parts, started and stopped as one.

    with System(Path("var/demo")) as system:
        system.apply(tenants, secrets)
        post_webhooks(system.webhook_url("shopify", key))
        system.processes["worker-1"].kill()
        system.restart_dead()

It is what the demo, `make serve` and the proofs stand on: an SQS endpoint, the ledger on SQLite, the receiver,
workers, the scheduler, and a management system if wanted. Everything that it writes is below one folder.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL

from integrator import readiness
from integrator.ledger import migrate, tenants
from integrator.ledger.engine import Ledger
from integrator.secrets import KeyRing, new_key
from sandbox import system_parts
from sandbox.redis import NoRedis
from sandbox.system_control import SETTING, ControlParts
from sandbox.system_folder import Folder
from sandbox.system_ports import free_port, require_free
from sandbox.system_process import STOP_SECONDS, Process, SystemFailed, answers, answers_tcp, says

OTHER_QUEUE = frozenset({"INTEGRATOR_SQS_ENDPOINT_URL", "INTEGRATOR_SQS_QUEUE_URL_PREFIX"})
"""Settings of which each says that there is an SQS already."""

WATCH_SECONDS = 0.1
"""How often dead parts are looked for when they are restarted at once."""


class System:
    """All parts, in `processes` by name: sqs, erp, receiver, worker-1 …, scheduler; redis and flower if wanted.

    - `ledger_url`: another ledger than a SQLite file in the folder.
    - `erp`: True for one management system called `erp`, or the names of several.
    - `bind`: where the receiver listens, HOST:PORT; port 0 takes a free one.
    - `extra_env`: the environment of all parts beside what the system sets itself. With INTEGRATOR_SECRET_KEYS in
      it no key is made; with INTEGRATOR_SQS_ENDPOINT_URL or INTEGRATOR_SQS_QUEUE_URL_PREFIX no SQS endpoint is
      started. Single parts take more through their own `env`, from their next start on.
    - `auto_restart`: dead parts are started again at once, by a thread; `restarts` counts them by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ledger_url: str | None = None,
        workers: int = 2,
        worker_threads: int = 8,
        erp: bool | tuple[str, ...] = True,
        bind: str = "127.0.0.1:0",
        extra_env: Mapping[str, str] | None = None,
        auto_restart: bool = False,
    ) -> None:
        self.folder = Folder(folder)
        database = URL.create("sqlite", database=str(self.folder.database("ledger")))
        self.ledger_url = ledger_url or database.render_as_string()
        self.extra_env = dict(extra_env or {})
        self.own_queue = not OTHER_QUEUE & self.extra_env.keys()
        self.secret_keys = self.extra_env.get("INTEGRATOR_SECRET_KEYS") or new_key()
        self.restarts: Counter[str] = Counter()
        self.processes: dict[str, Process] = {}
        self._ports: set[int] = set()
        host, _, port = bind.rpartition(":")
        self._bind = (host.strip("[]") or "127.0.0.1", int(port) or self._port())
        self.erp_urls = {name: f"http://127.0.0.1:{self._port()}" for name in system_parts.erp_names(erp)}
        self.sqs_url = f"http://127.0.0.1:{self._port()}" if self.own_queue else ""
        self.environment = self._environment(worker_threads)
        self.control: ControlParts | None = None
        self._workers = workers
        self._auto_restart = auto_restart
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def receiver_url(self) -> str:
        """Where the receiver answers from this machine."""
        host, port = self._bind
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only compared
        return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"

    @property
    def erp_url(self) -> str:
        """The address of the first management system."""
        return next(iter(self.erp_urls.values()))

    def webhook_url(self, platform: str, key: str) -> str:
        """Where a shop of the platform sends its webhooks."""
        return f"{self.receiver_url}/webhooks/{platform}/{key}"

    def ledger(self) -> Ledger:
        """A connection to the ledger of its own, for the caller to close."""
        return Ledger(self.ledger_url)

    def apply(self, document: Mapping[str, Any], secrets: Mapping[str, str]) -> list[str]:
        """Apply tenants, as `flask --app web tenants apply` does; what changed. Raises tenants.ApplyError."""
        ledger = self.ledger()
        try:
            with ledger.write() as connection:
                file = tenants.File.model_validate(document)
                return tenants.apply(connection, file, secrets, KeyRing(tuple(self.secret_keys.split(",")))).lines
        finally:
            ledger.close()

    def add_control_plane(self, *, flower: bool) -> None:
        """Have a control plane too, from `start` on, where a Redis can be had; Flower if wanted."""
        with suppress(NoRedis):
            given = self.extra_env.get(SETTING)
            self.control = ControlParts(self.folder.path, self._port, given, flower=flower)
            self.environment[SETTING] = self.control.redis_url

    # Starting and stopping

    def clear(self) -> None:
        """Forget what an earlier system kept in the folder. Raises SystemFailed when one runs there."""
        self.folder.clear(["ledger", *self.erp_urls])

    def start(self) -> Self:
        """Start everything and wait until all of it does its work. Raises SystemFailed; nothing runs then."""
        try:
            require_free(*self._bind, "Stop what listens there, or choose another with --port (0: a free one).")
            self.folder.lock()
            self.folder.write_env(self.environment, own_queue=self.own_queue)
            self._start(self._embedded())
            self._upgrade()
            self._start(self._served())
        except BaseException:
            self.stop(0)
            raise
        if self._auto_restart:
            self._watcher = threading.Thread(target=self._watch, name="restarts-the-dead", daemon=True)
            self._watcher.start()
        return self

    def _start(self, processes: list[Process]) -> None:
        for process in processes:
            self.processes[process.name] = process
            process.start()
        for process in processes:
            process.wait_ready()

    def _upgrade(self) -> None:
        ledger = self.ledger()
        try:
            migrate.upgrade(ledger)
        except readiness.EXPECTED as error:
            raise SystemFailed(readiness.sentence(error, ledger.url)) from None
        finally:
            ledger.close()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Stop everything: first what works, then what it works on. A second Ctrl-C kills what is left."""
        self._stopping.set()
        if self._watcher:
            self._watcher.join()
        embedded = [
            process for name, process in self.processes.items() if name in {"sqs", "redis", *self.erp_urls}
        ]
        working = [process for process in self.processes.values() if process not in embedded]
        try:
            for group in (working, embedded):
                for process in group:
                    process.ask_to_end()
                give_up = time.monotonic() + timeout_seconds
                for process in group:
                    process.terminate(max(give_up - time.monotonic(), 0))
        finally:
            for process in self.processes.values():
                process.terminate(0)
            self.folder.tidy_up()
            self.folder.unlock()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Watching

    def dead(self) -> list[Process]:
        """The parts that should run and don't."""
        return [process for process in self.processes.values() if process.wanted and not process.alive]

    def check(self) -> None:
        """Raise SystemFailed when a part has ended by itself."""
        for process in self.dead():
            raise SystemFailed(process.obituary())

    def restart_dead(self, *, tell: Callable[[Process], None] = lambda _: None) -> list[str]:
        """Start what is dead again; the names. `tell` is called for each before. Returns before they are ready."""
        restarted = []
        for process in self.dead():
            tell(process)
            self.start_again(process)
            restarted.append(process.name)
        return restarted

    def start_again(self, process: Process) -> None:
        """Start a dead part; returns before it is ready."""
        process.start()
        self.restarts[process.name] += 1

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_SECONDS):
            self.restart_dead()

    # The parts

    def _port(self) -> int:
        port = free_port(frozenset(self._ports))
        self._ports.add(port)
        return port

    def _environment(self, worker_threads: int) -> dict[str, str]:
        """The parts' environment: the shell's without our settings, `extra_env`, and what this system decides."""
        ours = ("INTEGRATOR_", "AWS_") if self.own_queue else ("INTEGRATOR_",)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        for name in ("no_proxy", "NO_PROXY"):
            inherited[name] = ",".join(filter(None, (inherited.get(name), "127.0.0.1,localhost")))
        host, port = self._bind
        decided = {
            "INTEGRATOR_LEDGER_URL": self.ledger_url,
            "INTEGRATOR_SECRET_KEYS": self.secret_keys,
            "INTEGRATOR_BIND": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",  # a sandbox may
        }
        if self.own_queue:  # the endpoint looks at no credentials, but boto3 asks for some
            sandbox = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
            decided |= {"INTEGRATOR_SQS_ENDPOINT_URL": self.sqs_url, **sandbox}
        return {**inherited, "INTEGRATOR_WORKER_THREADS": str(worker_threads), **self.extra_env, **decided}

    def _embedded(self) -> list[Process]:
        parts = []
        if self.own_queue:
            parts.append(self._embed("sqs", self.sqs_url, *system_parts.sqs_queues(self.extra_env)))
        if self.control and self.control.own_redis:
            ready = answers_tcp(self.control.redis_listens_on())
            parts.append(self._program("redis", self.control.redis_argv(), ready))
        for name, url in self.erp_urls.items():
            parts.append(self._embed(name, url, f"--file={self.folder.database(name)}", module="sandbox.erp"))
        return parts

    def _embed(self, name: str, url: str, *options: str, module: str = "sandbox.sqs") -> Process:
        argv = ["-m", module, f"--port={url.rpartition(':')[2]}", *options]
        return self._process(name, argv, says(r"^ready "))

    def _served(self) -> list[Process]:
        names = [f"worker-{number}" for number in range(1, self._workers + 1)]
        ready = answers(f"{self.receiver_url}/readyz")
        return [
            self._process("receiver", system_parts.RECEIVER, ready),
            *(self._process(name, system_parts.worker(name, self.extra_env), says(r" ready\.")) for name in names),
            self._process("scheduler", system_parts.SCHEDULER, says("scheduler_ready")),
            *self._flower(),
        ]

    def _flower(self) -> list[Process]:
        if self.control is None or self.control.flower_port is None:
            return []
        process = self._process(
            "flower", self.control.flower_argv(), answers(f"{self.control.flower_url}/healthcheck")
        )
        process.env = self.control.flower_env(self.environment)
        return [process]

    def _process(self, name: str, argv: list[str], ready: Callable[[Process], bool]) -> Process:
        return self._program(name, [sys.executable, *argv], ready)

    def _program(self, name: str, argv: list[str], ready: Callable[[Process], bool]) -> Process:
        log, pid_file = self.folder.logs / f"{name}.log", self.folder.pid_file(name)
        return Process(name, argv, self.environment, log, ready, pid_file=pid_file)
