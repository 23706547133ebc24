"""Something that is not true, and where: what `verify` has to say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for people, or one object for programs; what does not apply is None."""

    kind: str  # changed, removed, added, moved, chain, key, seal, stamp, audit, segment, lost, ...
    what: str  # a clause: "the recipients were changed"
    relay: str | None = None  # name of the chain
    number: int | None = None  # in the chain
    segment: str | None = None
    position: int | None = None  # place among the lines of the segment, from 0
    record_id: str | None = None

    def __str__(self) -> str:
        named = (
            ("record", self.record_id),
            ("segment", self.segment),
            ("position", self.position),
            ("seal", None if self.number is None else f"{self.relay or ''} {self.number}".strip()),
        )
        where = ", ".join(f"{name} {value}" for name, value in named if value is not None)
        where = where or (self.relay or "")
        return f"{self.kind}: {self.what}" + (f" ({where})" if where else "")

    def to_json(self) -> dict[str, Any]:
        """As values, without those that do not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}
