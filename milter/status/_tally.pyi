# The compiled twin of `add_plainly` in counters.py, from _tally.c.
def add(
    cells: memoryview,
    ones: list[int],
    octets: int,
    times: tuple[float, ...],
    at: tuple[int, int],
    /,
) -> None: ...
