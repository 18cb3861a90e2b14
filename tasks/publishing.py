"""Ringing the bell: one message per sync, ids only, on the queue of its kind (PROTOCOL P3, C7)."""

from celery import Celery

from integrator.clock import boottime
from integrator.config import settings
from integrator.dispatch import Publish
from integrator.ledger.records import Rung
from integrator.logs import get_logger
from tasks.app import app
from tasks.queues import OF_KIND

log = get_logger(__name__)

POOL_TIMEOUT_SECONDS = 3
"""How long to wait for a connection to publish on."""

PUBLISH_SECONDS = 3.0
"""After how long no further message of a batch is begun (P3): what is left is put back, as if it had failed."""


def publisher(celery: Celery = app) -> Publish:
    """A function that publishes one message per sync and returns those that failed."""

    def publish(rung: list[Rung]) -> list[Rung]:
        sent, give_up = 0, boottime() + PUBLISH_SECONDS
        try:
            with celery.producer_pool.acquire(block=True, timeout=POOL_TIMEOUT_SECONDS) as producer:
                for one in rung:
                    if boottime() > give_up:
                        log.warning("publish_slow", left=len(rung) - sent, sent=sent)
                        return rung[sent:]
                    _send(celery, producer, one)
                    sent += 1
        except Exception as error:  # noqa: BLE001 - whatever the way to the broker throws, the ledger rings again
            log.warning("publish_failed", error=type(error).__name__, failed=len(rung) - sent, sent=sent)
            # The one that failed may have gone out all the same; so it may ring twice, which does no harm.
            return rung[sent:]
        return []

    return publish


def _send(celery: Celery, producer: object, one: Rung) -> None:
    queue = OF_KIND[one.kind]
    celery.send_task(
        queue.task,
        args=(one.tenant, one.sync_id),
        task_id=f"{one.sync_id}:{one.wanted}",
        queue=settings().queue_name(queue.name),
        producer=producer,
        retry=False,
        ignore_result=True,
        argsrepr="(…)",
        kwargsrepr="{}",
        MessageGroupId=one.tenant,
    )
