"""One file per schema version, oldest first by its number."""
