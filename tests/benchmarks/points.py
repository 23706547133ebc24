"""What is measured: each point is one kind of message at one number of connections.

Does not: measure (`turns` does).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

KIB, MIB = 1024, 1_000_000
Option = str | int | float


@dataclass(frozen=True, slots=True)
class Point:
    """One kind of load."""

    name: str  # for --only, and in the JSON
    title: str  # in tables
    options: Mapping[str, Option] = field(default_factory=dict)  # of the load
    rounds: int = 3
    seconds: float = 0.6  # of one burst
    warm_up: float = 0.0  # seconds of it before these, which count for CPU only
    peers: tuple[str, ...] | None = None  # besides Carbonseal; None: all
    # Postfix folds lines over 998 octets on their way out, which breaks any signature: Carbonseal
    # reads them like all others and then leaves the message unsigned, with the reason on record.
    # Its peers sign.
    is_unsignable: bool = False
    # Where the body is small, a milter that records nothing shows what the rest of ours costs.
    has_floor: bool = False

    def words(self) -> list[Option]:
        """The load's options."""
        pairs = {
            "seconds": self.seconds,
            "warm-up": self.warm_up,
            "per-connection": PER_CONNECTION,
            **self.options,
        }
        return [word for name, value in pairs.items() for word in (f"--{name}", value)]


# Messages of one SMTP session.  Sessions end, so that the kernel deals connections out to the
# processes of a milter anew: with endless ones a single unlucky deal would decide a whole run.
PER_CONNECTION = 25
# Carbonseal's writer gathers records for most of a second: at the beginning of a burst it has
# nothing to do, and a rate without its work is none that lasts.
WARM_UP = 1.0

HEADLINE = Point(
    "4K",
    "4 KB text, 8 connections",
    {"size": 4 * KIB, "connections": 8},
    rounds=7,
    seconds=2.2,
    warm_up=WARM_UP,
    has_floor=True,
)
MEGABYTE = Point(
    "1M", "1 MB text, 8 connections", {"size": MIB, "connections": 8, "per-connection": 5}
)
HTML = Point(
    "1M-html",
    "1 MB HTML full of spaces, 8 connections",
    {"size": MIB, "connections": 8, "body": "html", "per-connection": 5},
)
POINTS = (
    Point(
        "1K",
        "1 KB text, 8 connections",
        {"size": KIB, "connections": 8},
        warm_up=WARM_UP,
        has_floor=True,
    ),
    HEADLINE,
    Point(
        "4K-1",
        "4 KB text, 1 connection",
        {"size": 4 * KIB, "connections": 1},
        rounds=5,
        has_floor=True,
    ),
    Point(
        "4K-32",
        "4 KB text, 32 connections",
        {"size": 4 * KIB, "connections": 32},
        rounds=5,
        warm_up=WARM_UP,
        has_floor=True,
    ),
    Point(
        "64K",
        "64 KB text, 8 connections",
        {"size": 64 * KIB, "connections": 8},
        warm_up=WARM_UP,
        has_floor=True,
    ),
    MEGABYTE,
    Point("10M", "10 MB text, 8 connections", {"size": 10 * MIB, "connections": 8}, seconds=1.0),
    HTML,
    Point(
        "1M-base64",
        "1 MB base64, 8 connections",
        {"size": MIB, "connections": 8, "body": "base64", "per-connection": 5},
    ),
    Point(
        "1M-blanks",
        "1 MB of spaces in lines of 998, 8 connections",
        {"size": MIB, "connections": 8, "body": "blanks", "per-connection": 5},
    ),
    Point(
        "1M-spaces",
        "1 MB of spaces on one line, 8 connections",
        {"size": MIB, "connections": 8, "body": "spaces", "per-connection": 5},
        is_unsignable=True,
    ),
)
QUICK = (
    dataclasses.replace(HEADLINE, rounds=3, peers=("OpenDKIM",), has_floor=False),
    Point("1M", MEGABYTE.title, MEGABYTE.options, peers=("OpenDKIM",)),
    Point("1M-html", HTML.title, HTML.options, peers=("OpenDKIM",)),
)


@dataclass(frozen=True, slots=True)
class Growth:
    """Time per message while one thing about it grows; one connection, so that time is work."""

    name: str
    title: str
    option: str  # of the load
    steps: tuple[int, ...]
    per: tuple[float, str]  # what the slope is given for: 1,000 recipients
    few: tuple[int, ...] = ()  # the steps at which the peers are measured

    def point(self, step: int) -> Point:
        """One step of it."""
        options: dict[str, Option] = {"connections": 1, "size": 4 * KIB, self.option: step}
        # Short, and more of them: the clock of a machine moves more between bursts than within one.
        return Point(f"{self.name}-{step}", self.title, options, seconds=0.15)


GROWTHS = (
    Growth(
        "headers",
        "Time per message against header fields",
        "headers",
        (10, 500, 1_000, 2_000, 3_000, 4_000, 5_000),
        (1_000, "1,000 fields"),
        (10, 1_000, 5_000),
    ),
    Growth(
        "recipients",
        "Time per message against recipients",
        "recipients",
        (1, 500, 1_000, 2_000, 3_000, 4_000, 5_000),
        (1_000, "1,000 recipients"),
        (1, 1_000, 5_000),
    ),
    Growth(
        "size",
        "Time per message against octets of body",
        "size",
        (4 * KIB, 2 * MIB, 4 * MIB, 6 * MIB, 8 * MIB, 10 * MIB),
        (MIB, "megabyte"),
        (4 * KIB, 2 * MIB, 10 * MIB),
    ),
)
