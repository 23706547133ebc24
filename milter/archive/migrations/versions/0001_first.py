"""The first schema."""

from __future__ import annotations

from alembic import op

from carbonseal.milter.archive import schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    schema.metadata.create_all(op.get_bind())
