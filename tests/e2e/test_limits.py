"""The limiter between processes that die, whose clocks are wrong, and that lose Redis."""

import json
import subprocess
import sys

import pytest

from sandbox.redis import NoRedis, server_program
from sandbox.system_process import ROOT


def test_given_workers_that_die_and_lose_redis_when_the_systems_log_is_judged_then_no_place_came_too_early() -> (
    None
):
    try:
        server_program()
    except NoRedis as error:
        pytest.skip(str(error))
    argv = [sys.executable, "-m", "benchmarks.limits", "--short", "--lose-redis"]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert (found["violations"], found["tenants"]) == (0, 4)
    assert found["calls"] > 20
