"""Make new keys.

Promises: RSA is made with e = 65537 and 2048 to 4096 bits.  The clock is passed in.

Raises: `errors.UsageError` for a size that makes no sense.

Does not: write anything (`store`) or publish anything.

See also: `key_size`, `selector_names`.
"""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import key_size, keyring
from carbonseal.keys.key_record import HistoryEntry, KeyRecord, Origin
from carbonseal.policies import errors, signing_request
from carbonseal.policies.key_life import Stage


def generate(algorithm: str, bits: int = key_size.DEFAULT_BITS) -> keyring.PrivateKey:
    """A new private key; `bits` counts for RSA only."""
    if algorithm == signing_request.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if bits not in key_size.SIZES:
        raise errors.UsageError(
            f"RSA keys are made with {', '.join(map(str, key_size.SIZES))} bits, not {bits};"
            f" {key_size.DEFAULT_BITS} is right for nearly everybody."
        )
    return rsa.generate_private_key(65537, bits)


def new_record(
    private: keyring.PrivateKey, sdid: str, selector: str, *, origin: Origin, at: datetime, why: str
) -> KeyRecord:
    """The record of a key that is to be kept; checks the names."""
    is_rsa = isinstance(private, rsa.RSAPrivateKey)
    return KeyRecord(
        sdid=signing_request.check_sdid(sdid),
        selector=signing_request.check_selector(selector, sdid),
        algorithm=signing_request.RSA if is_rsa else signing_request.ED25519,
        bits=private.key_size if isinstance(private, rsa.RSAPrivateKey) else key_size.ED25519_BITS,
        public_key=keyring.public_octets(private),
        stage=Stage.GENERATED,
        origin=origin,
        created_at=at,
        since=at,
        history=(HistoryEntry(at, origin.value, why),),
    )


def private_pem(private: keyring.PrivateKey) -> bytes:
    """PKCS#8, not encrypted: the form of the store, and nowhere else shown."""
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
