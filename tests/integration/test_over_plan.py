"""What the plan does not allow now waits: in the ledger, behind a shut gate, without a burnt attempt."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from integrator import connectors, errors, gate
from integrator.clock import EPOCH
from integrator.config import settings
from integrator.dispatch import Dispatcher
from integrator.erps.rest import RestErp
from integrator.ledger import limits as ledger_limits
from integrator.ledger.schema import State, erps, gates, syncs
from integrator.limits import Limiter
from integrator.plans import PlanFile
from integrator.secrets import key_ring
from tests.integration.test_rest_erp_contract import Sandbox
from tests.integration.test_sync_task import Stage, database, stage
from tests.support import fail, order

__all__ = ["database", "stage"]

ZONE = "America/Argentina/Buenos_Aires"


def plan(stage: Stage, **said: Any) -> None:
    with stage.ledger.write() as connection:
        ledger_limits.write_plan(connection, stage.world.gate_id, PlanFile.model_validate(said).columns())


def shut_until(stage: Stage) -> datetime:
    with stage.ledger.read() as connection:
        until: datetime = connection.execute(select(gates.c.quota_until)).scalar_one()
    return until


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_given_no_place_in_the_rate_when_run_then_the_gate_shuts_for_that_long_and_rings_again_then(
    stage: Stage,
) -> None:
    stage.erp.script = fail(errors.RateLimited("no place", wait_seconds=30, plan_version=0))
    result, row = stage.end()
    assert (result.state, row.state, row.attempts, row.throttled) == ("RETRY", State.PENDING, 0, 0)
    assert stage.gate().cause == "the plan's 10 requests per second are used up"
    assert 25 < (shut_until(stage) - datetime.now(UTC)).total_seconds() < 31
    assert stage.asked_later == [(stage.world.gate_id, 30)]
    assert stage.steps() == [("create", "refused")]
    assert stage.clean()


def test_given_a_plan_that_has_changed_meanwhile_when_run_then_the_gate_stays_open(stage: Stage) -> None:
    plan(stage, per_day=500)
    for error in (
        errors.RateLimited("no place", wait_seconds=30, plan_version=0),
        errors.QuotaUsedUp("used up", resumes_at=datetime.now(UTC) + timedelta(hours=5), plan_version=0),
    ):
        stage.erp.script = fail(error)
        _, row = stage.end(order(error.error_class))
        assert (row.state, stage.gate().open, shut_until(stage)) == (State.PENDING, True, EPOCH)


def test_given_a_longer_wait_that_stands_when_run_then_it_is_kept(stage: Stage) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)
    with stage.ledger.write() as connection:
        assert gate.wait_for_plan(connection, stage.world.gate_id, until, 0)
        assert not gate.wait_for_plan(connection, stage.world.gate_id, 30.0, 0)
    assert shut_until(stage) == until


def test_given_only_a_share_is_used_up_when_run_then_only_this_sync_waits(stage: Stage) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)
    stage.erp.script = fail(errors.QuotaUsedUp("polls", resumes_at=at, for_all=False))
    _, row = stage.end()
    assert (row.state, row.due_at, stage.gate().open) == (State.PENDING, at, True)


def test_given_a_shops_rate_when_it_has_no_place_then_the_systems_gate_stays_open(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_access: Any, _external_id: str) -> Any:
        raise errors.RateLimited("no place", wait_seconds=30)

    monkeypatch.setattr(stage.shop, "fetch_order", fetch)
    _, row = stage.end(timed=False)
    assert (row.state, row.attempts, stage.gate().open) == (State.PENDING, 0, True)
    assert 25 < (row.due_at - datetime.now(UTC)).total_seconds() < 31


@pytest.fixture
def system(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Sandbox]:
    """A management system behind HTTP, and its tenant's plan of three calls a day."""
    sandbox = Sandbox(tmp_path / "erp.sqlite3")
    sandbox.control(keep_grants=True)
    monkeypatch.setattr(connectors, "erp", lambda _kind: RestErp())
    with stage.ledger.write() as connection:
        sealed = key_ring().seal({"token": "made-up"})
        connection.execute(update(erps).values(config={"url": sandbox.url}, secrets=sealed))
    plan(stage, per_second=1_000, per_day=3, time_zone=ZONE)
    yield sandbox
    sandbox.stop()
    settings.cache_clear()


def at(stage: Stage, monkeypatch: pytest.MonkeyPatch, when: datetime) -> None:
    offset = (when - datetime.now(UTC)).total_seconds()
    monkeypatch.setenv("INTEGRATOR_CLOCK_OFFSET_SECONDS", str(offset))
    settings.cache_clear()
    stage.here.limiter = Limiter(stage.ledger, None, offset_seconds=offset)


def work(stage: Stage) -> list[str]:
    """Ring for all that is due behind open gates, and run it; the states that Celery shows."""
    dispatcher = Dispatcher(stage.ledger, lambda _rung: [])
    with stage.ledger.read() as connection:
        open_now = gate.ask(connection, stage.world.gate_id).open
    dispatcher.dispatch()
    return [] if not open_now else [stage.run(sync_id).state for sync_id in queued(stage)]


def queued(stage: Stage) -> list[int]:
    with stage.ledger.read() as connection:
        return list(connection.execute(select(syncs.c.id).where(syncs.c.state == State.QUEUED)).scalars())


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_given_a_used_up_day_when_work_goes_on_then_not_one_call_more_until_the_day_turns(
    stage: Stage, system: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(stage, monkeypatch, datetime(2026, 3, 2, 2, 0, tzinfo=UTC))
    for number in range(5):
        stage.deliver(order(f"10{number}"))
    assert sorted(work(stage)) == ["IGNORED", "RETRY", "SUCCESS", "SUCCESS", "SUCCESS"]  # the last met a shut gate
    shut = stage.gate()
    assert shut.cause == f"the day's quota is used up: 3 of 3, resumes 00:00 {ZONE}"
    assert shut.opens_at == datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
    assert work(stage) == []
    assert system.control("GET")["requests"] == {"create": 3}
    at(stage, monkeypatch, datetime(2026, 3, 2, 3, 0, 1, tzinfo=UTC))
    assert work(stage) == ["SUCCESS", "SUCCESS"]
    assert system.control("GET")["requests"] == {"create": 5}
    said = [grant for grant, _arrived in system.control("GET", "/_sandbox/grants")["grants"]]
    assert len(said) == 5
    assert all(grant.endswith(f", of=gate:{stage.world.gate_id}") for grant in said)
    assert stage.clean()


def test_given_a_used_up_day_when_the_plan_is_raised_then_work_goes_on_at_once(
    stage: Stage, system: Sandbox
) -> None:
    stage.here.limiter = Limiter(stage.ledger, None)
    for number in range(4):
        stage.deliver(order(f"10{number}"))
    assert sorted(work(stage)) == ["RETRY", "SUCCESS", "SUCCESS", "SUCCESS"]
    assert not stage.gate().open
    plan(stage, per_second=1_000, per_day=4)
    stage.here.limiter = Limiter(stage.ledger, None)  # a second later
    assert work(stage) == ["SUCCESS"]
