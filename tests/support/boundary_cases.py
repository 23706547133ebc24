"""The edge cases of NOT (local AND local), as one table for the pure rule and for a real Postfix.

World: ours are example.com, valias.example.com (a virtual alias domain: its addresses exist as
aliases only), relay.example.org and bücher.example; inside clients are in 192.0.2.0/24; the archive
recipient is archive@archive.example.net.  `resolved` and `mailer` are what Postfix 3.7 was seen to
put into {rcpt_addr} and {rcpt_mailer}; None where it gives none.
"""

from __future__ import annotations

from dataclasses import dataclass

ARCHIVE = "archive@archive.example.net"
OUR_DOMAINS = ("example.com", "valias.example.com", "relay.example.org", "xn--bcher-kva.example")
OUR_NETWORK = "192.0.2.0/24"
PEER_NETWORK = "203.0.113.25/32"
CLIENTS = {
    "inside": "192.0.2.10",  # in our network
    "login": "198.51.100.7",  # anywhere, but logged in
    "outside": "198.51.100.7",
    "loopback": "127.0.0.1",  # not listed: proves nothing
    "peer": "203.0.113.25",
    "sendmail": "127.0.0.1",  # port 0
}


@dataclass(frozen=True, slots=True)
class To:
    """One RCPT TO: as typed, and as Postfix resolves it."""

    raw: str
    resolved: str | None = ""  # '' stands for the same as raw, lower-cased
    mailer: str | None = "smtp"

    @property
    def macro(self) -> str | None:
        return self.raw.lower() if self.resolved == "" else self.resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryCase:
    """One row; `number` counts the field's known edge cases."""

    number: int
    id: str
    client: str = "inside"
    reverse_path: str  # without <>
    mail_macro: str | None = ""  # {mail_addr}; '' stands for the same, lower-cased
    to: tuple[To, ...]
    crossing: str
    copy: bool
    reason: str  # a code that must be among the reasons
    in_postfix: bool = True  # can be seen from outside with the rig's Postfix


def _local(raw: str, resolved: str = "") -> To:
    return To(raw, resolved, "local")


OUT = To("x@remote.test")
IN = _local("b@example.com")

CASES: tuple[BoundaryCase, ...] = (
    BoundaryCase(
        number=1,
        id="local-to-local",
        reverse_path="a@example.com",
        to=(IN,),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=2,
        id="local-to-local-and-remote",
        reverse_path="a@example.com",
        to=(IN, OUT),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=3,
        id="a-thousand-remote-recipients",
        reverse_path="a@example.com",
        to=tuple(To(f"user{number}@remote.test") for number in range(1000)),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=4,
        id="remote-to-remote-through-us",
        reverse_path="a@remote.test",
        to=(To("x@partner.example"),),
        crossing="transit",
        copy=True,
        reason="reverse-path-outside",
    ),
    BoundaryCase(
        number=5,
        id="bounce-from-outside",
        client="outside",
        reverse_path="",
        to=(IN,),
        crossing="inbound",
        copy=True,
        reason="null-reverse-path-outside",
    ),
    BoundaryCase(
        number=6,
        id="null-reverse-path-to-outside",
        reverse_path="",
        to=(OUT,),
        crossing="outbound",
        copy=True,
        reason="null-reverse-path-inside",
    ),
    BoundaryCase(
        number=7,
        id="bounce-made-by-postfix-itself",
        client="sendmail",
        reverse_path="",
        to=(To("ext@outside.test", None, None),),
        crossing="transit",
        copy=True,
        reason="null-reverse-path-outside",
        in_postfix=False,
    ),
    BoundaryCase(
        number=8,
        id="outside-client-forges-our-reverse-path",
        client="outside",
        reverse_path="ceo@example.com",
        to=(IN,),
        crossing="inbound",
        copy=True,
        reason="reverse-path-unproven",
    ),
    BoundaryCase(
        number=9,
        id="hosted-service-sends-as-us-from-outside",
        client="outside",
        reverse_path="newsletter@example.com",
        to=(IN,),
        crossing="inbound",
        copy=True,
        reason="reverse-path-unproven",
    ),
    BoundaryCase(
        number=10,
        id="login-with-foreign-reverse-path",
        client="login",
        reverse_path="me@remote.test",
        to=(IN,),
        crossing="inbound",
        copy=True,
        reason="reverse-path-outside",
    ),
    BoundaryCase(
        number=11,
        id="unqualified-both-ends",
        reverse_path="a",
        mail_macro="a@example.com",
        to=(_local("b", "b@example.com"),),
        crossing="internal",
        copy=False,
        reason="recipient-inside",
    ),
    BoundaryCase(
        number=12,
        id="bare-postmaster-from-outside",
        client="outside",
        reverse_path="x@remote.test",
        to=(_local("postmaster", "postmaster@example.com"),),
        crossing="inbound",
        copy=True,
        reason="reverse-path-outside",
    ),
    BoundaryCase(
        number=13,
        id="mixed-case-domains",
        reverse_path="A@EXAMPLE.com",
        to=(_local("B@Example.COM"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=14,
        id="trailing-dot",
        reverse_path="a@example.com",
        to=(_local("b@example.com.", "b@example.com"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=15,
        id="a-label-where-postfix-lists-the-u-label",
        reverse_path="a@example.com",
        to=(To("x@xn--bcher-kva.example"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=15,
        id="u-label-is-the-same-domain",
        reverse_path="a@example.com",
        to=(To("x@bücher.example"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=16,
        id="internationalized-local-part-outside",
        reverse_path="jürgen@example.com",
        to=(To("üx@remote.test"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=17,
        id="foreign-address-literal",
        reverse_path="a@example.com",
        to=(To("x@[198.51.100.1]"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=18,
        id="own-address-literal-that-is-not-listed",
        reverse_path="a@example.com",
        to=(_local("b@[127.0.0.1]"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=19,
        id="source-route-to-outside",
        reverse_path="a@example.com",
        to=(To("@relay.test,@example.com:x@remote.test", "x@remote.test"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=20,
        id="percent-hack-to-outside",
        reverse_path="a@example.com",
        to=(To("bob%remote.test@example.com", "bob@remote.test"),),
        crossing="outbound",
        copy=True,
        reason="recipient-rerouted",
    ),
    BoundaryCase(
        number=21,
        id="quoted-inner-at-to-outside",
        reverse_path="a@example.com",
        to=(To('"bob@remote.test"@example.com', "bob@remote.test"),),
        crossing="outbound",
        copy=True,
        reason="recipient-rerouted",
    ),
    BoundaryCase(
        number=22,
        id="bang-path-to-outside",
        reverse_path="a@example.com",
        to=(To("remote.test!bob@example.com", "bob@remote.test"),),
        crossing="outbound",
        copy=True,
        reason="recipient-rerouted",
    ),
    BoundaryCase(
        number=23,
        id="quoted-local-part-with-space",
        reverse_path="a@example.com",
        to=(To('"john doe"@remote.test'),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=24,
        id="archive-recipient-addressed-from-outside",
        client="outside",
        reverse_path="x@remote.test",
        to=(To(ARCHIVE),),
        crossing="inbound",
        copy=False,
        reason="archive-addressed",
        in_postfix=False,  # an outside client may not relay to the archive's domain
    ),
    BoundaryCase(
        number=25,
        id="archive-recipient-and-outside",
        reverse_path="a@example.com",
        to=(To(ARCHIVE), OUT),
        crossing="outbound",
        copy=False,
        reason="archive-addressed",
    ),
    BoundaryCase(
        number=26,
        id="bcc-map-of-postfix-adds-it-too",
        reverse_path="a@example.com",
        to=(To("bccmap@remote.test"),),
        crossing="outbound",
        copy=True,
        reason="archive-copy",
    ),
    BoundaryCase(
        number=27,
        id="archive-undeliverable-is-decided-no-differently",
        reverse_path="a@example.com",
        to=(OUT,),
        crossing="outbound",
        copy=True,
        reason="archive-copy",
    ),
    BoundaryCase(
        number=28,
        id="archive-next-hop-without-dsn-is-decided-no-differently",
        reverse_path="a@example.com",
        to=(OUT, To("y@partner.example")),
        crossing="outbound",
        copy=True,
        reason="archive-copy",
    ),
    BoundaryCase(
        number=29,
        id="address-that-only-an-alias-delivers",
        reverse_path="a@example.com",
        to=(To("info@valias.example.com", "", "error"),),
        crossing="outbound",
        copy=True,
        reason="recipient-alias-only",
    ),
    BoundaryCase(
        number=30,
        id="local-alias-that-leads-outside-looks-local",
        reverse_path="a@example.com",
        to=(_local("fw@example.com"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=31,
        id="list-exploder-sends-to-an-outside-subscriber",
        reverse_path="list-bounces@example.com",
        to=(IN, To("subscriber@remote.test")),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=32,
        id="verp-reverse-path",
        reverse_path="list-bounces+x=remote.test@example.com",
        to=(OUT,),
        crossing="outbound",
        copy=True,
        reason="reverse-path-inside",
    ),
    BoundaryCase(
        number=33,
        id="srs-reverse-path-of-our-forwarder",
        reverse_path="SRS0=HHH=TT=remote.test=joe@example.com",
        to=(IN,),
        crossing="inbound",
        copy=True,
        reason="reverse-path-srs",
    ),
    BoundaryCase(
        number=34,
        id="address-extension",
        reverse_path="a@example.com",
        to=(_local("b+tag@example.com"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=34,
        id="extension-of-the-archive-address-is-another-address",
        reverse_path="a@example.com",
        to=(To("archive+tag@archive.example.net"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=35,
        id="subdomain-is-not-implied",
        reverse_path="a@example.com",
        to=(To("b@sub.example.com"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=35,
        id="look-alike-suffix",
        reverse_path="a@example.com",
        to=(To("b@evilexample.com"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=36,
        id="relay-domain-that-is-listed",
        reverse_path="a@example.com",
        to=(To("b@relay.example.org", "", "relay"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=36,
        id="mailbox-domain-that-is-not-listed",
        reverse_path="a@example.com",
        to=(To("b@vmb.example.com", "", "virtual"),),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=37,
        id="peer-relay-has-copied-already",
        client="peer",
        reverse_path="a@example.com",
        to=(OUT,),
        crossing="outbound",
        copy=False,
        reason="copied-by-peer",
    ),
    BoundaryCase(
        number=38,
        id="content-filter-reinjects-from-loopback",
        client="loopback",
        reverse_path="a@example.com",
        to=(IN,),
        crossing="inbound",
        copy=True,
        reason="reverse-path-unproven",
    ),
    BoundaryCase(
        number=39,
        id="requeued-mail-is-decided-like-the-first-time",
        reverse_path="a@example.com",
        to=(OUT,),
        crossing="outbound",
        copy=True,
        reason="archive-copy",
    ),
    BoundaryCase(
        number=40,
        id="sendmail-on-the-relay-without-macros",
        client="sendmail",
        reverse_path="root@example.com",
        to=(To("b@example.com", None, None),),
        crossing="inbound",
        copy=True,
        reason="reverse-path-unproven",
    ),
    BoundaryCase(
        number=41,
        id="canonical-mapping-happens-after-the-macros",
        reverse_path="a@example.com",
        to=(_local("old-name@example.com"),),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=42,
        id="refused-recipients-are-not-counted",
        reverse_path="a@example.com",
        to=(IN,),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=43,
        id="notify-success-asked-by-the-sender",
        reverse_path="a@example.com",
        to=(OUT,),
        crossing="outbound",
        copy=True,
        reason="archive-copy",
    ),
    BoundaryCase(
        number=44,
        id="macros-missing-counts-routed-addresses-as-unknown",
        reverse_path="a@example.com",
        mail_macro=None,
        to=(To("bob%remote.test@example.com", None, None),),
        crossing="outbound",
        copy=True,
        reason="recipient-routed",
        in_postfix=False,
    ),
    BoundaryCase(
        number=45,
        id="decided-on-the-envelope-whatever-the-body",
        reverse_path="a@example.com",
        to=(IN,),
        crossing="internal",
        copy=False,
        reason="purely-local",
    ),
    BoundaryCase(
        number=46,
        id="behind-a-proxy-filter-everybody-is-loopback",
        client="loopback",
        reverse_path="x@remote.test",
        to=(IN,),
        crossing="inbound",
        copy=True,
        reason="reverse-path-outside",
    ),
    BoundaryCase(
        number=47,
        id="queue-id-is-not-needed-to-decide",
        reverse_path="a@example.com",
        to=(OUT,),
        crossing="outbound",
        copy=True,
        reason="recipient-outside",
    ),
    BoundaryCase(
        number=48,
        id="null-reverse-path-resolves-to-the-default-transport",
        reverse_path="",
        to=(IN,),
        crossing="internal",
        copy=False,
        reason="null-reverse-path-inside",
    ),
    BoundaryCase(
        number=49,
        id="abort-after-end-of-message-changes-nothing",
        reverse_path="a@example.com",
        to=(OUT, IN),
        crossing="outbound",
        copy=True,
        reason="archive-copy",
    ),
)
