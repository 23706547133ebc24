"""The keys that sign now, held in memory: `load`, `Keyring`, and `Watch` for running workers.

Promises: a `Keyring` never changes; one key that cannot be used takes away neither the other keys
of its SDID nor those of another, it becomes a sentence in `problems`.  A key is in the ring only if
its public half has the fingerprint its record states and it signed and verified a probe.
`repr`, logs and tracebacks never show a private key; it stays inside OpenSSL.

`Watch.current` costs a clock reading on most calls.  A change on disk is seen within
`LOOK_EVERY` seconds; while something is wrong, everything is read again every `RETRY_EVERY`
seconds, so that a chmod is noticed without a command.

Raises: `load` raises `errors.CarbonsealError` only if the directory as a whole cannot be read;
`Watch` never raises, it keeps the last good keyring and says so in `complaint`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from carbonseal.keys import key_record, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.policies import errors, signing_request
from carbonseal.policies.signing_request import KeyFacts

LOOK_EVERY: Final = 0.2  # seconds between looks at the generation
RETRY_EVERY: Final = 10.0  # seconds between attempts while something is wrong

PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_SHA256 = Prehashed(hashes.SHA256())
_PKCS1 = padding.PKCS1v15()
_PROBE = bytes(range(32))


class SigningKey:
    """A private key that signs SHA-256 digests; it cannot be printed, copied or pickled out."""

    __slots__ = ("_private", "_public", "facts", "fingerprint")

    def __init__(self, facts: KeyFacts, private: PrivateKey, fingerprint: str = "") -> None:
        self.facts = facts
        self.fingerprint = fingerprint
        self._private = private
        self._public = private.public_key()

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature over 32 octets: RFC 8301 (RSASSA-PKCS1-v1_5) or RFC 8463 section 3."""
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(digest)
        return self._private.sign(digest, _PKCS1, _SHA256)

    def verifies(self, digest: bytes, signature: bytes) -> bool:
        """Whether the public half accepts this signature over this digest."""
        try:
            if isinstance(self._public, ed25519.Ed25519PublicKey):
                self._public.verify(signature, digest)
            else:
                self._public.verify(signature, digest, _PKCS1, _SHA256)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"<SigningKey {self.facts.sdid} {self.facts.selector} {self.facts.algorithm}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key does not leave its process")


@dataclass(frozen=True, slots=True)
class Keyring:
    """All active keys, by SDID; for each algorithm one, RSA first."""

    keys: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)  # SDID -> sentence(s)

    @property
    def sdids(self) -> frozenset[str]:
        """The signing domains that have at least one usable key."""
        return frozenset(self.keys)

    def signing_keys(self, sdid: str) -> tuple[SigningKey, ...]:
        """The keys that sign for an SDID (A-label); empty if there is none."""
        return self.keys.get(sdid, ())

    def facts(self, sdid: str) -> tuple[KeyFacts, ...]:
        """What the policies may know about those keys."""
        return tuple(key.facts for key in self.keys.get(sdid, ()))

    def find(self, facts: KeyFacts) -> SigningKey | None:
        """The key with exactly these facts, if it is active."""
        for key in self.keys.get(facts.sdid, ()):
            if key.facts == facts:
                return key
        return None


EMPTY: Final = Keyring()


def load(directory: Path, previous: Keyring = EMPTY) -> Keyring:
    """Read the keys directory; keys that did not change are taken over from `previous`.

    A key is only ever taken over after its file was read and checked again, so that a key whose
    file became unreadable or too open leaves the ring.
    """
    keys: dict[str, tuple[SigningKey, ...]] = {}
    problems: dict[str, str] = {}
    shelf = store.Store(directory)
    for lineage in shelf.lineages():
        sentences = list(lineage.problems)
        usable: list[SigningKey] = []
        for record in store.active(lineage.records):
            try:
                usable.append(_signing_key(shelf, record, previous))
            except errors.CarbonsealError as error:
                sentences.append(error.sentence)
        if usable:
            keys[lineage.sdid] = tuple(usable)
        if sentences:
            problems[lineage.sdid] = " ".join(sentences)
    return Keyring(MappingProxyType(keys), MappingProxyType(problems))


def parse(record: KeyRecord, pem: bytes, place: str) -> SigningKey:
    """The signing key in a PEM, if it is the one the record is about; `place` goes in the error."""
    try:
        # Validation of the primes (50 ms a key) was done when the key was made or imported;
        # fingerprint and probe below find the damage that can happen since.
        private = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise errors.DataError(f"{place}: it is no private key any more; restore it.") from None
    wanted = rsa.RSAPrivateKey
    if record.algorithm == signing_request.ED25519:
        wanted = ed25519.Ed25519PrivateKey  # type: ignore[assignment]
    if not isinstance(private, wanted) or fingerprint(private) != record.fingerprint:
        raise errors.DataError(
            f"{place}: it is not the key its record is about (fingerprint"
            f" {record.fingerprint[:16]}...); restore the file that belongs there."
        )
    return SigningKey(record.facts, private, record.fingerprint)


def fingerprint(private: PrivateKey) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, hexadecimal."""
    return key_record.fingerprint_of(public_octets(private))


def public_octets(private: PrivateKey) -> bytes:
    """The DER SubjectPublicKeyInfo of a private key."""
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _signing_key(shelf: store.Store, record: KeyRecord, previous: Keyring) -> SigningKey:
    pem = shelf.private_key(record)
    place = str(shelf.private_path(record.sdid, record.selector))
    key = parse(record, pem, place)
    known = previous.find(record.facts)
    if known is not None and known.fingerprint == key.fingerprint:
        return known
    if not key.verifies(_PROBE, key.sign_digest(_PROBE)):
        raise errors.DataError(f"{place}: it makes signatures that do not verify; restore it.")
    return key


class Watch:
    """The current keyring of a running worker; safe to call from any thread.

    `clock` is a monotonic clock in seconds.  A directory that cannot be read at the start gives
    an empty keyring with a complaint: whether that stops the mail is the failure policy's question.
    """

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._store = store.Store(directory)
        self._clock = clock
        self._lock = threading.Lock()
        self._keyring = EMPTY
        self._generation = b""
        self._complaint: str | None = None
        self._look_at = self._retry_at = 0.0
        self._look(clock(), forced=True)

    @property
    def complaint(self) -> str | None:
        """Why the keyring in use may be old, in one sentence; None while all is well."""
        return self._complaint

    def current(self) -> Keyring:
        """The keyring to use for this message."""
        now = self._clock()
        # Only one thread looks; the others go on with the ring they have.
        if now >= self._look_at and self._lock.acquire(blocking=False):
            try:
                self._look(now)
            finally:
                self._lock.release()
        return self._keyring

    def _look(self, now: float, *, forced: bool = False) -> None:
        self._look_at = now + LOOK_EVERY
        retry = now >= self._retry_at and bool(self._complaint or self._keyring.problems)
        try:
            generation = self._store.generation()
            if forced or retry or generation != self._generation:
                self._retry_at = now + RETRY_EVERY
                self._keyring = load(self._store.directory, self._keyring)
                self._generation = generation
                self._complaint = None
        except (errors.CarbonsealError, OSError) as error:
            self._complaint = f"the keys in use are those read before: {error}"
