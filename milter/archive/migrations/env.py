"""Run by Alembic for each upgrade, on the connection that `database.upgrade` holds."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], transaction_per_migration=False
)
context.run_migrations()
