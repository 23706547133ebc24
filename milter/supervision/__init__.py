"""The processes of a relay: the parent, the children it keeps alive, and what systemd hears."""
