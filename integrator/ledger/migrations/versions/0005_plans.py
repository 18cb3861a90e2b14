"""A plan for each tenant and management system, and what of it is used."""

import sqlalchemy as sa
from alembic import op

from integrator.clock import Instant

revision = "0005"
down_revision = "0004"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BOUNDS = {
    "per_second": "per_second >= 0.01 AND per_second <= 10000",
    "burst": "burst >= 1 AND burst <= 10000",
    "per_day": "per_day >= 1 AND per_day <= 100000000",
    "order_percent": "order_percent >= 0 AND order_percent <= 90",
    "retry_first": "retry_first_seconds >= 1 AND retry_first_seconds <= 3600",
    "retry_longest": "retry_longest_seconds >= 1 AND retry_longest_seconds <= 86400",
}


def upgrade() -> None:
    op.add_column("gates", sa.Column("plan_version", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "plans",
        sa.Column("gate_id", Id, autoincrement=False, nullable=False),
        sa.Column("per_second", sa.Float(), nullable=True),
        sa.Column("burst", sa.Integer(), nullable=True),
        sa.Column("per_day", sa.Integer(), nullable=True),
        sa.Column("time_zone", sa.String(length=63), nullable=True),
        sa.Column("order_percent", sa.Integer(), nullable=True),
        sa.Column("retry_first_seconds", sa.Float(), nullable=True),
        sa.Column("retry_longest_seconds", sa.Float(), nullable=True),
        *(sa.CheckConstraint(bound, name=op.f(f"ck_plans_{name}")) for name, bound in BOUNDS.items()),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_plans_gate_id")),
        sa.PrimaryKeyConstraint("gate_id", name=op.f("pk_plans")),
    )
    op.create_table(
        "limits",
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.Column("taken_others", sa.Integer(), nullable=False),
        sa.Column("taken_polls", sa.Integer(), nullable=False),
        sa.Column("day_ends_at", Instant(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.Column("without_redis_until", Instant(), nullable=False),
        sa.CheckConstraint("taken >= 0 AND taken_others >= 0 AND taken_polls >= 0", name=op.f("ck_limits_taken")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_limits")),
    )
