"""The installation under the model: its processes, what each of its threads does, and what can happen to them.

Production code does all the work: `Writer` keeps webhooks, `Dispatcher` rings, the scheduler's chores sweep, the
Celery task claims and converges, `LeaseKeeper` renews, `tenants.apply` stores credentials. The model only calls
them, each from the thread of an actor.
"""

import itertools
import math
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Thread
from typing import Any, cast

from celery.exceptions import Ignore, Retry
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from integrator import gate
from integrator.breaker import Thresholds
from integrator.dispatch import Dispatcher
from integrator.documents import Order
from integrator.erps.base import Request
from integrator.ledger import tenants
from integrator.ledger.access import ShopRow
from integrator.ledger.engine import Ledger
from integrator.ledger.records import Delivery
from integrator.ledger.schema import gates, shops, syncs
from integrator.ledger.schema import tenants as tenants_table
from integrator.ledger.transitions import requeue
from integrator.secrets import key_ring
from tasks import scheduler
from tasks.orders import sync_order
from tasks.outcome import Held, RetryLater
from tasks.process import Process
from tests.model.baton import Actor, Baton, Clock, Fault, Stands, acting
from tests.model.checks import Checks
from tests.model.databases import Database
from tests.model.outside import Broker, ModelErp, ModelShop, System
from tests.support import MemoryErp, delivery, moved, order, refund
from tests.support import World as Tenant
from web.batcher import Job
from web.metrics import Counters
from web.writer import Arrived, Writer

TENANTS = ("acme", "globex")

ORDERS = (("acme", "1"), ("acme", "2"), ("globex", "1"))
"""The slots of all orders, the next of which comes when one is cancelled: few, so that much happens to each. The
tenants' ids are equal on purpose."""

ACTORS = {
    "receiver": "web",
    "web bell": "web",
    "scheduler": "scheduler",
    "worker 1": "worker 1",
    "keeper 1": "worker 1",
    "bell 1": "worker 1",
    "worker 2": "worker 2",
    "keeper 2": "worker 2",
    "bell 2": "worker 2",
    "operator": "operator",
}
"""Every actor, and the process that it belongs to. A bell is the thread of its process's dispatcher."""

PROCESSES = tuple(dict.fromkeys(ACTORS.values()))

DRAIN_SECONDS = 25.0
"""As a worker that is told to stop: after so long it gives back what still runs."""

LOCK_SECONDS, IDLE_SECONDS = 5.0, 10.0
"""The longest wait for a lock, and the longest idle transaction on PostgreSQL (integrator.ledger.engine)."""

TO_THE_END = 5_000
"""More moves than any job takes."""


class _Bell(Dispatcher):
    """The production dispatcher, but that its thread is an actor: a request is only noted."""

    def request(self, gate_id: int, after_seconds: float = 0.0) -> None:
        self._requests.add(gate_id)

    @property
    def asked(self) -> bool:
        """Whether a request waits."""
        return bool(self._requests)

    def serve(self) -> None:
        """One round of its thread."""
        gate_ids, self._requests = self._requests, set()
        with suppress(SQLAlchemyError):  # as in production: the scheduler asks again
            self.dispatch(gate_ids)


class _NoThread:
    """Stands for the thread of a lease keeper, whose renewals are the moves of an actor."""

    def is_alive(self) -> bool:
        return True


class ModelProcess:
    """One process of the installation, from its start to its kill."""

    def __init__(self, name: str, ledger: Ledger, broker: Broker) -> None:
        self.name = name
        self.parts = Process(ledger, key_ring(), broker.publish)
        self.bell = self.parts.dispatcher = _Bell(ledger, broker.publish)
        self.parts.leases._thread = cast("Thread", _NoThread())
        self.give_back_at, self.ended = math.inf, False
        self.chores = scheduler.chores(ledger, self.bell) if name == "scheduler" else []
        limits = {"batch": 64, "max_open": 1_000}
        self.writer = Writer(ledger, self.bell, Counters(), stall_seconds=math.inf, **limits)


@dataclass(eq=False)
class Webhook:
    """One webhook of a shop: sent again until it is acknowledged."""

    arrived: Arrived
    acknowledged: bool = False


@dataclass
class World:
    """Everything at one time."""

    database: Database
    by_key: bool
    clock: Clock = field(init=False)
    shop: ModelShop = field(default_factory=ModelShop)
    broker: Broker = field(default_factory=Broker)
    systems: dict[str, System] = field(default_factory=dict)
    webhooks: list[Webhook] = field(default_factory=list)
    thresholds: Thresholds = field(default_factory=Thresholds)
    inbox: list[Webhook] = field(default_factory=list)
    operations: list[Callable[[], None]] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    window: int = 1

    def __post_init__(self) -> None:
        self.clock = self.database.clock
        self.clock.milliseconds = self.database.moves = 0
        self.database.empty()
        for slug in TENANTS:
            self.systems[slug] = System(self.clock, MemoryErp(by_key=self.by_key), f"{slug}-token-1")
        self.erp = ModelErp(self.clock, self.systems, self._first_byte)
        self.baton = Baton(self.database, self.tick)

    def open(self, window: int) -> None:
        """Store the tenants, with `window` syncs of each in flight at most, and start every process.

        The model's stand-ins must be in place by now.
        """
        self.window = window
        with self.database.watch.write() as connection:
            tenants.apply(connection, self._file(), self._environment(), key_ring())
        self.tenants = {slug: self._read_tenant(slug) for slug in TENANTS}
        self.checks = Checks(
            self.database, self.systems, {one.gate_id: window for one in self.tenants.values()}, self.held
        )
        self.database.on_commit = self.checks.committed
        with self.database.watch.read() as connection:
            self.checks.look_at_gates(connection)
        self.processes = {name: self._start(name) for name in PROCESSES}
        self.actors = {name: self.baton.enlist(name, process) for name, process in ACTORS.items()}

    def close(self) -> None:
        """End every process."""
        self.database.on_commit = lambda _actor: None
        self.baton.close()

    def _start(self, name: str) -> ModelProcess:
        return ModelProcess(name, self.database.ledger(name), self.broker)

    def _environment(self) -> dict[str, str]:
        tokens = {f"TOKEN_{slug}": system.token for slug, system in self.systems.items()}
        return tokens | {f"KEY_{slug}": slug * 24 for slug in self.systems} | {"WEBHOOK": "s3cret"}

    def _file(self) -> tenants.File:
        def tenant(slug: str) -> dict[str, object]:
            config = {"system": slug}
            erp = {"slug": "main", "kind": "memory", "window": self.window, "config": config}
            shop = {"slug": "web", "platform": "memory", "erp": "main", "config": config}
            return {
                "slug": slug,
                "name": slug.title(),
                "erps": [erp | {"secrets": {"token": {"env": f"TOKEN_{slug}"}}}],
                "shops": [shop | {"key": {"env": f"KEY_{slug}"}, "secrets": {"webhook": [{"env": "WEBHOOK"}]}}],
            }

        return tenants.File.model_validate({"tenants": [tenant(slug) for slug in self.systems]})

    def _read_tenant(self, slug: str) -> Tenant:
        query = (
            select(tenants_table.c.id, gates.c.id, shops.c.id, gates.c.erp_id)
            .join(shops, shops.c.tenant_id == tenants_table.c.id)
            .join(gates, gates.c.id == shops.c.gate_id)
            .where(tenants_table.c.slug == slug)
        )
        with self.database.watch.read() as connection:
            tenant_id, gate_id, shop_id, erp_id = connection.execute(query).one()
        return Tenant(slug, tenant_id, gate_id, shop_id, erp_id)

    def _first_byte(self, request: Request, guarded_at: float) -> bool:
        (held,) = self.held(acting())
        return self.checks.first_byte(request, guarded_at, held)

    def held(self, actor: Actor) -> list[tuple[int, int]]:
        """The claims that an actor's process works on."""
        return self.processes[actor.process].parts.leases.held()

    # --- time

    def tick(self) -> None:
        """A move takes a millisecond."""
        self.clock.milliseconds += 1
        self.database.moves += 1
        for system in self.systems.values():
            system.do_what_is_due()

    def pass_time(self, seconds: float) -> None:
        """Everyone stands still for so long: whoever is in the middle of something has been stopped."""
        if seconds >= LOCK_SECONDS:
            for actor in self.actors.values():
                self.time_out(actor)
        if seconds > IDLE_SECONDS:
            for actor in self.actors.values():
                self.database.cut_idle(actor)
        left = round(seconds * 1000)
        while left > 0:
            deadlines = [one.deadline for system in self.systems.values() for one in system.pending]
            until = min([round((at - self.clock.boot) * 1000) for at in deadlines] + [left])
            self.clock.milliseconds += max(until, 1)
            left -= max(until, 1)
            for system in self.systems.values():
                system.do_what_is_due()

    def monotonic(self) -> float:
        """Stands for time.monotonic."""
        return self.clock.boot

    def sleep(self, seconds: float) -> None:
        """Stands for time.sleep."""
        until = self.clock.boot + seconds
        acting().wait_until(lambda: self.clock.boot >= until, f"sleeps {seconds} s", at=until)

    def process(self) -> Process:
        """Stands for tasks.process.process: the parts of the process whose thread asks."""
        return self.processes[acting().process].parts

    # --- moves

    def move(self, name: str, steps: int) -> None:
        """Let an actor do so many steps of its job, taking up the next job if it has none."""
        if ACTORS[name] in self.stopped:
            return
        actor = self.actors[name]
        if actor.stands is Stands.IDLE and (job := self._job(name)) is not None:
            actor.start(job)
        self.baton.move(actor, steps)
        self.checks.raise_violations()
        if self.processes[ACTORS[name]].ended:
            self.kill(ACTORS[name])

    def movable(self) -> list[str]:
        """Whoever can do something now, those more often whose work matters most. The scheduler always can."""
        names = [
            name
            for name, actor in self.actors.items()
            if ACTORS[name] not in self.stopped and (actor.can_move or self._has_job(name, actor))
        ]
        workers = [name for name in names if name.startswith("worker")]
        return workers * 3 + names or ["scheduler"]

    def _has_job(self, name: str, actor: Actor) -> bool:
        return actor.stands is Stands.IDLE and self._job(name) is not None

    def finish(self, name: str) -> bool:
        """Let an actor do one job to its end, or as far as it gets; whether it moved at all."""
        before = self.database.moves
        self.move(name, TO_THE_END)
        return self.database.moves > before

    def work(self, *, without: str | None = None) -> None:
        """Everyone does what there is to do, one after the other; without the threads of one process, if told."""
        for name, process in ACTORS.items():
            if process != without:
                self.finish(name)

    def working_on(self, actor: Actor) -> list[tuple[str, str]]:
        """The orders whose syncs an actor's process holds."""
        gates_of = {tenant.gate_id: slug for slug, tenant in self.tenants.items()}
        rows = [self.checks.moves.syncs[sync_id] for sync_id, _ in self.held(actor)]
        return [(gates_of[row.gate_id], row.external_id) for row in rows]

    def _job(self, name: str) -> Callable[[], None] | None:
        process = self.processes[ACTORS[name]]
        match name.split(maxsplit=1)[0]:
            case "receiver":
                return self._receive if self.inbox else None
            case "web" | "bell":
                return process.bell.serve if process.bell.asked else None
            case "scheduler":
                return lambda: self._do_chores(process)
            case "worker":
                stopping = process.give_back_at < math.inf
                return self._work if self.broker.messages and not stopping else None
            case "keeper":
                return self._keep(process)
        return self.operations[0] if self.operations else None

    def _do_chores(self, process: ModelProcess) -> None:
        for chore in process.chores:
            chore.run_if_due(self.clock.boot)

    def _receive(self) -> None:
        batch, self.inbox[:] = list(self.inbox), []
        jobs: list[Job[Any, Any]] = [Job(webhook.arrived, math.inf) for webhook in batch]
        self.processes["web"].writer._work(jobs)
        for webhook, job in zip(batch, jobs, strict=True):
            webhook.acknowledged |= job.settled and job._error is None

    def _work(self) -> None:
        message = self.broker.messages.pop(0)  # acknowledged as it starts (C6)
        with suppress(Ignore, Retry, Held, RetryLater):  # what Celery is shown
            sync_order(message.tenant, message.sync_id)

    def _keep(self, process: ModelProcess) -> Callable[[], None] | None:
        if process.give_back_at <= self.clock.boot:
            return lambda: self._give_back(process)
        return (lambda: self._renew(process)) if process.parts.leases.held() else None

    def _renew(self, process: ModelProcess) -> None:
        with suppress(SQLAlchemyError):  # as in production: the leases run out by themselves
            process.parts.leases.renew_all()

    def _give_back(self, process: ModelProcess) -> None:
        with suppress(SQLAlchemyError):  # the leases run out by themselves
            process.parts.give_back()
        process.ended = True

    # --- what happens to processes

    def kill(self, process: str) -> None:
        """Kill a process, with all its threads; it starts anew at once."""
        for name, actor in self.actors.items():
            if ACTORS[name] == process:
                for system in self.systems.values():
                    system.caller_gone(actor)
                self.baton.kill(actor)
        self.processes[process] = self._start(process)
        self.stopped.discard(process)
        self.checks.raise_violations()

    def run_to(self, name: str, place: str) -> None:
        """Let an actor go on until it is about to do something of this name, at most to the end of its job."""
        actor = self.actors[name]
        before = -1
        while self.database.moves > before:
            before = self.database.moves
            self.move(name, 1)
            if actor.label.startswith(place):
                return

    def terminate(self, process: str) -> None:
        """SIGTERM to a worker: no more messages, no call that would not end in time, the rest given back."""
        running = self.processes[process]
        running.parts.leases.drain(DRAIN_SECONDS)
        running.give_back_at = self.clock.boot + DRAIN_SECONDS

    def time_out(self, actor: Actor) -> None:
        """What an actor waits for a lock has taken too long."""
        if self.database.waits_for_lock(actor):
            if actor.away:
                self.baton.unblock(actor)
            else:
                actor.fault = Fault.LOCK_TIMEOUT

    # --- the shops

    def live(self, slot: tuple[str, str]) -> tuple[str, str]:
        """The order of a slot that can still change: after a cancelled one comes the next."""
        tenant, number = slot
        ids = (f"{number}.{age}" for age in itertools.count())
        keys = ((tenant, external_id) for external_id in ids)
        return next(key for key in keys if key not in self.shop.truth or not self.shop.truth[key].cancelled)

    def deliver(self, which: tuple[str, str], *, cancelled: bool = False) -> None:
        """An order changes, every second time by a refund too, and its webhook is kept."""
        self.change(which, 1, 1, cancelled, refunded=len(self.webhooks) % 2 == 0)
        self.send(self.announce(which, timed=True, event=True))
        self.finish("receiver")

    def rouse(self, slot: tuple[str, str]) -> None:
        """See that a worker has something to do: what is due is rung, else a delivery comes."""
        for arrives in (False, True):
            workers = [actor for name, actor in self.actors.items() if name.startswith("worker")]
            if self.broker.messages or any(one.can_move and one.process not in self.stopped for one in workers):
                return
            if arrives:
                self.deliver(self.live(slot))
            for name in ("scheduler", "web bell", "bell 1", "bell 2"):
                self.finish(name)

    def change(
        self, which: tuple[str, str], minutes: int, quantity: int, cancelled: bool, *, refunded: bool = False
    ) -> Order:
        """The shop's order changes, and is the truth from now on."""
        _tenant, external_id = which
        before = self.shop.truth.get(which)
        if before is None:
            made = order(external_id, cancelled=cancelled)
        else:
            assert before.updated_at is not None
            made = order(
                external_id,
                quantity=int(before.lines[0].quantity) + (0 if before.cancelled else quantity),
                cancelled=before.cancelled or cancelled,
                updated_at=before.updated_at + timedelta(minutes=minutes),
            )
        refunds = before.refunds if before else ()
        if refunded:
            refunds = (*refunds, refund(f"{external_id}-{len(refunds) + 1}", amount="1.00"))
        self.shop.truth[which] = moved(made, refunds=refunds)
        return self.shop.truth[which]

    def announce(self, which: tuple[str, str], *, timed: bool, event: bool) -> Webhook:
        """The webhook of the order as it is now. It waits to be sent."""
        tenant, made = self.tenants[which[0]], self.shop.truth[which]
        name = f"{made.external_id}:{len(self.webhooks)}" if event else None
        made_delivery: Delivery = delivery(tenant, made, event=name, timed=timed)
        shop = ShopRow(tenant.shop_id, tenant.gate_id, tenant.tenant, "web", "memory", True, ())
        self.webhooks.append(Webhook(Arrived(shop, made_delivery)))
        return self.webhooks[-1]

    def send(self, webhook: Webhook) -> None:
        """Send a webhook, perhaps not for the first time."""
        self.inbox.append(webhook)

    # --- the operator

    def operate(self, do: Callable[[], None]) -> None:
        """Give the operator something to do. A failed command is tried again."""

        def persist() -> None:
            self.operations.remove(persist)
            try:
                do()
            except SQLAlchemyError:
                self.operations.append(persist)

        self.operations.append(persist)

    def pause(self, tenant: str) -> None:
        """Shut a tenant's gate until `resume`."""
        with self.database.ledger("operator").write() as connection:
            gate.pause(connection, [self.tenants[tenant].gate_id])

    def resume(self, tenant: str) -> None:
        """End the pause."""
        with self.database.ledger("operator").write() as connection:
            gate.resume(connection, [self.tenants[tenant].gate_id])

    def revoke(self, tenant: str) -> None:
        """The management system takes no token any more but a new one, which is not stored yet."""
        name, _, number = self.systems[tenant].token.rpartition("-")
        self.systems[tenant].token = f"{name}-{int(number) + 1}"

    def store_credentials(self) -> None:
        """Store the tokens that the systems take now."""
        with self.database.ledger("operator").write() as connection:
            tenants.apply(connection, self._file(), self._environment(), key_ring())

    def requeue_held(self) -> None:
        """Release what is held now."""
        self.requeue(self.checks.stuck())

    def requeue(self, sync_ids: Collection[int]) -> None:
        """Release held syncs."""
        with self.database.ledger("operator").write() as connection:
            requeue(connection, syncs.c.id.in_(sync_ids), mass=False)
