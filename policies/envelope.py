"""The envelope of one message as the MTA told it, before anybody judges it.

Promises: values only.  Raw arguments stand beside what Postfix resolved from them, because the two
may differ (source routes, percent hack, bang paths, inner quotes) and the difference decides where
a message goes: Postfix's answer is in {rcpt_addr} and {mail_addr} (MILTER_README; measured on
Postfix 3.7).

Does not: decide what is ours, or parse ESMTP parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from carbonseal.policies.address import Path

# Recipients of one message that are remembered for the next: the first ones.  Those of a mailing
# would drive out everybody who recurs, and each other before their turn comes again, so that a
# recipient of 3,000 cost three times one of 2,000.
RECURRING = 256


@dataclass(frozen=True, slots=True)
class Client:
    """Who is connected to the MTA."""

    address: str  # textual IP address; '' when the MTA does not know one
    port: int  # 0 for mail that did not come through SMTP
    name: str  # verified host name, or '[address]' or 'unknown'
    helo: str  # argument of HELO or EHLO; '' when none was given


# Tuples where a message makes a new one each time: a frozen dataclass takes twice as long to make.
class ReversePath(NamedTuple):
    """The argument of MAIL FROM."""

    path: Path
    resolved: str | None  # {mail_addr}; '' for the null reverse-path, None when not given
    esmtp: tuple[str, ...]  # SIZE=, BODY=, SMTPUTF8, RET=, ENVID=, as typed


class Recipient(NamedTuple):
    """The argument of one RCPT TO that the MTA accepted."""

    path: Path
    resolved: str | None  # {rcpt_addr}, before alias expansion; None when not given
    mailer: str | None  # {rcpt_mailer}: the transport Postfix would use
    host: str | None  # {rcpt_host}: its next hop
    esmtp: tuple[str, ...]  # NOTIFY=, ORCPT=, as typed


class Envelope(NamedTuple):
    """What SMTP said about one message (RFC 5321, section 2.3.1)."""

    client: Client
    listener: str  # {daemon_name}: which smtpd service took the message
    login: str  # {auth_authen}: SASL login name; '' without one
    login_method: str  # {auth_type}
    reverse_path: ReversePath
    recipients: tuple[Recipient, ...]
