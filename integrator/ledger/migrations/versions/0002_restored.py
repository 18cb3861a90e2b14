"""After a restore every order is looked up before it is written; and old requests are found to be emptied."""

import sqlalchemy as sa
from alembic import op

from integrator.clock import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("gates", sa.Column("restored_at", Instant(), nullable=True))
    op.add_column("syncs", sa.Column("reconciled_at", Instant(), nullable=True))
    has_body = sa.text("length(body) > 0")
    op.create_index(
        "ix_steps_has_body", "steps", ["intended_at"], postgresql_where=has_body, sqlite_where=has_body
    )
