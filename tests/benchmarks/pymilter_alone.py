"""A bare signing milter for comparison: what pymilter and RSA cost when nothing else is done.

    python pymilter_alone.py SOCKET KEY_FILE DOMAIN SELECTOR ARCHIVE_RECIPIENT PROCESSES

Some processes on one socket, pymilter's own base class with the answers negotiated away, a
relaxed/relaxed signature by OpenSSL, the archive recipient added.  Nothing is decided, recorded,
logged or verified, so no relay can use it; what Carbonseal needs more is what those cost.

Does not: sign what only odd messages hold (repeated fields, 8-bit field names), or survive a fault.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import Milter
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

_SOCKET, _KEY_FILE, _DOMAIN, _SELECTOR, _ARCHIVE, _PROCESSES = sys.argv[1:]
_KEY: Any = serialization.load_pem_private_key(Path(_KEY_FILE).read_bytes(), None)
_PADDING, _SHA256 = padding.PKCS1v15(), hashes.SHA256()
_SIGNED = frozenset(
    "from to cc subject date message-id mime-version content-type content-transfer-encoding".split()
)
_BLANKS = re.compile(rb"[ \t]+")


class Alone(Milter.Base):  # type: ignore[misc]
    """One connection."""

    @Milter.noreply
    def connect(self, *_: Any) -> int:
        return Milter.CONTINUE

    @Milter.noreply
    def envfrom(self, *_: Any) -> int:
        self._fields: list[tuple[str, str]] = []
        self._hash = hashlib.sha256()
        self._rest = b""  # of a line whose end has not come
        self._held = 0  # empty lines that count only if something follows
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, *_: Any) -> int:
        return Milter.CONTINUE

    @Milter.noreply
    def header(self, name: str, value: str) -> int:
        self._fields.append((name.lower(), value))
        return Milter.CONTINUE

    @Milter.noreply
    def body(self, chunk: bytes) -> int:
        lines, end, self._rest = (self._rest + chunk).rpartition(b"\r\n")
        self._take(lines + end)
        return Milter.CONTINUE

    def eom(self) -> int:
        if self._rest:
            self._take(self._rest + b"\r\n")
        self._hash.update(b"\r\n")
        body_hash = base64.b64encode(self._hash.digest()).decode()
        signed = [field for field in self._fields if field[0] in _SIGNED]
        tags = (
            f"v=1; a=rsa-sha256; c=relaxed/relaxed; d={_DOMAIN}; s={_SELECTOR}; "
            f"h={':'.join(name for name, _ in signed)}; bh={body_hash}; b="
        )
        lines = [f"{name}:{' '.join(value.split())}\r\n" for name, value in signed]
        octets = "".join([*lines, "dkim-signature:", tags]).encode("utf-8", "surrogateescape")
        signature = base64.b64encode(_KEY.sign(octets, _PADDING, _SHA256)).decode()
        self.addheader("DKIM-Signature", tags + signature, 0)
        self.addrcpt(f"<{_ARCHIVE}>")
        return Milter.CONTINUE

    def _take(self, lines: bytes) -> None:
        """Hash whole lines, but for empty ones at their end (RFC 6376, section 3.4.4)."""
        canonical = _BLANKS.sub(b" ", lines).replace(b" \r\n", b"\r\n")
        text = canonical.rstrip(b"\r\n")
        if text:
            self._hash.update(b"\r\n" * self._held + text)
            self._held = 0
        self._held += (len(canonical) - len(text)) // 2


def main() -> None:
    """Serve until TERM; the processes go with the first one."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(_SOCKET)
    Path(_SOCKET).chmod(0o666)
    listener.listen(128)
    listener.setblocking(False)
    Milter.factory = Alone
    Milter.set_flags(Milter.ADDHDRS | Milter.ADDRCPT)
    children = []
    for _ in range(int(_PROCESSES)):
        child = os.fork()
        if not child:
            # Debian's libmilter takes an open socket by number.
            Milter.runmilter("alone", f"fd:{listener.fileno()}", 0, False)
            os._exit(0)
        children.append(child)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for child in children:
        os.kill(child, signal.SIGKILL)  # libmilter takes five seconds to stop
        os.waitpid(child, 0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
