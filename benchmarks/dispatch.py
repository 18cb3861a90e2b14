"""What one dispatch costs, whatever waits behind shut gates (PROTOCOL P4).

    python -m benchmarks.dispatch [--tenants 10000] [--open 10] [--calls 50] [--short]

fills a PostgreSQL of its own with tenants whose gates are shut, each for one of the five causes, and with orders
that wait behind them: 1,000 and then 1,000,000. A few more gates are open, with three due orders each, and one of
those has a breaker that is half open. It measures the scheduler's call, which asks for all gates, and a worker's
after a run, which asks for one; each time the bells are taken back. The last line is one JSON object:
`ms_per_call` and `ms_per_gate`, medians by how many orders waited; `bells` that a call rang; and `rows_read` of
the table of syncs in one call, which must not grow with what waits. `--short` fills less, for its counts only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, text

from integrator.dispatch import QUEUES, Dispatcher, due_gates, mark
from integrator.ledger.engine import Ledger
from integrator.ledger.migrate import upgrade
from integrator.ledger.records import Rung
from integrator.ledger.schema import CAUSES
from integrator.ledger.transitions import put_back
from sandbox.postgres import postgres

DUE = 3
"""Orders of each open gate: fewer than its window of 8."""

_NEVER = ", ".join("'epoch'" for _ in CAUSES)
_FILL = f"""
INSERT INTO tenants (slug, name, active, tolerance)
SELECT 't' || n, '', true, '0' FROM generate_series(1, :tenants) n;
INSERT INTO erps (tenant_id, slug, kind, config, secrets) SELECT id, 'main', 'rest', '{{}}', '' FROM tenants;
INSERT INTO gates (tenant_id, erp_id, window_cap, breaker_state, credentials_version, {", ".join(CAUSES)})
SELECT tenant_id, id, 8, 'closed', 1, {_NEVER} FROM erps;
INSERT INTO shops (tenant_id, gate_id, slug, platform, key_hash, config, secrets, active)
SELECT tenant_id, id, 'web', 'shopify', md5(id::text), '{{}}', '', true FROM gates
"""
_SYNCS = (
    "INSERT INTO syncs (gate_id, shop_id, kind, external_id, correlation_id, priority, state, due_at, wanted,"
    " applied, claims, attempts, vanished, throttled, accepted_at, changed_at)"
    " SELECT g, g, 'order', :name || n, 'c', 10 * (n % 4), 'pending', now() - interval '1 hour', 1, 0, 0, 0, 0, 0,"
    " now(), now() FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n,"
    " LATERAL (SELECT :gate + n % CAST(:gates AS int)) AS x(g)"
)


def fill(ledger: Ledger, tenants: int, opened: int) -> None:
    """Make the tenants; the last `opened` have open gates with due orders, the last of all is on trial."""
    shut = tenants - opened
    with ledger.write() as connection:
        for statement in _FILL.split(";"):
            given = {"tenants": tenants} if ":tenants" in statement else {}
            connection.execute(text(statement), given)
        for number, cause in enumerate(CAUSES):
            where = f"id <= {shut} AND id % {len(CAUSES)} = {number}"
            connection.execute(text(f"UPDATE gates SET {cause} = now() + interval '1 day' WHERE {where}"))
        connection.execute(text(f"UPDATE gates SET breaker_state = 'half_open' WHERE id = {tenants}"))
        due = {"name": "due-", "first": 1, "last": DUE * opened, "gate": shut + 1, "gates": opened}
        connection.execute(text(_SYNCS), due)


def let_wait(ledger: Ledger, first: int, last: int, shut: int) -> None:
    """Keep orders behind the shut gates, in turn, numbered from and to."""
    with ledger.write() as connection:
        connection.execute(text("SET LOCAL statement_timeout = '10min'"))
        given = {"name": "waits-", "first": first, "last": last, "gate": 1, "gates": shut}
        connection.execute(text(_SYNCS), given)
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = '10min'"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))


class Bells:
    """The queue's end: keeps what was rung, so that it can be taken back."""

    def __init__(self) -> None:
        self.rung: list[Rung] = []

    def __call__(self, rung: list[Rung]) -> list[Rung]:
        """Take them all."""
        self.rung += rung
        return []


def timed(ledger: Ledger, calls: int, bells: Bells, dispatch: Callable[[], int]) -> tuple[list[float], int]:
    """Milliseconds of each call, and the bells that each rang. Raises SystemExit if they differ."""
    times, counts = [], set()
    for _ in range(calls):
        began = time.perf_counter()
        counts.add(dispatch())
        times.append(1_000 * (time.perf_counter() - began))
        with ledger.write() as connection:
            put_back(connection, bells.rung)
        bells.rung = []
    if len(counts) != 1:
        raise SystemExit(f"Calls over the same orders rang {sorted(counts)} bells.")
    return times, counts.pop()


def rows_read(connection: Connection) -> int:
    """How many rows of `syncs` one call reads, of its heap, as the server counts them. Nothing of it is kept."""
    mark(connection, due_gates(connection), kinds=QUEUES)
    counted = text(
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'syncs'"
    )
    read = int(connection.execute(counted).scalar_one())
    connection.rollback()
    return read


def measure(tenants: int, opened: int, waiting: list[int], calls: int) -> dict[str, Any]:
    """Fill a server and measure at each number of waiting orders."""
    found: dict[str, Any] = {"tenants": tenants, "open_gates": opened, "calls": calls}
    with postgres() as url:
        ledger, bells, kept = Ledger(url), Bells(), 0
        upgrade(ledger)
        fill(ledger, tenants, opened)
        dispatcher = Dispatcher(ledger, bells)
        for wanted in waiting:
            let_wait(ledger, kept + 1, wanted, tenants - opened)
            kept = wanted
            with ledger.engine.connect() as connection:
                read = rows_read(connection)
            every, rung = timed(ledger, calls, bells, dispatcher.dispatch)
            one, alone = timed(ledger, calls, bells, lambda: dispatcher.dispatch([tenants - opened + 1]))
            for name, value in (
                ("ms_per_call", round(statistics.median(every), 2)),
                ("ms_slowest_call", round(max(every), 2)),
                ("ms_per_gate", round(statistics.median(one), 2)),
                ("bells", rung),
                ("bells_per_gate", alone),
                ("rows_read", read),
            ):
                found.setdefault(name, {})[str(wanted)] = value
        ledger.close()
    return found


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description="What one dispatch costs.")
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--open", type=int, default=10)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--short", action="store_true", help="Fewer tenants and orders: for the counts only.")
    given = parser.parse_args()
    tenants, waiting, calls = given.tenants, [1_000, 1_000_000], given.calls
    if given.short:
        tenants, waiting, calls = 100, [1_000, 20_000], 2
    print(json.dumps(measure(tenants, given.open, waiting, calls)), flush=True)


if __name__ == "__main__":
    main()
