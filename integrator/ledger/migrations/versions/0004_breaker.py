"""The breaker: what it has counted, since when it is in its state, and whose claim has its only place."""

import sqlalchemy as sa
from alembic import op

from integrator.clock import EPOCH, Instant

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    never = str(Instant().process_bind_param(EPOCH, op.get_bind().dialect))
    for name in ("breaker_failures", "breaker_trips"):
        op.add_column("gates", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.add_column("gates", sa.Column("breaker_since", Instant(), nullable=False, server_default=never))
    op.add_column("gates", sa.Column("probe_sync", sa.BigInteger(), nullable=True))
