"""What was last seen of one key, as a file beside its record: DNS by server, relays by name.

Promises: `to_json` and `from_json` are inverse; a file that is missing, damaged or from another
version is the same as nothing seen (it is seen again), never an error.  Goal and stage are not in
here: an observation can be lost without harm.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from carbonseal.policies.key_life import DnsView, RelayState, ServerState, ServerView
from carbonseal.policies.rotation import Standing

VERSION: Final = 1
MAX_FILE: Final = 1024 * 1024  # octets


@dataclass(frozen=True, slots=True)
class RelayView:
    """What one relay did with the key."""

    relay: str
    state: RelayState
    since: datetime  # the first time it was seen so
    at: datetime  # the last time
    is_queued: bool = False  # it held mail from before the key stopped
    queued_at: datetime | None = None  # the first look after that, or the last so far


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything seen of one key."""

    dns: DnsView | None = None
    relays: tuple[RelayView, ...] = ()
    trouble: str = ""  # why the last change of DNS was not taken
    trouble_standing: Standing = Standing.DONE

    @property
    def queued_at(self) -> datetime | None:
        """Until when some relay may have held mail from before the key stopped; None: not seen."""
        return max((one.queued_at for one in self.relays if one.queued_at), default=None)


NOTHING: Final = Observed()


def to_json(seen: Observed) -> bytes:
    """The content of the file."""
    about = {"v": VERSION, **dataclasses.asdict(seen)}
    return (json.dumps(about, indent=1, default=_text) + "\n").encode("ascii")


def from_json(content: bytes) -> Observed:
    """What is in a file; `NOTHING` where that cannot be read."""
    try:
        about = json.loads(content)
        if about["v"] != VERSION:
            return NOTHING
        dns = None if about["dns"] is None else _dns_view(about["dns"])
        relays = tuple(_relay_view(one) for one in about["relays"])
        trouble, standing = str(about.get("trouble", "")), int(about.get("trouble_standing", 0))
        return Observed(dns, relays, trouble, Standing(standing))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return NOTHING


def follow(
    before: Observed,
    relay: str,
    state: RelayState,
    at: datetime,
    *,
    is_queued: bool | None = False,
    now: datetime | None = None,
) -> RelayView:
    """The view of a relay, its `since` kept as long as the state stays the same.

    `at`: when it was asked.  `is_queued`: whether it holds mail from before the key stopped; None
    if nobody knows.  `now`: after that was looked at.
    """
    known = next((one for one in before.relays if one.relay == relay), None)
    was_queued = known is not None and known.is_queued
    view = RelayView(
        relay,
        state,
        known.since if known is not None and known.state is state else at,
        at,
        is_queued=was_queued if is_queued is None else is_queued,
        queued_at=known.queued_at if known is not None else None,
    )
    # When it left is not known: between the last look that saw it and this one.
    return dataclasses.replace(view, queued_at=now or at) if was_queued or view.is_queued else view


def _dns_view(about: dict[str, Any]) -> DnsView:
    servers = tuple(
        ServerView(**{**one, "state": ServerState(one["state"]), "at": _time(one["at"])})
        for one in about["servers"]
    )
    return DnsView(**{**about, "at": _time(about["at"]), "servers": servers})


def _relay_view(about: dict[str, Any]) -> RelayView:
    state = RelayState(about["state"])
    queued_at = about.get("queued_at")
    return RelayView(
        str(about["relay"]),
        state,
        _time(about["since"]),
        _time(about["at"]),
        is_queued=about.get("is_queued") is True,
        queued_at=None if queued_at is None else _time(queued_at),
    )


def _text(value: object) -> str:
    assert isinstance(value, datetime)
    return value.astimezone(UTC).isoformat()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
