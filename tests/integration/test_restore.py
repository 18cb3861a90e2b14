"""After a restore the ledger knows less than the management system: nothing is done twice, on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup
from sqlalchemy import delete, insert, select, update

from integrator import errors, gate
from integrator.clock import after
from integrator.config import Settings
from integrator.documents import Order
from integrator.erps.base import ErpAccess
from integrator.erps.rest import RestErp
from integrator.http import Http
from integrator.ledger.engine import Ledger
from integrator.ledger.restore import NotRestored, Restored, restored
from integrator.ledger.schema import (
    Priority,
    State,
    attempts,
    deliveries,
    delivery_keys,
    gates,
    steps,
    syncs,
)
from integrator.shops.base import ShopAccess
from integrator.sync.orders import converge
from integrator.sync.run import Run
from integrator.sync.sides import ErpSide, ShopSide
from tests.integration.test_converge import Bench, kill_during_send
from tests.integration.test_rest_erp_contract import Sandbox
from tests.support import fail, make_tenant, moved, order, refund, sync_row
from web import create_app

FORGETFUL = (syncs, attempts, steps, deliveries, delivery_keys)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Backup:
    """What the ledger knew at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        with ledger.read() as connection:
            self.rows = {
                table: [dict(row._mapping) for row in connection.execute(select(table))] for table in FORGETFUL
            }

    def restore(self) -> None:
        """Bring the ledger back to it, and tell it so; the restore was some seconds ago then."""
        with self.ledger.write() as connection:
            for table in reversed(FORGETFUL):
                connection.execute(delete(table))
            for table, rows in self.rows.items():
                if rows:
                    connection.execute(insert(table), rows)
        restored(self.ledger, datetime.now(UTC))
        pass_seconds(self.ledger, 5)


def pass_seconds(ledger: Ledger, seconds: float) -> None:
    """Let the restore, and what was done before it, be so much longer ago."""
    with ledger.write() as connection:
        done_at = syncs.c.reconciled_at
        connection.execute(
            update(syncs).where(done_at.is_not(None)).values(reconciled_at=after(-seconds, done_at))
        )
        connection.execute(update(gates).values(restored_at=after(-seconds, gates.c.restored_at)))


@pytest.fixture(params=[True, False], ids=["with-keys", "without-keys"])
def bench(ledger: Ledger, request: pytest.FixtureRequest) -> Bench:
    made = Bench(ledger, make_tenant(ledger))
    made.erp.by_key = request.param
    return made


def shown(bench: Bench, document: Order) -> int:
    """The shop has this version, and sends its webhook."""
    bench.shop.orders[document.external_id] = document
    return bench.deliver(document)


def one_record(bench: Bench) -> Any:
    (record,) = bench.erp.records.values()
    assert len(set(record.keys)) == len(record.keys)
    assert bench.clean()
    return record


def test_given_a_create_after_the_backup_when_its_webhook_comes_again_then_one_order_exists(bench: Bench) -> None:
    backup = Backup(bench.ledger)
    bench.run(shown(bench, order()))
    backup.restore()

    assert bench.run(shown(bench, order())).finished == State.DONE

    assert one_record(bench).total.amount == Decimal("10.00")
    assert bench.erp.sends() == ["create", "update/1"]
    assert bench.states() == [("create", "applied"), ("update", "applied")]


def test_given_a_sync_that_was_pending_at_the_backup_when_it_runs_again_then_one_order_exists(
    bench: Bench,
) -> None:
    sync_id = shown(bench, order())
    backup = Backup(bench.ledger)
    bench.run(sync_id)
    backup.restore()

    assert bench.run(sync_id).finished == State.DONE

    assert one_record(bench).remote_id == "SO1"


@pytest.mark.parametrize("effect", [True, False])
def test_given_a_step_in_doubt_at_the_backup_when_it_was_settled_since_then_its_bytes_are_not_trusted(
    bench: Bench, effect: bool
) -> None:
    sync_id = shown(bench, order())
    kill_during_send(bench, sync_id, effect=effect)
    backup = Backup(bench.ledger)
    bench.settle_now()
    shown(bench, order(quantity=4, minute=1))
    bench.run(sync_id)
    backup.restore()

    assert bench.run(shown(bench, order(minute=2))).finished == State.DONE

    assert one_record(bench).total.amount == Decimal("10.00")


def test_given_a_step_that_was_refused_since_when_other_bytes_went_out_under_its_key_then_they_are_found_out(
    bench: Bench,
) -> None:
    sync_id = shown(bench, order())
    kill_during_send(bench, sync_id, effect=False)
    backup = Backup(bench.ledger)
    bench.settle_now()
    bench.erp.script = fail(errors.Rejected("no"), times=2)
    bench.fails(sync_id, errors.Rejected)
    bench.erp.script = lambda _moment, _request: None
    bench.run(shown(bench, order(quantity=4, minute=1)))
    backup.restore()

    assert bench.run(shown(bench, order(minute=2))).finished == State.DONE

    assert one_record(bench).total.amount == Decimal("10.00")


def test_given_all_kinds_of_steps_after_the_backup_when_an_old_webhook_comes_then_none_is_repeated(
    bench: Bench,
) -> None:
    sync_id = shown(bench, order())
    bench.run(sync_id)
    backup = Backup(bench.ledger)
    for quantity, minute, cancelled in ((2, 1, False), (3, 2, False), (3, 3, True)):
        newest = moved(order(quantity=quantity, minute=minute, cancelled=cancelled), refunds=(refund(),))
        bench.run(shown(bench, newest))
    sent = bench.erp.sends()
    backup.restore()

    bench.deliver(order(quantity=2, minute=1))
    assert bench.run(sync_id).finished == State.DONE

    record = one_record(bench)
    assert sent == bench.erp.sends() == ["create", "update/1", "credit/88", "update/2", "cancel"]
    assert (record.total.amount, record.cancelled, len(record.credits)) == (Decimal("30.00"), True, 1)


def test_given_what_a_person_undid_after_the_backup_when_it_is_due_once_more_then_its_key_is_a_new_one(
    bench: Bench,
) -> None:
    def at(minute: int, *, cancelled: bool, amount: str) -> None:
        again = moved(order(minute=minute, cancelled=cancelled), refunds=(refund(amount=amount),))
        bench.run(shown(bench, again))

    bench.run(shown(bench, order()))
    backup = Backup(bench.ledger)
    record = bench.erp.records["SO1"]
    at(1, cancelled=True, amount="4.00")
    record.cancelled = False
    record.credits.clear()
    at(2, cancelled=False, amount="5.00")
    at(3, cancelled=True, amount="5.00")
    before = ["create", "credit/88", "cancel", "credit.2/88", "cancel.2"]
    assert bench.erp.sends() == before
    backup.restore()

    at(3, cancelled=True, amount="5.00")
    assert bench.erp.sends() == before
    record.cancelled = False
    record.credits.clear()
    at(4, cancelled=False, amount="6.00")
    at(5, cancelled=True, amount="6.00")

    assert bench.erp.sends() == [*before, "credit.3/88", "cancel.3"]
    assert one_record(bench).cancelled


def test_given_an_update_after_the_backup_when_another_comes_then_it_has_a_key_of_its_own(bench: Bench) -> None:
    sync_id = shown(bench, order())
    bench.run(sync_id)
    backup = Backup(bench.ledger)
    bench.run(shown(bench, order(quantity=2, minute=1)))
    backup.restore()

    bench.run(shown(bench, order(quantity=5, minute=2)))

    assert one_record(bench).total.amount == Decimal("50.00")
    assert bench.erp.sends() == ["create", "update/1", "update/2"]
    assert sync_row(bench.ledger, sync_id).reason == "updated"


def test_given_an_order_deleted_since_when_its_webhook_comes_again_then_what_was_made_is_cancelled(
    bench: Bench,
) -> None:
    backup = Backup(bench.ledger)
    bench.run(shown(bench, order()))
    backup.restore()
    bench.shop.deleted.add("1001")

    bench.run(bench.deliver(order()))

    assert one_record(bench).cancelled
    assert bench.erp.sends() == ["create", "cancel"]


def test_given_two_or_a_foreign_record_when_looked_up_then_a_person_decides(bench: Bench) -> None:
    backup = Backup(bench.ledger)
    bench.run(shown(bench, order()))
    backup.restore()
    sync_id = shown(bench, order())
    record = bench.erp.records["SO1"]
    keys = record.keys.copy()
    record.keys.clear()
    bench.fails(sync_id, errors.Conflict, "not made by us")
    record.keys.extend(keys)
    bench.erp.records["SO2"] = record.__class__("SO2", record.reference, record.body, [])
    bench.fails(sync_id, errors.Conflict, "SO1 and SO2")

    assert bench.erp.sends() == ["create"]


def test_given_a_settle_time_when_an_order_runs_before_its_end_then_it_waits_and_then_looks_once(
    bench: Bench,
) -> None:
    bench.erp.settle = 60.0
    backup = Backup(bench.ledger)
    bench.run(shown(bench, order()))
    backup.restore()
    sync_id = shown(bench, order())

    waiting = bench.fails(sync_id, errors.Settling)
    assert "restored" in waiting.message
    assert [what for what, _ in bench.erp.calls] == ["send"]
    pass_seconds(bench.ledger, 60)
    bench.run(sync_id)
    bench.run(shown(bench, order(quantity=2, minute=1)))

    assert [what for what, _ in bench.erp.calls] == ["send", "look", "send", "send"]
    assert one_record(bench).total.amount == Decimal("20.00")
    assert bench.shop.fetched == ["1001", "1001"]


def test_s5_given_a_shut_gate_when_what_was_forgotten_is_looked_up_then_the_system_is_not_asked(
    bench: Bench,
) -> None:
    Backup(bench.ledger).restore()
    with bench.claimed(shown(bench, order())) as run:
        with bench.ledger.write() as connection:
            gate.pause(connection, [bench.world.gate_id])
        with pytest.raises(errors.GateShut):
            bench.converge(run)
    assert bench.erp.calls == []


def test_given_an_order_placed_after_the_restore_when_it_runs_then_it_is_not_looked_up(bench: Bench) -> None:
    bench.erp.settle = 60.0
    Backup(bench.ledger).restore()
    placed_at = datetime.now(UTC) + timedelta(days=2)

    bench.run(shown(bench, moved(order(), placed_at=placed_at, updated_at=placed_at)))

    assert bench.erp.calls == [("send", "acme/main/web/order/1001/create")]
    assert bench.shop.fetched == []


def test_given_done_syncs_when_told_then_those_that_changed_since_run_again_behind_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrator.ledger.restore.BATCH", 1)
    ids = [shown(bench, order(str(number))) for number in range(4)]
    for sync_id in ids[:3]:
        bench.run(sync_id)
    with bench.ledger.write() as connection:
        connection.execute(update(syncs).where(syncs.c.id == ids[0]).values(changed_at=after(-10_000)))
        connection.execute(delete(deliveries).where(deliveries.c.sync_id == ids[1]))
    since = datetime.now(UTC) - timedelta(hours=1)

    assert restored(bench.ledger, since) == Restored(gates=1, syncs=1)
    assert restored(bench.ledger, since) == Restored(gates=1, syncs=0)

    rows = [sync_row(bench.ledger, sync_id) for sync_id in ids]
    assert [row.state for row in rows] == [State.DONE, State.DONE, State.PENDING, State.PENDING]
    assert (rows[2].priority, rows[3].priority) == (Priority.BACKFILL, Priority.LIVE)
    bench.run(ids[2])
    assert bench.erp.sends() == ["create"] * 3
    assert bench.clean()


def test_given_a_run_from_before_the_restore_when_it_wakes_up_and_finishes_then_the_restore_is_in_doubt_still(
    bench: Bench,
) -> None:
    sync_id = shown(bench, order())
    with bench.claimed(sync_id) as run:
        with bench.ledger.write() as connection:
            connection.execute(update(syncs).values(lease_until=after(-1)))
        restored(bench.ledger, LONG_AGO)
        bench.converge(run)
    assert run.finished == State.DONE
    bench.deliver(order(minute=1))
    with bench.claimed(sync_id) as later:
        assert later.assignment.restored_at is not None


def test_given_a_time_to_come_or_a_lease_when_told_then_it_refuses_and_marks_nothing(bench: Bench) -> None:
    with pytest.raises(NotRestored, match="yet to come"):
        restored(bench.ledger, datetime.now(UTC) + timedelta(hours=1))
    with bench.claimed(bench.deliver(order())), pytest.raises(NotRestored, match="Stop the receivers"):
        restored(bench.ledger, LONG_AGO)

    with bench.ledger.read() as connection:
        assert connection.execute(select(gates.c.restored_at)).scalar_one() is None


class RealBench(Bench):
    """The bench with the sandbox management system, a process of its own."""

    system: Sandbox

    def converge(self, run: Run) -> None:
        http = Http(self.system.url, guard=run.lease.guard)
        config = {"url": self.system.url, "idempotency": "lookup", "settle_seconds": 0}
        shop = ShopSide(self.shop, ShopAccess({}, {}, Http("http://memory.invalid")))
        converge(run, shop, ErpSide(RestErp(), ErpAccess(config, {"token": "made-up"}, http)))


@pytest.fixture
def real(ledger: Ledger, tmp_path: Path) -> Iterator[RealBench]:
    made = RealBench(ledger, make_tenant(ledger))
    made.system = Sandbox(tmp_path / "erp.sqlite3")
    yield made
    made.system.stop()


def test_given_a_system_that_forgets_keys_when_the_command_was_run_then_the_redelivered_order_exists_once(
    real: RealBench,
) -> None:
    real.system.control(forget_keys=True)
    backup = Backup(real.ledger)
    made = moved(order(quantity=2), refunds=(refund(),))
    real.run(shown(real, made))
    backup.restore()
    with real.ledger.write() as connection:
        connection.execute(update(gates).values(restored_at=None))

    group = FlaskGroup(create_app=lambda: create_app(Settings(), ledger=real.ledger), load_dotenv=False)
    told = CliRunner().invoke(group, ["ledger", "restored", "--since", "2026-03-01T12:00:00Z"])
    real.run(shown(real, made))

    assert told.exit_code == 0, told.output
    assert told.output.startswith("1 management systems: every order is looked up there")
    (stored,) = real.system.stored("web/1001")
    assert len(stored["credits"]) == 1
    assert real.states() == [("create", "applied"), ("credit", "applied"), ("update", "applied")]
    assert real.clean()


@pytest.mark.parametrize("since", ["yesterday", "2026-03-01T12:00:00"])
def test_given_no_time_with_a_zone_when_the_command_is_run_then_it_says_how(
    sqlite_ledger: Ledger, since: str
) -> None:
    group = FlaskGroup(create_app=lambda: create_app(Settings(), ledger=sqlite_ledger), load_dotenv=False)
    told = CliRunner().invoke(group, ["ledger", "restored", "--since", since])

    assert told.exit_code == 2
    assert "2026-03-01T12:00:00Z" in told.output
