"""A tiny pymilter for the tests of the milter client: `tiny_milter.py SOCKET [OPTION...]`.

Options: `noreply` negotiates every answer away but the last, `leading-space` asks for header values
as they are, `lists` sets the macro lists, `no-body` declines the body, `skip` skips it after one
chunk, `all-edits` asks for one change of each kind.

Reports what it saw in one field, X-Seen, at end of message, as JSON; adds a recipient with
NOTIFY=NEVER; obeys the words in the Subject (tempfail, reject, discard, sleep) and in recipients
(refuse@).  Prints "ready" once it listens.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import milter

OPTIONS = set(sys.argv[2:])
NO_REPLIES = {
    "connect": milter.P_NR_CONN,
    "helo": milter.P_NR_HELO,
    "mail": milter.P_NR_MAIL,
    "rcpt": milter.P_NR_RCPT,
    "data": milter.P_NR_DATA,
    "header": milter.P_NR_HDR,
    "eoh": milter.P_NR_EOH,
    "body": milter.P_NR_BODY,
}
MACROS = ("j", "i", "{daemon_name}", "{mail_addr}", "{rcpt_addr}", "{auth_type}", "{client_addr}")


class Seen:
    """What one connection has shown."""

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        self.connection: list[Any] = []
        self.aborts = 0
        self.begin()

    def begin(self) -> None:
        """A new message."""
        self.calls: list[str] = []
        self.envelope: list[list[str]] = []
        self.fields: list[tuple[str, str]] = []
        self.chunks: list[int] = []
        self.body = hashlib.sha256()
        self.macros: dict[str, dict[str, str]] = {}
        self.subject = b""

    def at(self, context: Any, callback: str) -> int:
        """Note a callback; its answer."""
        self.calls.append(callback)
        values = {name: context.getsymval(name) for name in MACROS}
        self.macros[callback] = {name: value for name, value in values.items() if value is not None}
        silent = NO_REPLIES[callback] & self.protocol
        return int(milter.NOREPLY if silent else milter.CONTINUE)


def negotiate(context: Any, options: list[int]) -> int:
    actions, offered = options[0], options[1]
    asked = 0
    if "noreply" in OPTIONS:
        asked |= sum(NO_REPLIES.values())
    if "leading-space" in OPTIONS:
        asked |= milter.P_HDR_LEADSPC
    if "no-body" in OPTIONS:
        asked |= milter.P_NOBODY
    if "skip" in OPTIONS:
        asked |= milter.P_SKIP
    if "lists" in OPTIONS and actions & milter.SETSYMLIST:
        context.setsymlist(milter.M_CONNECT, "{client_addr}")
        context.setsymlist(milter.M_EOM, "i {auth_type}")
    options[1], options[2], options[3] = offered & asked, 0, 0
    context.setpriv(Seen(offered & asked))
    return int(milter.CONTINUE)


def connect(context: Any, name: str, family: int, address: Any) -> int:
    seen: Seen = context.getpriv()
    seen.connection = [name, family, address]
    return seen.at(context, "connect")


def helo(context: Any, name: str) -> int:
    seen: Seen = context.getpriv()
    seen.connection.append(name)
    return seen.at(context, "helo")


def envelope_from(context: Any, *arguments: bytes) -> int:
    seen: Seen = context.getpriv()
    seen.begin()
    seen.envelope.append([one.decode("utf-8", "surrogateescape") for one in arguments])
    return seen.at(context, "mail")


def recipient(context: Any, *arguments: bytes) -> int:
    seen: Seen = context.getpriv()
    seen.envelope.append([one.decode("utf-8", "surrogateescape") for one in arguments])
    answer = seen.at(context, "rcpt")
    if arguments[0].startswith(b"<refuse@") and answer != milter.NOREPLY:
        context.setreply("550", "5.1.1", "not %% here")
        return int(milter.REJECT)
    return answer


def data(context: Any) -> int:
    seen: Seen = context.getpriv()
    return seen.at(context, "data")


def header(context: Any, name: str, value: bytes) -> int:
    seen: Seen = context.getpriv()
    seen.fields.append((name, value.hex()))
    if name == "Subject":
        seen.subject = value
    answer = seen.at(context, "header")
    if b"discard" in value and answer != milter.NOREPLY:
        return int(milter.DISCARD)
    return answer


def end_of_header(context: Any) -> int:
    seen: Seen = context.getpriv()
    return seen.at(context, "eoh")


def body(context: Any, chunk: bytes) -> int:
    seen: Seen = context.getpriv()
    seen.chunks.append(len(chunk))
    seen.body.update(chunk)
    answer = seen.at(context, "body")
    return int(milter.SKIP) if "skip" in OPTIONS else answer


def end_of_message(context: Any) -> int:
    seen: Seen = context.getpriv()
    seen.calls.append("eom")
    seen.macros["eom"] = {n: v for n in MACROS if (v := context.getsymval(n)) is not None}
    if b"sleep" in seen.subject:
        time.sleep(60)
    if b"tempfail" in seen.subject:
        context.setreply("451", "4.3.0", "come %% back")
        return int(milter.TEMPFAIL)
    if b"reject" in seen.subject:
        return int(milter.REJECT)
    report = json.dumps(
        {
            "connection": seen.connection,
            "envelope": seen.envelope,
            "fields": seen.fields,
            "chunks": seen.chunks,
            "body": seen.body.hexdigest(),
            "macros": seen.macros,
            "calls": seen.calls,
            "aborts": seen.aborts,
        }
    )
    context.addheader("X-Seen", " " + report, 0)
    context.addrcpt("<archive@archive.example.net>", "NOTIFY=NEVER")
    if "all-edits" in OPTIONS:
        context.addheader("X-Last", " at the end")
        context.chgheader("Subject", 1, " other")
        context.addrcpt("<plain@example.org>")
        context.delrcpt("<bob@example.org>")
        context.chgfrom("<other@example.com>", "SIZE=1")
        context.progress()
        context.replacebody(b"a" * 70_000)
        context.quarantine("why not")
    return int(milter.CONTINUE)


def abort(context: Any) -> int:
    seen: Seen = context.getpriv()
    seen.aborts += 1
    return int(milter.CONTINUE)


def main() -> None:
    milter.set_flags(0x1FF)
    milter.set_connect_callback(connect)
    milter.set_helo_callback(helo)
    milter.set_envfrom_callback(envelope_from)
    milter.set_envrcpt_callback(recipient)
    milter.set_header_callback(header)
    milter.set_eoh_callback(end_of_header)
    milter.set_body_callback(body)
    milter.set_eom_callback(end_of_message)
    milter.set_abort_callback(abort)
    milter.register("tiny", data=data, negotiate=negotiate)
    milter.setconn(sys.argv[1])
    milter.opensocket(True)
    print("ready", flush=True)
    milter.main()


if __name__ == "__main__":
    main()
