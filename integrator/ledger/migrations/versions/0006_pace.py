"""How long a gate's runs take, for its window."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("gates", sa.Column("run_seconds", sa.Float(), nullable=True))
