"""The evidence key of a relay: Ed25519, made on first use, signs sealed segments and nothing else.

No DKIM key: it proves what the archive held, has no record in DNS, and outlives every rotation.

Promises: the private key is born with mode 0600 and under its name only when it is whole on disk;
one that is there is never replaced.  It appears in no log, error or repr.  Its public half stands
beside it (`evidence.pub`, PEM), for whoever checks.

Raises: `errors.TryLater`, one sentence with the path and the remedy.

See also: `carbonseal.milter.archive.evidence.chain` (what it signs).
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from carbonseal.keys import durable
from carbonseal.policies import errors

PRIVATE, PUBLIC = "evidence.key", "evidence.pub"
PUBLIC_SIZE, SIGNATURE_SIZE = 32, 64  # octets
_MOST = 64 * 1024


class EvidenceKey:
    """A private key that can only sign."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"EvidenceKey({key_id(self.public)})"

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 octets (RFC 8032)."""
        return self._private.sign(message)


def key_id(public: bytes) -> str:
    """A public key's name for people: 16 hex digits."""
    return sha256(public).hexdigest()[:16]


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether that key has signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def load(directory: Path) -> EvidenceKey | None:
    """The key of a relay; None where none was made yet."""
    path = directory / PRIVATE
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise _unusable(path, fault) from None
    with os.fdopen(handle, "rb") as stream:
        if os.fstat(stream.fileno()).st_mode & 0o077:
            raise errors.TryLater(
                f"{path}: others may read the evidence key; set its mode to 0600, and think of it "
                "as known to them"
            )
        content = stream.read(_MOST)
    try:
        private = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise errors.TryLater(
            f"{path}: this is no Ed25519 private key; restore it from a backup, or move the "
            "directory away to begin a new chain"
        ) from None
    return EvidenceKey(private)


def make(directory: Path) -> EvidenceKey:
    """A new key in a directory that has none; if somebody else was quicker, theirs."""
    private = Ed25519PrivateKey.generate()
    content = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        durable.write_new(directory / PRIVATE, content)
    except FileExistsError:
        found = load(directory)
        assert found is not None
        return found
    except OSError as fault:
        raise _unusable(directory / PRIVATE, fault) from None
    return EvidenceKey(private)


def publish(directory: Path, key: EvidenceKey) -> None:
    """Let the public half stand beside the private one."""
    path = directory / PUBLIC
    try:
        if not path.exists():
            durable.write_new(path, to_pem(key.public), durable.Access(mode=0o644))
    except FileExistsError:
        pass
    except OSError as fault:
        raise _unusable(path, fault) from None


def to_pem(public: bytes) -> bytes:
    """A public key as `openssl pkey -pubin` reads it."""
    return Ed25519PublicKey.from_public_bytes(public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def read_public(path: Path) -> bytes:
    """The public key in a PEM file, 32 octets.  Raises: errors.DataError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST)
        found = serialization.load_pem_public_key(content)
    except OSError as fault:
        raise errors.DataError(
            f"{path}: the public key cannot be read ({fault.strerror}); check the name"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PublicKey):
        raise errors.DataError(
            f"{path}: this is no Ed25519 public key; give the relay's {PUBLIC}"
        ) from None
    return found.public_bytes_raw()


def _unusable(path: Path, fault: OSError) -> errors.TryLater:
    return errors.TryLater(
        f"{path}: the evidence key cannot be used ({fault.strerror}); check record.evidence and "
        "its permissions"
    )
