"""The compiled taker of packets against its twin: the same packets, macros and faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sanitizers
from support.milter_protocol import framed

from carbonseal.milter import _incoming, incoming, packets
from carbonseal.milter.incoming import NOTHING, PlainIncoming

KINDS = pytest.mark.parametrize(
    "kind",
    [pytest.param(PlainIncoming, id="in-python"), pytest.param(_incoming.Incoming, id="compiled")],
)
_WORDS = st.sampled_from([b"i", b"{i}", b"{mail_addr}", b"a", b"", b"\xff", b"{", b"\xc3\xa9"])
# Some lack their last NUL, or a value.
_LISTS = st.lists(_WORDS, max_size=7).map(b"\0".join)
_STAGES = st.sampled_from([b"C", b"H", b"M", b"R", b"T", b"N", b"E", b"X", b"\0", b""])
_MACROS = st.builds(lambda stage, told: framed(b"D", stage + told), _STAGES, _LISTS)
_EVENTS = st.builds(framed, st.sampled_from([b"M", b"R", b"L", b"\0", b"\xff"]), _LISTS)
_STREAMS = st.lists(_MACROS | _EVENTS | _MACROS | st.binary(max_size=8), max_size=9).map(b"".join)
_NAMES = ("i", "{i}", "a", "{a}", "{mail_addr}", "", "{", "é", "nobody")


def outcome(do: Callable[..., Any], *given: Any) -> Any:
    try:
        return do(*given)
    except Exception as fault:
        return type(fault), str(fault)


def taken(one: Any, stream: bytes) -> list[Any]:
    """All packets and, after each, all macros; a fault ends it."""
    found, at = [], 0
    while True:
        event = outcome(one.next, stream, at)
        found.append((event, [outcome(one.macro, name) for name in _NAMES]))
        if not isinstance(event[0], int) or event[0] == NOTHING:
            return found
        at = event[1]


@given(
    _STREAMS, st.booleans(), st.lists(st.sampled_from(list(packets.STAGES)), max_size=2), _STREAMS
)
def test_both_take_the_same(stream: bytes, is_open: bool, ended: list[int], later: bytes) -> None:
    """Whole packets, parts of packets and anything else, with what is forgotten in between."""
    found = []
    for one in (PlainIncoming(), _incoming.Incoming()):
        if is_open:
            one.open()
        found.append([taken(one, stream)])
        for command in ended:
            one.forget_after(command)
        found[-1].append(taken(one, later))
        one.forget_all()
        found[-1].append(taken(one, b""))
    assert found[0] == found[1]


@KINDS
def test_what_an_earlier_stage_told_counts_first(kind: Any) -> None:
    """As in libmilter; and a stage that tells again has told nothing else."""
    one = kind()
    one.open()
    told = framed(b"D", b"Ra\0late\0b\0b\0") + framed(b"D", b"Ca\0early\0")
    assert one.next(told, 0) == (NOTHING, len(told), b"")
    assert (one.macro("a"), one.macro("b")) == ("early", "b")
    one.next(framed(b"D", b"Rc\0c\0"), 0)
    assert (one.macro("a"), one.macro("b"), one.macro("c")) == ("early", None, "c")
    one.forget_after(packets.CONNECT)
    assert (one.macro("a"), one.macro("c")) == ("early", None)


@KINDS
def test_one_letter_stands_for_itself_in_braces(kind: Any) -> None:
    """`i` and `{i}` are one macro, and no others are."""
    one = kind()
    one.open()
    one.next(framed(b"D", b"E{i}\0Q1\0{ab}\0x\0"), 0)
    assert (one.macro("i"), one.macro("{i}"), one.macro("ab")) == ("Q1", "Q1", None)


@KINDS
def test_macros_before_the_offer_are_packets(kind: Any) -> None:
    """Nobody agreed to anything yet."""
    told = framed(b"D", b"Ca\0b\0")
    one = kind()
    assert one.next(told, 0) == (packets.MACROS, len(told), b"Ca\0b\0")
    assert one.macro("a") is None


@KINDS
@pytest.mark.parametrize(
    ("length", "is_taken"),
    [
        pytest.param(0, False, id="no-command"),
        pytest.param(1, True, id="no-payload"),
        pytest.param(packets.LONGEST + 1, True, id="longest"),
        pytest.param(packets.LONGEST + 2, False, id="too-long"),
        pytest.param(0xFFFFFFFF, False, id="endless"),
    ],
)
def test_a_length_that_no_packet_has_is_refused_at_once(
    kind: Any, length: int, is_taken: bool
) -> None:
    """Without waiting for so many octets."""
    begin = length.to_bytes(4) + b"B"
    if is_taken:
        whole = begin + bytes(length - 1)
        assert kind().next(whole, 0) == (ord("B"), len(whole), bytes(length - 1))
        return
    with pytest.raises(ValueError, match=f"a packet of {length} octets"):
        kind().next(begin, 0)


@KINDS
@pytest.mark.parametrize(
    ("most", "more"),
    [
        pytest.param(b"C" + b"v" * (packets.MOST_OF_MACROS - 1), b"v", id="octets"),
        pytest.param(b"C" + b"i\0Q\0" * packets.MOST_MACROS, b"\0", id="number"),
    ],
)
def test_macros_without_end_are_refused(kind: Any, most: bytes, more: bytes) -> None:
    """As many as no MTA has are taken, and those of one more are not kept."""
    one = kind()
    one.open()
    one.next(framed(b"D", b"Ci\0Q1\0"), 0)
    with pytest.raises(ValueError, match="more macros than an MTA has"):
        one.next(framed(b"D", most + more), 0)
    assert one.macro("i") == "Q1"
    assert one.next(framed(b"D", most), 0)[0] == NOTHING


def test_the_compiled_one_takes_no_other_types() -> None:
    """A mistake of the caller is a fault."""
    one: Any = _incoming.Incoming()
    for wrong in ((bytearray(9), 0), (b"", b""), (b"",), ()):
        with pytest.raises(TypeError):
            one.next(*wrong)
    with pytest.raises(OverflowError):
        one.next(b"", -1)
    for name in (b"i", 1, None):
        with pytest.raises(TypeError):
            one.macro(name)
    for command in (ord("X"), 0, 256, -5):
        with pytest.raises(KeyError):
            one.forget_after(command)
    with pytest.raises(TypeError):
        _incoming.Incoming(1)  # type: ignore[call-arg]
    assert one.next(b"abc", 5) == (NOTHING, 5, b"")


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_one_is_in_use() -> None:
    """Where there is a compiler, as here."""
    assert incoming.Incoming is _incoming.Incoming


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_one_stays_within_its_memory(tmp_path: Path) -> None:
    """All of this once more under the sanitizers."""
    milter = sanitizers.ROOT / "milter"
    sanitizers.run(milter / "_incoming.c", __file__, tmp_path, str(milter / "_usual_message.c"))
