"""The address of the milter socket, in the form the configuration uses.

Promises: `parse` accepts `unix:/path` and `inet:port@host` (also `inet6:`), the forms of libmilter;
`postfix_form` gives what belongs into main.cf, where the same address is written differently: the
commonest mistake when a milter is set up.

Raises: ConfigurationError with the form that was probably meant.

Does not: open sockets (`listener` does).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from carbonseal.policies.errors import ConfigurationError

_MAX_UNIX_PATH = 107  # sockaddr_un on Linux, without its NUL


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
    if kind in ("unix", "local") and colon:
        if not rest.startswith("/"):
            raise ConfigurationError(f"socket {text!r}: write an absolute path after unix:")
        if len(rest.encode()) > _MAX_UNIX_PATH:
            raise ConfigurationError(
                f"socket {text!r}: the path is longer than {_MAX_UNIX_PATH} octets; shorten it"
            )
        return SocketAddress(path=rest)
    found = re.fullmatch(r"(\d{1,5})@(.+)", rest) if kind in ("inet", "inet6") else None
    if found is None:
        postfix_style = re.fullmatch(r"(?:inet6?:)?(.+):(\d{1,5})", text)
        meant = (
            f"inet:{postfix_style[2]}@{postfix_style[1].strip('[]')}"
            if postfix_style
            else "unix:/run/carbonseal/milter.sock or inet:8894@127.0.0.1"
        )
        raise ConfigurationError(f"socket {text!r}: write {meant}")
    port, host = int(found[1]), found[2].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ConfigurationError(
            f"socket {text!r}: write an IP address, such as inet:{port}@127.0.0.1"
        ) from None
    if port > 65535:
        raise ConfigurationError(f"socket {text!r}: the port must be at most 65535")
    return SocketAddress(host=host, port=port)
