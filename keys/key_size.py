"""How large keys are: what is made, what receivers take, and what to know of the rest.

Does not: make keys (`generate`) or load what would.
"""

from __future__ import annotations

from typing import Final

from carbonseal.policies import signing_request

DEFAULT_BITS: Final = 2048
SIZES: Final = (2048, 3072, 4096)
ED25519_BITS: Final = 256
# RFC 8301 section 3.2: "Verifiers MUST be able to validate signatures with keys ranging from 1024
# bits to 4096 bits".
MIN_BITS: Final = 1024
MAX_BITS: Final = 4096


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
