"""How long a gate's runs take, gathered by a process and kept in the gate's row, on both databases (P6)."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from integrator import errors
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import gates
from integrator.pace import RUNS, Pace
from tests.integration.test_sync_task import Stage, database, stage
from tests.support import World, fail, make_tenant, order

__all__ = ["database", "stage"]


def kept(ledger: Ledger, world: World) -> float | None:
    with ledger.read() as connection:
        found: float | None = connection.execute(
            select(gates.c.run_seconds).where(gates.c.id == world.gate_id)
        ).scalar_one()
    return found


def test_given_runs_when_there_are_enough_then_their_95th_percentile_is_kept_and_then_blended(
    ledger: Ledger,
) -> None:
    world, other, pace = make_tenant(ledger), make_tenant(ledger, "globex"), Pace(ledger)
    for number in range(RUNS - 1):
        pace.ran(world.gate_id, 0.1 + number / 1_000)
        pace.ran(other.gate_id, 0.2)
    assert (kept(ledger, world), kept(ledger, other)) == (None, None)
    pace.ran(world.gate_id, 0.4)
    assert kept(ledger, world) == pytest.approx(0.118)
    for _ in range(RUNS):
        pace.ran(world.gate_id, 0.2)
    assert kept(ledger, world) == pytest.approx(0.159)
    assert kept(ledger, other) is None


def test_given_a_system_that_became_slow_when_few_runs_end_then_it_is_noticed(ledger: Ledger) -> None:
    world, pace = make_tenant(ledger), Pace(ledger)
    for _ in range(RUNS):
        pace.ran(world.gate_id, 0.1)
    pace.ran(world.gate_id, 12.0)
    assert kept(ledger, world) == pytest.approx(6.05)


def test_given_a_ledger_that_fails_when_it_is_to_be_kept_then_nothing_is_raised_and_the_next_ones_are(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, pace = make_tenant(ledger), Pace(ledger)

    @contextmanager
    def fails() -> Iterator[Connection]:
        raise OperationalError("UPDATE", None, Exception("gone"))
        yield

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", fails)
        pace.ran(world.gate_id, 20.0)
    pace.ran(world.gate_id, 12.0)
    assert kept(ledger, world) == 12.0


def test_given_runs_of_the_task_when_they_finish_then_their_seconds_count_and_those_of_failures_do_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    monkeypatch.setattr(stage.here.pace, "ran", lambda gate_id, _seconds: ran.append(gate_id))
    stage.end()
    assert ran == [stage.world.gate_id]
    stage.erp.script = fail(errors.Rejected("no", subject="no"))
    stage.end(order("1002"))
    assert ran == [stage.world.gate_id]
