# What Python sees of _many_rows.c, which SQLite loads as well; see inserting.py.
from typing import Any

CAN_READ: bool  # false where it was built without SQLite's header

def pack(rows: list[tuple[Any, ...]], /) -> list[bytes] | None: ...
