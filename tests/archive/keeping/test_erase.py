"""Erasure of one person: gone from every table and copy, the others found, the evidence whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from support.archive import (
    Archive,
    Record,
    build_recipient,
    build_record,
    build_reverse_path,
    headers,
)
from support.keeping import Keeper

from carbonseal.milter.archive import database, loader, record, rows, schema
from carbonseal.milter.archive.dictionary import Dictionary
from carbonseal.milter.archive.keeping import certificate, erase
from carbonseal.milter.archive.keeping.erase_command import Unfinished
from carbonseal.milter.archive.loader import Arrival
from carbonseal.policies.errors import DataError, NotFound, UsageError

BOB, CAROL, ALICE = "bob@partner.example", "carol@third.example", "alice@example.com"
NAMES = ("bob@partner", "bob=partner", "miller", "u4711")
TABLES = [table.name for table in schema.metadata.sorted_tables if table.name != "hold"]


def to_bob(number: int = 1, **changes: Any) -> Record:
    fields = [
        ["Received", " from a by b\n\tfor <bob@partner.example>; Sat, 21 Nov 2026"],
        ["From", " Alice <alice@example.com>"],
        ["To", ' "Bob Miller" <Bob@partner.example>, Carol <carol@third.example>'],
        ["Subject", " Contract of bob@partner.example"],
        ["List-Id", " <news.example.com>"],
        ["Message-ID", f" <{number}.x@example.com>"],
    ]
    changes.setdefault("salt", f"{number:032x}")
    changes.setdefault("header_fields", fields)
    given = [build_recipient("Bob@partner.example"), build_recipient(CAROL)]
    return build_record(number, recipients=changes.pop("recipients", given), **changes)


def from_bob(number: int = 2, **changes: Any) -> Record:
    return build_record(
        number,
        salt=f"{number:032x}",
        reverse_path=build_reverse_path(BOB, place="outside"),
        recipients=[build_recipient(ALICE)],
        login="u4711",
        origin={"kind": "login", "about": "u4711"},
        reasons=["origin-login(u4711)", "author-not-allowed(u4711 as bob@partner.example)"],
        header_fields=headers(From="Bob Miller <bob@partner.example>", Subject="hello"),
        **changes,
    )


def to_carol() -> Record:
    return build_record(
        4,
        salt="44" * 16,
        recipients=[build_recipient(CAROL)],
        reasons=["origin-login(alice)"],
        header_fields=headers(From=f"<{ALICE}>", To=f"Carol <{CAROL}>", Subject="for you"),
    )


def dump(archive: Archive) -> str:
    """Everything the database holds, as text; what is compressed comes through `show`."""
    found: list[str] = []
    with archive.engine.connect() as connection:
        for name in filter(sqlalchemy.inspect(connection).has_table, TABLES):
            for row in connection.exec_driver_sql(f"SELECT * FROM {name}"):
                for value in row:
                    octets = bytes(value) if isinstance(value, (bytes, memoryview)) else b""
                    found.append(octets.decode("utf-8", "replace") if octets else str(value))
    found += [json.dumps(archive.show(one)) for one in archive.search()]
    return "\n".join(found).lower()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates go to the working directory."""
    monkeypatch.chdir(tmp_path)


def test_a_dry_run_says_what_would_change_and_changes_nothing(archive: Archive) -> None:
    """How many records, and whether a hold is in the way."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1), to_bob(2))
    before = dump(archive)
    said = keeper.run(f"erase {BOB}")
    assert "records that name the person  2" in said
    assert "lines in loaded segments      2" in said
    assert "nothing was changed" in said
    assert dump(archive) == before


def test_the_person_is_gone_from_every_table_and_the_others_find_their_mail(
    keeper: Keeper,
) -> None:
    """Search, show, indexes, the dictionary and the spool; the evidence of the rest still holds."""
    verp = build_reverse_path("list+bob=partner.example@lists.example")
    mail = [to_bob(1), from_bob(2), to_bob(3, reverse_path=verp)]
    other = to_carol()
    keeper.archive.fill(*mail, other)
    said = keeper.run(f"erase {BOB} --apply --reason 'request 12' --certificate c.json")
    assert "CERTIFICATE OF ERASURE" in said
    assert "Records changed           3" in said
    everything = dump(keeper.archive)
    assert not any(name in everything for name in NAMES)
    for text in (f"participant:{BOB}", "subject:contract subject:bob", "login:u4711"):
        assert keeper.archive.search(text) == [], text
    third = [mail[2]["record_id"], mail[0]["record_id"]]
    assert keeper.archive.search(f"cc:{CAROL} OR to:{CAROL}") == [other["record_id"], *third]
    assert keeper.archive.search("subject:contract") == third
    assert keeper.archive.search("header.list-id:news.example.com") == third
    assert keeper.archive.search("message-id:1.x@example.com") == [mail[0]["record_id"]]
    assert mail[1]["record_id"] in keeper.archive.search(f"to:{ALICE}")
    assert mail[0]["record_id"] in keeper.archive.search("domain:partner.example")
    assert keeper.archive.show(other["record_id"]) == other
    for path in keeper.archive.spool_directory.rglob("*.jsonl*"):
        assert not any(name in path.read_text(errors="replace").lower() for name in NAMES[:2])
    assert keeper.findings() == []
    assert keeper.run("erase --check c.json") == "all of it is still so\n"


def test_the_same_person_writing_again_is_somebody_new(keeper: Keeper) -> None:
    """And the certificate says that the mailbox is there again."""
    keeper.archive.fill(to_bob(1))
    keeper.run(f"erase {BOB} --apply --certificate c.json")
    again = to_bob(9)
    keeper.archive.fill(again)
    assert keeper.archive.search(f"to:{BOB}") == [again["record_id"]]
    said = keeper.run("erase --check c.json", status=1)
    assert "in the dictionary again, with 1 record, the first" in said
    assert again["record_id"] in said


def test_a_writer_that_knew_the_person_forgets(archive: Archive) -> None:
    """What it remembers of the dictionary is not used again after a person was erased."""
    keeper = Keeper(archive)
    archive.fill(to_bob(0))
    engine, known = database.writing_engine(archive.database_url), Dictionary()
    for number in (1, 2):
        with engine.begin() as connection:
            loader.load([Arrival(1, number, rows.split(to_bob(number)))], connection, known)
        known.keep()
        if number == 1:
            keeper.run(f"erase {BOB} --apply")
    engine.dispose()
    [left] = archive.search(f"to:{BOB}")
    assert archive.show(left)["queue_id"] == "4XYZ2"


def test_a_held_record_stops_all_of_it(keeper: Keeper) -> None:
    """Nothing is changed, and the holds are named."""
    keeper.archive.fill(to_bob(1), from_bob(2))
    keeper.run("hold case-17 to:bob@partner.example --live")
    before = dump(keeper.archive)
    with pytest.raises(erase.Held, match=r"case-17 \(1 record\)"):
        keeper.run(f"erase {BOB} --apply")
    assert dump(keeper.archive) == before
    assert [action for action, _ in keeper.events()][-2:] == ["erase", "answered"]


def test_extensions_are_erased_when_that_is_said(archive: Archive) -> None:
    """Otherwise they are named as left, and stay."""
    keeper = Keeper(archive)
    tagged = [build_recipient("bob+tag@partner.example")]
    archive.fill(to_bob(1, recipients=tagged, header_fields=headers(Subject="x")))
    said = keeper.run(f"erase {BOB} --apply")
    assert "1 mailbox with an extension" in said
    assert len(archive.search("to:bob+tag@partner.example")) == 1
    keeper.run(f"erase {BOB} --apply --with-extensions")
    assert archive.search("to:bob+tag@partner.example") == []
    assert "bob+tag" not in dump(archive)


def test_mentions_that_no_index_knows_are_found_everywhere(archive: Archive) -> None:
    """Reply-To, Received and the like: by reading every record."""
    keeper = Keeper(archive)
    hidden = build_record(1, salt="11" * 16, header_fields=headers(Reply_To=f"Bob <{BOB}>"))
    hidden["recipients"] = [build_recipient(CAROL)]
    archive.fill(hidden)
    keeper.run(f"erase {BOB} --apply")
    assert "bob@partner" in dump(archive)
    keeper.run(f"erase {BOB} --apply --everywhere")
    assert "bob@partner" not in dump(archive)
    assert keeper.findings() == []


def test_whoever_is_interrupted_goes_on_with_the_same_command(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every batch, before the copies, before the dictionary."""
    keeper.archive.fill(*(to_bob(number) for number in range(5)))
    whole = erase.Erasure._batch_of
    calls = iter(range(10))

    def breaks(self: erase.Erasure, record_ids: list[str]) -> None:
        whole(self, record_ids)
        if next(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(erase.Erasure, "_batch_of", breaks)
    defaults = {**(erase.Erasure.__init__.__kwdefaults__ or {}), "batch": 2}
    monkeypatch.setattr(erase.Erasure.__init__, "__kwdefaults__", defaults)
    with pytest.raises((KeyboardInterrupt, AssertionError)):
        keeper.run(f"erase {BOB} --apply")
    assert keeper.findings() == []
    keeper.run(f"erase {BOB} --apply")
    assert not any(name in dump(keeper.archive) for name in NAMES)
    assert keeper.findings() == []


def test_a_record_that_arrives_meanwhile_is_changed_as_well(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the dictionary is emptied there is a last look, while nothing can be loaded.

    Its copy has come to the loaded segments meanwhile, and is cleaned as well.
    """
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    whole = erase.copies.rewrite

    def loads(*given: Any) -> Any:
        found = whole(*given)
        if len(archive.search()) == 1:
            archive.fill(to_bob(2))
        return found

    monkeypatch.setattr(erase.copies, "rewrite", loads)
    keeper.run(f"erase {BOB} --apply")
    assert archive.search(f"participant:{BOB}") == []
    assert len(archive.search(f"participant:{CAROL}")) == 2
    assert "bob@partner" not in dump(archive)
    for path in (archive.spool_directory / "loaded").iterdir():
        assert b"bob@partner" not in path.read_bytes().lower()


def test_a_database_filled_again_from_the_spool_does_not_bring_the_person_back(
    archive: Archive,
) -> None:
    """Copies in loaded/ and set-aside/ were cleaned; other lines are as they were."""
    keeper = Keeper(archive)
    other = to_carol()
    archive.put_lines(
        *(encoded(one) for one in (to_bob(1), other)), b'{"x": "bob@partner.example"}\n'
    )
    archive.load()
    keeper.run(f"erase {BOB} --apply")
    archive.begin_anew()
    archive.load()
    assert len(archive.search()) == 2
    assert archive.show(other["record_id"]) == other
    assert archive.search(f"participant:{BOB}") == []
    assert not any(name in dump(archive) for name in NAMES[:3])


def encoded(content: Record) -> bytes:
    return record.encode(content)


def test_a_certificate_that_was_changed_or_that_nobody_gave_is_known(archive: Archive) -> None:
    """Its SHA-256 stands in the audit."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    keeper.run(f"erase {BOB} --apply --certificate c.json")
    content = json.loads(Path("c.json").read_text())
    assert BOB not in Path("c.json").read_text()
    assert BOB not in Path("c.txt").read_text()
    content["changed"]["records"] = 7
    Path("changed.json").write_text(json.dumps(content))
    assert "was changed" in keeper.run("erase --check changed.json", status=1)
    content["audit"]["number"] = 99
    Path("other.json").write_text(json.dumps(content))
    assert "no erasure of number 99" in keeper.run("erase --check other.json", status=1)
    Path("none.json").write_text("[]")
    with pytest.raises(DataError, match="no certificate"):
        keeper.run("erase --check none.json")


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        pytest.param("erase", UsageError, "no ADDRESS", id="nobody"),
        pytest.param("erase bob", DataError, "no domain", id="no-domain"),
        pytest.param("erase a@b@", DataError, "address", id="no-address"),
        pytest.param("erase '*@partner.example' --apply", DataError, "wildcard", id="domain"),
        pytest.param("erase bob+*@partner.example", DataError, "--with-ext", id="extensions"),
        pytest.param(f"erase {BOB} --check x.json", UsageError, "nothing else", id="both"),
        pytest.param(f"erase {BOB} --certificate x.txt", DataError, r"\.json", id="suffix"),
        pytest.param("erase --check nowhere.json", DataError, "cannot be read", id="no-file"),
    ],
)
def test_what_makes_no_sense_is_refused(
    archive: Archive, line: str, error: type[Exception], words: str
) -> None:
    """In one sentence, before anything is looked at."""
    archive.fill(to_bob(1))
    with pytest.raises(error, match=words):
        Keeper(archive).run(line)
    assert len(archive.search(f"to:{BOB}")) == 1


def test_nobody_is_not_erased(keeper: Keeper) -> None:
    """Neither is there a certificate, however often it is asked for; quotes make a sign a name."""
    keeper.archive.fill(to_bob(1))
    for line in ("erase nobody@partner.example", "erase '\"b*b\"@partner.example' --everywhere"):
        for option in ("", "--apply", "--apply"):
            with pytest.raises(NotFound, match="there is no certificate"):
                keeper.run(f"{line} {option}")
    assert not list(Path.cwd().glob("erasure-*"))
    assert [action for action, _ in keeper.events()].count("answered") == 6


def test_a_certificate_that_found_nothing_says_so(archive: Archive) -> None:
    """There is one only of somebody whom the audit knows as erased."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    keeper.run(f"erase {BOB} --apply --certificate first.json")
    said = keeper.run(f"erase {BOB} --apply --certificate second.json")
    assert "erased before, by event 1 of the audit" in said
    assert "NOTHING FOUND" in Path("second.txt").read_text()
    assert "NOTHING FOUND" not in Path("first.txt").read_text()


def test_a_second_certificate_can_be_checked_like_the_first(archive: Archive) -> None:
    """The dictionary has forgotten the person, and the certificate knows whom to look for."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    for name in ("first", "second"):
        keeper.run(f"erase {BOB} --apply --certificate {name}.json")
    assert keeper.run("erase --check second.json") == "all of it is still so\n"
    archive.fill(to_bob(2))
    for name in ("first", "second"):
        said = keeper.run(f"erase --check {name}.json", status=1)
        assert "in the dictionary again, with 1 record" in said


def test_a_certificate_that_has_no_mailbox_proves_nothing(archive: Archive) -> None:
    """Second certificates were made so once; they are read, and said to be of no use."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    keeper.run(f"erase {BOB} --apply --certificate c.json")
    content = json.loads(Path("c.json").read_text())
    content["person"]["mailboxes_sha256_16"] = []
    Path("old.json").write_text(json.dumps(content))
    assert "has no mailbox" in keeper.run("erase --check old.json", status=1)


def test_what_waits_in_the_spool_makes_an_erasure_that_is_not_complete(keeper: Keeper) -> None:
    """The certificate says so in both forms, and so does the status; once more and it is whole."""
    keeper.archive.fill(to_bob(1))
    open_segment = keeper.archive.put(to_bob(2), from_bob(3), to_carol(), is_closed=False)
    with pytest.raises(Unfinished, match="2 records that wait in the spool") as refused:
        keeper.run(f"erase {BOB} --apply --certificate first.json")
    assert refused.value.exit_code == 75
    made = json.loads(Path("first.json").read_text())
    assert made["left"] == {"records_waiting_in_spool": 2}
    assert "NOT COMPLETE    2 records that wait" in Path("first.txt").read_text()
    assert "2 records that wait" in keeper.run("erase --check first.json", status=1)
    open_segment.close()
    keeper.archive.load()
    keeper.run(f"erase {BOB} --apply --certificate second.json")
    assert json.loads(Path("second.json").read_text())["left"] == {"records_waiting_in_spool": 0}
    assert "NOT COMPLETE" not in Path("second.txt").read_text()
    for name in ("first", "second"):
        assert keeper.run(f"erase --check {name}.json") == "all of it is still so\n"


def test_a_copy_of_a_loaded_record_is_found_by_the_check(archive: Archive) -> None:
    """It can be loaded again as long as it is kept, whatever the dictionary says."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    [copy] = (archive.spool_directory / "loaded").iterdir()
    before = copy.read_bytes()
    keeper.run(f"erase {BOB} --apply --certificate c.json")
    copy.write_bytes(before)
    said = keeper.run("erase --check c.json", status=1)
    assert "1 line in loaded segments names the person" in said
    copy.unlink()
    aside = archive.spool_directory / "set-aside" / "x-0.json"
    aside.parent.mkdir(exist_ok=True)
    aside.write_text('{"line": "to <Bob@partner.example>"}')
    assert "1 line that was set aside" in keeper.run("erase --check c.json", status=1)


def test_a_check_says_of_what_it_could_not_look_at(archive: Archive) -> None:
    """Officers may not look into the spool; what had been left in it is not taken for gone."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    keeper.run(f"erase {BOB} --apply --certificate whole.json")
    archive.put(to_bob(2))
    with pytest.raises(Unfinished):
        keeper.run(f"erase {BOB} --apply --certificate part.json")
    keeper.context.spool_directory = archive.spool_directory / "nowhere"
    said = keeper.run("erase --check whole.json")
    assert "the spool was not looked through" in said
    assert "as far as it was looked" in said
    assert "when it was made, 1 record" in keeper.run("erase --check part.json", status=1)


def test_a_certificate_of_an_earlier_version_is_read_and_checked(archive: Archive) -> None:
    """It says nothing of what was left in the spool."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    keeper.run(f"erase {BOB} --apply --certificate c.json")
    content = json.loads(Path("c.json").read_text())
    del content["left"]
    content["sha256"] = certificate.digest(content)
    Path("old.json").write_text(json.dumps(content))
    assert "NOT COMPLETE" not in certificate.text(content)
    said = keeper.run("erase --check old.json", status=1).splitlines()
    assert said == ["the audit has another certificate for event 1"]


def test_the_audit_says_who_erased_when_and_why_but_not_whom(archive: Archive) -> None:
    """It is kept for ever, so it has the digest of the mailbox only."""
    keeper = Keeper(archive)
    archive.fill(to_bob(1))
    keeper.run(f"erase {BOB} --apply --reason 'request 12'")
    said = json.dumps(keeper.events())
    assert "bob" not in said
    assert "certificate_sha256" in said
    audit = archive.file.with_name("archive-audit.db")
    assert subprocess.run(["grep", "-q", BOB, str(audit)], check=False).returncode == 1
