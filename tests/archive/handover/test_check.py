"""What is not true of a bundle is found, by somebody who has nothing but the bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import authority as authorities
from support import bundles
from support.archive import Archive, build_recipient, build_record
from support.bundles import Lines

from carbonseal.keys import evidence_key
from carbonseal.milter.archive import writer
from carbonseal.milter.archive.evidence import chain, leaf, settings
from carbonseal.milter.archive.evidence.seal import Sealed
from carbonseal.milter.archive.handover import check, manifest
from carbonseal.policies.errors import DataError

RECORDS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Archive, Path]]:
    """An archive of two segments, and a bundle of all that is in it."""
    directory = tmp_path_factory.mktemp("made")
    archive = Archive(directory)
    archive.fill(*(build_record(number) for number in range(RECORDS // 2)))
    archive.fill(*(build_record(number) for number in range(RECORDS // 2, RECORDS)))
    yield archive, bundles.export(archive, directory / "bundle", "--all", "--format", "both")
    archive.close()


@pytest.fixture
def bundle(made: tuple[Archive, Path], tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(made[1], tmp_path / "bundle"))


def test_a_bundle_as_it_was_made_is_true(bundle: Path) -> None:
    """Nothing is found, everything is proven, and the outcome says what was seen."""
    outcome = check.Outcome()
    assert list(check.check(bundle, outcome)) == []
    assert (outcome.records, outcome.proven, outcome.unsealed) == (RECORDS, RECORDS, 0)
    assert outcome.relays == {"mx1.example.com"}
    assert list(outcome.keys) == ["mx1.example.com"]


FILES = (
    manifest.MANIFEST,
    manifest.DIGEST,
    manifest.RECORDS,
    manifest.TABLE,
    manifest.PROOFS,
    manifest.SEALS,
    manifest.README,
)


@pytest.mark.parametrize("name", FILES)
def test_any_changed_octet_is_found(bundle: Path, name: str) -> None:
    """At the beginning, at the end, and at places all over each file."""
    content = (bundle / name).read_bytes()
    step = max(1, len(content) // 40)
    for place in {*range(0, len(content), step), len(content) - 1}:
        changed = bytearray(content)
        changed[place] ^= 1
        (bundle / name).write_bytes(changed)
        assert has_fault(bundle), place
    (bundle / name).write_bytes(content + b"\n")
    assert has_fault(bundle)
    (bundle / name).write_bytes(content[:-1])
    assert has_fault(bundle)


def has_fault(bundle: Path) -> bool:
    try:
        return bool(bundles.findings(bundle))
    except DataError:
        return True


def test_any_changed_octet_of_a_tar_file_is_found(made: tuple[Archive, Path]) -> None:
    """In the content of its files, and in their headers but for time, mode and owner."""
    archive, directory = made
    path = directory.with_name("bundle.tar")
    content = bundles.export(archive, path).read_bytes()
    assert bundles.findings(path) == []
    with tarfile.open(path) as opened:
        members = [(one.offset_data, one.size) for one in opened.getmembers() if one.size]
    for start, size in members:
        for place in {start, start + size // 2, start + size - 1, start - 512}:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            assert has_fault(path), place
    path.write_bytes(content[: len(content) // 2])
    assert has_fault(path)


def changed_subject(records: Lines, _: Lines) -> None:
    records[2]["header_fields"][2][1] = " Something harmless"


def changed_recipient(records: Lines, _: Lines) -> None:
    records[2]["recipients"][0]["address"] = "somebody@else.example"


def changed_time(records: Lines, _: Lines) -> None:
    records[2]["recorded_at"] = "2026-11-21T05:00:09.000000Z"


def another_salt(records: Lines, _: Lines) -> None:
    records[2]["salt"] = "00" * 16


def field_added(records: Lines, _: Lines) -> None:
    records[2]["header_fields"].append(["X-Harmless", " yes"])


def key_added(records: Lines, _: Lines) -> None:
    records[2]["comment"] = "was checked by hand"


def similar(record_id: str) -> str:
    return record_id[:-1] + ("1" if record_id.endswith("0") else "0")


def record_added(records: Lines, proofs: Lines) -> None:
    record_id = similar(records[2]["record_id"])
    records.insert(3, records[2] | {"record_id": record_id})
    proofs.insert(3, proofs[2] | {"record_id": record_id})


def record_added_without_proof(records: Lines, proofs: Lines) -> None:
    record_id = similar(records[2]["record_id"])
    records.insert(3, records[2] | {"record_id": record_id})
    proofs.insert(3, {"record_id": record_id, "is_sealed": False})


def record_doubled(records: Lines, proofs: Lines) -> None:
    records.insert(3, records[2])
    proofs.insert(3, proofs[2])


def record_removed_without_proof(records: Lines, _: Lines) -> None:
    del records[2]


def records_swapped(records: Lines, _: Lines) -> None:
    records[1], records[2] = records[2], records[1]


def both_swapped(records: Lines, proofs: Lines) -> None:
    records_swapped(records, proofs)
    records_swapped(proofs, records)


def contents_swapped(records: Lines, _: Lines) -> None:
    first, second = records[1]["record_id"], records[2]["record_id"]
    records[1], records[2] = records[2] | {"record_id": first}, records[1] | {"record_id": second}


def other_place(_: Lines, proofs: Lines) -> None:
    proofs[1]["position"] = 0


def other_seal(_: Lines, proofs: Lines) -> None:
    proofs[0]["number"] = 1


def no_such_seal(_: Lines, proofs: Lines) -> None:
    proofs[0]["number"] = 7


def declared_unsealed(records: Lines, proofs: Lines) -> None:
    changed_recipient(records, proofs)
    proofs[2] = {"record_id": records[2]["record_id"], "is_sealed": False}


def declared_erased(records: Lines, proofs: Lines) -> None:
    """The true commitment of a part, so that the record may say there what it likes."""
    known = leaf.salts(leaf.line_salt(records[2]))
    evidence = leaf.redact(records[2], known, {"recipients/0"}, has_header=True)
    changed_recipient(records, proofs)
    proofs[2]["salts"] = {"redaction": evidence}


def header_removed(records: Lines, _: Lines) -> None:
    records[2]["header_fields"] = None


def no_record(records: Lines, _: Lines) -> None:
    records[2] = {"record_id": 5}


def no_proof(_: Lines, proofs: Lines) -> None:
    proofs[2] = {"record_id": proofs[2]["record_id"], "path": 3}


CHANGES = [
    pytest.param(changed_subject, "header section is not the one", id="subject"),
    pytest.param(field_added, "header section is not the one", id="field-added"),
    pytest.param(changed_recipient, "not the record that was sealed", id="recipient"),
    pytest.param(changed_time, "not the record that was sealed", id="time"),
    pytest.param(key_added, "not the record that was sealed", id="key-added"),
    pytest.param(another_salt, "not the record that was sealed", id="salt"),
    pytest.param(record_added, "not the record that was sealed", id="record-added"),
    pytest.param(record_added_without_proof, "nothing proves it", id="record-added-as-new"),
    pytest.param(record_doubled, "not older than the record before", id="record-doubled"),
    pytest.param(record_removed_without_proof, "beside the proof", id="record-removed"),
    pytest.param(records_swapped, "not older than the record before", id="records-swapped"),
    pytest.param(both_swapped, "not older than the record before", id="swapped-with-proofs"),
    pytest.param(contents_swapped, "not the record that was sealed", id="contents-swapped"),
    pytest.param(other_place, "does not lead to what", id="position"),
    pytest.param(other_seal, "does not lead to what", id="seal"),
    pytest.param(no_such_seal, "is missing", id="no-such-seal"),
    pytest.param(declared_unsealed, "nothing proves it", id="declared-unsealed"),
    pytest.param(declared_erased, "which nothing proves", id="declared-erased"),
    pytest.param(header_removed, "header section was removed", id="header-removed"),
    pytest.param(no_record, "is no record", id="no-record"),
    pytest.param(no_proof, "cannot be read", id="no-proof"),
]


@pytest.mark.parametrize(("how", "what"), CHANGES)
def test_a_change_is_found_though_the_manifest_fits(
    bundle: Path, how: Callable[[Lines, Lines], None], what: str
) -> None:
    """The proofs and the relay's signature do not bend; the finding says which record."""
    bundles.change(bundle, how)
    found = bundles.findings(bundle)
    assert any(what in one for one in found), found
    assert found[0].startswith((f"{manifest.RECORDS} line ", f"{manifest.PROOFS} line "))
    assert not [one for one in found if one.startswith("manifest")]


def test_a_record_left_out_with_its_proof_is_found_by_the_digest(bundle: Path) -> None:
    """A smaller bundle is true in itself; it is not the one that the audit knows."""
    told = check.Outcome()
    assert list(check.check(bundle, told)) == []

    def leave_out(records: Lines, proofs: Lines) -> None:
        del records[2], proofs[2]

    bundles.change(bundle, leave_out)
    assert bundles.findings(bundle) == []
    [found] = bundles.findings(bundle, manifest_sha256=told.manifest_sha256)
    assert found.startswith("manifest.json: its SHA-256 is")


def test_a_bundle_sealed_by_somebody_else_is_found_by_the_key(bundle: Path, tmp_path: Path) -> None:
    """Who makes up records and seals has not the relay's key."""
    relay = evidence_key.read_public(next(bundle.glob("evidence/*.pub")))
    assert bundles.findings(bundle, trusted={relay}) == []
    (tmp_path / "evidence").mkdir()
    forger = evidence_key.make(tmp_path / "evidence")
    forged = []
    for line in (bundle / manifest.SEALS).read_bytes().splitlines():
        entry = json.loads(chain.from_line(line).entry) | {"key": forger.public.hex()}
        text = leaf.canonical(entry)
        forged.append(chain.to_line(Sealed(text.decode(), forger.sign(text))))
    (bundle / manifest.SEALS).write_bytes(b"".join(forged))
    bundles.make_fit(bundle)
    found = bundles.findings(bundle, trusted={relay})
    assert "which is none of those given" in found[0]
    assert len([one for one in found if "cannot be trusted" in one]) == RECORDS


def test_a_signature_that_does_not_fit_is_found(bundle: Path) -> None:
    """An entry changed under its old signature proves nothing."""
    text = (bundle / manifest.SEALS).read_bytes()
    (bundle / manifest.SEALS).write_bytes(text.replace(b'"lines":3', b'"lines":4'))
    bundles.make_fit(bundle)
    assert "signature does not fit" in bundles.findings(bundle)[0]


@pytest.fixture
def stamped(tmp_path: Path) -> Iterator[Path]:
    """A bundle of the first of four records; the seal of the second was stamped."""
    authority = authorities.Authority(tmp_path / "authority")
    (tmp_path / "archive").mkdir()
    archive = Archive(tmp_path / "archive")
    directory = settings.beside(archive.spool_directory).directory
    for number in range(4):
        archive.put(build_record(number))
        asked = settings.Authority(authority.url, 0, authority.certificate)
        writer.run_once(
            archive.spool_directory,
            archive.database_url,
            report=archive.report,
            evidence=settings.Settings(directory, asked if number == 1 else None),
        )
    yield bundles.export(archive, tmp_path / "bundle", "queue-id:4XYZ0")
    archive.close()
    authority.close()


def numbers(bundle: Path) -> list[int]:
    return [
        chain.from_line(line).facts.number
        for line in (bundle / manifest.SEALS).read_bytes().splitlines()
    ]


def test_a_time_stamp_comes_with_the_seals_that_lead_to_it(stamped: Path) -> None:
    """The record's own seal, all up to the one that was stamped, and the head; no other."""
    outcome = check.Outcome()
    assert list(check.check(stamped, outcome)) == []
    assert (outcome.records, outcome.proven, outcome.stamps) == (1, 1, 1)
    assert numbers(stamped) == [1, 2, 4]


def test_a_time_stamp_of_something_else_is_found(stamped: Path) -> None:
    """Of another seal, of a seal that is not there, and what is no stamp at all."""
    path = stamped / manifest.STAMPS
    [said] = bundles.lines(stamped, manifest.STAMPS)
    for changes, what in (
        ({"number": 1}, "it stamps something else"),
        ({"number": 3}, "the stamped seal 3 of mx1.example.com is not there"),
        ({"token": "AAAA"}, "it is no time stamp"),
        ({"token": "A"}, "is no time stamp"),
    ):
        path.write_bytes(leaf.canonical(said | changes) + b"\n")
        bundles.make_fit(stamped)
        [found] = bundles.findings(stamped)
        assert what in found


def test_a_seal_between_record_and_stamp_cannot_be_another(stamped: Path, tmp_path: Path) -> None:
    """Each names the one before it."""
    (tmp_path / "evidence").mkdir()
    forger = evidence_key.make(tmp_path / "evidence")
    path = stamped / manifest.SEALS
    _, *rest = path.read_bytes().splitlines(keepends=True)
    facts = chain.from_line(path.read_bytes().splitlines()[0]).facts
    text = replace(facts, key=forger.public).text()
    forged = chain.to_line(Sealed(text, forger.sign(text.encode())))
    path.write_bytes(b"".join((forged, *rest)))
    bundles.make_fit(stamped)
    assert bundles.findings(stamped) == [
        "evidence/seals.jsonl: seal 2 of mx1.example.com does not follow from the one before"
    ]


def test_what_was_put_beside_is_found(bundle: Path) -> None:
    """A file that the manifest does not know, and one that is missing."""
    (bundle / "evidence" / "note.txt").write_text("all is well")
    (bundle / manifest.TABLE).unlink()
    assert bundles.findings(bundle) == [
        "evidence/note.txt: is not in the manifest",
        "records.csv: is missing",
    ]


STRANGE = [
    pytest.param(lambda path: path.unlink(), id="missing"),
    pytest.param(lambda path: path.write_bytes(b"{}"), id="empty-object"),
    pytest.param(lambda path: path.write_bytes(b"[" * 100_000), id="deep"),
    pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), id="no-text"),
    pytest.param(
        lambda path: path.write_text(path.read_text().replace('"version": 1', '"version": 2')),
        id="later-version",
    ),
    pytest.param(
        lambda path: path.write_text(path.read_text().replace("records.jsonl", "../../etc/passwd")),
        id="foreign-file",
    ),
    pytest.param(
        lambda path: path.write_text(path.read_text().replace('"records": 6', '"records": "6"')),
        id="no-number",
    ),
]


@pytest.mark.parametrize("how", STRANGE)
def test_a_strange_manifest_is_one_sentence(bundle: Path, how: Callable[[Path], Any]) -> None:
    """What is no bundle is refused."""
    how(bundle / manifest.MANIFEST)
    with pytest.raises(DataError) as raised:
        bundles.findings(bundle)
    assert "\n" not in raised.value.sentence


def test_files_are_written_in_one_way_only(bundle: Path) -> None:
    """Two of a key, and what else readers of JSON see differently, has no place to hide."""
    path = bundle / manifest.RECORDS
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(b'{"size":1,' + first[1:] + b"\n" + rest)
    bundles.make_fit(bundle)
    assert bundles.findings(bundle)[0].endswith("is not written as exports write it")
    path.write_bytes(first + b"\n" + rest)
    bundles.make_fit(bundle)
    assert bundles.findings(bundle) == []
    path = bundle / manifest.MANIFEST
    text = path.read_bytes().replace(b"{", b'{"records": 1,', 1)
    path.write_bytes(text)
    (bundle / manifest.DIGEST).write_bytes(manifest.digest_line(text))
    assert bundles.findings(bundle) == ["manifest.json: is not written as exports write it"]


def test_links_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    """A bundle cannot make its reader read other files."""
    (tmp_path / "secret").write_bytes((bundle / manifest.RECORDS).read_bytes())
    (bundle / manifest.RECORDS).unlink()
    (bundle / manifest.RECORDS).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"records\.jsonl"):
        bundles.findings(bundle)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_tar_file_with_anything_but_files_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Links and devices have no place in a bundle."""
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        member = tarfile.TarInfo(manifest.MANIFEST)
        member.type = kind
        member.linkname = "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match="no part of an export"):
        bundles.findings(tmp_path / "b.tar")


def test_a_tar_file_with_two_of_a_name_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Which of them counts would depend on who reads."""
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for _ in range(2):
            archive.add(bundle / manifest.MANIFEST, manifest.MANIFEST)
    with pytest.raises(DataError, match="no part of an export"):
        bundles.findings(tmp_path / "b.tar")


def test_a_bundle_packed_by_tar_is_true(bundle: Path, tmp_path: Path) -> None:
    """People pack directories; the ./ that tar puts in front does not matter."""
    subprocess.run(["tar", "-cf", tmp_path / "b.tar", "-C", bundle, "."], check=True)
    assert bundles.findings(tmp_path / "b.tar") == []


DAY = 86_400


def kept(**terms: int) -> dict[str, Any]:
    return {"class": "short", **dict.fromkeys(("keep", "headers", "subject")), **terms}


@pytest.fixture
def thinned(tmp_path: Path) -> Iterator[Archive]:
    """Of four records: all, all but the header section, all but the subject, all but a person."""
    archive = Archive(tmp_path)
    long_ago = -100 * DAY
    archive.fill(
        build_record(0, recipients=[build_recipient("carol@x.example")], seconds=long_ago),
        build_record(1, retention=kept(subject=DAY), seconds=long_ago + 1),
        build_record(2, retention=kept(headers=DAY), seconds=long_ago + 2),
        build_record(3, seconds=long_ago + 3),
    )
    certificate = str(tmp_path / "certificate.json")
    for arguments in (
        ("retain", "--apply", "--now", "2026-08-16"),
        ("erase", "carol@x.example", "--apply", "--certificate", certificate),
    ):
        result = bundles.call(archive, *arguments)
        assert result.exit_code == 0, (result.output, result.exception)
    yield archive
    archive.close()


def test_what_was_taken_out_is_not_missed(thinned: Archive, tmp_path: Path) -> None:
    """What is left is proven; what is not is set apart, where nobody takes it for proven."""
    path = bundles.export(thinned, tmp_path / "bundle", "--all", "--format", "both")
    outcome = check.Outcome()
    assert [str(one) for one in check.check(path, outcome)] == []
    assert (outcome.proven, outcome.without_header_section, outcome.redacted) == (4, 1, 2)
    _, headless, nameless, erased = bundles.lines(path, manifest.RECORDS)
    assert (headless["header_fields"], headless["salt"]) == (None, None)
    assert (nameless["header_fields"][2], nameless["salt"]) == (["Subject", ""], None)
    assert erased["recipients"] == [None]
    assert erased["unproven"]["recipients/0"]["address"].endswith("@x.example")
    for name in (manifest.RECORDS, manifest.TABLE, manifest.PROOFS):
        text = (path / name).read_text()
        assert "carol" not in text
        assert "report 1" not in text
        assert "report 2" not in text


def test_what_is_left_of_a_record_cannot_be_changed(thinned: Archive, tmp_path: Path) -> None:
    """Neither what was left, nor by saying something again where it was taken out."""

    def change_size(records: Lines, _: Lines) -> None:
        records[3]["size"] += 1

    def say_again(records: Lines, _: Lines) -> None:
        records[3]["recipients"][0] = records[3]["unproven"]["recipients/0"]

    def give_a_subject(records: Lines, _: Lines) -> None:
        records[2]["header_fields"][2][1] = " Something harmless"

    def give_fields(records: Lines, _: Lines) -> None:
        records[1]["header_fields"] = records[0]["header_fields"]

    def call_unproven(records: Lines, _: Lines) -> None:
        records[0]["unproven"] = {"login": "somebody"}

    for how, what in (
        (change_size, "not the record that was sealed"),
        (say_again, "still says recipients/0"),
        (give_a_subject, "still says header/subject"),
        (give_fields, "header section is not the one"),
        (call_unproven, "was not taken out"),
    ):
        path = bundles.export(thinned, tmp_path / how.__name__)
        bundles.change(path, how)
        assert any(what in one for one in bundles.findings(path)), how


def test_what_is_not_whole_is_not_imported(thinned: Archive, tmp_path: Path) -> None:
    """Only whole records can be sealed again; the others are counted."""
    path = bundles.export(thinned, tmp_path / "bundle")
    result = bundles.call(thinned, "import", str(path))
    assert "put 1 record into the spool" in result.stderr
    assert "3 records were left out" in result.stderr


def test_records_that_are_not_sealed_yet_are_said_to_be_so(
    archive: Archive, tmp_path: Path
) -> None:
    """They are exported, counted, and no check takes them for proven."""
    archive.put(build_record(1), is_closed=False)
    archive.load()
    result = bundles.call(archive, "export", str(tmp_path / "bundle"), "--all")
    assert "1 of them is so new that nothing proves it yet" in result.stderr
    assert "nothing proves it" in bundles.findings(tmp_path / "bundle")[0]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    module = "carbonseal.milter.archive.handover.check"
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_check_runs_alone(bundle: Path, tmp_path: Path) -> None:
    """Status 0 and what is still to be compared; 1 with each finding; 65 where there is nothing."""
    digest = (bundle / manifest.DIGEST).read_text().split()[0]
    key = next(bundle.glob("evidence/*.pub"))
    found = run(bundle, "--key", key, "--manifest-sha256", digest)
    assert (found.returncode, found.stdout.splitlines()[-1]) == (0, "all is true")
    assert "compare" not in found.stdout
    assert digest in run(bundle).stdout
    found = run(bundle, "--manifest-sha256", "0" * 64)
    assert (found.returncode, found.stdout.splitlines()[-1]) == (1, "1 finding")
    found = run(tmp_path)
    assert (found.returncode, found.stdout) == (65, "")


def test_the_check_needs_no_database_library() -> None:
    """Whoever gets a bundle needs a part of the product, and nothing that speaks to databases."""
    code = (
        "import sys, carbonseal.milter.archive.handover.check\n"
        "assert not {'sqlalchemy', 'alembic', 'pydantic', 'yaml', 'milter'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
