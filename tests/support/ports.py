"""Free TCP ports on loopback for servers that cannot bind port 0 themselves.

Promises: a port that nothing listened on a moment ago, that no other test process on the machine is
given while this one lives, and below the kernel's ephemeral range, so that no outgoing connection
takes it between the choice and the use.

Does not: keep strangers away.  A server that can bind port 0 should do that instead.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 10_240
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
# The system's own randomness: parallel test workers must not walk through the same sequence.
_random = random.SystemRandom()
# Postfix listens with SO_REUSEPORT: two instances on one port would not clash but share clients.
# An abstract socket for each given port is seen by all test processes and ends with its own.
_given: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 without a listener; OSError when 1,000 tries found none."""
    highest = _lowest_ephemeral() - 1
    for _ in range(1_000):
        port = _random.randint(_LOWEST, highest)
        if _is_free(port) and _reserve(port):
            return port
    raise OSError(f"no free TCP port between {_LOWEST} and {highest} on {LOOPBACK}")


def _lowest_ephemeral() -> int:
    try:
        lowest = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
    return lowest if lowest > _LOWEST + 1_000 else 65_536


def _reserve(port: int) -> bool:
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mark.bind(f"\0carbonseal-test-port-{port}")
    except OSError:
        mark.close()
        return False
    _given.append(mark)
    return True


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
