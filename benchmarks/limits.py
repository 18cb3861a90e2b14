"""Whether the limiter keeps its word while processes die, clocks are wrong and Redis is lost; and what it costs.

    python -m benchmarks.limits [--tenants 50] [--workers 4] [--seconds 400] [--lose-redis] [--short]

Worker processes send requests for all tenants to one sandbox management system, as fast as the plans allow, and
always have more to send. One of them has its clocks an hour ahead; one is killed after a third of the time and
started again; with `--lose-redis`, Redis is killed after another third, and back two seconds later. What the
system logged is judged: each request's header says when its place was. The last line is one JSON object:
`violations` of the limit by places; `most_in_a_second`, requests of one tenant as they arrived; `utilisation`, the
share of what the plans allow between a tenant's first and last request (the mean; `least_utilisation` the worst
tenant's); `calls`; `ask_ms_p50` and `ask_ms_p99`, what one call's place takes that need not wait, asked for by one
process before the others start; `noop_ms_p50` and `noop_ms_p99`, what a script that does nothing takes from the
same Redis in turn with it: the rest is ours; and the same four as `beside_…`, while the workers send. `--short` is
for its counts only.
"""

import argparse
import json
import os
import random
import secrets
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from sqlalchemy import insert, select

from integrator import errors, limits, limits_redis
from integrator.clock import EPOCH, boottime
from integrator.http import Http
from integrator.ledger.engine import Ledger
from integrator.ledger.limits import write_plan
from integrator.ledger.migrate import upgrade
from integrator.ledger.schema import CAUSES, erps, gates, tenants
from integrator.limits import Limiter
from integrator.plans import PlanFile, Rate
from sandbox import redis
from sandbox.system_ports import free_port
from sandbox.system_process import Process, answers_tcp, says

SHIFT_SECONDS = 3_600
"""How far the clocks of one worker are wrong."""

ASKS = 2_000
"""Places that are asked for to see what one takes."""

PAGE = 50_000


def fill(ledger: Ledger, count: int, per_second: float) -> list[int]:
    """Make so many tenants with such a plan; their gates' ids."""
    upgrade(ledger)
    with ledger.write() as connection:
        for number in range(count):
            tenant = {"slug": f"t{number}", "name": "T", "active": True, "tolerance": "0"}
            made = connection.execute(insert(tenants).values(**tenant).returning(tenants.c.id)).scalar_one()
            erp = {"tenant_id": made, "slug": "erp", "kind": "rest", "config": {}, "secrets": b""}
            owned = connection.execute(insert(erps).values(**erp).returning(erps.c.id)).scalar_one()
            gate = {"tenant_id": made, "erp_id": owned, "window_cap": 8, **dict.fromkeys(CAUSES, EPOCH)}
            connection.execute(insert(gates).values(**gate))
        found = list(connection.execute(select(gates.c.id)).scalars())
        for gate_id in found:
            plan = PlanFile.model_validate({"per_second": per_second, "per_day": 10_000_000})
            write_plan(connection, gate_id, plan.columns())
    return found


# A worker


def work(given: dict[str, Any]) -> None:
    """Send for every tenant, each in a thread, until SIGTERM."""
    if shift := given["shift_seconds"]:
        for module in (limits, limits_redis):
            vars(module)["boottime"] = lambda: boottime() + shift
        wall = time.time
        time.time = lambda: wall() + shift
    limiter = Limiter(Ledger(given["ledger"]), given["redis"])
    for gate_id in given["gates"]:
        threading.Thread(target=_send, args=(limiter, gate_id, given["erp"]), daemon=True).start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    os._exit(0)


def _send(limiter: Limiter, gate_id: int, erp: str) -> None:
    http = Http(erp, headers={"Authorization": "Bearer made-up"}, limit=limiter.of_gate(gate_id))
    while True:
        try:
            http.request("GET", "/health")
        except errors.RateLimited as limited:
            time.sleep(limited.wait_seconds)
        except errors.IntegratorError:
            time.sleep(0.1)


# Judging


def judge(stamps: Sequence[int], rate: Rate) -> int:
    """How many of these places (µs) come earlier than the limit allows."""
    early, full = 0, 0
    for stamp in sorted(stamps):
        early += stamp < full - rate.tolerance_us
        full = max(full, stamp) + rate.interval_us
    return early


def used(stamps: Sequence[int], rate: Rate) -> float:
    """The share of what the plan allows between the first and the last of these places."""
    allowed = (max(stamps) - min(stamps)) / rate.interval_us
    return (len(stamps) - 1) / allowed if allowed else 0.0


def _crowd(arrivals: Sequence[int]) -> int:
    """The most of these (µs) in any one second."""
    ordered, first, most = sorted(arrivals), 0, 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= 1_000_000:
            first += 1
        most = max(most, last - first + 1)
    return most


def read_grants(erp: str) -> dict[str, list[tuple[int, int]]]:
    """What the management system logged: by limit, when each place was and when its request came."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    after = 0
    while page := _get(f"{erp}/_sandbox/grants?after={after}")["grants"]:
        for said, arrived in page:
            at, of = (part.partition("=")[2] for part in said.split(", "))
            found[of].append((int(at), arrived))
        after += len(page)
    return found


def _get(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, body, timeout=60) as answer:
        return json.load(answer)


def measure(url: str, folder: Path, name: str = "") -> dict[str, float]:
    """What a place takes in ms, from a limit that nobody reaches, in a database of Redis that nobody else uses."""
    url = f"{url.rpartition('/')[0]}/1"
    ledger = Ledger(f"sqlite:///{folder / f'{name}asks.sqlite3'}")
    (gate_id,) = fill(ledger, 1, 10_000)
    with ledger.write() as connection:
        plan = {"per_second": 10_000, "burst": 10_000, "per_day": 10_000_000}
        write_plan(connection, gate_id, PlanFile.model_validate(plan).columns())
    ask, noop = (
        limits.patient(Limiter(ledger, url).of_gate(gate_id), 5),
        Redis.from_url(url).register_script("return 1"),
    )
    each: list[tuple[str, Callable[[], object]]] = [("ask", ask), ("noop", noop)]
    took: dict[str, list[float]] = {what: [] for what, _ in each}
    for _ in range(ASKS):
        for what, do in each:
            began = time.perf_counter()
            do()
            took[what].append((time.perf_counter() - began) * 1_000)
    ranks = {what: statistics.quantiles(found, n=100) for what, found in took.items()}
    return {f"{name}{what}_ms_p{p}": round(of[p - 1], 3) for what, of in ranks.items() for p in (50, 99)}


# The run


@contextmanager
def parts(folder: Path) -> Iterator[tuple[Process, str, str]]:
    """A Redis, and a management system that logs: the Redis, its address, the system's."""
    with ExitStack() as stack:
        port, password = free_port(), secrets.token_hex(8)
        server = Process(
            "redis", redis.command(folder, port, password), {**os.environ}, folder / "redis.log", answers_tcp(port)
        )
        erp_port = free_port(frozenset({port}))
        argv = [sys.executable, "-m", "sandbox.erp", f"--port={erp_port}", f"--file={folder / 'erp.sqlite3'}"]
        erp = Process("erp", argv, {**os.environ}, folder / "erp.log", says("^ready "))
        for process in (server, erp):
            stack.callback(process.kill)
            process.start()
            process.wait_ready()
        address = f"http://127.0.0.1:{erp_port}"
        _get(f"{address}/_sandbox", json.dumps({"keep_grants": True}).encode())
        yield server, redis.url(port, password), address


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it; the numbers."""
    with parts(folder) as (server, url, erp), ExitStack() as stack:
        asks = measure(url, folder)
        ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
        task: dict[str, Any] = {"ledger": str(ledger.url), "redis": url, "erp": erp}
        task["gates"] = fill(ledger, given.tenants, given.per_second)
        workers = []
        for number in range(given.workers):
            shift = SHIFT_SECONDS if number == given.workers - 1 else 0
            workers.append(_worker(folder, number, {**task, "shift_seconds": shift}))
            stack.callback(workers[-1].kill)
            workers[-1].start()
        for worker in workers:
            worker.wait_ready()
        asks |= measure(url, folder, "beside_")
        _let_go(given, random.Random(1).choice(workers), server)
        for worker in workers:
            worker.kill()
        return {**verdict(read_grants(erp), Rate(given.per_second)), **asks}


def _worker(folder: Path, number: int, task: dict[str, Any]) -> Process:
    name = f"worker-{number}"
    argv = [sys.executable, "-m", "benchmarks.limits", "--work", json.dumps(task)]
    return Process(name, argv, {**os.environ}, folder / f"{name}.log", says("^ready"))


def _let_go(given: argparse.Namespace, victim: Process, server: Process) -> None:
    time.sleep(given.seconds / 3)
    victim.kill()
    victim.start()
    victim.wait_ready()
    time.sleep(given.seconds / 3)
    if given.lose_redis:
        server.kill()
        time.sleep(2)
        server.start()
    time.sleep(given.seconds / 3)


def verdict(grants: dict[str, list[tuple[int, int]]], rate: Rate) -> dict[str, Any]:
    """The numbers of what was logged."""
    places = [[at for at, _ in found] for found in grants.values()]
    shares = [used(stamps, rate) for stamps in places if len(stamps) > 1]
    return {
        "violations": sum(judge(stamps, rate) for stamps in places),
        "most_in_a_second": max(
            (_crowd([arrived for _, arrived in found]) for found in grants.values()), default=0
        ),
        "utilisation": round(statistics.mean(shares), 4) if shares else 0.0,
        "least_utilisation": round(min(shares, default=0.0), 4),
        "calls": sum(map(len, places)),
        "tenants": len(places),
    }


def main() -> None:
    """Run, and print the numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description="Judge the limiter.")
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--per-second", type=float, default=10.0, help="of each tenant's plan")
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--lose-redis", action="store_true", help="kill Redis on the way")
    parser.add_argument("--short", action="store_true", help="a few seconds, for the counts only")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(json.loads(given.work))
        return
    if given.short:
        given.tenants, given.workers, given.per_second, given.seconds = 4, 2, 20.0, 6.0
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(given, Path(folder))))


if __name__ == "__main__":
    main()
