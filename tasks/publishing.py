"""Ringing the bell: one message per sync, ids only, on the queue of its kind (PROTOCOL P3, C7)."""

from functools import partial

from celery import Celery

from integrator.clock import boottime
from integrator.config import settings
from integrator.dispatch import Publish
from integrator.ledger.records import Rung
from integrator.logs import get_logger
from tasks.app import app
from tasks.queues import OF_KIND
from tasks.transport_send import NOT_TRIED

log = get_logger(__name__)

POOL_TIMEOUT_SECONDS = 3
"""How long to wait for a connection to publish on."""

PUBLISH_SECONDS = 3.0
"""After how long no further call is begun (P3): what is left is put back, as if it had failed."""


def publisher(celery: Celery = app) -> Publish:
    """A function that publishes one message per sync, ten a call, and returns those that failed."""

    def publish(rung: list[Rung]) -> list[Rung]:
        give_up = boottime() + PUBLISH_SECONDS
        try:
            with celery.producer_pool.acquire(block=True, timeout=POOL_TIMEOUT_SECONDS) as producer:
                sends = [partial(_send, celery, producer, one) for one in rung]
                failed = producer.channel.publish_many(sends, lambda: boottime() <= give_up)
        except Exception as error:  # noqa: BLE001 - whatever the way to the broker throws, the ledger rings again
            failed = dict.fromkeys(range(len(rung)), type(error).__name__)
        if failed:
            left = {"failed": len(failed), "sent": len(rung) - len(failed)}
            reasons = set(failed.values()) - {NOT_TRIED}
            log.warning("publish_failed" if reasons else "publish_slow", error=", ".join(sorted(reasons)), **left)
        # One that failed may have gone out all the same; so it may ring twice, which does no harm.
        return [one for place, one in enumerate(rung) if place in failed]

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
