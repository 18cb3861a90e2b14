"""What a webhook costs in the receiver, what group commit is worth, and what Flask is.

    python -m benchmarks.receiver [--requests 4000] [--clients 32] [--postgresql]

sends signed webhooks, each of another order, over kept connections to four servers, one after the other: the
receiver; the receiver with one commit for each webhook; and, on the same gunicorn, two applications that read
the body and answer 200 without keeping anything, with Flask and without. Prints a line of JSON for each: answers
a second, milliseconds as the clients saw them, and the server's milliseconds of CPU for each. Each run has a
fresh ledger, an SQLite file or, with `--postgresql`, a server that it starts.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path
from typing import Any

import psutil
from flask import Flask, Response, request

from benchmarks.hostile import HOST, store
from benchmarks.hostile_webhooks import Webhook, requests_in, webhook
from integrator.ledger.engine import Ledger
from integrator.secrets import KeyRing, new_key
from sandbox.postgres import postgres
from sandbox.system_ports import free_port
from sandbox.system_process import Process, says

OURS: list[str] = ["-c", "python:web.server"]
BARE: list[str] = ["-k", "web.gunicorn_worker.Worker", "--threads", "64"]
SERVERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "receiver": (OURS, {}),
    "one commit each": (OURS, {"INTEGRATOR_GROUP_COMMIT": "1"}),
    "nothing kept": ([*BARE, "benchmarks.receiver:with_flask"], {}),
    "nothing kept, no Flask": ([*BARE, "benchmarks.receiver:without_flask"], {}),
}
"""What gunicorn is told for each, and what is set."""

with_flask = Flask("bare")


@with_flask.post("/webhooks/<platform>/<key>")
def _webhook(platform: str, key: str) -> Response:  # noqa: ARG001
    request.stream.read()
    return Response(status=200, content_type="text/plain")


def without_flask(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """The least that an application on the same server does."""
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return [b""]


def measure(name: str, requests: int, clients: int, *, postgresql: bool) -> dict[str, Any]:
    """Run one server, and send it everything; the figures."""
    webhooks = list(islice(_orders(), requests))
    with tempfile.TemporaryDirectory(prefix="receiver-") as folder, ExitStack() as stack:
        url = stack.enter_context(postgres()) if postgresql else f"sqlite:///{folder}/ledger.sqlite3"
        ledger = Ledger(url)
        key, port = new_key(), free_port()
        store(ledger, KeyRing((key,)))
        arguments, settings = SERVERS[name]
        environment = _environment(ledger, key, port) | settings
        argv = [sys.executable, "-m", "gunicorn", "-b", f"{HOST}:{port}", *arguments]
        process = Process("receiver", argv, environment, Path(folder) / "receiver.log", says("Booting worker"))
        process.start()
        try:
            process.wait_ready()
            _send(port, webhooks[:1])
            before, began = _cpu_seconds(process), time.monotonic()
            with ThreadPoolExecutor(clients) as pool:
                shares = [webhooks[number::clients] for number in range(clients)]
                seen = sorted(ms for times in pool.map(lambda share: _send(port, share), shares) for ms in times)
            seconds, cpu = time.monotonic() - began, _cpu_seconds(process) - before
        finally:
            process.terminate()
            ledger.close()
    return {
        "server": name,
        "ledger": ledger.url.get_backend_name(),
        "requests": requests,
        "clients": clients,
        "per_second": round(requests / seconds),
        "p50_ms": round(statistics.median(seen), 1),
        "p99_ms": round(seen[len(seen) * 99 // 100], 1),
        "cpu_ms_each": round(1_000 * cpu / requests, 2),
    }


def _orders() -> Iterator[Webhook]:
    """Genuine webhooks, without end, of topics that are kept."""
    dice = random.Random(1)
    for number in count():
        made = webhook(dice, number)
        asked = next(requests_in(bytes(made)))
        shop = asked.shop()
        if shop is not None and asked.topic(shop) in shop.ours:
            yield made


def _environment(ledger: Ledger, key: str, port: int) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTEGRATOR_")}
    return inherited | {
        "INTEGRATOR_LEDGER_URL": ledger.url.render_as_string(hide_password=False),
        "INTEGRATOR_SECRET_KEYS": key,
        "INTEGRATOR_SQS_ENDPOINT_URL": f"http://{HOST}:9",
        "INTEGRATOR_BIND": f"{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
    }


def _send(port: int, webhooks: list[Webhook]) -> list[float]:
    """Send them one after the other over one connection; how long each took, in milliseconds."""
    connection, times = http.client.HTTPConnection(HOST, port, timeout=30), []
    for one in webhooks:
        headers = dict(field.decode().split(": ", 1) for field in one.fields)
        path = one.line.split(b" ")[1].decode()
        began = time.monotonic()
        connection.request("POST", path, one.body, headers)
        answer = connection.getresponse()
        answer.read()
        times.append(1_000 * (time.monotonic() - began))
        if answer.status != 200:
            raise SystemExit(f"{path} was answered {answer.status}")
    connection.close()
    return times


def _cpu_seconds(process: Process) -> float:
    children = psutil.Process(process.pid).children(recursive=True)
    return sum(sum(child.cpu_times()[:2]) for child in children)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receiver", description="What a webhook costs.")
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    for name in SERVERS:
        found = measure(name, given.requests, given.clients, postgresql=given.postgresql)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
