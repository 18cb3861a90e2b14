"""Counters only rise, and are shown to whoever has the token."""

import threading

import pytest
from pydantic import SecretStr

from integrator.config import Settings
from web import create_app
from web.metrics import WEBHOOKS, Counters


def test_given_counts_when_shown_then_the_text_is_prometheus() -> None:
    counters = Counters(process="7")
    counters.webhook("accepted", None)
    counters.webhook("accepted", None)
    counters.add("other_total", odd='a"b\\c\nd')

    assert counters.text() == (
        "# HELP integrator_webhooks_total Webhooks by what became of them.\n"
        "# TYPE integrator_webhooks_total counter\n"
        'integrator_webhooks_total{process="7",outcome="accepted",tenant="unknown",shop="unknown"} 2\n'
        "# HELP other_total other_total\n"
        "# TYPE other_total counter\n"
        'other_total{process="7",odd="a\\"b\\\\c\\nd"} 1\n'
    )


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
