"""The systemd journal as a log: what journalctl(1) prints, entry by entry.

Promises: goes on after the cursor of the last entry that was taken; octets that are no UTF-8 come
as they were written.  Only what the mail facility logged is asked for, and only what system
accounts wrote counts: the journal knows who did, so that no user can make up deliveries, nor stop
us with an entry that is too long, which is passed over.  What journald suppressed because Postfix
logged too much for its limits is reported as a gap.

journalctl --follow shows nothing but the present boot (since systemd 250), and after a cursor of an
earlier one it loses the first entry.  So the journal is read to its end without it, and followed
only from a cursor of this boot on; until there is one, it is read again every second.

Raises: LogUnreadable, when journalctl is missing, may not read the system's journal, or ends.

Does not: link with libsystemd; a child process costs nothing that matters, and rights stay simple.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from carbonseal.milter import readable
from carbonseal.milter.archive import record
from carbonseal.milter.follow import journal_export
from carbonseal.milter.follow.journal_export import Fields
from carbonseal.milter.follow.log_line import Services
from carbonseal.milter.follow.taken import Entry, LogUnreadable, Mark, Place, Taken

_CHUNK: Final = 1 << 18
_COMPLAINTS: Final = 4096
_AGAIN_SECONDS: Final = 1.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FIELDS: Final = "MESSAGE,MESSAGE_ID,SYSLOG_IDENTIFIER,_SOURCE_REALTIME_TIMESTAMP,_TRANSPORT,_UID"
_DROPPED: Final = b"a596d6fe7bfa4994828e72309e95d61e"  # SD_MESSAGE_JOURNAL_DROPPED
_JOURNALD: Final = b"driver"  # the transport of its own entries, which nobody else can claim
_MATCHES: Final = (  # mail, or that
    "SYSLOG_FACILITY=2",
    "+",
    f"MESSAGE_ID={_DROPPED.decode()}",
    f"_TRANSPORT={_JOURNALD.decode()}",
)
_SYSTEM: Final = 1000  # user ids from here on are people's
_REMEDY: Final = (
    "let the follower's user read the journal: usermod --append --groups systemd-journal "
    "carbonseal, or SupplementaryGroups= in its unit"
)
Report = Callable[..., None]


class Journal:
    """The journal, of this machine or in a directory, from a cursor on, or from its beginning."""

    def __init__(
        self,
        services: Services,
        *,
        position: Mapping[str, Any] | None = None,
        directory: str = "",
        once: bool = False,
        report: Report = lambda event, **facts: None,
    ) -> None:
        self._services = services
        self._cursor = "" if position is None else str(position["cursor"])
        self._directory = directory
        self._once = once
        self._report = report
        self._rest = b""
        self.is_finished = False
        self.is_behind = True
        self._again_at = 0.0  # by the monotonic clock: when to look again, if nobody follows
        self._follows = False
        self._child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._follows = not self._once and f"b={_boot_id()};" in self._cursor
        # The export format costs half the time that JSON does.
        command = ["journalctl", "--output=export", "--no-pager", "--no-tail"]
        command += [f"--output-fields={_FIELDS}"]
        command += [f"--directory={self._directory}"] if self._directory else []
        command += ["--follow"] if self._follows else []
        command += [f"--after-cursor={self._cursor}"] if self._cursor else []
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        try:
            child = subprocess.Popen(
                [*command, *_MATCHES],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        except OSError as fault:
            raise LogUnreadable(
                f"journalctl cannot be run ({fault.strerror}); install systemd, or set follow.log "
                "to the file that Postfix logs to"
            ) from None
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
        return child

    def where(self) -> tuple[Place, Mark] | None:
        """After the last entry that was taken."""
        return (self, self._cursor) if self._cursor else None

    def take(self) -> Taken | None:
        """The next entries; None when there are none now.  Raises: LogUnreadable."""
        if self._child.returncode is not None and not self.is_finished:
            if time.monotonic() < self._again_at:
                return None
            self.close()
            self._child = self._start()
        assert self._child.stdout is not None
        try:
            data = os.read(self._child.stdout.fileno(), _CHUNK)
        except BlockingIOError:
            self.is_behind = False
            self._look_at_complaints()
            return None
        if not data:
            self._ended()
            return None
        self.is_behind = len(data) >= 4096  # a pipe hands over pages while more waits
        try:
            return self._taken(self._rest + data)
        except journal_export.BadExport as fault:
            raise LogUnreadable(f"journalctl prints what is no journal ({fault})") from None

    def _taken(self, data: bytes) -> Taken | None:
        entries: list[Entry] = []
        lines = end = 0
        is_too_long = False
        try:
            for fields, after in journal_export.entries(data):
                lines, end = lines + 1, after
                before, self._cursor = self._cursor, fields.get(b"__CURSOR", b"").decode("ascii")
                if _is_of_drops(fields):
                    self._note_dropped(fields.get(b"MESSAGE", b"").decode("utf-8", "replace"))
                    continue
                entry = _entry(fields, self._services)
                if entry is not None:
                    entries.append((before, *entry))
        except journal_export.TooLong:
            is_too_long = True
        self._rest = data[end:]
        if is_too_long or len(self._rest) > journal_export.LONGEST:
            self._pass_over()
            lines += 1
        return Taken(self, entries, self._cursor, lines) if lines else None

    def _pass_over(self) -> None:
        """Go on behind the entry that begins what is left, without the rest of it."""
        cursor = journal_export.cursor(self._rest)
        if cursor is None:
            raise journal_export.BadExport("an entry without a cursor")
        self._report(
            "log-gap",
            log="journal",
            problem=f"an entry of more than {journal_export.LONGEST} octets was passed over; it is "
            "none of Postfix's",
        )
        self.close()
        self._cursor, self._rest = cursor, b""
        self._child = self._start()

    def _note_dropped(self, message: str) -> None:
        """Say it where it is about Postfix: "Suppressed 5 messages from postfix@-.service"."""
        if "postfix" in message:
            self._report(
                "log-gap",
                log="journal",
                problem=f"journald: {message[:200]}; set LogRateLimitIntervalSec=0 in that unit",
            )

    def source(self, mark: Mark) -> dict[str, Any]:
        """A position in the journal."""
        return {"journal": self._directory or "system", "cursor": mark}

    def lost_name(self) -> str:
        """''; a journal is no file."""
        return ""

    def wait(self, seconds: float) -> None:
        """Until journalctl prints something, or so long."""
        if self._child.stdout is not None and self._child.returncode is None:
            readable.wait(self._child.stdout, seconds)
        else:
            time.sleep(seconds)

    def close(self) -> None:
        """End journalctl."""
        self._child.terminate()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for stream in (self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()

    def _look_at_complaints(self) -> str:
        """What journalctl said on standard error, unless that is that it may not read."""
        assert self._child.stderr is not None
        try:
            said = os.read(self._child.stderr.fileno(), _COMPLAINTS).decode("utf-8", "replace")
        except BlockingIOError:
            return ""
        if "insufficient permissions" in said or "not seeing messages" in said:
            raise LogUnreadable(f"the journal cannot be read, or not all of it; {_REMEDY}")
        return said

    def _ended(self) -> None:
        self.is_behind = False
        status = self._child.wait()
        said = self._look_at_complaints()
        if status and self._cursor and "cursor" in said:
            self._report("log-gap", log="journal", problem="the journal does not know our position")
            self._cursor = ""
            self.close()
            self._child = self._start()
        elif status:
            self._refuse_no_directory()
            last = (said.strip().splitlines() or ["without a word"])[-1]
            raise LogUnreadable(f"journalctl ended with status {status} ({last[:200]}); {_REMEDY}")
        elif self._follows:
            raise LogUnreadable("journalctl ended by itself; see that systemd-journald runs")
        elif not self._cursor and not self._has_files():
            where = f" in {self._directory}" if self._directory else ""
            raise LogUnreadable(
                f"there is no journal{where}; set follow.log to Postfix's log file, or {_REMEDY}"
            )
        else:
            self.is_finished = self._once
            self._again_at = time.monotonic() + _AGAIN_SECONDS

    def _refuse_no_directory(self) -> None:
        """What journalctl says of it sounds like missing rights.  Raises: LogUnreadable."""
        try:
            if not self._directory or stat.S_ISDIR(os.stat(self._directory).st_mode):
                return
            what = "is no directory"
        except (FileNotFoundError, NotADirectoryError):
            what = "there is no such directory"
        except OSError:
            return  # the group may help
        raise LogUnreadable(
            f"follow.log journal:{self._directory}: {what}; name the one that holds the journal, "
            "such as journal:/var/log/journal, or write journal for this machine's own"
        )

    def _has_files(self) -> bool:
        """Whether there is a journal at all, for journalctl does not say."""
        places = [self._directory] if self._directory else ["/run/log/journal", "/var/log/journal"]
        return any(
            next(Path(place).glob(pattern), None) is not None
            for place in places
            for pattern in ("*.journal", "*/*.journal")
        )


def _boot_id() -> str:
    """As cursors have it; what no cursor has where it cannot be told."""
    try:
        return _BOOT_ID.read_text().strip().replace("-", "")
    except OSError:
        return "unknown"


def _entry(fields: Fields, services: Services) -> tuple[str, str, bytes] | None:
    """Time, service and text of an entry; None for what is not Postfix's."""
    service = services.of(fields.get(b"SYSLOG_IDENTIFIER", b""))
    text = fields.get(b"MESSAGE")
    if service is None or text is None or not _is_system(fields.get(b"_UID", b"")):
        return None
    micros = fields.get(b"_SOURCE_REALTIME_TIMESTAMP") or fields.get(b"__REALTIME_TIMESTAMP", b"")
    try:
        seconds, fraction = divmod(int(micros), 1_000_000)
        at = f"{record.timestamp(seconds)[:19]}.{fraction:06d}Z"
    except (ValueError, OverflowError, OSError):
        return None
    return at, service, text


def _is_of_drops(fields: Fields) -> bool:
    """Whether journald says what it dropped; any user may write an entry of this MESSAGE_ID."""
    return fields.get(b"MESSAGE_ID") == _DROPPED and fields.get(b"_TRANSPORT") == _JOURNALD


def _is_system(uid: bytes) -> bool:
    return uid.isdigit() and int(uid) < _SYSTEM
