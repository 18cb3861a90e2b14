"""Parts of a running system go away and come back while shops send: nothing is lost, doubled or restarted.

The short form: one system, its faults one after the other, and a worker that stands still meanwhile. `make faults`
is the long one, with each fault on a system of its own. The seed is printed first; FAULTS_SEED sets it.
"""

import os
import random
import time
from contextlib import ExitStack
from typing import Any

import pytest

from sandbox.postgres import NoPostgres
from tests.e2e.faults.campaign import DONE_SECONDS, Outcome, full_rate, strike, struck
from tests.e2e.faults.rig import Rig
from tests.e2e.faults.scenarios import BY_NAME

ORDERS = 400
"""Of each shop: more than are sent."""

STANDS_STILL = "worker-stopped"
MEANWHILE = (
    "sqs-stopped",
    "sqs-throttling",
    "sqs-slow",
    "redis-stopped",
    "redis-hanging",
    "two-schedulers",
    "database-restarted",
    "commits-hanging",
    "disk-full",
    "database-failing-over",
)
RESTART = "rolling-restart"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Outcome]:
    """What was seen while parts went away, and while all were replaced; that with what became of all orders."""
    seed = int(os.environ.get("FAULTS_SEED") or time.time()) % 2**31
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\nFAULTS_SEED={seed}", flush=True)
    try:
        with Rig(tmp_path_factory.mktemp("faults"), seed=seed, orders=ORDERS) as rig:
            return run(rig, random.Random(seed))
    except NoPostgres as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def run(rig: Rig, dice: random.Random) -> dict[str, Outcome]:
    stopped = BY_NAME[STANDS_STILL]
    still = Outcome(stopped.name)
    with ExitStack() as stack:
        with rig.load():  # it stands still with work in its hands
            stack.enter_context(struck(rig, stopped, stopped.seconds[0], still))
        away = strike(rig, [BY_NAME[name] for name in dice.sample(MEANWHILE, len(MEANWHILE))], dice)
    away.unfelt += still.unfelt
    away.not_seen_after += still.not_seen_after
    away.rate_after = full_rate(rig, 5)
    replaced = strike(rig, [BY_NAME[RESTART]], dice)
    replaced.rate_after = full_rate(rig, 5)
    replaced.settled = rig.wait_done(rig.shops.orders(), DONE_SECONDS)
    replaced.found = rig.judge()
    return {"away": away, "replaced": replaced}


@pytest.mark.timeout(600)
def test_given_each_part_goes_away_under_load_when_it_is_back_then_the_same_processes_do_all_the_work(
    seen: dict[str, Outcome],
) -> None:
    assert seen["away"].wrong() == []


@pytest.mark.timeout(600)
def test_given_load_when_every_part_is_replaced_then_no_request_fails(seen: dict[str, Outcome]) -> None:
    assert seen["replaced"].failures == {}


@pytest.mark.timeout(600)
def test_given_all_faults_are_over_when_shops_and_systems_are_compared_then_each_order_is_there_once(
    seen: dict[str, Outcome],
) -> None:
    assert seen["replaced"].wrong() == []
