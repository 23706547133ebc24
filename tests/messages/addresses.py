"""Envelopes that look inside and lead outside, and the archive recipient among them."""

from __future__ import annotations

from functools import partial

from messages.case import Case
from messages.compose import ARCHIVE, case, letter


def sent_to(
    name: str,
    *to: bytes,
    about: str,
    covers: str,
    internal: bool = False,
    copy: bool | None = None,
    parameters: tuple[bytes, ...] = (),
    reasons: str = "",
    note: str = "",
) -> Case:
    """A letter of ours to these recipients."""
    return case(
        name,
        about,
        covers=covers,
        build=partial(letter, b"To: somebody"),
        crossing="internal" if internal else "outbound",
        to=to,
        copy=copy,
        parameters=parameters,
        reasons=reasons,
        note=note,
    )


CASES = (
    sent_to(
        "percent-hack",
        b"bob%remote.test@example.com",
        about="Postfix delivers it to bob@remote.test: it leaves, and must be copied.",
        covers="rerouted-recipient",
        reasons="recipient-rerouted",
    ),
    sent_to(
        "quoted-inner-at",
        b'"bob@remote.test"@example.com',
        about="Postfix looks inside the quotes and delivers outside.",
        covers="rerouted-recipient quoted-local-part",
        reasons="recipient-rerouted",
    ),
    sent_to(
        "bang-path",
        b"remote.test!bob@example.com",
        about="Postfix reads bang paths and delivers outside.",
        covers="rerouted-recipient",
        reasons="recipient-rerouted",
    ),
    sent_to(
        "source-route",
        b"@example.com,@mx1.example.com:bob@remote.test",
        about="Our domain in the route, the mailbox elsewhere.",
        covers="rerouted-recipient",
    ),
    sent_to(
        "mixed-recipients",
        b"bob@example.com",
        b"dave@remote.test",
        b"erin@example.com",
        about="One outside recipient among ours makes one copy, not none and not three.",
        covers="mixed-recipients",
    ),
    sent_to(
        "archive-and-partner",
        ARCHIVE,
        b"bob@partner.example",
        about="The sender copies the archive himself; a second copy would double it.",
        covers="archive-addressed",
        reasons="archive-addressed recipient-outside",
        copy=False,
    ),
    sent_to(
        "archive-alone",
        ARCHIVE,
        about="Mail to the archive itself needs no copy.",
        covers="archive-addressed",
        reasons="recipient-is-archive",
        internal=True,
        note="The archive recipient counts as inside, whatever its domain.",
    ),
    sent_to(
        "archive-in-capitals-and-partner",
        b"Archive@ARCHIVE.example.net",
        b"bob@partner.example",
        about="Postfix merges recipients without regard to case.",
        covers="archive-addressed",
        reasons="archive-addressed recipient-outside",
        copy=False,
    ),
    sent_to(
        "archive-with-extension",
        b"archive+tag@archive.example.net",
        about="Another address; it does not stand in for the copy.",
        covers="archive-addressed",
    ),
    sent_to(
        "unqualified-recipient",
        b"postmaster",
        about="An unqualified recipient is Postfix's own.",
        covers="unqualified",
        internal=True,
        note="Postfix completes it with myorigin, here a domain of ours.",
    ),
    sent_to(
        "recipient-with-trailing-dot",
        b"bob@Example.COM.",
        about="The same domain, spelt for the DNS.",
        covers="capital-domain",
        internal=True,
        note="Postfix strips one trailing dot of {rcpt_addr}.",
    ),
    sent_to(
        "recipient-at-an-unlisted-subdomain",
        b"bob@sub.example.com",
        about="A subdomain that nobody listed is outside.",
        covers="subdomain",
    ),
    sent_to(
        "recipient-at-a-look-alike-suffix",
        b"bob@evilexample.com",
        about="A comparison by suffix keeps this from the archive.",
        covers="look-alike",
    ),
    sent_to(
        "recipient-at-an-address-literal",
        b"bob@[198.51.100.1]",
        about="An address literal that is not ours.",
        covers="address-literal",
    ),
    sent_to(
        "recipient-at-our-u-label",
        "bob@bücher.example".encode(),
        about="The same domain as its A-label in the list.",
        covers="idn-recipient smtputf8",
        internal=True,
        parameters=(b"SMTPUTF8",),
        note="To Postfix U-label and A-label are two domains: both must be listed there.",
    ),
    sent_to(
        "recipient-with-international-local-part",
        "jürgen@remote.test".encode(),
        about="An archive that cannot take SMTPUTF8 would lose the copy.",
        covers="idn-recipient smtputf8",
        parameters=(b"SMTPUTF8",),
    ),
    sent_to(
        "recipient-with-quoted-space",
        b'"john doe"@remote.test',
        about="The last unquoted @ decides.",
        covers="quoted-local-part",
    ),
    sent_to(
        "three-hundred-recipients",
        *(b"user%d@remote.test" % at for at in range(300)),
        about="One copy for the message, not one for each recipient.",
        covers="many-recipients",
    ),
)
