"""A whole relay: the milter, a private Postfix before it, and sinks behind that.

Promises: one context manager brings everything up on loopback and takes everything down again.

Does not: judge anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from support.carbonseal import ARCHIVE, Carbonseal
from support.postfix import PrivatePostfix, private_directory
from support.sink import Delivery, Sink
from support.smtp_client import Sending, SmtpClient

# Who a test client is: listener of Postfix and identity shown by XCLIENT.
CLIENTS: dict[str, tuple[str, dict[str, str]]] = {
    "inside": ("inside", {"address": "192.0.2.10", "name": "desk.example.com"}),
    "submission": ("submission", {"address": "198.51.100.7", "login": "alice"}),
    "login": ("inside", {"address": "198.51.100.7", "login": "alice"}),
    "outside": ("outside", {"address": "198.51.100.99", "name": "mx.partner.example"}),
    "loopback": ("inside", {}),
    "peer": ("inside", {"address": "203.0.113.25"}),
}


@dataclass(frozen=True, slots=True)
class Relay:
    """Everything between a client and the mailboxes."""

    service: Carbonseal
    mta: PrivatePostfix
    sink: Sink  # every mailbox but the archive's
    archive: Sink

    def client(self, who: str) -> SmtpClient:
        """A connection of one of CLIENTS."""
        listener, identity = CLIENTS[who]
        return self.mta.client(listener, **identity)

    def send(
        self, who: str, reverse_path: str | bytes, recipients: list[str], content: bytes
    ) -> Sending:
        """One message on a connection of its own."""
        with self.client(who) as client:
            return client.send(reverse_path, recipients, content)

    def copies(self, mark: bytes) -> list[Delivery]:
        """Archive copies of messages that hold `mark`."""
        return [one for one in self.archive.deliveries if mark in one.content]

    def delivered(self, mark: bytes) -> list[Delivery]:
        """Deliveries to everybody else of messages that hold `mark`."""
        return [one for one in self.sink.deliveries if mark in one.content]


@contextmanager
def relay(
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    keys: tuple[tuple[str, ...], ...] = (("example.com",),),
    base: str = "/tmp",
    **postfix: Any,
) -> Iterator[Relay]:
    """A running relay; `changes` to our configuration, `keys` as options of `keys generate`."""
    with private_directory(base) as directory, Sink() as sink, Sink() as archive:
        service = Carbonseal(directory / "seal", changes)
        for sdid, *options in keys:
            service.make_key(sdid, *options)
        home = directory / "mta"
        home.mkdir(mode=0o755)
        mta = PrivatePostfix(
            home,
            remote=sink.port,
            archive=archive.port,
            **{"milters": [f"unix:{service.socket}"], **postfix},
        )
        with service, mta:
            yield Relay(service, mta, sink, archive)


def copy_parameters(copy: Delivery) -> list[tuple[str, ...]]:
    """RCPT parameters under which the archive recipient was addressed."""
    return [one.parameters for one in copy.recipients if one.address == ARCHIVE]
