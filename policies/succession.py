"""When the next key of a signing domain is to be begun, or a standby is to take the place.

Promises: for each algorithm by itself, nothing is begun while a key for the same purpose is on its
way.  A successor waits for its predecessor's end, unless somebody asked for it now or the
predecessor may not sign: then whoever is nearest to signing goes first.  What somebody asked for
twice is one key: an order given again goes on with the key that is on its way.

Source: RFC 7583 section 3.3.1 (the successor is published before the predecessor's end).

Does not: say when a key that was begun may go on (`rotation`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from carbonseal.policies import key_life, signing_request
from carbonseal.policies.key_life import Goal, KeyLife, Stage
from carbonseal.policies.rotation_waits import Rules, span, stamp

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEAREST_FIRST: Final = (Stage.READY, Stage.PUBLISHED, Stage.PUBLISHING, Stage.GENERATED)


@dataclass(frozen=True, slots=True)
class Successor:
    """A key that is to be begun, or one that is there and is to be given a goal."""

    algorithm: str
    goal: Goal
    activate_from: datetime | None
    why: str
    at: datetime  # when it is due; in the future: only a plan
    selector: str | None = None  # of the standby that takes the place; None: a new key


def first(now: datetime) -> Successor:
    """The first key of an SDID: RSA, which every receiver verifies (RFC 8301 section 3.1)."""
    why = "no key signs yet, and somebody asked for one"
    return Successor(signing_request.RSA, Goal.ACTIVE, None, why, now)


def successors(
    keys: Sequence[KeyLife],
    rules: Rules,
    now: datetime,
    *,
    forced: bool = False,
    asked_for: Collection[str] = (),
) -> tuple[Successor, ...]:
    """The next keys of one SDID, for each algorithm it signs with.

    `forced` begins now what would be begun later; but where a selector of `asked_for` signs by now,
    that is the key that was meant (`on_their_way`), and no other is begun.
    """
    signing: dict[str, KeyLife] = {}
    for key in keys:
        if key.stage is Stage.ACTIVE and not key.is_compromised:
            other = signing.get(key.algorithm)
            if other is None or _activation(key) >= _activation(other):
                signing[key.algorithm] = key
    found: list[Successor] = []
    for algorithm in sorted(signing, reverse=True):
        coming = [key for key in keys if key.algorithm == algorithm and _is_coming(key)]
        coming.sort(key=lambda key: _NEAREST_FIRST.index(key.stage))
        now_signing = signing[algorithm]
        is_forced = forced and now_signing.selector not in asked_for
        found += _next(now_signing, coming, rules, now, forced=is_forced)
    return tuple(found)


def on_their_way(keys: Sequence[KeyLife]) -> tuple[str, ...]:
    """The selectors of the keys that are to sign and do not yet: rotations that are under way."""
    return tuple(key.selector for key in keys if _is_coming(key) and key.goal is Goal.ACTIVE)


def _next(
    signing: KeyLife, coming: Sequence[KeyLife], rules: Rules, now: datetime, *, forced: bool
) -> list[Successor]:
    standbys = [key for key in coming if key.goal is Goal.READY]
    awaited = [key for key in coming if key.goal is Goal.ACTIVE]
    found = _heir(signing, standbys, awaited, rules, now, forced=forced)
    if found is not None and found.at <= now:
        standbys = [key for key in standbys if key.selector != found.selector]
    kept = [] if found is None else [found]
    if rules.standby and not standbys:
        why = "rotation.standby keeps one key ready"
        kept.append(Successor(signing.algorithm, Goal.READY, None, why, now))
    return kept


def _heir(
    signing: KeyLife,
    standbys: Sequence[KeyLife],
    awaited: Sequence[KeyLife],
    rules: Rules,
    now: datetime,
    *,
    forced: bool,
) -> Successor | None:
    """Who signs next, if that is not settled yet."""
    if signing.refused:
        return _rescuer(signing, standbys, awaited, now)
    if forced:
        return _forced(signing, standbys, awaited, now)
    if awaited:
        return None
    since = _activation(signing)
    ends = since + timedelta(seconds=rules.lifetime)
    why = (
        f"{signing.selector} signs since {stamp(since)}, for {span(rules.lifetime)}"
        f" (rotation.lifetime); its successor is begun {span(rules.lead)} before its end"
        " (rotation.lead)"
    )
    return Successor(
        signing.algorithm,
        Goal.ACTIVE,
        None if ends <= now else ends,
        why,
        ends - timedelta(seconds=rules.lead),
        standbys[0].selector if standbys else None,
    )


def _rescuer(
    signing: KeyLife, standbys: Sequence[KeyLife], awaited: Sequence[KeyLife], now: datetime
) -> Successor | None:
    """Mail goes unsigned: whoever can sign first, without waiting for the predecessor's end."""
    why = f"{signing.selector} may not sign: {signing.refused}"
    ready = [key for key in standbys if key.stage is Stage.READY]
    if awaited and (awaited[0].stage is Stage.READY or not ready):
        return _hastened(awaited[0], why, now)
    nearest = ready or standbys
    selector = nearest[0].selector if nearest else None
    return Successor(signing.algorithm, Goal.ACTIVE, None, why, now, selector)


def _forced(
    signing: KeyLife, standbys: Sequence[KeyLife], awaited: Sequence[KeyLife], now: datetime
) -> Successor | None:
    if awaited:
        why = "somebody asked for it not to wait for its predecessor's end"
        return _hastened(awaited[0], why, now)
    why = f"somebody asked for it; {signing.selector} signs now"
    selector = standbys[0].selector if standbys else None
    return Successor(signing.algorithm, Goal.ACTIVE, None, why, now, selector)


def _hastened(awaited: KeyLife, why: str, now: datetime) -> Successor | None:
    if awaited.activate_from is None:
        return None
    return Successor(awaited.algorithm, Goal.ACTIVE, None, why, now, awaited.selector)


def _is_coming(key: KeyLife) -> bool:
    return (
        key.stage in key_life.BEFORE_ACTIVE
        and key.goal in (Goal.READY, Goal.ACTIVE)
        and not (key.held or key.is_cancelled or key.is_compromised)
    )


def _activation(key: KeyLife) -> datetime:
    return key.activated_at or _LONG_AGO
