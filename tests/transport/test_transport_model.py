"""The transport under any order of work, faults and crashes: SQS is slow, repeats, reorders and refuses."""

import os
import time
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from benchmarks.transport_worker import BATCHING
from tests.transport.consumer import Consumer, Given
from tests.transport.endpoint import Served, served

EXAMPLES = int(os.environ.get("TRANSPORT_EXAMPLES", "8"))
STEPS = int(os.environ.get("TRANSPORT_STEPS", "25"))
QUEUES = tuple(os.environ.get("TRANSPORT_QUEUES", "abc"))
VISIBILITY_SECONDS = 30
PREFETCH = 8
CALM = {"throttling": 0.0, "entry_failures": 0.0, "duplicates": 0.0, "reordering": False, "unavailable": False}
SLOW = {"latency_ms": 8, "latency_p99_ms": 40}
_numbers = count(1)


class Machine(RuleBasedStateMachine):
    """One consumer of three queues at a time, and what SQS may do to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.served: Served = self.stack.enter_context(served(*QUEUES, visibility=VISIBILITY_SECONDS))
        self.served.fault(**SLOW)
        self.sent: set[str] = set()
        self.ran: set[str] = set()
        self.consumer = self.new_consumer()

    def new_consumer(self) -> Consumer:
        return Consumer(self.served, Given(BATCHING, self.served.url, QUEUES, PREFETCH, next(_numbers)))

    # What happens

    @rule(queue=st.sampled_from(QUEUES), amount=st.integers(1, 15))
    def send(self, queue: str, amount: int) -> None:
        names = [f"{queue}{len(self.sent) + number}" for number in range(amount)]
        self.sent.update(names)
        self.served.send(queue, names)
        self.consumer.hear(0.1)

    @rule(what=st.sampled_from(["ack", "ack", "ack", "reject", "requeue"]), share=st.sampled_from([0.3, 0.7, 1.0]))
    def settle(self, what: str, share: float) -> None:
        self.consumer.hear()
        tags = list(self.consumer.held)
        tags = tags[: round(share * len(tags))]
        if what != "requeue":
            self.ran.update(self.consumer.held[tag].name for tag in tags)
        self.consumer.settle(what, tags)
        self.consumer.hear(0.1)

    @rule(
        fault=st.sampled_from(
            [
                {"throttling": 0.3},
                {"entry_failures": 0.5},
                {"duplicates": 0.3},
                {"reordering": True},
                {"unavailable": "503"},
            ]
        )
    )
    def begin_fault(self, fault: dict[str, Any]) -> None:
        self.served.fault(**fault)

    @rule()
    def end_faults(self) -> None:
        self.served.fault(**CALM)

    @rule()
    def cut_connections(self) -> None:
        self.served.cut()

    @rule()
    def kill(self) -> None:
        self.consumer.hear()
        self.consumer.kill()
        assert self.served.hidden_for() <= VISIBILITY_SECONDS
        self.served.fault(unavailable=False, throttling=0)
        self.consumer = self.new_consumer()

    @rule()
    def stop(self) -> None:
        """What it holds goes back, or shows itself within the visibility timeout."""
        self.consumer.close()
        assert self.consumer.process.exitcode == 0
        self.served.fault(unavailable=False, throttling=0)
        self.consumer = self.new_consumer()

    @rule()
    def let_visibility_end(self) -> None:
        self.served.pass_time(VISIBILITY_SECONDS)
        self.consumer.hear(0.1)

    # What is promised

    @invariant()
    def nothing_is_deleted_before_its_task_ended(self) -> None:
        assert self.served.watched.deleted_early == []

    @invariant()
    def no_more_is_held_and_asked_for_than_prefetch_allows(self) -> None:
        assert max((one.most for one in self.served.watched.connections.values()), default=0) <= PREFETCH

    @invariant()
    def nothing_is_hidden_for_longer_than_the_visibility_timeout(self) -> None:
        assert self.served.hidden_for() <= VISIBILITY_SECONDS + 0.1

    def teardown(self) -> None:
        try:
            self.drain()
            self.consumer.close()
            assert self.served.messages() == {"visible": set(), "hidden": set()}
            assert self.ran >= self.sent
            assert self.served.watched.deleted_early == []
        finally:
            self.consumer.kill()
            self.stack.close()

    def drain(self) -> None:
        """Faults end, and every task does: within two visibility timeouts nothing is left."""
        self.served.fault(**CALM)
        give_up = time.monotonic() + 30
        for turn in count(1):
            quiet = 0
            while quiet < 3:
                self.consumer.hear(0.1)
                self.ran.update(one.name for one in self.consumer.held.values())
                quiet = 0 if self.consumer.held else quiet + 1
                self.consumer.settle("ack", list(self.consumer.held))
            left = self.served.messages()
            if not left["visible"] and not left["hidden"]:
                return
            assert time.monotonic() < give_up, left
            if not left["visible"] and turn > 5:
                assert turn < 60, left
            self.served.pass_time(VISIBILITY_SECONDS)


@pytest.mark.timeout(120 + 15 * EXAMPLES)
def test_given_any_work_and_faults_when_a_consumer_lives_and_dies_then_each_message_runs_and_none_too_early() -> (
    None
):
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize="TRANSPORT_EXAMPLES" not in os.environ,
            deadline=None,
            print_blob=True,
            phases=[phase for phase in Phase if phase is not Phase.shrink or "TRANSPORT_SHRINK" in os.environ],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
