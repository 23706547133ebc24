"""The relay's own chain file, killed at every call to the system and damaged in every way."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from support import killed
from support.killed import Moment

from carbonseal.keys import evidence_key
from carbonseal.milter.archive import record
from carbonseal.milter.archive.evidence import chain, seal
from carbonseal.milter.archive.evidence.seal import BadEntry, Facts, Sealed, Survey

NAME = record.new_record_id(1_795_237_200_000)


def _survey(number: int) -> Survey:
    return Survey(f"{NAME}-{number}", b"x" * 64, bytes(32), NAME, NAME, ())


def _append(directory: Path, number: int) -> Sealed:
    opened = chain.Chain(directory)
    found = opened.find(f"{NAME}-{number}")
    return found or opened.append(
        _survey(number),
        relay="mx",
        aside=0,
        audit=(0, bytes(32)),
        sealed_at="2026-11-21T05:00:00.000000Z",
    )


def _facts(directory: Path) -> list[Facts]:
    found = [one for _, one in chain.entries(directory)]
    assert all(isinstance(one, Sealed) for one in found)
    return [one.facts for one in found if isinstance(one, Sealed)]


@pytest.mark.parametrize("moment", list(Moment))
def test_killed_at_any_call_the_chain_goes_on_without_gap(tmp_path: Path, moment: Moment) -> None:
    """With the first entry (directory and key are made) and with one that follows."""
    for first in (True, False):
        scratch = tmp_path / f"calls-{first}"
        scratch.mkdir()
        if not first:
            _append(scratch / "evidence", 1)
        number = 1 if first else 2
        calls = killed.calls_of(lambda: _append(scratch / "evidence", number), scratch)  # noqa: B023
        assert "write" in calls
        for at in range(1, len(calls) + 1):
            directory = tmp_path / f"{first}-{at}" / "evidence"
            directory.parent.mkdir()
            if not first:
                _append(directory, 1)
            faults = directory.parent / "fault"
            killed.killed_at(at, moment, lambda: _append(directory, number), faults)  # noqa: B023
            assert _append(directory, number).facts.number == number
            assert _append(directory, number + 1).facts.number == number + 1
            facts = _facts(directory)
            assert [one.number for one in facts] == list(range(1, number + 2))
            assert facts[-1].previous == _append(directory, number).digest
            assert len({one.key for one in facts}) == 1
            mode = (directory / evidence_key.PRIVATE).stat().st_mode
            assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("cut", [1, 10, 300])
def test_a_torn_last_line_is_cut(tmp_path: Path, cut: int) -> None:
    """However much of it a crash has left; the others stay."""
    _append(tmp_path, 1)
    _append(tmp_path, 2)
    path = tmp_path / chain.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [one.number for one in _facts(tmp_path)] == [1]
    assert _append(tmp_path, 2).facts.number == 2
    assert [one.number for one in _facts(tmp_path)] == [1, 2]


def test_a_damaged_line_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """It may be evidence."""
    _append(tmp_path, 1)
    _append(tmp_path, 2)
    path = tmp_path / chain.FILE
    damaged = path.read_bytes().replace(b'"number":1', b'"number":x')
    path.write_bytes(damaged)
    with pytest.raises(chain.ChainUnusable, match="a line of the chain is damaged"):
        chain.Chain(tmp_path)
    assert path.read_bytes() == damaged


def test_another_key_does_not_continue_a_chain(tmp_path: Path) -> None:
    """Nor does it replace the one that is missing."""
    _append(tmp_path, 1)
    (tmp_path / evidence_key.PRIVATE).unlink()
    evidence_key.make(tmp_path)
    with pytest.raises(chain.ChainUnusable, match="this is not the key that signed the chain"):
        chain.Chain(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace('"v":1', '"v":2'), id="of-a-later-version"),
        pytest.param(lambda text: text.replace('"lines":1', '"lines":-1'), id="negative"),
        pytest.param(lambda text: text.replace('"lines":1', '"lines":true'), id="no-number"),
        pytest.param(lambda text: text.replace('{"aside"', '{"a":1,"aside"'), id="says-more"),
        pytest.param(lambda text: text.replace('"v":1', '"v": 1'), id="not-canonical"),
        pytest.param(lambda text: "[" * 100_000, id="nested"),
        pytest.param(lambda text: "null", id="null"),
    ],
)
def test_what_is_no_entry_of_ours_is_refused(tmp_path: Path, change: object) -> None:
    """An entry has one form only, so that what is signed is what is read."""
    text = _append(tmp_path, 1).entry
    with pytest.raises(BadEntry):
        seal.read(change(text))  # type: ignore[operator]
