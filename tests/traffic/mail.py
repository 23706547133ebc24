"""Kinds of mail: letters and their threads, newsletters, lists, notices, invitations, bounces.

Promises: `Post.next` gives the message that comes next; what was written before decides what is
answered.  Shares are those of an organisation that writes about as much as it gets.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from traffic import fields, people, subjects
from traffic.fields import Field
from traffic.people import People, Person
from traffic.relay import RELAYS, Draft, unique
from traffic.subjects import Subjects

_REMEMBERED = 4000  # threads that may still be answered
_LONGEST = 8  # References that programs keep
_LISTS = "announce dev board users technik einkauf all-hands press".split()


@dataclass(slots=True)
class Thread:
    """A conversation that may go on."""

    subject: str  # of the first message, unencoded
    author: Person
    readers: list[Person]
    references: list[str]


class Post:
    """All mail of one stretch of time."""

    def __init__(self, everybody: People, topics: Subjects, rng: random.Random) -> None:
        self._everybody, self._topics, self._rng = everybody, topics, rng
        self._threads: list[Thread] = []
        kinds: tuple[tuple[int, Callable[[float], Draft]], ...] = (
            (560, self._letter),
            (130, self._newsletter),
            (80, self._list),
            (70, self._notice_of_ours),
            (50, self._notice),
            (40, self._own_newsletter),
            (25, self._bounce),
            (20, self._transit),
            (25, self._watch),
        )
        self._limits = list(itertools.accumulate(share for share, _ in kinds))
        self._kinds = [make for _, make in kinds]

    def next(self, now: float) -> Draft:
        """The message of this moment."""
        rng = self._rng
        kind = bisect.bisect_right(self._limits, rng.random() * self._limits[-1])
        draft = self._kinds[kind](now)
        draft.relay = RELAYS[draft.author.number * 3 % 10 > 6]
        draft.is_passed_on = draft.origin == "none" and rng.random() < 0.05
        return draft

    def _letter(self, now: float) -> Draft:
        threads, rng = self._threads, self._rng
        if threads and rng.random() < 0.55:
            thread = threads[-int(len(threads) ** rng.random())]
            subject = self._answer(thread)
        else:
            thread = self._thread(now)
            subject = thread.subject
            threads.append(thread)
            if len(threads) > _REMEMBERED:
                del threads[: _REMEMBERED // 4]
        author, readers = thread.author, thread.readers
        message_id = fields.message_id(author, now, rng)
        references = thread.references[-_LONGEST:]
        thread.references.append(message_id)
        cut = 1 if rng.random() < 0.75 else len(readers)
        blind: list[Person] = []
        if rng.random() < 0.03:
            blind = [self._everybody.companion(author, rng) for _ in range(1 + rng.randrange(2))]
        # Strangers' answers to other strangers do not come by our relays.
        met = [*readers, *blind] if author.is_ours else [one for one in readers if one.is_ours]
        if not met:
            met = readers[:1]
        draft = self._draft(
            author, met, subject, message_id, now, "login" if author.is_ours else ""
        )
        middle: list[Field] = [
            ("To", f" {fields.listed(readers[:cut])}"),
        ]
        if readers[cut:]:
            middle.append(("Cc", f" {fields.listed(readers[cut:])}"))
        if references:
            middle.append(("In-Reply-To", f" <{references[-1]}>"))
            middle.append(("References", " " + "\n ".join(f"<{one}>" for one in references)))
        draft.fields[-1:-1] = middle
        draft.fields += fields.of_program(author, draft.subject, now, rng)
        return draft

    def _thread(self, now: float) -> Thread:
        everybody, rng = self._everybody, self._rng
        what = rng.random()
        if what < 0.36:  # outbound
            author = everybody.colleague(rng)
            readers = [everybody.stranger(author, rng)]
        elif what < 0.68:
            ours = everybody.colleague(rng)
            author, readers = everybody.stranger(ours, rng), [ours]
        else:
            author = everybody.colleague(rng)
            readers = [everybody.companion(author, rng)]
        more = int(rng.paretovariate(1.6)) - 1
        for _ in range(min(more, 40)):
            reader = (
                everybody.companion(author, rng)
                if rng.random() < 0.7
                else everybody.stranger(author, rng)
            )
            if reader is not author and reader not in readers:
                readers.append(reader)
        subject = self._topics.make(author.language, rng, now)
        return Thread(subject, author, readers, [])

    def _answer(self, thread: Thread) -> str:
        """Somebody else takes the word."""
        rng = self._rng
        number = int(rng.random() * min(len(thread.readers), 3))
        author = thread.readers[number]
        thread.readers[number] = thread.author
        thread.author = author
        if rng.random() < 0.06:
            return f"Fwd: {thread.subject}"
        return f"{author.language.reply}{thread.subject}"

    def _newsletter(self, now: float) -> Draft:
        """From a shop, bounces told apart by the reader (VERP)."""
        everybody, rng = self._everybody, self._rng
        author, reader = people.few(everybody.senders, rng), everybody.colleague(rng)
        domain = author.domain.name
        digits = unique(8, rng)
        verp = reader.address.replace("@", "=")
        subject = self._topics.advertise(author.language, rng, now)
        # Most services number each message; some only its reader.
        bounces = f"bounce+{digits[:12]}-{verp}" if author.number % 3 == 0 else f"bounce-{verp}"
        draft = self._draft(author, [reader], subject, f"{digits}.{int(now)}@em.{domain}", now, "")
        draft.reverse_path = f"{bounces}@em.{domain}"
        draft.fields[-1:-1] = [
            ("To", f" {reader.mailbox}"),
            ("Reply-To", f" <reply-{digits[:6]}@em.{domain}>"),
        ]
        draft.fields += [
            ("List-Id", f" <{author.number % 7}.{domain}>"),
            (
                "List-Unsubscribe",
                f" <https://em.{domain}/u/{unique(18, rng)}>,\n"
                f" <mailto:unsub-{digits}@em.{domain}>",
            ),
            ("List-Unsubscribe-Post", " List-Unsubscribe=One-Click"),
            ("Feedback-ID", f" {author.number}:{digits[:6]}:{domain}"),
            ("X-Mailer", " Campaign Engine 4.2"),
            ("X-CSA-Complaints", f" complaints@{domain}"),
        ]
        return draft

    def _list(self, now: float) -> Draft:
        """A posting, as a list of strangers (one reader) or of ours (many) distributes it."""
        everybody, rng = self._everybody, self._rng
        name = people.few(_LISTS, rng)
        is_ours = rng.random() < 0.25
        author = everybody.colleague(rng) if is_ours else people.few(everybody.strangers, rng)
        base = everybody.colleague(rng)
        domain = "lists.example.com" if is_ours else people.few(everybody.firms, rng).name
        subject = f"[{name}] {self._topics.make(author.language, rng, now)}"
        if rng.random() < 0.5:
            subject = f"Re: {subject}"
        readers = [base]
        if is_ours:
            size = 2 + int(rng.paretovariate(0.9))
            readers = list(
                {
                    one.address: one
                    for one in (everybody.companion(base, rng) for _ in range(min(size, 150)))
                }.values()
            )
        message_id = fields.message_id(author, now, rng)
        draft = self._draft(author, readers, subject, message_id, now, "network" if is_ours else "")
        draft.reverse_path = (
            f"{name}-bounces@example.com" if is_ours else f"{name}-bounces@{domain}"
        )
        draft.fields[-1:-1] = [
            ("To", f" {name}@{domain}"),
            ("In-Reply-To", f" <{unique(12, rng)}@{domain}>"),
            ("Sender", f" <{name}-bounces@{domain}>"),
        ]
        draft.fields += [("X-Mailman-Version", " 3.3.8"), *fields.of_list(name, domain)]
        return draft

    def _notice_of_ours(self, now: float) -> Draft:
        """An application of ours writes to a customer."""
        everybody, rng = self._everybody, self._rng
        author = everybody.colleagues[rng.randrange(12)]
        reader = people.few(everybody.strangers, rng)
        subject = f"{author.language.words[0]} {int(now) % 10**7:07d}-{rng.randrange(1000):03d}"
        message_id = f"{unique(12, rng)}.{int(now)}@app.example.com"
        draft = self._draft(author, [reader], subject, message_id, now, "network")
        draft.fields[-1:-1] = [("To", f" {reader.mailbox}")]
        draft.fields += [("Auto-Submitted", " auto-generated"), ("X-Application", " billing/5.3")]
        return draft

    def _notice(self, now: float) -> Draft:
        """A service of somebody else writes; the reader's address may carry an extension."""
        everybody, rng = self._everybody, self._rng
        author, reader = people.few(everybody.senders, rng), everybody.colleague(rng)
        local_part, _, domain = reader.address.partition("@")
        tag = author.domain.name.partition(".")[0] if rng.random() < 0.3 else ""
        address = f"{local_part}+{tag}@{domain}" if tag else reader.address
        subject = self._topics.make(author.language, rng, now)
        draft = self._draft(
            author, [reader], subject, f"{unique(14, rng)}@{author.domain.name}", now, ""
        )
        draft.envelope = [people.as_recipient(address, is_inside=True)]
        draft.fields[-1:-1] = [("To", f" <{address}>")]
        draft.fields += [("Auto-Submitted", " auto-generated"), ("Precedence", " bulk")]
        return draft

    def _own_newsletter(self, now: float) -> Draft:
        """Ours, to everybody outside, one message each."""
        everybody, rng = self._everybody, self._rng
        author, reader = everybody.colleagues[0], people.few(everybody.strangers, rng)
        week = int(now // (7 * 86_400))
        subject = f"Newsletter {week} {self._topics.tail[week % len(self._topics.tail)].title()}"
        draft = self._draft(
            author, [reader], subject, f"{unique(10, rng)}.{week}@news.example.com", now, "network"
        )
        draft.reverse_path = f"news-{week}-{reader.address.replace('@', '=')}@example.com"
        draft.fields[-1:-1] = [("To", f" <{reader.address}>")]
        draft.fields += [
            ("List-Id", " News of ours <news.example.com>"),
            ("List-Unsubscribe", f" <https://news.example.com/u/{unique(16, rng)}>"),
            ("Precedence", " bulk"),
        ]
        return draft

    def _bounce(self, now: float) -> Draft:
        """A null reverse-path, from a host outside to somebody of ours."""
        everybody, rng = self._everybody, self._rng
        reader = everybody.colleague(rng)
        failed = everybody.stranger(reader, rng)
        domain = failed.domain
        draft = self._draft(
            failed,
            [reader],
            "Undelivered Mail Returned to Sender",
            f"{int(now)}.{unique(5, rng).upper()}@{domain.host}",
            now,
            "",
        )
        draft.reverse_path = ""
        draft.fields = [one for one in draft.fields if one[0] not in ("From", "DKIM-Signature")]
        draft.fields[-1:-1] = [
            ("From", f" Mail Delivery System <MAILER-DAEMON@{domain.host}>"),
            ("To", f" <{reader.address}>"),
            ("X-Failed-Recipients", f" {failed.address}"),
            ("Auto-Submitted", " auto-replied"),
            ("References", f" <{fields.message_id(reader, now, rng)}>"),
        ]
        return draft

    def _transit(self, now: float) -> Draft:
        """Passes through: a client's domain for which the relay forwards."""
        everybody, rng = self._everybody, self._rng
        author = people.few(everybody.strangers, rng)
        reader = everybody.strangers[int(rng.random() ** 3 * len(everybody.strangers))]
        subject = self._topics.make(author.language, rng, now)
        message_id = fields.message_id(author, now, rng)
        draft = self._draft(author, [reader], subject, message_id, now, "")
        draft.fields[-1:-1] = [("To", f" {reader.mailbox}")]
        draft.fields += fields.of_program(author, draft.subject, now, rng)
        return draft

    def _watch(self, now: float) -> Draft:
        """Machines of ours write to those who look after them."""
        everybody, rng = self._everybody, self._rng
        author = everybody.colleagues[7]
        readers = everybody.colleagues[3:6]
        host = f"srv{rng.randrange(60):02d}"
        state = rng.choice(("PROBLEM", "RECOVERY", "OK", "Cron"))
        subject = f"{state}: {host} {people.few(self._topics.tail, rng)}"
        draft = self._draft(
            author, readers, subject, f"{unique(9, rng)}@{host}.corp.example.com", now, "network"
        )
        draft.reverse_path = "root@corp.example.com"
        draft.fields[-1:-1] = [("To", f" {fields.listed(readers)}")]
        draft.fields += [("Auto-Submitted", " auto-generated"), ("X-Host", f" {host}")]
        return draft

    def _draft(
        self,
        author: Person,
        readers: list[Person],
        subject: str,
        message_id: str,
        now: float,
        origin: str,
    ) -> Draft:
        """What all kinds have in common; the Subject is last, so that others can stand before."""
        rng = self._rng
        language = author.language
        charset = language.charset if author.number % 5 < 2 else "utf-8"
        encoded = subjects.written(subject, charset, author.encoding)
        made: list[Field] = []
        if not origin:
            made += self._trace(author, readers[0], now)
        made += fields.mime(author, rng)
        made += [
            ("From", f" {author.mailbox}"),
            ("Date", f" {fields.date(now - 2, language.zone)}"),
            ("Message-ID", f" <{message_id}>"),
            ("Subject", f" {encoded}"),
        ]
        size = int(rng.random() * 60_000)
        return Draft(
            author=author,
            reverse_path=_written_by_hand(author.address, rng),
            envelope=[one.recipient for one in readers],
            subject=encoded,
            fields=made,
            message_id=message_id,
            origin=origin or "none",
            esmtp=[f"SIZE={size}"] if rng.random() < 0.8 else [],
        )

    def _trace(self, author: Person, reader: Person, now: float) -> list[Field]:
        rng, domain = self._rng, author.domain
        made = list(fields.of_filter("mx1.example.com", domain.name, rng.random() * 5))
        made.append(
            fields.received(
                "filter.example.com", domain.host, domain.address, reader.address, now, rng
            )
        )
        if domain.selector is not None:
            made.append(fields.dkim_signature(domain.name, domain.selector, now - 1, rng))
        if rng.random() < 0.5:
            inner = f"10.{int(rng.random() * 250)}.0.{int(rng.random() * 250)}"
            made.append(
                fields.received(
                    domain.host, f"in.{domain.name}", inner, reader.address, now - 2, rng
                )
            )
        else:
            made.append(fields.brief_received(domain.host, reader.address, now - 3, rng))
        if domain.is_hosted:
            made += fields.by_provider(domain, author.address, now - 2, rng)
        return made


def _written_by_hand(address: str, rng: random.Random) -> str:
    """Now and then somebody configures an address with capitals."""
    if rng.random() < 0.01:
        local_part, _, domain = address.partition("@")
        return f"{local_part.title()}@{domain}"
    return address
