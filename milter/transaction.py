"""One message between MAIL and end of message: what the MTA told us, gathered and nothing more.

Promises: fresh at MAIL and gone at end of message or abort, so that nothing of one message reaches
the next on the same connection.  The body is hashed and measured as it streams by and never kept;
memory does not grow with it.  Recipients and header fields without end are not kept, either.

Raises: TooManyRecipients, once; `session` has such a message refused, and recorded with those that
were kept.

Does not: decide anything.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final, NamedTuple

from carbonseal.keys.body_hash import BodyHash
from carbonseal.milter import header_section, macros
from carbonseal.milter.header_section import HeaderSection
from carbonseal.milter.usual_message import Gathered, Means
from carbonseal.policies import address
from carbonseal.policies.address import Path
from carbonseal.policies.envelope import RECURRING, Client, Envelope, Recipient, ReversePath

_TEXT = ("utf-8", "surrogateescape")
# The same people write to the same people, with the same kind of letter.  What is longer is read
# anew each time, so that strangers cannot fill the memory; so are the many of a mailing, who would
# only drive each other out, and everybody else (see `envelope.RECURRING`).
_REMEMBERED = 2048
_SHORT = 256  # octets of an argument of MAIL or RCPT
# Far beyond any mailing: Postfix takes 1,000 recipients by default, and those who raise that hand
# over some ten thousand.  Without a bound whoever reaches the socket could fill a worker's memory.
MAX_RECIPIENTS = 100_000
MAX_RECIPIENT_OCTETS = 32 * 1024 * 1024  # of all arguments of RCPT and the macros with them
_PARAMETER = 64  # octets that a parameter takes beside its own
_new: Final = tuple.__new__  # without the function that a named tuple has for it


class TooManyRecipients(Exception):
    """Not all of them are known, so nobody can say whether the message crosses the boundary."""


def text(raw: bytes) -> str:
    """Octets from the wire as lossless text (see `archive.record`)."""
    return raw.decode(*_TEXT)


@lru_cache(_REMEMBERED)
def _path(argument: bytes) -> Path:
    return address.parse_path(text(argument))


@lru_cache(_REMEMBERED)
def _recipient(
    argument: bytes, resolved: str | None, mailer: str | None, host: str | None
) -> Recipient:
    return Recipient(address.parse_path(text(argument)), resolved, mailer, host, ())


@lru_cache(256)
def _split(names: str) -> tuple[str, ...]:
    return tuple(names.split("\n"))


class Connection(NamedTuple):
    """What is the same for all messages of a client."""

    client: Client
    listener: str  # {daemon_name}
    relay: str  # {j}
    tls: dict[str, str] | None = None  # None without


class Transaction(Gathered):
    """Everything the MTA says about one message."""

    # The parts are those of `Gathered`: `usual_message` fills them, too.
    __slots__ = ()

    def __init__(
        self,
        connection: Connection,
        arguments: tuple[bytes, ...],
        resolved: str | None,
        body_canonicalization: str,
    ) -> None:
        """`arguments` are those of MAIL, `resolved` is what Postfix makes of its reverse-path."""
        self.client, self.listener, self.relay, self.tls = connection
        argument = arguments[0]
        path = (_path if len(argument) <= _SHORT else _path.__wrapped__)(argument)
        esmtp = tuple([one.decode(*_TEXT) for one in arguments[1:]])
        self.reverse_path = ReversePath(path, resolved, esmtp)
        self.login = ""
        self.login_method = ""
        self.queue_id = ""  # known for certain only at end of message
        self.recipients: list[Recipient] = []
        self.header = HeaderSection()
        self.fields = self.header.fields  # in order, values exactly as received
        self.body = BodyHash(body_canonicalization)
        # By the clock of performance, 0 for never: its last recipient, the first piece of its body.
        self.envelope_at = 0.0
        self.body_at = 0.0
        self._names: tuple[str, ...] | None = None
        self._recipient_octets = 0
        self._has_too_many = False

    def add_recipient(
        self,
        arguments: tuple[bytes, ...],
        resolved: str | None,
        mailer: str | None,
        host: str | None,
    ) -> None:
        """One RCPT TO that the MTA accepted.

        Raises: TooManyRecipients for the first one that is not kept; those after it are dropped
        without another word, or each would cost a line in the log.
        """
        if self._has_too_many:
            return
        recipients, argument = self.recipients, arguments[0]
        octets = len(argument) + len(resolved or "") + len(mailer or "") + len(host or "")
        if len(arguments) > 1:
            octets += sum(map(len, arguments[1:])) + _PARAMETER * (len(arguments) - 1)
        self._recipient_octets += octets
        if len(recipients) >= MAX_RECIPIENTS or self._recipient_octets > MAX_RECIPIENT_OCTETS:
            self._has_too_many = True
            raise TooManyRecipients(f"only {len(recipients)} of them were kept")
        if len(arguments) == 1 and len(argument) <= _SHORT and len(recipients) < RECURRING:
            # What the macros say is Postfix's own or as long as the address.
            made = _recipient(argument, resolved, mailer, host)
        else:
            esmtp = tuple(map(text, arguments[1:]))
            made = Recipient(address.read_path(text(argument)), resolved, mailer, host, esmtp)
        recipients.append(made)

    def add_field(self, name: str, value: bytes) -> None:
        """One header field: the value with its leading space and LF folding."""
        self.header.add(name, value)

    @property
    def size(self) -> int:
        """Octets of the message as it goes out."""
        return self.header.size + 2 + self.body.size

    def envelope(self) -> Envelope:
        """The envelope as a value for the policies."""
        return _new(
            Envelope,
            (
                self.client,
                self.listener,
                self.login,
                self.login_method,
                self.reverse_path,
                tuple(self.recipients),
            ),
        )

    def names(self) -> tuple[str, ...]:
        """Lower-case names of all fields, top to bottom; to be asked when all are there."""
        if self._names is None:
            joined = self.header.joined_names()
            if joined is None:
                self._names = tuple([name.lower() for name, _ in self.fields])
            else:
                self._names = _split(joined)
        return self._names

    def values_of(self, name: str) -> list[bytes]:
        """Values of all fields called `name` (lower case), top to bottom."""
        return self.header.values(name)


# What `usual_message` gathers one with, without a frame of Python for each event.
USUAL: Final = Means(
    transaction=Transaction,
    reverse_path=ReversePath,
    path=_path,
    recipient=_recipient,
    header=HeaderSection,
    body=BodyHash,
    fields=header_section.fields,
    clock=time.perf_counter,
    of_mail=macros.OF_MAIL,
    of_recipient=macros.OF_RECIPIENT,
    of_end=macros.QUEUE_ID,
    short=_SHORT,
    recurring=RECURRING,
    most_octets=MAX_RECIPIENT_OCTETS,
)
