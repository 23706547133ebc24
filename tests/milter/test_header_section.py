"""The compiled header section against its twin: the same fields, sizes, answers and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sanitizers
from support.milter_protocol import framed

from carbonseal.milter import _header_section, header_section
from carbonseal.milter.header_section import (
    MAX_FIELDS,
    MAX_HEADER_OCTETS,
    MAX_JOINED,
    PlainHeaderSection,
    plain_field,
    plain_fields,
)

_NAMES = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FFF), max_size=12)
_VALUES = st.lists(st.sampled_from([b" ", b"a", b"\n", b"\n ", b"\r\n", b"\xff"])).map(b"".join)
TWINS = pytest.mark.parametrize(
    ("kind", "callback"),
    [
        pytest.param(PlainHeaderSection, plain_field, id="in-python"),
        pytest.param(_header_section.HeaderSection, _header_section.field, id="compiled"),
    ],
)

RUNS = pytest.mark.parametrize(
    ("kind", "take"),
    [
        pytest.param(PlainHeaderSection, plain_fields, id="in-python"),
        pytest.param(_header_section.HeaderSection, _header_section.fields, id="compiled"),
    ],
)
# Whole packets and anything else; NUL and what is no UTF-8 are frequent.
_OCTETS = st.lists(st.sampled_from([b"L", b"\0", b"\n", b"\xff", b"\xc3\xa9", b"ab"])).map(b"".join)
_FIELD = st.builds(
    lambda name, value: framed(b"L", name.encode() + b"\0" + value + b"\0"), _NAMES, _VALUES
)
_MACROS = _OCTETS.map(lambda octets: framed(b"D", b"L" + octets))
_OTHERS = st.builds(framed, st.sampled_from([b"L", b"D", b"B", b"\xff"]), _OCTETS) | _OCTETS
# More of a run than of what ends it.
_STREAMS = st.lists(_FIELD | _MACROS | _FIELD | _MACROS | _OTHERS, max_size=12).map(b"".join)

MACROS = framed(b"D", b"Li\0Q1\0")
TO = framed(b"L", b"To\0 a\n b\0")


class Session:
    """What the callback and the taker of packets see of a session."""

    def __init__(self, header: Any) -> None:
        self.header = header
        self.field_answer = 7
        self.failed: list[tuple[str, BaseException]] = []

    def getpriv(self) -> Session:
        """It is its own context."""
        return self

    def fail(self, callback: str, fault: BaseException) -> None:
        self.failed.append((callback, fault))


@given(fields=st.lists(st.tuples(_NAMES, _VALUES)))
def test_both_keep_and_count_the_same(fields: list[tuple[str, bytes]]) -> None:
    """Fed by the callback, as libmilter does."""
    plain, compiled = Session(PlainHeaderSection()), Session(_header_section.HeaderSection())
    for name, value in fields:
        assert plain_field(plain, name, value) == 7
        assert _header_section.field(compiled, name, value) == 7
    assert compiled.header.fields == plain.header.fields == fields
    assert compiled.header.size == plain.header.size
    longest = max((len(name) + len(value) for name, value in fields), default=0)
    assert compiled.header.longest == plain.header.longest == longest
    for session in (plain, compiled):
        assert not session.header.is_oversized
        assert not session.failed


# Some that are equal in lower case only, some of them by letters beyond ASCII (U+212A is a k).
_CALLED = st.sampled_from(
    [
        "From",
        "FROM",
        "from",
        "DKIM-Signature",
        "D\u212aIM-Signature",
        "\u0130",
        "\u00dc",
        "\u00fc",
        "",
        "X\nY",
        "\ud800",
        "\udcff",
        "a\0b",
    ]
)


@given(names=st.lists(_CALLED | _NAMES, max_size=8), wanted=st.lists(_CALLED | _NAMES, max_size=3))
def test_both_find_the_same_by_name(names: list[str], wanted: list[str]) -> None:
    """Whatever letters there are, and all of one name from top to bottom."""
    sections = PlainHeaderSection(), _header_section.HeaderSection()
    for section in sections:
        for number, name in enumerate(names):
            section.add(name, b"%d" % number)
    lowered = [name.lower() for name in names]
    for name in (*lowered, *(one.lower() for one in wanted), "dkim-signature"):
        found = [b"%d" % number for number, one in enumerate(lowered) if one == name]
        assert [section.values(name) for section in sections] == [found, found]
    joined = "\n".join(lowered) if "".join(names).isascii() else None
    if not names or any("\n" in name for name in names):
        joined = None
    assert [section.joined_names() for section in sections] == [joined, joined]


@TWINS
@pytest.mark.parametrize("count", [1, 2, 5, MAX_JOINED, MAX_JOINED + 1, MAX_JOINED + 2])
def test_names_are_joined_up_to_the_same_length(kind: Any, callback: Any, count: int) -> None:
    """Line ends between them count; no octet is written beyond that."""
    for octets in (MAX_JOINED, MAX_JOINED + 1, 60_000):
        section = kind()
        for _ in range(count - 1):
            section.add("", b"")
        section.add("X" * max(0, octets - count + 1), b"")
        joined = section.joined_names()
        is_short = max(octets, count - 1) <= MAX_JOINED
        assert joined == ("\n" * (count - 1) + "x" * (octets - count + 1) if is_short else None)


@pytest.mark.parametrize("value", [b"", b"\n", b"a" * 60_000, b"\n" * 60_000])
def test_both_end_at_the_same_field(value: bytes) -> None:
    """Too many fields, or too many octets, those included that the wire will have more of."""
    plain, compiled = PlainHeaderSection(), _header_section.HeaderSection()
    for _ in range(MAX_FIELDS + 2):
        plain.add("X", value)
        compiled.add("X", value)
    assert plain.is_oversized
    assert compiled.is_oversized
    assert len(compiled.fields) == len(plain.fields) <= MAX_FIELDS
    assert compiled.size == plain.size < MAX_HEADER_OCTETS + 3 * len(value) + 10


@TWINS
def test_a_field_without_a_message_is_answered(kind: Any, callback: Any) -> None:
    """The MTA is not told of a fault that changes nothing."""
    session = Session(None)
    assert callback(session, "To", b" a") == 7
    assert not session.failed


@TWINS
def test_a_fault_reaches_the_session_and_not_the_mta(kind: Any, callback: Any) -> None:
    """It is answered at the end of the message, where it can be."""

    class Full(PlainHeaderSection):
        __slots__ = ()

        def add(self, name: str, value: bytes, /) -> None:
            raise MemoryError("no room")

    session = Session(Full())
    assert callback(session, "To", b" a") == 7
    ((where, fault),) = session.failed
    assert where == "field"
    assert isinstance(fault, MemoryError)
    assert fault.__traceback__ is not None


@TWINS
def test_a_session_of_another_kind_of_section_is_served(kind: Any, callback: Any) -> None:
    """Either callback with either section."""
    for section in (PlainHeaderSection(), _header_section.HeaderSection()):
        session = Session(section)
        assert callback(session, "To", b" a\n b") == 7
        assert session.header.fields == [("To", b" a\n b")]
        assert session.header.size == len(b"To: a\r\n b\r\n")


@TWINS
def test_without_a_session_the_exception_policy_answers(kind: Any, callback: Any) -> None:
    """pymilter's; there is nobody who could remember the fault."""

    class Empty:
        def getpriv(self) -> None:
            return None

    with pytest.raises(AttributeError):
        callback(Empty(), "To", b" a")

    class Deaf(Session):
        def fail(self, callback: str, fault: BaseException) -> None:
            raise RuntimeError("deaf")

    with pytest.raises(RuntimeError, match="deaf"):
        callback(Deaf(object()), "To", b" a")


@given(stream=_STREAMS, begin=st.just(0) | st.integers(0, 60), missing=st.integers(0, 12))
def test_both_take_the_same_out_of_any_octets(stream: bytes, begin: int, missing: int) -> None:
    """From any position, and wherever the octets end."""
    octets = stream[: max(0, len(stream) - missing)]
    plain, compiled = Session(PlainHeaderSection()), Session(_header_section.HeaderSection())
    assert plain_fields(plain, octets, begin) == _header_section.fields(compiled, octets, begin)
    assert compiled.header.fields == plain.header.fields
    assert compiled.header.size == plain.header.size
    assert not plain.failed
    assert not compiled.failed


@RUNS
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(b"", id="end-of-octets"),
        pytest.param(TO[:4], id="part-of-a-head"),
        pytest.param(TO[:-1], id="part-of-a-packet"),
        pytest.param(MACROS[:-1], id="part-of-macros"),
        pytest.param(b"\xff\xff\xff\xffLTo\0 a\0", id="longer-than-all"),
        pytest.param(b"\0\0\0\0L", id="no-command"),
        pytest.param(framed(b"L"), id="nothing"),
        pytest.param(framed(b"L", b"To"), id="name-without-end"),
        pytest.param(framed(b"L", b"To\0"), id="no-value"),
        pytest.param(framed(b"L", b"To\0 a"), id="value-without-end"),
        pytest.param(framed(b"L", b"\xff\0 a\0"), id="name-that-is-no-text"),
        pytest.param(framed(b"D"), id="macros-of-no-stage"),
        pytest.param(framed(b"D", b"Ei\0Q2\0"), id="macros-of-another-stage"),
        pytest.param(framed(b"B", b"L"), id="body"),
    ],
)
def test_a_run_ends_before_what_is_not_of_it(kind: Any, take: Any, end: bytes) -> None:
    """All before it is taken and nothing of it: whoever asked judges it."""
    session = Session(kind())
    run = MACROS + TO + framed(b"D", b"L") + framed(b"L", b"X\0a\0b\0") + TO
    assert take(session, b"\0\0" + run + end, 2) == 2 + len(run)
    assert session.header.fields == [("To", b" a\n b"), ("X", b"a\0b"), ("To", b" a\n b")]
    assert not session.failed


@RUNS
def test_packets_of_no_message_are_passed_over(kind: Any, take: Any) -> None:
    """Their order is right all the same."""
    session = Session(None)
    assert take(session, MACROS + TO + TO, 0) == len(MACROS + TO + TO)
    assert not session.failed


@RUNS
def test_a_run_is_bounded_as_single_fields_are(kind: Any, take: Any) -> None:
    """The rest is read and not kept."""
    session = Session(kind())
    octets = framed(b"L", b"X\0\0") * (MAX_FIELDS + 1)
    assert take(session, octets, 0) == len(octets)
    assert len(session.header.fields) == MAX_FIELDS
    assert session.header.is_oversized


@RUNS
def test_a_run_goes_on_after_a_fault(kind: Any, take: Any) -> None:
    """Each field has its own, as each of libmilter's callbacks has."""

    class Choosy(PlainHeaderSection):
        __slots__ = ()

        def add(self, name: str, value: bytes, /) -> None:
            if name == "To":
                raise MemoryError("no room")
            super().add(name, value)

    session = Session(Choosy())
    octets = TO + MACROS + framed(b"L", b"X\0a\0") + TO
    assert take(session, octets, 0) == len(octets)
    assert [where for where, _ in session.failed] == ["field", "field"]
    assert all(isinstance(fault, MemoryError) for _, fault in session.failed)
    assert session.header.fields == [("X", b"a")]


@RUNS
def test_what_is_no_fault_ends_a_run(kind: Any, take: Any) -> None:
    """The end of the process, and a session that cannot be told."""

    class Ended(PlainHeaderSection):
        __slots__ = ()

        def add(self, name: str, value: bytes, /) -> None:
            raise SystemExit

    class Deaf(Session):
        def fail(self, callback: str, fault: BaseException) -> None:
            raise RuntimeError("deaf")

    session = Session(Ended())
    with pytest.raises(SystemExit):
        take(session, TO, 0)
    assert not session.failed
    with pytest.raises(RuntimeError, match="deaf"):
        take(Deaf(object()), TO, 0)


def test_the_end_of_the_process_is_kept_from_nobody() -> None:
    """Only what is an Exception is a fault."""

    class Ended(PlainHeaderSection):
        __slots__ = ()

        def add(self, name: str, value: bytes, /) -> None:
            raise SystemExit

    for callback in (plain_field, _header_section.field):
        session = Session(Ended())
        with pytest.raises(SystemExit):
            callback(session, "To", b" a")
        assert not session.failed


def test_the_compiled_one_takes_no_other_types() -> None:
    """A mistake of the caller is a fault, and nothing of it is kept."""
    section: Any = _header_section.HeaderSection()
    for wrong in ((b"To", b" a"), ("To", " a"), ("To",), ()):
        with pytest.raises(TypeError):
            section.add(*wrong)
    with pytest.raises(TypeError):
        _header_section.field(Session(section), "To")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        _header_section.HeaderSection(1)  # type: ignore[call-arg]
    run: Any = _header_section.fields
    for unusable in ((bytearray(TO), 0), (TO, b""), (TO,), ()):
        with pytest.raises(TypeError):
            run(Session(section), *unusable)
    with pytest.raises(OverflowError):
        run(Session(section), TO, -1)
    with pytest.raises(TypeError):
        section.values(b"to")
    assert section.fields == []
    assert section.size == 0
    for wrong in (None, (), ("To",), (b"To", b" a"), ["To", b" a"]):
        section.fields[:] = [wrong]
        with pytest.raises(TypeError):
            section.values("to")
        with pytest.raises(TypeError):
            section.joined_names()


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_one_is_in_use() -> None:
    """Where there is a compiler, as here."""
    assert header_section.HeaderSection is _header_section.HeaderSection
    assert header_section.field is _header_section.field
    assert header_section.fields is _header_section.fields


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_one_stays_within_its_memory(tmp_path: Path) -> None:
    """All of this once more under the sanitizers."""
    source = sanitizers.ROOT / "milter/_header_section.c"
    sanitizers.run(source, __file__, tmp_path)
