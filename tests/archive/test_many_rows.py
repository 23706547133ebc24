"""Rows that come to SQLite in one piece of memory are those that its driver would have bound."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.milter.archive import inserting

SOURCE = Path(__file__).resolve().parents[2] / "milter/archive/_many_rows.c"
EXAMPLES = settings(max_examples=100 if sanitizers.are_at_work() else 400, deadline=None)
pytestmark = pytest.mark.skipif(
    inserting.READER is None or not hasattr(sqlite3.Connection, "enable_load_extension"),
    reason="no compiler was at hand, or no SQLite that takes extensions",
)

VALUES = (
    st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.booleans()
    | st.text(st.characters(codec="utf-8"), max_size=40)
    | st.binary(max_size=40)
)
ROWS = st.integers(1, 64).flatmap(
    lambda columns: st.lists(st.tuples(*[VALUES] * columns), min_size=1, max_size=6)
)


def made() -> sqlite3.Connection:
    """A database in memory that reads packs."""
    assert inserting.READER is not None
    connection = sqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(inserting.READER)
    connection.enable_load_extension(False)
    return connection


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    connection = made()
    yield connection
    connection.close()


def packs(rows: list[Any]) -> list[bytes] | None:
    assert inserting.PACK is not None
    return inserting.PACK(rows)


def bound(row: tuple[Any, ...], database: sqlite3.Connection) -> list[Any]:
    """What the driver makes of a row, with its types."""
    places = ", ".join("?, typeof(?)" for _ in row)
    twice = [value for value in row for _ in range(2)]
    return list(database.execute(f"SELECT {places}", twice).fetchone())


@given(ROWS)
@EXAMPLES
def test_rows_arrive_as_they_were_given(
    database: sqlite3.Connection, rows: list[tuple[Any, ...]]
) -> None:
    """Each value, with its type, in its column and in order; what no row has is null."""
    width = len(rows[0])
    columns = ", ".join(f"c{place}, typeof(c{place})" for place in range(width))
    others = ", ".join(f"c{place}" for place in range(width, 64)) or "NULL"
    found, left = [], []
    for pack in packs(rows) or []:
        query = "FROM carbonseal_rows(?)"
        found += database.execute(f"SELECT {columns} {query}", (pack,)).fetchall()
        left += database.execute(f"SELECT {others} {query}", (pack,)).fetchall()
    assert [list(one) for one in found] == [bound(row, database) for row in rows]
    assert not any(value is not None for row in left for value in row)


def test_many_rows_come_in_several_packs(database: sqlite3.Connection) -> None:
    """None is larger than a megabyte and a row, and none of their rows is lost between them."""
    rows = [(number, bytes(100_000)) for number in range(50)]
    found = packs(rows)
    assert found is not None
    assert len(found) > 1
    assert max(map(len, found)) < (1 << 20) + 200_000
    query = "SELECT c0, length(c1) FROM carbonseal_rows(?)"
    assert [row for pack in found for row in database.execute(query, (pack,))] == [
        (number, 100_000) for number in range(50)
    ]


def test_what_only_the_driver_understands_is_left_to_it() -> None:
    """A number that is too large, a lone surrogate, rows of two widths: then nothing is packed."""
    for odd in (1 << 63, -(1 << 63) - 1, 1.5, "\ud800", bytearray(b"x"), memoryview(b"x"), object):
        assert packs([(1, 2), (1, odd)]) is None
    assert packs([(1, 2), (1,)]) is None
    assert packs([(1,), [1]]) is None
    assert packs([()]) is None
    assert packs([(1,) * 65]) is None
    assert packs([]) == []
    with pytest.raises(TypeError):
        packs((1, 2))  # type: ignore[arg-type]


@given(
    st.binary(max_size=100)
    | st.builds(
        lambda columns, parts: bytes([columns]) + b"".join(parts),
        st.integers(0, 70),
        st.lists(
            st.builds(
                lambda tag, length, octets: bytes([tag]) + struct.pack("=I", length) + octets,
                st.integers(0, 5),
                st.integers(0, 20) | st.integers(0, (1 << 32) - 1),
                st.binary(max_size=20),
            ),
            max_size=6,
        ),
    )
)
@EXAMPLES
def test_what_is_no_pack_is_an_error(octets: bytes) -> None:
    """Cut off, longer than it is, of unknown values: SQLite says so, and reads nothing else."""
    connection = made()
    with contextlib.suppress(sqlite3.OperationalError):
        found = connection.execute("SELECT * FROM carbonseal_rows(?)", (octets,)).fetchall()
        assert found or len(octets) == 1
        assert sum(map(len, found)) == 64 * len(found)
    connection.close()


def test_whoever_asks_otherwise_is_told(database: sqlite3.Connection) -> None:
    """Without a pack, with something else, or with two packs for one statement."""
    with pytest.raises(sqlite3.OperationalError, match="give it a pack"):
        database.execute("SELECT * FROM carbonseal_rows")
    for wrong in (None, 1, "text", b""):
        with pytest.raises(sqlite3.OperationalError, match="a pack is"):
            database.execute("SELECT * FROM carbonseal_rows(?)", (wrong,))
    [pack] = packs([(1,), (2,)]) or []
    joined = "SELECT b.c0 FROM (SELECT 1 UNION ALL SELECT 2), carbonseal_rows(?) AS b"
    with pytest.raises(sqlite3.OperationalError, match="once"):
        database.execute(joined, (pack,)).fetchall()
    with pytest.raises(sqlite3.OperationalError):
        database.execute("CREATE VIRTUAL TABLE x USING carbonseal_rows")
    with pytest.raises(sqlite3.OperationalError):
        database.execute("DELETE FROM carbonseal_rows")


def test_no_schema_can_use_it(database: sqlite3.Connection) -> None:
    """A view in somebody's file must not reach it."""
    database.execute("CREATE VIEW v AS SELECT * FROM carbonseal_rows(x'01')")
    with pytest.raises(sqlite3.OperationalError, match="unsafe"):
        database.execute("SELECT * FROM v")


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_both_halves_stay_within_their_memory(tmp_path: Path) -> None:
    """All of the above once more under the sanitizers, making packs and reading them."""
    sanitizers.run(SOURCE, __file__, tmp_path)
