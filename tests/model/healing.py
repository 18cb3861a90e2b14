"""After the faults: everyone works again, time passes, and within a bound everything must have settled."""

import math
from functools import partial

from sqlalchemy import func, select

from integrator.erps.base import StepKind
from integrator.ledger.audit import GRACE_SECONDS
from integrator.ledger.schema import DUE_STATE, IN_FLIGHT, StepState, gates, steps, syncs
from tests.model.baton import Stands
from tests.model.world import ACTORS, World

ROUNDS = 120
"""How often time may have to pass until all is settled."""

HEALING_SECONDS = 3_600.0
"""How long that may take in virtual time."""

PERIODIC = ("scheduler", "keeper 1", "keeper 2")
"""Those whose work never ends: one round of it, each time that time has passed."""

JOBS = 500
"""How many jobs may be done without time passing."""


def heal(world: World) -> None:
    """End all faults, work to the end, and check what was reached."""
    _end_faults(world)
    began = world.clock.boot
    for _ in range(ROUNDS):
        _work_to_the_end(world)
        _release_held(world)
        if _settled(world):
            break
        world.pass_time(_until_something_happens(world))
    else:
        world.checks.wrong(f"not settled after {ROUNDS} rounds: {_open(world)}")
    if world.clock.boot - began > HEALING_SECONDS:
        world.checks.wrong(f"settled only after {world.clock.boot - began:.0f} s")
    world.pass_time(GRACE_SECONDS + 1)
    for (tenant, _), truth in world.shop.truth.items():
        world.checks.end_state(world.systems[tenant], truth, world.tenants[tenant])
    world.checks.ledger_is_sound()
    world.checks.raise_violations()


def _end_faults(world: World) -> None:
    world.broker.down, world.broker.answers_lost, world.shop.failing_fetches = False, 0, 0
    for system in world.systems.values():
        system.script.clear()
        system.failing_looks = 0
    for actor in world.actors.values():
        actor.fault = None
    world.stopped.clear()
    for tenant in world.systems:
        world.operate(partial(world.resume, tenant))
    world.operate(world.store_credentials)


def _work_to_the_end(world: World) -> None:
    """Let everyone work until nobody can go on without time passing."""
    for webhook in world.webhooks:
        if not webhook.acknowledged and webhook not in world.inbox:
            world.send(webhook)
    others = [name for name in ACTORS if name not in PERIODIC]
    for _ in range(2):
        for _ in range(JOBS):
            if not any(world.finish(name) for name in others):
                break
        else:
            world.checks.wrong(f"work without end: {_open(world)}")
            world.checks.raise_violations()
        for name in PERIODIC:
            world.finish(name)


def _release_held(world: World) -> None:
    """What a person does: removes a second record or credit, writes newer content over older, and requeues."""
    held = world.checks.stuck()
    world.checks.raise_violations()
    if not held:
        return
    query = (
        select(syncs.c.external_id, syncs.c.gate_id, steps.c.remote_id)
        .outerjoin(
            steps,
            (steps.c.sync_id == syncs.c.id)
            & (steps.c.state == StepState.APPLIED)
            & (steps.c.kind == StepKind.CREATE),
        )
        .where(syncs.c.id.in_(held))
    )
    with world.database.watch.read() as connection:
        rows = connection.execute(query).all()
    tenants = {tenant.gate_id: slug for slug, tenant in world.tenants.items()}
    for row in rows:
        records = world.systems[tenants[row.gate_id]].of(f"web/{row.external_id}")
        keep = next((one for one in records if one.remote_id == row.remote_id), None) or next(iter(records), None)
        if keep is not None and (row.gate_id, row.external_id) in world.checks.older:
            keep.body = world.shop.truth[tenants[row.gate_id], row.external_id].model_dump(mode="json")
        for one in records:
            if one is not keep:
                one.reference = "removed"
            one.credits = list({credit.key: credit for credit in one.credits}.values())
    world.operate(lambda: world.requeue(held))


def _settled(world: World) -> bool:
    return (
        world.checks.settled()
        and not world.broker.messages
        and not world.inbox
        and not world.operations
        and not any(system.pending for system in world.systems.values())
        and all(actor.stands is Stands.IDLE for actor in world.actors.values())
    )


def _until_something_happens(world: World) -> float:
    times = [
        select(func.min(syncs.c.due_at)).where(DUE_STATE),
        select(func.min(syncs.c.lease_until)).where(IN_FLIGHT),
        select(func.min(gates.c.opens_at)).where(gates.c.opens_at > world.clock.now),
        select(func.min(gates.c.probe_until)).where(gates.c.probe_until > world.clock.now),
    ]
    with world.database.watch.read() as connection:
        found = [connection.execute(query).scalar_one() for query in times]
    seconds = [(one - world.clock.now).total_seconds() for one in found if one is not None]
    ends = [one.deadline for system in world.systems.values() for one in system.pending]
    ends += [actor.wakes_at for actor in world.actors.values()]
    ends += [process.give_back_at for process in world.processes.values()]
    seconds += [at - world.clock.boot for at in ends]
    soonest = min(seconds, default=math.inf)
    return max(soonest, 0.001) if 0 < soonest < math.inf else 1.0


def _open(world: World) -> str:
    query = select(syncs.c.id, syncs.c.state, syncs.c.error_class).where(syncs.c.state != "done")
    with world.database.watch.read() as connection:
        rows = [str(tuple(row)) for row in connection.execute(query)]
    busy = [str(actor) for actor in world.actors.values() if actor.stands is not Stands.IDLE]
    return ", ".join([*rows, *busy])
