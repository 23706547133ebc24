"""Rows that the compiled helper makes for the tables are those that Python makes of a record."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sanitizers
from support.archive import build_recipient, build_signature
from support.evidence import salted
from traffic import generator

from carbonseal.milter.archive import loader, rows, schema, terms
from carbonseal.milter.archive.loader import Arrival, Ids, Made

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 100 if sanitizers.are_at_work() else 400
KEY = bytes(16)
IDENTIFIERS = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=200)


def ids_of(some: rows.Rows) -> Ids:
    """An id for all that the rows refer to."""
    message = some.message
    mailboxes = {message["reverse_path"], message["author"], *some.participants}
    mailboxes |= {one["address"] for one in some.recipients}
    return Ids(
        {text: terms.term(text) for text in mailboxes if text is not None},
        {name: terms.term(name) for name in some.domains},
        {message["circumstance"]: 1},
        {message["verdict"]: -2},
        {
            one["route"]: terms.term(repr(one["route"]))
            for one in some.recipients
            if one["route"] is not None
        },
        {one["form"]: terms.term(one["form"].sdid) for one in some.signatures},
    )


def added(make: Any, some: rows.Rows, ids: Ids, *, with_index: bool) -> Any:
    """What was added to rows that were there, or why nothing could be."""
    batch = Made([("before",)], [("before",)], [(1, b"", 1)], [(2, b"", 1)], [(3, b"")])
    arrival = Arrival(5, 7, copy.copy(some))
    arrival.rows.message = dict(some.message)
    try:
        make(batch, arrival, KEY, ids, with_index=with_index)
    except Exception as fault:  # whichever it is: the other one has to raise it as well
        return type(fault), str(fault)
    return repr(batch)  # 1 is not True


def assert_twins(some: rows.Rows, ids: Ids | None = None) -> None:
    for with_index in (True, False):
        found = ids_of(some) if ids is None else ids
        expected = added(loader.by_python, some, found, with_index=with_index)
        assert added(loader.add, some, found, with_index=with_index) == expected


def test_all_mail_of_the_generator_makes_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left to Python."""
    assert loader.COMPILED is not None
    made = [rows.split(one) for one in generator.records(100 if EXAMPLES == 100 else 1000)]
    for one in made:
        assert_twins(one)
    monkeypatch.delattr(loader, "by_python")
    for one in made:
        loader.add(Made(), Arrival(1, 1, one), KEY, ids_of(one), with_index=True)


@given(
    people=st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from([schema.ENVELOPE, schema.ENVELOPE, schema.COPY, 2, True]),
                "address": st.none() | st.sampled_from(["a@b.example", "c@d.example", "unknown"]),
                "route": st.none() | st.sampled_from(["here", "there", "nowhere"]),
                "spelling": st.none() | st.binary(max_size=200),
                "raw": st.none() | st.binary(max_size=9),
                "resolved": st.none() | st.binary(max_size=3),
                "esmtp": st.none() | TEXT,
                "about": st.none() | TEXT,
            }
        ),
        max_size=6,
    ),
    signatures=st.lists(
        st.fixed_dictionaries(
            {
                "form": st.sampled_from(["usual", "odd"]),
                "auid": st.none() | TEXT,
                "signed_at": st.integers(0, (1 << 63) - 1) | st.integers(0, 1 << 33),
                "expires_at": st.none() | st.integers(0, (1 << 63) - 1) | st.integers(0, 1 << 33),
            }
        ),
        max_size=3,
    ),
    recorded_at=st.integers(-(10**17), 10**18),
    held=st.dictionaries(
        st.sampled_from(["a@b.example", "A@b.example", "c@d.example", "e"]), st.integers(1, 4000)
    ),
    found=st.lists(IDENTIFIERS, min_size=9, max_size=9),
    is_same=st.booleans(),
)
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_any_parts_make_the_same_rows(
    people: list[dict[str, Any]],
    signatures: list[dict[str, Any]],
    recorded_at: int,
    held: dict[str, int],
    found: list[int],
    is_same: bool,
) -> None:
    """Copies before recipients, ids that are missing, two names with one id, any times."""
    some = rows.split(salted(1))
    some.message["recorded_at"] = recorded_at
    some.recipients, some.signatures = people, signatures
    some.participants = some.domains = held
    names = ["a@b.example", "c@d.example", "A@b.example", "e"]
    numbers = [found[0]] * 4 if is_same else found[:4]
    known: dict[Any, Any] = dict(zip(names, numbers, strict=True))
    routes: dict[Any, Any] = {"here": found[4], "there": found[4 + is_same]}
    forms: dict[Any, Any] = {"usual": found[6]}
    circumstances = {some.message["circumstance"]: found[7]}
    verdicts = {some.message["verdict"]: found[8]} if found[8] % 8 else {}
    assert_twins(some, Ids(known, known, circumstances, verdicts, routes, forms))


def test_many_of_all_make_the_same_rows() -> None:
    """More than the helper looks through one by one, and lengths of several octets."""
    for count in (127, 128, 129, 300, 20_000):
        people = [build_recipient(f"r{number}@x{number % 300}.example") for number in range(count)]
        fields = [["Subject", " " + " ".join(f"w{number}" for number in range(count % 400))]]
        signatures = [build_signature(auid="@" + "x" * (count % 400))] * 3
        assert_twins(
            rows.split(salted(1, recipients=people, header_fields=fields, signatures=signatures))
        )


def test_the_helper_refuses_what_is_no_record() -> None:
    """A mistake of the caller is an exception, not a crash, and adds nothing."""
    compiled: Any = loader.COMPILED
    for wrong in ((None, ()), ((), 1), (["x"] * 65, ())):
        with pytest.raises((TypeError, ValueError)):
            compiled(*wrong)
    packer = compiled(list(schema.message.c.keys())[1:], list(schema.header_section.c.keys())[1:])
    some = rows.split(salted(1))
    ids = ids_of(some)
    lists: Any = tuple([] for _ in range(5))
    for wrong in (
        (),
        ((1, 1, some), KEY, ids, lists[1:]),
        ((1, 1, some), KEY, ids[1:], lists),
        ((1, some), KEY, ids, lists),
        ((1, 1, some), KEY, ids, (*lists[:4], None)),
        ((1, 1, some), KEY, ids, (None, *lists[1:])),
    ):
        with pytest.raises(TypeError):
            packer.add(*wrong)
    with pytest.raises(AttributeError):
        packer.add((1, 1, None), KEY, ids, lists)
    for name in rows.Rows.__slots__:
        for odd in (None, 1, [], {}, (), [None], [{}], {"x": "y"}, (None,), {None: None}):
            strange = copy.copy(some)
            setattr(strange, name, odd)
            with contextlib.suppress(TypeError):
                packer.add((1, 1, strange), KEY, ids, lists)
    for place in range(len(ids)):
        for odd in (
            None,
            [],
            {},
            dict.fromkeys(ids[place], "x"),
            dict.fromkeys(ids[place], 1 << 80),
        ):
            with contextlib.suppress(TypeError):
                packer.add((1, 1, some), KEY, (*ids[:place], odd, *ids[place + 1 :]), lists)


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is the run that it starts")
def test_the_helper_stays_within_its_memory(tmp_path: Path) -> None:
    """All of the above once more under the sanitizers."""
    sanitizers.run(ROOT / "milter/archive/_loading.c", __file__, tmp_path)
