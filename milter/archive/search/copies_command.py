"""`carbonseal archive copies`: archive copies that wait or are lost, and what to do about each.

Promises: exit status 0 when there are none, 1 when some are listed.  What is listed comes out of
the archive, where every message of the period is; with --here out of the follower's own short list,
which is a second old, needs no database, and knows this relay's newest only.

Raises: what reading the archive raises; NotFound with --here where nobody follows the log.

See also: `deliveries`; the follower's side, carbonseal.milter.copies.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import click
from sqlalchemy import Connection

from carbonseal.keys import tables
from carbonseal.milter.archive import audit, command_line, deliveries, schema, terms
from carbonseal.milter.archive.search import short
from carbonseal.milter.config import Configuration
from carbonseal.milter.copies import ledger, outages
from carbonseal.milter.copies import state as states
from carbonseal.policies import address, delivery
from carbonseal.policies.address import Address
from carbonseal.policies.delivery import Attempt, Passage, State, Story
from carbonseal.policies.errors import NotFound, UsageError

_FOUND: Final = 1
_DAYS: Final = 7
_PAGE: Final = 500
_COLUMNS: Final = (
    "state",
    "mailbox",
    "last",
    "queue_id",
    "message_id",
    "elsewhere",
    "reply",
)
_EXIT_COLUMNS: Final = ("at", "queue_id", "recipient", "became", "next_hop", "copied", "record_id")
PENDING: Final = frozenset((State.DEFERRED, State.HELD))
# A message that Postfix refused after it was sealed was told so to its sender: nothing is missing.
LOST: Final = delivery.LOST - {State.REFUSED}
_SIGNS: Final = tuple(sorted((PENDING | LOST) & frozenset(schema.DELIVERY_STATES)))


class Context(command_line.Context, Protocol):
    """What this command needs from the command line."""

    @property
    def configuration(self) -> Configuration:
        """The checked configuration.  Raises: ConfigurationError."""


_NOTHING = {
    "": "no archive copy waits or is lost",
    "lost": "no archive copy is lost",
    "pending": "no archive copy waits",
    "exits": "no mail left our domains after it was sealed",
}


@click.command()
@click.option("--since", metavar="TIME", help="Messages from then on; default: the last 7 days.")
@click.option("--until", metavar="TIME", help="Messages before then; a day counts as a whole.")
@click.option("--lost", is_flag=True, help="Only those that nobody will try again.")
@click.option("--pending", is_flag=True, help="Only those that wait in a queue.")
@click.option(
    "--exits",
    is_flag=True,
    help="Instead: mail for inside that left our domains after it was sealed, as by an alias.",
)
@click.option(
    "--here", is_flag=True, help="What the follower of this relay knows; asks no database."
)
@command_line.reason_option
@tables.output_options
@click.pass_obj
def copies(
    context: Context,
    /,
    *,
    since: str | None,
    until: str | None,
    lost: bool,
    pending: bool,
    exits: bool,
    here: bool,
    reason: str,
    output_format: str,
) -> int:
    """List archive copies that wait or are lost, and say how to send them again.  Times are UTC.

    Exit status 0: none.  1: some are listed.
    """
    which = _which(lost=lost, pending=pending, exits=exits)
    if here and which == "exits":
        raise UsageError("--here knows copies only; leave it out to ask the archive for --exits")
    now = datetime.now(UTC)
    first = command_line.moment("--since", since, now) or now - timedelta(days=_DAYS)
    last = command_line.moment("--until", until, now, end_of_day=True)
    command_line.check_order(first, last, since, until)
    wanted = {"lost": LOST, "pending": PENDING}.get(which or "", LOST | PENDING)
    columns = _EXIT_COLUMNS if which == "exits" else _COLUMNS
    if here:
        found = list(_here(context, first, last, wanted))
        tables.write_rows(found, columns, output_format)
    else:
        question = {"since": since, "until": until, "which": which or "all"}
        with (
            command_line.reading(context) as engine,
            audit.asking(context, "copies", question, reason) as asked,
            engine.connect() as connection,
        ):
            if which == "exits":
                rows = _exits(connection, first, last, context)
            else:
                rows = _copies(connection, first, last, wanted)
            found = list(asked.counted(rows))
        tables.write_rows(found, columns, output_format)
    if output_format == "table":
        if not found:
            click.echo(_NOTHING[which or ""], err=True)
        for sentence in _advice(found):
            click.echo(tables.presentable(sentence), err=True)
    return _FOUND if found else 0


def _which(**given: bool) -> str | None:
    """The one that was given, if any.  Raises: UsageError."""
    found = [name for name, is_given in given.items() if is_given]
    if len(found) > 1:
        raise UsageError(
            f"{' and '.join(f'--{name}' for name in found)} contradict each other; give one of "
            "them, or none for the copies that wait and those that are lost"
        )
    return found[0] if found else None


def _here(
    context: Context, first: datetime, last: datetime | None, wanted: Iterable[State]
) -> Iterator[dict[str, Any]]:
    spool = context.configuration.spool_directory
    lists = states.read(spool, states.LISTS)
    about = states.read(spool)
    if not about:
        raise NotFound(
            f"{states.path(spool)}: nobody follows Postfix's log here; start carbonseal-follow, or"
            " ask the archive without --here"
        )
    age = time.time() - about["at"]
    if age > outages.STALE:
        click.echo(f"carbonseal: the follower was heard of {age:.0f} s ago; see its log", err=True)
    for name, state in (("lost", State.BOUNCED), ("waiting", State.DEFERRED)):
        told = lists.get(name)
        for one in ledger.kept(told if isinstance(told, list) else []).values():
            at = datetime.fromtimestamp(one.at, UTC)
            if state in wanted and at >= first and (last is None or at < last):
                yield {
                    "state": "lost" if name == "lost" else state.value,
                    "mailbox": one.mailbox,
                    "since": datetime.fromtimestamp(one.since, UTC),
                    "last": at,
                    "queue_id": one.queue_id,
                    "message_id": _bare(one.message_id),
                    "next_hop": one.next_hop,
                    "reply": one.reply,
                }


def _bare(message_id: str | None) -> str | None:
    """As the archive shows it: without its brackets."""
    return None if message_id is None else message_id.removeprefix("<").removesuffix(">")


def _copies(
    connection: Connection, first: datetime, last: datetime | None, wanted: Iterable[State]
) -> Iterator[dict[str, Any]]:
    for one, story in _stories(connection, _SIGNS, first, last):
        for passage in story.copies:
            if passage.state in wanted:
                yield _copy_row(one, passage, story)


def _copy_row(one: short.Found, passage: Passage, story: Story) -> dict[str, Any]:
    attempt = passage.last[-1] if passage.last else None
    at = attempt.at if attempt is not None else story.facts[-1].at
    return {
        "state": passage.state.value,
        "mailbox": passage.address,
        "last": datetime.fromisoformat(at),
        "queue_id": one.queue_id,
        "message_id": one.message_id,
        "next_hop": None if attempt is None else attempt.next_hop,
        "reply": None if attempt is None else attempt.reply,
        "relay": one.relay,
        "record_id": one.record_id,
        "recorded_at": datetime.fromisoformat(one.recorded_at),
        "reverse_path": one.reverse_path,
        "recipients": one.recipients,
        "elsewhere": [
            other.address
            for other in story.copies
            if other is not passage and other.state is State.DELIVERED
        ],
    }


def _exits(
    connection: Connection, first: datetime, last: datetime | None, context: Context
) -> Iterator[dict[str, Any]]:
    is_ours = _is_ours(context)
    for one, story in _stories(connection, (schema.REDIRECTED,), first, last):
        for attempt in delivery.exits(story, is_ours):
            yield _exit_row(one, attempt)


def _exit_row(one: short.Found, attempt: Attempt) -> dict[str, Any]:
    return {
        "at": datetime.fromisoformat(attempt.at),
        "queue_id": one.queue_id,
        "recipient": attempt.orig_to,
        "became": attempt.to,
        "next_hop": attempt.next_hop,
        "status": attempt.status,
        "copied": bool(one.archive_recipients) or one.archive_addressed,
        "record_id": one.record_id,
        "relay": one.relay,
        "message_id": one.message_id,
        "reverse_path": one.reverse_path,
    }


def _is_ours(context: Context) -> Callable[[str], bool]:
    configuration = context.configuration
    archived = {str(one).lower() for one in configuration.archive.all_recipients()}

    def is_ours(text: str) -> bool:
        found: Address | None = address.parse_path(text).address
        if found is None:
            return False
        # What becomes an archive mailbox is archived, wherever that is.
        is_inside = configuration.ours.domains.match(found.domain) is not None
        return is_inside or str(found).lower() in archived

    return is_ours


def _stories(
    connection: Connection, signs: Sequence[str], first: datetime, last: datetime | None
) -> Iterator[tuple[short.Found, Story]]:
    """Messages of the period of which the log told any of these, the newest first."""
    oldest = _id_at(first)
    before = None if last is None else _id_at(last)
    while True:
        page = deliveries.with_states(signs, connection, before=before, most=_PAGE)
        ids = list(itertools.takewhile(lambda one: one >= oldest, page))
        told = deliveries.told(ids, connection)
        for one in short.in_short(ids, connection):
            yield one, told[one.record_id]
        if len(ids) < _PAGE:
            return
        before = ids[-1]


def _id_at(moment: datetime) -> str:
    return terms.first_record_id(int(moment.timestamp() * 1000))


def _advice(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What to do about what was listed."""
    waiting = sum(one.get("state") in PENDING for one in found)
    lost = sum("state" in one for one in found) - waiting
    if waiting:
        yield (
            f"{waiting} wait: Postfix tries them again by itself; to try one now: postqueue -i"
            " QUEUE_ID; to let one go that is held: postsuper -H QUEUE_ID"
        )
    if lost:
        yield (
            f"{lost} lost: the message itself went to its recipients; find it by its Message-ID in"
            " the sender's or a recipient's mailbox (carbonseal archive show QUEUE_ID names them),"
            " save it, and hand it in: sendmail -i -f '<>' -N never -- MAILBOX < FILE"
        )
    if any("became" in one for one in found):
        yield (
            "A copy cannot be made afterwards, for the text is gone: where copied says no, let the"
            " alias point at an address of its own that crosses the boundary, or archive.when be"
            " always"
        )
