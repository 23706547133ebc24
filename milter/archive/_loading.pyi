# What _loading.c makes; see loader.py.
from collections.abc import Sequence
from typing import Any

class Packer:
    def __new__(cls, message: Sequence[str], section: Sequence[str]) -> Packer: ...
    def add(
        self,
        arrival: tuple[int, int, Any],
        key: object,
        ids: tuple[dict[Any, int], ...],
        lists: tuple[list[tuple[Any, ...]] | None, ...],
        /,
    ) -> bool: ...
