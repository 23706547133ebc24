"""The compiled header section against its twin: the same fields, sizes and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.milter import _header_section, header_section
from carbonseal.milter.header_section import (
    MAX_FIELDS,
    MAX_HEADER_OCTETS,
    PlainHeaderSection,
    plain_field,
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


class Session:
    """What the callback sees of a session."""

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
    for session in (plain, compiled):
        assert not session.header.is_oversized
        assert not session.failed


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
    assert section.fields == []
    assert section.size == 0


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_one_is_in_use() -> None:
    """Where there is a compiler, as here."""
    assert header_section.HeaderSection is _header_section.HeaderSection
    assert header_section.field is _header_section.field


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_compiled_one_stays_within_its_memory(tmp_path: Path) -> None:
    """All of this once more under the sanitizers."""
    source = sanitizers.ROOT / "milter/_header_section.c"
    sanitizers.run(source, __file__, tmp_path)
