"""Read a TSIG key file in the form that tsig-keygen and ddns-confgen print.

    key "dkim-key" { algorithm hmac-sha256; secret "bWFkZSB1cA=="; };

Promises: strict and linear: one key, each clause once, nothing else but comments; base64 of at
least 16 octets; no HMAC-MD5 (RFC 8945 section 6 forbids it).  The secret stands in no repr, error
or log.

Raises: `errors.ConfigurationError` with the path and the remedy.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dns.exception
import dns.name
import dns.tsig

from carbonseal.keys.publication import secret_file
from carbonseal.policies import errors

ALGORITHMS: Final = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1")
_SHORTEST = 16  # octets; fewer could be guessed
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
      |(?P<quoted>"[^"\\\n]{0,1024}")
      |(?P<sign>[{};])
      |(?P<word>(?!/\*)[^\s"{};\#\\]{1,1024})""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class TsigKey:
    """A name and a secret shared with a name server, RFC 8945."""

    name: str
    algorithm: str  # of ALGORITHMS
    secret: bytes = field(repr=False)

    def for_signing(self) -> dns.tsig.Key:
        """As dnspython wants it, but not telling its secret."""
        return _QuietKey(self.name, self.secret, self.algorithm)


class _QuietKey(dns.tsig.Key):
    """dnspython's own repr shows the secret, and a repr ends up in tracebacks."""

    def __repr__(self) -> str:
        return f"<TSIG key {self.name}>"


def read(path: Path) -> TsigKey:
    """The key in a file."""
    try:
        text = secret_file.read(path).decode("ascii")
    except UnicodeDecodeError:
        raise _wrong(path, "it is not plain ASCII") from None
    tokens = _tokens(path, text)
    if tokens[:1] != ["key"] or len(tokens) < 3 or tokens[2] != "{":
        raise _wrong(path, "it does not begin with: key NAME {")
    if "}" not in tokens or tokens[tokens.index("}") :] not in (["}", ";"], ["}"]):
        raise _wrong(path, "it must hold one key and end after its closing bracket")
    clauses = _clauses(path, tokens[3 : tokens.index("}")])
    return TsigKey(
        _name(path, tokens[1]),
        _algorithm(path, clauses["algorithm"]),
        _secret(path, clauses["secret"]),
    )


def _tokens(path: Path, text: str) -> list[str]:
    """Words, brackets and semicolons; quotes are taken off."""
    tokens: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            line = text.count("\n", 0, at) + 1
            raise _wrong(path, f"line {line} cannot be read")
        if match.lastgroup != "space":
            tokens.append(match[0].strip('"'))
        at = match.end()
    return tokens


def _clauses(path: Path, tokens: list[str]) -> dict[str, str]:
    """`algorithm A ; secret S ;` as a mapping."""
    found: dict[str, str] = {}
    if len(tokens) % 3 or any(end != ";" for end in tokens[2::3]):
        raise _wrong(path, "a clause in it is not: word value ;")
    for word, value in zip(tokens[::3], tokens[1::3], strict=True):
        if word not in ("algorithm", "secret") or word in found:
            raise _wrong(path, "it may hold `algorithm` and `secret`, each once, and nothing else")
        found[word] = value
    if len(found) != 2:
        raise _wrong(path, "it must hold both `algorithm` and `secret`")
    return found


def _name(path: Path, text: str) -> str:
    try:
        name = dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError):
        name = dns.name.root
    if name == dns.name.root:
        raise _wrong(path, "the key's name is no domain name")
    return name.to_text(omit_final_dot=True).lower()


def _algorithm(path: Path, text: str) -> str:
    plain = text.lower().rstrip(".")
    if plain not in ALGORITHMS:
        raise _wrong(path, f"its algorithm is none of {', '.join(ALGORITHMS)}")
    return plain


def _secret(path: Path, text: str) -> bytes:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(path, "its secret is not base64, perhaps cut short") from None
    if len(secret) < _SHORTEST:
        raise _wrong(path, f"its secret has under {_SHORTEST} octets and could be guessed")
    return secret


def _wrong(path: Path, what: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"{path}: {what}; make a key file with `tsig-keygen NAME`, and give the server the same."
    )
