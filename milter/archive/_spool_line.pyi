# What _spool_line.c makes; see spool_line.py.
from collections.abc import Callable, Collection
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
    def run(
        self,
        lines: list[bytes],
        first: int,
        end: int,
        how: tuple[
            Callable[[bytes, int], int],
            Callable[[Any, frozenset[str]], tuple[Any, ...] | None],
            frozenset[str],
        ],
        /,
    ) -> tuple[list[tuple[Any, ...]], list[bytes], bytes, bytes, int]: ...

def root(lines: bytes, size: int, /) -> bytes: ...
