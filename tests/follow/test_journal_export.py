"""The export format of the journal: values cannot become fields, wherever the pipe cuts them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.follow import journal_export

Fields = dict[bytes, bytes]
_names = st.sampled_from([b"MESSAGE", b"_UID", b"__CURSOR", b"SYSLOG_IDENTIFIER", b"A_1"])
_values = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"x\n\n__CURSOR=y\n_UID=0\n\n", b"\n", b"", b"\0" * 9, b"a=b", b"_UID"]),
)


def _written(fields: Fields) -> bytes:
    """As systemd writes an entry: what is no plain text comes with its length."""
    data = b""
    for name, value in fields.items():
        if value.isascii() and value.decode("ascii").isprintable():
            data += b"%b=%b\n" % (name, value)
        else:
            data += b"%b\n%b%b\n" % (name, struct.pack("<Q", len(value)), value)
    return data + b"\n"


@given(st.lists(st.dictionaries(_names, _values, min_size=1), max_size=5), st.data())
def test_entries_come_back_however_they_are_cut(every: list[Fields], data: st.DataObject) -> None:
    """What is not whole is left; what is whole is what was written."""
    written = b"".join(map(_written, every))
    cut = data.draw(st.integers(0, len(written)))
    found, rest = [], b""
    for piece in (written[:cut], written[cut:]):
        rest += piece
        end = 0
        for fields, after in journal_export.entries(rest):
            end = after
            fields.pop(b"", None)
            found.append(fields)
        rest = rest[end:]
    assert found == every
    assert rest.strip(b"\n") == b""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"lower=x\n", id="no-name"),
        pytest.param(b"MESSAGE\n" + b"\xff" * 8, id="a-length-beyond-reason"),
        pytest.param(
            b"MESSAGE\n" + struct.pack("<Q", 1) + b"ab\n", id="a-length-that-does-not-fit"
        ),
    ],
)
def test_what_is_no_journal_is_refused(data: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(journal_export.BadExport):
        list(journal_export.entries(data))


def test_an_entry_that_is_too_long_can_be_passed_over() -> None:
    """Its cursor stands first, and tells where to go on."""
    length = struct.pack("<Q", journal_export.LONGEST + 1)
    whole = _written({b"__CURSOR": b"s=1;i=1", b"MESSAGE": b"x"})
    long = b"__CURSOR=s=1;i=2\n_UID=1000\nMESSAGE\n" + length + b"\n__CURSOR=s=9\n"
    with pytest.raises(journal_export.TooLong):
        list(journal_export.entries(whole + long))
    assert journal_export.cursor(b"\n" + long) == "s=1;i=2"
    assert journal_export.cursor(b"MESSAGE=__CURSOR=s=9\n") is None


@given(st.binary(max_size=200))
def test_no_octets_are_a_surprise(data: bytes) -> None:
    """Any octets are entries, incomplete, or refused."""
    try:
        list(journal_export.entries(data))
    except journal_export.BadExport:
        pass
