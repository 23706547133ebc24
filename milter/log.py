"""Logging: one canonical line per message, and one sentence per event.

Promises: lines go to standard error (the journal, under systemd) as key=value text or JSON; values
cannot break out of their line, whatever a message put into them.  A line that cannot be written is
lost in silence; where a part of it was (a disk that got full), the next one of this process still
begins at the beginning of a line.

Does not: log header values, bodies or key material, write files, or rotate.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from carbonseal.milter.archive import message_lines, record
from carbonseal.milter.archive.message_lines import WordForm

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII without space, quote, = and backslash
_STANDARD_ERROR = 2

_log = structlog.get_logger()

Renderer = Callable[[Any, str, MutableMapping[str, Any]], str | bytes]


def configure(*, form: str, level: str) -> None:
    """Set the form ('text' or 'json') and the least level for this process."""
    global _render, _least
    # The thread id costs a call that leaks on libmilter's threads (threading.current_thread).
    logging.logThreads = False
    renderer: Renderer = structlog.processors.JSONRenderer() if form == "json" else _text_line
    _render, _least = renderer, logging.getLevelName(level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_least),
        logger_factory=_Lines,
        cache_logger_on_first_use=False,
    )


class _Lines:
    """Writes lines to standard error; one that cannot be written is lost, and nothing else is.

    The record holds every decision, so a full disk or a reader that is gone is no reason to refuse
    mail.
    """

    def __init__(self, *_: Any) -> None:
        pass

    def msg(self, line: str) -> None:
        """One line, whole."""
        # JSON's own form, and what a terminal could not show, are ASCII already.
        _put(f"{line}\n".encode(errors="backslashreplace"))

    debug = info = warning = error = msg


def _text_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    head = (event.pop("timestamp"), event.pop("level"), event.pop("event"))
    return " ".join([*head, *[f"{key}={_quoted(str(value))}" for key, value in event.items()]])


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


_render: Renderer = _text_line
_least = logging.INFO
# What stood for standard error at a line and was the process's own, however it is wrapped; and what
# was not.
_own: Any = object()
_foreign: Any = None
_torn: list[bytes] = []  # the line of which a part was written, while that is the end of the log


def event(name: str, /, **facts: Any) -> None:
    """Something an operator may want to know."""
    _log.info(name, **facts)


def warning(name: str, /, **facts: Any) -> None:
    """Something an operator should look at."""
    _log.warning(name, **facts)


def error(name: str, /, **facts: Any) -> None:
    """Something an operator must mend."""
    _log.error(name, **facts)


def prepared(form: WordForm, verdict: object) -> bytes | dict[str, object] | None:
    """The canonical line of one message but for when it was and how long it took.

    None where such a line is not written.
    """
    if form.severity < _least:
        return None
    if _render is _text_line:
        return form.words(verdict)
    return {"level": form.level, "event": form.name, **form.facts(verdict)}


def message(said: bytes | dict[str, object] | None, seconds: float) -> None:
    """Write that line, of a message that took so long."""
    # Not through structlog: a line of it costs 60 microseconds more, on every message.
    if said.__class__ is bytes:
        line = message_lines.log_line(time.time(), said, seconds)
        if sys.stderr is not _own or _torn:
            _put(line)
            return
        # As `_put` does, without another frame.
        try:
            written = os.write(_STANDARD_ERROR, line)
        except OSError:
            return
        if written < len(line):
            _put_rest(line, written)
    elif isinstance(said, dict):
        facts = {"timestamp": record.timestamp(time.time()), **said}
        facts["ms"] = message_lines.milliseconds(seconds)
        _Lines().msg(str(_render(None, "", facts)))


def _put(line: bytes) -> None:
    """Write a line, past the two buffers of the stream where it is the process's own.

    What stays in these after a fault would come out in the middle of a later line.
    """
    if sys.stderr is not _own and not _is_own(sys.stderr):
        _put_elsewhere(line)
    else:
        _put_rest(b"\n" + line if _torn else line, 0)


def _is_own(stream: Any) -> bool:
    global _own, _foreign  # noqa: PLW0603  (once for each stream, and never for a line)
    if stream is _foreign:
        return False
    try:
        is_own: bool = stream.fileno() == _STANDARD_ERROR
    except (AttributeError, OSError, ValueError):  # none, one without a file, one that is closed
        is_own = False
    if is_own:
        _own = stream
    else:
        _foreign = stream
    return is_own


def _put_rest(line: bytes, written: int) -> None:
    try:
        while written < len(line):
            written += os.write(_STANDARD_ERROR, line[written:])
    except OSError:
        pass
    if written:
        _torn[:] = () if line.endswith(b"\n", 0, written) else (line,)


def _put_elsewhere(line: bytes) -> None:
    try:
        sys.stderr.write(line.decode())
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: closed
        pass


def internal_error(where: str, fault: BaseException, *, queue_id: str = "") -> None:
    """A defect of ours, with the place in the code but without any value of the message."""
    _log.error(
        "internal-error",
        where=where,
        queue_id=queue_id,
        fault=type(fault).__name__,
        text=str(fault)[:200],
        place=_place(fault),
    )


def _place(fault: BaseException) -> str:
    frames = traceback.extract_tb(fault.__traceback__)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))


class Recurring:
    """Faults of what is done again and again: one that lasts is said once, until it changes.

    It is another one by its kind, its number or its place in the code; its text may name a new file
    each time.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._said: tuple[object, ...] | None = None

    def failed(self, fault: Exception) -> None:
        """This time it went wrong."""
        what = (type(fault), getattr(fault, "errno", None), _place(fault))
        known, self._said = self._said, what
        if what != known:
            internal_error(self._where, fault)

    def succeeded(self) -> None:
        """This time it went well; a fault after this is a new one."""
        self._said = None


def unfit_mta(actions: int, protocol: int) -> None:
    """The MTA cannot do what exact signatures and copies need."""
    _log.error(
        "mta-unfit",
        remedy="Postfix 3.0 or newer with milter_protocol = 6 is needed",
        actions=hex(actions),
        protocol=hex(protocol),
    )
