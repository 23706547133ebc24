"""What one answer says of a key's name: TXT records or an alias, and the zone's times.

Promises: pure; only records at the name itself count, and only of an answer with authority
(`refusal` says why any other tells nothing).

Does not: ask, judge the values (`judgement`) or follow aliases (`check`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import dns.exception
import dns.name
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.DNAME
import dns.rdtypes.ANY.SOA
import dns.rdtypes.ANY.TXT

from carbonseal.keys.publication import ask, judgement, servers

_CNAME, _TXT = dns.rdatatype.CNAME, dns.rdatatype.TXT
_KNOWN = ("NOERROR", "NXDOMAIN")
_RCODES = {"REFUSED": "refused", "SERVFAIL": "servfail", "NOTIMP": "not-implemented"}


@dataclass(frozen=True, slots=True)
class Start:
    """What an SOA says: serial and times, in seconds."""

    serial: int
    negative_ttl: int
    refresh: int


@dataclass(frozen=True, slots=True)
class Content:
    """What stands at a name, at one server."""

    texts: judgement.Texts = ()
    alias: dns.name.Name | None = None
    ttl: int | None = None
    crowd: str = ""  # a CNAME and what stands beside it


def refusal(answer: ask.Answer) -> tuple[str, str]:
    """Why an answer tells nothing: a code and what it is about; ('', '') if it tells."""
    if answer.trouble is not None:
        return answer.trouble.value, ""
    if answer.rcode not in _KNOWN:
        return _RCODES.get(answer.rcode, "bad-rcode"), answer.rcode
    if answer.is_authoritative:
        return "", ""
    if answer.is_recursive:
        return "lame", "it is a resolver"
    referred = [records for records in answer.authority if records.kind == dns.rdatatype.NS]
    if referred:
        return "lame", f"it refers to the servers of {servers.text(referred[0].name)}"
    return "lame", "the flag AA is missing"


def content_of(answer: ask.Answer, name: dns.name.Name) -> Content:
    """What stands at the name, or above it where that is a DNAME."""
    texts = answer.at(name, _TXT)
    cname = answer.at(name, _CNAME)
    dname = dname_above(answer, name)
    if dname is not None:
        target, ttl = dname
        return Content(alias=target, ttl=ttl)
    if cname is not None:
        crowd = "a TXT record" if texts is not None else ""
        if len(cname.records) > 1:
            crowd = f"{len(cname.records)} CNAMEs"
        return Content(alias=_target(cname), ttl=cname.ttl, crowd=crowd)
    if texts is None:
        return Content()
    # Sorted, because servers shuffle.
    strings = tuple(
        sorted(
            {
                tuple(record.strings)
                for record in texts.records
                if isinstance(record, dns.rdtypes.ANY.TXT.TXT)
            }
        )
    )
    return Content(texts=strings, ttl=texts.ttl)


def _target(records: ask.RecordSet) -> dns.name.Name | None:
    for record in records.records:
        if isinstance(record, dns.rdtypes.ANY.CNAME.CNAME):
            return record.target
    return None


def dname_above(answer: ask.Answer, name: dns.name.Name) -> tuple[dns.name.Name, int] | None:
    """Where a DNAME above leads the name (RFC 6672 section 2.2), and its TTL."""
    for records in answer.answer:
        is_above = name.is_subdomain(records.name) and name != records.name
        for record in records.records:
            if is_above and isinstance(record, dns.rdtypes.ANY.DNAME.DNAME):
                try:
                    return name.relativize(records.name).concatenate(record.target), records.ttl
                except dns.exception.DNSException:
                    return None  # too long; the server said YXDOMAIN
    return None


def start_in(
    section: Iterable[ask.RecordSet], zone: servers.Zone, name: dns.name.Name
) -> Start | None:
    """The zone's SOA; its own TTL and MINIMUM bound negative answers (RFC 2308 section 5).

    A negative answer at the end of an alias may carry that of another zone.
    """
    for records in section:
        fits = records.name.is_subdomain(zone.top) and name.is_subdomain(records.name)
        for record in records.records:
            if fits and isinstance(record, dns.rdtypes.ANY.SOA.SOA):
                negative_ttl = min(records.ttl, record.minimum)
                return Start(record.serial, negative_ttl, record.refresh + record.retry)
    return None


def is_same(content: Content, wild: Content) -> bool:
    """Whether something stands there, and it is what the wildcard has."""
    return (
        content.ttl is not None
        and content.alias == wild.alias
        and frozenset(content.texts) == frozenset(wild.texts)
    )
