"""A private key inside OpenSSL: what signs with it and verifies, compiled where that is possible.

`hold` gives an RSA key to the compiled half (`_held_key.c`, where a compiler was at hand), which
signs without what cryptography makes anew for each signature, and makes a whole field in one call;
cryptography's own copy of the key then goes.  `Plain` is its twin, which cryptography answers for
and which leaves the field to `signer.make_plainly`; Ed25519 is always held so.

Promises: what the compiled half holds has the public half of the key that cryptography read.  Both
may be used by any threads at once.

Raises: whatever OpenSSL does; `sign` and `verifies` take digests of 32 octets only.

Does not: read files, know what the key is for.
"""

from __future__ import annotations

from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

try:
    from carbonseal.keys import _held_key as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_SHA256 = Prehashed(hashes.SHA256())
_PKCS1 = padding.PKCS1v15()


class Held(Protocol):
    """A key that is held, by whichever half."""

    def sign(self, digest: bytes, /) -> bytes:
        """The signature over 32 octets: RFC 8301 (RSASSA-PKCS1-v1_5) or RFC 8463 section 3."""

    def verifies(self, digest: bytes, signature: bytes, /) -> bool:
        """Whether the public half accepts this signature over this digest."""

    def make_signature(
        self, fields: object, form: object, request: object, body_digest: bytes, now: float, /
    ) -> Any:
        """A `signer.Signature`, False or None: what `signer.sign` gives, where nothing is odd.

        Its `field_value` is what `signer.make_plainly` makes of `canonical_header.canonical` of the
        fields, and was verified as there; False: it does not verify.  None: nothing was done, for
        Python must look at the fields, or make the field.  `form` is a `signer.Form`.
        """

    def make_unproven(
        self, fields: object, form: object, request: object, body_digest: bytes, now: float, /
    ) -> Any:
        """The same, but what was read from the finished field is not verified.

        It is left in the signature's `unproven`.
        """


class Plain:
    """A key that cryptography holds."""

    __slots__ = ("_private", "_public", "_scheme")

    def __init__(self, private: PrivateKey) -> None:
        # Without a type: what the two kinds are called with differs, and asking each time which one
        # it is costs more than either call (they are abstract classes of cryptography's).
        self._private: Any = private
        self._public: Any = private.public_key()
        is_ed25519 = isinstance(private, ed25519.Ed25519PrivateKey)
        self._scheme = () if is_ed25519 else (_PKCS1, _SHA256)

    def sign(self, digest: bytes, /) -> bytes:
        """As `Held` says."""
        signature: bytes = self._private.sign(digest, *self._scheme)
        return signature

    def verifies(self, digest: bytes, signature: bytes, /) -> bool:
        """As `Held` says."""
        try:
            self._public.verify(signature, digest, *self._scheme)
        except InvalidSignature:
            return False
        return True

    def make_signature(self, *_: object) -> None:
        """Left to Python."""

    def make_unproven(self, *_: object) -> None:
        """Left to Python."""


def hold(private: PrivateKey, pem: bytes) -> Held:
    """Hold a key; `pem` is what it was read from, empty if only cryptography shall hold it."""
    if compiled is not None and pem and isinstance(private, rsa.RSAPrivateKey):
        try:
            key = compiled.Key(pem)
        except ValueError:
            return Plain(private)  # a form that only cryptography reads
        if key.public_octets() == public_octets(private):
            return key
    return Plain(private)


def public_octets(private: PrivateKey) -> bytes:
    """The DER SubjectPublicKeyInfo of a private key."""
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
