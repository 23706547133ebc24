"""Segments that an erasure has rewritten are told from segments that somebody else has changed.

Their seals were made before; the erasure's note in the audit says what they are now.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, inspect
from support import event_lines
from support.archive import Archive, Record, build_recipient, build_record, headers
from support.evidence import found_by, question, tampering
from support.keeping import Keeper, expiring, years

from carbonseal.milter.archive import audit, merkle, open_segment, record, schema
from carbonseal.milter.archive.evidence import commands, rewriting, seal, verify
from carbonseal.milter.archive.evidence.finding import Finding
from carbonseal.milter.archive.evidence.rewriting import Rewriting
from carbonseal.milter.archive.handover import check
from carbonseal.milter.archive.keeping import copies, person
from carbonseal.milter.archive.keeping.copies import CopiesUnreachable
from carbonseal.milter.archive.segments import Segment
from carbonseal.milter.archive.writing import known_archive

BOB, CAROL = "bob@partner.example", "carol@third.example"


@functools.cache
def to_bob(number: int) -> Record:
    return build_record(number, salt=f"{number:032x}")


@functools.cache
def to_carol(number: int) -> Record:
    return build_record(
        number,
        salt=f"{number:032x}",
        recipients=[build_recipient(CAROL)],
        reasons=["origin-login(alice)"],
        header_fields=headers(From="<alice@example.com>", To=f"<{CAROL}>", Subject="for you"),
    )


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates go to the working directory."""
    monkeypatch.chdir(tmp_path)


def loaded(archive: Archive) -> list[Path]:
    return sorted((archive.spool_directory / "loaded").iterdir())


def looked(archive: Archive) -> tuple[list[Finding], verify.Report]:
    """What verify finds, and what else it has to say."""
    report = verify.Report()
    with audit.opened(archive.database_url) as audit_engine:
        found = found_by(archive.engine, audit_engine, question(archive), report)
    return found, report


def said(report: verify.Report) -> str:
    return "\n".join(commands._lines(report))


def lose(archive: Archive, *, audit_too: bool = False) -> None:
    """The database is lost, and what is left of it is the audit."""
    if archive.database_url.startswith("sqlite"):
        archive.begin_anew()
        if audit_too:
            archive.file.with_name("archive-audit.db").unlink()
        return
    (archive.spool_directory / known_archive.MARK).unlink()
    with tampering(archive) as connection:
        there = set(inspect(connection).get_table_names())
        tables = [*schema.metadata.tables.values(), *schema.array_metadata.tables.values()]
        for table in (*tables, *([schema.audit] if audit_too else [])):
            if table.name in there and table is not schema.dictionary_epoch:
                connection.execute(delete(table))


def load_again(archive: Archive) -> dict[str, list[dict[str, Any]]]:
    """Load what is in loaded/, and say what the writer said of it."""
    archive.events.clear()
    archive.load()
    found: dict[str, list[dict[str, Any]]] = {}
    for event, facts in archive.events:
        found.setdefault(event, []).append(facts)
    return found


def fill(archive: Archive) -> None:
    """Two segments, of which the first names Bob in two records and in what became of one."""
    told = event_lines.delivered("4XYZ1", BOB, "archive@archive.example.net")
    archive.put(to_bob(1), to_carol(2), *told, to_bob(3))
    archive.put(to_carol(4))
    archive.load()


def erase(keeper: Keeper, who: str = BOB) -> None:
    keeper.run(f"erase {who} --apply")


def forge(path: Path, change: Callable[[Record], Record], *, keep_note: bool = True) -> None:
    """Change records of a segment as somebody would who knows what a segment looks like."""
    lines = path.read_bytes().splitlines(keepends=True)
    tree, made = merkle.Tree(), b""
    for line in lines[:-1]:
        encoded = record.encode(change(record.parse(line)))
        tree.add(encoded)
        made += encoded
    note = record.parse(lines[-1])["footer"].get("as_sealed") if keep_note else None
    path.write_bytes(made + open_segment.footer(path.name.removesuffix(".jsonl"), tree, note))


def resized(number: int) -> Callable[[Record], Record]:
    """Another size for one of the records."""
    return lambda one: (
        one | {"size": 7} if one.get("queue_id") == f"4XYZ{number}" and "size" in one else one
    )


def rewritten_by_hand(archive: Archive) -> list[Rewriting]:
    """As the erasure does it, by whoever has its program; what it would have noted."""
    noted: list[Rewriting] = []
    who = person.Person(BOB)
    tokens = {BOB: "erased@partner.example"}
    copies.rewrite(
        archive.spool_directory, who, lambda one: person.erased(one, who, tokens), noted.extend
    )
    return noted


def test_a_rewritten_segment_in_loaded_is_named_and_is_no_finding(keeper: Keeper) -> None:
    """With the day and the number of the certificate; what was not touched is not named."""
    fill(keeper.archive)
    erase(keeper)
    found, report = looked(keeper.archive)
    assert found == []
    [(by, count)] = report.copies.items()
    assert (by.event, count) == (1, 1)
    assert f"1 loaded segment was rewritten by the erasure of {by.day}, certificate 1" in said(
        report
    )


def test_loaded_again_it_is_what_the_erasure_says_and_nobody_is_accused(keeper: Keeper) -> None:
    """Neither by the writer nor by verify, with the relay's files or without; the rest is whole."""
    archive = keeper.archive
    fill(archive)
    erase(keeper)
    lose(archive)
    events = load_again(archive)
    assert "segment-damaged" not in events
    [told] = events["segment-rewritten"]
    assert told["by"].endswith("certificate 1")
    found, report = looked(archive)
    assert found == []
    [(by, lines)] = report.counts.rewritten.items()
    assert (by.event, lines) == (1, 3)
    assert f"3 lines were loaded again as rewritten by {by}" in said(report)
    assert archive.search(f"participant:{BOB}") == []
    assert archive.show(to_carol(2)["record_id"]) == to_carol(2)
    erase(keeper, CAROL)
    archive.fill(to_carol(5))
    assert looked(archive)[0] == []


def test_retention_takes_its_part_of_what_came_back(keeper: Keeper) -> None:
    """Subject, header section and record, each of a line that an erasure had rewritten."""
    archive = keeper.archive
    archive.fill(
        expiring(1, seconds=years(2), keep=9000, subject=30, name="subject"),
        expiring(2, seconds=years(2), keep=9000, headers=30, name="headers"),
        expiring(3, seconds=years(2), keep=30),
        expiring(4, seconds=0, keep=9000, name="whole"),
    )
    erase(keeper)
    lose(archive)
    load_again(archive)
    keeper.run("retain --apply --now 0d")
    assert len(archive.search()) == 3
    found, report = looked(archive)
    assert found == []
    assert sum(report.counts.rewritten.values()) == 3


def test_two_erasures_of_one_segment_are_followed_one_after_the_other(keeper: Keeper) -> None:
    """The second has noted what the first had left."""
    archive = keeper.archive
    archive.fill(
        to_bob(1), build_record(2, recipients=[build_recipient(BOB), build_recipient(CAROL)])
    )
    erase(keeper)
    erase(keeper, CAROL)
    assert looked(archive)[0] == []
    lose(archive)
    assert "segment-damaged" not in load_again(archive)
    found, report = looked(archive)
    assert found == []
    assert len(report.counts.rewritten) == 2


def test_a_backup_from_before_the_erasure_is_held_against_rewritten_segments(
    archive: Archive, tmp_path: Path
) -> None:
    """The person is in it again, which the certificate's check says; but nothing was tampered with.

    What the backup lacks comes back as the erasure has left it.
    """
    keeper = Keeper(archive)
    archive.fill(to_bob(1), to_carol(2))
    archive.close()
    shutil.copy(archive.file, tmp_path / "backup.db")
    archive.fill(to_bob(3))
    keeper.run(f"erase {BOB} --apply --certificate c.json")
    archive.lose()
    shutil.copy(tmp_path / "backup.db", archive.file)
    assert "segment-rewritten" in load_again(archive)
    found, report = looked(archive)
    assert found == []
    assert sum(report.copies.values()) == 2
    assert "in the dictionary again, with 1 record" in keeper.run("erase --check c.json", status=1)
    erase(keeper)
    assert looked(archive)[0] == []


@pytest.mark.parametrize("is_lost", [False, True], ids=["in-loaded", "loaded-again"])
@pytest.mark.parametrize(
    "number", [pytest.param(1, id="an-erased-line"), pytest.param(2, id="another-line")]
)
@pytest.mark.parametrize("keep_note", [True, False], ids=["footer-kept", "footer-made-anew"])
def test_what_is_changed_after_the_rewriting_is_damage(
    keeper: Keeper, number: int, is_lost: bool, keep_note: bool
) -> None:
    """Of a line that was erased, and of one that was not; the writer says so and so does verify."""
    archive = keeper.archive
    fill(archive)
    erase(keeper)
    forge(loaded(archive)[0], resized(number), keep_note=keep_note)
    if is_lost:
        lose(archive)
        events = load_again(archive)
        assert "segment-rewritten" not in events
        [told] = events["segment-damaged"]
        assert "neither what was sealed nor what the erasure of" in told["problem"]
    found, _ = looked(archive)
    assert "segment" in [one.kind for one in found]
    assert any("neither what was sealed nor what the erasure of" in one.what for one in found)


def test_a_rewriting_without_an_erasure_is_damage(keeper: Keeper) -> None:
    """However well it is done; loaded again, exactly the records are named that are others."""
    archive = keeper.archive
    fill(archive)
    rewritten_by_hand(archive)
    [found] = looked(archive)[0]
    assert found.what.endswith("is not what was sealed")
    lose(archive)
    [told] = load_again(archive)["segment-damaged"]
    assert "the audit knows of none" in told["problem"]
    changed = {one.record_id for one in looked(archive)[0] if one.kind == "changed"}
    assert changed == {to_bob(1)["record_id"], to_bob(3)["record_id"]}


@pytest.mark.parametrize("what", ["root", "no-erasure", "dry-run", "too-late", "not-before"])
def test_a_note_is_believed_of_what_it_says_while_its_erasure_lasts_only(
    archive: Archive, what: str
) -> None:
    """One of another root, of no erasure, or added after the erasure had come to its end."""
    keeper = Keeper(archive)
    fill(archive)
    [done] = rewritten_by_hand(archive)
    if what == "root":
        done = Rewriting(done.segment, done.was, bytes(32), done.lines)
    elif what == "not-before":
        done = Rewriting(done.segment, bytes(32), done.now, done.lines)
    with audit.opened(archive.database_url) as engine:

        def add(action: str, **detail: Any) -> int:
            return audit.append(engine, action=action, reason="", detail=detail).number

        asked = add("search" if what == "no-erasure" else "erase", apply=what != "dry-run")
        if what == "too-late":
            add(audit.ANSWERED, of=asked, outcome=audit.COMPLETE)
        add(audit.REWRITTEN, **rewriting.detail(asked, [done]))
    found, report = looked(archive)
    assert [one.kind for one in found] == ["segment"]
    assert report.copies == {}
    lose(archive)
    assert "segment-damaged" in load_again(archive)
    del keeper


def test_with_the_audit_lost_as_well_the_untouched_records_are_proven_still(keeper: Keeper) -> None:
    """What the seal covers tells them from the lines that nobody vouches for any more."""
    archive = keeper.archive
    fill(archive)
    erase(keeper)
    lose(archive, audit_too=True)
    [told] = load_again(archive)["segment-damaged"]
    assert "the audit knows of none" in told["problem"]
    changed = [one for one in looked(archive)[0] if one.kind == "changed"]
    assert len(changed) == 3
    assert to_carol(2)["record_id"] not in {one.record_id for one in changed}


def test_an_erasure_that_is_cut_off_leaves_whole_segments_and_goes_on(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noted and not yet replaced: the note is of what nobody has, and no half file is left."""
    keeper = Keeper(archive)
    fill(archive)
    before = loaded(archive)[0].read_bytes()

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(copies.os, "replace", full)
        with pytest.raises(CopiesUnreachable):
            erase(keeper)
    assert loaded(archive)[0].read_bytes() == before
    assert all(path.name.endswith(".jsonl") for path in loaded(archive))
    assert looked(archive)[0] == []
    erase(keeper)
    lose(archive)
    assert "segment-damaged" not in load_again(archive)
    assert looked(archive)[0] == []


def test_nothing_is_rewritten_that_the_audit_does_not_have(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note comes first: a segment that was replaced without one would look like an attack."""
    keeper = Keeper(archive)
    fill(archive)
    before = [path.read_bytes() for path in loaded(archive)]
    append = audit.append

    def closed(engine: Any, *, action: str, **given: Any) -> audit.Event:
        if action == audit.REWRITTEN:
            raise audit.AuditUnusable("the audit cannot be used, so there is no answer")
        return append(engine, action=action, **given)

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", closed)
        with pytest.raises(audit.AuditUnusable):
            erase(keeper)
    assert [path.read_bytes() for path in loaded(archive)] == before
    erase(keeper)
    assert looked(archive)[0] == []


def test_an_erasure_that_has_noted_nothing_holds_as_it_did(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of earlier versions: SQL excuses the records that it calls redacted, and no other."""
    keeper = Keeper(archive)
    fill(archive)
    append = audit.append

    def silent(engine: Any, *, action: str, **given: Any) -> audit.Event | None:
        return None if action == audit.REWRITTEN else append(engine, action=action, **given)

    monkeypatch.setattr(audit, "append", silent)
    erase(keeper)
    found, report = looked(archive)
    assert (found, report.copies) == ([], {})
    forge(loaded(archive)[0], resized(2), keep_note=False)
    [damage] = looked(archive)[0]
    assert damage.what.endswith("is not what was sealed")
    assert damage.position == 1


def test_a_line_that_repeats_another_goes_on_doing_so(archive: Archive) -> None:
    """The same record in two segments, both rewritten, and sealed anew by a relay that has lost
    its chain as well."""
    keeper = Keeper(archive)
    archive.put(to_bob(1))
    archive.put(to_bob(1), to_carol(2))
    archive.load()
    erase(keeper)
    assert looked(archive)[0] == []
    lose(archive)
    (archive.spool_directory / "evidence").rename(archive.file.parent / "lost")
    load_again(archive)
    assert archive.rows("message") == 2
    assert looked(archive)[0] == []


def test_many_segments_are_noted_some_at_a_time(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no event of the audit grows without bound."""
    monkeypatch.setattr(copies, "_AT_ONCE", 2)
    keeper = Keeper(archive)
    for number in range(5):
        archive.put(to_bob(number))
    archive.load()
    erase(keeper)
    noted = [facts for action, facts in keeper.events() if action == audit.REWRITTEN]
    assert [len(facts["segments"]) for facts in noted] == [2, 2, 1]
    assert {facts["of"] for facts in noted} == {1}
    assert "bob" not in json.dumps(noted)
    assert sum(looked(archive)[1].copies.values()) == 5


def test_the_leaves_of_a_rewritten_line_cannot_be_tried_out(archive: Archive) -> None:
    """The audit is kept for ever: a line gets a new salt, which goes with it."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    erase(keeper)
    [path] = loaded(archive)
    line = record.parse(path.read_bytes().splitlines(keepends=True)[0])
    assert line["salt"] not in (None, to_bob(1)["salt"])
    [noted] = [facts for action, facts in keeper.events() if action == audit.REWRITTEN]
    assert noted["segments"][0]["now"] == seal.survey(Segment("x", path, True)).root.hex()
    assert line["salt"] not in json.dumps(noted)


def test_a_bundle_proves_what_the_erasure_left_alone_and_names_what_it_did_not(
    keeper: Keeper, tmp_path: Path
) -> None:
    """The other records of the segment are proven and can be imported elsewhere."""
    archive = keeper.archive
    fill(archive)
    erase(keeper)
    lose(archive)
    archive.load()
    keeper.run(f"export {tmp_path / 'bundle'} --all")
    outcome = check.Outcome()
    found = list(check.check(tmp_path / "bundle", outcome))
    assert (outcome.records, outcome.proven) == (4, 2)
    assert {one.record_id for one in found} == {to_bob(1)["record_id"], to_bob(3)["record_id"]}
    day = next(iter(looked(archive)[1].copies)).day
    assert all(f"the erasure of {day}, certificate 1 has rewritten it" in one.what for one in found)
    said = keeper.run(f"import {tmp_path / 'bundle'} --dry-run")
    assert "2 records" in said


def test_a_record_that_was_changed_besides_is_not_excused_in_a_bundle(
    keeper: Keeper, tmp_path: Path
) -> None:
    """A bundle names an erasure only where the audit has that very leaf."""
    archive = keeper.archive
    fill(archive)
    erase(keeper)
    forge(loaded(archive)[0], resized(1))
    lose(archive)
    archive.load()
    keeper.run(f"export {tmp_path / 'bundle'} --all")
    found = check.check(tmp_path / "bundle")
    what = {one.record_id: one.what for one in found if one.where.startswith("records")}
    assert what[to_bob(1)["record_id"]] == "it is not the record that was sealed"
    assert "certificate 1" in what[to_bob(3)["record_id"]]
