"""When the receiver can't keep a webhook it says 503, to the shop concerned, in time, and never 200."""

import time
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, shops, syncs
from integrator.secrets import KeyRing, new_key
from tests.webhooks import (
    KEYS,
    Site,
    order_body,
    shop,
    site,
    store,
    tenant,
)
from web.problems import MEDIA_TYPE


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Site:
    """An app with acme's shop."""
    store(ledger)
    return site(monkeypatch, ledger)


def test_given_a_shop_at_its_cap_when_posted_then_503_for_that_shop_only(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger, tenant("acme", shop(), shop("at", "KEY_2")))
    made = site(monkeypatch, ledger, max_open_deliveries=2)
    for number in (1, 2):
        assert made.post(order_body(number)).status_code == 200

    for _ in range(2):
        answer = made.post(order_body(3))
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
    assert made.post(order_body(3), url=f"/webhooks/shopify/{KEYS['KEY_2']}").status_code == 200

    assert made.rows() == (3, 3)
    assert made.counted("over_cap", tenant="acme", shop="de") == 2


def test_given_a_shop_with_a_cap_of_its_own_when_posted_then_that_holds_whatever_the_others_have(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger, tenant("acme", shop(max_open_deliveries=1), shop("at", "KEY_2")))
    made = site(monkeypatch, ledger, max_open_deliveries=3)
    statuses = {
        key: [
            made.post(order_body(number), url=f"/webhooks/shopify/{KEYS[key]}").status_code for number in range(5)
        ]
        for key in ("KEY", "KEY_2")
    }
    assert statuses == {"KEY": [200, 503, 503, 503, 503], "KEY_2": [200, 200, 200, 503, 503]}
    assert "as it may have: 1." in made.post(order_body(9)).get_data(as_text=True)
    assert made.rows() == (4, 4)


def test_given_a_backlog_from_before_when_a_process_starts_then_its_first_webhook_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger)
    assert site(monkeypatch, ledger).post(order_body(1)).status_code == 200

    made = site(monkeypatch, ledger, max_open_deliveries=1)

    assert made.post(order_body(2)).status_code == 503


def test_given_a_cap_that_was_reached_when_the_work_is_done_then_the_shop_is_served_again(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger)
    made = site(monkeypatch, ledger, max_open_deliveries=1)
    made.post(order_body(1))
    assert made.post(order_body(2)).status_code == 503
    with ledger.write() as connection:
        connection.execute(update(syncs).values(state=State.DONE, applied=1))

    monkeypatch.setattr("web.writer.GAUGE_SECONDS", 0.0)

    assert made.post(order_body(2)).status_code == 200


def test_given_a_shop_that_is_switched_off_when_its_memory_is_over_then_it_counts(
    monkeypatch: pytest.MonkeyPatch, made: Site
) -> None:
    made.post(order_body(1))
    with made.ledger.write() as connection:
        connection.execute(update(shops).values(active=False))

    monkeypatch.setattr("web.reader.time", Clock(3.0))

    assert made.post(order_body(2)).status_code == 200
    assert made.rows() == (1, 1)
    assert made.counted("inactive") == 1


class Clock:
    """A monotonic clock that is ahead."""

    def __init__(self, ahead: float) -> None:
        self._ahead = ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead


def test_given_guessed_keys_when_there_are_too_many_then_the_memory_stays_bounded(
    monkeypatch: pytest.MonkeyPatch, made: Site
) -> None:
    monkeypatch.setattr("web.reader.SHOPS_REMEMBERED", 3)
    seen: list[Any] = []
    monkeypatch.setattr("web.app.Shops.__init__", remembering(seen))
    again = site(monkeypatch, made.ledger)

    assert again.post(order_body(1)).status_code == 200
    for number in range(10):
        assert again.post(order_body(1), url=f"/webhooks/shopify/guess-{number}").status_code == 404

    (found,) = seen
    assert (len(found._known), len(found._unknown)) == (1, 3)


def remembering(seen: list[Any]) -> Any:
    from web.reader import Shops

    original = Shops.__init__

    def init(self: Any, *args: Any) -> None:
        seen.append(self)
        original(self, *args)

    return init


@pytest.mark.parametrize("fails", ["verify", "identify"])
def test_given_a_connector_with_a_bug_when_posted_then_503_and_the_log_says_where(
    monkeypatch: pytest.MonkeyPatch, made: Site, fails: str
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("ada@example.com")

    monkeypatch.setattr(f"integrator.shops.shopify.Shopify.{fails}", broken)

    with capture_logs() as logs:
        answer = made.post(order_body())

    assert (answer.status_code, answer.content_type) == (503, MEDIA_TYPE)
    assert int(answer.headers["Retry-After"]) > 0
    (line,) = logs
    assert (line["error_class"], line["exception"], line["log_level"]) == ("Bug", "KeyError", "error")
    assert line["correlation_id"] == answer.headers["X-Correlation-Id"]
    assert "ada@" not in repr(logs) + answer.text
    assert made.rows() == (0, 0)


def test_given_keys_that_open_nothing_when_posted_then_503_and_the_log_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger, ring=KeyRing((new_key(),)))
    made = site(monkeypatch, ledger)

    with capture_logs() as logs:
        answer = made.post(order_body())

    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert "INTEGRATOR_SECRET_KEYS" in next(
        line["reason"] for line in logs if line["event"] == "secrets_unreadable"
    )


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://nobody@127.0.0.1:9/nothing", "sqlite:////proc/nothing/ledger.sqlite3"]
)
def test_given_a_ledger_that_is_not_there_when_posted_then_503_and_never_200(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    made = site(monkeypatch, Ledger(url))
    body = order_body()

    began = time.monotonic()
    answer = made.post(body)

    assert time.monotonic() - began < 5
    assert (answer.status_code, answer.content_type) == (503, MEDIA_TYPE)
    assert int(answer.headers["Retry-After"]) > 0


def test_given_a_ledger_that_goes_away_when_posted_then_503_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    store(ledger)
    made = site(monkeypatch, ledger)
    assert made.post(order_body(1)).status_code == 200
    with ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE deliveries RENAME TO gone")

    assert made.post(order_body(2)).status_code == 503

    with ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO deliveries")
    assert made.rows() == (1, 1)
    assert made.post(order_body(2)).status_code == 200


def test_given_a_database_that_was_restarted_when_posted_then_nobody_notices(
    monkeypatch: pytest.MonkeyPatch, postgresql_ledger: Ledger
) -> None:
    store(postgresql_ledger)
    made = site(monkeypatch, postgresql_ledger)
    assert made.post(order_body(1)).status_code == 200
    end_connections(postgresql_ledger)
    monkeypatch.setattr("web.reader.SHOP_SECONDS", -1.0)
    monkeypatch.setattr("web.reader.time", Clock(3.0))

    assert [made.post(order_body(number)).status_code for number in (2, 3)] == [200, 200]


def end_connections(ledger: Ledger) -> None:
    """End all connections of the pool, from another one."""
    admin = Ledger(ledger.url.render_as_string(hide_password=False))
    with admin.read() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    admin.close()


def test_given_a_ledger_that_does_not_answer_a_look_up_when_posted_then_503_in_time(
    monkeypatch: pytest.MonkeyPatch, postgresql_ledger: Ledger
) -> None:
    store(postgresql_ledger)
    made = site(monkeypatch, postgresql_ledger, web_answer_seconds=0.4)
    other = Ledger(postgresql_ledger.url.render_as_string(hide_password=False))
    with other.write() as connection:
        connection.exec_driver_sql("LOCK TABLE shops IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        answers = [made.post(order_body()).status_code for _ in range(5)]
        took = time.monotonic() - began
        connection.rollback()
    other.close()

    assert answers == [503] * 5
    assert took < 5  # only the first ones wait; then the reader is known to be stuck
    assert made.counted("busy", tenant="unknown") == 5
    end = time.monotonic() + 10
    while made.post(order_body()).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.02)
