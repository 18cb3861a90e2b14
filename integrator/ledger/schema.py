"""The ledger's tables: what is owed and what was done.

The invariants stand here as constraints, so that no code path can write a row that the protocol does not know.
Times that are "never" are the epoch, so that `opens_at` is simply the greatest of a gate's causes.
"""

from enum import IntEnum, StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Computed,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
)

from integrator.clock import EPOCH, Instant, greatest


class State(StrEnum):
    """Where a sync stands (DESIGN §3)."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    HELD = "held"
    DEAD = "dead"


class StepState(StrEnum):
    """What is known of an effect: `refused` certainly did not happen, `applied` certainly did."""

    INTENDED = "intended"
    IN_DOUBT = "in_doubt"
    APPLIED = "applied"
    REFUSED = "refused"


class Priority(IntEnum):
    """What goes first through an open gate; lower is more urgent."""

    LIVE = 0
    INVOICE = 10
    STOCK = 20
    BACKFILL = 30


def _words(states: type[StrEnum]) -> str:
    return ", ".join(f"'{state}'" for state in states)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = BigInteger().with_variant(Integer, "sqlite")
"""A bigint; plain INTEGER on SQLite, where only that counts up by itself."""


def _id() -> Column[int]:
    return Column("id", Id, primary_key=True, autoincrement=True)


tenants = Table(
    "tenants",
    metadata,
    _id(),
    Column("slug", String(63), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("tolerance", String(32), nullable=False),
    Column("keep_days", Integer, CheckConstraint("keep_days >= 3", name="keep_days")),
)

erps = Table(
    "erps",
    metadata,
    _id(),
    Column("tenant_id", Id, ForeignKey("tenants.id"), nullable=False),
    Column("slug", String(63), nullable=False),
    Column("kind", String(63), nullable=False),
    Column("config", JSON, nullable=False),
    Column("secrets", LargeBinary, nullable=False),
    UniqueConstraint("tenant_id", "slug"),
)

CAUSES = ("paused_until", "retry_after_until", "quota_until", "credentials_until", "breaker_until")
"""Why a gate may be shut: one column each, and one writer each (PROTOCOL G1)."""

gates = Table(
    "gates",
    metadata,
    _id(),
    Column("tenant_id", Id, ForeignKey("tenants.id"), nullable=False, index=True),
    Column("erp_id", Id, ForeignKey("erps.id"), nullable=False, unique=True),
    Column("window_cap", Integer, nullable=False),
    *(Column(cause, Instant(), nullable=False, default=EPOCH) for cause in CAUSES),
    Column("breaker_state", String(16), nullable=False, default="closed"),
    Column("breaker_failures", Integer, nullable=False, default=0),
    Column("breaker_trips", Integer, nullable=False, default=0),
    Column("breaker_since", Instant(), nullable=False, default=EPOCH),
    Column("probe_sync", Id),
    Column("probe_claim", BigInteger),
    Column("probe_until", Instant()),
    Column("credentials_version", Integer, nullable=False, default=1),
    Column("restored_at", Instant()),
    Column("plan_version", Integer, nullable=False, default=0, server_default="0"),
    Column("run_seconds", Float),
    CheckConstraint("window_cap >= 1 AND window_cap <= 1000", name="window_cap"),
)
gates.append_column(
    Column("opens_at", Instant(), Computed(greatest(*(gates.c[cause] for cause in CAUSES)), persisted=True))
)
Index("ix_gates_opens_at", gates.c.opens_at)

plans = Table(
    "plans",
    metadata,
    Column("gate_id", Id, ForeignKey("gates.id"), primary_key=True, autoincrement=False),
    Column("per_second", Float),
    Column("burst", Integer),
    Column("per_day", Integer),
    Column("time_zone", String(63)),
    Column("order_percent", Integer),
    Column("retry_first_seconds", Float),
    Column("retry_longest_seconds", Float),
    CheckConstraint("per_second >= 0.01 AND per_second <= 10000", name="per_second"),
    CheckConstraint("burst >= 1 AND burst <= 10000", name="burst"),
    CheckConstraint("per_day >= 1 AND per_day <= 100000000", name="per_day"),
    CheckConstraint("order_percent >= 0 AND order_percent <= 90", name="order_percent"),
    CheckConstraint("retry_first_seconds >= 1 AND retry_first_seconds <= 3600", name="retry_first"),
    CheckConstraint("retry_longest_seconds >= 1 AND retry_longest_seconds <= 86400", name="retry_longest"),
)

limits = Table(
    "limits",
    metadata,
    Column("key", String(63), primary_key=True),
    Column("day", String(10), nullable=False, default=""),
    Column("taken", Integer, nullable=False, default=0),
    Column("taken_others", Integer, nullable=False, default=0),
    Column("taken_polls", Integer, nullable=False, default=0),
    Column("day_ends_at", Instant(), nullable=False, default=EPOCH),
    Column("next_us", BigInteger, nullable=False, default=0),
    Column("without_redis_until", Instant(), nullable=False, default=EPOCH),
    CheckConstraint("taken >= 0 AND taken_others >= 0 AND taken_polls >= 0", name="taken"),
)

shops = Table(
    "shops",
    metadata,
    _id(),
    Column("tenant_id", Id, ForeignKey("tenants.id"), nullable=False),
    Column("gate_id", Id, ForeignKey("gates.id"), nullable=False, index=True),
    Column("slug", String(63), nullable=False),
    Column("platform", String(63), nullable=False),
    Column("key_hash", String(64), nullable=False, unique=True),
    Column("config", JSON, nullable=False),
    Column("secrets", LargeBinary, nullable=False),
    Column("active", Boolean, nullable=False),
    Column(
        "max_open_deliveries", Integer, CheckConstraint("max_open_deliveries >= 1", name="max_open_deliveries")
    ),
    UniqueConstraint("tenant_id", "slug"),
)

syncs = Table(
    "syncs",
    metadata,
    _id(),
    Column("gate_id", Id, ForeignKey("gates.id"), nullable=False),
    Column("shop_id", Id, ForeignKey("shops.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("external_id", Text, nullable=False),
    Column("correlation_id", String(32), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("due_at", Instant(), nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("applied", Integer, nullable=False, default=0),
    Column("claims", Integer, nullable=False, default=0),
    Column("claim", Integer),
    Column("claimed_at", Instant()),
    Column("lease_until", Instant()),
    Column("queued_at", Instant()),
    Column("attempts", Integer, nullable=False, default=0),
    Column("vanished", Integer, nullable=False, default=0),
    Column("throttled", Integer, nullable=False, default=0),
    Column("seen_updated_at", Instant()),
    Column("seen_digest", String(64)),
    Column("reconciled_at", Instant()),
    Column("reason", Text),
    Column("error_class", String(32)),
    Column("error_fingerprint", String(12)),
    Column("error_message", Text),
    Column("error_detail", Text),
    Column("error_remedy", Text),
    Column("accepted_at", Instant(), nullable=False),
    Column("changed_at", Instant(), nullable=False),
    UniqueConstraint("gate_id", "shop_id", "kind", "external_id"),
    CheckConstraint(f"state IN ({_words(State)})", name="state"),
    CheckConstraint("applied >= 0 AND applied <= wanted", name="applied"),
    CheckConstraint("state <> 'done' OR applied = wanted", name="done"),
    CheckConstraint("(state = 'running') = (claim IS NOT NULL)", name="claim"),
    CheckConstraint("(state = 'running') = (claimed_at IS NOT NULL)", name="claimed_at"),
    CheckConstraint("(state = 'queued') = (queued_at IS NOT NULL)", name="queued_at"),
    CheckConstraint("(state IN ('queued', 'running')) = (lease_until IS NOT NULL)", name="lease"),
    CheckConstraint("state NOT IN ('held', 'dead') OR error_remedy IS NOT NULL", name="remedy"),
    CheckConstraint("attempts >= 0 AND vanished >= 0 AND throttled >= 0", name="counters"),
)


def in_state(*states: State) -> ColumnElement[bool]:
    """Whether a sync is in one of the states, as literals: no partial index serves bound values."""
    return syncs.c.state.in_([literal_column(f"'{state}'") for state in states])


DUE_STATE = in_state(State.PENDING, State.RETRYING)
IN_FLIGHT = in_state(State.QUEUED, State.RUNNING)
IS_QUEUED = in_state(State.QUEUED)
IS_RUNNING = in_state(State.RUNNING)
IS_STOPPED = in_state(State.HELD, State.DEAD)
IS_OPEN = ~in_state(State.DONE)
for _name, _columns, _where in (
    ("ix_syncs_due", (syncs.c.gate_id, syncs.c.priority, syncs.c.due_at), DUE_STATE),
    ("ix_syncs_live", (syncs.c.gate_id, syncs.c.accepted_at), DUE_STATE),
    ("ix_syncs_in_flight", (syncs.c.gate_id,), IN_FLIGHT),
    ("ix_syncs_lease", (syncs.c.lease_until,), IN_FLIGHT),
    ("ix_syncs_open", (syncs.c.shop_id,), IS_OPEN),
    ("ix_syncs_stopped", (syncs.c.id,), IS_STOPPED),
):
    Index(_name, *_columns, postgresql_where=_where, sqlite_where=_where)

attempts = Table(
    "attempts",
    metadata,
    _id(),
    Column("sync_id", Id, ForeignKey("syncs.id"), nullable=False),
    Column("claim", Integer, nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("worker", Text, nullable=False),
    Column("started_at", Instant(), nullable=False),
    Column("ended_at", Instant()),
    Column("outcome", String(16)),
    Column("error_class", String(32)),
    Column("error_fingerprint", String(12)),
    UniqueConstraint("sync_id", "claim"),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
)

steps = Table(
    "steps",
    metadata,
    _id(),
    Column("sync_id", Id, ForeignKey("syncs.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("key", Text, nullable=False),
    Column("method", String(8), nullable=False),
    Column("path", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("claim", Integer, nullable=False),
    Column("sends", Integer, nullable=False),
    Column("snapshot_updated_at", Instant()),
    Column("digest", String(64), nullable=False),
    Column("intended_at", Instant(), nullable=False),
    Column("doubted_at", Instant()),
    Column("doubts", Integer, nullable=False, default=0),
    Column("verify_at", Instant()),
    Column("applied_at", Instant()),
    Column("remote_id", Text),
    Column("remote_amount", String(32)),
    Column("remote_currency", String(3)),
    UniqueConstraint("sync_id", "key"),
    CheckConstraint(f"state IN ({_words(StepState)})", name="state"),
    CheckConstraint("(state = 'applied') = (applied_at IS NOT NULL)", name="applied_at"),
    CheckConstraint("state <> 'applied' OR remote_id IS NOT NULL", name="remote_id"),
    CheckConstraint("state <> 'in_doubt' OR doubted_at IS NOT NULL", name="doubted_at"),
)

HAS_BODY = func.length(steps.c.body) > literal_column("0")
Index("ix_steps_has_body", steps.c.id, postgresql_where=HAS_BODY, sqlite_where=HAS_BODY)

deliveries = Table(
    "deliveries",
    metadata,
    _id(),
    Column("shop_id", Id, ForeignKey("shops.id"), nullable=False),
    Column("sync_id", Id, ForeignKey("syncs.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("snapshot_updated_at", Instant()),
    Column("body_hash", String(64), nullable=False),
    Column("headers", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", Instant(), nullable=False),
    UniqueConstraint("sync_id", "version"),
)
Index("ix_deliveries_newest", deliveries.c.sync_id, deliveries.c.snapshot_updated_at)

delivery_keys = Table(
    "delivery_keys",
    metadata,
    Column("shop_id", Id, ForeignKey("shops.id"), primary_key=True),
    Column("key_hash", String(64), primary_key=True),
    Column("received_at", Instant(), nullable=False),
)
Index("ix_delivery_keys_received_at", delivery_keys.c.received_at)
