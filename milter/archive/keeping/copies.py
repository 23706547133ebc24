"""What the spool still has of a person: loaded segments and lines that were set aside.

Loaded segments are kept for `record.keep_loaded`, so that a lost database can be filled again; a
person who was erased from the database must not come back that way.  A segment that names the
person is written anew with those lines as the database has them now; its other lines stay octet by
octet.  Its seal was made of the lines as they were: its footer has their leaves, and `note` is told
what becomes of it before it is replaced, so that whoever fills a database from it can tell what the
erasure did from what somebody else did (`evidence.rewriting`).

Promises: a file is replaced whole or not at all, keeps its time (and so is removed when it would
have been) and its owner; doing it twice changes nothing.  A line set aside that names the person is
removed, as nobody can tell what it is.

Raises: CopiesUnreachable where the spool cannot be read or written.

Does not: touch segments that wait to be loaded (`waiting` counts what names the person there), or
spools of other relays: the same command has to be given there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from carbonseal.keys import durable
from carbonseal.milter.archive import merkle, open_segment, record, segments
from carbonseal.milter.archive.evidence import leaf, rewriting, seal
from carbonseal.milter.archive.evidence.rewriting import Rewriting
from carbonseal.milter.archive.keeping import person
from carbonseal.milter.archive.keeping.person import Named, Person
from carbonseal.milter.archive.segments import Segment
from carbonseal.policies.errors import TryLater

Record = dict[str, Any]
Erase = Callable[[Record], Record]
Note = Callable[[Sequence[Rewriting]], None]  # durable when it returns

# In one event of the audit.
_AT_ONCE, _LINES_AT_ONCE = 20, 2000  # segments, and changed lines of them
_SECRET = 32  # octets


class CopiesUnreachable(TryLater):
    """The spool cannot be looked through, so copies of the person could stay in it."""


@contextmanager
def _reaching(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise CopiesUnreachable(
            f"{fault.filename or directory}: the spool cannot be looked through for copies "
            f"({fault.strerror}); run this as the writer's user or as root, and make room if it is "
            "full"
        ) from None


@dataclass(frozen=True, slots=True)
class Copies:
    """What was found in the spool, and rewritten or removed if that was asked for."""

    segments: int = 0
    lines: int = 0
    set_aside: int = 0
    waiting: int = 0  # records not loaded yet; they are never touched

    @property
    def names_anybody(self) -> bool:
        """Whether anything was found."""
        return bool(self.lines or self.set_aside or self.waiting)

    def and_then(self, later: Copies) -> Copies:
        """All that was done, and what waits after it."""
        return Copies(
            self.segments + later.segments,
            self.lines + later.lines,
            self.set_aside + later.set_aside,
            later.waiting,
        )


def look(directory: Path, who: Named) -> Copies:
    """What names the person, without touching it."""
    with _reaching(directory):
        # First what waits: a segment that is loaded meanwhile is counted twice, and never missed.
        count_waiting = waiting(directory, who)
        counts = [_named_lines(one, who) for one in segments.loaded(directory)]
        return Copies(
            segments=sum(1 for count in counts if count),
            lines=sum(counts),
            set_aside=sum(1 for _ in _set_aside(directory, who)),
            waiting=count_waiting,
        )


def rewrite(directory: Path, who: Person, erase: Erase, note: Note) -> Copies:
    """Take the person out of every copy; the counts are of what was changed now."""
    with _reaching(directory):
        return _rewritten(directory, who, erase, note)


def _rewritten(directory: Path, who: Person, erase: Erase, note: Note) -> Copies:
    touched = lines = 0
    count_waiting = waiting(directory, who)  # first, as in `look`
    fresh: list[_Fresh] = []
    secret = os.urandom(_SECRET)
    try:
        for one in segments.loaded(directory):
            if not _named_lines(one, who):
                continue
            touched += 1
            fresh.append(_written_anew(one, who, erase, secret))
            lines += fresh[-1].count
            if len(fresh) == _AT_ONCE or sum(it.count for it in fresh) >= _LINES_AT_ONCE:
                _replace(fresh, note)
        _replace(fresh, note)
    finally:
        for left in fresh:
            left.path.unlink(missing_ok=True)
    removed = list(_set_aside(directory, who))
    for path in removed:
        path.unlink(missing_ok=True)
    if removed:
        durable.sync_directory(directory / segments.SET_ASIDE)
    return Copies(touched, lines, len(removed), count_waiting)


def waiting(directory: Path, who: Named) -> int:
    """Records that name the person and are not loaded yet."""
    return sum(_named_lines(one, who) for one in segments.pending(directory))


def _named_lines(segment: Segment, who: Named) -> int:
    return sum(1 for entry in segments.read(segment, 0) if _is_named(entry, who))


def _is_named(entry: segments.Entry, who: Named) -> bool:
    if entry.is_footer:
        return False
    text = entry.line.decode("ascii", "surrogateescape")
    # Most lines name nobody of that name, and hold nothing encoded in which they could.
    lower = text.lower()
    domain = who.parts[0]
    is_plain = "".join(who.parts).isascii() and "xn--" not in domain and "\\u" not in lower
    if is_plain and "=?" not in lower and not all(one in lower for one in who.parts):
        return False
    return person.names(entry.content, who) if entry.fault is None else who.is_named_in(text)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """What is to take the place of a segment."""

    segment: Segment
    path: Path
    count: int  # lines that are others
    rewriting: Rewriting


def _replace(fresh: list[_Fresh], note: Note) -> None:
    """Put these where the old ones are, and forget them.

    Noted before: who is interrupted between leaves a note of what nobody has, and segments that are
    as they were.
    """
    if not fresh:
        return
    note([one.rewriting for one in fresh])
    for one in fresh:
        os.replace(one.path, one.segment.path)
    durable.sync_directory(fresh[0].path.parent)
    fresh.clear()


def _written_anew(segment: Segment, who: Person, erase: Erase, secret: bytes) -> _Fresh:
    """Write the segment anew, beside the old one."""
    status = os.stat(segment.path)
    temporary = segment.path.with_name(segment.name + ".rewriting")
    tree, count = merkle.Tree(), 0
    before = seal.survey(segment)
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w+b") as stream:
        for entry in segments.read(segment, 0):
            if entry.is_footer:
                continue
            line = entry.line
            if _is_named(entry, who):
                line = _without(entry, who, erase, secret)
                count += 1
            if entry.fault is None:
                tree.add(line)
            stream.write(line)
        stream.flush()
        after = seal.survey(Segment(segment.name, temporary, True))
        told = rewriting.footer_of(before, after)
        stream.write(open_segment.footer(segment.name, tree, told))
        os.fchmod(stream.fileno(), status.st_mode & 0o777)
        if os.geteuid() == 0:
            os.fchown(stream.fileno(), status.st_uid, status.st_gid)
        stream.flush()
        os.fsync(stream.fileno())
    os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
    return _Fresh(segment, temporary, count, Rewriting.between(before, after))


def _without(entry: segments.Entry, who: Person, erase: Erase, secret: bytes) -> bytes:
    if entry.fault is not None:  # no record: nothing can be kept of it
        return b"erased\n"
    changed = erase(entry.content)
    if "salt" in changed:  # the old one would let people try out names; none, what is left
        changed = {**changed, "salt": _new_salt(entry.line, secret)}
    return record.encode(changed)


def _new_salt(line: bytes, secret: bytes) -> str:
    """The same for a line that stands twice: one that repeats another has to go on doing so."""
    return sha256(secret + line).digest()[: leaf.SALT].hex()


def _set_aside(directory: Path, who: Named) -> Iterator[Path]:
    try:
        paths = sorted((directory / segments.SET_ASIDE).iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        text = path.read_bytes().decode("ascii", "surrogateescape")
        if path.is_file() and who.is_named_in(text):
            yield path
