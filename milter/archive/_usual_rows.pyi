# What _usual_rows.c makes; see usual_rows.py.
from collections.abc import Callable
from typing import Any

MESSAGE: tuple[str, ...]
SECTION: tuple[str, ...]

class Maker:
    def __new__(cls, questions: tuple[Callable[..., Any], ...]) -> Maker: ...
    def make(self, line: tuple[Any, ...], indexed: frozenset[str], /) -> tuple[Any, ...] | None: ...
    def make_values(
        self, line: tuple[Any, ...], indexed: frozenset[str], /
    ) -> tuple[Any, ...] | None: ...
