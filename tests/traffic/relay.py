"""What the milter of a relay makes of a message: the record, with all decisions.

Promises: the content of version 2 as `milter.seal` makes it, from the same reasons in the same
order; a test asks the policies themselves about such records.
"""

from __future__ import annotations

import binascii
import functools
import random
import time
from dataclasses import dataclass, field
from typing import Any

from carbonseal.policies import signing
from traffic import fields, people
from traffic.fields import Field
from traffic.people import Path, Person

ARCHIVE = "archive@archive.example.net"
PEERS = "10.0.0.0/28"
APPLICATIONS = "10.20.0.0/24"
RELAYS = ("mx1.example.com", "mx2.example.com", "hub1.example.com")
HUB = RELAYS[2]
_RELAY_ADDRESSES = {"mx1.example.com": "10.0.0.1", "mx2.example.com": "10.0.0.2"}
_POLICY = signing.SigningPolicy()
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_BASE52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_PAIRS52 = tuple(high + low for high in _BASE52 for low in _BASE52)
_TLS = (
    {"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "bits": "256"},
    {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "bits": "128"},
    {"version": "TLSv1.2", "cipher": "ECDHE-RSA-AES256-GCM-SHA384", "bits": "256"},
    None,
)
_YEAR = 31_557_600
# As `retention` names and limits them: seconds for record, header section, subject.
_CLASSES = {
    "internal": {"class": "internal", "keep": 3 * _YEAR, "headers": _YEAR, "subject": None},
    "outbound": {"class": "business", "keep": 10 * _YEAR, "headers": None, "subject": None},
    "inbound": {"class": "business", "keep": 10 * _YEAR, "headers": None, "subject": None},
    "transit": {"class": "transit", "keep": _YEAR, "headers": _YEAR // 2, "subject": None},
}
_PROOFS = 3  # addresses of one kind that the reasons name


@dataclass(slots=True)
class Draft:
    """A message before any relay saw it."""

    author: Person
    reverse_path: str
    envelope: list[Path]
    subject: str
    fields: list[Field]
    message_id: str
    origin: str  # login, network or none
    esmtp: list[str] = field(default_factory=list)
    relay: str = RELAYS[0]
    is_passed_on: bool = False  # to the hub, which seals it as well


def record(draft: Draft, now: float, rng: random.Random) -> dict[str, Any]:
    """The record of the relay that met the message first."""
    client = _client(draft, rng)
    return _record(draft, now, rng, draft.relay, client, draft.origin)


def record_of_hub(draft: Draft, now: float, rng: random.Random) -> dict[str, Any]:
    """The record of the hub to which that relay passed the message on."""
    address = _RELAY_ADDRESSES[draft.relay]
    trace = fields.received(
        draft.relay, draft.relay, address, draft.envelope[0]["address"], now, rng
    )
    draft.fields.insert(0, trace)
    client = {"address": address, "port": 0, "name": draft.relay, "helo": draft.relay}
    client["port"] = 1024 + int(rng.random() * 60_000)
    return _record(draft, now, rng, HUB, client, "peer")


def _record(
    draft: Draft, now: float, rng: random.Random, relay: str, client: Path, origin: str
) -> dict[str, Any]:
    size = int(1.6 ** (rng.gauss(0, 1) * 3.4) * 9000) + 200
    about = _about(draft, client, origin)
    reverse_path = _reverse_path(draft, proven=origin != "none")
    crossing = _crossing(reverse_path, draft.envelope)
    header_size = sum([len(name) + len(value) + 3 for name, value in draft.fields])
    signatures, refusal = _signing(draft, origin, about, now, rng)
    copied = crossing != "internal" and origin != "peer"
    is_login = origin == "login"
    return {
        "queue_id": _queue_id(now, rng),
        "listener": "submission" if is_login else "smtpd",
        "client": client,
        "login": draft.author.login if is_login else "",
        "login_method": ("PLAIN" if rng.random() < 0.9 else "LOGIN") if is_login else "",
        "tls": _TLS[min(int(rng.random() * 8) // 2, 3)] if origin != "network" else None,
        "origin": {"kind": origin, "about": about},
        "reverse_path": reverse_path,
        "recipients": draft.envelope,
        "crossing": crossing,
        "header_count": len(draft.fields),
        "header_size": header_size,
        "body_size": size,
        "size": header_size + 2 + size,
        "body_hash": {"canonicalization": "relaxed", "sha256": fields.base64_of(32, rng)},
        "v": 2,
        "record_id": _record_id(int(now * 1000), rng),
        "salt": rng.randbytes(16).hex(),
        "retention": _CLASSES[crossing],
        "bcc_maps": None,
        "recorded_at": _timestamp(now),
        "relay": relay,
        "config_version": f"{int(now // (90 * 86_400)) * 0x5DEECE66D & 0xFFFFFFFFFFFF:012x}",
        "header_fields": list(draft.fields),
        "signatures": signatures,
        "archive_recipients": [ARCHIVE] if copied else [],
        "archive_addressed": False,
        "disposition": "accept",
        "reasons": [
            f"origin-{origin}({about})",
            reverse_path["why"],
            *_proofs(draft.envelope),
            *refusal,
            f"copied-by-peer({PEERS})"
            if origin == "peer"
            else f"archive-copy({ARCHIVE})"
            if copied
            else "purely-local",
        ],
    }


def _client(draft: Draft, rng: random.Random) -> Path:
    author = draft.author
    port = 1024 + int(rng.random() * 60_000)
    if draft.origin == "login":
        name = f"desk{author.number}.corp.example.com"
        return {"address": author.client, "port": port, "name": name, "helo": "[127.0.0.1]"}
    if draft.origin == "network":
        number = author.number % 30 + 1
        name = f"app{number}.corp.example.com"
        return {"address": f"10.20.0.{number}", "port": port, "name": name, "helo": name}
    domain = author.domain
    name = "unknown" if author.number % 17 == 16 else domain.host
    return {"address": domain.address, "port": port, "name": name, "helo": domain.host}


def _about(draft: Draft, client: Path, origin: str) -> str:
    if origin == "login":
        return draft.author.login
    return {"network": APPLICATIONS, "peer": PEERS}.get(origin) or client["address"]


def _reverse_path(draft: Draft, *, proven: bool) -> Path:
    address = draft.reverse_path
    if not address:
        side = "inside" if proven else "outside"
        path = {"raw": "<>", "address": "", "resolved": "", "esmtp": draft.esmtp, "place": side}
        return path | {"why": f"null-reverse-path-{side}"}
    path = people.place(address, what="reverse-path", is_inside=_is_ours(address) and proven)
    if _is_ours(address) and not proven:
        path["why"] = f"reverse-path-unproven({address})"
    path["esmtp"] = draft.esmtp
    return path


@functools.lru_cache(maxsize=10_000)
def _is_ours(address: str) -> bool:
    return address.rpartition("@")[2] in (*people.OURS, people.WITHOUT_KEY)


def _crossing(reverse_path: Path, envelope: list[Path]) -> str:
    inside = sum(one["place"] == "inside" for one in envelope)
    if reverse_path["place"] == "inside":
        return "internal" if inside == len(envelope) else "outbound"
    return "inbound" if inside else "transit"


def _proofs(envelope: list[Path]) -> list[str]:
    if len(envelope) == 1:
        return [envelope[0]["why"]]
    proofs: dict[str, list[str]] = {}
    for one in envelope:
        kept = proofs.setdefault(one["place"], [])
        if len(kept) < _PROOFS and one["why"] not in kept:
            kept.append(one["why"])
    return [why for kept in proofs.values() for why in kept]


def _signing(
    draft: Draft, origin: str, about: str, now: float, rng: random.Random
) -> tuple[list[dict[str, Any]], list[str]]:
    if origin == "peer":
        return [], [f"peer-sealed({about})"]
    if origin == "none":
        return [], [f"no-origin-proof({about})"]
    author = draft.author
    if not author.is_ours or author.domain.name == people.WITHOUT_KEY:
        return [], [f"author-not-ours({author.address})"]
    chance = rng.random()
    if chance < 0.01:
        return [], ["bare-line-ends"]
    domain = author.domain.name
    names = tuple([name for name, _ in draft.fields])
    made = []
    for selector, algorithm in _keys(domain, int(now) // (91 * 86_400)):
        made.append(
            {
                "sdid": domain,
                "selector": selector,
                "auid": f"@{domain}",
                "algorithm": algorithm,
                "canonicalization": "relaxed/relaxed",
                "fields": _listed(names),
                "signed_at": int(now),
                "expires_at": None,
            }
        )
    reasons = [f"signed({domain}/{one['selector']})" for one in made]
    return made, ["eight-bit-content", *reasons] if chance > 0.97 else reasons


@functools.lru_cache(maxsize=1024)
def _keys(domain: str, quarter: int) -> tuple[tuple[str, str], ...]:
    """Selectors change every quarter; one domain adds Ed25519 half way."""
    rsa = (f"s{quarter:03d}r", "rsa-sha256")
    if domain == people.OURS[0] and quarter > 218:
        return (rsa, (f"s{quarter:03d}e", "ed25519-sha256"))
    return (rsa,)


@functools.lru_cache(maxsize=4096)
def _listed(names: tuple[str, ...]) -> str:
    return ":".join(signing.signed_fields(names, _POLICY))


def _record_id(milliseconds: int, rng: random.Random) -> str:
    value = (milliseconds << 80) | rng.getrandbits(80)
    return "".join([_PAIRS[(value >> shift) & 0x3FF] for shift in range(120, -1, -10)])


def _queue_id(now: float, rng: random.Random) -> str:
    """As Postfix makes long ones: time in base 52, then a number of the file."""
    second, chance = int(now), rng.random
    micros = int((now - second) * 1_000_000)
    high, rest = divmod(second, 2704 * 2704)
    middle, low = divmod(rest, 2704)
    return (
        f"{_PAIRS52[high]}{_PAIRS52[middle]}{_PAIRS52[low]}{_PAIRS52[micros // 2704]}"
        f"{_PAIRS52[micros % 2704]}z{_PAIRS52[int(chance() * 2704)]}"
        f"{_PAIRS52[int(chance() * 2704)]}"
    )


def _timestamp(now: float) -> str:
    second = int(now)
    return f"{_second(second)}.{int((now - second) * 1_000_000):06d}Z"


@functools.lru_cache(maxsize=16)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def unique(size: int, rng: random.Random) -> str:
    """Digits that stand for one message only."""
    return binascii.hexlify(rng.randbytes(size)).decode()
