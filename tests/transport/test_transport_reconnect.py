"""A Celery worker consumes again by itself whenever its endpoint is back, and stops in order."""

import os
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.transport_worker import BATCHING
from tests.transport.consumer import consuming
from tests.transport.endpoint import served
from tests.transport.worker import AGAIN_SECONDS, FAULTS, VISIBILITY_SECONDS, working
from tests.workers import until

ROUNDS = int(os.environ.get("TRANSPORT_ROUNDS", "10"))
SEED = int(os.environ.get("TRANSPORT_SEED") or time.time()) % 2**31


@pytest.mark.timeout(120 + 10 * ROUNDS)
@pytest.mark.parametrize(("pool", "rounds"), [("threads", ROUNDS), ("prefork", max(ROUNDS // 5, 1))])
def test_given_the_endpoint_goes_and_returns_when_a_worker_listens_then_it_soon_consumes_again(
    tmp_path: Path, pool: str, rounds: int
) -> None:
    dice = random.Random(f"{SEED}:{pool}")
    with working(tmp_path, BATCHING, pool=pool, concurrency=2, acks_late=pool == "prefork") as worker:
        faults = list(FAULTS) * (rounds // len(FAULTS) + 1)
        for number, fault in enumerate(faults[:rounds]):
            took = worker.suffer(fault, dice)
            assert took < AGAIN_SECONDS, (
                f"round {number} ({fault}), TRANSPORT_SEED={SEED}, so far {worker.slowest}"
            )
        worker.served.pass_time(VISIBILITY_SECONDS)  # what ended while its delete could not be sent comes again
        until(lambda: not any(worker.served.messages().values()))
        worker.process.terminate()
        assert worker.process.exit_code == 0
    print(f"the slowest of {rounds} rounds: {worker.slowest}")


def test_given_a_consumer_whose_receives_are_never_answered_when_asked_then_it_shows_no_life() -> None:
    with served("a") as sqs, consuming(sqs, BATCHING, ("a",), prefetch=4, wait_time_seconds=1) as consumer:
        ages = [consumer.do("age")]
        while sum(later < earlier for earlier, later in pairwise(ages)) < 3:
            time.sleep(0.3)
            ages.append(consumer.do("age"))
        consumer.do("lose_receives")
        consumer.until(lambda: not sqs.watched.connections[consumer.key].waiting)
        consumer.do("age")
        time.sleep(0.5)  # for its last answer
        ages = []
        for _ in range(8):
            time.sleep(0.5)
            ages.append(consumer.do("age"))
        assert ages == sorted(ages)
        assert ages[-1] > 3


def test_given_a_long_receive_that_is_never_answered_when_its_time_is_over_then_it_is_consumed_again() -> None:
    with served("a") as sqs, consuming(sqs, BATCHING, ("a",), prefetch=4, wait_time_seconds=1) as consumer:
        waits = sqs.watched.connections[consumer.key].waits
        consumer.until(lambda: 1 in waits.values())
        sqs.fault(unavailable="hang")
        consumer.until(lambda: consumer.losses)
        sqs.fault(unavailable=False)
        sqs.send("a", ["a0"])
        consumer.until(lambda: consumer.deliveries)
