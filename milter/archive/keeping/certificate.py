"""The certificate of an erasure: what was done, when, by whom, and how to see that it still holds.

Promises: it names nobody: mailboxes stand in it as SHA-256 with a hint for whoever knows them.  Its
own SHA-256 stands in the audit.  `findings` says what is not, or no longer, so: a certificate that
was changed, that the audit does not know, or a mailbox that is in the dictionary again, because the
person wrote again or a backup was played back.  `about_spool` says it of the spool.  Certificates
of earlier versions, which say nothing of what was left, are read and checked as well.

Raises: DataError for a file that is no certificate.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import BigInteger

from carbonseal.milter.archive import audit, postings, rows, schema
from carbonseal.milter.archive.audit import Event
from carbonseal.milter.archive.keeping.copies import Copies
from carbonseal.milter.archive.keeping.erase import Done
from carbonseal.milter.archive.keeping.person import Certified, Person
from carbonseal.policies import quantity
from carbonseal.policies.errors import DataError

KIND = "carbonseal certificate of erasure"
VERSION = 1
_MOST_BYTES = 64 << 20  # a mailbox takes some 40 octets
LEFT = (
    "the audit, and the searches that legal holds were set with, say what was asked and done",
    "names, telephone numbers and host names that only people understand, and the IP addresses of "
    "clients, are not recognised",
    "copies of the mail itself, backups, and the spools of other relays are not in this archive",
)
_NOTHING = "NOTHING FOUND   nothing named the person any more; an earlier erasure is in the audit"
_ANY = schema.ANY_ROLE | schema.ANY_ROLE << schema.INDIRECT

Certificate = dict[str, Any]


def made(
    done: Done, who: Person, event: Event, *, everywhere: bool, archive: str, at: str
) -> Certificate:
    """The certificate of an erasure that is done; `at`: when that was."""
    copies = done.copies
    content: Certificate = {
        "kind": KIND,
        "v": VERSION,
        "archive": archive,
        "audit": {"number": event.number, "digest": event.digest.hex()},
        "asked_at": rows.moment_text(event.at),
        "done_at": at,
        "by": event.actor,
        "reason": event.reason,
        "person": {
            "hint": _hint(who.mailbox),
            "with_extensions": who.with_extensions,
            "mailboxes_sha256_16": done.hashes,
        },
        "read_every_record": everywhere,
        "changed": {
            "records": done.records,
            "record_ids_sha256": done.record_digest,
            "parts": dict(sorted(done.parts.items())),
            "dictionary_rows": done.addresses,
            "lines_of_the_mail_log_without_a_record": done.waiting_lines,
            "sentences_about_lines_set_aside": done.refused_lines,
            "segments_in_spool": copies.segments,
            "lines_in_spool": copies.lines,
            "lines_set_aside": copies.set_aside,
        },
        "left": {"records_waiting_in_spool": copies.waiting},
        "not_covered": list(LEFT),
    }
    return content | {"sha256": digest(content)}


def _hint(mailbox: str) -> str:
    local, _, domain = mailbox.rpartition("@")
    return f"{local[:1]}...@{domain}"


def digest(content: Certificate) -> str:
    """SHA-256 over the certificate without its own, in canonical JSON."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode("ascii")).hexdigest()


def left(content: Certificate) -> str:
    """What is left of the person for another erasure, in one sentence; empty: nothing."""
    waiting = content.get("left", {}).get("records_waiting_in_spool", 0)
    return _waiting(waiting) if waiting else ""


def _waiting(count: int) -> str:
    what = quantity.of(
        count,
        "record that waits in the spool names the person: let the writer load it",
        "records that wait in the spool name the person: let the writer load them",
    )
    return f"{what}, and erase again"


def about_spool(found: Copies) -> Iterator[str]:
    """What is not so, as the spool has it."""
    if found.waiting:
        yield _waiting(found.waiting)
    for count, one, many in (
        (found.lines, "line in loaded segments names", "lines in loaded segments name"),
        (found.set_aside, "line that was set aside names", "lines that were set aside name"),
    ):
        if count:
            yield f"{quantity.of(count, one, many)} the person: erase again"


def person(content: Certificate) -> Certified | None:
    """Whom it is about, as far as it says; None: it says nothing that could be looked for."""
    try:
        said = content["person"]
        hint, _, domain = said["hint"].rpartition("@")
        hashes = frozenset(bytes.fromhex(one) for one in said["mailboxes_sha256_16"])
        is_wide = said["with_extensions"] is True
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if not (hashes and domain):
        return None
    return Certified(hashes, domain, hint.removesuffix("..."), is_wide)


def _counts(changed: dict[str, Any]) -> Iterator[int]:
    return (value for value in changed.values() if isinstance(value, int))


def text(content: Certificate) -> str:
    """The certificate for people."""
    changed, person = content["changed"], content["person"]
    parts = ", ".join(f"{name} {count}" for name, count in changed["parts"].items()) or "none"
    lines = [
        "CERTIFICATE OF ERASURE",
        "",
        f"Archive         {content['archive']}",
        f"Person          {person['hint']}"
        + (", with every extension (name+...@)" if person["with_extensions"] else ""),
        f"Done            {content['done_at']} by {content['by']}",
        f"Reason          {content['reason'] or 'none given'}",
        f"Audit           event {content['audit']['number']}",
        *([f"NOT COMPLETE    {remainder}"] if (remainder := left(content)) else []),
        *([] if remainder or any(_counts(changed)) else [_NOTHING]),
        "",
        f"Records changed           {changed['records']}",
        f"  parts of them           {parts}",
        f"Dictionary rows emptied   {changed['dictionary_rows']}",
        f"Spool segments rewritten  {changed['segments_in_spool']} "
        f"({quantity.of(changed['lines_in_spool'], 'line')})",
        f"Lines set aside removed   {changed['lines_set_aside']}",
        "Records that no index leads to were "
        + ("read, too." if content["read_every_record"] else "not read (see --everywhere)."),
        "",
        "The other parties' mail is found as before; the evidence of what is left still holds.",
        "Not covered:",
        *(f"  - {one}" for one in content["not_covered"]),
        "",
        "Mailboxes (first 16 octets of SHA-256):",
        *(f"  {one}" for one in person["mailboxes_sha256_16"]),
        "Check with: carbonseal archive erase --check FILE.json",
        f"SHA-256 {content['sha256']}",
    ]
    return "\n".join(lines) + "\n"


def write(content: Certificate, path: Path) -> None:
    """Write it as JSON, and for people beside that.  Raises: DataError where it cannot be."""
    for target, what in (
        (path, json.dumps(content, indent=2) + "\n"),
        (path.with_suffix(".txt"), text(content)),
    ):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(target, flags, 0o640), "w", encoding="utf-8") as stream:
                stream.write(what)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as fault:
            raise DataError(
                f"{target}: cannot write the certificate ({fault.strerror}); name another file"
            ) from None


def check_place(path: Path) -> None:
    """Refuse a place where `write` would fail, before anything is changed.  Raises: DataError."""
    if path.suffix != ".json":
        raise DataError(f"{path}: name a file that ends in .json; the text goes beside it")
    for target in (path, path.with_suffix(".txt")):
        try:
            os.lstat(target)
        except FileNotFoundError:
            continue
        except OSError as fault:
            raise DataError(
                f"{target}: cannot be a certificate ({fault.strerror}); name another file"
            ) from None
        raise DataError(f"{target}: it exists already; name another file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(
            f"{path.parent}: not there, or not writable for this user; name another file"
        )


def read(path: Path) -> Certificate:
    """A certificate.  Raises: DataError."""
    try:
        with path.open("rb") as stream:
            content = json.loads(stream.read(_MOST_BYTES))  # more than that is cut, and no JSON
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror}); name a certificate") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DataError(f"{path}: it is no certificate of erasure; name the .json file")
    if content.get("v") != VERSION:
        raise DataError(
            f"{path}: is no certificate of version {VERSION}; upgrade carbonseal, or name another"
        )
    return content


def findings(content: Certificate, engine: Engine, audit_engine: Engine) -> Iterator[str]:
    """What is not so; nothing when all is well."""
    if digest(content) != content.get("sha256"):
        yield "the certificate was changed: its SHA-256 is another"
    try:
        number = int(content["audit"]["number"])
        hashes = [bytes.fromhex(one) for one in content["person"]["mailboxes_sha256_16"]]
    except (KeyError, OverflowError, TypeError, ValueError):
        yield "the certificate was changed: what it should say is not there"
        return
    yield from _about_audit(content, number, audit_engine)
    if not hashes:  # those of persons erased before were made so once
        yield "the certificate has no mailbox, so nothing can be looked for: erase again"
    with engine.connect() as connection:
        for one in hashes:
            yield from _about_mailbox(one, connection)


def _about_audit(content: Certificate, number: int, audit_engine: Engine) -> Iterator[str]:
    for event in audit.events(audit_engine, action=audit.ANSWERED):
        if event.facts.get("of") == number:
            if event.facts.get("certificate_sha256") != content.get("sha256"):
                yield f"the audit has another certificate for event {number}"
            return
    yield f"the audit has no erasure of number {number}"


def _about_mailbox(digest16: bytes, connection: Connection) -> Iterator[str]:
    columns = schema.address.c
    query = select(columns.address_id).where(columns.address_hash == digest16)
    address_id = connection.execute(query).scalar_one_or_none()
    if address_id is None:
        return
    first, count = _records(address_id, connection)
    since = "" if first is None else f", the first of them {first}"
    yield (
        f"the mailbox {digest16.hex()} is in the dictionary again, with "
        f"{quantity.of(count, 'record')}{since}: new mail, or a backup or spool that was loaded; "
        "erase it again"
    )


def _records(address_id: int, connection: Connection) -> tuple[str | None, int]:
    if connection.dialect.name == "postgresql":
        table = schema.message_terms
        elements = postings.with_address(address_id, _ANY)
        wanted = postgresql.array(elements, type_=BigInteger())
        held = table.c.terms.overlap(wanted)
        record_id = table.c.record_id
    else:
        record_id = schema.participant.c.record_id
        held = schema.participant.c.address_id == address_id
    count: int = connection.execute(select(func.count()).where(held)).scalar_one()
    first = connection.execute(select(record_id).where(held).order_by(record_id).limit(1)).scalar()
    return first, count
