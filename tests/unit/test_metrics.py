"""Metrics: their values and bounds, the page that shows them, and who may see it."""

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError

from integrator import metrics, monitor
from integrator.config import Settings
from integrator.metrics import METRICS, OTHER, SHOP_WEBHOOKS, SYNCS, VALUES_A_LABEL, WEBHOOKS, Kind, Meters
from integrator.monitor import Pulse
from sandbox.system_ports import free_port
from web import create_app
from web.metrics import Counters

SHOP = SimpleNamespace(tenant="acme", slug="web", platform="shopify")


def samples(text: bytes) -> dict[str, float]:
    """What a page says, by name and labels as they stand there."""
    lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_given_counts_when_shown_then_the_text_is_prometheus() -> None:
    counters = Counters()
    counters.webhook("unknown_key", None)
    counters.webhook("accepted", SHOP, "orders/create")
    counters.webhook("accepted", SHOP, "orders/create")
    counters.answered(200, 0.003)

    shown = samples(counters.text())
    assert shown['integrator_webhooks_total{outcome="accepted",platform="shopify",topic="orders/create"}'] == 2
    assert shown['integrator_webhooks_total{outcome="unknown_key",platform="unknown",topic="unknown"}'] == 1
    assert shown['integrator_shop_webhooks_total{outcome="accepted",shop="web",tenant="acme"}'] == 2
    assert shown['integrator_webhook_answer_seconds_bucket{le="0.005",status="200"}'] == 1
    assert not [name for name in shown if "_created" in name]


def test_given_many_threads_when_they_count_then_nothing_is_missed() -> None:
    counters = Counters()

    def count() -> None:
        for _ in range(2_000):
            counters.webhook("accepted", None)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counters.value(WEBHOOKS, outcome="accepted") == 16_000


def test_given_a_connector_with_endless_topics_when_counted_then_the_labels_are_bounded() -> None:
    counters = Counters()
    for number in range(10 * VALUES_A_LABEL):
        counters.webhook("accepted", SHOP, f"topic-{number}")

    assert counters.value(WEBHOOKS, topic=OTHER) == 9 * VALUES_A_LABEL
    assert len([name for name in samples(counters.text()) if "topic=" in name]) == VALUES_A_LABEL + 1


def test_given_a_gauge_when_its_values_are_replaced_then_what_is_not_named_is_gone() -> None:
    meters = Meters()
    meters.replace(SYNCS, {"pending": 3, "held": 1})
    meters.replace(SYNCS, {"pending": 4})
    assert samples(meters.text()) == {'integrator_syncs{state="pending"}': 4}


def test_given_two_clocks_that_differ_when_a_duration_is_negative_then_it_counts_as_none() -> None:
    meters = Meters()
    meters.observe(metrics.DONE_SECONDS, -3, kind="order")
    assert samples(meters.text())['integrator_webhook_done_seconds_sum{kind="order"}'] == 0


def test_given_every_metric_when_made_then_prometheus_can_read_it() -> None:
    meters = Meters()
    for metric in METRICS:
        labels = dict.fromkeys(metric.labels, "x")
        give: dict[Kind, Callable[..., None]] = {Kind.COUNTER: meters.count, Kind.GAUGE: meters.set}
        give.get(metric.kind, meters.observe)(metric, 1, **labels)
    found = {family.name for family in text_string_to_metric_families(meters.text().decode())}
    assert found == {metric.name.removesuffix("_total") for metric in METRICS}
    assert all((metric.kind is Kind.COUNTER) == metric.name.endswith("_total") for metric in METRICS)
    assert {label for metric in METRICS for label in metric.labels} & {"tenant", "shop"} == {"tenant", "shop"}
    assert [metric for metric in METRICS if "shop" in metric.labels] == [SHOP_WEBHOOKS]


_COUNT = """
from web.metrics import Counters
counters = Counters()
counters.webhook("accepted", None)
counters.answered(200, 0.1)
"""


def test_given_several_processes_that_share_a_folder_when_one_is_asked_then_it_shows_the_counts_of_all(
    tmp_path: Path,
) -> None:
    environment = {metrics.MULTIPROCESS: str(tmp_path), "INTEGRATOR_SECRET_KEYS": ""}
    for program in (_COUNT, _COUNT, _COUNT + "print(counters.text().decode())"):
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
    shown = samples(ran.stdout.encode().strip())
    assert shown['integrator_webhooks_total{outcome="accepted",platform="unknown",topic="unknown"}'] == 3
    assert shown['integrator_webhook_answer_seconds_count{status="200"}'] == 3


# The metrics port


@pytest.fixture
def page() -> Iterator[tuple[str, list[str | None], Meters]]:
    """A page, what is wrong with its process, and its meters."""
    troubles: list[str | None] = [None]
    meters = Meters()
    server = monitor.serve(Settings(metrics_port=free_port()), meters, lambda: troubles[-1])
    assert server is not None
    yield f"http://127.0.0.1:{server.server_address[1]}", troubles, meters
    server.shutdown()
    server.server_close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_given_a_port_when_asked_then_it_shows_metrics_and_health_and_nothing_else(
    page: tuple[str, list[str | None], Meters],
) -> None:
    url, troubles, meters = page
    meters.set(metrics.ROUND_AT, 7)
    assert samples(get(f"{url}/metrics")[1].encode()) == {metrics.ROUND_AT.name: 7}
    assert get(f"{url}/healthz") == (200, "ok\n")
    troubles.append("It hangs.")
    assert get(f"{url}/healthz") == (503, "It hangs.\n")
    assert get(f"{url}/other")[0] == 404


def test_given_no_port_when_served_then_nothing_listens() -> None:
    assert monitor.serve(Settings(), Meters(), lambda: None) is None


def test_given_a_port_that_is_taken_when_served_then_the_setting_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(metrics_port=taken.getsockname()[1])
        with pytest.raises(monitor.PortTaken, match="INTEGRATOR_METRICS_PORT"):
            monitor.serve(settings, Meters(), lambda: None)


def test_given_a_pulse_when_it_is_silent_for_too_long_then_it_is_not_alive_until_the_next_beat() -> None:
    clock = [100.0]
    pulse = Pulse(60, lambda: clock[0])
    for now, alive in ((100.0, True), (160.0, True), (160.1, False)):
        clock[0] = now
        assert pulse.alive is alive
    pulse.beat()
    assert pulse.alive
    assert pulse.age == 0


# The receiver's own page


class Connection:
    """A request's socket, as gunicorn hands it over."""

    def __init__(self, name: object) -> None:
        self._name = name

    def getsockname(self) -> object:
        return self._name


@pytest.mark.parametrize(
    ("connection", "status"),
    [
        (Connection(("127.0.0.1", 9100)), 200),
        (Connection(("127.0.0.1", 8000)), 404),
        (Connection("/run/web.sock"), 404),
        (None, 404),
    ],
    ids=["the metrics port", "the receiver's port", "a unix socket", "no gunicorn"],
)
def test_given_no_token_when_asked_then_only_the_metrics_port_shows_the_page(
    connection: Connection | None, status: int
) -> None:
    settings = Settings(ledger_url="sqlite:////nonexistent/ledger", metrics_port=9100)
    client = create_app(settings).test_client()
    named = {"SERVER_PORT": "9100", "HTTP_HOST": "127.0.0.1:9100"}

    answer = client.get("/metrics", environ_overrides={**named, "gunicorn.socket": connection})

    assert answer.status_code == status


def test_given_one_port_for_webhooks_and_metrics_when_settings_are_read_then_they_are_refused() -> None:
    with pytest.raises(ValidationError, match="INTEGRATOR_BIND"):
        Settings(bind="0.0.0.0:8000", metrics_port=8000)


@pytest.mark.parametrize(
    ("token", "given", "status"),
    [
        (None, None, 404),
        (None, "Bearer None", 404),
        (None, "Bearer ", 404),
        ("", "Bearer ", 404),
        ("t0ken", None, 404),
        ("t0ken", "Bearer other", 404),
        ("t0ken", "t0ken", 404),
        ("t0ken", "Bearer t0ken", 200),
    ],
)
def test_given_a_token_when_asked_then_only_its_bearer_sees_the_page(
    token: str | None, given: str | None, status: int
) -> None:
    secret = None if token is None else SecretStr(token)
    settings = Settings(ledger_url="sqlite:////nonexistent/ledger", metrics_token=secret)
    client = create_app(settings).test_client()

    answer = client.get("/metrics", headers={} if given is None else {"Authorization": given})

    assert answer.status_code == status
    if status == 404:
        assert answer.data == client.get("/nothing").data
    else:
        assert answer.content_type.startswith("text/plain; version=0.0.4")
