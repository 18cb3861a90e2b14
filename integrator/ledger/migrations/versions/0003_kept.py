"""A tenant says how long its data is kept, a shop how much may wait; what is stopped is found by an index.

Old deliveries and requests are found by primary key, so that two indexes on times go.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("tenants", _at_least("tenants", "keep_days", 3))
    op.add_column("shops", _at_least("shops", "max_open_deliveries", 1))
    op.drop_index("ix_deliveries_received_at", "deliveries")
    op.drop_index("ix_steps_has_body", "steps")
    for name, table, where in (
        ("ix_steps_has_body", "steps", sa.text("length(body) > 0")),
        ("ix_syncs_stopped", "syncs", sa.text("state IN ('held', 'dead')")),
    ):
        op.create_index(name, table, ["id"], postgresql_where=where, sqlite_where=where)


def _at_least(table: str, name: str, least: int) -> sa.Column[int]:
    check = sa.CheckConstraint(f"{name} >= {least}", name=f"ck_{table}_{name}")
    return sa.Column(name, sa.Integer(), check, nullable=True)
