"""Whatever a message brings comes back byte for byte, on each engine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from support import mariadb, postgresql
from support.archive import (
    Archive,
    Record,
    build_recipient,
    build_record,
    build_reverse_path,
    build_signature,
    headers,
)

from carbonseal.milter.archive import record, retrieve, rows

NUL = "before\0after"
NO_UTF_8 = b"caf\xe9 \xff\xfe".decode("utf-8", "surrogateescape")
HEBREW = "\u202e\u05e9\u05dc\u05d5\u05dd\u202c"
ASTRAL = "\U0001f4e7 \U0001d11e\U0010ffff"
# A lone surrogate that never was an octet: only an encoded word or a defect can bring it.
SURROGATE = "\ud83d"

VERSION_1 = {
    key: value
    for key, value in build_record(0, v=1).items()
    if key not in {"salt", "retention", "bcc_maps", "record_id"}
}
EMPTY_PATH = {"raw": "", "resolved": "", "mailer": "", "host": "", "why": ""}
EMPTY = {
    "relay": "",
    "config_version": "",
    "queue_id": "",
    "listener": "",
    "client": {"address": "", "port": 0, "name": "", "helo": ""},
    "login": "",
    "login_method": "",
    "tls": {},
    "origin": {"kind": "", "about": ""},
    "reverse_path": build_reverse_path("", raw="", resolved="", esmtp=[], why=""),
    "recipients": [build_recipient("", **EMPTY_PATH)],
    "header_fields": [["", ""], ["Subject", ""], ["From", ""], ["Message-ID", ""]],
    "header_count": 0,
    "header_size": 0,
    "body_size": 0,
    "size": 0,
    "body_hash": None,
    "signatures": [],
    "archive_recipients": [""],
    "reasons": ["", "()"],
}
NOTHING = {
    "recipients": [],
    "header_fields": [],
    "signatures": [],
    "archive_recipients": [],
    "reasons": [],
    "login": None,
    "tls": None,
}


def odd_everywhere(text: str) -> dict[str, Any]:
    """A record with `text` wherever text can stand."""
    path = {"raw": text, "esmtp": [text, f"ORCPT={text}"], "why": f"odd({text})"}
    return {
        "relay": text,
        "queue_id": text,
        "listener": text,
        "client": {"address": text, "port": 1, "name": text, "helo": text},
        "login": text,
        "tls": {"version": text},
        "origin": {"kind": text, "about": text},
        "reverse_path": build_reverse_path(f"{text}@{text}", **path),
        "recipients": [
            build_recipient(f"{text}@x.example", **path, mailer=text, host=text),
            build_recipient(text, resolved=None, **path),
        ],
        "header_fields": [
            ["Subject", text],
            ["From", f"{text} <{text}@x.example>"],
            ["To", f'"{text}" <a@{text}>'],
            ["Message-ID", f"<{text}>"],
            ["List-Id", f"{text} <{text}>"],
            [text, text],
        ],
        "signatures": [build_signature(auid=f"{text}@x", selector=text, fields=text)],
        "archive_recipients": [text, f"{text}@a.example"],
        "reasons": [text, f"odd({text})"],
        "bcc_maps": {text: [text, None, 1]},
        "retention": {"class": text, "keep": 1, "headers": None, "subject": 0},
    }


ODD: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "nul": odd_everywhere(NUL),
    "no-utf-8": odd_everywhere(NO_UTF_8),
    "right-to-left": odd_everywhere(HEBREW),
    "astral": odd_everywhere(ASTRAL),
    "surrogate": odd_everywhere(SURROGATE),
    "quotes": odd_everywhere("'; DROP TABLE message; -- \"\\%s %(x)s :x ?"),
    "line-ends": odd_everywhere("a\r\nb\n\tc\u2028d"),
    "nul-in-an-encoded-word": {"header_fields": headers(Subject="=?utf-8?q?before=00after?=")},
    "surrogate-in-an-encoded-word": {
        "header_fields": headers(Subject="=?utf-16?b?PdgA?= =?utf-8?q?=ED=A0=BD?=")
    },
    "long-message-id": {"header_fields": headers(Message_ID=f"<{'x' * 12_000}@example.com>")},
    "long-everything": odd_everywhere("\u00e9" * 70_000),
    "many-recipients": {
        "recipients": [build_recipient(f"r{n}@d{n % 700}.example") for n in range(5000)],
        "reasons": [f"recipient-outside(r{n}@d{n % 700}.example)" for n in range(5000)],
    },
    "many-fields": {"header_fields": [[f"X-{n}", f" v{n}\n\tw{n}"] for n in range(1000)]},
    "many-words": {"header_fields": headers(Subject=" ".join(f"w{n}" for n in range(5000)))},
    "many-signatures": {
        "signatures": [
            build_signature(selector=f"s{n}", signed_at=n, expires_at=n * 2) for n in range(50)
        ]
    },
    "incompressible": {
        "header_fields": [["X", random.Random(5).randbytes(300_000).decode("latin-1")]]
    },
    "empty": EMPTY,
    "nothing": NOTHING,
    "version-1": VERSION_1,
    "version-3": {"v": 3, "of-later": {"nested": [None, 1.5, "x"]}},
    "no-salt": {"salt": None},
    "odd-salt": {"salt": "no salt at all"},
    "big-numbers": {"size": (1 << 63) - 1, "body_size": (1 << 63) - 1},
    "year-10000": {"record_id": "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"},
    "year-1970": {"record_id": "00000000000000000000000000", "recorded_at": "1970-01-01T00:00:00Z"},
}


def build(number: int, changes: dict[str, Any]) -> Record:
    content = build_record(number, **changes)
    if changes.get("v") == 1:
        for key in ("salt", "retention", "bcc_maps"):
            del content[key]
    return record.parse(record.encode(content))


CONTENTS = {name: build(number, changes) for number, (name, changes) in enumerate(ODD.items())}


@pytest.fixture(scope="module", params=("sqlite", "postgresql", "mariadb"))
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Archive]:
    """All of them in one archive, which is loaded twice."""
    directory = tmp_path_factory.mktemp("filled")
    server = {"postgresql": postgresql, "mariadb": mariadb}.get(request.param)
    name = server.shared().create_database() if server else ""
    archive = Archive(directory, server.shared().url(name) if server else None)
    archive.put(*CONTENTS.values())
    assert archive.load() == len(CONTENTS)
    archive.put(*CONTENTS.values())
    assert archive.load() == 0
    yield archive
    archive.close()
    if server:
        server.shared().drop_database(name)


@pytest.mark.parametrize("name", ODD)
def test_what_went_in_comes_out(filled: Archive, name: str) -> None:
    """The record and nothing else: not a character more, less, or different."""
    content = CONTENTS[name]
    with filled.engine.connect() as connection:
        [found] = retrieve.retrieve([content["record_id"]], connection, with_fields=True)
    assert rows.join(found) == content


def test_nothing_was_set_aside_and_each_second_line_is_known(filled: Archive) -> None:
    """What comes again is passed over, and its line written down."""
    assert filled.rows("set_aside") == 0
    assert filled.rows("message") == filled.rows("repeated") == len(CONTENTS)


def test_people_see_the_subject(filled: Archive) -> None:
    """Decoded, and fit for a screen and a database."""
    ids = [CONTENTS[name]["record_id"] for name in ("nul-in-an-encoded-word", "ordinary")]
    with filled.engine.connect() as connection:
        found = retrieve.retrieve(ids, connection, with_fields=False)
    shown = [one.header_section["subject"] for one in found]
    assert shown == ["before\u2400after", "Quarterly report 0"]
    assert "fields" not in found[0].header_section


FOUND = [
    pytest.param("nul", "subject:before subject:after", id="nul"),
    pytest.param("no-utf-8", "subject:caf", id="no-utf-8"),
    pytest.param("right-to-left", "subject:\u05e9\u05dc\u05d5\u05dd", id="right-to-left"),
    pytest.param("long-message-id", f"message-id:{'x' * 12_000}@example.com", id="message-id"),
    pytest.param("many-recipients", "rcpt:r4999@d99.example", id="last-of-5000-recipients"),
    pytest.param(
        "many-fields", 'header.x-999:"v999 w999" after:2026-11-01', id="last-of-1000-fields"
    ),
]


@pytest.mark.parametrize(("name", "text"), FOUND)
def test_what_went_in_is_found(filled: Archive, name: str, text: str) -> None:
    """By what stands in it last; nothing else is, but what has the same words."""
    alike = ["nul-in-an-encoded-word"] if name == "nul" else []
    expected = {CONTENTS[one]["record_id"] for one in [name, *alike]}
    assert set(filled.search(text)) == expected
