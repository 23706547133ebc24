"""The letters of the demonstration, and what must become of each.

Does not: send or judge anything (`__main__` does).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message and its expected fate."""

    title: str
    client: str  # 'inside', 'submission' or 'outside'
    reverse_path: str
    recipients: tuple[str, ...]
    author: str
    subject: str
    body: bytes = b"Good morning,\r\n\r\nthe figures are attached.\r\n"
    crossing: str
    is_signed: bool
    is_copied: bool
    reason: str  # the reason code that tells the story


LETTERS = (
    Letter(
        title="outbound, logged in",
        client="submission",
        reverse_path="alice@example.com",
        recipients=("bob@partner.example",),
        author="Alice <alice@example.com>",
        subject="Annual report",
        crossing="outbound",
        is_signed=True,
        is_copied=True,
        reason="recipient-outside",
    ),
    Letter(
        title="inbound",
        client="outside",
        reverse_path="bob@partner.example",
        recipients=("alice@example.com",),
        author="Bob <bob@partner.example>",
        subject="Re: Annual report",
        crossing="inbound",
        is_signed=False,
        is_copied=True,
        reason="reverse-path-outside",
    ),
    Letter(
        title="internal",
        client="inside",
        reverse_path="alice@example.com",
        recipients=("carol@example.com",),
        author="Alice <alice@example.com>",
        subject="Lunch?",
        crossing="internal",
        is_signed=True,
        is_copied=False,
        reason="purely-local",
    ),
    Letter(
        title="mixed recipients, one in Bcc",
        client="inside",
        reverse_path="alice@example.com",
        recipients=("carol@example.com", "bob@partner.example", "hidden@elsewhere.example"),
        author="Alice <alice@example.com>",
        subject="Minutes of the meeting",
        crossing="outbound",
        is_signed=True,
        is_copied=True,
        reason="recipient-outside",
    ),
    Letter(
        title="bounce from outside",
        client="outside",
        reverse_path="",
        recipients=("alice@example.com",),
        author="MAILER-DAEMON@partner.example",
        subject="Undelivered Mail Returned to Sender",
        crossing="inbound",
        is_signed=False,
        is_copied=True,
        reason="null-reverse-path-outside",
    ),
    Letter(
        title="forged: our address from outside",
        client="outside",
        reverse_path="ceo@example.com",
        recipients=("alice@example.com",),
        author="The Boss <ceo@example.com>",
        subject="Urgent transfer",
        crossing="inbound",
        is_signed=False,
        is_copied=True,
        reason="reverse-path-unproven",
    ),
    Letter(
        title="8-bit text",
        client="inside",
        reverse_path="alice@example.com",
        recipients=("bob@partner.example",),
        author="Alice <alice@example.com>",
        subject="=?utf-8?q?Gr=C3=BC=C3=9Fe_aus_M=C3=BCnchen?=",
        body="Schöne Grüße,\r\n\r\n   viele   Leerzeichen   und ein Umlaut.   \r\n".encode(),
        crossing="outbound",
        is_signed=True,
        is_copied=True,
        reason="eight-bit-content",
    ),
    Letter(
        title="percent hack to get past the archive",
        client="inside",
        reverse_path="mallory@example.com",
        recipients=("friend%elsewhere.example@example.com",),
        author="mallory@example.com",
        subject="Nothing to see here",
        crossing="outbound",
        is_signed=True,
        is_copied=True,
        reason="recipient-rerouted",
    ),
)


def message(letter: Letter, number: int) -> bytes:
    """The message as it goes over the wire."""
    visible = ", ".join(address for address in letter.recipients if "hidden" not in address)
    head = (
        f"From: {letter.author}\r\n"
        f"To: {visible}\r\n"
        f"Subject: {letter.subject}\r\n"
        f"Date: Sat, 21 Nov 2026 09:00:{number:02} +0100\r\n"
        f"Message-ID: <demo-{number}@{letter.author.strip('<>').rpartition('@')[2]}>\r\n"
        f"MIME-Version: 1.0\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: {'7bit' if letter.body.isascii() else '8bit'}\r\n"
    )
    return head.encode() + b"\r\n" + letter.body
