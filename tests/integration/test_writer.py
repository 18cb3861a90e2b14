"""The group-commit writer: one transaction for many, and nobody pays for another's trouble (PROTOCOL D2)."""

import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import OperationalError

from integrator.ledger import deliveries as ledger_deliveries
from integrator.ledger.access import ShopRow
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Accepted, Delivery
from integrator.ledger.schema import deliveries, delivery_keys, syncs
from tests.support import World, make_tenant
from tests.webhooks import (
    SilentDispatcher,
    Site,
    all_syncs,
    count,
    order_body,
    server_environment,
    site,
    store,
)
from web import writer as web_writer
from web.batcher import Busy, Job, wait_through
from web.metrics import Counters
from web.writer import Arrived, Writer


def make_writer(ledger: Ledger, *, batch: int = 64, stall_seconds: float = 30.0) -> Writer:
    dispatcher: Any = SilentDispatcher()
    return Writer(ledger, dispatcher, Counters(), batch=batch, max_open=100_000, stall_seconds=stall_seconds)


def keep(made: Writer, item: Arrived, deadline: float) -> Accepted:
    return wait_through(made.keep(item, deadline))


def arrived(world: World, number: int, *, event: str | None = None) -> Arrived:
    shop = ShopRow(world.shop_id, world.gate_id, world.tenant, "web", "memory", True, ())
    return Arrived(
        shop,
        Delivery(
            shop_id=world.shop_id,
            gate_id=world.gate_id,
            kind="order",
            external_id=str(number),
            topic="orders/create",
            updated_at=None,
            event_key=event,
            correlation_id=f"c-{number}",
            headers={},
            body=b"{}",
        ),
    )


class Outcomes:
    """What each of many concurrent `keep`s came to."""

    def __init__(
        self, made: Writer, items: Sequence[Arrived], *, seconds: float = 20.0, threads: int = 16
    ) -> None:
        self.of: dict[int, Accepted | Exception] = {}
        left = iter(list(enumerate(items)))
        lock = threading.Lock()

        def run() -> None:
            while True:
                with lock:
                    number, item = next(left, (None, None))
                if number is None or item is None:
                    return
                try:
                    self.of[number] = keep(made, item, time.monotonic() + seconds)
                except Exception as error:  # noqa: BLE001
                    self.of[number] = error

        self._threads = [threading.Thread(target=run) for _ in range(min(threads, len(items)))]
        for thread in self._threads:
            thread.start()

    def wait(self) -> list[Accepted | Exception]:
        for thread in self._threads:
            thread.join()
        return [self.of[number] for number in sorted(self.of)]


@contextmanager
def held_up(made: Writer, monkeypatch: pytest.MonkeyPatch, world: World, waiting: int) -> Iterator[None]:
    """Keep the writer busy until `waiting` jobs wait, so that they become one batch."""
    entered, go = threading.Event(), threading.Event()

    def first(connection: Connection, batch: Sequence[Delivery]) -> list[Accepted]:
        monkeypatch.setattr(web_writer, "accept", ledger_deliveries.accept)
        entered.set()
        assert go.wait(10)
        return ledger_deliveries.accept(connection, batch)

    monkeypatch.setattr(web_writer, "accept", first)
    blocker = Outcomes(made, [arrived(world, 0)])
    assert entered.wait(10)
    yield
    end = time.monotonic() + 10
    while len(made._batcher._waiting) < waiting:
        assert time.monotonic() < end
        time.sleep(0.002)
    go.set()
    blocker.wait()


def test_given_many_threads_when_they_keep_then_each_is_kept_once_with_a_version_of_its_own(
    ledger: Ledger,
) -> None:
    world = make_tenant(ledger)
    made = make_writer(ledger, batch=7)
    items = [arrived(world, number % 5, event=f"e-{number}") for number in range(200)]

    results = Outcomes(made, items).wait()

    versions: dict[str, list[int | None]] = {}
    for item, result in zip(items, results, strict=True):
        assert isinstance(result, Accepted)
        versions.setdefault(item.delivery.external_id, []).append(result.version)
    assert {order: sorted(found) for order, found in versions.items()} == {  # type: ignore[type-var]
        str(order): list(range(1, 41)) for order in range(5)
    }
    assert [sync.wanted for sync in all_syncs(ledger)] == [40] * 5
    assert (count(ledger, deliveries), count(ledger, delivery_keys)) == (200, 200)


def test_given_the_same_events_from_many_threads_when_kept_then_all_but_one_of_each_are_duplicates(
    ledger: Ledger,
) -> None:
    world = make_tenant(ledger)
    made = make_writer(ledger)
    items = [arrived(world, number % 10, event=f"e-{number % 10}") for number in range(100)]

    results = Outcomes(made, items).wait()

    assert Counter(isinstance(one, Accepted) and one.duplicate for one in results) == {True: 90, False: 10}
    assert [sync.wanted for sync in all_syncs(ledger)] == [1] * 10


def test_given_waiting_webhooks_when_the_writer_is_free_then_they_share_one_transaction(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    world = make_tenant(ledger)
    made = make_writer(ledger)
    sizes: list[int] = []

    with held_up(made, monkeypatch, world, waiting=10):
        outcomes = Outcomes(made, [arrived(world, number) for number in range(1, 11)])
        monkeypatch.setattr(made, "_commit", counting(made, sizes))
    outcomes.wait()

    assert sizes == [10]


def test_given_shops_whose_backlogs_are_to_be_counted_when_batches_come_then_one_waits_for_one_count(
    monkeypatch: pytest.MonkeyPatch, sqlite_ledger: Ledger
) -> None:
    made = make_writer(sqlite_ledger)
    counted: list[list[int]] = []

    def count_open(_connection: Connection, shop_id: int, _limit: int) -> int:
        counted[-1].append(shop_id)
        return 0

    monkeypatch.setattr(web_writer, "open_deliveries", count_open)
    webhook = arrived(make_tenant(sqlite_ledger), 1)
    of_shops = [replace(webhook, shop=replace(webhook.shop, shop_id=shop_id)) for shop_id in (3, 1, 2)]
    jobs: list[Job[Arrived, Accepted]] = [Job(one, math.inf) for one in of_shops]

    for _ in range(4):
        counted.append([])
        assert made._within_cap(jobs) == jobs

    assert counted == [[1], [2], [3], []]


def counting(made: Writer, sizes: list[int]) -> Any:
    commit = made._commit

    def counted(jobs: Any) -> list[Accepted]:
        sizes.append(len(jobs))
        return commit(jobs)

    return counted


def test_given_one_row_that_the_database_refuses_when_batched_then_it_alone_fails(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    world = make_tenant(ledger)
    made = make_writer(ledger)
    wrong = World(world.tenant, world.tenant_id, world.gate_id, shop_id=999_999, erp_id=world.erp_id)
    items = [arrived(wrong if number == 4 else world, number) for number in range(1, 9)]

    with held_up(made, monkeypatch, world, waiting=8):
        outcomes = Outcomes(made, items)
    results = outcomes.wait()

    assert [number for number, one in enumerate(results, 1) if isinstance(one, Exception)] == [4]
    assert sorted(sync.external_id for sync in all_syncs(ledger)) == sorted("01235678")
    assert all(sync.wanted == 1 for sync in all_syncs(ledger))


def test_given_an_order_that_somebody_holds_when_batched_then_the_others_are_kept_and_its_own_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch, postgresql_ledger: Ledger
) -> None:
    ledger = postgresql_ledger
    world = make_tenant(ledger)
    made = make_writer(ledger)
    keep(made, arrived(world, 1), time.monotonic() + 10)
    items = [arrived(world, number % 4 + 1, event=f"e-{number}") for number in range(12)]
    tries: list[int] = []

    with ledger.write() as connection:
        connection.execute(update(syncs).where(syncs.c.external_id == "1").values(priority=1))
        with held_up(made, monkeypatch, world, waiting=12):
            outcomes = Outcomes(made, items)
            monkeypatch.setattr(made, "_commit", counting(made, tries))
        end = time.monotonic() + 10
        while len(tries) < 13:  # the others are kept, and it is looked again
            assert time.monotonic() < end
            time.sleep(0.01)
        assert {one.external_id: one.wanted for one in all_syncs(ledger)} == {
            "0": 1,
            "1": 1,
            "2": 3,
            "3": 3,
            "4": 3,
        }
    results = outcomes.wait()

    assert all(isinstance(one, Accepted) and not one.duplicate for one in results)
    assert tries[:11] == [12] + [1] * 10  # nine that are kept, and one look at the order that is held
    assert set(tries[11:]) == {1}
    assert {one.external_id: one.wanted for one in all_syncs(ledger)} == {"0": 1, "1": 4, "2": 3, "3": 3, "4": 3}


def test_given_an_order_that_stays_held_when_its_time_is_up_then_it_is_busy_and_others_were_kept_meanwhile(
    monkeypatch: pytest.MonkeyPatch, postgresql_ledger: Ledger
) -> None:
    ledger = postgresql_ledger
    world = make_tenant(ledger)
    made = make_writer(ledger)
    for number in (1, 2):
        keep(made, arrived(world, number), time.monotonic() + 10)

    with ledger.write() as connection:
        connection.execute(update(syncs).where(syncs.c.external_id.in_(["1", "2"])).values(priority=1))
        held = Outcomes(made, [arrived(world, number) for number in (1, 2, 1)], seconds=1)
        others = Outcomes(made, [arrived(world, number) for number in range(3, 23)], threads=1)
        assert all(isinstance(one, Accepted) for one in others.wait())
        refused = held.wait()
        connection.rollback()

    assert all(isinstance(one, Busy) for one in refused)
    assert not made._batcher._waiting
    assert count(ledger, deliveries) == 22
    assert isinstance(keep(made, arrived(world, 1), time.monotonic() + 10), Accepted)


@contextmanager
def locked(ledger: Ledger) -> Iterator[None]:
    """Another process's transaction that lets nobody write."""
    other = Ledger(ledger.url.render_as_string(hide_password=False))
    try:
        with other.write() as connection:
            if not ledger.on_sqlite:
                connection.execute(text("LOCK TABLE deliveries, syncs IN EXCLUSIVE MODE"))
            yield
            connection.rollback()
    finally:
        other.close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Site:
    store(ledger)
    return site(monkeypatch, ledger, web_answer_seconds=0.6)


def test_given_a_ledger_that_is_locked_when_posted_then_503_in_time_and_nothing_is_half_written(
    made: Site,
) -> None:
    assert made.post(order_body(1)).status_code == 200

    with locked(made.ledger):
        began = time.monotonic()
        answers = [made.post(order_body(number)) for number in (2, 3)]
        took = time.monotonic() - began

    assert [answer.status_code for answer in answers] == [503, 503]
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
    assert took < 5
    until_served(made, order_body(4))
    external_ids = {sync.external_id[-1]: sync.wanted for sync in all_syncs(made.ledger)}
    assert external_ids.items() >= {"1": 1, "4": 1}.items()
    assert made.rows()[0] == sum(external_ids.values())
    assert count(made.ledger, delivery_keys) == made.rows()[0]
    assert {made.post(order_body(number)).status_code for number in (2, 3)} == {200}
    assert [sync.wanted for sync in all_syncs(made.ledger)] == [1] * 4


def until_served(made: Site, body: bytes) -> None:
    end = time.monotonic() + 10
    while made.post(body).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_given_a_request_that_went_away_when_its_turn_comes_then_it_is_not_written(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    world = make_tenant(ledger)
    made = make_writer(ledger)
    with held_up(made, monkeypatch, world, waiting=0), pytest.raises(Busy):
        keep(made, arrived(world, 1), time.monotonic() + 0.05)

    keep(made, arrived(world, 2), time.monotonic() + 10)

    assert sorted(sync.external_id for sync in all_syncs(ledger)) == ["0", "2"]


def test_given_a_batch_that_fails_late_when_redone_then_those_that_went_away_are_left_out(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    world = make_tenant(ledger)
    made = make_writer(ledger)

    def slow_failure(*_: Any) -> list[Accepted]:
        monkeypatch.setattr(web_writer, "accept", ledger_deliveries.accept)
        time.sleep(0.2)
        raise OperationalError("", {}, Exception())

    monkeypatch.setattr(web_writer, "accept", slow_failure)
    with pytest.raises(Busy):
        keep(made, arrived(world, 1), time.monotonic() + 0.1)

    keep(made, arrived(world, 2), time.monotonic() + 10)

    assert [sync.external_id for sync in all_syncs(ledger)] == ["2"]


def test_given_a_commit_whose_answer_was_lost_when_redone_then_it_is_a_duplicate_and_still_200(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    world = make_tenant(ledger)
    made = make_writer(ledger)
    commit = made._commit

    def lost(jobs: Any) -> list[Accepted]:
        monkeypatch.setattr(made, "_commit", commit)
        commit(jobs)
        raise OperationalError("", {}, Exception())

    monkeypatch.setattr(made, "_commit", lost)

    assert keep(made, arrived(world, 1, event="e-1"), time.monotonic() + 10).duplicate
    assert (count(ledger, deliveries), all_syncs(ledger)[0].wanted) == (1, 1)


def test_given_a_dead_writer_when_posted_then_503_and_the_next_webhook_is_served(
    monkeypatch: pytest.MonkeyPatch, made: Site
) -> None:
    def dies(*_: Any) -> Any:
        monkeypatch.setattr(web_writer, "accept", ledger_deliveries.accept)
        raise SystemExit

    assert made.client.get("/readyz").status_code == 200
    monkeypatch.setattr(web_writer, "accept", dies)

    assert made.post(order_body(1)).status_code == 503
    red = made.client.get("/readyz")
    assert (red.status_code, red.json and red.json["troubles"]) == (503, ["the writer thread died"])
    assert made.post(order_body(1)).status_code == 200
    assert made.client.get("/readyz").status_code == 200


RACER = """
import sys
from integrator.ledger.engine import Ledger
from integrator.logs import configure
from tests.integration.test_writer import Outcomes, arrived, make_writer
from tests.support import World
from web.batcher import Busy
configure("ERROR")
world = World("acme", *map(int, sys.argv[2:6]))
writer = make_writer(Ledger(sys.argv[1]), batch=8)
left = [arrived(world, number % 7, event=f"e-{number}") for number in range(150)]
print("ready", flush=True)
sys.stdin.readline()
while left:
    results = Outcomes(writer, left, threads=8).wait()
    left = [item for item, one in zip(left, results) if isinstance(one, Busy)]
    for one in results:
        if not isinstance(one, Busy):
            print("kept", one.duplicate)
"""


def test_given_two_processes_with_the_same_events_when_they_race_then_each_is_kept_once(
    postgresql_ledger: Ledger,
) -> None:
    world = make_tenant(postgresql_ledger)
    url = postgresql_ledger.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", RACER, url]
    command += [str(one) for one in (world.tenant_id, world.gate_id, world.shop_id, world.erp_id)]
    environment = server_environment(url)
    with (
        subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as one,
        subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as two,
    ):
        for racer in (one, two):
            assert racer.stdout is not None
            assert "ready\n" in iter(racer.stdout.readline, "")
        for racer in (one, two):
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        lines = "".join(racer.communicate(timeout=60)[0] for racer in (one, two)).splitlines()

    assert Counter(line for line in lines if line.startswith("kept")) == {"kept True": 150, "kept False": 150}
    assert count(postgresql_ledger, deliveries) == count(postgresql_ledger, delivery_keys) == 150
    with postgresql_ledger.read() as connection:
        versions = connection.execute(select(deliveries.c.sync_id, deliveries.c.version)).all()
    for sync in all_syncs(postgresql_ledger):
        mine = sorted(version for sync_id, version in versions if sync_id == sync.id)
        assert mine == list(range(1, sync.wanted + 1))
