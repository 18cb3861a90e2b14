"""The commands of docker-compose.yml, each started as it stands there, with its environment and its health check.

Only the places differ: PostgreSQL and the SQS endpoint are the tests' own, and the addresses are this machine's.
"""

import base64
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import create_engine, make_url, text

from integrator.ledger.engine import Ledger
from integrator.secrets import new_key
from sandbox import demo_ledger
from sandbox.redis import server_program
from sandbox.system_ports import free_port
from sandbox.system_process import Process, says
from tasks.queues import QUEUES
from tests.unit.test_compose import ROOT, TOOLS, services
from tests.workers import served

ORDERS = 4
SECRETS = {
    "SANDBOX_TOKEN": "sandbox-token-of-24-characters",
    "SANDBOX_SHOP_KEY": "sandbox-key-of-24-characters",
    "SANDBOX_WEBHOOK_SECRET": "sandbox-secret-of-24-characters",
    "FLOWER_BASIC_AUTH": "operator:flower-password",
}
PLACES = {"web:8000": "web", "sandbox-erp:9000": "erp", "sandbox-shop:9001": "shop", "valkey:6379": "valkey"}
READY = {
    "valkey": "Ready to accept connections",
    "web": "Booting worker",
    "worker-orders": r" ready\.",
    "scheduler": "scheduler_ready",
    "flower": "Visit me at",
    "sandbox-erp": "^ready ",
    "sandbox-shop": "^ready ",
}


@dataclass
class Machine:
    """Where the services' addresses really are, and what has been started."""

    folder: Path
    ledger_url: str
    sqs_url: str
    key: str = field(default_factory=new_key)
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)

    def port(self, name: str) -> int:
        """The port that stands for a name, always the same."""
        return self.ports.setdefault(name, free_port(frozenset(self.ports.values())))

    def placed(self, service: str, given: str) -> str:
        """A word of the file with this machine's addresses in it."""
        for place, name in PLACES.items():
            given = given.replace(place, f"127.0.0.1:{self.port(name)}")
        ports = {place.rpartition(":")[2]: name for place, name in PLACES.items()}
        for port, name in {**ports, "5555": "flower", "9100": f"metrics {service}"}.items():
            given = given.replace(port, str(self.port(name)))
        return (
            given.replace("0.0.0.0", "127.0.0.1")
            .replace(
                "exec valkey-server", f"exec {server_program()} --bind 127.0.0.1 --port {self.port('valkey')}"
            )
            .replace("$$", "$")
            .replace("http://elasticmq:9324", self.sqs_url)
            .replace("/data/", f"{self.folder}/")
            .replace("/app/", f"{self.folder}/")
        )

    def command(self, service: str, words: list[str]) -> list[str]:
        """A command of the file, its program that of this environment."""
        program, *rest = (self.placed(service, word) for word in words)
        return [{"python": sys.executable, "sh": "/bin/sh"}.get(program, str(TOOLS / program)), *rest]

    def environment(self, service: str) -> dict[str, str]:
        """A service's environment: nothing but what the file gives it."""
        given = services()[service].get("environment") or {}
        named = {name: self.placed(service, value) for name, value in given.items()}
        if "INTEGRATOR_LEDGER_URL" in named:
            named |= {"INTEGRATOR_LEDGER_URL": self.ledger_url, "INTEGRATOR_SECRET_KEYS": self.key}
        named |= {name: value for name, value in SECRETS.items() if name in named}
        if "SANDBOX_RECEIVER" in named:
            named["SANDBOX_RECEIVER"] += SECRETS["SANDBOX_SHOP_KEY"]
        return {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore", "NO_PROXY": "127.0.0.1", **named}

    def run(self, service: str, words: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a one-shot service, or another command in its place."""
        command = self.command(service, words or services()[service]["command"])
        environment = self.environment(service)
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    def start(self, service: str, **instead: str) -> None:
        """Start a service and wait until it says that it is ready."""
        words = [instead.get(word, word) for word in services()[service]["command"]]
        log = self.folder / f"{service}.log"
        argv, environment = self.command(service, words), self.environment(service)
        process = Process(service, argv, environment, log, says(READY[service]))
        self.processes[service] = process
        process.start()
        process.wait_ready()

    def healthy(self, service: str) -> bool:
        """Whether its health check says so."""
        return self.run(service, services()[service]["healthcheck"]["test"][1:]).returncode == 0


@pytest.fixture
def machine(postgres_url: str, tmp_path: Path) -> Iterator[Machine]:
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS compose WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE compose"))
    server.dispose()
    url = make_url(postgres_url).set(database="compose").render_as_string(hide_password=False)
    queues = [f"--queue=integrator-{one.name}:{one.visibility_seconds}:{one.max_receive_count}" for one in QUEUES]
    with served(tmp_path, "sandbox.sqs", *queues) as sqs_url:
        machine = Machine(tmp_path, url, sqs_url)
        tenants = (ROOT / "infra" / "compose" / "sandbox-tenants.yaml").read_text()
        (tmp_path / "sandbox-tenants.yaml").write_text(machine.placed("sandbox-tenant", tenants))
        yield machine
        for process in machine.processes.values():
            process.kill()


def states(machine: Machine) -> Any:
    ledger = Ledger(machine.ledger_url)
    try:
        return demo_ledger.states(ledger)
    finally:
        ledger.close()


def workers_in_flower(machine: Machine) -> Any:
    """What Flower knows of workers, by their names; it tells nobody else than who has its password."""
    address = f"http://127.0.0.1:{machine.port('flower')}/api/workers?refresh=1"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address, timeout=20)
    user = base64.b64encode(SECRETS["FLOWER_BASIC_AUTH"].encode()).decode()
    request = urllib.request.Request(address, headers={"Authorization": f"Basic {user}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return orjson.loads(answer.read())


@pytest.mark.timeout(300)
def test_given_the_file_when_its_commands_are_run_in_order_then_orders_arrive_and_all_end_when_told(
    machine: Machine,
) -> None:
    assert "ledger upgrade" in machine.run("scheduler").stderr, "it refuses a ledger without a schema"
    for one_shot in ("migrate", "sandbox-tenant"):
        ran = machine.run(one_shot)
        assert ran.returncode == 0, ran.stderr
    machine.start("valkey")
    workers = [f"worker-{queue.name}" for queue in QUEUES]
    for service in ("sandbox-erp", "web", *workers, "scheduler", "flower"):
        assert not machine.healthy(service), service
        machine.start(service)
    machine.start("sandbox-shop", **{"200": str(ORDERS), "2": "0"})

    give_up = time.monotonic() + 90
    while states(machine) != {"done": ORDERS} and time.monotonic() < give_up:
        time.sleep(0.2)
    assert states(machine) == {"done": ORDERS}
    checked = machine.processes.keys() - {"sandbox-shop", "valkey"}
    assert {name for name in checked if not machine.healthy(name)} == set()
    assert len(workers_in_flower(machine)) == len(workers)
    for process in machine.processes.values():
        process.ask_to_end()  # once, as Docker does
    give_up = time.monotonic() + 40
    while any(process.alive for process in machine.processes.values()) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert {name: one.exit_code for name, one in machine.processes.items()} == dict.fromkeys(machine.processes, 0)
