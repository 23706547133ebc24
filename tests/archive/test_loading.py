"""Rows that the compiled helper makes for the tables are those that Python makes of a record."""

from __future__ import annotations

import contextlib
import copy
import struct
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sanitizers
from support.archive import build_recipient, build_signature
from support.evidence import salted
from traffic import generator

from carbonseal.milter.archive import loader, rows, schema, terms, usual_rows
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


def unpacked(packs: list[bytes]) -> list[tuple[Any, ...]]:
    """The rows of packs, as _many_rows.c describes them."""
    made = []
    for pack in packs:
        columns, at, values = pack[0], 1, []
        while at < len(pack):
            tag = pack[at]
            if tag == 0:
                values.append(None)
                at += 1
            elif tag == 1:
                values.append(*struct.unpack_from("=q", pack, at + 1))
                at += 9
            else:
                (length,) = struct.unpack_from("=I", pack, at + 1)
                octets = pack[at + 5 : at + 5 + length]
                assert len(octets) == length
                values.append(octets.decode() if tag == 2 else octets)
                at += 5 + length
        assert len(values) % columns == 0
        made += [tuple(values[at : at + columns]) for at in range(0, len(values), columns)]
    return made


def gathered(some: list[tuple[bytes, rows.Rows, Ids]]) -> tuple[Made, list[bool]]:
    """The rows that a gathering makes of records, and which of them it took."""
    assert loader.GATHERING is not None
    assert loader._packer is not None
    gathering, taken = loader.GATHERING(), []
    in_runs = loader.GATHERING()
    for key, one, ids in some:
        arrival = Arrival(5, 7, copy.copy(one))
        arrival.rows.message = dict(one.message)
        try:
            taken.append(loader._packer.add(arrival, key, ids, gathering))
        except Exception as fault:
            taken.append(False)
            with pytest.raises(type(fault)):
                loader._packer.add_run((*run_of(one), [key]), (5, 7), ids, in_runs)
        else:
            left = loader._packer.add_run((*run_of(one), [key]), (5, 7), ids, in_runs)
            assert left == ([] if taken[-1] else [0])
    packs = gathering.packs()
    assert in_runs.packs() == packs
    return Made(*map(unpacked, packs)), taken


def row_of(some: rows.Rows) -> tuple[Any, ...]:
    """Rows of a record as the helper of usual lines makes them."""
    values = {name: getattr(some, name) for name in rows.Rows.__slots__}
    values["message"] = by_place(some.message, usual_rows.MESSAGE)
    values["header_section"] = by_place(some.header_section, usual_rows.SECTION)
    return tuple(values.values())


def by_place(columns: Any, names: tuple[str, ...]) -> Any:
    """The values of columns as a run has them; what lacks one stays as it is."""
    is_whole = isinstance(columns, dict) and set(names) <= columns.keys()
    return tuple(columns[name] for name in names) if is_whole else columns


def run_of(*some: rows.Rows) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Rows of records, and their header sections as they are stored."""
    return list(map(row_of, some)), [one.header_section.get("fields") for one in some]


def sorted_by_id(made: Made) -> Made:
    """As the loader inserts them; packed, a truth is a number."""
    for some in (made.participants, made.domains, made.header_terms):
        some.sort(key=itemgetter(0))
    for name in ("messages", "sections"):
        flat = [tuple(int(v) if v in (True, False) else v for v in r) for r in getattr(made, name)]
        setattr(made, name, flat)
    return made


def assert_gathered(some: list[tuple[bytes, rows.Rows, Ids]]) -> list[bool]:
    """Records that are gathered make the rows that Python makes of them, and no others any."""
    found, taken = gathered(some)
    expected = Made()
    for (key, one, ids), is_taken in zip(some, taken, strict=True):
        arrival = Arrival(5, 7, copy.copy(one))
        arrival.rows.message = dict(one.message)
        if is_taken:
            loader.by_python(expected, arrival, key, ids, with_index=True)
    assert repr(found) == repr(sorted_by_id(expected))
    return taken


def assert_twins(some: rows.Rows, ids: Ids | None = None) -> None:
    for with_index in (True, False):
        found = ids_of(some) if ids is None else ids
        expected = added(loader.by_python, some, found, with_index=with_index)
        assert added(loader.add, some, found, with_index=with_index) == expected
    usual = rows.split(salted(2))
    assert_gathered([(KEY, usual, ids_of(usual)), (b"x" * 16, some, found), (KEY, some, found)])


def test_all_mail_of_the_generator_makes_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left to Python."""
    assert loader.COMPILED is not None
    made = [rows.split(one) for one in generator.records(100 if EXAMPLES == 100 else 1000)]
    for one in made:
        assert_twins(one)
    monkeypatch.delattr(loader, "by_python")
    for one in made:
        loader.add(Made(), Arrival(1, 1, one), KEY, ids_of(one), with_index=True)
    monkeypatch.undo()
    keyed = [(terms.pack_record_id(one.record_id), one, ids_of(one)) for one in made]
    assert all(assert_gathered(keyed))


def test_a_run_is_gathered_as_its_records_are() -> None:
    """With places that count on, and whoever cannot be gathered among them."""
    assert loader.GATHERING is not None
    packer: Any = loader._packer
    made = [rows.split(one) for one in generator.records(50)]
    every = [ids_of(one) for one in made]
    ids = Ids(
        *({k: v for one in every for k, v in one[at].items()} for at in range(len(Ids._fields)))
    )
    made[9].header_terms = (1 << 63,)
    keys = [terms.pack_record_id(one.record_id) for one in made]
    one_by_one, in_a_run = loader.GATHERING(), loader.GATHERING()
    for number, (key, one) in enumerate(zip(keys, made, strict=True)):
        assert packer.add(Arrival(3, 40 + number, one), key, ids, one_by_one) is (number != 9)
    assert packer.add_run((*run_of(*made), keys), (3, 40), ids, in_a_run) == [9]
    assert in_a_run.packs() == one_by_one.packs()


def test_values_of_a_run_are_those_of_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to have an id before they are gathered."""
    packer: Any = loader._packer
    found: tuple[set[Any], ...] = tuple(set() for _ in range(7))
    made = [rows.split(one) for one in generator.records(200)]
    packer.values(list(map(row_of, made)), found)
    assert found == (
        {
            text
            for one in made
            for text in (
                one.message["reverse_path"],
                one.message["author"],
                *one.participants,
                *(recipient["address"] for recipient in one.recipients),
            )
            if text is not None
        },
        {name for one in made for name in one.domains},
        {one.message["circumstance"] for one in made},
        {one.message["verdict"] for one in made},
        {way["route"] for one in made for way in one.recipients if way["route"] is not None},
        {signature["form"] for one in made for signature in one.signatures},
        {one.message["retention"] for one in made if one.message["retention"] is not None},
    )


def test_a_run_that_is_none_is_refused() -> None:
    """A mistake of the caller is an exception, not a crash."""
    assert loader.GATHERING is not None
    packer: Any = loader._packer
    some = rows.split(salted(1))
    ids, row, gathering = ids_of(some), row_of(some), loader.GATHERING()
    for wrong in (
        (),
        (([row], [b""], []), (1, 1), ids, gathering),
        (([row], [], [KEY]), (1, 1), ids, gathering),
        (((row,), [b""], [KEY]), (1, 1), ids, gathering),
        (([row], [b""], [KEY]), (1, None), ids, gathering),
        (([row], [b""], [KEY]), (1, 1), ids[1:], gathering),
        (([row], [b""], [KEY]), (1, 1), ids, []),
        (([row], [KEY]), (1, 1), ids, gathering),
    ):
        with pytest.raises(TypeError):
            packer.add_run(*wrong)
    short = (row[0], row[1][1:], *row[2:])
    wrong_rows = [row[1:], None, row, short, row]
    sections, keys = [b"", b"", b"", b"", 1.5], [KEY, KEY, b"x", KEY, KEY]
    left = packer.add_run((wrong_rows, sections, keys), (1, 1), ids, gathering)
    assert left == [0, 1, 2, 3, 4]
    assert gathering.packs() == ([], [], [], [], [])
    sets: tuple[set[Any], ...] = tuple(set() for _ in range(7))
    for wrong in ((), ([row], sets[1:]), (row, sets), ([row[1:]], sets), ([row], (*sets[1:], []))):
        with pytest.raises(TypeError):
            packer.values(*wrong)
    for place in range(len(row)):
        for odd in (None, 1, [], {}, (), [None], [{}], {"x": "y"}, {None: []}, (1, 2, 3), (None,)):
            strange = (*row[:place], odd, *row[place + 1 :])
            with contextlib.suppress(TypeError):
                packer.values([strange], sets)
            with contextlib.suppress(TypeError):
                packer.add_run(([strange], [b""], [KEY]), (1, 1), ids, loader.GATHERING())


def test_large_records_are_gathered_in_several_packs() -> None:
    """A megabyte to each, and a record that could not be gathered leaves those before it."""
    some = []
    for number in range(6):
        one = rows.split(salted(number))
        one.header_section["fields"] = bytes([number]) * 400_000
        some.append((bytes([number]) * 16, one, ids_of(one)))
    odd = copy.copy(some[0][1])
    odd.header_terms = (1, 1 << 63)
    some.insert(4, (KEY, odd, ids_of(odd)))
    some.insert(2, (b"too short", *some[0][1:]))
    assert assert_gathered(some) == [True, True, False, True, True, False, True, True]
    gathering: Any = loader.GATHERING and loader.GATHERING()
    packer: Any = loader._packer
    for key, one, ids in some:
        packer.add(Arrival(5, 7, one), key, ids, gathering)
    sizes = [len(pack) for pack in gathering.packs()[1]]
    assert len(sizes) == 2
    assert max(sizes) < (1 << 20) + 500_000


def test_a_gathering_is_given_once() -> None:
    """Afterwards nothing can be added, or asked for again."""
    assert loader.GATHERING is not None
    gathering = loader.GATHERING()
    one = rows.split(salted(1))
    assert gathering.packs() == ([], [], [], [], [])
    with pytest.raises(ValueError, match="already"):
        gathering.packs()
    assert loader._packer is not None
    with pytest.raises(TypeError):
        loader._packer.add(Arrival(1, 1, one), KEY, ids_of(one), gathering)


@given(st.lists(st.tuples(IDENTIFIERS | st.integers(-3, 3)), max_size=300))
@settings(max_examples=EXAMPLES // 4, deadline=None)
def test_terms_come_in_the_order_of_their_numbers(numbers: list[tuple[int]]) -> None:
    """Of one number in that of the records: each page of the tree is then found once."""
    one = rows.split(salted(1))
    some = []
    for place in range(0, len(numbers), 50):
        mine = copy.copy(one)
        mine.header_terms = tuple(number for (number,) in numbers[place : place + 50])
        some.append((bytes([place % 251]) * 16, mine, ids_of(one)))
    found, taken = gathered(some)
    assert all(taken)
    expected = [(term, key) for key, mine, _ in some for term in mine.header_terms]
    assert found.header_terms == sorted(expected, key=itemgetter(0))


@given(
    st.integers(0, (1 << 128) - 1).map(lambda number: terms.unpack_record_id(number.to_bytes(16)))
    | st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZILOUabc\0ä", min_size=25, max_size=27)
    | st.sampled_from(["7" + "Z" * 25, "8" + "0" * 25, "0" * 26, "\ud800" * 26])
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_keys_are_those_that_python_makes(record_id: str) -> None:
    """Or there are none, and Python is asked."""
    some = copy.copy(rows.split(salted(1)))
    some.record_id = record_id
    assert loader._KEYS is not None
    found = loader._KEYS([Arrival(1, 1, some)])
    if found is not None:
        assert found == [terms.pack_record_id(record_id)]
    else:
        assert not terms.is_record_id(record_id) or record_id != record_id.upper()


def test_keys_of_what_are_no_arrivals_are_left_to_python() -> None:
    """A mistake of the caller is no crash."""
    keys: Any = loader._KEYS
    assert keys([]) == []
    assert keys(()) is None
    assert keys([(1, 2)]) is None
    assert keys([1]) is None
    with pytest.raises(AttributeError):
        keys([(1, 2, 3)])


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
    nothing = ((), ())
    for wrong in (
        (None, (), nothing),
        ((), 1, nothing),
        (["x"] * 65, (), nothing),
        ((), (1,), nothing),
        ((), (), ((),)),
        ((), (), ([], ())),
        ((), (), ((), (1,))),
        ((), ()),
    ):
        with pytest.raises((TypeError, ValueError)):
            compiled(*wrong)
    packer = compiled(
        list(schema.message.c.keys())[1:], list(schema.header_section.c.keys())[1:], nothing
    )
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
    archive = ROOT / "milter/archive"
    sanitizers.run(archive / "_loading.c", __file__, tmp_path, str(archive / "_gathering.c"))
