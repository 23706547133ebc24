# The compiled twin of message_lines.py, from _message_lines.c.
from collections.abc import Callable

CAN_CHECK: int  # whether a Form needs no checksum of yours

class Form:
    def __init__(
        self,
        pieces: tuple[tuple[bytes, int, Form | None], ...],
        checksum: Callable[[bytes], int] | None = None,
    ) -> None: ...
    def record(self, *values: object) -> bytes: ...

def record_id(milliseconds: int, randomness: bytes, /) -> str: ...
def log_line(head: str, facts: dict[str, object], milliseconds: str, /) -> bytes: ...
