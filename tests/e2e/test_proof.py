"""Acknowledged = in the management system, each once, each in the shop's end state, whatever is killed.

The short form runs each database once, with keys remembered on the one and forgotten on the other, both at once,
since most of it is waiting for leases. `PROOF=long` runs all four. The seed is printed first, the counts at the
end. `PROOF_SEED` sets it: the same orders and fates again, as far as `integrator.failpoints` says.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import pytest
from sqlalchemy import create_engine, make_url, text

from integrator.failpoints import NAMES
from tests.e2e.proof import KILLS, MORTAL, Proof, Proven


class Case(NamedTuple):
    """A database, and whether its management systems remember keys."""

    database: str
    keys: bool

    def __str__(self) -> str:
        return f"{self.database}, keys {'remembered' if self.keys else 'forgotten'}"


SHORT = [Case("sqlite", keys=True), Case("postgresql", keys=False)]
LONG = [*SHORT, Case("sqlite", keys=False), Case("postgresql", keys=True)]
CASES = LONG if os.environ.get("PROOF") == "long" else SHORT


@pytest.fixture(scope="module")
def proven(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[Case, Proven]:
    """What each case proved."""
    seed = int(os.environ.get("PROOF_SEED") or time.time()) % 2**31
    say = partial(_say, request.config.pluginmanager.getplugin("capturemanager"))
    say(f"\nPROOF_SEED={seed}")
    proofs = {
        case: Proof(
            tmp_path_factory.mktemp(f"proof-{number}"),
            seed=seed + number,
            keys=case.keys,
            ledger_url=_empty_database(postgres_url, number) if case.database == "postgresql" else None,
        )
        for number, case in enumerate(CASES)
    }
    with ThreadPoolExecutor(len(SHORT)) as pool:
        results = dict(zip(proofs, pool.map(Proof.run, proofs.values()), strict=True))
    for case, one in results.items():
        say(f"proof on {case}: {one.as_json()}")
    return results


def _say(capture: Any, text: str) -> None:
    with capture.global_and_fixture_disabled():
        print(text, flush=True)


def _empty_database(url: str, number: int) -> str:
    name = f"proof_{number}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_given_kills_and_faults_when_the_storm_is_over_then_every_order_is_there_once_as_the_shop_has_it(
    case: Case, proven: dict[Case, Proven]
) -> None:
    one = proven[case]
    assert one.open_syncs == {}
    assert (one.lost, one.duplicated, one.mismatched) == ([], [], [])
    assert one.limbo == []


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_given_the_storm_when_it_is_counted_then_every_failpoint_killed_thrice_and_so_did_chance(
    case: Case, proven: dict[Case, Proven]
) -> None:
    one = proven[case]
    assert set(one.failpoint_kills) == set(NAMES)
    assert [name for name, count in one.failpoint_kills.items() if count < KILLS] == []
    assert sum(one.random_kills.values()) >= 3
    assert set(one.random_kills) <= set(MORTAL)
