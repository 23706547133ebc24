"""One person out of the whole archive: pseudonymisation, not deletion.

The dictionary row of the address is emptied, so that its id, which stays in the records, leads to
nobody; what records repeat of the person is replaced (`person`); copies in the spool are written
anew (`copies`).  The other parties find their mail as before.  The same person writing again is
somebody new.

Promises: a record that a legal hold covers stops all of it, before anything is changed.  The order
is: marked rows, records batch by batch, copies, and last the dictionary, in a transaction in which
no record can be loaded, after a look for records that came meanwhile.  So whoever is interrupted
can give the same command again, and it goes on.  What is left of each record stays provable.

Raises: Held; DataError.

Does not: know names, telephone numbers or whoever else hides behind an address; change the audit,
seals or searches of holds, which say what was done and asked (GDPR article 17(3)(b)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, select, update
from sqlalchemy.dialects import postgresql

from carbonseal.milter.archive import dictionary, postings, retrieve, schema, terms
from carbonseal.milter.archive.keeping import (
    copies,
    delivery_taking,
    holds,
    person,
    taking,
    transactions,
)
from carbonseal.milter.archive.keeping.copies import Copies
from carbonseal.milter.archive.keeping.holds import Find
from carbonseal.milter.archive.keeping.person import Person
from carbonseal.policies import quantity
from carbonseal.policies.errors import DataError

BATCH = 200  # records in one transaction
_ANY = schema.ANY_ROLE | schema.ANY_ROLE << schema.INDIRECT


class Held(DataError):
    """A legal hold covers records of the person."""


@dataclass(frozen=True, slots=True)
class Found:
    """What names the person in the database."""

    mailboxes: dict[str, int]  # of the person, by what the dictionary calls them: their ids
    extensions: tuple[str, ...]  # mailboxes with an extension that were not asked for
    record_ids: tuple[str, ...]
    holds: dict[str, int]  # records held, by the name of the hold


@dataclass(slots=True)
class Done:
    """What an erasure did."""

    records: int = 0
    record_digest: str = ""  # SHA-256 over their ids in order
    parts: dict[str, int] = field(default_factory=dict)  # changed, by name of the part
    addresses: int = 0
    hashes: list[str] = field(default_factory=list)  # of the mailboxes that are to be nobody's
    waiting_lines: int = 0  # of the mail log, of messages without a record
    refused_lines: int = 0  # sentences about lines set aside that named the person
    copies: Copies = field(default_factory=Copies)


def look(
    engine: Engine,
    who: Person,
    find: Find,
    *,
    everywhere: bool,
    progress: Callable[[int], None] = lambda count: None,
) -> Found:
    """What names the person, and which holds are in the way; live holds are looked up again."""
    with engine.connect() as connection:
        mailboxes, extensions = _mailboxes(who, connection)
        named = set(_by_index(mailboxes.values(), connection, with_indirect=who.with_extensions))
        named.update(delivery_taking.naming(mailboxes.values(), connection))
    if everywhere:
        named.update(_everywhere(engine, who, named, progress))
    record_ids = tuple(sorted(named))
    if record_ids:
        _look_up_holds(engine, find)
    with engine.connect() as connection:
        counts = _held(record_ids, connection)
    return Found(mailboxes, extensions, record_ids, counts)


def _mailboxes(who: Person, connection: Connection) -> tuple[dict[str, int], tuple[str, ...]]:
    """Dictionary rows of the person, and of extensions that were not asked for."""
    found = taking.address_ids([who.mailbox], connection)
    domain = who.mailbox.rpartition("@")[2]
    local = who.mailbox.rpartition("@")[0]
    columns = schema.address.c
    query = select(columns.address_id, columns.local_part).where(
        columns.domain_id == terms.term(domain), columns.local_part.like(f"{_like(local)}+%")
    )
    extended = {
        f"{text}@{domain}": address_id
        for address_id, text in connection.execute(query)
        if terms.without_extension(f"{text}@{domain}") == who.mailbox
    }
    if who.with_extensions:
        return found | extended, ()
    return found, tuple(sorted(extended))


def _like(text: str) -> str:
    """As much of the text as LIKE takes literally on every engine; the rest is compared after."""
    for number, character in enumerate(text):
        if character in "%_\\" or terms.storable(character) != character:
            return text[:number] + "%"
    return text


def _by_index(address_ids: Any, connection: Connection, *, with_indirect: bool) -> Iterator[str]:
    """Records in which one of these addresses takes part."""
    roles = _ANY if with_indirect else schema.ANY_ROLE
    for address_id in address_ids:
        if connection.dialect.name == "postgresql":
            table = schema.message_terms
            elements = postings.with_address(address_id, roles)
            wanted = postgresql.array(elements, type_=BigInteger())
            yield from connection.scalars(
                select(table.c.record_id).where(table.c.terms.overlap(wanted))
            )
        else:
            columns = schema.participant.c
            yield from connection.scalars(
                select(columns.record_id).where(
                    columns.address_id == address_id, columns.roles.bitwise_and(roles) != 0
                )
            )


def _everywhere(
    engine: Engine, who: Person, known: set[str], progress: Callable[[int], None]
) -> Iterator[str]:
    """Records that name the person where no index leads: read one by one, oldest first."""
    last = "0" * terms.RECORD_ID_LENGTH
    columns = schema.message.c
    query = select(columns.record_id).order_by(columns.record_id).limit(BATCH)
    while True:
        with engine.connect() as connection:
            record_ids = list(connection.scalars(query.where(columns.record_id > last)))
            unknown = [one for one in record_ids if one not in known]
            for held in taking.fetch(unknown, connection):
                if person.names(held.content, who):
                    yield held.record_id
            yield from delivery_taking.telling_of(
                unknown, lambda said: person.names(said, who), connection
            )
        if not record_ids:
            return
        progress(len(record_ids))
        last = record_ids[-1]


def _look_up_holds(engine: Engine, find: Find) -> None:
    with engine.connect() as connection:
        live = [one for one in holds.in_force(connection) if one.is_live]
    for hold in live:
        holds.extend(engine, hold, find, progress=lambda count: None)


def _held(record_ids: Sequence[str], connection: Connection) -> dict[str, int]:
    counts: dict[str, int] = {}
    for names in holds.held_among(record_ids, connection).values():
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    return counts


def refuse_held(found: Found) -> None:
    """Raises: Held, naming the holds."""
    if found.holds:
        which = ", ".join(
            f"{name} ({quantity.of(count, 'record')})" for name, count in found.holds.items()
        )
        raise Held(
            f"nothing was changed: legal holds cover records of this person: {which}; release "
            "them first, or refuse the request as long as they last"
        )


class Erasure:
    """One erasure; `apply` does it."""

    def __init__(
        self,
        engine: Engine,
        who: Person,
        found: Found,
        *,
        event: int,
        now: datetime,
        indexed: frozenset[str],
        spool_directory: Path,
        note: copies.Note,
        progress: Callable[[int], None] = lambda count: None,
        batch: int = BATCH,
    ) -> None:
        self._engine = engine
        self._who = who
        self._found = found
        self._event = event
        self._now = int(now.astimezone(UTC).timestamp() * 1_000_000)
        self._indexed = indexed
        self._spool = spool_directory
        self._note = note
        self._progress = progress
        self._batch = batch
        self._ids = taking.Ids()
        self._emptied: dict[str, int] = dict(found.mailboxes)  # the dictionary rows to be emptied
        self._seen: set[str] = set()
        self._changed: set[str] = set()
        self._known = frozenset[int]()
        self._came_late = False
        self.done = Done()

    def apply(self) -> Done:
        """Erase.  Raises: Held, if a hold was set meanwhile; what was done until then stays."""
        refuse_held(self._found)
        with self._engine.connect() as connection:
            self._known = holds.ids(holds.in_force(connection))
        self._mark(self._emptied)
        left = iter(self._found.record_ids)
        while record_ids := list(islice(left, self._batch)):
            self._batch_of(record_ids)
            self._progress(len(record_ids))
        self.done.refused_lines = transactions.run(self._engine, self._set_aside_sentences)
        self.done.copies = self._rewritten_copies()
        while not transactions.run(self._engine, self._empty):
            pass  # records came meanwhile, more than belong into that transaction
        if self.done.copies.waiting or self._came_late:  # and are copies by now
            self.done.copies = self.done.copies.and_then(self._rewritten_copies())
        self.done.records = len(self._changed)
        self.done.record_digest = sha256("\n".join(sorted(self._changed)).encode()).hexdigest()
        self.done.addresses = len(self._emptied)
        # Whoever was asked for as well, though the dictionary may have forgotten them before.
        mailboxes = sorted({self._who.mailbox, *self._emptied})
        self.done.hashes = [terms.mailbox_hash(text).hex() for text in mailboxes]
        return self.done

    def _mark(self, mailboxes: dict[str, int]) -> None:
        """Note in the dictionary that these are being erased."""
        if not mailboxes:
            return
        columns = schema.address.c
        transactions.run(
            self._engine,
            lambda connection: connection.execute(
                update(schema.address)
                .where(
                    columns.address_id.in_(sorted(mailboxes.values())), columns.erased_at.is_(None)
                )
                .values(erased_at=self._now)
            ),
        )

    def _batch_of(self, record_ids: list[str]) -> None:
        made = transactions.run(self._engine, lambda connection: self._made(record_ids, connection))
        self._mark(made)
        self._emptied |= made

        def work(connection: Connection) -> set[str]:
            return self._replaced(record_ids, connection)

        try:
            changed = transactions.run(self._engine, work)
        except Exception:
            self._ids.forget()
            raise
        self._ids.keep()
        self._changed |= changed
        self._seen.update(record_ids)

    def _made(self, record_ids: list[str], connection: Connection) -> dict[str, int]:
        """Mailboxes that lists and forwarders made of the address."""
        texts = {
            text
            for held in taking.fetch(record_ids, connection)
            for text in held.parsed.participants
            if text not in self._emptied and self._who.is_named_in(text)
        }
        return taking.address_ids(texts, connection)

    def _replaced(self, record_ids: list[str], connection: Connection) -> set[str]:
        """Put the records back without the person; returns the ids of those that changed."""
        holds.locked(connection)
        counts = _held(record_ids, connection)
        if counts:
            refuse_held(Found({}, (), (), counts))
        changes = []
        for held in taking.fetch(record_ids, connection):
            content = person.erased(held.content, self._who, self._tokens())
            if content != held.content:
                changes.append(taking.without_person(held, content, self._event, connection))
        taking.replace(changes, connection, self._ids, indexed=self._indexed)
        told = self._untold(record_ids, changes, connection)
        for one in changes:
            for name in taking.changed_parts(one):
                kind = name.partition("/")[0] if name.startswith("recipients") else name
                self.done.parts[kind] = self.done.parts.get(kind, 0) + 1
        if told:
            self.done.parts["deliveries"] = self.done.parts.get("deliveries", 0) + len(told)
        return told | {one.before.record_id for one in changes}

    def _untold(
        self, record_ids: list[str], changes: Sequence[taking.Changed], connection: Connection
    ) -> set[str]:
        """The same for what the mail log told of these records."""
        tokens = self._tokens()
        logins = {
            one.before.record_id: login
            for one in changes
            if (login := one.before.content["login"]) and login != one.content["login"]
        }

        def without(record_id: str) -> delivery_taking.Erase:
            own = {logins[record_id]} if record_id in logins else ()
            return lambda value: person.erased_from(value, self._who, tokens, own)

        return delivery_taking.erase(record_ids, without, self._event, connection, self._ids)

    def _without_waiting(self, connection: Connection) -> int:
        tokens = self._tokens()
        return delivery_taking.erase_waiting(
            self._emptied.values(),
            lambda value: person.erased_from(value, self._who, tokens),
            self._event,
            connection,
            self._ids,
        )

    def _tokens(self) -> dict[str, str]:
        """What stands for each mailbox."""
        found = {}
        for text, address_id in self._emptied.items():
            domain = text.rpartition("@")[2] if "@" in text else None
            found[text] = taking.token(address_id, domain)
        domain = self._who.mailbox.rpartition("@")[2]
        found.setdefault(self._who.mailbox, f"{retrieve.ERASED}@{domain}")
        return found

    def _rewritten_copies(self) -> Copies:
        return copies.rewrite(self._spool, self._who, self._in_copy, self._note)

    def _in_copy(self, content: dict[str, Any]) -> dict[str, Any]:
        return person.erased(content, self._who, self._tokens())

    def _set_aside_sentences(self, connection: Connection) -> int:
        """What was wrong with a line may quote it."""
        columns, count = schema.set_aside.c, 0
        for row in connection.execute(select(schema.set_aside)).all():
            if self._who.is_named_in(row.why):
                connection.execute(
                    update(schema.set_aside)
                    .where(
                        columns.segment_id == row.segment_id,
                        columns.segment_offset == row.segment_offset,
                    )
                    .values(why=self._who.without(row.why, retrieve.ERASED))
                )
                count += 1
        return count

    def _empty(self, connection: Connection) -> bool:
        """Empty the dictionary rows, unless records came that have to be changed before."""
        taking.announce(connection)
        ids = sorted(self._emptied.values())
        late = [
            one
            for one in _by_index(ids, connection, with_indirect=self._who.with_extensions)
            if one not in self._seen
        ]
        late += [one for one in delivery_taking.naming(ids, connection) if one not in self._seen]
        self._came_late |= bool(late)
        self._changed |= self._replaced(late[: self._batch], connection)
        self._seen.update(late[: self._batch])
        if len(late) > self._batch:
            return False
        self.done.waiting_lines += self._without_waiting(connection)
        columns = schema.address.c
        for some in dictionary.chunks(ids):
            connection.execute(
                update(schema.address)
                .where(columns.address_id.in_(some))
                .values(
                    address_hash=None, local_part=None, local_part_raw=None, erased_at=self._now
                )
            )
        return True
