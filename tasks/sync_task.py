"""The base of all sync tasks: claim by id, keep the lease, map the outcome, tell the gate, ring the next."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Retry
from sqlalchemy import Connection
from structlog.contextvars import bind_contextvars, clear_contextvars

from integrator import failpoints, tracing
from integrator.clock import boottime
from integrator.ledger import access, transitions
from integrator.ledger.engine import UNREACHABLE
from integrator.ledger.leases import LEASE_SECONDS
from integrator.ledger.records import Claimed
from integrator.logs import get_logger
from integrator.sync.run import Run
from tasks.outcome import Broken, End, Held, RetryLater
from tasks.process import Process, process

log = get_logger(__name__)

CLAIM_SECONDS = 60
"""How long a task waits for a ledger that can't be reached; the worker takes no more meanwhile (C6)."""

CLAIM_RETRY_SECONDS = 1.0


class SyncTask(Task):  # type: ignore[misc] # Celery has no types
    """A task that works on one sync, found by its id."""

    abstract = True
    throws = (Held,)
    ignore_result = True

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run the task. What is raised says no more than a class: Celery logs it, and puts it into events.

        What its lines are about stays bound until the thread's next task: Celery writes a line after the end.
        """
        clear_contextvars()
        try:
            self.run(*args, **kwargs)
        except (Ignore, Retry, Held):
            raise
        except Exception as error:
            log.exception("task_broke")
            broken = Broken(type(error).__name__)
        else:
            return
        raise broken

    def on_retry(self, *given: Any) -> None:
        """Drop Celery's copy of the traceback, which pools of processes send, and threads never do.

        It has a tuple for each instruction of each function in it, 0.2 MB that a cycle would keep until Python
        collects everything: tens of MB in a worker whose management systems are down. The text stays.
        """
        einfo = given[-1]
        einfo.tb = None

    @contextmanager
    def claim(self, tenant: str, sync_id: int) -> Iterator[Run]:
        """Run a block with the sync claimed, and do with its failure what the protocol says.

        Ends the task without the block (Ignore) when there is nothing to claim: another message was faster, the
        sync is done, or its gate is shut.
        """
        here = process()
        bind_contextvars(tenant=tenant, sync_id=sync_id)
        claimed, asked_at = _claim(here, tenant, sync_id)
        failpoints.fire("worker.claimed")
        signal: Exception | None = None
        trace = tracing.resume("run", claimed.correlation_id)
        with here.leases.keep(claimed, asked_at) as lease, trace as span:
            span.note(tenant=tenant, sync_id=sync_id, claim=claimed.claim)
            end = End(here, claimed, lease)
            try:
                with here.ledger.read() as connection:
                    assignment = access.assignment(connection, sync_id, here.ring)
                run = Run(here.ledger, assignment, claimed, lease, here.limiter)
                end.run = run
                yield run
                end.succeed(run)
            except Exception as error:  # noqa: BLE001 - judged, recorded and logged there
                signal = end.fail(error)
                span.fail(type(error).__name__)
            if end.run is not None:
                end.run.leave_place()
        if not here.leases.draining:  # else the process may end between marking and publishing
            here.dispatcher.request(claimed.gate_id)
        if signal is not None:
            raise signal from None


def _claim(here: Process, tenant: str, sync_id: int) -> tuple[Claimed, float]:
    """Claim, waiting for a ledger that can't be reached.

    Raises Ignore when there is nothing to do, and Retry when it waited in vain: the scheduler rings again. Nobody
    knows the order's correlation id while the ledger can't be reached: those lines have the sync's id only.
    """
    give_up = boottime() + CLAIM_SECONDS
    waited_for_ledger = False
    while True:
        asked_at = boottime()
        try:
            with here.ledger.write() as connection:
                claimed = transitions.claim(connection, tenant, sync_id, worker=here.name)
                named = claimed.names if claimed else _named(connection, tenant, sync_id)
        except UNREACHABLE as error:
            log.warning("claim_failed", error=type(error).__name__)
            if boottime() > give_up or here.leases.draining:
                waited = RetryLater(f"ledger unreachable {type(error).__name__}")
                raise Retry("runs again later", exc=waited, when=LEASE_SECONDS) from None
            time.sleep(CLAIM_RETRY_SECONDS)
            waited_for_ledger = True
            continue
        bind_contextvars(**named)
        if waited_for_ledger:
            log.info("ledger_reached", claimed=claimed is not None)
        if claimed is None:
            log.info("nothing_to_claim")
            raise Ignore
        return claimed, asked_at


def _named(connection: Connection, tenant: str, sync_id: int) -> Mapping[str, str | None]:
    """What the log calls a sync by that is not ours to claim; nothing for another tenant's, or for none."""
    named = access.names(connection, [sync_id]).get(sync_id, {})
    return named if named.get("tenant") == tenant else {}
