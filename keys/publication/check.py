"""What every authoritative server shows at the name of a key.

Promises: each server of the zone is asked itself, at each of its addresses, and only an answer with
authority counts: SHOWN is one TXT record with the very key, usable for mail; ABSENT is a server's
own word; all else that is no answer is UNKNOWN.  CNAME and DNAME are followed link by link, each
at the servers of its own zone, over at most eight links; a server that does not lead on speaks for
itself.  What only a wildcard answers is not our record.  A look never raises for anything that the
network does.

The times a change needs (`negative_ttl`, `alias_ttl`, `wildcard_ttl`, `refresh`) are the greatest
that any server named; a server whose SOA cannot be had is UNKNOWN, so that no wait is too short.

One `Checker` is for one run: zones, servers and who is silent are remembered until `forget`.
Thread-safe.

Notes: a record that repeats a wildcard's value word for word is told from it by asking for a random
name below: a wildcard answers there as well, unless the name itself exists (RFC 4592).
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import dns.exception
import dns.name
import dns.rdatatype

from carbonseal.keys.publication import ask, comparison, faults, judgement, reading, servers
from carbonseal.keys.publication.comparison import MAX_LINKS, Reply
from carbonseal.keys.publication.reading import Content, Start
from carbonseal.keys.publication.servers import Server, Zone
from carbonseal.keys.publication.settings import DnsSettings, ServerAddress
from carbonseal.policies.key_life import DnsView, ServerState, ServerView

_MAX_STEPS: Final = 24  # names asked for in one look, where servers lead different ways
_MAX_LEVELS: Final = 10  # at which a wildcard is looked for
_AT_ONCE: Final = 32  # questions on the way
_CNAME, _TXT, _SOA = dns.rdatatype.CNAME, dns.rdatatype.TXT, dns.rdatatype.SOA


@dataclass(frozen=True, slots=True)
class Examination:
    """A view, and what a person should know though nothing is wrong."""

    view: DnsView
    notes: tuple[str, ...] = ()  # sentences
    bits: int = 0  # of the key that is published; 0: there is none


class Checker:
    """Looks at keys for one run."""

    def __init__(self, settings: DnsSettings, clock: Callable[[], datetime]) -> None:
        """`clock` gives the time of observations, aware, in UTC."""
        self.clock = clock
        self.asker = ask.Asker(settings)
        self.finder = servers.Finder(settings, self.asker)
        self.pool = ThreadPoolExecutor(_AT_ONCE, "dns")
        self._wild: dict[dns.name.Name, Content] = {}  # by name above the random label
        self._unsigned: dict[dns.name.Name, bool] = {}  # by zone
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Begin a new run: look for zones again, ask silent servers again."""
        self.asker.forget()
        self.finder.forget()
        with self._lock:
            self._wild.clear()
            self._unsigned.clear()

    def look(self, name: str, public_key: bytes | None, expected_text: str = "") -> DnsView:
        """What is at `name`, compared with the key (DER SPKI) that should be there.

        Without a key, whatever stands there is judged by itself.  `expected_text` helps to say
        what is missing of a value.
        """
        return self._walk(name, public_key, expected_text).view()

    def examine(self, name: str, public_key: bytes | None, expected_text: str = "") -> Examination:
        """As `look`, with notes."""
        walk = self._walk(name, public_key, expected_text)
        if walk.zone is not None and self._is_unsigned(walk.zone):
            place = servers.text(walk.zone.top)
            walk.notes.append(faults.sentence("unsigned-zone", place=place))
        return Examination(walk.view(), tuple(dict.fromkeys(walk.notes)), walk.bits)

    def _walk(self, name: str, public_key: bytes | None, expected_text: str) -> _Walk:
        walk = _Walk(self, name.rstrip(".").lower(), public_key, expected_text)
        try:
            walk.follow(dns.name.from_text(name), ())
        except (dns.exception.DNSException, UnicodeError) as error:
            walk.problem = faults.sentence("no-zone", place=name, about=str(error))
        except servers.NoZone as error:
            walk.problem = error.sentence
        return walk

    def wildcard(self, zone: Zone, above: dns.name.Name) -> Content:
        """What a name that nobody made has at this level; asked once in a run."""
        with self._lock:
            kept = self._wild.get(above)
        if kept is not None:
            return kept
        for address in zone.addresses:
            found = self.ask_at_random(above, address)
            if found is not None:
                with self._lock:
                    self._wild[above] = found
                return found
        return Content()

    def ask_at_random(self, above: dns.name.Name, address: ServerAddress) -> Content | None:
        """What a server has at a random name; None if it does not say."""
        label = "x" + secrets.token_hex(8)
        try:
            name = dns.name.from_text(label, origin=above)
        except dns.exception.DNSException:
            return Content()  # too long to exist
        answer = self.asker.ask(name, _TXT, address)
        if reading.refusal(answer)[0]:
            return None
        content = reading.content_of(answer, name)
        # A DNAME leads each name somewhere else; it is no wildcard.
        return content if reading.dname_above(answer, name) is None else Content()

    def _is_unsigned(self, zone: Zone) -> bool:
        """Whether a server said that the zone has no DNSKEY; who is silent says nothing."""
        with self._lock:
            kept = self._unsigned.get(zone.top)
        if kept is not None:
            return kept
        for address in zone.addresses:
            answer = self.asker.ask(zone.top, dns.rdatatype.DNSKEY, address)
            if not reading.refusal(answer)[0]:
                kept = answer.at(zone.top, dns.rdatatype.DNSKEY) is None
                with self._lock:
                    self._unsigned[zone.top] = kept
                return kept
        return False


@dataclass(slots=True)
class _Walk:
    """One look: from the key's name over its aliases to the TXT records."""

    checker: Checker
    name: str
    public_key: bytes | None
    expected_text: str
    views: list[ServerView] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    depth: int = 0  # links to the end of the longest chain
    zone: Zone | None = None  # at that end
    target: str = ""
    problem: str = ""
    bits: int = 0
    negative_ttl: int = 0
    alias_ttl: int = 0
    wildcard_ttl: int = 0
    refresh: int = 0
    steps: int = 0

    def view(self) -> DnsView:
        """All that was seen."""
        return DnsView(
            name=self.name,
            at=self.checker.clock(),
            servers=tuple(self.views),
            zone=servers.text(self.zone.top) if self.zone is not None else "",
            target=self.target or self.name,
            negative_ttl=self.negative_ttl,
            alias_ttl=self.alias_ttl,
            wildcard_ttl=self.wildcard_ttl,
            refresh=self.refresh,
            problem=self.problem,
        )

    def follow(self, name: dns.name.Name, path: tuple[dns.name.Name, ...], since: int = 0) -> None:
        """Ask for a name at all servers of its zone, and go on where they lead.

        `path` are the aliases on the way here, `since` the sum of their TTLs.
        """
        self.steps += 1
        zone = self.checker.finder.zone_of(name)
        self.notes += zone.notes
        replies = list(
            self.checker.pool.map(lambda server: self._reply(zone, server, name), zone.servers)
        )
        replies = comparison.compared(self._without_wildcard(zone, name, replies))
        self._count(replies)
        self.alias_ttl = max(self.alias_ttl, since)
        path = (*path, name)
        aliases = dict.fromkeys(reply.content.alias for reply in replies)
        for alias in aliases:
            at_end = [reply for reply in replies if reply.content.alias == alias]
            ttl = max((reply.content.ttl or 0 for reply in at_end), default=0)
            if alias is None:
                self._end(zone, path, at_end)
            elif alias in path or len(path) > MAX_LINKS or self.steps >= _MAX_STEPS:
                self._end(zone, path, [comparison.looped(reply) for reply in at_end])
            else:
                place = servers.text(name)
                about = servers.text(alias)
                self.notes.append(faults.sentence("alias", place=place, about=about))
                self.follow(alias, path, since + ttl)

    def _reply(self, zone: Zone, server: Server, name: dns.name.Name) -> Reply:
        if server.address is None:
            at = self.checker.clock()
            return Reply(server, at, ServerState.UNKNOWN, server.fault, server.about)
        answer = self._ask(name, server.address)
        fault, about = reading.refusal(answer)
        start = None
        if not fault:
            start, about = self._start(answer, zone, name, server.address)
            fault = "" if start is not None else "no-soa"
        at = self.checker.clock()
        if fault:
            return Reply(server, at, ServerState.UNKNOWN, fault, about)
        return self._judged(Reply(server, at, ServerState.OTHER, start=start), answer, name)

    def _ask(self, name: dns.name.Name, address: ServerAddress) -> ask.Answer:
        answer = self.checker.asker.ask(name, _TXT, address)
        if answer.rcode != "SERVFAIL":
            return answer
        # BIND says so of aliases that lead in a circle within its zones; the first link it shows.
        alias = self.checker.asker.ask(name, _CNAME, address)
        return answer if reading.refusal(alias)[0] or alias.at(name, _CNAME) is None else alias

    def _start(
        self, answer: ask.Answer, zone: Zone, name: dns.name.Name, address: ServerAddress
    ) -> tuple[Start | None, str]:
        """The zone's SOA, which a negative answer carries; else why there is none."""
        start = reading.start_in(answer.authority, zone, name)
        if start is not None:
            return start, ""
        soa = self.checker.asker.ask(zone.top, _SOA, address)
        if reading.refusal(soa)[0]:
            return None, str(soa.trouble or soa.rcode)
        return reading.start_in(soa.answer, zone, name), "there is none"

    def _judged(self, reply: Reply, answer: ask.Answer, name: dns.name.Name) -> Reply:
        content = reading.content_of(answer, name)
        if content.crowd:
            plain = dataclasses.replace(content, alias=None)
            return dataclasses.replace(
                reply, content=plain, fault="cname-beside-others", about=content.crowd
            )
        if content.alias is not None:
            return dataclasses.replace(reply, content=content)
        found = judgement.judge(content.texts, self.public_key, self.expected_text)
        return dataclasses.replace(
            reply,
            content=content,
            state=found.state,
            fault=found.fault,
            about=found.about,
            note=found.note,
            bits=found.bits,
        )

    # --- wildcards

    def _without_wildcard(
        self, zone: Zone, name: dns.name.Name, replies: list[Reply]
    ) -> list[Reply]:
        """The replies, those of a wildcard turned into what they are: nothing at our name."""
        if not any(reply.content.ttl is not None for reply in replies):
            return replies
        for above in _levels(name, zone.top):
            wild = self.checker.wildcard(zone, above)
            if wild.ttl is None:
                continue
            self.wildcard_ttl = max(self.wildcard_ttl, wild.ttl)
            about = f"*.{servers.text(above)} or above, TTL {wild.ttl}"
            place = servers.text(name)
            self.notes.append(faults.sentence("wildcard-near", place=place, about=about))
            replies = [self._unmasked(name, reply, wild, about) for reply in replies]
        return replies

    def _unmasked(self, name: dns.name.Name, reply: Reply, wild: Content, about: str) -> Reply:
        if reply.server.address is None or not reading.is_same(reply.content, wild):
            return reply
        if self.public_key is None:
            return reply  # for strangers it is a record like any other
        below = self.checker.ask_at_random(name, reply.server.address)
        if below is not None and not reading.is_same(below, wild):
            return reply
        self.wildcard_ttl = max(self.wildcard_ttl, reply.content.ttl or 0)
        state = ServerState.ABSENT if below is not None else ServerState.UNKNOWN
        return dataclasses.replace(
            reply, state=state, fault="wildcard", about=about, content=Content()
        )

    # --- what becomes of the replies

    def _count(self, replies: Sequence[Reply]) -> None:
        starts = [reply.start for reply in replies if reply.start is not None]
        self.negative_ttl = max([self.negative_ttl, *(one.negative_ttl for one in starts)])
        self.refresh = max([self.refresh, *(one.refresh for one in starts)])
        self.bits = max([self.bits, *(reply.bits for reply in replies)])

    def _end(self, zone: Zone, path: tuple[dns.name.Name, ...], replies: list[Reply]) -> None:
        name = path[-1]
        if len(path) > self.depth:  # where an alias leads, not where a server lacks it
            self.depth, self.zone, self.target = len(path), zone, servers.text(name)
        for reply in replies:
            self.views.append(comparison.view_of(name, comparison.dangling(reply, path)))
            if reply.note:
                place = servers.text(name)
                self.notes.append(faults.sentence(reply.note, place=place, about=str(reply.bits)))


def _levels(name: dns.name.Name, top: dns.name.Name) -> Iterator[dns.name.Name]:
    """The names above a name, up to the top of its zone."""
    above = name
    for _ in range(_MAX_LEVELS):
        if above == top:
            return
        above = above.parent()
        yield above
