"""What benchmarks of the whole system share: its tenants, the endpoint's latency and calls, CPU, the machine."""

import json
import os
import platform
import urllib.request
from typing import Any

import psutil

from benchmarks.load import HOST, Target
from sandbox import large
from sandbox.system_process import Process

SECRET = "a-made-up-secret"


def tenants(count: int, erp_url: str = f"http://{HOST}:9") -> tuple[dict[str, Any], dict[str, str], list[Target]]:
    """The tenants' file with a shop each, its secrets, and where their webhooks go."""
    secrets, targets, found = {"SECRET": SECRET}, [], []
    for number in range(count):
        key, domain = f"a-key-of-shop-number-{number:08}", f"shop-{number}.myshopify.com"
        secrets[f"KEY_{number}"] = key
        targets.append(Target(f"/webhooks/shopify/{key}", SECRET.encode(), domain))
        erp = {"slug": "erp", "kind": "rest", "plan": large.PLAN, "config": {"url": erp_url}}
        erp |= {"secrets": {"token": {"env": "SECRET"}}}
        shop: dict[str, Any] = {
            "slug": "web",
            "platform": "shopify",
            "erp": "erp",
            "key": {"env": f"KEY_{number}"},
            "config": {"domain": domain},
            "secrets": {"webhook": [{"env": "SECRET"}], "access_token": {"env": "SECRET"}},
        }
        found.append({"slug": f"tenant-{number}", "name": "Tenant", "erps": [erp], "shops": [shop]})
    return {"tenants": found}, secrets, targets


def slow_down(sqs_url: str, latency_ms: float) -> None:
    """Let each of the endpoint's answers take so long."""
    urllib.request.urlopen(f"{sqs_url}/_sandbox", json.dumps({"latency_ms": latency_ms}).encode()).close()


def sandbox(url: str) -> dict[str, Any]:
    """What an endpoint or a management system of the sandbox says of itself."""
    with urllib.request.urlopen(f"{url}/_sandbox") as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def cpu_seconds(process: Process) -> float:
    """What a part's processes have used."""
    main = psutil.Process(process.pid)
    return sum(sum(one.cpu_times()[:2]) for one in (main, *main.children(recursive=True)))


def machine() -> dict[str, Any]:
    """What the figures depend on, too."""
    return {
        "processors": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
