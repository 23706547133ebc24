"""The memory of what was sealed: record, spool, SQL, and the questions people ask of it."""
