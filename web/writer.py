"""The group-commit writer (PROTOCOL D2): many webhooks, one transaction, each answered after it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from integrator.dispatch import Dispatcher
from integrator.ledger.access import ShopRow
from integrator.ledger.deliveries import accept, open_deliveries
from integrator.ledger.engine import UNREACHABLE, Ledger
from integrator.ledger.records import Accepted, Delivery
from integrator.logs import describe, get_logger, together
from integrator.metrics import UNKNOWN
from web.batcher import Batcher, Busy, Job, Steps
from web.metrics import Counters

log = get_logger(__name__)

LOCK_TIMEOUT_MS = 100
"""How long one batch waits for a row that somebody else holds (D2)."""

LOCK_NOT_AVAILABLE = "55P03"
"""What PostgreSQL says when that time is over."""

GAUGE_SECONDS = 10.0
"""How long a shop's count of open deliveries is used before it is counted again."""


class OverCap(Exception):
    """The shop has as many open deliveries as it may have. Its text is for people."""

    def __init__(self, cap: int) -> None:
        super().__init__(f"This shop has as many deliveries that wait to be worked on as it may have: {cap}.")


@dataclass(frozen=True)
class Arrived:
    """A webhook to be kept, and whose it is."""

    shop: ShopRow
    delivery: Delivery


class _Gauges:
    """How many open deliveries each shop has: counted by the writer, raised by what it keeps.

    `cap` is for shops that have none of their own.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._counts: dict[int, tuple[float, int]] = {}

    def cap(self, shop: ShopRow) -> int:
        """How many open deliveries the shop may have."""
        return shop.max_open or self._cap

    def full(self, shop: ShopRow) -> bool:
        """Whether the shop is known to be at its cap."""
        return not self.stale(shop) and self._counts[shop.shop_id][1] >= self.cap(shop)

    def stale(self, shop: ShopRow) -> bool:
        counted = self._counts.get(shop.shop_id)
        return counted is None or time.monotonic() - counted[0] > GAUGE_SECONDS

    def counted_at(self, shop: ShopRow) -> tuple[float, int]:
        """When it was, the earliest first, and those that never were before all others."""
        return self._counts.get(shop.shop_id, (0.0, 0))[0], shop.shop_id

    def count(self, ledger: Ledger, shop: ShopRow) -> None:
        """Count anew."""
        with ledger.read() as connection:
            counted = open_deliveries(connection, shop.shop_id, self.cap(shop))
        self._counts[shop.shop_id] = (time.monotonic(), counted)

    def add(self, shop: ShopRow) -> None:
        if (counted := self._counts.get(shop.shop_id)) is not None:
            self._counts[shop.shop_id] = (counted[0], counted[1] + 1)


class Writer:
    """Keeps deliveries for this process's requests. Threads share it."""

    def __init__(
        self,
        ledger: Ledger,
        dispatcher: Dispatcher,
        counters: Counters,
        *,
        batch: int,
        max_open: int,
        stall_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._counters = counters
        self._gauges = _Gauges(max_open)
        self._batcher = Batcher[Arrived, Accepted]("writer", self._work, size=batch, stall_seconds=stall_seconds)

    def keep(self, arrived: Arrived, deadline: float) -> Steps[Accepted]:
        """Keep one delivery; it is on disk when the steps are through.

        Raises OverCap; Busy when the ledger did not take it in time (it may still do so: the shop's next try is
        then a duplicate); any other exception is a fault of ours.
        """
        if self._gauges.full(arrived.shop):
            raise OverCap(self._gauges.cap(arrived.shop))
        return (yield from self._batcher.ask(arrived, deadline))

    def trouble(self) -> str | None:
        """What is wrong with the writer's thread, for people; None when nothing is."""
        return self._batcher.trouble()

    def _work(self, jobs: list[Job[Arrived, Accepted]]) -> list[Job[Arrived, Accepted]]:
        """Keep them; those whose sync somebody else holds just now come back."""
        jobs = self._within_cap(jobs)
        held = {job.item.delivery.sync_key for job in jobs if job.tried}
        fresh = [job for job in jobs if job.item.delivery.sync_key not in held]
        if fresh:
            try:
                kept = self._commit(fresh)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are kept
                log.warning("batch_failed", size=len(fresh), **describe(type(error), error.__traceback__))
            else:
                self._settle(fresh, kept)
        return self._one_by_one([job for job in jobs if not job.settled])

    def _within_cap(self, jobs: list[Job[Arrived, Accepted]]) -> list[Job[Arrived, Accepted]]:
        shops = {job.item.shop.shop_id: job.item.shop for job in jobs}
        stale = [shop for shop in shops.values() if self._gauges.stale(shop)]
        if stale:  # one for each batch: a long backlog takes a while to count, and all others wait
            try:
                self._gauges.count(self._ledger, min(stale, key=self._gauges.counted_at))
            except UNREACHABLE as error:  # the commit will say so, or not; a missing count stops nobody
                log.warning("open_deliveries_not_counted", error=type(error).__name__)
        full = {shop_id: shop for shop_id, shop in shops.items() if self._gauges.full(shop)}
        for job in jobs:
            if (shop := full.get(job.item.shop.shop_id)) is not None:
                job.fail(OverCap(self._gauges.cap(shop)))
        return [job for job in jobs if not job.settled]

    def _commit(self, jobs: Sequence[Job[Arrived, Accepted]]) -> list[Accepted]:
        with self._ledger.write(lock_timeout_ms=LOCK_TIMEOUT_MS) as connection:
            return accept(connection, [job.item.delivery for job in jobs])

    def _one_by_one(self, jobs: list[Job[Arrived, Accepted]]) -> list[Job[Arrived, Accepted]]:
        """Redo a failed batch, so that only the guilty rows fail (D2). Those that somebody holds are given back.

        Each wait for a row costs all others theirs: so one that was held before is waited for in a round at most,
        and none twice.
        """
        held: set[tuple[int, int, str, str]] = set()
        behind, last = [], []
        for job in sorted(jobs, key=lambda one: one.tried):
            key = job.item.delivery.sync_key
            if job.late:
                job.fail(Busy("the ledger could not keep it in time"))
            elif job.tried and held - {key}:
                behind.append(job)
            elif key in held or self._is_held(job):
                held.add(key)
                job.tried = True
                last.append(job)
        return [*behind, *last]

    def _is_held(self, job: Job[Arrived, Accepted]) -> bool:
        """Keep one by itself, unless somebody holds its sync."""
        try:
            kept = self._commit([job])
        except UNREACHABLE as error:
            if getattr(getattr(error, "orig", None), "sqlstate", None) == LOCK_NOT_AVAILABLE:
                return True
            job.fail(Busy(f"the ledger could not keep it ({type(error).__name__})"))
        except Exception as error:  # noqa: BLE001 - the request answers for it
            job.fail(error)
        else:
            self._settle([job], kept)
        return False

    def _settle(self, jobs: Sequence[Job[Arrived, Accepted]], kept: Sequence[Accepted]) -> None:
        for job, accepted in zip(jobs, kept, strict=True):
            job.succeed(accepted)
        new = [job.item for job, accepted in zip(jobs, kept, strict=True) if not accepted.duplicate]
        for gate_id in {one.delivery.gate_id for one in new if one.delivery.failure is None}:
            self._dispatcher.request(gate_id)
        for one in new:
            self._gauges.add(one.shop)
        with together():
            for job, accepted in zip(jobs, kept, strict=True):
                self._tell(job.item, accepted)

    def _tell(self, arrived: Arrived, accepted: Accepted) -> None:
        shop, delivery = arrived.shop, arrived.delivery
        held = delivery.failure is not None
        outcome = "duplicate" if accepted.duplicate else "held" if held else "accepted"
        self._counters.webhook(outcome, shop, UNKNOWN if held else delivery.topic)
        log.info(
            "webhook_accepted",
            tenant=shop.tenant,
            shop=shop.slug,
            topic=delivery.topic,
            external_id=delivery.external_id,
            sync_id=accepted.sync_id,
            version=accepted.version,
            duplicate=accepted.duplicate,
            held=held,
            correlation_id=accepted.correlation_id or delivery.correlation_id,
        )
