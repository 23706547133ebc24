"""Which zone holds a name, and every address of every name server that answers for it.

Promises: a caching resolver is asked about the domain and its parents, and about name servers,
never about a selector's name or anything at or below `_domainkey`: it would remember that nothing
is there and go on saying so after the record was published.  From the zone so found, the servers
themselves are asked, and their referrals followed, down to the zone that holds the name.  Both the
parent's list of servers and the zone's own count: receivers may use either.

`DnsSettings.servers` comes first, by longest suffix; nothing is then looked up for that zone.
Addresses found otherwise have port 53.

Raises: `NoZone`, a sentence, when zone or servers cannot be found; then nothing is known.

Notes: what was found is kept until `forget`.  An IPv6 address is left out, with a note, where this
host has no IPv6 and the same server has an address that can be asked (IPv4 likewise); a server of
which no address can be asked stays in the list, without one: it is unknown, not absent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import dns.exception
import dns.name
import dns.rdatatype
import dns.rdtypes.ANY.NS
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.resolver

from carbonseal.keys.publication import ask, faults
from carbonseal.keys.publication.settings import DnsSettings, ServerAddress
from carbonseal.policies import errors

DOMAINKEY: Final = b"_domainkey"
_MAX_CUTS: Final = 12  # zone cuts on the way down
_MAX_ASCENT: Final = 12  # labels between a name and the top of its zone
_MAX_SERVERS: Final = 32  # names of servers for one zone
_MAX_ADDRESSES: Final = 16  # of one server
_NS, _SOA = dns.rdatatype.NS, dns.rdatatype.SOA
_ADDRESS_KINDS = (dns.rdatatype.A, dns.rdatatype.AAAA)
Key = TypeVar("Key")
Found = TypeVar("Found")


class NoZone(errors.TryLater):
    """Zone or servers of a name could not be found."""


@dataclass(frozen=True, slots=True)
class Server:
    """One address of a name server, or a name server without an address we can ask."""

    name: str  # '' when only its address is configured
    address: ServerAddress | None
    fault: str = ""  # of `faults`, when there is no address
    about: str = ""  # the fault in a sentence


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone and who answers for it."""

    top: dns.name.Name
    servers: tuple[Server, ...]
    is_configured: bool = False  # the servers are those of the settings
    notes: tuple[str, ...] = ()  # about addresses left out

    @property
    def addresses(self) -> Iterator[ServerAddress]:
        """All that can be asked."""
        return (server.address for server in self.servers if server.address is not None)


@dataclass(slots=True)
class Finder:
    """Finds zones and servers for one run; thread-safe."""

    settings: DnsSettings
    asker: ask.Asker
    _zones: dict[dns.name.Name, Zone] = field(default_factory=dict)  # by name asked for
    _tops: dict[dns.name.Name, Zone] = field(default_factory=dict)  # by name of the zone
    _firsts: dict[dns.name.Name, Zone] = field(default_factory=dict)  # by harmless part
    _addresses: dict[str, _Resolved] = field(default_factory=dict)  # by name of the server
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Begin a new run."""
        with self._lock:
            for kept in (self._zones, self._tops, self._firsts, self._addresses):
                kept.clear()

    def zone_of(self, name: dns.name.Name) -> Zone:
        """The zone that holds, or would hold, the records at a name."""
        found = self._kept(self._zones, name)
        if found is None:
            found = self._descend(self._configured(name) or self._first_zone(name), name)
            self._keep(self._zones, name, found)
        return found

    # --- down from a zone, asking its own servers

    def _descend(self, zone: Zone, name: dns.name.Name) -> Zone:
        for _ in range(_MAX_CUTS):
            deeper = self._below(zone, name)
            if deeper is None:
                return zone
            zone = deeper
        raise NoZone(faults.sentence("no-zone", place=text(name), about="too many zone cuts"))

    def _below(self, zone: Zone, name: dns.name.Name) -> Zone | None:
        """The next zone on the way to a name, as the first server that knows tells it."""
        for address in zone.addresses:
            # SOA, because its answer tells the top of the zone, whatever stands at the name.
            answer = self.asker.ask(name, _SOA, address)
            referral = referral_in(answer, zone.top, name)
            if referral is not None:
                return self._child(referral.name, referral, answer, zone)
            if answer.is_authoritative and answer.rcode in ("NOERROR", "NXDOMAIN"):
                top = self._top(answer, zone, name, address)
                return None if top == zone.top else self._same_server(top, zone, address)
        return None  # the servers will tell their troubles when asked for the key

    def _top(
        self, answer: ask.Answer, zone: Zone, name: dns.name.Name, address: ServerAddress
    ) -> dns.name.Name:
        """The top of the zone from which a server answers with authority."""
        asked = name
        for _ in range(_MAX_ASCENT):
            for records in (*answer.answer, *answer.authority):
                below = records.name.is_subdomain(zone.top)
                if records.kind == _SOA and below and asked.is_subdomain(records.name):
                    return records.name
            # An alias stands at the name, so it is not the top; perhaps its parent is.
            if asked == zone.top:
                break
            asked = asked.parent()
            answer = self.asker.ask(asked, _SOA, address)
            if not answer.is_authoritative:
                break
        return zone.top

    def _same_server(self, top: dns.name.Name, zone: Zone, address: ServerAddress) -> Zone:
        """A zone below, at a server that has both; only its NS records tell who else has it."""
        if zone.is_configured:
            return Zone(top, zone.servers, is_configured=True)
        answer = self.asker.ask(top, _NS, address)
        records = answer.at(top, _NS)
        return (
            Zone(top, zone.servers) if records is None else self._child(top, records, answer, zone)
        )

    def _child(
        self, top: dns.name.Name, records: ask.RecordSet, answer: ask.Answer, parent: Zone
    ) -> Zone:
        found = self._kept(self._tops, top)
        if found is None:
            # Addresses of names elsewhere are none of the parent's business.
            glue = _addresses_in(answer.additional, parent.top)
            found = self._completed(self._zone(top, _targets(records), glue))
            self._keep(self._tops, top, found)
        return found

    def _completed(self, zone: Zone) -> Zone:
        """With the servers that the zone itself names, too."""
        for address in zone.addresses:
            answer = self.asker.ask(zone.top, _NS, address)
            records = answer.at(zone.top, _NS)
            if answer.is_authoritative and records is not None:
                glue = _addresses_in(answer.additional, zone.top)
                known = {server.name for server in zone.servers}
                more = [name for name in _targets(records) if text(name) not in known]
                other = self._zone(zone.top, more, glue)
                return Zone(
                    zone.top, (*zone.servers, *other.servers), notes=(*zone.notes, *other.notes)
                )
        return zone

    # --- the first zone, from the settings or a resolver

    def _configured(self, name: dns.name.Name) -> Zone | None:
        for length in range(len(name), 0, -1):
            top = name.split(length)[1]
            addresses = self.settings.servers.get(text(top))
            if addresses:
                return _configured_zone(top, addresses)
        return None

    def _first_zone(self, name: dns.name.Name) -> Zone:
        """A zone above the name that a resolver knows.

        Two labels are enough where the resolver can be used at all; names further down might not
        exist before a key is published, and the resolver would remember that (RFC 8020: with all
        that is below).  Only where it knows nothing there, more labels are tried.
        """
        domain = harmless_part(name)
        kept = self._kept(self._firsts, domain)
        if kept is not None:
            return kept
        said: list[str] = []
        for length in range(min(3, len(domain)), len(domain) + 1):
            answer = self._resolve(domain.split(length)[1], _SOA)
            if answer.rcode in ("NOERROR", "NXDOMAIN"):
                found = self._zone_from(domain.split(length)[1], answer, name)
                self._keep(self._firsts, domain, found)
                return found
            said.append(str(answer.trouble or answer.rcode))
        about = f"the resolvers said {', '.join(dict.fromkeys(said))}"
        raise NoZone(faults.sentence("no-resolver", place=text(name), about=about))

    def _zone_from(self, asked: dns.name.Name, answer: ask.Answer, name: dns.name.Name) -> Zone:
        tops = [
            records.name
            for records in (*answer.answer, *answer.authority)
            if records.kind == _SOA and asked.is_subdomain(records.name)
        ]
        if not tops or tops[0] == dns.name.root:
            about = "the resolver knows no zone above it"
            raise NoZone(faults.sentence("no-zone", place=text(name), about=about))
        found = self._kept(self._tops, tops[0])
        if found is None:
            answer = self._resolve(tops[0], _NS)
            records = answer.at(tops[0], _NS)
            if records is None:
                about = str(answer.trouble or answer.rcode)
                raise NoZone(faults.sentence("no-servers", place=text(tops[0]), about=about))
            found = self._completed(self._zone(tops[0], _targets(records), {}))
            self._keep(self._tops, tops[0], found)
        return found

    # --- addresses

    def _zone(
        self,
        top: dns.name.Name,
        names: Sequence[dns.name.Name],
        glue: Mapping[str, tuple[str, ...]],
    ) -> Zone:
        if len(names) > _MAX_SERVERS:
            about = f"it has {len(names)} name servers, and more than {_MAX_SERVERS} are not asked"
            raise NoZone(faults.sentence("no-servers", place=text(top), about=about))
        servers: list[Server] = []
        notes: list[str] = []
        for name in names:
            resolved = self._addresses_of(name).joined_by(glue.get(text(name), ()))
            if resolved.is_dangling:
                notes.append(faults.sentence("dangling-server", place=text(top), about=text(name)))
                continue
            fresh, left_out = _servers(text(name), top, resolved)
            servers += fresh
            notes += left_out
        if not servers and names:
            about = "none of its name servers has an address"
            raise NoZone(faults.sentence("no-servers", place=text(top), about=about))
        return Zone(top, tuple(servers), notes=tuple(notes))

    def _addresses_of(self, name: dns.name.Name) -> _Resolved:
        found = self._kept(self._addresses, text(name))
        if found is None:
            found = self._resolve_addresses(name)
            if not found.trouble:
                self._keep(self._addresses, text(name), found)
        return found

    def _resolve_addresses(self, name: dns.name.Name) -> _Resolved:
        if DOMAINKEY in name.labels:
            return _Resolved(trouble="its name is below _domainkey, which no resolver is asked for")
        addresses: list[str] = []
        trouble = ""
        for kind in _ADDRESS_KINDS:
            answer = self._resolve(name, kind)
            if answer.rcode not in ("NOERROR", "NXDOMAIN"):
                trouble = f"its address: the resolvers said {answer.trouble or answer.rcode}"
            for records in answer.answer:
                addresses += _hosts(records)
        return _Resolved(tuple(addresses[:_MAX_ADDRESSES]), trouble)

    def _resolve(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> ask.Answer:
        """The first usable answer of a resolver."""
        answer = ask.Answer(ask.Trouble.UNREACHABLE)
        for address in self.settings.resolvers or system_resolvers():
            answer = self.asker.ask(name, kind, address, recursive=True)
            if answer.rcode in ("NOERROR", "NXDOMAIN"):
                break
        return answer

    # --- what is kept

    def _kept(self, where: Mapping[Key, Found], key: Key) -> Found | None:
        with self._lock:
            return where.get(key)

    def _keep(self, where: dict[Key, Found], key: Key, found: Found) -> None:
        with self._lock:
            where[key] = found


@dataclass(frozen=True, slots=True)
class _Resolved:
    """The addresses of a name server."""

    addresses: tuple[str, ...] = ()
    trouble: str = ""  # why there may be others

    @property
    def is_dangling(self) -> bool:
        return not self.addresses and not self.trouble

    def joined_by(self, glue: tuple[str, ...]) -> _Resolved:
        """With what a referral tells; that is enough where no resolver can be asked."""
        return _Resolved((*self.addresses, *glue), "" if glue else self.trouble)


def text(name: dns.name.Name) -> str:
    """A name as we show it: lower case, without the last dot, '.' for the root."""
    return name.to_text(omit_final_dot=True).lower()


def harmless_part(name: dns.name.Name) -> dns.name.Name:
    """The part of a name that a resolver may be asked about: the domain above `_domainkey`.

    Of a name without that label, as the target of an alias may be, its last two labels.
    """
    labels = [label.lower() for label in name.labels]
    if DOMAINKEY not in labels:
        return name.split(min(3, len(name)))[1]
    last = len(labels) - 1 - labels[::-1].index(DOMAINKEY)
    return name.split(len(labels) - last - 1)[1]


def referral_in(
    answer: ask.Answer, top: dns.name.Name, name: dns.name.Name
) -> ask.RecordSet | None:
    """The NS records that lead from a zone nearer to a name (RFC 1034 section 4.3.2, step 3b)."""
    if answer.is_authoritative or answer.rcode != "NOERROR" or answer.answer:
        return None
    for records in answer.authority:
        nearer = records.name != top and records.name.is_subdomain(top)
        if records.kind == _NS and nearer and name.is_subdomain(records.name):
            return records
    return None


def system_resolvers() -> tuple[ServerAddress, ...]:
    """Those of /etc/resolv.conf."""
    try:
        found = dns.resolver.Resolver().nameservers
    except (dns.exception.DNSException, OSError):
        return ()
    return tuple(ServerAddress(str(host)) for host in found if "/" not in str(host))


def _configured_zone(top: dns.name.Name, addresses: Iterable[ServerAddress]) -> Zone:
    return Zone(top, tuple(Server("", address) for address in addresses), is_configured=True)


def _servers(
    name: str, top: dns.name.Name, resolved: _Resolved
) -> tuple[list[Server], tuple[str, ...]]:
    """A name server's addresses that can be asked, and notes about the others."""
    addresses = [ServerAddress(host) for host in dict.fromkeys(resolved.addresses)]
    usable = [one for one in addresses if ask.has_route(one)]
    place = f"{text(top)}: {name}"
    if not usable:
        code = "no-route" if addresses else "no-address"
        about = ", ".join(one.host for one in addresses) or resolved.trouble
        about = faults.sentence(code, place=place, about=about)
        return [Server(name, None, code, about)], ()
    servers = [Server(name, address) for address in usable]
    left_out = [
        faults.sentence("left-out", place=place, about=one.host)
        for one in addresses
        if one not in usable
    ]
    if resolved.trouble:
        # There may be an address that shows something else: it is not known.
        about = faults.sentence("no-address", place=place, about=resolved.trouble)
        servers.append(Server(name, None, "no-address", about))
    return servers, tuple(left_out)


def _targets(records: ask.RecordSet) -> list[dns.name.Name]:
    return [
        record.target for record in records.records if isinstance(record, dns.rdtypes.ANY.NS.NS)
    ]


def _addresses_in(
    section: Iterable[ask.RecordSet], above: dns.name.Name
) -> dict[str, tuple[str, ...]]:
    """Addresses of names below a zone, by name."""
    found: dict[str, tuple[str, ...]] = {}
    for records in section:
        if records.name.is_subdomain(above):
            name = text(records.name)
            found[name] = (*found.get(name, ()), *_hosts(records))[:_MAX_ADDRESSES]
    return {name: hosts for name, hosts in found.items() if hosts}


def _hosts(records: ask.RecordSet) -> list[str]:
    return [
        record.address
        for record in records.records
        if isinstance(record, (dns.rdtypes.IN.A.A, dns.rdtypes.IN.AAAA.AAAA))
    ]
