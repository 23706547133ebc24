"""What the workers count about the mail, in memory they share with whoever looks.

Layout: one anonymous shared mapping, made by the supervisor before it forks: a place for each
worker that may live at one time, of 64-bit cells only one process ever adds to.  A worker that is
restarted goes on in the place of its predecessor, so that no count ever falls.

Promises: counting takes no lock, no system call and no memory (the first message of a domain takes
a lock): a message costs some microseconds.
Domains are counted by name only if they are our own signing domains, and no more than
`MAX_DOMAINS` of them; nothing a stranger writes becomes a name here.  Memory that no worker has
used stays untouched.

It is no file on a disk: the kernel makes whoever writes to a mapped page wait while that page is on
its way to the disk, which on a relay that syncs all the time would be the mail.

Does not: look after dead workers (`board` knows who lives), or compute anything from the counts.

The threads of one worker add without a lock.  The interpreter lets no other thread in between
reading and writing a cell (it looks for that at calls and at the ends of loops only), and a test
with many threads would find an interpreter that does.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

try:
    from carbonseal.milter.status import _tally as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

CROSSINGS: Final = ("internal", "outbound", "inbound", "transit", "unknown")
DISPOSITIONS: Final = ("accept", "tempfail", "reject")
PHASES: Final = ("header", "body", "decide", "sign", "record", "whole")
# Why a message left us without a signature of ours: the codes of `reason` that say so.
UNSIGNED: Final = (
    "peer-sealed",
    "no-origin-proof",
    "no-author",
    "several-author-fields",
    "several-authors",
    "group-author",
    "unparsable-author",
    "author-not-allowed",
    "author-exempt",
    "author-not-ours",
    "no-active-key",
    "key-unusable",
    "key-refused",
    "too-many-fields",
    "header-too-large",
    "too-many-recipients",
    "line-too-long",
    "bare-line-ends",
    "disputed-octets",
    "signature-failed",
    "record-not-writable",
    "internal-error",
    "dry-run",
    "other",
)
OTHER: Final = "other"  # every domain that is no signing domain of ours
MAX_DOMAINS: Final = 1024  # in one worker's place, `other` among them

# Histograms: the first bucket ends at 32 microseconds, each at twice the one before, the last but
# one at 16.8 seconds.
_FIRST: Final = 5
BUCKETS: Final = 21
BOUNDS: Final = tuple(2.0 ** (_FIRST + number) / 1e6 for number in range(BUCKETS - 1))  # seconds

_CELL: Final = 8  # octets
_OPENED, _CLOSED, _RECEIVED, _RECORDS_REFUSED, _DOMAINS = range(5)
_MESSAGES: Final = 8
_PHASES_AT: Final = _MESSAGES + len(CROSSINGS) * len(DISPOSITIONS)
_PHASE_CELLS: Final = BUCKETS + 1  # and the sum in microseconds
_DOMAINS_AT: Final = _PHASES_AT + len(PHASES) * _PHASE_CELLS
_NAME_CELLS: Final = 32  # 255 octets of an A-label, and one for its length
_DOMAIN_CELLS: Final = _NAME_CELLS + 1 + len(UNSIGNED)
_CELLS: Final = _DOMAINS_AT + MAX_DOMAINS * _DOMAIN_CELLS
_PAGE: Final = mmap.PAGESIZE
PLACE_OCTETS: Final = -(-_CELLS * _CELL // _PAGE) * _PAGE

_CROSSING: Final = {name: number for number, name in enumerate(CROSSINGS)}
_MESSAGE: Final = {
    (crossing, disposition): _MESSAGES + _CROSSING[crossing] * len(DISPOSITIONS) + number
    for crossing in CROSSINGS
    for number, disposition in enumerate(DISPOSITIONS)
}
_REASON: Final = {code: 1 + number for number, code in enumerate(UNSIGNED)}
_LAST_BUCKET: Final = BUCKETS - 1
_PLACES: Final = (_RECEIVED, _PHASES_AT)  # of the octets, and of the times
_KNOWN: Final = 4096  # kinds of messages that are remembered


# A tuple: a frozen dataclass takes a microsecond more to make, on every message.
class Facts(NamedTuple):
    """What came of one message."""

    crossing: str = "unknown"
    disposition: str = "accept"
    sdid: str = ""  # the domain that would have signed; '' where there is none of ours
    unsigned: str = ""  # why nobody signed, a code of `UNSIGNED`
    is_recorded: bool = True
    sdids: tuple[str, ...] = ()  # that signed, one for each signature


# Of one message: its octets; by the clock of performance, 0 for never, its last recipient and the
# end of its header section; and when its sealing began, was decided and was signed.
Measures = tuple[int, float, float, tuple[float, float, float]]
# In which cells it is one more, and these.
Counted = tuple[list[int], Measures]


def add_plainly(
    cells: memoryview, at: tuple[int, int], counted: Counted, ended: float, last: float
) -> None:
    """Count one message, which came to its end at `ended` and was answered at `last`.

    Both are by the clock of its measures; `at` is the cell of the octets, and that where the
    histograms of `PHASES` begin.
    """
    ones, (octets, envelope, header, (began, decided, signed)) = counted
    where, place = at
    for cell in ones:
        cells[cell] += 1
    cells[where] += octets
    header = header or ended
    envelope = envelope or header
    times = (header - envelope, ended - header, decided - began, signed - decided)
    for seconds in (*times, last - signed, last - ended):
        micros = int(seconds * 1e6) if seconds > 0 else 0
        bucket = micros.bit_length() - _FIRST
        cells[place + (0 if bucket < 0 else min(bucket, _LAST_BUCKET))] += 1
        cells[place + BUCKETS] += micros
        place += _PHASE_CELLS


add = add_plainly if compiled is None else compiled.add


# All of `Facts`: the first five of them, and the last.
Kind = tuple[tuple[str, str, str, str, bool], tuple[str, ...]]


class _Kinds(dict[Kind, list[int]]):
    """The cells in which messages are one more, by what came of them.

    A dict that finds out what it does not have: to ask it for what is known, as for nearly each
    message, is no call.
    """

    __slots__ = ("_place",)

    def __init__(self, place: Callable[[str], int]) -> None:
        """`place` says where a domain is counted."""
        self._place = place

    def __missing__(self, kind: Kind) -> list[int]:
        if len(self) >= _KNOWN:
            self.clear()
        about, sdids = kind
        found = self[kind] = self._found(Facts(*about, sdids))
        return found

    def _found(self, about: Facts) -> list[int]:
        found = [_MESSAGE[about.crossing, about.disposition]]
        if about.sdids:
            # Two signatures of one domain sign one message.
            found += [self._place(one) for one in dict.fromkeys(about.sdids)]
        else:
            place = self._place(about.sdid or OTHER)
            found.append(place + _REASON.get(about.unsigned, _REASON[OTHER]))
        if not about.is_recorded:
            found.append(_RECORDS_REFUSED)
        return found


class Tally:
    """The place of one worker: where it counts."""

    __slots__ = ("_beginning", "_cells", "_domains", "cells", "memory", "message")

    def __init__(self, memory: memoryview) -> None:
        """`memory`: of one place, octets; what was counted there before is gone on with."""
        self.memory = memory
        self._cells = memory.cast("Q")
        self._beginning = threading.Lock()
        self._domains = {name: _domain(number) for number, name in enumerate(_names(self._cells))}
        # Where a message of a kind is counted.
        self.cells = _Kinds(self._place)
        # One message, when it came to its end and when it was answered; its cells are what `cells`
        # said.  No method: that would be a frame on the way to `add`.
        self.message: Callable[[Counted, float, float], None] = partial(add, self._cells, _PLACES)
        if not self._domains:
            self._begin(OTHER)
        # The connections of the predecessor went with it.
        self._cells[_CLOSED] = self._cells[_OPENED]

    def opened(self) -> None:
        """A connection of the MTA."""
        self._cells[_OPENED] += 1

    def closed(self) -> None:
        """And its end."""
        self._cells[_CLOSED] += 1

    def _place(self, sdid: str) -> int:
        return self._domains.get(sdid) or self._begin(sdid)

    def failed(self, disposition: str) -> None:
        """A message that a defect of ours kept from being sealed."""
        self._cells[_MESSAGE["unknown", disposition]] += 1
        self._cells[self._domains[OTHER] + _REASON["internal-error"]] += 1

    def _begin(self, sdid: str) -> int:
        """The cells of a domain that was not counted before; those of `other` when all are used."""
        with self._beginning:
            if sdid in self._domains:
                return self._domains[sdid]
            number = self._cells[_DOMAINS]
            name = sdid.encode("ascii", "replace")
            if number >= MAX_DOMAINS or len(name) >= _NAME_CELLS * _CELL:
                place = self._domains[OTHER]
            else:
                place = _domain(number)
                text = struct.pack("<B255s", len(name), name)
                values = struct.iter_unpack("<Q", text)
                for cell, (value,) in enumerate(values, place - _NAME_CELLS):
                    self._cells[cell] = value
                # Last: whoever looks, and a successor if we die here, finds whole names only.
                self._cells[_DOMAINS] = number + 1
            self._domains[sdid] = place
            return place


def _domain(number: int) -> int:
    """Where the counts of a domain begin; its name stands before them."""
    return _DOMAINS_AT + number * _DOMAIN_CELLS + _NAME_CELLS


def _names(cells: memoryview) -> list[str]:
    found = []
    for number in range(min(cells[_DOMAINS], MAX_DOMAINS)):
        place = _domain(number)
        text = struct.pack(f"<{_NAME_CELLS}Q", *cells[place - _NAME_CELLS : place].tolist())
        found.append(text[1 : 1 + text[0]].decode("ascii", "replace"))
    return found


@dataclass(slots=True)
class Histogram:
    """How often a step took how long."""

    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    micros: int = 0  # all together

    @property
    def count(self) -> int:
        """How often at all."""
        return sum(self.buckets)


@dataclass(slots=True)
class Totals:
    """The counts of all workers together, the dead among them."""

    messages: dict[tuple[str, str], int] = field(default_factory=dict)  # crossing, disposition
    signed: dict[str, int] = field(default_factory=dict)  # by signing domain
    unsigned: dict[tuple[str, str], int] = field(default_factory=dict)  # reason, domain
    phases: dict[str, Histogram] = field(default_factory=dict)
    octets: int = 0
    records_refused: int = 0
    connections: int = 0  # ever
    open: int = 0  # now

    @property
    def answered(self) -> int:
        """All messages."""
        return sum(self.messages.values())


def add_up(places: Sequence[memoryview]) -> Totals:
    """The counts in these places."""
    total = Totals(
        messages=dict.fromkeys(_MESSAGE, 0),
        phases={name: Histogram() for name in PHASES},
    )
    for memory in places:
        _add(total, memory.cast("Q"))
    return total


def _add(total: Totals, cells: memoryview) -> None:
    for pair, cell in _MESSAGE.items():
        total.messages[pair] += cells[cell]
    total.octets += cells[_RECEIVED]
    total.records_refused += cells[_RECORDS_REFUSED]
    total.connections += cells[_OPENED]
    total.open += max(0, cells[_OPENED] - cells[_CLOSED])
    for number, name in enumerate(PHASES):
        place = _PHASES_AT + number * _PHASE_CELLS
        histogram = total.phases[name]
        counts = cells[place : place + _PHASE_CELLS].tolist()
        histogram.micros += counts.pop()
        for bucket, count in enumerate(counts):
            histogram.buckets[bucket] += count
    for number, name in enumerate(_names(cells)):
        signed, *unsigned = cells[_domain(number) : _domain(number) + 1 + len(UNSIGNED)].tolist()
        if name != OTHER:
            total.signed[name] = total.signed.get(name, 0) + signed
        for code, count in zip(UNSIGNED, unsigned, strict=True):
            if count:
                pair = (code, name)
                total.unsigned[pair] = total.unsigned.get(pair, 0) + count


def nowhere() -> Tally:
    """A place that nobody looks at."""
    return Tally(memoryview(bytearray(PLACE_OCTETS)))
