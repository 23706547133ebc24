"""Our configuration file, written from a plan: YAML with a comment for everything worth knowing.

Promises: what it returns was read back and is valid; every value stands in quotes that YAML cannot
misread, and nothing of the old configuration can break out of a comment.

Raises: `errors.DataError` when no domain is known to be ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from carbonseal.keys import tables
from carbonseal.milter.migrate import plan as plans
from carbonseal.milter.migrate.plan import Fate, Note, Plan
from carbonseal.policies import signing

_WIDTH = 98  # of a comment's text


@dataclass(frozen=True, slots=True)
class Places:
    """Where our own things are, and what the old configuration cannot say."""

    keys: str
    socket: str | None = None  # None: the default
    socket_group: str | None = None
    spool: str | None = None
    database: str | None = None
    domains: tuple[str, ...] = ()  # besides those of the plan
    archive: tuple[str, ...] = ()  # mailboxes
    dry_run: bool = False


def text(plan: Plan, places: Places, *, missing_keys: bool) -> str:
    """The file; with `missing_keys`, `config check` will ask for the key of each rule."""
    sections = (
        _head(plan),
        _milter(places),
        _ours(plan, places),
        _signing(plan, places, explicit=missing_keys),
        _archive(places),
        _record(places),
        _failure(plan),
    )
    return "\n".join(line for section in sections for line in (*section, "")).rstrip() + "\n"


def _head(plan: Plan) -> Iterator[str]:
    yield f"# Carbonseal: made from {_plain(plan.source)} ({plan.signer}) by carbonseal migrate."
    yield "# All keys with their meaning: README, Configuration; defaults: carbonseal config show."
    for fate in (Fate.NO_EQUAL, Fate.DIFFERENT):
        notes = [note for note in plan.notes if note.fate is fate]
        if notes:
            yield "#"
            yield f"# What {fate}:"
            for note in notes:
                yield from _comment(
                    f"{note.source}: {note.name}: {note.sentence}", "#  - ", "#    "
                )


def _milter(places: Places) -> Iterator[str]:
    yield "milter:"
    yield "  # Beside the old signer: changes no mail, records what would have been done."
    yield f"  dry_run: {'true' if places.dry_run else 'false'}"
    if places.socket is not None:
        yield f"  socket: {_quoted(places.socket)}"
    if places.socket_group is not None:
        yield f"  socket_group: {_quoted(places.socket_group)}"


def _ours(plan: Plan, places: Places) -> Iterator[str]:
    yield "ours:"
    yield "  # The domains that were signed for.  Mail with an end outside crosses the boundary, so"
    yield "  # add those of yours that receive mail only."
    yield f"  domains: {_list(dict.fromkeys((*plan.domains, *places.domains)))}"
    if plan.others:
        yield "  # Signed for, but by another domain; add those that are yours:"
        yield from _comment(", ".join(plan.others), "  #   ", "  #   ")
    yield "  # Clients that may speak for us without a login."
    yield f"  networks: {_list(plan.clients.networks)}"
    if plan.listeners:
        yield "  # {daemon_name}s of smtpd services whose clients may speak for us."
        yield f"  listeners: {_list(plan.listeners)}"
    yield "  # A SASL login proves that the client may speak for us."
    yield f"  authenticated: {'true' if plan.authenticated else 'false'}"
    if plan.clients.local_submission:
        yield "  # Mail of sendmail(1): any local user may speak for us."
        yield "  local_submission: true"
    if plan.peers:
        yield "  # Recorded, but neither signed nor copied."
        yield f"  peers: {_list(plan.peers)}"


def _signing(plan: Plan, places: Places, *, explicit: bool) -> Iterator[str]:
    yield "signing:"
    yield f"  keys: {_quoted(places.keys)}"
    yield f"  canonicalization: {plan.canonicalization}"
    if plan.expires_after is not None:
        yield f"  expires_after: {plan.expires_after}s"
    oversigned = [name for name in signing.OVERSIGNED if name not in plan.not_signed]
    if plan.oversign or plan.not_signed:
        yield f"  oversign: {_list((*oversigned, *plan.oversign))}"
    if plan.oversign_absent or plan.not_signed:
        absent = [name for name in oversigned if name not in signing.LATE_ADDITIONS]
        yield f"  oversign_absent: {_list((*absent, *plan.oversign_absent))}"
    rules = list(plans.rules(plan, explicit=explicit))
    if not rules:
        yield "  # Each author is signed for by his own domain, if it has an active key."
        yield "  rules: []"
        return
    yield "  # Who is signed for by whom; the first match counts."
    yield "  rules:"
    for author, sdid, remarks in rules:
        for remark in remarks:
            yield from _comment(remark, "    # ", "    # ")
        yield f"    - author: {_quoted(author)}"
        yield f"      sdid: {'null' if sdid is None else _quoted(sdid)}"


def _archive(places: Places) -> Iterator[str]:
    yield "archive:"
    if places.archive:
        yield f"  recipients: {_list(places.archive)}"
        return
    yield "  # Nothing is copied: name a mailbox in `recipients` and take the next line out."
    yield "  when: never"


def _record(places: Places) -> Iterator[str]:
    if places.spool is not None or places.database is not None:
        yield "record:"
    if places.spool is not None:
        yield f"  spool: {_quoted(places.spool)}"
    if places.database is not None:
        yield f"  database: {_quoted(places.database)}"


def _failure(plan: Plan) -> Iterator[str]:
    if plan.failure:
        yield "failure:"
    for name, answer in plan.failure:
        yield f"  {name}: {answer}"


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join(map(_quoted, values)) + "]"


def _quoted(value: str) -> str:
    """A double-quoted YAML scalar: JSON is one, and has no control characters and no surprises."""
    return json.dumps(value, ensure_ascii=False) if value.isprintable() else json.dumps(value)


def _plain(value: object) -> str:
    return tables.presentable(str(value)).replace("\n", " ")


def _comment(said: str, first: str, others: str) -> Iterator[str]:
    lead, line = first, ""
    for word in _plain(said).split():
        if line and len(lead) + len(line) + 1 + len(word) > _WIDTH:
            yield lead + line
            lead, line = others, ""
        line = f"{line} {word}" if line else word
    if line:
        yield lead + line


def listed(notes: Sequence[Note]) -> Iterator[dict[str, object]]:
    """Notes as rows of a table: what needs attention first."""
    order = {fate: number for number, fate in enumerate((Fate.NO_EQUAL, Fate.DIFFERENT))}
    for note in sorted(notes, key=lambda note: order.get(note.fate, len(order))):
        yield {
            "what": note.name,
            "outcome": note.fate.value,
            "source": note.source,
            "remarks": note.sentence,
        }
