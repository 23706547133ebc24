"""Alembic migrations of the archive; run through `archive.database`, never by hand."""
