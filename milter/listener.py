"""The listening socket: bound once by the supervisor, shared by every worker.

Promises: the UNIX socket appears under its name only when it is ready, with its mode and group, and
takes the place of a stale one; accepted mail never waits on a socket nobody listens to.

Raises: ListenerUnusable with the remedy.

Does not: accept connections (`reception` or libmilter does).
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import time
from pathlib import Path

from carbonseal.milter.socket_address import SocketAddress
from carbonseal.policies.errors import ConfigurationError

BACKLOG = 128
# After a supervisor was killed, its workers need a moment to let go of the port.
_PATIENCE = 10.0


class ListenerUnusable(ConfigurationError):
    """The socket cannot be opened as configured."""


class Listener:
    """An inheritable listening socket and the name it was given."""

    def __init__(self, address: SocketAddress, *, mode: int, group: str | None) -> None:
        self.address = address
        self.socket = _unix(address.path, mode, group) if address.path else _inet(address)
        # Non-blocking: a worker that loses the race for a connection must not sleep in accept(2).
        self.socket.setblocking(False)
        self._inode = os.stat(address.path).st_ino if address.path else None

    def permit(self, *, mode: int, group: str | None) -> None:
        """Change who may connect to a UNIX socket; an Internet socket has no such limits."""
        path = self.address.path
        if path is None:
            return
        try:
            os.chown(path, -1, os.getegid() if group is None else _group_id(group))
            os.chmod(path, mode)
        except OSError as fault:
            raise ListenerUnusable(
                f"milter.socket unix:{path}: cannot change mode or group ({fault.strerror}); give "
                f"it to the service's user"
            ) from None

    def close(self) -> None:
        """Close, and remove the name of a UNIX socket unless somebody else has taken it over."""
        self.socket.close()
        if self.address.path is None:
            return
        try:
            if os.stat(self.address.path).st_ino == self._inode:
                os.unlink(self.address.path)
        except OSError:
            pass  # it is gone already


def _inet(address: SocketAddress) -> socket.socket:
    assert address.host is not None
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    deadline = time.monotonic() + _PATIENCE
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
            listener.listen(BACKLOG)
            return listener
        except OSError as fault:
            listener.close()
            if fault.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ListenerUnusable(
                    f"milter.socket {address.postfix_form}: cannot listen ({fault.strerror}); "
                    f"stop what uses the address or choose another one"
                ) from None
            time.sleep(0.1)


def _unix(path_text: str, mode: int, group: str | None) -> socket.socket:
    path = Path(path_text)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        temporary.unlink(missing_ok=True)
        previous = os.umask(0o177)  # nobody else until mode and group are right
        try:
            listener.bind(str(temporary))
        finally:
            os.umask(previous)
        if group is not None:
            os.chown(temporary, -1, _group_id(group))
        os.chmod(temporary, mode)
        listener.listen(BACKLOG)
        os.rename(temporary, path)
    except OSError as fault:
        listener.close()
        raise ListenerUnusable(
            f"milter.socket unix:{path}: cannot listen ({fault.strerror}); create {path.parent} "
            f"and give the service's user write permission there"
        ) from None
    return listener


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenerUnusable(
            f"milter.socket_group {group!r}: no such group; name one that Postfix belongs to"
        ) from None
