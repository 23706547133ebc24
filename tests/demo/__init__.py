"""`make demo`: the main job before your eyes, with a real Postfix and other people's verifiers."""
