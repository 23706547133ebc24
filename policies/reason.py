"""Reasons: why something was decided, in a form that log, record and person can share.

Promises: a `Reason` is a stable code plus what it is about.  `SENTENCES` explains every code, and
a test compares that catalogue with the codes the policies use, so no decision is unexplained.

Does not: decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of a decision."""

    code: str  # stable, kebab-case, a key of SENTENCES
    about: str = ""  # the address, domain, field or number it is about

    def __str__(self) -> str:
        return f"{self.code}({self.about})" if self.about else self.code

    @property
    def sentence(self) -> str:
        """The reason in words, for `policy explain` and `archive show`."""
        return SENTENCES[self.code].format(about=self.about)


SENTENCES: Mapping[str, str] = {}
