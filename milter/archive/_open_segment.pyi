# The compiled twin of open_segment.py's `append_plainly`, from _open_segment.c.
def append(
    place: tuple[bytes, int, int], octets: bytes, needed: int, offset: int, lines: list[bytes], /
) -> tuple[int, int, int, list[bytes]]: ...
