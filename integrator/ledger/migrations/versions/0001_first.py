"""The first schema: tenants, shops, management systems, gates, syncs, steps, attempts, deliveries."""

import sqlalchemy as sa
from alembic import op

from integrator.clock import Instant, greatest

revision = "0001"
down_revision = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CAUSES = ("paused_until", "retry_after_until", "quota_until", "credentials_until", "breaker_until")
OPENS_AT = greatest(*(sa.column(cause, Instant()) for cause in CAUSES))


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("slug", sa.String(length=63), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("tolerance", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("slug", name=op.f("uq_tenants_slug")),
    )
    op.create_table(
        "erps",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("tenant_id", Id, nullable=False),
        sa.Column("slug", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=63), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("secrets", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_erps_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erps")),
        sa.UniqueConstraint("tenant_id", "slug", name=op.f("uq_erps_tenant_id_slug")),
    )
    op.create_table(
        "gates",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("tenant_id", Id, nullable=False),
        sa.Column("erp_id", Id, nullable=False),
        sa.Column("window_cap", sa.Integer(), nullable=False),
        sa.Column("paused_until", Instant(), nullable=False),
        sa.Column("retry_after_until", Instant(), nullable=False),
        sa.Column("quota_until", Instant(), nullable=False),
        sa.Column("credentials_until", Instant(), nullable=False),
        sa.Column("breaker_until", Instant(), nullable=False),
        sa.Column("breaker_state", sa.String(length=16), nullable=False),
        sa.Column("probe_claim", sa.BigInteger(), nullable=True),
        sa.Column("probe_until", Instant(), nullable=True),
        sa.Column("credentials_version", sa.Integer(), nullable=False),
        sa.Column("opens_at", Instant(), sa.Computed(OPENS_AT, persisted=True), nullable=True),
        sa.CheckConstraint("window_cap >= 1 AND window_cap <= 1000", name=op.f("ck_gates_window_cap")),
        sa.ForeignKeyConstraint(["erp_id"], ["erps.id"], name=op.f("fk_gates_erp_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_gates_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gates")),
        sa.UniqueConstraint("erp_id", name=op.f("uq_gates_erp_id")),
    )
    op.create_index("ix_gates_opens_at", "gates", ["opens_at"], unique=False)
    op.create_index(op.f("ix_gates_tenant_id"), "gates", ["tenant_id"], unique=False)
    op.create_table(
        "shops",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("tenant_id", Id, nullable=False),
        sa.Column("gate_id", Id, nullable=False),
        sa.Column("slug", sa.String(length=63), nullable=False),
        sa.Column("platform", sa.String(length=63), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("secrets", sa.LargeBinary(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_shops_gate_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_shops_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shops")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_shops_key_hash")),
        sa.UniqueConstraint("tenant_id", "slug", name=op.f("uq_shops_tenant_id_slug")),
    )
    op.create_index(op.f("ix_shops_gate_id"), "shops", ["gate_id"], unique=False)
    op.create_table(
        "delivery_keys",
        sa.Column("shop_id", Id, nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["shop_id"], ["shops.id"], name=op.f("fk_delivery_keys_shop_id")),
        sa.PrimaryKeyConstraint("shop_id", "key_hash", name=op.f("pk_delivery_keys")),
    )
    op.create_index("ix_delivery_keys_received_at", "delivery_keys", ["received_at"], unique=False)
    op.create_table(
        "syncs",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("gate_id", Id, nullable=False),
        sa.Column("shop_id", Id, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("correlation_id", sa.String(length=32), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("applied", sa.Integer(), nullable=False),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("claim", sa.Integer(), nullable=True),
        sa.Column("claimed_at", Instant(), nullable=True),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.Column("queued_at", Instant(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("vanished", sa.Integer(), nullable=False),
        sa.Column("throttled", sa.Integer(), nullable=False),
        sa.Column("seen_updated_at", Instant(), nullable=True),
        sa.Column("seen_digest", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error_class", sa.String(length=32), nullable=True),
        sa.Column("error_fingerprint", sa.String(length=12), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("error_remedy", sa.Text(), nullable=True),
        sa.Column("accepted_at", Instant(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.CheckConstraint("(state = 'queued') = (queued_at IS NOT NULL)", name=op.f("ck_syncs_queued_at")),
        sa.CheckConstraint("(state = 'running') = (claim IS NOT NULL)", name=op.f("ck_syncs_claim")),
        sa.CheckConstraint("(state = 'running') = (claimed_at IS NOT NULL)", name=op.f("ck_syncs_claimed_at")),
        sa.CheckConstraint(
            "(state IN ('queued', 'running')) = (lease_until IS NOT NULL)", name=op.f("ck_syncs_lease")
        ),
        sa.CheckConstraint("state <> 'done' OR applied = wanted", name=op.f("ck_syncs_done")),
        sa.CheckConstraint(
            "state IN ('pending', 'queued', 'running', 'retrying', 'done', 'held', 'dead')",
            name=op.f("ck_syncs_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('held', 'dead') OR error_remedy IS NOT NULL", name=op.f("ck_syncs_remedy")
        ),
        sa.CheckConstraint("applied >= 0 AND applied <= wanted", name=op.f("ck_syncs_applied")),
        sa.CheckConstraint("attempts >= 0 AND vanished >= 0 AND throttled >= 0", name=op.f("ck_syncs_counters")),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_syncs_gate_id")),
        sa.ForeignKeyConstraint(["shop_id"], ["shops.id"], name=op.f("fk_syncs_shop_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_syncs")),
        sa.UniqueConstraint(
            "gate_id", "shop_id", "kind", "external_id", name=op.f("uq_syncs_gate_id_shop_id_kind_external_id")
        ),
    )
    op.create_index(
        "ix_syncs_due",
        "syncs",
        ["gate_id", "priority", "due_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('pending', 'retrying')"),
        sqlite_where=sa.text("state IN ('pending', 'retrying')"),
    )
    op.create_index(
        "ix_syncs_live",
        "syncs",
        ["gate_id", "accepted_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('pending', 'retrying')"),
        sqlite_where=sa.text("state IN ('pending', 'retrying')"),
    )
    op.create_index(
        "ix_syncs_in_flight",
        "syncs",
        ["gate_id"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
        sqlite_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_syncs_lease",
        "syncs",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
        sqlite_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_syncs_open",
        "syncs",
        ["shop_id"],
        unique=False,
        postgresql_where=sa.text("state NOT IN ('done')"),
        sqlite_where=sa.text("state NOT IN ('done')"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("claim", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("error_class", sa.String(length=32), nullable=True),
        sa.Column("error_fingerprint", sa.String(length=12), nullable=True),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_ended")),
        sa.ForeignKeyConstraint(["sync_id"], ["syncs.id"], name=op.f("fk_attempts_sync_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("sync_id", "claim", name=op.f("uq_attempts_sync_id_claim")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("shop_id", Id, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("snapshot_updated_at", Instant(), nullable=True),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["shop_id"], ["shops.id"], name=op.f("fk_deliveries_shop_id")),
        sa.ForeignKeyConstraint(["sync_id"], ["syncs.id"], name=op.f("fk_deliveries_sync_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("sync_id", "version", name=op.f("uq_deliveries_sync_id_version")),
    )
    op.create_index("ix_deliveries_newest", "deliveries", ["sync_id", "snapshot_updated_at"], unique=False)
    op.create_index("ix_deliveries_received_at", "deliveries", ["received_at"], unique=False)
    op.create_table(
        "steps",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("sync_id", Id, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("method", sa.String(length=8), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("claim", sa.Integer(), nullable=False),
        sa.Column("sends", sa.Integer(), nullable=False),
        sa.Column("snapshot_updated_at", Instant(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("intended_at", Instant(), nullable=False),
        sa.Column("doubted_at", Instant(), nullable=True),
        sa.Column("doubts", sa.Integer(), nullable=False),
        sa.Column("verify_at", Instant(), nullable=True),
        sa.Column("applied_at", Instant(), nullable=True),
        sa.Column("remote_id", sa.Text(), nullable=True),
        sa.Column("remote_amount", sa.String(length=32), nullable=True),
        sa.Column("remote_currency", sa.String(length=3), nullable=True),
        sa.CheckConstraint("(state = 'applied') = (applied_at IS NOT NULL)", name=op.f("ck_steps_applied_at")),
        sa.CheckConstraint("state <> 'applied' OR remote_id IS NOT NULL", name=op.f("ck_steps_remote_id")),
        sa.CheckConstraint("state <> 'in_doubt' OR doubted_at IS NOT NULL", name=op.f("ck_steps_doubted_at")),
        sa.CheckConstraint("state IN ('intended', 'in_doubt', 'applied', 'refused')", name=op.f("ck_steps_state")),
        sa.ForeignKeyConstraint(["sync_id"], ["syncs.id"], name=op.f("fk_steps_sync_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
        sa.UniqueConstraint("sync_id", "key", name=op.f("uq_steps_sync_id_key")),
    )
    if op.get_context().dialect.name == "postgresql":
        # Room on each page for a sync's many updates, and vacuums that keep up with them.
        op.execute("ALTER TABLE syncs SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02)")
        op.execute("ALTER TABLE gates SET (fillfactor = 80)")
