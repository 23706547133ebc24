"""Write keys in the form another signer reads: key files, tables, configuration, DNS records.

opendkim: PKCS#8 PEM, KeyTable, SigningTable, opendkim.conf.  rspamd: RSA as PEM, Ed25519 as base64
of its 64 octets, dkim_signing.conf.  dkimpy: RSA as PEM, Ed25519 as base64 of its seed, and a
dkimpy-milter.conf.  pem: PKCS#8 alone.  The TXT record of each key is beside it as zone text.

Promises: private keys are in `Part`s that say so and have no `repr`; tables name files by `place`,
where they will be, and `place` has only characters that no table reads otherwise.

Raises: `errors.DataError` for another place.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import dns_record, generate, keyring
from carbonseal.keys.key_record import KeyRecord
from carbonseal.policies import errors, signing_request

FORMS: Final = ("opendkim", "rspamd", "dkimpy", "pem")
_PLACE = re.compile(r"/[A-Za-z0-9/._+=@-]{0,1000}\Z")
_ENDINGS = {"opendkim": "private", "rspamd": "key", "dkimpy": "key", "pem": "pem"}


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is handed over, with its private half if that is wanted."""

    record: KeyRecord
    private: keyring.PrivateKey | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What its files are called, without the ending."""
        return f"{self.record.sdid}.{self.record.selector}"

    @property
    def is_rsa(self) -> bool:
        """Whether it is RSA and not Ed25519."""
        return self.record.algorithm == signing_request.RSA


@dataclass(frozen=True, slots=True)
class Part:
    """One file to be written."""

    name: str
    what: str  # for a person
    content: bytes = field(repr=False)
    is_private: bool = False


def parts(keys: Sequence[Key], form: str, place: Path) -> tuple[list[Part], list[str]]:
    """The files, and sentences about what could not be written down."""
    if not _PLACE.match(str(place)):
        raise errors.DataError(
            f"{str(place)!r}: use a directory whose path has letters, digits and . _ + = @ -"
            " only, or give such a path with --installed-in; the tables of other signers read"
            " other characters as their own."
        )
    chosen, notes = _expressible(keys, form)
    files = [part for key in chosen for part in _of_key(key, form)]
    files += [Part(name, what, _text(lines)) for name, what, lines in _TABLES[form](chosen, place)]
    return files, notes


def private_key(pem: bytes) -> keyring.PrivateKey:
    """The private key in a PEM of the store that was parsed before."""
    private = serialization.load_pem_private_key(pem, None)
    if isinstance(private, (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        return private
    raise errors.DataError("DKIM has no algorithm for its kind of key; use RSA or Ed25519.")


def _expressible(keys: Sequence[Key], form: str) -> tuple[list[Key], list[str]]:
    """opendkim.conf(5) has one SignatureAlgorithm for all keys."""
    others = [key for key in keys if not key.is_rsa]
    if form != "opendkim" or not others or len(others) == len(keys):
        return list(keys), []
    return [key for key in keys if key.is_rsa], [
        f"{key.record.dns_name} is left out: OpenDKIM signs with one algorithm, and there is an RSA"
        f" key; export it by itself with its selector, {key.record.selector}."
        for key in others
    ]


def _of_key(key: Key, form: str) -> list[Part]:
    text = dns_record.value(key.record.public_key)
    zone = dns_record.zone_text(key.record.dns_name, text) + "\n"
    files = [Part(f"{key.name}.txt", "DNS record", zone.encode("ascii"))]
    if key.private is not None:
        content = _private(key.private, form)
        files.append(Part(_key_file(key, form), "private key", content, is_private=True))
    return files


def _private(private: keyring.PrivateKey, form: str) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey) and form in ("rspamd", "dkimpy"):
        octets = private.private_bytes_raw()
        if form == "rspamd":
            octets += private.public_key().public_bytes_raw()
        return base64.b64encode(octets)  # dkimpy does not forgive a line end
    return generate.private_pem(private)


def _key_file(key: Key, form: str) -> str:
    return f"{key.name}.{_ENDINGS[form]}"


_Table = tuple[str, str, list[str]]


def _opendkim(keys: Sequence[Key], place: Path) -> list[_Table]:
    algorithm = signing_request.RSA if keys[0].is_rsa else signing_request.ED25519
    key_table = [
        f"{key.record.dns_name} {key.record.sdid}:{key.record.selector}:"
        f"{place / _key_file(key, 'opendkim')}"
        for key in keys
    ]
    signing_table = [f"*@{key.record.sdid} {key.record.dns_name}" for key in keys]
    conf = [
        f"KeyTable            {place / 'KeyTable'}",
        f"SigningTable        refile:{place / 'SigningTable'}",
        f"SignatureAlgorithm  {algorithm}",
    ]
    return [
        ("KeyTable", "table of keys", key_table),
        ("SigningTable", "table of authors", signing_table),
        ("opendkim.conf", "lines for opendkim.conf", conf),
    ]


def _rspamd(keys: Sequence[Key], place: Path) -> list[_Table]:
    section = ["domain {"]
    for sdid in dict.fromkeys(key.record.sdid for key in keys):
        section += [f"  {sdid} {{", "    selectors ["]
        section += [
            f'      {{ selector = "{key.record.selector}";'
            f' path = "{place / _key_file(key, "rspamd")}"; }}'
            for key in keys
            if key.record.sdid == sdid
        ]
        section += ["    ]", "  }"]
    # Otherwise it would ask for the keys of the registered domain instead of these.
    section += ["}", "use_esld = false;", "try_fallback = false;"]
    return [("dkim_signing.conf", "local.d/dkim_signing.conf", section)]


def _dkimpy(keys: Sequence[Key], place: Path) -> list[_Table]:
    conf = [f"Domain           {keys[0].record.sdid}"]
    for key in keys:
        ending = "" if key.is_rsa else "Ed25519"
        file = place / _key_file(key, "dkimpy")
        conf += [
            f"{'Selector' + ending:16} {key.record.selector}",
            f"{'KeyFile' + ending:16} {file}",
        ]
    return [("dkimpy-milter.conf", "lines for dkimpy-milter.conf", conf)]


def _pem(keys: Sequence[Key], place: Path) -> list[_Table]:
    return []


_TABLES: dict[str, Callable[[Sequence[Key], Path], list[_Table]]] = {
    "opendkim": _opendkim,
    "rspamd": _rspamd,
    "dkimpy": _dkimpy,
    "pem": _pem,
}


def _text(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("ascii")
