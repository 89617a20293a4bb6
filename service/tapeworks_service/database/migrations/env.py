"""Run by Alembic: migrates over the connection that the service gives it."""

from __future__ import annotations

from alembic import context

from tapeworks_service.database.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
