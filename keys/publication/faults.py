"""The catalogue of what can be wrong with a published key: a code, what it means, what to do.

Promises: each code is stable and stands in `ServerView.fault`; `sentence` says where the fault is,
what it is and how it is mended, in one sentence.  A test compares the catalogue with the codes that
are used.

Does not: find faults (`judgement`, `check`, `servers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from carbonseal.keys import tables
from carbonseal.keys.publication.ask import Trouble

_LONGEST: Final = 200  # characters of what a stranger's record may add to a sentence

SENTENCES: Final[Mapping[str, str]] = {
    # What stands there, or does not (check)
    "missing": "{place}: there is no TXT record; publish the key's record, or wait if that was "
    "done just now.",
    "revoked": "{place}: the key is revoked (p= is empty); mail signed with it fails, so sign with "
    "another selector.",
    "two-records": "{place}: there are {about} TXT records, and a verifier may take either; leave "
    "only the key's record.",
    "wildcard": "{place}: there is no record of its own, only the wildcard above it answers "
    "({about}); publish the key's record at the exact name.",
    "stale-server": "{place}: this server is behind ({about}); see that it gets zone transfers and "
    "NOTIFY from its primary.",
    "inconsistent": "{place}: this server differs from the others ({about}); load the same zone "
    "on all servers, or take the odd one out of the NS records.",
    # What the value is (judgement)
    "mismatch": "{place}: another key is published there ({about}); publish the key's own record, "
    "or choose a new selector if the other key is in use.",
    "not-a-key": "{place}: the TXT record is no key record ({about}); replace it by the key's "
    "record.",
    "truncated": "{place}: the key record is cut short ({about}); publish the whole value, as "
    "strings of at most 255 octets, each in quotation marks.",
    "quoted": "{place}: quotation marks or backslashes stand inside the value; publish the bare "
    "value, the DNS software adds the quotation marks itself.",
    "split": "{place}: the value was divided wrongly ({about}); publish one TXT record of several "
    "strings that give the value when joined with nothing between.",
    "damaged": "{place}: the key record cannot be read ({about}); publish the whole value again.",
    "testing": "{place}: the record says t=y, for testing, and receivers treat the mail as "
    "unsigned; take t=y out.",
    "weak-key": "{place}: the key has {about} bits, and verifiers must refuse less than 1,024; "
    "make a key of 2,048 bits under a new selector.",
    "wrong-ed25519": "{place}: p= holds an Ed25519 key as SubjectPublicKeyInfo; publish the raw 32 "
    "octets in base64 (44 characters).",
    "wrong-type": "{place}: k= and the key in p= do not belong together ({about}); publish k=rsa "
    "or k=ed25519 as the key is.",
    "no-sha256": "{place}: h= allows only {about}, but signatures use sha256; write h=sha256 or "
    "leave h= out.",
    "not-for-mail": "{place}: s= allows only {about}, not email; leave s= out.",
    # Aliases (check)
    "cname-loop": "{place}: the aliases lead in a circle or over more than {about} steps; point "
    "the CNAME straight at the name that holds the TXT record.",
    "cname-broken": "{place}: the alias leads here from {about}, and there is no TXT record; "
    "publish the key's record here, or correct the CNAME.",
    "cname-beside-others": "{place}: a CNAME stands beside other records ({about}), which DNS "
    "forbids; leave one of them.",
    # Servers that do not answer as they should (check)
    "lame": "{place}: this server does not answer with authority ({about}); make it serve the "
    "zone, or take it out of the NS records.",
    "refused": "{place}: this server refuses to answer (REFUSED); make it serve the zone, or take "
    "it out of the NS records.",
    "servfail": "{place}: this server failed (SERVFAIL), as one does whose copy of the zone is "
    "expired or broken; look at its log.",
    "not-implemented": "{place}: this server says NOTIMP to a plain question; another program than "
    "a name server may answer at this address: correct it.",
    "bad-rcode": "{place}: this server answers {about}; look at its log.",
    "no-soa": "{place}: this server shows no SOA record of the zone ({about}), so nothing is known "
    "of waiting times; make it serve the whole zone.",
    Trouble.TIMEOUT: "{place}: no answer came; start this server, let UDP and TCP to its port "
    "through the firewalls, or take it out of the NS records.",
    Trouble.GIVEN_UP: "{place}: it was not asked, because it gave no answer three times in this "
    "run; start this server, or take it out of the NS records.",
    Trouble.CLOSED: "{place}: nothing listens there; start this server, or correct its address.",
    Trouble.UNREACHABLE: "{place}: there is no way to this address from here; see to the route, or "
    "name addresses that can be asked under dns.servers in the configuration.",
    Trouble.MALFORMED: "{place}: what came back is no DNS answer; see what runs at this address "
    "and what firewalls between do to DNS.",
    Trouble.WRONG_ID: "{place}: only answers to other questions came back; see what firewalls "
    "between do to DNS.",
    Trouble.WRONG_QUESTION: "{place}: the answer repeats another question; see what runs at this "
    "address and what firewalls between do to DNS.",
    Trouble.TRUNCATED: "{place}: the answer is too long for UDP and TCP does not work; let TCP to "
    "this server's port through the firewalls.",
    # Where the servers are (servers)
    "no-zone": "{place}: no zone was found for it ({about}); correct the name, or name the zone's "
    "servers under dns.servers in the configuration.",
    "no-servers": "{place}: its name servers could not be found ({about}); correct its NS records, "
    "or name its servers under dns.servers in the configuration.",
    "no-resolver": "{place}: its zone could not be found: {about}; see to the resolvers, or name "
    "the zone's servers under dns.servers in the configuration.",
    "no-address": "{place}: no address of this name server is known ({about}); see to its A and "
    "AAAA records, or name its addresses under dns.servers in the configuration.",
    "no-route": "{place}: this host has no way to any address of this name server ({about}); see "
    "to its network, or name addresses that can be asked under dns.servers in the configuration.",
    # Notes: nothing is wrong with the key
    "left-out": "{place}: {about} was not asked, because this host has no way to it; the server's "
    "other addresses were.",
    "dangling-server": "{place}: the NS record {about} leads to a name without address; take it "
    "out.",
    "wildcard-near": "{place}: a wildcard answers for other names beside it ({about}); caches may "
    "hold its answer for this one.",
    "alias": "{place}: the name is an alias of {about}; the record stands there.",
    "short-key": "{place}: the key has {about} bits; the next one should have 2,048.",
    "long-key": "{place}: the key has {about} bits, and verifiers need not take more than 4,096; "
    "the next one should have 2,048.",
    "unsigned-zone": "{place}: the zone is not signed with DNSSEC, so its answers can be forged on "
    "the way; that is usual, and no fault.",
}


def sentence(code: str, *, place: str, about: str = "") -> str:
    """A fault in one sentence; what strangers wrote is shortened and cannot play with terminals."""
    return SENTENCES[code].format(place=place, about=tables.escape(_short(about)))


def _short(about: str) -> str:
    return about if len(about) <= _LONGEST else about[:_LONGEST] + "..."
