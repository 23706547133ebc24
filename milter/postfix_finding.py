"""What `postfix lint` may find: each code once, with its weight and its meaning.

Promises: codes are stable; CATALOGUE is the table of the manual, and a test compares it with the
codes that the checks use and with a broken setting for each.

Does not: look for anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # mail passes without record, copy or signature, or trust is given away
    WARNING = "warning"  # Postfix and the rule see something differently, or something gets lost
    HINT = "hint"  # right for some sites


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at; `text` goes on where `place` begins."""

    code: str  # a key of CATALOGUE
    place: str  # a parameter, or a service of master.cf
    text: str  # what is there, what follows, and the remedy after a semicolon

    @property
    def severity(self) -> Severity:
        """From the catalogue."""
        return CATALOGUE[self.code][0]


_E, _W, _H = Severity.ERROR, Severity.WARNING, Severity.HINT

CATALOGUE: Mapping[str, tuple[Severity, str]] = {
    # Does mail reach the milter?
    "milter-missing": (_E, "no smtpd service asks the milter"),
    "service-without-milter": (_E, "one smtpd service does not ask the milter"),
    "no-milters": (_E, "receive_override_options switches milters off for a service"),
    "no-milters-loopback": (_W, "milters are off on loopback, and no content filter is configured"),
    "milter-maps": (_W, "smtpd_milter_maps can switch the milter off for some clients"),
    "non-smtpd-missing": (_W, "mail of sendmail(1) does not reach the milter"),
    "socket-form": (
        _E,
        "the milter's address is written as libmilter wants it, not as Postfix does",
    ),
    "socket-chroot": (_E, "a chroot makes Postfix look for the socket elsewhere"),
    "proxy-filter": (_E, "behind smtpd_proxy_filter milters see no content"),
    "default-action": (_E, "mail passes unrecorded while the milter is away"),
    "default-action-lost": (_W, "mail is refused or put on hold while the milter is away"),
    "milter-protocol": (_E, "a milter protocol older than 6"),
    "milter-macros": (_W, "a macro that the record needs is not sent"),
    "milter-order": (_W, "other milters come after ours"),
    "reinjection": (_W, "mail that a content filter hands back is sealed a second time"),
    "bounces-unseen": (_H, "bounces that Postfix makes are neither recorded nor signed"),
    "short-queue-ids": (_W, "queue ids repeat"),
    "log-name": (_W, "Postfix logs under a name that the follower does not know"),
    "log-elsewhere": (_H, "Postfix logs into another file than the follower reads"),
    # Who is trusted?
    "network-unlisted": (_W, "Postfix trusts a network that ours.networks does not list"),
    "network-unknown-here": (_H, "ours.networks lists what Postfix does not trust"),
    "networks-unreadable": (_W, "mynetworks cannot be read whole"),
    "login-unlisted": (_W, "logins prove nothing on a listener that takes them"),
    "listener-unknown": (_W, "ours.listeners names what no service is called"),
    "listener-open": (_E, "a listener in ours.listeners lets in everybody"),
    # Which domains are ours?
    "domain-unlisted": (_W, "Postfix delivers or relays a domain that the rule calls outside"),
    "domain-own-name": (
        _H,
        "a name of the relay itself is local to Postfix and outside to the rule",
    ),
    "domain-unknown-here": (_W, "the rule calls a domain inside that Postfix sends away"),
    "subdomain-unlisted": (_W, "Postfix relays for all subdomains, the rule knows only the domain"),
    "subdomain-unknown-here": (_H, "the rule has subdomains of which Postfix knows none"),
    "domain-alias-only": (_H, "addresses that only aliases deliver always count as crossing"),
    "domain-u-label": (_W, "Postfix knows an international domain in one spelling only"),
    "domain-table": (_W, "a table of domains cannot be read"),
    "domain-patterns": (_H, "a table of domains answers but cannot be listed"),
    "origin-unlisted": (_H, "unqualified addresses get a domain that the rule does not list"),
    # The copy
    "copy-doubled": (_W, "a BCC setting of Postfix adds our archive recipient too"),
    "copy-elsewhere": (_W, "a BCC setting of Postfix sends a copy to another mailbox"),
    "copy-unknown": (_W, "a BCC table cannot be read"),
    "compare-differs": (_W, "archive.bcc_maps is not what Postfix has"),
    "copy-visible": (_H, "the copy may travel in one transaction with the recipients"),
    "dsn-discarded": (_W, "NOTIFY=NEVER is not passed on, so a lost copy may bounce to the author"),
    "original-recipient": (_H, "the log does not say from which alias a recipient came"),
    # What happens to signed mail afterwards
    "rewrites-after": (_W, "a setting of smtp(8) changes mail after it was signed"),
    "milter-header-checks": (_W, "milter_header_checks judges the signature that we add"),
    "content-filter": (_H, "a content filter may change mail after it was signed"),
    "seven-bit": (_H, "8-bit mail is converted for next hops without 8BITMIME"),
    "missing-headers": (_H, "missing Date and Message-ID are not added before signing"),
    "envelope-rewritten": (_H, "envelope addresses are rewritten after the milter saw them"),
    "checks-act": (_W, "header or body checks redirect, copy or drop messages"),
    "checks-rewrite": (_H, "header or body checks rewrite what is recorded"),
    "smtputf8-off": (_H, "SMTPUTF8 is off although there are international domains"),
    # Our own configuration
    "failure-accept": (_H, "a failure that gives up a promise is answered with accept"),
}
