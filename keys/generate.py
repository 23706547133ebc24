"""Make new keys and choose their selectors.

Promises: RSA is made with e = 65537 and 2048 to 4096 bits; selectors are unique under the SDID.
The clock is passed in.

Raises: `errors.UsageError` for a size or template that makes no sense.

Does not: write anything (`store`) or publish anything.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import keyring
from carbonseal.keys.key_record import HistoryEntry, KeyRecord, Origin
from carbonseal.policies import errors, signing_request
from carbonseal.policies.key_life import Stage

DEFAULT_BITS: Final = 2048
SIZES: Final = (2048, 3072, 4096)
ED25519_BITS: Final = 256
# RFC 8301 section 3.2: "Verifiers MUST be able to validate signatures with keys ranging from 1024
# bits to 4096 bits".
MIN_BITS: Final = 1024
MAX_BITS: Final = 4096
SELECTOR_TEMPLATE: Final = "s{date}{letter}"
_TRIES = 1000
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def generate(algorithm: str, bits: int = DEFAULT_BITS) -> keyring.PrivateKey:
    """A new private key; `bits` counts for RSA only."""
    if algorithm == signing_request.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if bits not in SIZES:
        raise errors.UsageError(
            f"RSA keys are made with {', '.join(map(str, SIZES))} bits, not {bits};"
            f" {DEFAULT_BITS} is right for nearly everybody."
        )
    return rsa.generate_private_key(65537, bits)


def size_warning(algorithm: str, bits: int) -> str | None:
    """What to know about a key of this size before it signs, in one sentence."""
    if algorithm == signing_request.ED25519:
        return (
            "many receivers do not verify Ed25519 yet; keep an RSA key active beside it, and"
            " expect DMARC reports to show failures for this selector."
        )
    if bits < DEFAULT_BITS:
        return f"an RSA key of {bits} bits is weak; plan to replace it with {DEFAULT_BITS} bits."
    if bits > DEFAULT_BITS:
        return (
            f"an RSA key of {bits} bits makes each signature several times slower and its DNS"
            " record long; some receivers and hosters refuse more than 2048."
        )
    return None


def new_record(
    private: keyring.PrivateKey, sdid: str, selector: str, *, origin: Origin, at: datetime, why: str
) -> KeyRecord:
    """The record of a key that is to be kept; checks the names."""
    is_rsa = isinstance(private, rsa.RSAPrivateKey)
    return KeyRecord(
        sdid=signing_request.check_sdid(sdid),
        selector=signing_request.check_selector(selector, sdid),
        algorithm=signing_request.RSA if is_rsa else signing_request.ED25519,
        bits=private.key_size if isinstance(private, rsa.RSAPrivateKey) else ED25519_BITS,
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


def choose_selector(
    template: str, algorithm: str, at: datetime, is_taken: Callable[[str], bool]
) -> str:
    """A selector that was never used, made from {date}, {letter} (r or e) and {random}.

    A taken name gets a number, from 2 on.
    """
    letter = "e" if algorithm == signing_request.ED25519 else "r"
    parts = {"date": at.strftime("%Y%m%d"), "letter": letter}
    for attempt in range(1, _TRIES):
        name = _fill(template, parts) + (str(attempt) if attempt > 1 else "")
        if not is_taken(name):
            return name
    raise errors.UsageError(
        f"no free selector was found with the template {template!r}; give one with --selector."
    )


def check_template(template: str) -> str:
    """The template itself if selectors can be made of it, else `errors.CarbonsealError`."""
    example = _fill(template, {"date": "20261121", "letter": "r"}).lower()
    signing_request.check_selector(example, "example.com")
    return template


def _fill(template: str, parts: dict[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1] == "random":
            return secrets.token_hex(4)
        if match[1] in parts:
            return parts[match[1]]
        raise errors.UsageError(
            f"{match[0]} in the selector template {template!r} is unknown;"
            " use {date}, {letter} or {random}."
        )

    return _PLACEHOLDER.sub(one, template)
