"""A worker's view of its leases: never longer than the database's (PROTOCOL C3, T1, S4)."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from integrator import lease as leases
from integrator.errors import LeaseLost, NotStarted
from integrator.lease import Lease, LeaseKeeper
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Claimed

FIRST = Claimed(sync_id=7, gate_id=1, claim=3, wanted=1, attempts=0, throttled=0)
SECOND = Claimed(sync_id=8, gate_id=1, claim=1, wanted=1, attempts=0, throttled=0)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


class NoLedger(Ledger):
    """Transactions of nothing; what is done in them is patched."""

    def __init__(self) -> None:
        super().__init__("sqlite://")
        self.down = False

    @contextmanager
    def write(self, *, lock_timeout_ms: int | None = None) -> Iterator[Connection]:
        if self.down:
            raise OperationalError("UPDATE", None, Exception("down"))
        yield None  # type: ignore[misc]


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """What the ledger will say is still ours."""
    confirmed = {(7, 3), (8, 1)}
    monkeypatch.setattr(leases, "renew", lambda _connection, held: confirmed & set(held))
    return confirmed


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper's thread never renews by itself."""
    monkeypatch.setattr(LeaseKeeper, "_run", lambda _self: None)


@pytest.fixture
def keeper(clock: Clock, ours: set[tuple[int, int]], quiet: None) -> LeaseKeeper:
    return LeaseKeeper(NoLedger(), clock=clock)


def test_given_a_claim_when_its_answer_took_long_then_the_lease_counts_from_the_question(clock: Clock) -> None:
    asked_at = clock()
    clock.at += 12
    assert Lease(FIRST, asked_at, clock=clock).seconds_left == 18


def test_given_no_renewal_when_thirty_seconds_pass_then_nothing_is_left(clock: Clock) -> None:
    lease = Lease(FIRST, clock(), clock=clock)
    seen = []
    for _ in range(5):
        seen.append(lease.seconds_left)
        clock.at += 10
    assert seen == [30, 20, 10, 0, 0]


def test_given_renewals_for_ever_when_ninety_seconds_pass_then_nothing_is_left(clock: Clock) -> None:
    lease = Lease(FIRST, clock(), clock=clock)
    began, most = clock(), []
    for _ in range(12):
        lease.renewed(clock())
        most.append(lease.seconds_left)
        clock.at += 10
    assert most == [30, 30, 30, 30, 30, 30, 30, 20, 10, 0, 0, 0]
    assert clock() - began == 120


@pytest.mark.parametrize(
    ("passed", "total", "starts"), [(0, 15, True), (15, 15, True), (15.1, 15, False), (30, 1, False)]
)
def test_s4_given_a_call_when_it_may_end_after_the_lease_then_it_does_not_start(
    clock: Clock, passed: float, total: float, starts: bool
) -> None:
    lease = Lease(FIRST, clock(), clock=clock)
    clock.at += passed
    if starts:
        lease.guard(total)
    else:
        with pytest.raises(NotStarted, match="claim 3 of sync 7"):
            lease.guard(total)


def test_given_a_lost_lease_when_a_call_would_start_then_lease_lost_even_after_a_renewal(clock: Clock) -> None:
    lease = Lease(FIRST, clock(), clock=clock)
    lease.lose()
    lease.renewed(clock())
    assert lease.seconds_left == 0
    with pytest.raises(LeaseLost, match="claim 3"):
        lease.guard(0)


def test_given_what_the_ledger_confirms_when_renewed_then_that_stands_and_the_rest_is_lost(
    clock: Clock, keeper: LeaseKeeper, ours: set[tuple[int, int]]
) -> None:
    ours.discard((8, 1))
    with keeper.keep(FIRST, clock()) as first, keeper.keep(SECOND, clock()) as second:
        clock.at += 10
        keeper.renew_all()
        assert first.seconds_left == 30
        with pytest.raises(LeaseLost):
            second.guard(1)


def test_t1_given_a_slow_ledger_when_renewed_then_the_lease_counts_from_before_the_question(
    clock: Clock, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_connection: Connection, held: dict[tuple[int, int], Lease]) -> set[tuple[int, int]]:
        clock.at += 9
        return set(held)

    monkeypatch.setattr(leases, "renew", slow)
    with keeper.keep(FIRST, clock()) as lease:
        clock.at += 10
        keeper.renew_all()
        assert lease.seconds_left == 21


def test_given_several_claims_when_renewed_then_by_one_statement(
    clock: Clock, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[tuple[int, int]]] = []

    def renew(_connection: Connection, held: dict[tuple[int, int], Lease]) -> set[tuple[int, int]]:
        asked.append(set(held))
        return set(held)

    monkeypatch.setattr(leases, "renew", renew)
    with keeper.keep(FIRST, clock()), keeper.keep(SECOND, clock()):
        keeper.renew_all()
    keeper.renew_all()
    assert asked == [{(7, 3), (8, 1)}], "and nothing is asked when nothing is held"


def test_given_a_block_that_ended_or_failed_when_asked_then_it_is_not_held_any_more(
    clock: Clock, keeper: LeaseKeeper
) -> None:
    with keeper.keep(FIRST, clock()):
        assert keeper.held() == [(7, 3)]
    with pytest.raises(ZeroDivisionError), keeper.keep(SECOND, clock()):
        raise ZeroDivisionError
    assert keeper.held() == []


def test_given_a_drain_when_calls_would_start_then_only_those_that_end_in_time(
    clock: Clock, keeper: LeaseKeeper
) -> None:
    with keeper.keep(FIRST, clock()) as before:
        assert not keeper.draining
        keeper.drain(10)
        assert keeper.draining
        with keeper.keep(SECOND, clock()) as during:
            for lease in (before, during):
                assert lease.seconds_left == 10
                lease.guard(10)
                with pytest.raises(NotStarted):
                    lease.guard(11)
            keeper.renew_all()
            assert (before.seconds_left, during.seconds_left) == (10, 10), "a renewal does not lengthen it"


def test_given_a_drain_when_asked_a_second_time_then_the_first_counts(clock: Clock, keeper: LeaseKeeper) -> None:
    keeper.drain(10)
    clock.at += 5
    keeper.drain(10)
    with keeper.keep(FIRST, clock()) as lease:
        assert lease.seconds_left == 5


def test_given_a_ledger_that_fails_when_the_thread_renews_then_it_goes_on(
    ours: set[tuple[int, int]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = NoLedger()
    ledger.down = True
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    failed, renewed, tries = threading.Event(), threading.Event(), itertools.count(1)
    keeper = LeaseKeeper(ledger, clock=clock)
    really = keeper.renew_all

    def watched() -> None:
        try:
            really()
        except OperationalError:
            failed.set()
            ledger.down = next(tries) < 2
            raise
        renewed.set()

    monkeypatch.setattr(keeper, "renew_all", watched)
    with keeper.keep(FIRST, clock()) as lease:
        clock.at += 20
        assert failed.wait(10)
        assert renewed.wait(10)
        assert lease.seconds_left == 30
    keeper._wake.set()
