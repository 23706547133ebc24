"""The address of the milter socket, in the form the configuration uses.

Promises: `parse` accepts `unix:/path` and `inet:port@host` (also `inet6:`), the forms of libmilter;
`postfix_form` gives what belongs into main.cf, where the same address is written differently: the
commonest mistake when a milter is set up.

Raises: ConfigurationError with the form that was probably meant; TryLater from `refuse_served`,
which asks whether a UNIX socket is in use, so that a second instance does not take the place of one
that lives.

Does not: listen (`listener` does).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
import time
from dataclasses import dataclass

from carbonseal.policies.errors import ConfigurationError, TryLater

_MAX_UNIX_PATH = 107  # sockaddr_un on Linux, without its NUL
# After a supervisor was killed, its workers need a moment to let go of the socket.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where the milter listens."""

    path: str | None = None  # of a UNIX socket
    host: str | None = None  # IP address
    port: int = 0

    @property
    def postfix_form(self) -> str:
        """As smtpd_milters wants it."""
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in (self.host or "") else self.host
        return f"inet:{host}:{self.port}"


def parse(text: str) -> SocketAddress:
    """The address written in `text`."""
    kind, colon, rest = text.partition(":")
    if not text.isprintable():
        raise ConfigurationError(f"socket {text!r}: leave out control characters and line breaks")
    if kind in ("unix", "local") and colon:
        if not rest.startswith("/"):
            raise ConfigurationError(f"socket {text!r}: write an absolute path after unix:")
        if rest.rpartition("/")[2] in ("", ".", ".."):
            raise ConfigurationError(f"socket {text!r}: name a file, such as {rest}milter.sock")
        if len(rest.encode()) > _MAX_UNIX_PATH:
            raise ConfigurationError(
                f"socket {text!r}: the path is longer than {_MAX_UNIX_PATH} octets; shorten it"
            )
        return SocketAddress(path=rest)
    found = re.fullmatch(r"(\d{1,5})@(.+)", rest) if kind in ("inet", "inet6") else None
    if found is None:
        only_port = re.fullmatch(r"(?:inet6?:)?(\d{1,5})", text)
        postfix_style = re.fullmatch(r"(?:inet6?:)?(.+):(\d{1,5})", text)
        if only_port:
            meant = f"inet:{only_port[1]}@127.0.0.1"
        elif postfix_style:
            meant = f"inet:{postfix_style[2]}@{postfix_style[1].strip('[]')}"
        else:
            meant = "unix:/run/carbonseal/milter.sock or inet:8894@127.0.0.1"
        raise ConfigurationError(f"socket {text!r}: write {meant}")
    port, host = int(found[1]), found[2].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ConfigurationError(
            f"socket {text!r}: write an IP address, such as inet:{port}@127.0.0.1"
        ) from None
    if not 1 <= port <= 65535:
        raise ConfigurationError(f"socket {text!r}: write a port from 1 to 65535")
    return SocketAddress(host=host, port=port)


def refuse_served(address: SocketAddress) -> None:
    """Raise TryLater if somebody answers at the UNIX socket `address`, and goes on doing so.

    Raises ConfigurationError for a file that is no socket.  A stale socket is replaced by
    `listener`; a port is protected by the kernel.
    """
    if address.path is None:
        return
    if _is_other_file(address.path):
        raise ConfigurationError(
            f"milter.socket unix:{address.path}: there is something that is no socket; name "
            f"another place"
        )
    deadline = time.monotonic() + _PATIENCE
    while _is_served(address.path):
        if time.monotonic() > deadline:
            raise TryLater(
                f"milter.socket unix:{address.path}: another process serves it; stop that one, or "
                f"choose another socket"
            )
        time.sleep(0.1)


def _is_other_file(path: str) -> bool:
    try:
        return not stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False  # nothing there, or a trouble that `listener` explains


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except BlockingIOError:
            return True  # its queue is full: a busy one
        except OSError:
            return False
        return True
