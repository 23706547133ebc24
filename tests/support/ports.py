"""Free TCP ports on loopback for servers that cannot bind port 0 themselves.

Promises: a port that nothing listened on a moment ago, that no other test process on the machine is
given while this one lives, and below the kernel's ephemeral range, so that no outgoing connection
takes it between the choice and the use.

Does not: keep strangers away.  A server that can bind port 0 should do that instead.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 10_240
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
# The system's own randomness: parallel test workers must not walk through the same sequence.
_random = random.SystemRandom()
# Postfix listens with SO_REUSEPORT: two instances on one port would not clash but share clients.
# One octet of this file is locked for each given port: all test processes of an account see it, it
# ends with its process, and it takes one descriptor however many ports a run asks for.
_given: set[int] = set()  # a lock does not keep its own process out


@functools.cache
def _marks() -> int:
    # Never closed: closing any descriptor of a file gives up all locks its process has on it.
    name = Path(tempfile.gettempdir()) / f"carbonseal-test-ports-{os.geteuid()}"
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


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
    if port in _given:
        return False
    try:
        fcntl.lockf(_marks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _given.add(port)
    return True


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
