"""The protocol's model test: production code, interleaved and broken at every statement, keeps its promises."""

import os
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import structlog
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import integrator.breaking
import integrator.clock
import integrator.connectors
import integrator.ledger.engine
import integrator.sync.run
import tasks.process
import tasks.queues
import tasks.scheduler
import tasks.sync_task
import web.writer
from integrator.breaker import Thresholds
from integrator.ledger.engine import Ledger
from tests.model.baton import Clock, Fault, Stands
from tests.model.databases import POSTGRESQL_OPTIONS, Database, Postgresql, Sqlite
from tests.model.healing import heal
from tests.model.outside import Does
from tests.model.world import ACTORS, ORDERS, PROCESSES, TENANTS, World

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "30"))
STEPS = int(os.environ.get("MODEL_STEPS", "30"))
PHASES = [phase for phase in Phase if phase is not Phase.shrink or "MODEL_NO_SHRINK" not in os.environ]

orders = st.sampled_from(ORDERS)
tenants = st.sampled_from(TENANTS)
runners = st.sampled_from(("worker 1", "worker 2") * 4 + tuple(ACTORS))
workers = st.sampled_from([name for name in PROCESSES if name.startswith("worker")])
schedules = st.binary(min_size=4, max_size=40)
happens = st.sampled_from(
    [
        "nothing",
        "newer delivery",
        "cancelled",
        "pause",
        "kill",
        "stop",
        "cut",
        "lose an answer",
        "lock timeout",
    ]
)
TROUBLE = (
    "pause",
    "resume",
    "lose a message",
    "repeat a message",
    "turn the queue",
    "break or mend the queue",
    "lose the queue's answer",
    "late effect",
    "failing look",
    "failing fetch",
    "revoke",
    "store credentials",
    "requeue",
    "terminate a worker",
    "system down",
)
PLACES = (
    "the first byte",
    "the answer",
    "COMMIT",
    "found",
    "looks",
    "got order",
    "rings",
    "UPDATE syncs",
    "waits",
)


class Protocol(RuleBasedStateMachine):
    """What may happen. Every rule's simplest form is the one that breaks least, so that failures shrink well."""

    database: ClassVar[Database]
    by_key: ClassVar[bool]
    stage: ClassVar["Stage"]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.database, self.by_key)
        self.stage.world = self.world

    def teardown(self) -> None:
        note(str(self.world.baton.actors))
        try:
            heal(self.world)
            self.stage.seen.update(self.world.checks.tell())
        finally:
            self.world.close()

    @initialize(
        window=st.sampled_from([1, 2]),
        arrived=st.lists(orders, min_size=1, max_size=len(ORDERS), unique=True),
        until=st.sampled_from(["sent", "kept", "done"]),
        failures=st.sampled_from([5, 1]),
    )
    def begin(self, window: int, arrived: list[tuple[str, str]], until: str, failures: int) -> None:
        """Orders come in, and perhaps are kept or done before anything else happens."""
        self.world.open(window)
        self.world.thresholds = Thresholds(failures)
        for which in map(self.world.live, arrived):
            self.world.change(which, 1, 1, False)
            self.world.send(self.world.announce(which, timed=True, event=True))
        if until == "kept":
            self.world.finish("receiver")
        if until == "done":
            for _ in range(4):
                self.world.work()

    @rule(
        slot=orders,
        minutes=st.sampled_from([1, 0]),
        quantity=st.sampled_from([1, 0, 2]),
        cancelled=st.sampled_from([False, False, True]),
        refunded=st.booleans(),
        timed=st.sampled_from([True, True, False]),
        event=st.booleans(),
        sent=st.sampled_from(["kept and rung", "kept", "sent", "not yet"]),
    )
    def order_changes(
        self,
        slot: Any,
        minutes: int,
        quantity: int,
        cancelled: bool,
        refunded: bool,
        timed: bool,
        event: bool,
        sent: str,
    ) -> None:
        which = self.world.live(slot)
        self.world.change(which, minutes, quantity, cancelled, refunded=refunded)
        webhook = self.world.announce(which, timed=timed, event=event)
        if sent != "not yet":
            self.world.send(webhook)
        if sent.startswith("kept"):
            self.world.finish("receiver")
        if sent == "kept and rung":
            self.world.finish("web bell")

    @precondition(lambda self: self.world.webhooks)
    @rule(number=st.integers(0, 9))
    def webhook_comes(self, number: int) -> None:
        """An old one, late or once more."""
        self.world.send(self.world.webhooks[number % len(self.world.webhooks)])

    @rule(slot=orders, schedule=schedules, then=happens)
    def interleave(self, slot: Any, schedule: bytes, then: str) -> None:
        """Each byte is a move: whose, and how far. Then something may happen to whoever moved last."""
        self.world.rouse(slot)
        name = "scheduler"
        for byte in schedule:
            names = self.world.movable()
            name = names[byte % len(names)]
            self.world.move(name, 1 + byte // 32)
        self.happens(name, then)

    @rule(
        slot=orders,
        name=runners,
        place=st.one_of(st.integers(1, 45), st.sampled_from(PLACES)),
        then=happens,
        seconds=st.sampled_from([0, 0, 11, 31]),
        meanwhile=st.integers(0, 2),
    )
    def run_to(self, slot: Any, name: str, place: int | str, then: str, seconds: int, meanwhile: int) -> None:
        """Let a worker, or whoever, get to where it hurts; there something happens, and meanwhile others work."""
        self.world.rouse(slot)
        if isinstance(place, int):
            self.world.move(name, place)
        else:
            self.world.run_to(name, place)
        self.happens(name, then)
        self.world.pass_time(seconds)
        for _ in range(meanwhile):
            self.world.work(without=ACTORS[name])

    @rule(slot=orders, name=workers, place=st.sampled_from(PLACES[:3]), meanwhile=st.integers(0, 2))
    def stand_still(self, slot: Any, name: str, place: str, meanwhile: int) -> None:
        """A worker's process is stopped in the middle of a step, for longer than its lease, and others work."""
        self.world.rouse(slot)
        self.world.run_to(name, place)
        self.world.stopped.add(name)
        self.world.pass_time(31)
        for _ in range(meanwhile):
            self.world.work(without=name)

    def happens(self, name: str, what: str) -> None:
        """Something happens to an actor, or to the order that it is working on."""
        world, actor, process = self.world, self.world.actors[name], ACTORS[name]
        orders = world.working_on(actor)
        match what:
            case "kill":
                world.kill(process)
            case "stop":
                world.stopped.add(process)
            case "cut" | "lose an answer" if actor.stands is Stands.PARKED:
                actor.fault = Fault.CUT if what == "cut" else Fault.ANSWER_LOST
            case "lock timeout":
                world.time_out(actor)
            case "newer delivery" | "cancelled" if orders:
                world.deliver(orders[0], cancelled=what == "cancelled")
            case "pause" if orders:
                world.operate(lambda: world.pause(orders[0][0]))
                world.finish("operator")

    @rule()
    def work(self) -> None:
        self.world.work()

    @rule(seconds=st.sampled_from([1, 5, 11, 16, 31, 61, 200, 901]))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.world.stopped)
    @rule(process=st.sampled_from(PROCESSES))
    def goes_on(self, process: str) -> None:
        """A process that was stopped does not know it."""
        self.world.stopped.discard(process)

    @rule(tenant=tenants, does=st.sampled_from(Does))
    def system_will(self, tenant: str, does: Does) -> None:
        self.world.systems[tenant].script.append(does)

    @rule(tenant=tenants, process=workers, what=st.sampled_from(TROUBLE))
    def trouble(  # noqa: C901, PLR0912 - one trouble a case
        self, tenant: str, process: str, what: str
    ) -> None:
        world, broker, system = self.world, self.world.broker, self.world.systems[tenant]
        match what:
            case "terminate a worker":
                world.terminate(process)
            case "system down":
                system.script.extend([Does.REFUSES_CONNECTION] * 3)
            case "late effect" if system.pending:
                system.do_pending(0)
            case "failing look":
                system.failing_looks += 1
            case "failing fetch":
                world.shop.failing_fetches += 1
            case "revoke":
                world.revoke(tenant)
            case "lose a message":
                broker.messages[:1] = []
            case "repeat a message":
                broker.messages += broker.messages[:1]
            case "turn the queue":
                broker.messages.reverse()
            case "break or mend the queue":
                broker.down = not broker.down
            case "lose the queue's answer":
                broker.answers_lost += 1
            case "pause":
                world.operate(lambda: world.pause(tenant))
            case "resume":
                world.operate(lambda: world.resume(tenant))
            case "store credentials":
                world.operate(world.store_credentials)
            case "requeue":
                world.operate(world.requeue_held)


class Stage:
    """Where the production code meets the model's stand-ins: for the clock, the connectors, the queue's depth."""

    world: World

    def __init__(self) -> None:
        self.seen = Counter[str]()

    def set_up(self, patch: pytest.MonkeyPatch) -> None:
        def now(_clock: int) -> float:
            return self.world.clock.boot

        time = types.SimpleNamespace(
            clock_gettime=now,
            CLOCK_BOOTTIME=7,
            sleep=self._sleep,
            monotonic=lambda: self.world.clock.boot,
        )
        for module in (integrator.clock, integrator.sync.run, tasks.sync_task, web.writer):
            patch.setattr(module, "time", time)
        patch.setattr(integrator.ledger.engine, "_POSTGRESQL_OPTIONS", POSTGRESQL_OPTIONS)
        patch.setattr(integrator.connectors, "erp", lambda _kind: self.world.erp)
        patch.setattr(integrator.connectors, "shop", lambda _platform: self.world.shop)
        patch.setattr(tasks.queues, "depth", self._depth)
        patch.setattr(tasks.sync_task, "process", self._process)
        patch.setattr(integrator.breaking, "thresholds", lambda: self.world.thresholds)

    # The world is another one in each example, so it is looked up when it is needed.

    def _sleep(self, seconds: float) -> None:
        self.world.sleep(seconds)

    def _depth(self, queue: tasks.queues.Queue) -> int:
        return self.world.broker.depth(queue)

    def _process(self) -> tasks.process.Process:
        return self.world.process()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage()
    stage.set_up(monkeypatch)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield stage
    structlog.reset_defaults()


def played(ledger: Ledger) -> Database:
    """The test's ledger as the model's database."""
    url = ledger.url.render_as_string(hide_password=False)
    ledger.close()
    return (Sqlite if ledger.on_sqlite else Postgresql)(url, Clock())


@pytest.mark.timeout(0)
@pytest.mark.parametrize("by_key", [True, False], ids=["with keys", "without keys"])
def test_given_any_interleaving_and_faults_when_healed_then_the_protocol_has_kept_its_promises(
    ledger: Ledger, stage: Stage, by_key: bool
) -> None:
    database = played(ledger)
    machine = type("Protocol", (Protocol,), {"database": database, "by_key": by_key, "stage": stage})
    examples = EXAMPLES if ledger.on_sqlite else EXAMPLES // 2
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                derandomize="MODEL_EXAMPLES" not in os.environ,
                stateful_step_count=STEPS,
                deadline=None,
                print_blob=True,
                phases=PHASES,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        database.close()
        print(f"{examples} runs:", ", ".join(f"{name} {count}" for name, count in sorted(stage.seen.items())))


def test_s4_given_no_keys_when_an_older_update_leaves_between_a_newer_one_and_its_look_then_its_total_tells(
    ledger: Ledger, stage: Stage
) -> None:
    """The one update that no look can keep back (ADR 0009, 4): here it is found out, and a person ends it."""
    database, which = played(ledger), ("acme", "1.0")
    world = stage.world = World(database, by_key=False)
    world.open(window=1)
    try:
        world.deliver(which)
        for _ in range(4):
            world.work()
        world.deliver(which)
        for name in ("scheduler", "web bell"):
            world.finish(name)
        world.run_to("worker 1", "the first byte")
        world.stopped.add("worker 1")
        world.deliver(which)
        world.pass_time(31)
        for _ in range(3):
            world.work(without="worker 1")
        world.pass_time(25)
        world.systems["acme"].script.append(Does.LOSES_ANSWER)
        for name in ("scheduler", "bell 2", "web bell"):
            world.finish(name)
        world.run_to("worker 2", "the first byte")
        world.run_to("worker 2", "looks")
        world.stopped.discard("worker 1")
        world.finish("worker 1")
        updates = [(one.quantity, one.stray) for one in world.systems["acme"].effects if one.kind == "update"]
        assert updates == [(3, False), (2, True)]
        heal(world)
        assert len(world.checks.older) == 1
    finally:
        world.close()
        database.close()
