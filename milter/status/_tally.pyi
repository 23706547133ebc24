# The compiled twin of `add_plainly` in counters.py, from _tally.c.
Laps = tuple[float, float, float, float, float, float]

def add(
    cells: memoryview,
    counted: tuple[list[int], int, Laps],
    last: float,
    at: tuple[int, int],
    /,
) -> None: ...
