"""Telling systemd about our state (sd_notify(3)), without a library for ten lines.

Promises: does nothing when no service manager asked to be told, and never raises.
"""

from __future__ import annotations

import os
import socket


def notify(*states: str) -> None:
    """Send `READY=1`, `RELOADING=1`, `STOPPING=1` or the like."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto("\n".join(states).encode(), address)
    except OSError:
        pass  # the service manager will see a start that takes too long; mail matters more
