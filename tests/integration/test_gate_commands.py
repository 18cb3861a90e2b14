"""`celery -A tasks gates list`, and what `syncs show` says of a sync that waits."""

from typing import Any

import orjson
import pytest
from sqlalchemy import select, update

from integrator import gate
from integrator.clock import EPOCH, after
from integrator.ledger import gate_listing, transitions
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import CAUSES, State, gates, syncs
from tasks.commands import show
from tasks.gate_commands import HEADER, list_gates
from tests.integration.test_commands import RunCommand, run
from tests.support import World, deliver, delivery, make_tenant, order

__all__ = ["run"]


def keep(ledger: Ledger, world: World, count: int) -> list[int]:
    kept = deliver(ledger, *(delivery(world, order(str(number))) for number in range(count)))
    return [one.sync_id for one in kept if one.sync_id is not None]


def change(ledger: Ledger, gate_id: int, **values: Any) -> None:
    with ledger.write() as connection:
        connection.execute(update(gates).where(gates.c.id == gate_id).values(**values))


@pytest.fixture
def worlds(ledger: Ledger) -> list[World]:
    """acme is open with work, globex is shut for two causes, initech is paused, umbrella's breaker half open."""
    found = [make_tenant(ledger, slug) for slug in ("acme", "globex", "initech", "umbrella")]
    ids = keep(ledger, found[0], 3)
    keep(ledger, found[1], 2)
    with ledger.write() as connection:
        assert transitions.ring(connection, ids[:1])
        gate.pause(connection, [found[2].gate_id])
    change(ledger, found[1].gate_id, breaker_state="open", breaker_until=after(3_600), quota_until=after(60))
    change(
        ledger, found[3].gate_id, breaker_state="half_open", probe_sync=17, probe_claim=2, probe_until=after(60)
    )
    return found


def listed(run: RunCommand, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(run(list_gates, "--json", *arguments).output)
    return found


def table(run: RunCommand, *arguments: str) -> dict[str, dict[str, str]]:
    """The cells by gate and column. Columns are cut where the header has them."""
    head, *lines, _ = run(list_gates, *arguments).output.splitlines()
    starts = [head.index(name) if number else 0 for number, name in enumerate(HEADER)]
    ends = [*starts[1:], 10_000]
    rows = [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]
    return {row[0]: dict(zip(HEADER, row, strict=True)) for row in rows}


def test_g1_given_gates_when_listed_then_each_cause_in_its_own_column(
    run: RunCommand, ledger: Ledger, worlds: list[World]
) -> None:
    found = table(run)
    acme, globex, initech, umbrella = (found[f"{world.tenant}/main"] for world in worlds)
    assert (acme["open"], acme["until (UTC)"], acme["waiting"], acme["in flight"]) == ("open", "-", "2", "1 of 8")
    assert [acme[name] for name in ("day used", "paused", "retry after", "quota", "credentials", "breaker")] == [
        "0 of 300",
        *["-"] * 4,
        "closed",
    ]
    assert globex["open"] == "shut"
    assert globex["breaker"] == f"open until {globex['until (UTC)']}"
    assert (globex["paused"], globex["credentials"]) == ("-", "-")
    assert globex["quota"] not in {"-", globex["until (UTC)"]}
    assert globex["why"] == "the plan's 10 requests per second are used up; the system is failing"
    assert (initech["until (UTC)"], initech["paused"], initech["why"]) == (
        "resumed",
        "resumed",
        "paused by an operator",
    )
    assert (umbrella["open"], umbrella["breaker"]) == ("open", "half open, tried by sync 17")


def test_given_gates_when_listed_as_json_then_a_field_for_each_cause(run: RunCommand, worlds: list[World]) -> None:
    acme, globex, initech, umbrella = listed(run)
    assert [one["tenant"] for one in (acme, globex, initech, umbrella)] == [world.tenant for world in worlds]
    assert {cause: acme[cause] for cause in CAUSES} == dict.fromkeys(CAUSES)
    assert (acme["open"], acme["opens_at"], acme["waiting"], acme["in_flight"]) == (True, None, 2, 1)
    assert [cause for cause in CAUSES if globex[cause]] == ["quota_until", "breaker_until"]
    assert globex["opens_at"] == globex["breaker_until"]
    assert (globex["breaker"], umbrella["breaker"], umbrella["probe"]) == ("open", "half_open", 17)
    assert acme["day_used"] == [0, 300]


@pytest.mark.parametrize(
    ("arguments", "tenants"),
    [
        (["--shut"], ["globex", "initech"]),
        (["--tenant", "globex"], ["globex"]),
        (["--tenant", "acme", "--shut"], []),
        (["--limit", "2"], ["acme", "globex"]),
        (["--limit", "2", "--after", "2"], ["initech", "umbrella"]),
    ],
)
def test_given_filters_when_listed_then_those(
    run: RunCommand, worlds: list[World], arguments: list[str], tenants: list[str]
) -> None:
    assert [one["tenant"] for one in listed(run, *arguments)] == tenants


def test_given_a_full_page_when_listed_then_how_to_go_on(run: RunCommand, worlds: list[World]) -> None:
    assert "2 listed; --after 2 goes on" in run(list_gates, "--limit", "2").output
    assert run(list_gates, "--limit", "5").output.endswith("4 listed\n")


def test_given_an_unknown_tenant_when_listed_then_refused_with_its_name(
    run: RunCommand, worlds: list[World]
) -> None:
    result = run(list_gates, "--tenant", "hooli")
    assert (result.exit_code, "There is no tenant hooli" in result.output) == (1, True)


def test_given_more_than_the_cap_when_counted_then_the_cap_and_a_plus(
    run: RunCommand, ledger: Ledger, worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_listing, "CAP", 2)
    monkeypatch.setattr("tasks.gate_commands.CAP", 2)
    assert table(run)["acme/main"]["waiting"] == "2+"
    keep(ledger, worlds[3], 4)
    assert table(run)["umbrella/main"]["waiting"] == "2+"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, None),
        (
            {"paused_until": after(9_999_999)},
            "paused by an operator; `celery -A tasks resume acme` opens the gate",
        ),
        ({"breaker_until": after(60), "breaker_state": "open"}, "the system is failing; the gate is shut until 2"),
        ({"credentials_until": after(900)}, "the credentials were refused; the gate is shut until 2"),
        (
            {"breaker_until": after(-1), "breaker_state": "open"},
            "one sync at a time tries whether the system works",
        ),
    ],
)
def test_given_a_sync_that_waits_for_its_gate_when_shown_then_why(
    run: RunCommand, ledger: Ledger, values: dict[str, Any], said: str | None
) -> None:
    world = make_tenant(ledger)
    (sync_id,) = keep(ledger, world, 1)
    if values:
        change(ledger, world.gate_id, **values)
    output = run(show, str(sync_id)).output
    assert ("  waits: " in output) == (said is not None)
    assert said is None or f"  waits: {said}" in output


def test_given_a_sync_that_is_due_later_or_has_ended_when_shown_then_its_time_or_nothing(
    run: RunCommand, ledger: Ledger
) -> None:
    world = make_tenant(ledger)
    (sync_id,) = keep(ledger, world, 1)
    with ledger.write() as connection:
        connection.execute(update(syncs).values(due_at=after(600)))
    assert "  waits: due at 2" in run(show, str(sync_id)).output
    with ledger.write() as connection:
        connection.execute(update(syncs).values(state=State.DONE, applied=1))
        connection.execute(update(gates).values(paused_until=after(600)))
    assert "waits:" not in run(show, str(sync_id)).output
    with ledger.read() as connection:
        assert connection.execute(select(gates.c.breaker_until)).scalar_one() == EPOCH
