"""The body hash of a signature (bh=), computed while the body streams by.

Promises: for any division of the body into chunks, `digest` is SHA-256 over the canonical form of
RFC 6376 section 3.4.3 (simple) or 3.4.4 (relaxed).  Time is linear in the octets seen (a megabyte
of spaces on one line included), memory is that of one chunk, and there is no Python loop over
lines: chunks come from anybody who can send mail.

A body whose last line has no CRLF is hashed as if it had one, white space before it ignored:
that is how it leaves, because SMTP ends each body with CRLF.  Bare CR and bare LF are octets like
all others; what to do about them is decided above.

See also: `signer`, which puts the digest into the signature.
"""

from __future__ import annotations

import hashlib

_CRLF = b"\r\n"
_BLOCK = 8192  # pending empty lines are hashed in blocks of this many, not all at once


class BodyHash:
    """SHA-256 of one message body under one canonicalization ('relaxed' or 'simple')."""

    __slots__ = ("_empty_lines", "_hash", "_held", "_relaxed", "_started")

    def __init__(self, canonicalization: str) -> None:
        if canonicalization not in ("relaxed", "simple"):
            raise ValueError(f"no canonicalization: {canonicalization!r}")
        self._relaxed = canonicalization == "relaxed"
        self._hash = hashlib.sha256()
        self._held = b""  # an end whose meaning the next chunk decides: SP, CR or SP CR
        self._empty_lines = 0  # CRLFs seen after the last hashed octet
        self._started = False  # something but CRLFs was hashed

    def update(self, chunk: bytes) -> None:
        """Take the next octets of the body."""
        data = self._held + chunk
        if self._relaxed:
            data = _reduce_white_space(data)
        data, self._held = _hold_back(data, self._relaxed)
        if data:
            self._feed(data)

    def digest(self) -> bytes:
        """The 32 octets of the hash over what was taken so far; more may follow."""
        whole = self._hash.copy()
        started = self._started
        if self._held and not (self._relaxed and self._held == b" "):
            _repeat_crlf(whole, self._empty_lines)
            whole.update(self._held)
            started = True
        # 3.4.3: "If there is no body or no trailing CRLF on the message body, a CRLF is added";
        # 3.4.4 adds it only when the body is not empty.
        if started or not self._relaxed:
            whole.update(_CRLF)
        return whole.digest()

    def _feed(self, data: bytes) -> None:
        """Hash `data` but for the CRLFs at its end, which may turn out to end the body."""
        text = data.rstrip(_CRLF)
        # The stripped end may hold bare CR and LF too; only CRLF pairs at the very end are lines.
        marked = data[len(text) :].replace(_CRLF, b"$")
        stray = marked.rstrip(b"$")
        lines = len(marked) - len(stray)
        if not text and not stray:
            self._empty_lines += lines
            return
        _repeat_crlf(self._hash, self._empty_lines)
        self._hash.update(data[: len(data) - 2 * lines])
        self._empty_lines = lines
        self._started = True


def _reduce_white_space(data: bytes) -> bytes:
    """Runs of SP and HTAB become one SP, and none is left before CRLF."""
    data = data.replace(b"\t", b" ")
    while b"  " in data:  # each turn halves the runs: at most log2(len) turns
        data = data.replace(b"  ", b" ")
    return data.replace(b" \r\n", _CRLF)


def _hold_back(data: bytes, relaxed: bool) -> tuple[bytes, bytes]:
    if data.endswith(b"\r"):
        end = 2 if relaxed and data.endswith(b" \r") else 1
    else:
        end = 1 if relaxed and data.endswith(b" ") else 0
    return (data[:-end], data[-end:]) if end else (data, b"")


def _repeat_crlf(target: hashlib._Hash, count: int) -> None:
    blocks, rest = divmod(count, _BLOCK)
    for _ in range(blocks):
        target.update(_CRLF * _BLOCK)
    target.update(_CRLF * rest)
