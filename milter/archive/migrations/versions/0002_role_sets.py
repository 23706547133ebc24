"""Sets of roles that were ever held at once (PostgreSQL)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "archive_5"
down_revision = "archive_4"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    made = op.create_table(
        "role_set",
        sa.Column(
            "holder_id",
            sa.BigInteger(),
            primary_key=True,
            autoincrement=False,
            comment="domain; 0: an address of any domain",
        ),
        sa.Column(
            "roles",
            sa.SmallInteger(),
            primary_key=True,
            autoincrement=False,
            comment="as in the terms; with holder 0, 0: any set of any holder",
        ),
        comment="sets of roles that somebody held in one record; searches ask for no others",
    )
    # Nobody wrote down the sets of records that are there already.  Nor will writers of an earlier
    # version that are still connected, even if there is none yet.
    if not context.config.attributes["is_new"]:
        op.bulk_insert(made, [{"holder_id": 0, "roles": 0}])
