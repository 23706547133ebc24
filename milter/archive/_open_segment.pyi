# The compiled twin of open_segment.py's `append_plainly`, from _open_segment.c.
from collections.abc import Callable

def append(
    place: tuple[bytes, int, int, int],
    octets: bytes,
    needed: int,
    lines: list[bytes],
    meanwhile: Callable[[], None] | None,
    /,
) -> tuple[int, int, int, list[bytes]]: ...
