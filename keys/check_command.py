"""`carbonseal keys check`: compare published keys with ours at every server, or judge any other.

Promises: reads the keys directory and asks DNS, and changes nothing, so anybody who may read the
keys' records may run it.  A key is looked for where it was published; what is wrong is a code, and
a sentence with its remedy below the table.

Exit status: 0 everything is as it should be; 1 some servers do not show it (yet), and none shows
anything wrong; 2 something is wrong; 3 a server could not be asked, and none shows anything wrong.

Raises: `errors.UsageError` for a name that is none, `errors.NotFound` from the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import click

from carbonseal.keys import progress, store, tables
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.publication.check import Checker, Examination
from carbonseal.keys.publication.settings import DnsSettings
from carbonseal.policies import domains, errors, signing_request
from carbonseal.policies.key_life import ServerState, ServerView, Stage

RIGHT: Final = 0
NOT_YET: Final = 1
WRONG: Final = 2
UNREACHABLE: Final = 3

_AT_ONCE = 16  # keys looked at at the same time
_MARK = "._domainkey."
_TABLE_COLUMNS = ("name", "server", "address", "state", "ttl", "serial", "fault")
_COLUMNS = (*_TABLE_COLUMNS, "expected", "target", "zone", "about", "text", "checked_at")
_SHOWN_IN = (Stage.PUBLISHING, Stage.PUBLISHED, Stage.READY, Stage.ACTIVE, Stage.RETIRING)
_WANTED = {
    Stage.REVOKING: ServerState.REVOKED,
    Stage.REVOKED: ServerState.REVOKED,
    Stage.REMOVING: ServerState.ABSENT,
    Stage.REMOVED: ServerState.ABSENT,
}


class Settings(Protocol):
    """What this command needs to know."""

    @property
    def keys_directory(self) -> Path:
        """`signing.keys` of the configuration."""

    @property
    def dns(self) -> DnsSettings:
        """The section `dns`."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """A name to look at, and what should be there."""

    name: str
    public_key: bytes | None = None  # None: any usable key
    expected_text: str = ""
    wanted: ServerState = ServerState.SHOWN


@dataclass(frozen=True, slots=True)
class _Result:
    subject: _Subject
    examination: Examination

    @property
    def status(self) -> int:
        view = self.examination.view
        found = [_status(seen, self.subject) for seen in view.servers]
        if view.problem or not view.servers:
            found.append(UNREACHABLE)
        return _worst(found)


@click.command(name="check")
@click.argument("sdid", required=False)
@click.argument("selector", required=False)
@click.option(
    "--foreign",
    "--any",
    "by_itself",
    is_flag=True,
    help="Judge what is published by itself, even if a key of that name is in the keys directory.",
)
@tables.output_options
@click.pass_obj
def check_key(
    settings: Settings,
    *,
    sdid: str | None,
    selector: str | None,
    by_itself: bool,
    output_format: str,
) -> int:
    """Ask every authoritative name server for published keys, and say what is wrong with them.

    Without SDID, all keys that should be published; with SDID, those of that domain.  A key that
    is not in the keys directory, of any domain, is judged by itself; SELECTOR._domainkey.SDID is
    understood as well.
    """
    problems: list[str] = []
    subjects = _subjects(settings, sdid, selector, by_itself=by_itself, problems=problems)
    checker = Checker(settings.dns, lambda: datetime.now(UTC))
    results = list(_examine(checker, subjects))
    tables.write_rows(
        (row for result in results for row in _rows(result)),
        _TABLE_COLUMNS if output_format == "table" else _COLUMNS,
        output_format,
    )
    for sentence in (*problems, *_sentences(results, output_format)):
        click.echo(tables.presentable(sentence), err=output_format != "table")
    _say_sum(results)
    return _worst([*(result.status for result in results), *(WRONG for _ in problems)])


# --- what to look at


def _subjects(
    settings: Settings,
    sdid: str | None,
    selector: str | None,
    *,
    by_itself: bool,
    problems: list[str],
) -> list[_Subject]:
    shelf = store.Store(settings.keys_directory)
    if sdid is None:
        if by_itself:
            raise errors.UsageError("--foreign needs a name: write SDID and SELECTOR after it.")
        subjects = list(_published(shelf.lineages(), problems))
        if not subjects and problems:
            for name in shelf.sdids():
                shelf.refuse_hidden(name)
        return subjects
    sdid, selector = _names(sdid, selector)
    if selector is not None:
        return [_one(shelf, sdid, selector, by_itself=by_itself)]
    if by_itself:
        raise errors.UsageError(f"--foreign {sdid}: write the SELECTOR after it.")
    subjects = list(_published(iter((shelf.lineage(sdid),)), problems))
    if not subjects:
        shelf.refuse_hidden(sdid)
        raise errors.NotFound(
            f"{settings.keys_directory}: no key of {sdid} is published; give a SELECTOR to look"
            " whether anything is."
        )
    return subjects


def _names(sdid: str, selector: str | None) -> tuple[str, str | None]:
    """SDID and selector, given apart or as the name in DNS."""
    if _MARK in sdid.lower():
        if selector is not None:
            raise errors.UsageError(f"{sdid} holds a selector already; leave out {selector}.")
        selector, _, sdid = sdid.lower().rstrip(".").rpartition(_MARK)
    name = domains.normalize(sdid)
    if selector is None:
        return signing_request.check_sdid(name), None
    return _foreign_names(name, selector.lower())


def _foreign_names(sdid: str, selector: str) -> tuple[str, str]:
    """Other people's names may hold underscores."""
    if domains.a_labels(selector) is None or domains.a_labels(f"{selector}{_MARK}{sdid}") is None:
        raise errors.UsageError(
            f"{selector}{_MARK}{sdid} is no name in DNS; write SDID and SELECTOR, such as"
            " example.com s20260101r."
        )
    return sdid, selector


def _published(lineages: Iterable[store.Lineage], problems: list[str]) -> Iterator[_Subject]:
    for lineage in lineages:
        problems += lineage.problems
        for record in lineage.records:
            if record.stage in _SHOWN_IN:
                yield _stored(record)


def _one(shelf: store.Store, sdid: str, selector: str, *, by_itself: bool) -> _Subject:
    if not by_itself and shelf.is_taken(sdid, selector):
        return _stored(shelf.find(sdid, selector))
    return _Subject(f"{selector}{_MARK}{sdid}")


def _stored(record: KeyRecord) -> _Subject:
    wanted = _WANTED.get(record.stage, ServerState.SHOWN)
    text = record.publication.text if wanted is ServerState.SHOWN else ""
    return _Subject(record.dns_name, record.public_key, text, wanted)


# --- looking


def _examine(checker: Checker, subjects: list[_Subject]) -> Iterator[_Result]:
    def look(subject: _Subject) -> _Result:
        found = checker.examine(subject.name, subject.public_key, subject.expected_text)
        return _Result(subject, found)

    with ThreadPoolExecutor(_AT_ONCE, "check") as pool:
        found = pool.map(look, subjects)
        yield from progress.watched(found, len(subjects), "asking name servers")


# --- what is said


def _status(seen: ServerView, subject: _Subject) -> int:
    if seen.state is subject.wanted:
        return RIGHT
    if seen.state is ServerState.UNKNOWN:
        return UNREACHABLE
    # A server that is behind shows what was right before.
    is_before = seen.state is ServerState.ABSENT or seen.fault == "stale-server"
    if subject.wanted is not ServerState.SHOWN:
        is_before = seen.state is ServerState.SHOWN or is_before
    return NOT_YET if is_before else WRONG


def _worst(found: Iterable[int]) -> int:
    return max(found, key=(RIGHT, NOT_YET, UNREACHABLE, WRONG).index, default=RIGHT)


def _rows(result: _Result) -> Iterator[dict[str, object]]:
    view = result.examination.view
    about = {
        "name": view.name,
        "expected": result.subject.wanted.value,
        "target": view.target,
        "zone": view.zone,
    }
    if view.problem or not view.servers:
        yield {
            **about,
            "state": ServerState.UNKNOWN.value,
            "about": view.problem,
            "checked_at": view.at,
        }
    for seen in view.servers:
        yield {
            **about,
            "server": seen.server,
            "address": seen.address,
            "state": seen.state.value,
            "ttl": seen.ttl,
            "serial": seen.serial,
            "fault": seen.fault,
            "about": seen.about,
            "text": seen.text,
            "checked_at": seen.at,
        }


def _sentences(results: Iterable[_Result], output_format: str) -> Iterator[str]:
    """Faults; and notes for people."""
    for result in results:
        view = result.examination.view
        wanted = [seen for seen in view.servers if seen.state is result.subject.wanted]
        right = {seen.about for seen in wanted}
        if output_format == "table":
            yield from (about for about in view.complaints if about not in right)
            yield from (f"note: {note}" for note in result.examination.notes)


def _say_sum(results: list[_Result]) -> None:
    if not results:
        click.echo("no key is published; `carbonseal keys list` shows what there is", err=True)
    if len(results) < 2:
        return
    counts = [sum(result.status == status for result in results) for status in range(4)]
    click.echo(
        f"{len(results)} keys: {counts[RIGHT]} right, {counts[WRONG]} wrong,"
        f" {counts[NOT_YET]} not everywhere, {counts[UNREACHABLE]} not known",
        err=True,
    )
