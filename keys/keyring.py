"""The keys that sign now, held in memory: `load`, `Keyring`, and `Watch` for running workers.

Promises: a `Keyring` never changes; one key that cannot be used takes away neither the other keys
of its SDID nor those of another, it becomes a sentence in `problems`.  A key is in the ring only if
its public half has the fingerprint its record states and it signed and verified a probe.
`repr`, logs and tracebacks never show a private key; it stays inside OpenSSL.

Keys that will sign soon (`key_life.LOADED_IN_ADVANCE`) are held and proven as well, but nobody is
offered them; what is wrong with one of them never touches the mail.  An active key that is
`refused` is left out, whatever its file is like.

`Watch.current` is one attribute: no system call, no lock.  Who owns the watch calls `look` every
`LOOK_EVERY` seconds; while something is wrong, everything is read again every `RETRY_EVERY`
seconds, so that a chmod is noticed without a command.

Raises: `load` raises `errors.CarbonsealError` only if the directory as a whole cannot be read;
`Watch` never raises, it keeps the last good keyring and says so in `complaint`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import held_key, key_record, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.policies import errors, key_life, signing_request
from carbonseal.policies.signing_request import KeyFacts

LOOK_EVERY: Final = 0.2  # seconds between looks at the generation
RETRY_EVERY: Final = 10.0  # seconds between attempts while something is wrong
_SETTLED: Final = 2 * 10**9  # nanoseconds after which a file's times tell a change

PrivateKey = held_key.PrivateKey

_PROBE = bytes(range(32))


class SigningKey:
    """A private key that signs SHA-256 digests; it cannot be printed, copied or pickled out."""

    __slots__ = ("_held", "facts", "fingerprint", "make_signature", "make_unproven")

    def __init__(
        self, facts: KeyFacts, private: PrivateKey, fingerprint: str = "", *, pem: bytes = b""
    ) -> None:
        """`pem`: where the key comes from, if it may be held by the compiled half."""
        self.facts = facts
        self.fingerprint = fingerprint
        self._held = held_key.hold(private, pem)
        # As `held_key.Held` says.  Here, as each message asks for it.
        self.make_signature = self._held.make_signature
        self.make_unproven = self._held.make_unproven

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature over 32 octets: RFC 8301 (RSASSA-PKCS1-v1_5) or RFC 8463 section 3."""
        return self._held.sign(digest)

    def verifies(self, digest: bytes, signature: bytes) -> bool:
        """Whether the public half accepts this signature over this digest."""
        return self._held.verifies(digest, signature)

    def __repr__(self) -> str:
        return f"<SigningKey {self.facts.sdid} {self.facts.selector} {self.facts.algorithm}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key does not leave its process")


@dataclass(frozen=True, slots=True)
class Page:
    """What one SDID has to do with a ring; kept for the next `load`."""

    state: object  # of its files, before they were read; None: they changed too lately to tell
    keys: tuple[SigningKey, ...]
    standby: tuple[SigningKey, ...]
    problems: tuple[str, ...]
    refused: tuple[str, ...]
    standby_problems: tuple[str, ...]

    @property
    def is_well(self) -> bool:
        """Whether reading it again could not show more."""
        return not self.problems and not self.standby_problems


# Weak references tell when the last message that uses an old ring is done.
@dataclass(frozen=True, slots=True, weakref_slot=True)
class Keyring:
    """All active keys, by SDID; for each algorithm one, RSA first."""

    keys: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)  # SDID -> sentence(s)
    refused: Mapping[str, str] = field(default_factory=dict)  # SDID -> why a key may not sign
    standby: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=dict)  # sign nothing yet
    standby_problems: Mapping[str, str] = field(default_factory=dict)  # SDID -> sentence(s)
    generation: bytes = b""  # of the keys directory, before anything else was read
    pages: Mapping[str, Page] = field(default_factory=dict, repr=False, compare=False)
    # The same, each by all that is known of it.
    by_facts: Mapping[KeyFacts, SigningKey] = field(init=False, repr=False, compare=False)
    _facts: Mapping[str, tuple[KeyFacts, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        facts = {sdid: tuple(key.facts for key in some) for sdid, some in self.keys.items()}
        object.__setattr__(self, "_facts", facts)
        # The first of several that have the same.
        by_facts = {
            key.facts: key
            for sdid, some in self.keys.items()
            for key in reversed(some)
            if key.facts.sdid == sdid
        }
        object.__setattr__(self, "by_facts", by_facts)

    @property
    def signing_names(self) -> frozenset[str]:
        """Every key that this ring signs with, as 'sdid/selector'."""
        return _names(self.keys.values())

    @property
    def standby_names(self) -> frozenset[str]:
        """Every key that is held and proven but does not sign, as 'sdid/selector'."""
        return _names(self.standby.values())

    @property
    def sdids(self) -> frozenset[str]:
        """The signing domains that have at least one usable key."""
        return frozenset(self.keys)

    def signing_keys(self, sdid: str) -> tuple[SigningKey, ...]:
        """The keys that sign for an SDID (A-label); empty if there is none."""
        return self.keys.get(sdid, ())

    def facts(self, sdid: str) -> tuple[KeyFacts, ...]:
        """What the policies may know about those keys."""
        return self._facts.get(sdid, ())


EMPTY: Final = Keyring()


def _names(keys: Iterable[tuple[SigningKey, ...]]) -> frozenset[str]:
    facts = (key.facts for some in keys for key in some)
    return frozenset(f"{one.sdid}/{one.selector}" for one in facts)


def load(directory: Path, previous: Keyring = EMPTY, *, generation: bytes = b"") -> Keyring:
    """Read the keys directory; what did not change is taken over from `previous`.

    An SDID whose files have the same inodes, times, modes and owners is not read again: with a
    thousand SDIDs that is a second of the processor for each change of one.  Of any other, a key is
    only taken over after its file was read and checked again, so that a key whose file became
    unreadable or too open leaves the ring.  `generation` is what the ring will state as its own.
    """
    shelf = store.Store(directory)
    above = _standing_above(directory)
    pages = {}
    for sdid in shelf.sdids():
        state = _state(directory / sdid, above)
        page = previous.pages.get(sdid)
        if page is None or state is None or page.state != state or not page.is_well:
            page = _read(shelf, shelf.lineage(sdid), previous, state)
        pages[sdid] = page
    return Keyring(
        keys=MappingProxyType({sdid: one.keys for sdid, one in pages.items() if one.keys}),
        problems=_spoken((sdid, one.problems) for sdid, one in pages.items()),
        refused=_spoken((sdid, one.refused) for sdid, one in pages.items()),
        standby=MappingProxyType({sdid: one.standby for sdid, one in pages.items() if one.standby}),
        standby_problems=_spoken((sdid, one.standby_problems) for sdid, one in pages.items()),
        generation=generation,
        pages=MappingProxyType(pages),
    )


def _spoken(said: Iterable[tuple[str, Sequence[str]]]) -> Mapping[str, str]:
    return MappingProxyType({sdid: " ".join(sentences) for sdid, sentences in said if sentences})


def _read(shelf: store.Store, lineage: store.Lineage, previous: Keyring, state: object) -> Page:
    keys: list[SigningKey] = []
    problems = list(lineage.problems)
    refused: list[str] = []
    for record in store.active(lineage.records):
        if record.refused:
            refused.append(f"{record.dns_name}: {record.refused}")
        else:
            _take(shelf, record, previous, keys, problems)
    standby: list[SigningKey] = []
    standby_problems: list[str] = []
    for record in lineage.records:
        if record.stage in key_life.LOADED_IN_ADVANCE:
            _take(shelf, record, previous, standby, standby_problems)
    return Page(
        state, tuple(keys), tuple(standby), tuple(problems), tuple(refused), tuple(standby_problems)
    )


def _take(
    shelf: store.Store,
    record: KeyRecord,
    previous: Keyring,
    usable: list[SigningKey],
    problems: list[str],
) -> None:
    """Hold one key, or say why not."""
    try:
        usable.append(_signing_key(shelf, record, previous))
    except errors.CarbonsealError as error:
        problems.append(error.sentence)


def _standing_above(directory: Path) -> object:
    """What decides who may change the directory, from itself up to the root; and who we are."""
    whole = Path(os.path.realpath(directory))
    try:
        places = tuple(_access(os.stat(place)) for place in (whole, *whole.parents))
    except OSError:
        return object()  # equal to nothing: everything is read, and says what is wrong
    return (os.geteuid(), os.getegid(), places)


def _state(folder: Path, above: object) -> object:
    """What stat(2) says of a folder and the files of its keys; None if that proves nothing."""
    try:
        about = [
            (entry.name, _access(found), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            for entry in os.scandir(folder)
            if entry.name.endswith((".json", ".pem"))
            for found in (entry.stat(follow_symlinks=False),)
        ]
        state = (above, _access(os.stat(folder)), tuple(sorted(about)))
    except OSError:
        return None
    # The clock of file times ticks every few milliseconds only, and a new file may get the inode of
    # an old one: what changed just now may change again and look the same.
    if max((one[4] for one in about), default=0) > time.time_ns() - _SETTLED:
        return None
    return state


def _access(about: os.stat_result) -> tuple[int, ...]:
    return (about.st_dev, about.st_ino, about.st_mode, about.st_uid, about.st_gid)


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
    return SigningKey(record.facts, private, record.fingerprint, pem=pem)


def fingerprint(private: PrivateKey) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, hexadecimal."""
    return key_record.fingerprint_of(public_octets(private))


def public_octets(private: PrivateKey) -> bytes:
    """The DER SubjectPublicKeyInfo of a private key."""
    return held_key.public_octets(private)


def _signing_key(shelf: store.Store, record: KeyRecord, previous: Keyring) -> SigningKey:
    pem = shelf.private_key(record)
    place = str(shelf.private_path(record.sdid, record.selector))
    key = parse(record, pem, place)
    known = _held(previous, record.facts)
    if known is not None and known.fingerprint == key.fingerprint:
        return known
    if not key.verifies(_PROBE, key.sign_digest(_PROBE)):
        raise errors.DataError(f"{place}: it makes signatures that do not verify; restore it.")
    return key


def _held(ring: Keyring, facts: KeyFacts) -> SigningKey | None:
    """A key of a ring, signing or not."""
    for key in (*ring.keys.get(facts.sdid, ()), *ring.standby.get(facts.sdid, ())):
        if key.facts == facts:
            return key
    return None


def _nothing(_ring: Keyring) -> None:
    """For a watch of which nobody needs to know."""


class Watch:
    """The current keyring of a running worker; `current` may be called from any thread.

    `look` is for one thread, which is not one that carries mail.  `clock` is a monotonic clock in
    seconds.  `before_use` is called with each new ring while `current` still gives the old one.
    `known` is a ring that was read before; of what did not change since, nothing is read again.

    A directory that cannot be read at the start gives an empty keyring with a complaint: whether
    that stops the mail is the failure policy's question.
    """

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], float],
        before_use: Callable[[Keyring], None] = _nothing,
        *,
        known: Keyring = EMPTY,
    ) -> None:
        self._store = store.Store(directory)
        self._clock = clock
        self._before_use = before_use
        self._keyring = EMPTY
        self._complaint: str | None = None
        self._retry_at = 0.0
        self._is_read = False
        self._known = known
        self.look()
        self._known = EMPTY
        if not self._is_read:
            before_use(EMPTY)

    @property
    def complaint(self) -> str | None:
        """Why the keyring in use may be old, in one sentence; None while all is well."""
        return self._complaint

    def current(self) -> Keyring:
        """The keyring to use for this message."""
        return self._keyring

    def look(self) -> None:
        """Read the keys again if they changed, or if it is time to see whether all is well now."""
        now = self._clock()
        try:
            generation = self._store.generation()
            if self._is_fresh(generation, now):
                return
            self._retry_at = now + RETRY_EVERY
            known = self._keyring if self._is_read else self._known
            fresh = load(self._store.directory, known, generation=generation)
        except (errors.CarbonsealError, OSError) as error:
            used = "the keys in use are those read before" if self._is_read else "no key is in use"
            self._complaint = f"{used}: {error}"
            return
        # The order is the promise: what may be signed with is told before it is.
        self._before_use(fresh)
        self._keyring = fresh
        self._is_read = True
        self._complaint = None

    def _is_fresh(self, generation: bytes, now: float) -> bool:
        ring = self._keyring
        is_well = not (self._complaint or ring.problems or ring.standby_problems)
        is_same = self._is_read and generation == ring.generation
        return is_same and (is_well or now < self._retry_at)
