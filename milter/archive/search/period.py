"""Times as people write them: a year, a month, a day, a moment, or so long ago.

Promises: UTC where no zone is given; what is written less precisely is the whole of it: `2026-03`
is a month.  "So long ago" is counted from the `now` that is passed in, never from a clock.

Raises: DataError, one sentence.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from carbonseal.policies.errors import DataError

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)


def period(name: str, text: str, now: datetime | None = None) -> tuple[datetime, datetime]:
    """First moment of what `text` means, and the first after it; the same for a moment.

    Raises: DataError, which begins with `name`.
    """
    try:
        return _period(text.strip(), now)
    except (ValueError, OverflowError):
        raise DataError(
            f"{name} {text[:80]!r} is no time; write 2026-11-21, 2026-11-21T10:00Z or 7d"
        ) from None


def moment(name: str, text: str, now: datetime | None = None) -> datetime:
    """The first moment of what `text` means.  Raises: DataError."""
    return period(f"{name}:", text, now)[0]


def _period(text: str, now: datetime | None) -> tuple[datetime, datetime]:
    ago = _AGO.fullmatch(text)
    if ago and now is not None:
        found = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return found, found
    date = _DATE.fullmatch(text)
    if date is None:
        found = datetime.fromisoformat(text)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return found.astimezone(UTC), found.astimezone(UTC)
    year, month, day = (None if part is None else int(part) for part in date.groups())
    first = datetime(year or 0, month or 1, day or 1, tzinfo=UTC)
    if day is not None:
        return first, first + timedelta(days=1)
    if month is not None:
        return first, (first + timedelta(days=31)).replace(day=1)
    return first, first.replace(year=first.year + 1)
