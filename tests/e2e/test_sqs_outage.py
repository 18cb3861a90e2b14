"""The SQS endpoint goes away and comes back: what is owed waits in the ledger, and no worker is restarted."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from sandbox import demo_ledger
from sandbox.demo_tenants import DemoTenant
from sandbox.shop import SendOptions
from sandbox.system import System

ORDERS = 3
"""Orders that are sent in each outage."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("system"), workers=1, erp=("erp-acme",)) as system:
        yield system


@pytest.fixture(scope="module")
def tenant(system: System) -> Iterator[DemoTenant]:
    tenant = DemoTenant.make("acme", 12 * ORDERS, 3)
    with tenant.shop:
        system.apply({"tenants": [tenant.document(system.erp_url)]}, tenant.secrets())
        yield tenant


def faults(system: System, **settings: Any) -> None:
    request = urllib.request.Request(
        f"{system.sqs_url}/_sandbox", json.dumps(settings).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def killed(system: System) -> Callable[[], None]:
    system.processes["sqs"].kill()

    def back() -> None:
        system.processes["sqs"].start()
        system.processes["sqs"].wait_ready()

    return back


def failing(system: System) -> Callable[[], None]:
    faults(system, unavailable="503")
    return lambda: faults(system, unavailable=False)


def throttling(system: System) -> Callable[[], None]:
    faults(system, throttling=1.0)
    return lambda: faults(system, throttling=0.0)


def wait_until_done(system: System, count: int) -> Mapping[str, int]:
    ledger = system.ledger()
    try:
        give_up = time.monotonic() + 60
        states = demo_ledger.states(ledger)
        while states != {"done": count} and time.monotonic() < give_up:
            time.sleep(0.2)
            states = demo_ledger.states(ledger)
        return states
    finally:
        ledger.close()


@pytest.mark.timeout(300)
def test_given_the_endpoint_goes_and_returns_when_orders_come_then_all_are_done_and_no_worker_died(
    system: System, tenant: DemoTenant
) -> None:
    url = system.webhook_url("shopify", tenant.key)
    for number, outage in enumerate((killed, failing, throttling, killed)):
        back = outage(system)
        lives = tenant.lives[number * ORDERS : (number + 1) * ORDERS]
        sender = tenant.shop.send(url, SendOptions(concurrency=2), only=lives)
        assert sender.wait(30)
        assert sender.progress().failures == {}
        time.sleep(2)
        back()
        assert wait_until_done(system, (number + 1) * ORDERS) == {"done": (number + 1) * ORDERS}, outage.__name__
        assert [process.name for process in system.dead()] == []
    assert system.processes["worker-1"].starts == 1
