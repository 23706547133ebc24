"""One message between MAIL and end of message: what the MTA told us, gathered and nothing more.

Promises: fresh at MAIL and gone at end of message or abort, so that nothing of one message reaches
the next on the same connection.  The body is hashed and measured as it streams by and never kept;
memory does not grow with it.

Does not: decide anything.
"""

from __future__ import annotations

from carbonseal.milter.body import Body
from carbonseal.policies import address
from carbonseal.policies.envelope import Client, Envelope, Recipient, ReversePath

_TEXT = ("utf-8", "surrogateescape")
# Far beyond any letter.  Without a bound one client could fill a worker's memory: a field of two
# octets costs some 275 here (measured with 400,000 of them).
MAX_FIELDS = 20_000
MAX_HEADER_OCTETS = 8 * 1024 * 1024


def text(raw: bytes) -> str:
    """Octets from the wire as lossless text (see `archive.record`)."""
    return raw.decode(*_TEXT)


class Transaction:
    """Everything the MTA says about one message."""

    __slots__ = (
        "_names",
        "body",
        "body_at",
        "client",
        "envelope_at",
        "fields",
        "header_size",
        "is_header_oversized",
        "listener",
        "login",
        "login_method",
        "queue_id",
        "recipients",
        "relay",
        "reverse_path",
        "tls",
    )

    def __init__(
        self,
        *,
        client: Client,
        listener: str,
        relay: str,
        arguments: tuple[bytes, ...],
        resolved: str | None,
        body_canonicalization: str,
    ) -> None:
        self.client = client
        self.listener = listener  # {daemon_name}
        self.relay = relay  # {j}
        self.reverse_path = ReversePath(
            address.parse_path(text(arguments[0])), resolved, tuple(map(text, arguments[1:]))
        )
        self.login = ""
        self.login_method = ""
        self.tls: dict[str, str] | None = None
        self.queue_id = ""  # known for certain only at end of message
        self.recipients: list[Recipient] = []
        self.fields: list[tuple[str, bytes]] = []  # in order, values exactly as received
        self.header_size = 0  # octets of the header section as it goes out
        self.is_header_oversized = False  # there were more fields than are kept
        self.body = Body(body_canonicalization)
        # By the clock of performance, 0 for never: its last recipient, the first piece of its body.
        self.envelope_at = 0.0
        self.body_at = 0.0
        self._names: list[str] | None = None

    def add_recipient(
        self,
        arguments: tuple[bytes, ...],
        *,
        resolved: str | None,
        mailer: str | None,
        host: str | None,
    ) -> None:
        """One RCPT TO that the MTA accepted."""
        path = address.parse_path(text(arguments[0]))
        esmtp = tuple(map(text, arguments[1:]))
        self.recipients.append(Recipient(path, resolved, mailer, host, esmtp))

    def add_field(self, name: str, value: bytes) -> None:
        """One header field: the value with its leading space and LF folding."""
        if len(self.fields) >= MAX_FIELDS or self.header_size >= MAX_HEADER_OCTETS:
            self.is_header_oversized = True
            return
        self.fields.append((name, value))
        # Colon, CRLF, and one CR for every folding that the MTA shows as a bare LF.
        self.header_size += len(name) + len(value) + 3 + value.count(b"\n")

    def envelope(self) -> Envelope:
        """The envelope as a value for the policies."""
        return Envelope(
            client=self.client,
            listener=self.listener,
            login=self.login,
            login_method=self.login_method,
            reverse_path=self.reverse_path,
            recipients=tuple(self.recipients),
        )

    def names(self) -> list[str]:
        """Lower-case names of all fields, top to bottom; to be asked when all are there."""
        if self._names is None:
            self._names = [name.lower() for name, _ in self.fields]
        return self._names

    def values_of(self, name: str) -> list[bytes]:
        """Values of all fields called `name` (lower case), top to bottom."""
        names = self.names()
        if name not in names:
            return []
        return [field[1] for field, found in zip(self.fields, names, strict=True) if found == name]
