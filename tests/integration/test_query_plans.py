"""The busy queries use their partial indexes, on both databases, whatever waits behind shut gates (P4)."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Select, String, cast, insert, literal, select, update

from integrator.clock import after, now
from integrator.dispatch import QUEUES, Dispatcher, due_gates, mark
from integrator.ledger import leases, transitions
from integrator.ledger.engine import Ledger
from integrator.ledger.gate_listing import gate_listing
from integrator.ledger.schema import Priority, State, gates, syncs
from tests.plans import Plan, analyze, plans
from tests.support import make_tenant

TENANTS = 30
BUSY = range(1, 6)
"""The gates that are open and have work; 6 is open and has 5,000 that are not due, 7 to 30 are shut."""

BEHIND_SHUT_GATES = 20_000


def _count_to(number: int) -> Select[int]:
    counter = select(literal(1).label("n")).cte("counter", recursive=True)
    return select(counter.union_all(select(counter.c.n + 1).where(counter.c.n < number)).c.n)


def add(connection: Connection, gate_id: int, state: State, count: int, **values: Any) -> None:
    """Insert that many syncs of one kind, by one statement."""
    numbers = _count_to(count).subquery()
    fixed: dict[str, Any] = {"gate_id": gate_id, "shop_id": gate_id, "kind": "order", "correlation_id": "c"}
    fixed |= {"priority": 0, "state": state, "wanted": 1, "applied": int(state is State.DONE), "claims": 0}
    fixed |= dict.fromkeys(("attempts", "vanished", "throttled"), 0)
    fixed |= {"due_at": after(-1), "accepted_at": now(), "changed_at": now(), **values}
    shown = {
        name: value if hasattr(value, "compile") else literal(value, syncs.c[name].type)
        for name, value in fixed.items()
    }
    shown["external_id"] = literal(f"{state}-", String()) + cast(numbers.c.n, String())
    connection.execute(insert(syncs).from_select(list(shown), select(*shown.values()).select_from(numbers)))


@pytest.fixture
def busy(ledger: Ledger) -> Ledger:
    for number in range(TENANTS):
        make_tenant(ledger, f"tenant-{number}")
    with ledger.write() as connection:
        for gate_id in range(7, TENANTS + 1):
            add(connection, gate_id, State.PENDING, BEHIND_SHUT_GATES // (TENANTS - 6))
        add(connection, 6, State.RETRYING, 5_000, due_at=after(600))
        for gate_id in BUSY:
            add(connection, gate_id, State.DONE, 1_000)
            add(connection, gate_id, State.PENDING, 3)
            add(connection, gate_id, State.QUEUED, 2, queued_at=now(), lease_until=after(-1))
            add(connection, gate_id, State.RUNNING, 2, claim=1, claimed_at=now(), lease_until=after(-1))
        connection.execute(update(gates).where(gates.c.id > 6).values(paused_until=after(3_600)))
    analyze(ledger)
    return ledger


class Within(Ledger):
    """A ledger whose transactions are within one that is there already."""

    def __init__(self, connection: Connection) -> None:
        super().__init__("sqlite://")
        self.connection = connection

    def write(self, *, lock_timeout_ms: int | None = None) -> Any:
        return self

    def __enter__(self) -> Connection:
        return self.connection

    def __exit__(self, *_: object) -> None: ...


def find_gates(connection: Connection) -> None:
    assert due_gates(connection) == list(BUSY)


def dispatch(connection: Connection) -> None:
    assert len(mark(connection, [1, 2, 3, 6, 7], kinds=QUEUES)) == 9


def claim(connection: Connection) -> None:
    transitions.claim(connection, "tenant-0", 7, worker="w")


def renew(connection: Connection) -> None:
    leases.renew(connection, [(number, 1) for number in range(1, 17)])


def take_over(connection: Connection) -> None:
    assert len(transitions.take_over(connection, 0.5)) == 10


def ring_missing(connection: Connection) -> None:
    assert Dispatcher(Within(connection), lambda _rung: []).ring_missing("order", 0) == 10


def list_gates(connection: Connection) -> None:
    found = gate_listing(connection)
    assert len(found) == TENANTS
    assert {one.waiting for one in found if one.gate_id > 6} == {BEHIND_SHUT_GATES // (TENANTS - 6)}


QUERIES: dict[Callable[[Connection], None], str | None] = {
    find_gates: "ix_syncs_due",
    dispatch: "ix_syncs_(in_flight|lease)",
    take_over: "ix_syncs_lease",
    ring_missing: "ix_syncs_(in_flight|lease)",
    list_gates: "ix_syncs_(due|live)",
    claim: None,
    renew: None,
}
"""The index that each must use at least once; the claim and the renewal go by primary key."""


def wrong(found: list[Plan], index: str | None) -> list[str]:
    """What is wrong with the plans of one query."""
    said = [f"reads the whole table: {plan}" for plan in found if plan.scans("syncs")]
    if index is not None and not any(re.search(index, plan.plan) for plan in found):
        said.append(f"does not use {index}: {found}")
    return said if found else ["no statement was seen"]


def test_p4_given_a_big_backlog_when_a_busy_query_runs_then_by_an_index_and_never_through_the_table(
    busy: Ledger,
) -> None:
    judged = {query.__name__: wrong(plans(busy, query, about="syncs"), index) for query, index in QUERIES.items()}
    slow = {name for name, said in judged.items() if said}
    assert slow == set(), judged


def test_p4_given_work_behind_a_shut_gate_or_not_due_when_gates_are_asked_then_it_is_not_read(
    busy: Ledger,
) -> None:
    """The plan asks the gates first, then each open one's syncs by gate, priority and time."""
    (plan,) = plans(busy, find_gates, about="syncs")
    probe = {
        True: r"SEARCH syncs USING INDEX ix_syncs_due \(gate_id=\? AND priority=\? AND due_at<\?\)",
        False: r"Index Cond: \(\(gate_id = gates\.id\) AND \(priority = '\d+'::smallint\) AND \(due_at <= ",
    }
    assert len(re.findall(probe[busy.on_sqlite], plan.plan)) == len(Priority)
    assert "Join" not in plan.plan
    assert "hashed" not in plan.plan
