"""A TCP server that answers each DNS message with what a function makes of it.

For answers that no honest name server gives: none at all, rubbish, unsigned consent.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from carbonseal.keys.publication.settings import ServerAddress
from support import ports

Answering = Callable[[bytes], bytes | None]  # None: keep the connection and say nothing


@contextlib.contextmanager
def strange_server(answer: Answering) -> Iterator[ServerAddress]:
    """Serve on loopback until the end of the with statement."""
    with contextlib.ExitStack() as connections, socket.create_server((ports.LOOPBACK, 0)) as door:
        thread = threading.Thread(target=_serve, args=(door, answer, connections))
        thread.start()
        try:
            yield ServerAddress(ports.LOOPBACK, door.getsockname()[1])
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(door: socket.socket, answer: Answering, connections: contextlib.ExitStack) -> None:
    while True:
        try:
            stream, _ = door.accept()
        except OSError:
            return  # the door was shut
        connections.enter_context(contextlib.closing(stream))
        with contextlib.suppress(OSError, struct.error):
            (length,) = struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))
            reply = answer(stream.recv(length, socket.MSG_WAITALL))
            if reply is not None:
                stream.sendall(reply)
                stream.close()
