"""Mail through a real Postfix to a sink of bad moods: what SQL says is what the sink did.

`make test-follow` sends ten thousand messages (MESSAGES); `make test` a sample.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import moody_mail
from support.carbonseal import ARCHIVE, Carbonseal
from support.moody_mail import EXPANSIONS, Message

from carbonseal.milter.archive import database, deliveries, record, segments, terms
from carbonseal.milter.archive.search import query
from carbonseal.milter.archive.search.short import Found
from carbonseal.milter.archive.search.wanted import Search
from carbonseal.policies import delivery
from carbonseal.policies.delivery import State

pytestmark = [pytest.mark.root, pytest.mark.postfix, pytest.mark.timeout(1500)]

MESSAGES = int(os.environ.get("MESSAGES", "250"))
LIFETIME = 8 if MESSAGES < 1000 else 20
LATE = 60  # messages whose records wait in the spool at the end
# What an outcome at the sink is, once Postfix has given up.
_STATES = {
    "taken": State.DELIVERED,
    "refused": State.BOUNCED,
    "deferred": State.EXPIRED,
    "lost": State.EXPIRED,
    "unanswered": State.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class Aftermath:
    """All mail has come to its end; nothing runs any more."""

    service: Carbonseal
    sent: tuple[Message, ...]  # the last LATE of them are in the spool only
    journal: Mapping[tuple[str, str], list[str]]
    directory: Path

    def copy(self, name: str) -> Carbonseal:
        """Spool and archive of one's own."""
        return moody_mail.copy_of(self.service, self.directory / name)


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with moody_mail.moody_mail(LIFETIME) as mail:
        troubles = threading.Thread(target=mail.troubles, args=(MESSAGES,))
        troubles.start()
        mail.send(0, MESSAGES)
        troubles.join()
        mail.load()
        mail.drain(600)
        sent = list(mail.sent)
        mail.send(MESSAGES, LATE)
        late = mail.sent[len(sent) :]
        mail.drain(120)
        mail.finish_following()
        mail.service.stop()
        made = Aftermath(
            mail.service,
            (*sent, *late),
            mail.sink.journal(),
            tmp_path_factory.mktemp("aftermath"),
        )
        print(f"\n{len(made.sent)} messages, {mail.log_lines()} lines of log, {mail.figures}")
        yield made


def _loaded(service: Carbonseal) -> Carbonseal:
    service.command("archive", "write", "--once")
    return service


def _found(service: Carbonseal) -> list[Found]:
    """Every record of a loaded archive."""
    engine = database.reading_engine(f"sqlite:///{service.database}")
    try:
        return list(query.search(engine, Search(limit=None)))
    finally:
        engine.dispose()


def _expected(message: Message, address: str, aftermath: Aftermath) -> State:
    """What the sink's last answers leave a recipient in."""
    ends = EXPANSIONS.get(address, (address,))
    # Nobody there to connect to, all the time: that, too, ends in expiry.
    outcomes = [aftermath.journal.get((message.reverse_path, end), ["lost"])[-1] for end in ends]
    return delivery.worst(_STATES[one] for one in outcomes)


def test_sql_says_what_the_sink_did(aftermath: Aftermath) -> None:
    """Each recipient and each archive copy; no message is missing or doubled."""
    service = _loaded(aftermath.copy("states"))
    found = {one.reverse_path: one for one in _found(service)}
    engine = database.reading_engine(f"sqlite:///{service.database}")
    assert len(found) == len(aftermath.sent) == MESSAGES + LATE
    with query.reading(engine) as connection:
        stories = deliveries.told([one.record_id for one in found.values()], connection)
    engine.dispose()
    counted: Counter[str] = Counter()
    wrong = []
    for message in aftermath.sent:
        one = found[message.reverse_path]
        assert one.queue_id == message.queue_id
        story = stories[one.record_id]
        assert [end.address for end in story.passages if not end.is_copy] == [*message.recipients]
        for end in story.passages:
            expected = _expected(message, end.address, aftermath)
            counted[f"{'copy' if end.is_copy else 'recipient'} {end.state}"] += 1
            if end.state is not expected:
                wrong.append((message, end, expected, story.facts))
    print(f"\n{dict(sorted(counted.items()))}")
    assert not wrong, f"{len(wrong)}: {wrong[0]}"
    for state in ("delivered", "bounced", "expired"):
        assert counted[f"recipient {state}"]
        assert counted[f"copy {state}"]


@dataclass(frozen=True, slots=True)
class Looked:
    """A report."""

    status: int
    found: list[dict[str, Any]]
    state: dict[str, Any]

    def of(self, cause: str) -> list[dict[str, Any]]:
        return [one for one in self.found if one["cause"] == cause]


def _look(service: Carbonseal) -> Looked:
    done = service.command("archive", "completeness", "--each", "--json", check=False)
    assert done.returncode in {0, 1}, done.stderr
    return Looked(
        done.returncode,
        [json.loads(line) for line in done.stdout.splitlines()],
        json.loads((service.spool / "state/completeness.json").read_text()),
    )


def _check(looked: Looked, lost: frozenset[str], cause: str, expected: list[str], key: str) -> None:
    """Exactly these holes, and the copies that were `lost`."""
    assert sorted(one[key] for one in looked.of(cause)) == sorted(expected)
    told = {one["queue_id"] for one in looked.of("copy-lost")}
    assert told <= lost
    assert len(lost - told) <= len(set(expected))
    assert {one["cause"] for one in looked.found} <= {cause, "copy-lost"}
    assert looked.status == (1 if looked.found else 0)
    assert looked.state["holes"] == len(looked.found)


@pytest.fixture(scope="module")
def lost(aftermath: Aftermath) -> frozenset[str]:
    """Queue ids of the mail whose copy did not arrive.

    Which mail has a copy the records tell: of some the sink never heard, being away each time.
    """
    records = _found(_loaded(aftermath.copy("copied")))
    copied = {one.reverse_path for one in records if one.archive_recipients}
    return frozenset(
        message.queue_id
        for message in aftermath.sent
        if message.reverse_path in copied
        and _expected(message, ARCHIVE, aftermath) is not State.DELIVERED
    )


@pytest.mark.parametrize("count", [0, 1, 50])
def test_records_removed_from_the_spool(
    aftermath: Aftermath, lost: frozenset[str], count: int
) -> None:
    """Before they were loaded: the log knows of them, and the report names each."""
    service = aftermath.copy(f"spool-{count}")
    removed = _remove_from_spool(service, count)
    looked = _look(_loaded(service))
    _check(looked, lost, "record-missing", removed, "queue_id")


def _remove_from_spool(service: Carbonseal, count: int) -> list[str]:
    wanted = random.Random(count).sample(range(LATE), count)
    removed = []
    seen = 0
    for segment in segments.pending(service.spool):
        if segment.name.endswith("-follow"):
            continue
        kept = []
        for line in segment.path.read_bytes().splitlines(keepends=True):
            content = record.parse(line)
            if "record_id" in content:
                seen += 1
                if seen - 1 in wanted:
                    removed.append(content["queue_id"])
                    continue
            kept.append(line)
        segment.path.write_bytes(b"".join(kept))
    assert seen == LATE
    return removed


@pytest.mark.parametrize("count", [1, 50])
def test_records_removed_from_sql(aftermath: Aftermath, lost: frozenset[str], count: int) -> None:
    """The log's events of them are there: the report names each by its record id."""
    service = _loaded(aftermath.copy(f"sql-{count}"))
    archive = sqlite3.connect(service.database)
    every = [one for (one,) in archive.execute("SELECT record_id FROM message ORDER BY record_id")]
    chosen = random.Random(count).sample(every, count)
    for octets in chosen:
        archive.execute("DELETE FROM message WHERE record_id = ?", (octets,))
    archive.commit()
    archive.close()
    removed = [terms.unpack_record_id(one) for one in chosen]
    _check(_look(service), lost, "record-removed", removed, "record_id")
