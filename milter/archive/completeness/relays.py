"""What is known of each relay beside its mail: since when, and until when, its log and records are
loaded, and when its milter could not be reached.

The archive says since when; the spool of this host, where it may be read, says what waits there.
Of relays whose spool is elsewhere the last quarter of an hour may not be loaded yet.

Raises: what the database raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, case, func, select

from carbonseal.milter.archive import record, schema, segments
from carbonseal.milter.archive.completeness import finding
from carbonseal.policies import completeness
from carbonseal.policies.completeness import Outage, Relay, Way

OF_EVENTS = ("-follow", "-import")  # end the names of segments that hold events and no records
_ELSEWHERE = timedelta(minutes=15)
_LONG = timedelta(hours=1)
_LAG = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What this host's spool and follower say."""

    loaded_until: str | None  # records of later wait in the spool
    followed_until: str | None  # what the log says of later was not read, or waits in the spool
    outages: tuple[Outage, ...]


class Relays:
    """The relays of an archive."""

    def __init__(
        self,
        connection: Connection,
        now: datetime,
        spool: Path | None,
        state: Mapping[str, Any],
        only: str | None = None,
    ) -> None:
        """`spool`: this host's, None where it cannot be read; `state`: what its follower says."""
        self._only = only
        self._begun = _begun(connection)
        elsewhere = _text(now - _ELSEWHERE)
        here = Waiting(elsewhere, elsewhere, ()) if spool is None else _waiting(spool, state)
        if len(self.names) > 1:
            here = Waiting(
                _first(here.loaded_until, elsewhere),
                _first(here.followed_until, elsewhere),
                here.outages,
            )
        self._here = here
        self._is_behind = here.followed_until is not None and here.followed_until < _text(
            now - _LONG
        )
        self._known: dict[str, Relay] = {}

    @property
    def names(self) -> set[str]:
        """Those of which anything was loaded."""
        return {relay for relay, _ in self._begun}

    def is_wanted(self, relay: str) -> bool:
        """Whether mail of this relay is looked at."""
        return self._only in (None, relay)

    def of(self, relay: str, ways: set[Way] | None = None) -> Relay:
        """One relay; `ways` on which mail with a record came."""
        known = self._known.get(relay)
        if known is None or ways is not None:
            known = self._known[relay] = Relay(
                first_record=_as_logged(self._begun.get((relay, False))),
                first_fact=self._begun.get((relay, True)),
                loaded_until=_as_logged(self._here.loaded_until),
                followed_until=self._here.followed_until,
                is_behind=self._is_behind,
                recorded=frozenset(ways or ()),
                outages=self._here.outages,
            )
        return known


def _as_logged(at: str | None) -> str | None:
    """The earliest that a log, which may cut times to seconds, says of that moment."""
    if at is None:
        return None
    return record.timestamp(datetime.fromisoformat(at).timestamp() - 1.0)


def _begun(connection: Connection) -> dict[tuple[str, bool], str]:
    """When the first segment of each relay was begun, of records and of events."""
    columns = schema.segment.c
    is_of_events = case(
        *((columns.name.like(f"%{suffix}"), 1) for suffix in OF_EVENTS), else_=0
    ).label("is_of_events")
    query = select(columns.relay, is_of_events, func.min(columns.name))
    found = {}
    for relay, kind, name in connection.execute(query.group_by(columns.relay, is_of_events)):
        at = _begun_at(name)
        if at is not None:
            found[relay, bool(kind)] = at
    return found


def _begun_at(name: str) -> str | None:
    try:
        return finding.time_of(name[:26])
    except ValueError:
        return None


def _waiting(spool: Path, state: Mapping[str, Any]) -> Waiting:
    pending = [(one.name.endswith(OF_EVENTS), _begun_at(one.name)) for one in _pending(spool)]
    loaded = [at for is_of_events, at in pending if at is not None and not is_of_events]
    followed = [at for is_of_events, at in pending if at is not None and is_of_events]
    read = _read_until(state)
    return Waiting(
        min(loaded, default=None),
        min([*followed, *read], default=None),
        tuple(_outages(state)),
    )


def _pending(spool: Path) -> Iterator[segments.Segment]:
    for one in segments.pending(spool):
        try:
            if one.path.stat().st_size:
                yield one
        except OSError:
            continue  # it was loaded meanwhile


def _read_until(state: Mapping[str, Any]) -> Iterator[str]:
    at, lag = state.get("at"), state.get("lag")
    if isinstance(at, int | float) and isinstance(lag, int | float):
        yield record.timestamp(at - lag - _LAG.total_seconds())


def _outages(state: Mapping[str, Any]) -> Iterator[Outage]:
    told = state.get("milter_faults")
    for one in told if isinstance(told, list) else ():
        if not isinstance(one, dict):
            continue
        since, until = one.get("since"), one.get("until")
        if isinstance(since, str) and isinstance(until, str):
            end = completeness.session_end(datetime.fromisoformat(until).timestamp())
            yield Outage(since, record.timestamp(end))


def _first(one: str | None, other: str) -> str:
    return other if one is None else min(one, other)


def _text(moment: datetime) -> str:
    return record.timestamp(moment.timestamp())
