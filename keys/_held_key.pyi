# The compiled twin of held_key.py's `Plain`, from _held_key.c.
from typing import Any

# They are what held_key.Held says.
class Key:
    def __new__(cls, pem: bytes, /) -> Key: ...
    def public_octets(self) -> bytes: ...
    def sign(self, digest: bytes, /) -> bytes: ...
    def verifies(self, digest: bytes, signature: bytes, /) -> bool: ...
    def verifies_field(
        self, signed: bytes, name: bytes, value: str, is_relaxed: bool, /
    ) -> bool: ...
    def make_signature(
        self,
        fields: object,
        form: object,
        request: object,
        body_digest: bytes,
        now: float,
        /,
    ) -> Any: ...
    def make_unproven(
        self,
        fields: object,
        form: object,
        request: object,
        body_digest: bytes,
        now: float,
        /,
    ) -> Any: ...
