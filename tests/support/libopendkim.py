"""libopendkim's verifier through ctypes, with public keys from a mapping instead of DNS.

Promises: the library gets the message's octets as they are, all at once, and judges every signature
of it, in order; keys come from a callback, no name is looked up.  The daemon would be the weaker
judge: its test mode puts one space after each colon whatever was there.

Raises: OSError where the library is not installed (Debian: libopendkim11, which opendkim brings).

Does not: protect the process from a crash within the library.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LIBRARY = "libopendkim.so.11"

# Values of dkim.h, release 2.11.
_FOUND, _NOT_FOUND, _ERROR = 0, 3, 4  # DKIM_CBSTAT_*: what the key callback answers
_PASSED = 0x04  # DKIM_SIGFLAG_PASSED
_BODY_HASH_MATCHES = 0  # DKIM_SIGBH_MATCH
_NO_ERROR = 0  # DKIM_SIGERROR_OK

_KeyLookup = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the library thinks of one signature."""

    sdid: str  # '' when the library could not read it
    selector: str
    passed: bool  # signature and body hash are right
    body_hash_matches: bool
    error: int  # DKIM_SIGERROR_*, 0 for none
    text: str  # the library's word for the error


def judge(message: bytes, txt: Callable[[str], bytes | None]) -> list[Finding]:
    """Judge every signature of `message` (lines end in CRLF); `txt` maps a name to a TXT value."""
    library = _library()

    def look_up(_verifier: int, signature: int, buffer: int, room: int) -> int:
        value = txt(f"{_selector(library, signature)}._domainkey.{_sdid(library, signature)}")
        if value is None:
            return _NOT_FOUND
        if len(value) >= room:
            return _ERROR
        ctypes.memmove(buffer, value + b"\0", len(value) + 1)
        return _FOUND

    callback = _KeyLookup(look_up)  # must outlive the handle
    handle = library.dkim_init(None, None)
    try:
        library.dkim_set_key_lookup(handle, callback)
        return list(_findings(library, handle, message))
    finally:
        library.dkim_close(handle)


def _findings(library: Any, handle: int, message: bytes) -> Iterator[Finding]:
    status = ctypes.c_int()
    verifier = library.dkim_verify(handle, b"test", None, ctypes.byref(status))
    try:
        if b"\r\n\r\n" not in message:
            # dkim_chunk misreads the last field of a header section that nothing ends; a milter
            # would have said that the header is over, so it is said here.
            message += b"\r\n"
        library.dkim_chunk(verifier, message, len(message))
        library.dkim_chunk(verifier, None, 0)
        library.dkim_eom(verifier, None)
        for signature in _signatures(library, verifier):
            yield _finding(library, signature)
    finally:
        library.dkim_free(verifier)


def _signatures(library: Any, verifier: int) -> list[int]:
    listed = ctypes.POINTER(ctypes.c_void_p)()
    count = ctypes.c_int()
    if library.dkim_getsiglist(verifier, ctypes.byref(listed), ctypes.byref(count)) != 0:
        return []
    return [found for number in range(count.value) if (found := listed[number]) is not None]


def _finding(library: Any, signature: int) -> Finding:
    error = library.dkim_sig_geterror(signature)
    matches = library.dkim_sig_getbh(signature) == _BODY_HASH_MATCHES
    flagged = bool(library.dkim_sig_getflags(signature) & _PASSED)
    return Finding(
        sdid=_sdid(library, signature),
        selector=_selector(library, signature),
        # The flag speaks of the RSA or Ed25519 operation only; the body hash is asked separately.
        passed=flagged and matches and error == _NO_ERROR,
        body_hash_matches=matches,
        error=error,
        text=_text(library.dkim_sig_geterrorstr(error)),
    )


def _sdid(library: Any, signature: int) -> str:
    return _text(library.dkim_sig_getdomain(signature))


def _selector(library: Any, signature: int) -> str:
    return _text(library.dkim_sig_getselector(signature))


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "surrogateescape")


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY)
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    library.dkim_init.restype = library.dkim_verify.restype = pointer
    library.dkim_sig_getdomain.restype = library.dkim_sig_getselector.restype = text
    library.dkim_sig_geterrorstr.restype = text
    library.dkim_sig_getflags.restype = ctypes.c_uint
    for name, parameters in {
        "dkim_init": [pointer, pointer],
        "dkim_close": [pointer],
        "dkim_set_key_lookup": [pointer, _KeyLookup],
        "dkim_verify": [pointer, text, pointer, pointer],
        "dkim_chunk": [pointer, text, size],
        "dkim_eom": [pointer, pointer],
        "dkim_free": [pointer],
        "dkim_getsiglist": [pointer, pointer, pointer],
        "dkim_sig_getflags": [pointer],
        "dkim_sig_getbh": [pointer],
        "dkim_sig_geterror": [pointer],
        "dkim_sig_geterrorstr": [ctypes.c_int],
        "dkim_sig_getdomain": [pointer],
        "dkim_sig_getselector": [pointer],
    }.items():
        getattr(library, name).argtypes = parameters
    return library
