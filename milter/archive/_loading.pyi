# What _loading.c makes; see loader.py.
from collections.abc import Sequence
from typing import Any

class Gathering:
    def __new__(cls) -> Gathering: ...
    def packs(self) -> tuple[list[bytes], ...]: ...

class Packer:
    def __new__(
        cls,
        message: Sequence[str],
        section: Sequence[str],
        given: tuple[tuple[str, ...], tuple[str, ...]],
    ) -> Packer: ...
    def add(
        self,
        arrival: tuple[int, int, Any],
        key: object,
        ids: tuple[dict[Any, int], ...],
        to: object,  # a gathering, or lists as loader.Made has them
        /,
    ) -> bool: ...
    def add_run(
        self,
        run: tuple[list[tuple[Any, ...]], list[bytes], list[bytes]],  # rows, sections, keys
        place: tuple[int, int],
        ids: tuple[dict[Any, int], ...],
        to: object,  # a gathering
        /,
    ) -> list[int]: ...
    def values(self, rows: list[tuple[Any, ...]], sets: tuple[set[Any], ...], /) -> None: ...

def keys(some: list[Any], /) -> list[bytes] | None: ...
