"""Publish by RFC 2136: dynamic updates signed with TSIG, each a compare-and-swap.

Promises: a record is added only where nothing at all stands at the name, and changed or deleted
only while it is, as the server judges in the same step, the one record with the expected text; no
other name and no other record is touched.  Strings are built as octets, never through text, where
an unquoted value would end at its first semicolon.  No consent is believed that is not signed.

Each refusal is explained in words, in the dialects of BIND and Knot, with what to do.  A failed
prerequisite is CONFLICT even if the record is there already: who reads it back knows.

Does not: try again (the caller does, after looking), or wait for secondaries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.update
from dns.rcode import Rcode

from carbonseal.keys import dns_record
from carbonseal.keys.publication import exchange, outcome, tsig_key
from carbonseal.keys.publication.outcome import Outcome
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.policies import errors

_Txt = dns.rdtypes.ANY.TXT.TXT
_CHANGED: Final = (Rcode.NXRRSET, Rcode.NXDOMAIN)
_OCCUPIED: Final = (Rcode.YXDOMAIN, Rcode.YXRRSET)


@dataclass(frozen=True, slots=True)
class Rfc2136Publisher:
    """Publishes through the primary name server of a zone."""

    server: ServerAddress
    key: tsig_key.TsigKey
    zone: str | None = None  # None: asked of the server
    timeout: float = 3.0  # seconds, for each exchange

    @property
    def is_manual(self) -> bool:
        """The server does it."""
        return False

    def explain(self) -> str:
        """How, in one phrase."""
        return f"by RFC 2136 at {self.server}"

    def add(self, name: str, text: str, ttl: int) -> Outcome:
        """Add a TXT record where nothing stands."""

        def fill(update: dns.update.UpdateMessage, owner: dns.name.Name) -> None:
            update.absent(owner)
            update.add(owner, ttl, txt(text))

        done = self._send(name, fill)
        if done.kind is outcome.OutcomeKind.CONFLICT and self._has(absolute(name), text):
            # Nobody must be told to take our own record away.
            return outcome.conflict(
                f"{self.server} has this very record at {name} already; if the servers that are"
                " asked do not show it, see that they get zone transfers and NOTIFY from it."
            )
        return done

    def change(self, name: str, old_text: str, new_text: str, ttl: int) -> Outcome:
        """Put another text in the place of the expected one."""

        def fill(update: dns.update.UpdateMessage, owner: dns.name.Name) -> None:
            old = self._as_published(owner, old_text)
            update.present(owner, old)
            update.delete(owner, old)
            update.add(owner, ttl, txt(new_text))

        return self._send(name, fill)

    def delete(self, name: str, old_text: str) -> Outcome:
        """Take the expected record away, and only that."""

        def fill(update: dns.update.UpdateMessage, owner: dns.name.Name) -> None:
            old = self._as_published(owner, old_text)
            update.present(owner, old)
            update.delete(owner, old)

        return self._send(name, fill)

    # --- inside

    def _send(
        self, name: str, fill: Callable[[dns.update.UpdateMessage, dns.name.Name], None]
    ) -> Outcome:
        owner = absolute(name)
        try:
            zone = self._zone_of(owner)
            if isinstance(zone, Outcome):
                return zone
            update = dns.update.UpdateMessage(zone, keyring=self.key.for_signing())
            fill(update, owner)
        except exchange.NoAnswer as error:
            return outcome.unreachable(_not_sent(self.server, name, error))
        try:
            answer = exchange.ask(update, self.server, self.timeout)
        except exchange.NoAnswer as error:
            lost = _lost if error.may_have_arrived else _not_sent
            return outcome.unreachable(lost(self.server, name, error))
        return _judge(answer, self, name, _plain(zone))

    def _zone_of(self, owner: dns.name.Name) -> dns.name.Name | Outcome:
        """The zone that holds a name, as this very server says: no cache has a part in it."""
        if self.zone is not None:
            return absolute(self.zone)
        asked = owner
        while asked != dns.name.root:
            answer = self._query(asked, dns.rdatatype.SOA)
            found = _zone_in(answer.message, asked)
            if found is not None and answer.message.flags & dns.flags.AA:
                return found
            if found is not None:
                return outcome.refused(
                    f"{self.server} knows {_plain(found)} without authority, as a resolver does;"
                    " set `server` of the rule to the zone's primary."
                )
            cut = _delegation_in(answer.message, owner)
            if cut is not None:
                return outcome.refused(
                    f"{_plain(owner)} is in {_plain(cut)}, which {self.server} has given to other"
                    f" servers; set `server` of the rule to the primary of {_plain(cut)}."
                )
            asked = asked.parent()
        return outcome.refused(
            f"{self.server} has no zone that holds {_plain(owner)}; set `server` of the rule to"
            " the zone's primary."
        )

    def _as_published(self, owner: dns.name.Name, text: str) -> _Txt:
        """The record with this text, in the strings in which it stands.

        A person may have cut it at other places than we do, and the server compares the octets.
        """
        wanted = _octets(text)
        for rdataset in self._query(owner, dns.rdatatype.TXT).message.answer:
            for record in rdataset:
                if isinstance(record, _Txt) and b"".join(record.strings) == wanted:
                    return record
        return txt(text)

    def _has(self, owner: dns.name.Name, text: str) -> bool:
        """Whether exactly this text stands there at the server of updates."""
        try:
            answer = self._query(owner, dns.rdatatype.TXT).message.answer
        except exchange.NoAnswer:
            return False
        found = [record for rdataset in answer for record in rdataset]
        return len(found) == 1 and all(
            isinstance(record, _Txt) and b"".join(record.strings) == _octets(text)
            for record in found
        )

    def _query(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> exchange.Answer:
        """Ask with our key, which may select a view; without where the server does not sign."""
        question = dns.message.make_query(name, kind, flags=0)
        question.use_tsig(self.key.for_signing())
        answer = exchange.ask(question, self.server, self.timeout)
        if answer.is_credible:
            return answer
        # The update will tell what is wrong with the key, or that there are no updates at all.
        bare = dns.message.make_query(name, kind, flags=0)
        return exchange.ask(bare, self.server, self.timeout)


def txt(text: str) -> _Txt:
    """A TXT record in strings of at most 255 octets."""
    octets = _octets(text)
    size = dns_record.STRING
    parts = [octets[at : at + size] for at in range(0, len(octets), size)] or [b""]
    return _Txt(dns.rdataclass.IN, dns.rdatatype.TXT, parts)


def absolute(name: str) -> dns.name.Name:
    """A name without its last dot as dnspython's; `errors.DataError` if it is none."""
    try:
        found = dns.name.from_text(name.rstrip(".") + ".")
    except (dns.exception.DNSException, UnicodeError):
        found = dns.name.root
    if found == dns.name.root:
        raise errors.DataError(
            f"{name[:80]!r} is no domain name; each label has 1 to 63 characters, all of it 253."
        )
    return found


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def _zone_in(message: dns.message.Message, asked: dns.name.Name) -> dns.name.Name | None:
    """The owner of the SOA in an answer about a name."""
    for rrset in (*message.answer, *message.authority):
        if rrset.rdtype == dns.rdatatype.SOA and asked.is_subdomain(rrset.name):
            return rrset.name
    return None


def _delegation_in(message: dns.message.Message, owner: dns.name.Name) -> dns.name.Name | None:
    """The zone to which a server refers us, if it is one that holds the name."""
    if message.flags & dns.flags.AA or message.rcode() != Rcode.NOERROR:
        return None
    for rrset in message.authority:
        if rrset.rdtype == dns.rdatatype.NS and rrset.name != dns.name.root:
            return rrset.name if owner.is_subdomain(rrset.name) else None
    return None


# --- explaining ---------------------------------------------------------------------------------


def _not_sent(server: ServerAddress, name: str, error: exchange.NoAnswer) -> str:
    return (
        f"{server} {error}, so {name} was not changed; see that the server runs and takes TCP,"
        " then run this again."
    )


def _lost(server: ServerAddress, name: str, error: exchange.NoAnswer) -> str:
    return (
        f"{server} {error} to the update of {name}, which may or may not have been made; run this"
        " again, which looks first."
    )


def _judge(answer: exchange.Answer, by: Rfc2136Publisher, name: str, zone: str) -> Outcome:
    """The outcome of an update that was answered."""
    if answer.tsig_error:
        return outcome.refused(_key_refused(answer, by, name, zone))
    code = answer.rcode
    if not answer.is_credible and code in (Rcode.NOERROR, *_CHANGED, *_OCCUPIED):
        return outcome.refused(
            f"the answer of {by.server} about {name} is not signed with the key {by.key.name}, so"
            " it is not believed; see who answers at that address, and that it has the same key."
        )
    if code == Rcode.NOERROR:
        return outcome.sent(f"{by.server} took the change of {name} in the zone {zone}.")
    if code in _OCCUPIED:
        return outcome.conflict(
            f"{by.server} has something at {name} already, so nothing was added; look with"
            f" `{_dig(by.server, name)}` and take away what is not wanted there."
        )
    if code in _CHANGED:
        return outcome.conflict(
            f"{by.server} does not have exactly the expected record at {name}, so nothing was"
            f" changed; look with `{_dig(by.server, name)}`."
        )
    return outcome.refused(_refused(code, by, name, zone))


def _key_refused(answer: exchange.Answer, by: Rfc2136Publisher, name: str, zone: str) -> str:
    """RFC 8945 section 5.2: what is wrong with key, signature or time."""
    key = by.key.name
    if answer.tsig_error == Rcode.BADSIG:
        return (
            f"{by.server} knows the key {key} with another secret or algorithm"
            f" (ours: {by.key.algorithm}); put the server's own key into the key file."
        )
    if answer.tsig_error == Rcode.BADTIME:
        skew = answer.skew
        apart = "by more than it allows" if skew is None else _apart(skew)
        return (
            f"the clock of {by.server} and ours differ {apart}, so it takes no signature of ours;"
            " set both by NTP, then run this again."
        )
    if answer.tsig_error == Rcode.BADKEY:
        return (
            f"{by.server} does not take the key {key} with {by.key.algorithm} for {name} (BADKEY):"
            " it knows none of that name and algorithm, or, if it is Knot, the `acl` of the zone"
            f" {zone} does not let that key change TXT at that name; set it up there."
        )
    said = dns.rcode.to_text(Rcode.make(answer.tsig_error), True)
    return (
        f"{by.server} does not take our signature with the key {key} ({said}); compare the"
        " algorithm on both sides."
    )


def _apart(skew: int) -> str:
    return f"by {abs(skew)} s (the server's is {'ahead' if skew > 0 else 'behind'})"


def _refused(code: Rcode, by: Rfc2136Publisher, name: str, zone: str) -> str:
    """RFC 2136 section 2.2: why a server did not take an update."""
    server, key = by.server, by.key.name
    if code == Rcode.REFUSED:
        return (
            f"{server} does not let the key {key} change {name} (REFUSED); in BIND, the zone {zone}"
            f" needs `update-policy {{ grant {key} wildcard {_pattern(name)}. TXT; }};` on its"
            f" primary; and a frozen zone has to be thawed (`rndc thaw {zone}`, `knotc zone-thaw"
            f" {zone}`)."
        )
    if code == Rcode.NOTAUTH:
        return (
            f"{server} is no primary of the zone {zone} (NOTAUTH); set `server` or `zone` of the"
            " rule to the primary and its zone."
        )
    if code == Rcode.NOTZONE:
        return (
            f"{name} is not in the zone {zone}, says {server} (NOTZONE); correct `zone` of the"
            " rule, or leave it out and it is found by asking."
        )
    if code == Rcode.NOTIMP:
        return (
            f"{server} takes no updates at all (NOTIMP), as NSD does not; name the primary behind"
            " it as `server`, or publish with `method: manual` or `method: provider`."
        )
    if code == Rcode.SERVFAIL:
        return (
            f"{server} failed to change {name} (SERVFAIL); its own log says why: often a zone that"
            " did not load, or a zone file or journal it may not write."
        )
    return (
        f"{server} did not take the change of {name} ({dns.rcode.to_text(code)}); its own log may"
        " say why."
    )


def _pattern(name: str) -> str:
    """The names to allow for this one and its successors."""
    _, key, above = name.partition("._domainkey.")
    return f"*{key}{above}" if key else f"*.{name.partition('.')[2]}"


def _dig(server: ServerAddress, name: str) -> str:
    return f"dig @{server.host} -p {server.port} +norecurse {name} ANY"
