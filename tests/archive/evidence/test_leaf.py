"""Evidence of a record outlives the loss of its parts, and of nothing else."""

from __future__ import annotations

import json
from hashlib import sha256, shake_128
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archive import build_record, headers

from carbonseal.milter.archive import merkle
from carbonseal.milter.archive.evidence import inclusion, leaf, positions

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=()))  # lone surrogates, too
    | st.just("\x7f"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=())), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_is_what_pythons_json_makes(value: Any) -> None:
    """Whoever has only the standard library can reckon every commitment."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert leaf.canonical(value) == text.encode("ascii")


@given(st.dictionaries(st.sampled_from([*build_record(), "later"]), JSON))
def test_no_json_object_is_too_odd(content: dict[str, Any]) -> None:
    """A line that nobody foresaw has evidence as well."""
    assert len(leaf.commitments(content).entry) == leaf.ENTRY


_FIRST = (
    "facts client login origin reverse_path archive_recipients signatures reasons bcc_maps".split()
)


@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_evidence_as_documented_by_hand(count: int) -> None:
    """The construction of the docstring, with nothing but hashlib and json."""
    record = build_record(1)
    record["recipients"] = [
        {**record["recipients"][0], "address": f"{number}@example.org"} for number in range(count)
    ]
    three = shake_128(bytes.fromhex(record["salt"])).digest(48)

    def commit(salt: bytes, name: str, value: Any) -> bytes:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return sha256(salt + name.encode() + b"\x00" + text.encode()).digest()

    def together(commitments: dict[str, bytes]) -> bytes:
        names = json.dumps(sorted(commitments), separators=(",", ":")).encode()
        joined = b"".join(digest for _, digest in sorted(commitments.items()))
        return sha256(names + b"\x00" + joined).digest()

    def salt(base: bytes, place: int) -> bytes:
        row = shake_128(base + str(place // 10).encode()).digest(160)
        return row[place % 10 * 16 :][:16]

    values = {name: record.get(name) for name in _FIRST}
    values["facts"] = {
        name: value
        for name, value in record.items()
        if name not in (*_FIRST, "recipients", "header_fields", "salt")
    }
    values |= {f"recipients/{number}": one for number, one in enumerate(record["recipients"])}
    rest = {
        name: commit(salt(three[:16], place), name, value)
        for place, (name, value) in enumerate(values.items())
    }
    fields = record["header_fields"]
    addresses = [[place, one] for place, one in enumerate(fields) if one[0] in ("From", "To")]
    subject = [[place, one] for place, one in enumerate(fields) if one[0] == "Subject"]
    others = [None if one[0] in ("From", "To", "Subject") else one for one in fields]
    header = {
        "header/addresses": commit(salt(three[16:32], 0), "header/addresses", addresses),
        "header/fields": commit(salt(three[16:32], 1), "header/fields", others),
        "header/subject": commit(three[32:], "header/subject", subject),
    }
    made = leaf.commitments(record)
    assert (made.rest, made.header) == (together(rest), together(header))


@given(st.dictionaries(st.sampled_from([*build_record(), "later"]), JSON), st.booleans())
def test_usual_and_unusual_records_have_the_same_evidence(
    odd: dict[str, Any], is_salted: bool
) -> None:
    """The quick way for records of ours and the way for all others agree on each of both."""
    record = {**build_record(1), **odd}
    if is_salted:
        record["salt"] = build_record(1)["salt"]
    slowly = leaf.commitments_of(record, leaf.salts(leaf.line_salt(record)), has_header=True)
    assert leaf.commitments(record) == slowly


@pytest.mark.parametrize("key", [key for key in build_record() if key != "salt"])
def test_every_key_counts(key: str) -> None:
    """No key of a record can be changed or left out without another leaf."""
    record = build_record(1)
    changed = {**record, key: "something else"}
    without = {name: value for name, value in record.items() if name != key}
    entries = {leaf.commitments(one).entry for one in (record, changed, without)}
    assert len(entries) == 3


def test_equal_records_with_different_salts_have_nothing_in_common() -> None:
    """Otherwise leaves would say who wrote to the same person."""
    first, second = build_record(1), {**build_record(1), "salt": "77" * 16}
    second["record_id"] = first["record_id"]
    a, b = leaf.commitments(first), leaf.commitments(second)
    assert a.rest != b.rest
    assert a.header != b.header


def _stored(record: dict[str, Any]) -> leaf.Salts:
    salt = bytes.fromhex(record["salt"])
    rest = leaf.salts(salt).rest
    return leaf.stored_salts(rest, salt, None)


def test_without_header_section_the_rest_stays_provable() -> None:
    """And what is left in SQL (message.salt) does not lead to the salts of what is gone."""
    record = build_record(1)
    whole = leaf.commitments(record)
    known = leaf.stored_salts(_stored(record).rest, None, None)
    left = leaf.commitments_of({**record, "header_fields": None}, known, has_header=False)
    assert (left.rest, left.header) == (whole.rest, None)
    assert leaf.commitments_of(record, known, has_header=True).header != whole.header


def test_without_subject_the_other_header_fields_stay_provable() -> None:
    """Each in its place."""
    record = build_record(1, header_fields=headers(From="a", Subject="secret", To="b", Date="c"))
    whole = leaf.commitments(record)
    stored = leaf.header_salt_without_subject(record, _stored(record))
    assert stored is not None
    fields = [
        [name, "" if leaf.is_subject(name) else value] for name, value in record["header_fields"]
    ]
    known = leaf.stored_salts(_stored(record).rest, stored, None)
    left = leaf.commitments_of({**record, "header_fields": fields}, known, has_header=True)
    assert left == whole
    fields[0], fields[2] = fields[2], fields[0]
    assert leaf.commitments_of({**record, "header_fields": fields}, known, has_header=True) != whole


def test_a_person_can_be_erased_in_steps() -> None:
    """After each of two erasures all that is left is provable, and what is gone is not there."""
    record = build_record(1)
    whole = leaf.commitments(record)
    known = _stored(record)
    once = leaf.redact(record, known, {"login", "origin"}, has_header=True)
    record = {**record, "login": None, "origin": {"kind": "login", "about": "erased"}}
    known = leaf.stored_salts(None, None, once)
    assert leaf.commitments_of(record, known, has_header=True) == whole
    twice = leaf.redact(record, known, {"recipients/0", leaf.ADDRESSES}, has_header=True)
    record["recipients"] = [{"address": "erased"}]
    record["header_fields"] = [["From", "erased"], *record["header_fields"][1:]]
    known = leaf.stored_salts(None, None, twice)
    assert leaf.commitments_of(record, known, has_header=True) == whole
    for name in ("login", "origin", "recipients/0", leaf.ADDRESSES):
        assert name not in known.left
    changed = {**record, "queue_id": "other"}
    assert leaf.commitments_of(changed, known, has_header=True) != whole


@pytest.mark.parametrize(
    ("header_salt", "redaction"),
    [
        pytest.param(b"short", None, id="salt-of-no-length-of-ours"),
        pytest.param(None, "{}", id="redaction-without-salts"),
        pytest.param(None, "[", id="redaction-that-is-no-json"),
    ],
)
def test_salts_that_nothing_of_ours_wrote_are_refused(
    header_salt: bytes | None, redaction: str | None
) -> None:
    """With ValueError, which verify turns into a finding."""
    with pytest.raises(ValueError, match=r"header salt|redaction"):
        leaf.stored_salts(b"x" * 16, header_salt, redaction)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 40])
def test_a_path_leads_to_the_root_from_its_own_place_only(size: int) -> None:
    """For every place of every size, against every other place."""
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(size)]
    levels, tree = inclusion.Levels(leaves), merkle.Tree()
    for number in range(size):
        tree.add(bytes([number]))
    assert levels.root == tree.root()
    for place in range(size):
        path = levels.path(place)
        for claimed in range(size):
            is_true = inclusion.check(leaves[place], claimed, size, path, levels.root)
            assert is_true is (claimed == place)
        assert not inclusion.check(leaves[place], place, size, [*path, leaves[0]], levels.root)


def test_a_proof_in_a_segment_of_43_000_lines_is_512_octets() -> None:
    """The size that the manual states."""
    levels = inclusion.Levels([number.to_bytes(32, "big") for number in range(43_000)])
    assert max(len(b"".join(levels.path(place))) for place in range(0, 43_000, 997)) == 512


@given(st.sets(st.integers(0, 100_000), max_size=50))
def test_places_come_back(places: set[int]) -> None:
    """Whatever they are."""
    assert positions.unpack(positions.pack(places)) == places


@pytest.mark.parametrize("octets", [b"", b"x", positions.pack([7])[:-1]])
def test_damaged_places_are_refused(octets: bytes) -> None:
    """With ValueError."""
    with pytest.raises(ValueError, match="places"):
        positions.unpack(octets)
