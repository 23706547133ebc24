"""Run another program and read what it says: no shell, bounded in time and size, streamed.

Promises: standard output comes line by line as it is written; memory holds one line.  When time is
over, too much comes, or the reader goes away, the program and what it started are killed.

Raises: `ProgramFailed` with one sentence: not installed, not permitted, too slow, too much, or the
last line it wrote on standard error.

Does not: feed standard input, or trust what comes.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from carbonseal.policies import errors

_CHUNK: Final = 1 << 16
_COMPLAINTS: Final = 1 << 14  # octets of standard error that are kept
_SENTENCE: Final = 400  # characters of it that are shown


class ProgramFailed(errors.TryLater):
    """A program could not be run, or did not do what it is for."""


def lines(
    argv: Sequence[str],
    *,
    timeout: float,
    limit: int,
    longest: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[bytes]:
    """Standard output of a program, line by line, line ends included; its status must be 0.

    `limit` and `longest` are octets, of all output and of one line; what is longer than `longest`
    comes in pieces, of which only the last has a line end.
    """
    rest = b""
    for chunk in _chunks(argv, timeout=timeout, limit=limit, environment=environment):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(rest) > longest:
            yield rest
            rest = b""
    if rest:
        yield rest


def output(
    argv: Sequence[str],
    *,
    timeout: float,
    limit: int,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """All standard output of a program, at most `limit` octets; its status must be 0."""
    return b"".join(_chunks(argv, timeout=timeout, limit=limit, environment=environment))


def _chunks(
    argv: Sequence[str], *, timeout: float, limit: int, environment: Mapping[str, str] | None
) -> Iterator[bytes]:
    deadline = time.monotonic() + timeout
    process = _start(argv, environment)
    complaints = bytearray()
    try:
        for is_complaint, chunk in _read(process, deadline, timeout):
            if is_complaint:
                complaints += chunk
                del complaints[:-_COMPLAINTS]
                continue
            limit -= len(chunk)
            if limit < 0:
                raise ProgramFailed(f"{argv[0]}: it says more than it should; run it by hand.")
            yield chunk
        status = _wait(process, deadline, timeout)
    finally:
        _end(process)
    if status != 0:
        said = _last_line(complaints) or f"it ended with status {status}"
        raise ProgramFailed(said if said.startswith(f"{argv[0]}: ") else f"{argv[0]}: {said}")


def _start(argv: Sequence[str], environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    try:
        # A session of its own: whatever it starts can be killed with it.
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ProgramFailed(f"{argv[0]}: it is not installed here.") from None
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise ProgramFailed(f"{argv[0]}: it cannot be run ({why}); run it as root.") from None


def _read(
    process: subprocess.Popen[bytes], deadline: float, timeout: float
) -> Iterator[tuple[bool, bytes]]:
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ, False)
        waiting.register(process.stderr, selectors.EVENT_READ, True)
        is_open = True
        # Standard error alone is not waited for: what ssh leaves in the background holds it open.
        while is_open or waiting.select(0):
            left = deadline - time.monotonic()
            ready = waiting.select(left) if left > 0 else []
            if not ready:
                raise _too_slow(process, timeout)
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if chunk:
                    yield key.data, chunk
                    continue
                waiting.unregister(key.fileobj)
                is_open = is_open and key.data


def _wait(process: subprocess.Popen[bytes], deadline: float, timeout: float) -> int:
    try:
        return process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _too_slow(process, timeout) from None


def _too_slow(process: subprocess.Popen[bytes], timeout: float) -> ProgramFailed:
    assert isinstance(process.args, list)
    return ProgramFailed(f"{process.args[0]}: no complete answer in {timeout:g} s; run it by hand.")


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    if process.returncode is None:  # not waited for yet: the number is still its own
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(complaints: bytes | bytearray) -> str:
    said = [line for line in complaints.decode("utf-8", "replace").splitlines() if line.strip()]
    return said[-1].strip()[:_SENTENCE] if said else ""
