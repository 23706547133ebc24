"""What one case of the corpus is, and the world in which its expectations hold.

World: ours are example.com, every subdomain of corp.example.com and bücher.example (listed as
xn--bcher-kva.example), the network 192.0.2.0/24, the listener submission, and every login; loopback
and sendmail(1) prove nothing.  There are active keys for example.com, mail.corp.example.com and
xn--bcher-kva.example, no rules besides, canonicalization relaxed/relaxed.  The archive recipient is
archive@archive.example.net, for mail that crosses.  The next hop offers 8BITMIME, SMTPUTF8 and DSN.
Postfix 3.7 with the parameters POSTFIX relays for inside, submission and loopback clients; with
POSTFIX_OUTSIDE on its listener, outside clients may write to our domains only.

Promises: plain values; `build` gives the same octets at every call and is the only thing that may
take time or memory.

Does not: send anything, or know Carbonseal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Via = Literal["submission", "inside", "outside", "loopback", "sendmail"]
Crossing = Literal["internal", "outbound", "inbound", "transit"]
Smtp = Literal["250", "4", "5", "postfix"]

CLIENTS = {
    "submission": "198.51.100.7",  # anywhere; the listener or a login proves the origin
    "inside": "192.0.2.10",
    "outside": "198.51.100.7",
    "loopback": "127.0.0.1",
    "sendmail": "127.0.0.1",  # with port 0
}

POSTFIX: Mapping[str, str] = {
    "message_size_limit": "60000000",
    "mailbox_size_limit": "0",
    "queue_minfree": "0",
    "myorigin": "example.com",
    # To Postfix the two spellings are two domains.
    "mydestination": "example.com, xn--bcher-kva.example, bücher.example, localhost",
    # Else Postfix adds From and completes addresses for every XCLIENT client of a loopback test,
    # which it does not do for real clients in the network.
    "local_header_rewrite_clients": "",
}
POSTFIX_OUTSIDE: Mapping[str, str] = {
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What must become of a message."""

    signed: bool
    why_unsigned: str | None  # code of the reason; None when signed or never seen by the milter
    crossing: Crossing
    copy: bool  # the archive recipient is added
    smtp: Smtp = "250"  # first digit of a refusal; 'postfix': refused before any milter decides
    verifies: bool = True  # all verifiers accept what was delivered; False: `note` says who not
    reasons: tuple[str, ...] = ()  # codes that must be recorded besides
    note: str = ""  # doubts, and what Postfix does with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One message with its envelope."""

    id: str
    about: str  # what could go wrong, and for whom
    covers: tuple[str, ...]  # keys of topics.TOPICS
    via: Via
    login: str | None  # SASL login, on submission only
    reverse_path: bytes  # without <>
    recipients: tuple[bytes, ...]  # without <>
    mail_parameters: tuple[bytes, ...]  # of MAIL FROM
    build: Callable[[], bytes]  # the message with CRLF, before dot-stuffing
    expect: Expect


Between = Literal["nothing", "rset-after-mail", "rset-after-recipient", "refused-recipient"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Cases sent one after another over one connection; all have the same `via` and `login`."""

    id: str
    about: str
    covers: tuple[str, ...]
    cases: tuple[str, ...]  # ids, in this order
    between: Between  # the half transaction of another author before each case but the first
