"""A login server for Postfix: the part of Dovecot's authentication protocol that smtpd(8) speaks.

Promises: mechanism PLAIN; every login with the password `PASSWORD` is right, every other is wrong.
Thus tests log in as whom they like, with a real AUTH command and real macros, and Postfix needs no
password file, no Cyrus plug-ins and no file of the machine.

Does not: other mechanisms, user look-ups, more than a few connections at a time.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
import threading
from pathlib import Path

PASSWORD = "open sesame"
_GREETING = "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n"


class LoginServer:
    """Answers on a UNIX socket from construction to `close`."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # left behind by an instance that was killed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept, name="sasl", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections; the ones that there are end with their smtpd."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_serve, args=(connection,), name="sasl", daemon=True).start()


def _serve(connection: socket.socket) -> None:
    with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
        connection.sendall(_GREETING.encode())
        while line := stream.readline(65_536):
            if reply := _reply(line.decode("utf-8", "surrogateescape").rstrip("\n").split("\t")):
                connection.sendall(reply.encode("utf-8", "surrogateescape") + b"\n")


def _reply(words: list[str]) -> str:
    match words:
        case ["AUTH", request, "PLAIN", *parameters]:
            # 'resp=' is the last parameter and absent when the client sent no initial response.
            response = [one.removeprefix("resp=") for one in parameters if one.startswith("resp=")]
            return _judge(request, response[0]) if response else f"CONT\t{request}\t"
        case ["CONT", request, response]:
            return _judge(request, response)
        case ["AUTH", request, *_]:
            return f"FAIL\t{request}\treason=only PLAIN is known"
        case _:
            return ""  # VERSION and CPID want no answer


def _judge(request: str, response: str) -> str:
    try:
        octets = base64.b64decode(response, validate=True)
    except binascii.Error:
        return f"FAIL\t{request}\treason=no base64"
    _, _, identity = octets.decode("utf-8", "surrogateescape").partition("\0")
    login, _, password = identity.partition("\0")
    verdict = "OK" if login and password == PASSWORD else "FAIL"
    return f"{verdict}\t{request}\tuser={login}"
