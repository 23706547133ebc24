"""A line of a log file before Postfix's own words: when, which program.

Three forms: `Nov 21 17:16:47 host postfix/smtp[123]: ...` (syslogd, and Postfix's maillog_file), in
local time and without a year; RFC 3339 with fractions and zone (rsyslog, syslog-ng); and what the
journal has as fields (`journal` asks for `service` only).

Where a log tells seconds only, the microseconds count the lines within the second, so that what
came later sorts later.  In the first second of a file they begin at a half: the file before it may
have ended in that second.  The missing year is the latest in which the line is not more than a day
ahead of the file's last change.  In the hour that clocks go through twice in autumn such lines
count as of the first time; RFC 3339 knows better.

Does not: read files.  Raises nothing: a line of another form is None.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_LINE = re.compile(
    rb"(?:([A-Z][a-z]{2} [ 0-3]\d \d\d:\d\d:\d\d)"
    rb"|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d))"
    rb" [^ ]{1,255} ([^ :\[\]]{1,100})(?:\[\d{1,10}\])?: "
)
_MONTHS: Final = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}
_LEAD = 86400.0  # seconds that a line may be ahead of the reference
_LEAP_YEARS = 9  # how far back February 29 may be
_HALF = 500_000  # more lines than a log gets in a second
_KNOWN = 4096  # names of programs that are remembered

Framed = tuple[str, str, bytes]  # time (RFC 3339, UTC, microseconds), service, the rest


class Services:
    """Which programs are Postfix's, by the names they log under.

    `syslog_name`, as in main.cf: `postfix` takes postfix/smtp, postfix/submission/smtpd and the
    names of other instances, such as postfix-out/smtp.  The service is the rest: smtp, or
    submission/smtpd where a service of master.cf has a syslog_name of its own.
    """

    def __init__(self, syslog_name: str) -> None:
        self._name = syslog_name
        self._known: dict[bytes, str | None] = {}

    def of(self, program: bytes) -> str | None:
        """The service; None for a program that is not Postfix's."""
        try:
            return self._known[program]
        except KeyError:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            found = self._known[program] = self._service(program.decode("utf-8", "replace"))
            return found

    def _service(self, program: str) -> str | None:
        instance, slash, rest = program.partition("/")
        name = self._name
        if name != instance and name.startswith(f"{instance}/"):  # a name with a slash of its own
            if not program.startswith(f"{name}/"):
                return None
            return program[len(name) + 1 :]
        if not slash or not (instance == name or instance.startswith(f"{name}-")):
            return None
        return rest


class Framing:
    """Takes lines apart; remembers the last second, which thousands of lines share."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.reference = 0.0  # Unix time near which lines without a year belong
        self._last: bytes | tuple[bytes, bytes] = b""
        self._last_at: str | None = None
        self._count = 0  # lines of the last second, where the log tells no more than that
        self._start = 0  # of the count, in the next second

    def split(self, line: bytes) -> Framed | None:
        """Time, service and text of a line; None for what is not a line of Postfix."""
        found = _LINE.match(line)
        if found is None:
            return None
        old, new, fraction, zone, program = found.groups()
        second = old or (new, zone)
        if second != self._last:
            self._last, self._count, self._start = second, self._start, 0
            self._last_at = _with_year(old, self.reference) if old else _in_utc(new, zone)
        else:
            self._count += 1
        service = self._services.of(program)
        if service is None or self._last_at is None:
            return None
        if fraction is None:
            micro = f"{min(self._count, 999_999):06d}"
        else:
            micro = fraction[:6].decode().ljust(6, "0")
        return f"{self._last_at}.{micro}Z", service, line[found.end() :]

    def begin(self, before: bytes, *, is_whole: bool) -> None:
        """Another file, or another place in it.

        `before`: whole lines that stand before it; `is_whole`: all there are.
        """
        self._last, self._start = b"", _HALF if is_whole else 0
        for line in before.split(b"\n"):
            self.split(line)

    def renew(self, reference: float) -> None:
        """Go on with another reference for lines without a year."""
        # Lines of the last second keep the year they had.
        self.reference = reference


def _in_utc(second: bytes, zone: bytes) -> str | None:
    try:
        when = datetime.fromisoformat((second + zone).decode("ascii"))
        return when.astimezone(UTC).isoformat()[:19]
    except (ValueError, OverflowError):
        return None


def _with_year(second: bytes, reference: float) -> str | None:
    text = second.decode("ascii")
    month = _MONTHS.get(text[:3])
    if month is None:
        return None
    day, hour, minute, seconds = int(text[4:6]), int(text[7:9]), int(text[10:12]), int(text[13:15])
    newest = datetime.fromtimestamp(reference + _LEAD, UTC).year + 1
    for year in range(newest, newest - _LEAP_YEARS - 1, -1):
        try:
            # Naive: in the zone of this process, as syslogd and Postfix write it.
            when = datetime(year, month, day, hour, minute, min(seconds, 59)).timestamp()
        except (ValueError, OverflowError):
            continue
        if when <= reference + _LEAD:
            return datetime.fromtimestamp(when, UTC).isoformat()[:19]
    return None
