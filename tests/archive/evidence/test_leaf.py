"""Evidence of a record outlives the loss of its parts, and of nothing else."""

from __future__ import annotations

import json
from hashlib import sha256
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


def test_evidence_as_documented_by_hand() -> None:
    """The construction of the docstring, with nothing but SHA-256 and json."""
    record = build_record(1)
    salt = bytes.fromhex(record["salt"])
    rest_salt = sha256(b"rest" + salt).digest()[:16]

    def commit(base: bytes, name: str, value: Any) -> bytes:
        own = sha256(base + name.encode()).digest()[:16]
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return sha256(own + name.encode() + b"\x00" + text.encode()).digest()

    own = "client login origin reverse_path archive_recipients signatures reasons bcc_maps".split()
    values = {name: record[name] for name in own} | {"recipients/0": record["recipients"][0]}
    values["facts"] = {
        name: value
        for name, value in record.items()
        if name not in (*own, "recipients", "header_fields", "salt")
    }
    joined = b"".join(
        name.encode() + b"\x00" + commit(rest_salt, name, values[name]) for name in sorted(values)
    )
    assert leaf.commitments(record).rest == sha256(joined).digest()


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
