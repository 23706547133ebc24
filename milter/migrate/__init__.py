"""From another signer to this one: its configuration read, ours written, what differs listed."""
