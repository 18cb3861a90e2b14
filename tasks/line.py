"""Who may take a worker's next thread: no tenant more than its share while another has work here (PROTOCOL P6)."""

from collections import Counter, deque
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Line(Generic[Job]):
    """What waits for one of a worker's threads, and how many threads each tenant holds. The caller holds a lock.

    A tenant has work here when something of it runs or waits in this line. While another has, a tenant that holds
    a quarter of the threads (at least one) starts nothing more; a lone one may use them all. What runs is never
    stopped, so who comes after a lone tenant that holds every thread waits for the first of them to end.

    Of the tenants that may start, the one that holds the fewest threads comes first, then who has waited longest;
    within a tenant the first comes first.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.share = max(1, threads // 4)
        self.running: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[int, Job]]] = {}
        self._arrivals = 0

    def add(self, tenant: str, job: Job) -> None:
        """Let a job wait."""
        self._arrivals += 1
        self._waiting.setdefault(tenant, deque()).append((self._arrivals, job))

    def take(self) -> tuple[str, Job] | None:
        """The job that starts now, which counts as running from here on; None when nothing may."""
        if self.running.total() >= self.threads:
            return None
        may_start = [tenant for tenant in self._waiting if not self._has_its_share(tenant)]
        if not may_start:
            return None
        tenant = min(may_start, key=lambda one: (self.running[one], self._waiting[one][0][0]))
        _, job = self._waiting[tenant].popleft()
        if not self._waiting[tenant]:
            del self._waiting[tenant]
        self.running[tenant] += 1
        return tenant, job

    def end(self, tenant: str) -> None:
        """A job of the tenant ended; its thread is free."""
        self.running[tenant] -= 1
        if not self.running[tenant]:
            del self.running[tenant]

    def held_back(self) -> list[Job]:
        """What waits for its own tenant, and not for a thread."""
        return [job for tenant, jobs in self._waiting.items() if self._has_its_share(tenant) for _, job in jobs]

    def clear(self) -> list[Job]:
        """Forget what waits; it is returned."""
        left = sorted((one for jobs in self._waiting.values() for one in jobs), key=lambda one: one[0])
        self._waiting.clear()
        return [job for _, job in left]

    def _has_its_share(self, tenant: str) -> bool:
        return self.running[tenant] >= self.share and any(
            one != tenant for busy in (self.running, self._waiting) for one in busy
        )
