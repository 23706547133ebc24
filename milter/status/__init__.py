"""How the relay is doing: what is counted and seen of it, and who is told."""
