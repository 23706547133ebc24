"""Lists of hosts (InternalHosts, PeerList, sign_networks) as networks of ours.

opendkim.conf(5), PeerList: a host name, a domain (`.example.com`), an address, or a network; `!`
before it means "not", and the more precise entry counts.

Promises: an entry becomes networks or a note.  Loopback is left out unless `trust_loopback`:
content filters hand foreign mail back from there.  Names are left out: the name of an address is
written by whoever owns the address.  Time and result are bounded.

Raises: `errors.DataError` for lists beyond the bounds.

Does not: look names up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from carbonseal.keys.takeover.dataset import Entry
from carbonseal.milter.migrate.plan import Clients, Fate, Note
from carbonseal.policies import errors

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ENTRIES = 20_000
MAX_EXCLUDED = 200
_LOOPBACK = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
    ipaddress.ip_network("::ffff:127.0.0.0/104"),
)
_NAMES_OF_LOOPBACK = frozenset(("localhost", "localhost.localdomain", "ip6-localhost"))
LOOPBACK = (
    "loopback is not taken over: content filters hand foreign mail back from there, and it would be"
    " signed; for mail of sendmail(1) set ours.local_submission, and if nothing re-injects mail,"
    " list 127.0.0.1 in ours.networks (or run this again with --trust-loopback)"
)


def read(
    entries: Sequence[Entry], parameter: str, *, trust_loopback: bool, is_strict: bool = True
) -> Clients:
    """The networks of a list; `parameter` is its name in the notes.

    `is_strict`: a network with bits behind its mask matches nobody there, and is only noted.
    """
    if len(entries) > MAX_ENTRIES:
        raise errors.DataError(
            f"{entries[0].source}: {parameter} has more than {MAX_ENTRIES} entries; write networks"
            " instead of single addresses."
        )
    notes: list[Note] = []
    included: dict[Network, None] = {}
    excluded: dict[Network, None] = {}
    has_loopback = False
    for entry in entries:
        name = entry.name.removeprefix("!").lower()
        network = _network(name, is_strict=is_strict)
        if name in _NAMES_OF_LOOPBACK or (network is not None and _is_loopback(network)):
            has_loopback = has_loopback or not entry.name.startswith("!")
            if not trust_loopback and not entry.name.startswith("!"):
                notes.append(Note(entry.source, parameter, Fate.DIFFERENT, f"{name}: {LOOPBACK}"))
            elif network is not None:
                (excluded if entry.name.startswith("!") else included).setdefault(network)
            else:
                included.setdefault(ipaddress.ip_network("127.0.0.1"))
            continue
        if network is None or not network.prefixlen:
            why = _why_not(name, network)
            notes.append(Note(entry.source, parameter, Fate.NO_EQUAL, f"{_shown(name)}: {why}"))
            continue
        (excluded if entry.name.startswith("!") else included).setdefault(network)
    if len(excluded) > MAX_EXCLUDED:
        raise errors.DataError(
            f"{entries[0].source}: {parameter} has more than {MAX_EXCLUDED} exceptions (!); write"
            " the networks that are meant instead."
        )
    networks = tuple(str(one) for one in _without(included, tuple(excluded)))
    return Clients(networks, has_loopback and trust_loopback, tuple(notes))


def _network(name: str, *, is_strict: bool) -> Network | None:
    """The network an entry means; None for a name or for what matches no address."""
    address, slash, bits = name.partition("/")
    try:
        return ipaddress.ip_network(address.strip("[]") + slash + bits, strict=is_strict)
    except ValueError:
        return None


def _is_loopback(network: Network) -> bool:
    return any(
        network.version == loopback.version and network.subnet_of(loopback)  # type: ignore[arg-type]
        for loopback in _LOOPBACK
    )


def _why_not(name: str, network: Network | None) -> str:
    if network is not None:
        return "everybody would be signed, spammers too; write your own networks into ours.networks"
    try:
        meant = ipaddress.ip_network(name.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return (
            "a name proves nothing here, since whoever owns an address writes its name; write the"
            " addresses into ours.networks"
        )
    return f"it has bits set behind its mask, so it matches no client there; write {meant}"


def _shown(name: str) -> str:
    return name if len(name) <= 80 else name[:80] + "..."


def _without(included: Iterable[Network], excluded: Sequence[Network]) -> list[Network]:
    """What is included without the more precise exceptions."""
    left: list[Network] = []
    for network in included:
        parts = [network]
        for exception in excluded:
            parts = [piece for part in parts for piece in _cut(part, exception, network)]
        left += parts
    if len(left) > MAX_ENTRIES:
        raise errors.DataError(
            "its exceptions (!) cut the list into too many networks; write those that are meant."
        )
    return left


def _cut(part: Network, exception: Network, whole: Network) -> list[Network]:
    # Only a more precise exception counts: "192.168.1.1" is stronger than "!192.168.1.0/24".
    if part.version != exception.version or exception.prefixlen <= whole.prefixlen:
        return [part]
    if not part.overlaps(exception):
        return [part]
    if part.prefixlen >= exception.prefixlen:
        return []
    return sorted(part.address_exclude(exception))  # type: ignore[arg-type]


def is_network(text: str) -> bool:
    """Whether a text is an address or a network, and no name of a file."""
    return _network(text, is_strict=False) is not None
