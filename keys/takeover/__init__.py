"""Keys that other signers kept: reading their tables, and giving keys away in their forms."""
