"""An archive in a directory of its own, and records to put into it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from carbonseal.milter.archive import database, open_segment, record, spool, writer
from carbonseal.milter.archive.search import fields, language, query
from carbonseal.milter.archive.search.wanted import Is, Search, both
from carbonseal.milter.archive.writing import known_archive

START = 1_795_237_200.0  # 2026-11-21T05:00:00Z

_OF_SEARCH = ("since", "until", "before", "limit")

Record = dict[str, Any]


def build_record(number: int = 0, *, seconds: float | None = None, **changes: Any) -> Record:
    """A record like those of `seal`, `number` seconds after START; changes replace whole keys."""
    now = START + (number if seconds is None else seconds)
    content: Record = {
        "v": 2,
        "salt": "5a" * 16,
        "retention": None,
        "bcc_maps": None,
        "record_id": record.new_record_id(int(now * 1000)),
        "recorded_at": record.timestamp(now),
        "relay": "mx1.example.com",
        "config_version": "0123456789ab",
        "queue_id": f"4XYZ{number}",
        "listener": "submission",
        "client": {
            "address": "192.0.2.7",
            "port": 40000,
            "name": "desk.example.com",
            "helo": "desk.example.com",
        },
        "login": "alice",
        "login_method": "PLAIN",
        "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "bits": "256"},
        "origin": {"kind": "login", "about": "alice"},
        "reverse_path": build_reverse_path("alice@example.com"),
        "recipients": [build_recipient("bob@partner.example")],
        "crossing": "outbound",
        "header_fields": [
            ["From", " Alice <alice@example.com>"],
            ["To", " Bob <bob@partner.example>"],
            ["Subject", f" Quarterly report {number}"],
            ["Message-ID", f" <{number}.report@example.com>"],
            ["Date", " Sat, 21 Nov 2026 05:00:00 +0000"],
        ],
        "header_count": 5,
        "header_size": 200,
        "body_size": 1000,
        "size": 1202,
        "body_hash": {
            "canonicalization": "relaxed",
            "sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        },
        "signatures": [build_signature()],
        "archive_recipients": ["archive@archive.example.net"],
        "archive_addressed": False,
        "disposition": "accept",
        "reasons": ["origin-login(alice)", "recipient-outside(bob@partner.example)"],
    }
    return content | changes


def build_reverse_path(address: str, **changes: Any) -> Record:
    why = f"reverse-path-inside({address})" if address else "null-reverse-path-inside"
    path = {
        "raw": f"<{address}>",
        "address": address,
        "resolved": address.lower(),
        "esmtp": ["SIZE=1202"],
        "place": "inside",
        "why": why,
    }
    return path | changes


def build_recipient(address: str, **changes: Any) -> Record:
    path = {
        "raw": f"<{address}>",
        "address": address,
        "resolved": address.lower(),
        "mailer": "smtp",
        "host": address.rpartition("@")[2],
        "esmtp": [],
        "place": "outside",
        "why": f"recipient-outside({address})",
    }
    return path | changes


def build_signature(**changes: Any) -> Record:
    signature = {
        "sdid": "example.com",
        "selector": "s2026",
        "auid": "@example.com",
        "algorithm": "rsa-sha256",
        "canonicalization": "relaxed/relaxed",
        "fields": "from:from:to:to:subject:subject",
        "signed_at": int(START),
        "expires_at": None,
    }
    return signature | changes


def headers(**fields: str) -> list[list[str]]:
    """Header fields by name with underscores for hyphens."""
    return [[name.replace("_", "-"), f" {value}"] for name, value in fields.items()]


def build_search(text: str = "", **wanted: Any) -> Search:
    """What a query asks for, and each field by name with underscores for hyphens."""
    rest = {name: wanted.pop(name) for name in _OF_SEARCH if name in wanted}
    conditions = [
        Is(name := fields.name_of(key.replace("_", "-")), fields.canonical(name, value))
        for key, value in wanted.items()
    ]
    where = both(language.condition(text, now=datetime.fromtimestamp(START, UTC)), *conditions)
    return language.period_apart(Search(where=where, **rest))


class Archive:
    """A spool and an archive behind it: in an SQLite file unless a URL says where."""

    def __init__(self, directory: Path, database_url: str | None = None) -> None:
        self.spool_directory = directory / "spool"
        self.spool_directory.mkdir()
        self.file = directory / "archive.db"  # of an SQLite archive
        self.database_url = database_url or f"sqlite:///{self.file}"
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._engine: Engine | None = None
        self._number = itertools.count()

    def put(self, *records: Record, is_closed: bool = True) -> spool.Spool:
        """Write records to a segment of their own."""
        segment = spool.Spool(self.spool_directory)
        for content in records:
            segment.put(record.encode(content))
        if is_closed:
            segment.close()
        return segment

    def put_lines(self, *lines: bytes) -> Path:
        """Write a closed segment with these very lines."""
        name = f"{record.new_record_id(int(START * 1000))}-{next(self._number)}"
        path = self.spool_directory / (name + open_segment.CLOSED_SUFFIX)
        path.write_bytes(b"".join(lines))
        return path

    def load(self) -> int:
        return writer.run_once(self.spool_directory, self.database_url, report=self.report)

    def report(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    def fill(self, *records: Record) -> None:
        self.put(*records)
        assert self.load() == len(records)

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = database.reading_engine(self.database_url)
        return self._engine

    def search(self, text: str = "", **wanted: Any) -> list[str]:
        """Record ids found."""
        return [one.record_id for one in query.search(self.engine, build_search(text, **wanted))]

    def show(self, name: str) -> Record:
        [found] = query.show(self.engine, name)
        return found

    def rows(self, table: str) -> int:
        with self.engine.connect() as connection:
            count: int = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
        return count

    def lose(self) -> None:
        """Remove the SQLite file and all that belongs to it."""
        self.close()
        for path in self.file.parent.glob(f"{self.file.name}*"):
            path.unlink()

    def begin_anew(self) -> None:
        """Remove it, and say that the writer is to make another one."""
        self.lose()
        (self.spool_directory / known_archive.MARK).unlink()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
