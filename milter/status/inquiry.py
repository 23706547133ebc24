"""Get the newest page of a running relay: from its endpoint, or from the file it writes.

Promises: waits no longer than `PATIENCE` seconds; what comes back is a page that is whole, with its
age, or an error that says where was looked.

Raises: NoPage.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from carbonseal.milter.socket_address import SocketAddress
from carbonseal.milter.status import lookout, state_files
from carbonseal.policies.errors import TryLater

PATIENCE: Final = 3.0


class NoPage(TryLater):
    """Nobody says how the relay is."""


def newest(spool: Path, address: SocketAddress | None) -> dict[str, Any]:
    """The page, from the endpoint if it answers."""
    page = None if address is None else _asked(address)
    page = page or state_files.read(spool, lookout.NAME)
    if page is None or not isinstance(page.get("checks"), list):
        path = spool / state_files.FOLDER / f"{lookout.NAME}.json"
        where = str(path) if address is None else f"{address.postfix_form} and {path}"
        raise NoPage(
            f"{where}: nothing can be read about the service there; start it, or look as a user "
            "who may read the spool"
        )
    return page


def age_of(page: Mapping[str, Any]) -> float:
    """Seconds since somebody looked."""
    return max(0.0, time.time() - float(page["at"]))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def _asked(address: SocketAddress) -> dict[str, Any] | None:
    if address.path is not None:
        asking: http.client.HTTPConnection = _UnixConnection(address.path)
    else:
        asking = http.client.HTTPConnection(
            address.host or "localhost", address.port, timeout=PATIENCE
        )
    try:
        asking.request("GET", "/status")
        content = asking.getresponse().read(state_files.MAX_FILE)
        page = state_files.parse(content)
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        asking.close()
    has_page = isinstance(page, dict) and isinstance(page.get("at"), int | float)
    return page if has_page else None
