"""A worker's own page: what it counted, and that it is alive while it consumes, not while it merely runs."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from integrator.ledger.engine import Ledger
from sandbox.shop import ShopSimulation
from sandbox.system_ports import free_port
from tests.workers import QUEUE, Plant, served, until


@pytest.fixture
def plant(tmp_path: Path, sqlite_ledger: Ledger) -> Iterator[Plant]:
    sqs = served(tmp_path, "sandbox.sqs", f"--queue={QUEUE}")
    erp = served(tmp_path, "sandbox.erp", f"--file={tmp_path / 'erp.sqlite3'}")
    with sqs as sqs_url, erp as erp_url, ShopSimulation(8, seed=3) as shop:
        plant = Plant(tmp_path, sqlite_ledger, sqs_url, erp_url, shop)
        plant.apply()
        yield plant
        plant.close()


def status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def counted(port: int, name: str, **labels: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_given_orders_when_a_worker_has_run_then_its_page_counts_them_and_it_is_alive(plant: Plant) -> None:
    port = free_port()
    plant.deliver(3)
    plant.dispatch()
    plant.worker(INTEGRATOR_METRICS_PORT=str(port)).wait_ready()
    until(lambda: plant.states() == ["done"] * 3)

    until(lambda: counted(port, "integrator_attempts_total", outcome="done", error_class="none") == 3)
    assert counted(port, "integrator_webhook_done_seconds_count", kind="order") == 3
    until(lambda: counted(port, "integrator_sqs_deleted_total", outcome="deleted") == 3)
    assert 1 <= counted(port, "integrator_sqs_requests_total", action="DeleteMessageBatch") <= 3
    assert counted(port, "integrator_sqs_requests_total", action="ReceiveMessage") >= 1
    assert status(port) == 200


_HANGS = """
import sys, time
from celery.__main__ import main
from tasks.transport import Channel

def hang(self, queue, ask=Channel._schedule_queue):
    ask(self, queue)
    time.sleep(3_600)

Channel._schedule_queue = hang
sys.argv[0] = "celery"
main()
"""


def test_given_an_event_loop_that_hangs_when_asked_then_the_worker_that_still_runs_is_not_alive(
    plant: Plant,
) -> None:
    port = free_port()
    silent = {"INTEGRATOR_METRICS_PORT": str(port), "INTEGRATOR_WORKER_SILENT_SECONDS": "2"}
    worker = plant.worker(program=_HANGS, ready="metrics_served", **silent)
    worker.wait_ready()
    until(lambda: status(port) == 503)
    assert worker.alive
