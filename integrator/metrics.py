"""What the processes count and measure: every metric by name, and the meters that hold their values.

docs/reference/metrics.md is made from `METRICS`, and the alert rules and the dashboard may name no other. Labels
are bounded: no order's id, no address, no text of somebody else's. Only `integrator_shop_webhooks_total` names
tenants and shops, which whoever runs the installation has written down; all else would multiply with them.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

UNKNOWN = "unknown"
"""The label of what is not known, or not ours to name."""

OTHER = "other"
"""The label of a value beyond the limit."""

VALUES_A_LABEL = 100
"""How many values one label may have in a process; a third party's connector names topics of its own."""

SHOPS = 10_000
"""How many shops are told apart."""

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The folder in which several web processes keep their values together; set before the first value is counted."""


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its meaning, which processes have it, and its labels.

    `buckets` are the upper bounds of a histogram, in seconds.
    """

    name: str
    kind: Kind
    meaning: str
    where: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


WEBHOOKS = Metric(
    "integrator_webhooks_total",
    Kind.COUNTER,
    "Webhooks by what became of them; `topic` only of those that were kept.",
    "web",
    ("platform", "topic", "outcome"),
)
SHOP_WEBHOOKS = Metric(
    "integrator_shop_webhooks_total",
    Kind.COUNTER,
    "Webhooks of each shop by what became of them.",
    "web",
    ("tenant", "shop", "outcome"),
)
ANSWER_SECONDS = Metric(
    "integrator_webhook_answer_seconds",
    Kind.HISTOGRAM,
    "From the moment a webhook's request is worked on to its answer, in seconds.",
    "web",
    ("status",),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 4, 5),
)
DONE_SECONDS = Metric(
    "integrator_webhook_done_seconds",
    Kind.HISTOGRAM,
    "From a sync's newest webhook to the management system being brought to it, in seconds.",
    "worker",
    ("kind",),
    (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 21_600),
)
ATTEMPTS = Metric(
    "integrator_attempts_total",
    Kind.COUNTER,
    "Runs of syncs by how they ended; `error_class` is `none` for one that is done.",
    "worker",
    ("kind", "outcome", "error_class"),
)
POLL_AGE = Metric(
    "integrator_worker_poll_age_seconds",
    Kind.GAUGE,
    "How long ago the worker last asked SQS for messages, or was full and rightly did not ask, in seconds.",
    "worker",
)
SQS_REQUESTS = Metric(
    "integrator_sqs_requests_total",
    Kind.COUNTER,
    "Requests to SQS that this process began, by action.",
    "web, worker, scheduler",
    ("action",),
)
SQS_DELETED = Metric(
    "integrator_sqs_deleted_total",
    Kind.COUNTER,
    "Messages that this process asked SQS to delete, by what came of it: deleted, expired (handed out again "
    "since), refused, left (too many waited when the worker was to stop).",
    "worker",
    ("outcome",),
)
EVENTS_DROPPED = Metric(
    "integrator_control_events_dropped_total",
    Kind.COUNTER,
    "Events for Flower that were dropped, since Redis did not take them in time.",
    "worker",
)
SYNCS = Metric(
    "integrator_syncs",
    Kind.GAUGE,
    "Syncs that are not done, by state; counted up to a cap, above which the figure stands still.",
    "scheduler",
    ("state",),
)
OLDEST_DUE = Metric(
    "integrator_oldest_due_seconds",
    Kind.GAUGE,
    "How long the oldest sync waits that could run: due behind an open gate, or rung and not claimed, in seconds.",
    "scheduler",
    ("queue",),
)
GATES_SHUT = Metric(
    "integrator_gates_shut",
    Kind.GAUGE,
    "Gates that are shut, by the cause that keeps them so the longest.",
    "scheduler",
    ("cause",),
)
BREAKER_CHANGES = Metric(
    "integrator_breaker_changes_total",
    Kind.COUNTER,
    "Changes of the state of gates' breakers, by the new state: `open`, `half_open`, `closed`.",
    "worker, scheduler",
    ("state",),
)
QUOTA_NEARLY_USED = Metric(
    "integrator_quota_nearly_used",
    Kind.GAUGE,
    "Gates that have used 80 % of their day's requests or more.",
    "scheduler",
)
QUEUE_MESSAGES = Metric(
    "integrator_queue_messages",
    Kind.GAUGE,
    "Messages of a queue on SQS, visible and in flight.",
    "scheduler",
    ("queue",),
)
DEAD_LETTERS = Metric(
    "integrator_dead_letters",
    Kind.GAUGE,
    "Messages in a queue's dead-letter queue.",
    "scheduler",
    ("queue",),
)
LEDGER_DISK = Metric(
    "integrator_ledger_disk_free_ratio",
    Kind.GAUGE,
    "The free share of the disk that holds the ledger, 0 to 1; only where INTEGRATOR_LEDGER_DISK or SQLite's file "
    "says which that is.",
    "scheduler",
)
ROUND_AT = Metric(
    "integrator_scheduler_round_timestamp_seconds",
    Kind.GAUGE,
    "When the scheduler last ended a round of its loop, in seconds since 1970.",
    "scheduler",
)
CHORES_FAILED = Metric(
    "integrator_chores_failed_total",
    Kind.COUNTER,
    "Chores of the scheduler that failed; each is tried again at its next time.",
    "scheduler",
    ("chore",),
)

METRICS = (
    WEBHOOKS,
    SHOP_WEBHOOKS,
    ANSWER_SECONDS,
    DONE_SECONDS,
    ATTEMPTS,
    POLL_AGE,
    SQS_REQUESTS,
    SQS_DELETED,
    EVENTS_DROPPED,
    SYNCS,
    OLDEST_DUE,
    GATES_SHUT,
    QUOTA_NEARLY_USED,
    BREAKER_CHANGES,
    QUEUE_MESSAGES,
    DEAD_LETTERS,
    LEDGER_DISK,
    ROUND_AT,
    CHORES_FAILED,
)


class Meters:
    """The values of one process's metrics. Threads share it.

    The library is loaded with the first value, since where several processes share a folder it must have been
    named by then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registry: Any = None
        self._made: dict[str, Any] = {}
        self._seen: dict[tuple[str, str], set[str]] = {}

    def count(self, metric: Metric, by: float = 1, **labels: str) -> None:
        """Raise a counter."""
        self._one(metric, labels).inc(by)

    def observe(self, metric: Metric, seconds: float, **labels: str) -> None:
        """Put a duration into a histogram; one below zero (two clocks) counts as zero."""
        self._one(metric, labels).observe(max(seconds, 0.0))

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._one(metric, labels).set(value)

    def track(self, metric: Metric, read: Callable[[], float]) -> None:
        """Have a gauge without labels read whenever it is shown."""
        self._family(metric).set_function(read)

    def replace(self, metric: Metric, values: Mapping[str, float]) -> None:
        """Set all values of a gauge with one label; what is not named is gone."""
        family, label = self._family(metric), metric.labels[0]
        for value, number in values.items():
            self.set(metric, number, **{label: value})
        for sample in [sample for one in family.collect() for sample in one.samples]:
            if sample.labels[label] not in values:
                family.remove(sample.labels[label])

    def value(self, metric: Metric, **labels: str) -> float:
        """The sum of a counter's or gauge's values that carry these labels, in this process."""
        found = [sample for family in self._family(metric).collect() for sample in family.samples]
        return float(
            sum(one.value for one in found if one.name == metric.name and labels.items() <= one.labels.items())
        )

    def text(self) -> bytes:
        """All values, of all processes that share a folder, in Prometheus' text format, version 0.0.4."""
        import prometheus_client as client  # noqa: PLC0415 - see the class

        registry = self._own_registry()
        if os.environ.get(MULTIPROCESS):
            from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

            registry = client.CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return client.generate_latest(registry)

    def _one(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        family = self._family(metric)
        if not metric.labels:
            return family
        return family.labels(*(self._bounded(metric, label, labels[label]) for label in metric.labels))

    def _bounded(self, metric: Metric, label: str, value: str) -> str:
        limit = SHOPS if metric is SHOP_WEBHOOKS else VALUES_A_LABEL
        seen = self._seen.setdefault((metric.name, label), set())
        if value in seen:
            return value
        with self._lock:
            if len(seen) >= limit:
                return OTHER
            seen.add(value)
        return value

    def _family(self, metric: Metric) -> Any:
        made = self._made.get(metric.name)
        if made is None:
            registry = self._own_registry()
            with self._lock:
                if metric.name not in self._made:
                    self._made[metric.name] = _make(metric, registry)
                made = self._made[metric.name]
        return made

    def _own_registry(self) -> Any:
        import prometheus_client as client  # noqa: PLC0415 - see the class

        with self._lock:
            if self._registry is None:
                client.disable_created_metrics()  # type: ignore[no-untyped-call]
                self._registry = client.CollectorRegistry()
            return self._registry


def _make(metric: Metric, registry: Any) -> Any:
    import prometheus_client as client  # noqa: PLC0415 - see Meters

    given: dict[str, Any] = {"labelnames": metric.labels, "registry": registry}
    match metric.kind:
        case Kind.COUNTER:
            return client.Counter(metric.name, metric.meaning, **given)
        case Kind.GAUGE:
            return client.Gauge(metric.name, metric.meaning, **given)
        case Kind.HISTOGRAM:
            return client.Histogram(metric.name, metric.meaning, buckets=metric.buckets, **given)


@cache
def meters() -> Meters:
    """This process's meters."""
    return Meters()
