"""The short form of the benchmarks whose figures docs/performance.md gives: what they count, not how fast."""

import json
import subprocess
import sys
from typing import Any

ALIKE = {"processors", "load_average", "python"}


def measured(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--short"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert found.keys() >= ALIKE
    return found


def test_given_the_receiver_and_its_peer_when_measured_then_every_acknowledged_order_is_kept() -> None:
    found = measured("ingest")

    assert found.keys() >= {"acks_per_s", "naive_acks_per_s", "ratio", "ratio_at_0_ms", "ack_ms_p99_half_load"}
    assert found["acknowledged"] == found["kept"] > 0
    assert found["naive_acknowledged"] <= found["naive_queued"]
    assert found["refused"] == 0


def test_given_both_transports_when_measured_then_every_task_ran_and_each_figure_is_there() -> None:
    found = measured("transport")

    figures = {"tasks_per_s", "calls_per_task", "publishes_per_s", "pickup_ms_p50", "pickup_ms_p99", "rss_mb"}
    assert found.keys() >= {"ratio", *figures, *(f"stock_{name}" for name in figures)}
    assert found["stock_calls_per_task"] > 2
    assert found["calls_per_task"] < 1


def test_given_the_whole_system_when_measured_then_each_order_arrives() -> None:
    found = measured("pipeline")

    assert found.keys() >= {"orders_per_s", "cpu_ms_per_order", "sqs_calls_per_order", "rss_mb_worker"}
    assert found["erp_requests_per_order"] >= 1
    assert 0 < found["sqs_SendMessageBatch_per_order"] <= 1
