"""Alembic migrations of the archive; run through `carbonseal.milter.archive.database`, never by hand."""
