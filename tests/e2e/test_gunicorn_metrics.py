"""The receiver's metrics under gunicorn: on a port of their own, and of all processes whichever answers."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from integrator.ledger.engine import Ledger
from sandbox.system_ports import free_port
from tests.e2e.test_gunicorn import HOST, PATH, Server, running
from tests.webhooks import headers, order_body, store, tenant

METRIC = re.compile(r'^integrator_shop_webhooks_total\{outcome="accepted",.*\} (\S+)$', re.MULTILINE)


def get(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def post(server: Server, number: int) -> None:
    body = order_body(number)
    request = urllib.request.Request(
        f"http://{HOST}:{server.port}{PATH}", body, headers(body, event=f"e-{number}")
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def test_given_two_processes_when_webhooks_come_then_the_metrics_port_shows_all_and_the_receivers_shows_none(
    postgresql_ledger: Ledger, tmp_path: Path
) -> None:
    store(postgresql_ledger, tenant())
    port = free_port()
    with running(
        postgresql_ledger, tmp_path, INTEGRATOR_METRICS_PORT=str(port), INTEGRATOR_WEB_PROCESSES="2"
    ) as server:
        for number in range(1, 21):
            post(server, number)
        seen = [get(port) for _ in range(6)]
        assert get(server.port)[0] == 404

    assert [status for status, _ in seen] == [200] * 6
    assert {tuple(METRIC.findall(text)) for _, text in seen} == {("20.0",)}


def test_given_one_port_for_both_when_started_then_it_refuses(sqlite_ledger: Ledger, tmp_path: Path) -> None:
    port = str(free_port())
    given = {"INTEGRATOR_BIND": f"{HOST}:{port}", "INTEGRATOR_METRICS_PORT": port}
    with pytest.raises(AssertionError, match="INTEGRATOR_METRICS_PORT"), running(sqlite_ledger, tmp_path, **given):
        pass
