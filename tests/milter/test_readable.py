"""Waiting until a descriptor may be read."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import threading

import pytest

from carbonseal.milter import readable


def test_a_descriptor_beyond_the_first_1024_is_waited_for() -> None:
    """A process with many connections open goes on; select(2) would refuse the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        assert hard > 1100, "these tests need more than 1,100 descriptors"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1050)
    try:
        assert not readable.wait(high, 0)
        os.write(writing, b"x")
        assert readable.wait(high, 0)
    finally:
        for descriptor in (high, reading, writing):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "seconds", [pytest.param(60.0, id="a-minute"), pytest.param(None, id="without-end")]
)
def test_the_other_end_closing_wakes_the_waiter(seconds: float | None) -> None:
    """What waits for a supervisor learns of its death at once."""
    ours, theirs = socket.socketpair()
    with ours:
        closer = threading.Thread(target=theirs.close)
        closer.start()
        assert readable.wait(ours, seconds)
        closer.join()
        assert ours.recv(1) == b""
