"""Records that leave the archive, with their proof, and come back."""
