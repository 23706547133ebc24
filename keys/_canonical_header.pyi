# The compiled half of canonical_header.py, from _canonical_header.c.
def canonical(
    fields: object, places: dict[bytes, int], order: tuple[int, ...], is_relaxed: bool, /
) -> bytes | None: ...
