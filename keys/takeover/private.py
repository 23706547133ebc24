"""Read the private key of a `Found`, from its file or from the text that stood in a table.

In a table stands PEM in one line (line ends lost, or written as backslash and n), the base64 of a
DER key as OpenDKIM takes it, or the base64 of an Ed25519 seed.

Promises: the key is whole, of an algorithm and size DKIM has, of the algorithm the table says, and
the one whose public half was kept beside it.  Nothing of the key is in an error.

Raises: `errors.DataError` with place and remedy.
"""

from __future__ import annotations

import base64
import binascii
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import key_file, key_record, key_size, keyring
from carbonseal.keys.takeover.found import Found
from carbonseal.policies import errors, signing_request

_SEEDS = (32, 64)  # octets: the seed, with or without the public half
_PEM = re.compile(r"-----BEGIN (?:RSA )?PRIVATE KEY-----([^-]{0,16384})-----END [A-Z ]{1,20}-----")
_SPACE = re.compile(r"(?:\\r|\\n|\s)+")
_BARE_SEED = re.compile(r"(?:[A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==)\Z")


def looks_inline(text: str) -> bool:
    """Whether the key field of a table holds a key and not a path.

    OpenDKIM decides by the first character; one seed in 64 begins with a slash all the same, and
    must not be shown as the name of a missing file.
    """
    if _BARE_SEED.match(text):
        return True
    return not text.startswith(("/", "./", "../"))


def read(found: Found) -> keyring.PrivateKey:
    """The private key; `errors.DataError` if it is not what the tables say."""
    if found.path is not None:
        place = str(found.path)
        private = key_file.read(found.path)
    else:
        place = found.source
        private = _from_text(found.inline, place)
    _check_algorithm(found, private, place)
    public = keyring.public_octets(private)
    if found.public_key and found.public_key != public:
        raise _unusable(
            place,
            "the record kept beside it has another public key (fingerprint"
            f" {key_record.fingerprint_of(found.public_key)[:16]}); find out which one is published"
            " and give that key with `carbonseal keys import SDID SELECTOR --private-key FILE`",
        )
    return private


def _check_algorithm(found: Found, private: keyring.PrivateKey, place: str) -> None:
    algorithm = (
        signing_request.RSA if isinstance(private, rsa.RSAPrivateKey) else signing_request.ED25519
    )
    if found.algorithm not in ("", algorithm):
        raise _unusable(
            place, f"it is a key for {algorithm}, and the table is one for {found.algorithm} keys"
        )


def _from_text(text: str, place: str) -> keyring.PrivateKey:
    octets = _octets(text)
    if len(octets) in _SEEDS:
        return _from_seed(octets, place)
    try:
        private = serialization.load_der_private_key(octets, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable(
            place,
            "the key field is neither the path of a file nor a private key; write an absolute path"
            " there, or import the key with `carbonseal keys import`",
        ) from None
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private
    if not isinstance(private, rsa.RSAPrivateKey):
        raise _unusable(place, "DKIM has no algorithm for its kind of key; use RSA or Ed25519")
    if not key_size.MIN_BITS <= private.key_size <= key_size.MAX_BITS:
        raise _unusable(
            place,
            f"its RSA key has {private.key_size} bits, and receivers verify {key_size.MIN_BITS} to"
            f" {key_size.MAX_BITS}; make a new key with `carbonseal keys generate`",
        )
    return private


def _from_seed(octets: bytes, place: str) -> ed25519.Ed25519PrivateKey:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(octets[:32])
    if octets[32:] not in (b"", private.public_key().public_bytes_raw()):
        raise _unusable(place, "the two halves of its Ed25519 key do not belong together")
    return private


def _octets(text: str) -> bytes:
    pem = _PEM.search(text)
    try:
        return base64.b64decode(_SPACE.sub("", pem[1] if pem else text), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _unusable(place: str, what: str) -> errors.DataError:
    return errors.DataError(f"{place}: {what}.")
