# What _spool_line.c makes; see spool_line.py.
from collections.abc import Collection
from typing import Any

class Reader:
    def __new__(
        cls,
        wanted: Collection[str],
        naming: Collection[str],
        about: Collection[str],
        flat: bool = False,
    ) -> Reader: ...
    def take(self, line: bytes, checksum: int, /) -> tuple[Any, ...] | None: ...

def root(lines: bytes, size: int, /) -> bytes: ...
