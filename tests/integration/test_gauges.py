"""The gauges: what they count, and that they stay cheap whatever waits."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, update

from integrator.clock import after, now
from integrator.config import Settings
from integrator.ledger import gauges, listing
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, gates
from integrator.metrics import LEDGER_DISK, METRICS, ROUND_AT, Kind, Meters
from tasks import gauges as chores
from tasks import queues
from tests.integration.test_query_plans import add
from tests.plans import analyze, plans
from tests.support import make_tenant

HELD = {"error_class": "Unmapped", "error_fingerprint": "f", "error_message": "m", "error_remedy": "do it"}


@pytest.fixture
def stocked(ledger: Ledger) -> Ledger:
    """Gate 1 is open, gate 2 paused; both have work of all kinds."""
    for number in (1, 2):
        make_tenant(ledger, f"tenant-{number}")
    with ledger.write() as connection:
        for gate_id, count in ((1, 3), (2, 5)):
            add(connection, gate_id, State.DONE, 5_000)
            add(connection, gate_id, State.PENDING, count, due_at=after(-100 * gate_id))
            add(connection, gate_id, State.RETRYING, count, due_at=after(600))
            add(connection, gate_id, State.QUEUED, 1, queued_at=now(), lease_until=after(30), due_at=after(-50))
            add(connection, gate_id, State.RUNNING, 2, claim=1, claimed_at=now(), lease_until=after(30))
            add(connection, gate_id, State.HELD, count, **HELD)
        connection.execute(update(gates).where(gates.c.id == 2).values(paused_until=after(3_600)))
    analyze(ledger)
    return ledger


def test_given_syncs_of_all_states_when_counted_then_the_open_ones_are_there_and_no_other(stocked: Ledger) -> None:
    with stocked.read() as connection:
        found = gauges.open_syncs(connection)
    assert found == {"pending": 8, "queued": 2, "running": 4, "retrying": 8, "held": 8, "dead": 0}


def test_given_work_behind_a_shut_gate_when_the_oldest_is_asked_for_then_only_what_could_run_counts(
    stocked: Ledger,
) -> None:
    def seconds(connection: Connection, kind: str = "order") -> float:
        return gauges.oldest_due_seconds(connection, [kind])

    with stocked.write() as connection:
        assert 100 <= seconds(connection) < 190
        assert seconds(connection, "stock") == 0
        connection.execute(update(gates).values(paused_until=after(3_600)))
        assert 50 <= seconds(connection) < 100, "what is rung and not claimed waits too"


def test_given_shut_gates_when_counted_then_by_the_cause_that_lasts_longest(stocked: Ledger) -> None:
    with stocked.write() as connection:
        assert gauges.shut_gates(connection) | {"paused": 0} == dict.fromkeys(
            ("paused", "retry_after", "quota", "credentials", "breaker"), 0
        )
        assert gauges.shut_gates(connection)["paused"] == 1
        connection.execute(update(gates).where(gates.c.id == 2).values(credentials_until=after(7_200)))
        assert gauges.shut_gates(connection)["credentials"] == 1
        assert gauges.shut_gates(connection)["paused"] == 0


def test_given_a_backlog_over_the_cap_when_counted_then_no_more_rows_are_read(
    stocked: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "CAP", 5)
    with stocked.read() as connection:
        found = gauges.open_syncs(connection)
    assert found["pending"] + found["retrying"] == 5
    assert found["queued"] + found["running"] == 5
    assert found["held"] == 5, "the others hide none of these"


def test_given_a_big_table_when_the_gauges_are_read_then_by_an_index_and_never_through_it(stocked: Ledger) -> None:
    for query in (gauges.open_syncs, lambda c: gauges.oldest_due_seconds(c, ["order"])):
        found = plans(stocked, query, about="syncs")
        assert found
        assert [plan for plan in found if plan.scans("syncs")] == []


def test_given_a_backlog_when_the_stopped_are_counted_or_listed_then_by_their_own_index(stocked: Ledger) -> None:
    with stocked.write() as connection:
        add(connection, 2, State.RETRYING, 10_000, due_at=after(600), kind="stock")
    analyze(stocked)
    for query in (gauges.open_syncs, listing.listing, listing.groups):
        found = plans(stocked, query, about="syncs")
        assert [plan for plan in found if plan.scans("syncs")] == []
        assert len([plan for plan in found if "ix_syncs_stopped" in plan.plan]) == 1, found


def test_given_a_metrics_port_when_the_scheduler_reads_its_gauges_then_each_has_a_value(
    stocked: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meters = Meters()
    monkeypatch.setattr(chores, "meters", lambda: meters)
    monkeypatch.setattr(queues, "depth", lambda _queue: 7)
    monkeypatch.setattr(queues, "dead_letters", lambda _queue: 1)
    for port, shown in ((0, False), (9_100, True)):
        monkeypatch.setattr(
            chores, "settings", lambda port=port: Settings(metrics_port=port, ledger_disk=str(tmp_path))
        )
        chores.read_ledger(stocked)
        chores.read_disk(stocked)
        chores.read_queues()
        chores.Rounds().ended()
        text = meters.text().decode()
        mine = [
            one for one in METRICS if one.where == "scheduler" and one.kind is Kind.GAUGE and one is not ROUND_AT
        ]
        seen = [one for one in mine if re.search(rf"^{one.name}[ {{]", text, re.MULTILINE)]
        assert seen == (mine if shown else [])
    assert 'integrator_syncs{state="held"} 8.0' in text
    assert 'integrator_queue_messages{queue="orders"} 7.0' in text
    assert 'integrator_dead_letters{queue="orders"} 1.0' in text


def test_given_the_ledgers_disk_when_measured_then_its_free_share_where_it_can_be_known(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meters = Meters()
    monkeypatch.setattr(chores, "meters", lambda: meters)
    measured: list[str] = []

    def measure(folder: object) -> SimpleNamespace:
        measured.append(str(folder))
        return SimpleNamespace(total=1_000, free=70)

    monkeypatch.setattr(shutil, "disk_usage", measure)
    monkeypatch.setattr(chores, "settings", lambda: Settings(metrics_port=9_100))
    chores.read_disk(ledger)
    assert measured == ([str(tmp_path)] if ledger.on_sqlite else []), "a server's disk is not ours to see"
    monkeypatch.setattr(chores, "settings", lambda: Settings(metrics_port=9_100, ledger_disk="/srv"))
    chores.read_disk(ledger)
    assert measured[-1] == "/srv"
    assert meters.value(LEDGER_DISK) == 0.07


def test_given_a_disk_that_is_not_there_when_measured_then_the_chore_fails_and_so_somebody_learns_of_it(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "settings", lambda: Settings(metrics_port=9_100, ledger_disk="/not/there"))
    with pytest.raises(OSError, match="/not/there"):
        chores.read_disk(sqlite_ledger)
