# The compiled twin of `add_plainly` in counters.py, from _tally.c.

def add(
    cells: memoryview,
    at: tuple[int, int],
    counted: tuple[list[int], tuple[int, float, float, tuple[float, float, float]]],
    ended: float,
    last: float,
    /,
) -> None: ...
