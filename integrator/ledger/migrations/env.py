"""Alembic's environment: migrations run on the connection that `integrator.ledger.upgrade` hands over."""

from alembic import context

from integrator.ledger.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
