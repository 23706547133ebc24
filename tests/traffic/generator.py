"""Records of an organisation's mail over three years: as many as wanted, always the same ones.

Promises: the same seed and count give the same records, whichever part is asked for first: mail is
made in parts of PART messages that know nothing of each other, so that several processes can make
them and a long run can go on where it stopped.  Records are complete (version 2) and come in the
order in which the relays sealed them.  With more mail come more people, firms and words, as in
life: the number of people grows with the square root.

Does not: sign, hash bodies, or write a spool (`segments` does).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from traffic import relay
from traffic.mail import Post
from traffic.people import People
from traffic.rhythm import Calendar
from traffic.subjects import Subjects

PART = 20_000  # messages; threads do not reach beyond
_DELAY = 0.4  # seconds from one relay to the next

Record = dict[str, Any]


class World:
    """Everything that the parts have in common."""

    def __init__(self, count: int, seed: int = 1) -> None:
        rng = random.Random(seed)
        self.count = count
        self._seed = seed
        self._calendar = Calendar(count)
        self._topics = Subjects(count, rng)
        self.people = People(count, rng)

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.count // PART)

    def part(self, number: int) -> Iterator[Record]:
        """The records of one part, from 0."""
        rng = random.Random(f"{self._seed}/{self.count}/{number}")
        first, last = number * PART, min((number + 1) * PART, self.count)
        post = Post(self.people, self._topics, rng)
        left = last - first
        for now in self._calendar.moments(first, last, rng):
            if left <= 0:  # some messages were recorded twice, on two relays
                return
            draft = post.next(now)
            yield relay.record(draft, now, rng)
            left -= 1
            if draft.is_passed_on and left:
                yield relay.record_of_hub(draft, now + _DELAY, rng)
                left -= 1


def records(count: int, seed: int = 1) -> Iterator[Record]:
    """`count` records, oldest first."""
    world = World(count, seed)
    for number in range(world.parts):
        yield from world.part(number)
