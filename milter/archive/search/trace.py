"""The way of one message, as records tell it: over queue ids, relays and time.

Promises: every record with the message's Message-ID, oldest first, those of copies that people sent
again (RFC 5322, section 3.6.6) included.  A record that came from an earlier one says so only where
a Received field names that one's queue id; nothing is inferred from times or recipients.  Any of
its names will do to begin with: record id, queue id, Message-ID.  What the mail log told of each is
in `Step.telling`.

Raises: NotFound; DatabaseUnusable.

Does not: put what happened afterwards into words (`story` does).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select

from carbonseal.milter.archive import header_store, schema, terms
from carbonseal.milter.archive.search import query, story
from carbonseal.milter.archive.search.query import Found
from carbonseal.milter.archive.search.story import Telling
from carbonseal.milter.archive.search.wanted import Either, Is, Search
from carbonseal.policies import header_fields
from carbonseal.policies.errors import NotFound

MOST = 1000  # records of one message; a mailing list may have as many
_MOST_NAMES = 50  # Message-IDs that one queue id had
_MOST_HOPS = 5  # Received fields that are looked at
_SHOWN = 5  # recipients named in a sentence
_QUEUE_ID = re.compile(r"\bid\s+([0-9A-Za-z.-]{4,64})")


@dataclass(frozen=True, slots=True)
class Step:
    """One record on the way."""

    found: Found
    came_from: str | None  # record id of the step that handed it on
    resent_by: str | None  # Resent-From, for people
    told: str  # the step as a sentence
    telling: Telling  # what became of it


def trace(engine: Engine, name: str, is_ours: Callable[[str], bool] = lambda _: True) -> list[Step]:
    """The steps of the message that has this record id, queue id or Message-ID, oldest first.

    `is_ours`: whether an address is ours, to see what left late.  Raises: NotFound.
    """
    record_ids = sorted({one for page in _pages(engine, name) for one in page})
    if not record_ids:
        raise NotFound(
            f"no record has the Message-ID, queue id or record id {name[:80]!r}; try archive search"
        )
    return _told(list(_hops(engine, record_ids, is_ours)))


def _pages(engine: Engine, name: str) -> Iterator[list[str]]:
    for beginning in _readings(name):
        named = [one for page in query.pages(engine, beginning) for one in page]
        if not named:
            continue
        yield named
        message_ids = _message_ids(engine, named)
        if message_ids:
            where = Either(tuple(Is("message-id", one) for one in message_ids))
            yield from query.pages(engine, Search(where=where, limit=MOST))
        return


def _readings(name: str) -> Iterator[Search]:
    """What the name may be: a record id, a queue id, a Message-ID."""
    try:
        terms.pack_record_id(name)
        yield Search(where=Is("record-id", name.upper()))
    except ValueError:
        pass
    if name.strip("*"):
        yield Search(where=Is("queue-id", name.rstrip("*")), limit=query.PAGE)
    message_id = header_fields.message_id(terms.octets(name))
    if message_id:
        yield Search(where=Is("message-id", message_id), limit=MOST)


def _message_ids(engine: Engine, record_ids: Sequence[str]) -> list[str]:
    section = schema.header_section.c
    asked = select(section.fields).where(section.record_id.in_(record_ids[: query.PAGE]))
    found: dict[str, None] = {}
    with query.reading(engine) as connection:
        for fields in connection.scalars(asked):
            for value in _values(header_store.expand(fields), "message-id")[:1]:
                message_id = header_fields.message_id(terms.octets(value))
                if message_id:
                    found[message_id] = None
    return list(found)[:_MOST_NAMES]


@dataclass(frozen=True, slots=True)
class _Hop:
    """One record, and what its header section says about the way."""

    found: Found
    queue_ids: tuple[str, ...]  # those that Received fields name, newest first
    resent_by: str | None
    telling: Telling


def _hops(engine: Engine, record_ids: list[str], is_ours: Callable[[str], bool]) -> Iterator[_Hop]:
    section = schema.header_section.c
    for start in range(0, len(record_ids), query.PAGE):
        some = record_ids[start : start + query.PAGE]
        with query.reading(engine) as connection:
            asked = select(section.record_id, section.fields).where(section.record_id.in_(some))
            stored = {row[0]: row[1] for row in connection.execute(asked)}
            in_short = query.in_short(some, connection)
            ends = {one.record_id: (one.recipients, one.archive_recipients) for one in in_short}
            tellings = story.tellings(ends, connection, is_ours)
        for one in in_short:
            octets = stored.get(one.record_id)
            fields = header_store.expand(octets) if octets else []
            resent = _values(fields, "resent-from")
            yield _Hop(
                one,
                tuple(
                    queue_id
                    for value in _values(fields, "received")[:_MOST_HOPS]
                    for queue_id in _QUEUE_ID.findall(value)
                ),
                _decoded(resent[0]) if resent else None,
                tellings[one.record_id],
            )


def _values(fields: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for one, value in fields if one.strip().lower() == name]


def _decoded(value: str) -> str:
    return terms.storable(header_fields.decode_text(terms.octets(value)).strip())


def _told(hops: Sequence[_Hop]) -> list[Step]:
    by_queue_id: dict[str, Found] = {}
    steps: list[Step] = []
    for hop in hops:
        came_from = next((by_queue_id[one] for one in hop.queue_ids if one in by_queue_id), None)
        before = steps[-1].found if steps else None
        steps.append(
            Step(
                hop.found,
                None if came_from is None else came_from.record_id,
                hop.resent_by,
                "; ".join(_clauses(hop, came_from, before)),
                hop.telling,
            )
        )
        by_queue_id[hop.found.queue_id] = hop.found
    return steps


def _clauses(hop: _Hop, came_from: Found | None, before: Found | None) -> Iterator[str]:
    found = hop.found
    if before is not None:
        yield f"{_later(before, found)} later"
    if came_from is not None:
        yield f"came from {came_from.relay}, where it was {came_from.queue_id}"
    if hop.resent_by:
        yield f"sent again by {hop.resent_by}"
    client = found.client_address or "an unknown client"
    login = f", logged in as {found.login}" if found.login else ""
    yield f"handed over by {client}{login}"
    more = len(found.recipients) - _SHOWN
    recipients = ", ".join(found.recipients[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    yield f"from <{found.reverse_path}> to {recipients or 'nobody'}: {found.crossing}"
    if found.dry_run is not None:
        yield from _not_done(found.dry_run)
        return
    signed = _signed_by(found.signatures)
    yield f"signed by {signed}" if signed else "not signed"
    if found.archive_recipients:
        yield f"copied to {', '.join(found.archive_recipients)}"
    else:
        yield "sent to the archive by its author" if found.archive_addressed else "not copied"
    yield _DISPOSITIONS[found.disposition]


def _signed_by(signatures: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{one['sdid']}/{one['selector']}" for one in signatures)


def _not_done(wanted: Mapping[str, Any]) -> Iterator[str]:
    """What would have been done outside of a dry run."""
    signed, copies = _signed_by(wanted["signatures"]), wanted["archive_recipients"]
    yield f"dry run: would have been {f'signed by {signed}' if signed else 'left unsigned'}"
    yield f"would have been copied to {', '.join(copies)}" if copies else "not copied"
    if wanted["disposition"] != "accept":
        yield f"would have been answered: {_DISPOSITIONS[wanted['disposition']]}"
    yield _DISPOSITIONS["accept"]


_DISPOSITIONS = {
    "accept": "accepted",
    "tempfail": "the client was told to try later",
    "reject": "rejected",
}


def _later(before: Found, found: Found) -> str:
    """How long after: the largest unit that fits."""
    span = datetime.fromisoformat(found.recorded_at) - datetime.fromisoformat(before.recorded_at)
    seconds = max(0, int(span.total_seconds()))
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"
