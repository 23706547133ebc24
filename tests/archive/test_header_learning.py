"""Dictionaries for header sections: exact, found by every reader, and with nobody in them."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.archive import Archive, build_record

from carbonseal.milter.archive import (
    database,
    header_dictionaries,
    header_learning,
    header_store,
    schema,
)

PROGRAMS = ("Content Filter of mx1", "Other Filter of mx2")


def section(number: int) -> list[tuple[str, str]]:
    """Mail of many people, with what a filter says of all of it."""
    rng = random.Random(number)
    person = f"person{number % 90}"
    host = f"mail.firm{number % 7}.example"
    return [
        ("Received", f" from {host} ({host} [192.0.2.{number % 9}])\n\tby mx1.example.com id 4X"),
        ("X-Filter-Says", f" harmless, asked {rng.choice(PROGRAMS)} with rules=RULES_OF_TODAY"),
        ("X-Case", " geheimnis"),
        ("From", f' "Anna{number % 90} Kowalska" <{person}@firm{number % 7}.example>'),
        ("To", " Chef Oberhuber <chef.oberhuber@example.com>"),
        ("X-Forwarded-By", " oberhuber on behalf of <chef.oberhuber@example.com>"),
        ("Subject", " Oberhuber, umsatz"),
        ("Message-ID", f" <{rng.getrandbits(64):x}@{host}>"),
    ]


SECTIONS = [section(number) for number in range(600)]


@pytest.fixture(scope="module")
def dictionary() -> bytes:
    made = header_learning.made(SECTIONS)
    assert made is not None
    return made


@given(st.lists(st.text(max_size=9) | st.sampled_from(":: : 1.2.3.4 2001:db8::1 a:b".split())))
def test_words_are_the_same_however_they_are_looked_for(texts: list[str]) -> None:
    """What a text is cut into does not hang on which way is the quicker one."""
    text = "".join(texts)
    assert header_learning._words(text).findall(text) == header_learning._WORD.findall(text)


def test_a_dictionary_holds_what_programs_write(dictionary: bytes) -> None:
    """What the filter says of all mail is in it, and makes header sections smaller."""
    assert b"RULES_OF_TODAY" in dictionary
    packer = header_store.Packer(dictionary)
    ours = sum(len(packer.compress(one)) for one in SECTIONS)
    assert ours < 0.8 * sum(len(header_store.compress(one)) for one in SECTIONS)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"oberhuber", id="name-in-mail-of-all-authors"),
        pytest.param(b"kowalska", id="part-of-all-display-names"),
        pytest.param(b"person", id="local-parts"),
        pytest.param(b"umsatz", id="subject"),
    ],
)
def test_a_dictionary_holds_nobody(dictionary: bytes, text: bytes) -> None:
    """Names, local parts and subjects stay out, however many people's mail they stand in."""
    assert text not in dictionary.lower()


def test_what_few_authors_have_stays_out() -> None:
    """One author more makes a word common; a word of one who writes much never is."""
    few = [[("From", f"a{n % 3}@x.example"), ("X-A", f"rare common{n % 2}")] for n in range(50)]
    many = [[("From", f"b{n}@x.example"), ("X-A", "usual")] for n in range(5)]
    left = header_learning.impersonal([*few, *many], authors=5)
    words = {value for fields in left for name, value in fields if name == "X-A"}
    assert words == {" ", "usual"}


def test_an_address_of_the_network_is_one_word() -> None:
    """Its numbers are common, and it may be somebody's."""
    fields = [
        [("From", f"a{n}@x.example"), ("X-IP", f"[192.0.2.{n % 9}] 192 0 2")] for n in range(90)
    ]
    left = header_learning.impersonal(fields, authors=20)
    assert {value for one in left for name, value in one if name == "X-IP"} == {"[] 192 0 2"}


TEXTS = st.text(max_size=40) | st.binary(max_size=40).map(
    lambda octets: octets.decode("utf-8", "surrogateescape")
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=8))
def test_stored_is_exact(dictionary: bytes, fields: list[tuple[str, str]]) -> None:
    """Whatever octets a header section holds come back; parts of it as well."""
    stored = header_store.Packer(dictionary).compress(fields)
    assert header_store.expand(stored) == fields
    kept = header_learning.impersonal([fields])
    assert len(kept[0]) == len(fields)


def test_a_damaged_section_is_said_to_be(dictionary: bytes) -> None:
    """Neither a lost dictionary nor damage passes for a header section."""
    stored = header_store.Packer(dictionary).compress(SECTIONS[0])
    with pytest.raises(ValueError, match="needs the dictionary 00000000"):
        header_store.expand(stored[:1] + bytes(4) + stored[5:])
    for damaged in (stored[:20], stored[:5], b"\x07" + stored[1:]):
        with pytest.raises(ValueError, match="stored header section"):
            header_store.expand(damaged)


def test_a_writer_learns_and_every_reader_follows(
    any_archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once enough mail was seen, header sections are stored with the archive's own dictionary.

    Whoever has the archive open, and whoever opens it later, reads both kinds.
    """
    monkeypatch.setattr(header_learning, "SAMPLE", 280)
    monkeypatch.setattr(header_learning, "HELD_OUT", 20)
    monkeypatch.setattr(header_store, "_dictionaries", {})
    monkeypatch.setattr(header_store, "_readers", threading.local())
    records = [
        build_record(number, header_fields=[list(one) for one in section(number)])
        for number in range(330)
    ]
    any_archive.fill(*records[:310])
    with any_archive.engine.connect() as connection:
        assert connection.execute(select(schema.header_dictionary.c.dictionary_id)).one()
    any_archive.fill(*records[310:])
    # As in another process than the writer's.
    monkeypatch.setattr(header_store, "_dictionaries", {})
    monkeypatch.setattr(header_store, "_readers", threading.local())
    with any_archive.engine.connect() as connection:
        stored = list(connection.execute(select(schema.header_section.c.fields)).scalars())
    assert {one[0] for one in stored} == {1, 2}
    for content in (records[0], records[-1]):
        assert any_archive.show(content["record_id"]) == content
    assert any_archive.search("umsatz header.x-case:geheimnis") != []


def test_writers_of_two_relays_share_a_dictionary(
    archive: Archive, dictionary: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has enough for a dictionary and finds that another was first takes the other's."""
    monkeypatch.setattr(header_learning, "SAMPLE", 8)
    monkeypatch.setattr(header_learning, "HELD_OUT", 2)
    archive.fill(build_record(1))
    engine = database.writing_engine(archive.database_url)
    late = header_learning.Learning()
    with engine.begin() as connection:
        late.recall(connection)
        now = time.time_ns() // 1000
        header_dictionaries.keep(dictionary, connection, made_at=now)
    assert {late.compress_text(header_store.text(one))[0] for one in SECTIONS[:10]} == {1}
    late.learn(engine.begin)
    assert late.compress_text(header_store.text(SECTIONS[0])) == header_store.Packer(
        dictionary
    ).compress(SECTIONS[0])
    assert archive.rows("header_dictionary") == 1
    engine.dispose()


@pytest.mark.parametrize("is_old", [False, True], ids=["library", "library-without-it"])
def test_many_are_stored_as_each_is_alone(
    dictionary: bytes, is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Octet by octet: what is read together is read faster, and is nothing else."""
    packer = header_store.Packer(dictionary)
    texts = [header_store.text(one) for one in SECTIONS[:50]]
    texts += [b"", b"[]", texts[0] * 500, b"\xed\xa0\x80"]
    alone = [packer.compress_text(one) for one in texts]
    if is_old:
        old = header_store.Packer(dictionary)
        monkeypatch.setattr(old, "_zstd", OldCompressor(packer))
        packer = old
    assert packer.compress_texts(texts) == alone
    assert packer.compress_texts([]) == []
    assert header_store.compress_texts(texts) == [header_store.compress_text(one) for one in texts]


class OldCompressor:
    """One of a build that has no way to compress many at once."""

    def __init__(self, packer: header_store.Packer) -> None:
        self.compress = packer._zstd.compress


def stored(sections: list[list[tuple[str, str]]]) -> list[bytes]:
    return [header_store.compress(one) for one in sections]


def test_a_dictionary_is_worth_it_for_mail_that_it_was_not_made_of(dictionary: bytes) -> None:
    """Mail that comes next has to get a good deal smaller, not that which made the dictionary."""
    assert header_learning.is_worth(dictionary, stored([section(n) for n in range(600, 650)]))
    other = [[("Subject", f" {random.Random(n).randbytes(300).hex()}")] for n in range(50)]
    assert not header_learning.is_worth(dictionary, stored(other))


def test_what_saves_too_little_is_not_kept(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive goes on with what it has."""
    monkeypatch.setattr(header_learning, "SAMPLE", 300)
    monkeypatch.setattr(header_learning, "HELD_OUT", 20)
    monkeypatch.setattr(header_learning, "_WORTH", 0.1)
    archive.fill(
        *(
            build_record(number, header_fields=[list(one) for one in section(number)])
            for number in range(330)
        )
    )
    assert archive.rows("header_dictionary") == 0
    with archive.engine.connect() as connection:
        found = connection.execute(select(schema.header_section.c.fields)).scalars()
        assert {one[0] for one in found} == {1}


def test_only_open_archives_are_asked(archive: Archive, dictionary: bytes) -> None:
    """An unknown dictionary does not open what was closed again, however many archives."""
    archive.fill(build_record(1))
    stored = header_store.Packer(dictionary).compress(SECTIONS[0])
    unknown = stored[:1] + bytes(4) + stored[5:]
    with archive.engine.connect():
        archive.engine.dispose()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ValueError, match="needs the dictionary"):
            header_store.expand(unknown)
    assert len(os.listdir("/proc/self/fd")) == before
