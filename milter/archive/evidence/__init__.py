"""Proof that what the archive says is what was recorded."""
