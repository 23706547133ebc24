"""The parts of the writer: from the spool to SQL."""
