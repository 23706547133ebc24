"""Bodies: line ends, white space, octets, lengths, and where the milter protocol cuts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from messages.case import Case
from messages.compose import case, letter, mime, numbered_lines

CHUNK = 65_535  # octets of body that Postfix puts into one packet to a milter
LONGEST = 998


def body(
    name: str,
    content: bytes | Callable[[], bytes],
    about: str,
    *,
    covers: str,
    why: str | None = None,
    parameters: tuple[bytes, ...] = (),
    note: str = "",
) -> Case:
    """A letter with this body."""

    def build() -> bytes:
        return letter(body=content if isinstance(content, bytes) else content())

    return case(
        name,
        about,
        covers=covers,
        build=build,
        why=why,
        parameters=parameters,
        reasons="eight-bit-content" if "eight-bit-body" in covers.split() else "",
        note=note,
    )


def cut_at_chunk(octets: bytes, before: int, after: bytes = b"the end\r\n") -> bytes:
    """A body in which the first chunk ends `before` octets into `octets`."""
    room = CHUNK - before
    text = numbered_lines(room)[: room - 40].rpartition(b"\r\n")[0] + b"\r\n"
    return text + b"." * (room - len(text)) + octets + after


_EMPTINESS = (
    body(
        "body-empty", b"", "No body: simple hashes one CRLF, relaxed nothing.", covers="empty-body"
    ),
    body(
        "body-of-empty-lines",
        b"\r\n" * 5,
        "All empty lines at the end are ignored, here all of them.",
        covers="empty-body trailing-lines",
    ),
    body(
        "body-of-white-space-lines",
        b" \r\n\t\r\n  \t \r\n",
        "After relaxing nothing is left.",
        covers="empty-body trailing-white-space",
    ),
    body(
        "body-of-one-space",
        b" ",
        "A single octet, and no line end until SMTP gives one.",
        covers="empty-body trailing-white-space no-final-crlf",
    ),
    body(
        "body-without-final-crlf",
        b"no line end",
        "SMTP adds what is missing, before anybody signs.",
        covers="no-final-crlf",
    ),
    body(
        "body-ending-in-many-empty-lines",
        b"text\r\n" + b"\r\n" * 2000,
        "Pending empty lines must not be forgotten, or kept in memory.",
        covers="trailing-lines",
    ),
    body(
        "body-with-white-space-before-empty-lines",
        b"text \t \r\n \r\n\t\r\n\r\n",
        "White space lines at the end become empty ones, then nothing.",
        covers="trailing-lines trailing-white-space",
    ),
    body(
        "empty-lines-then-text",
        b"\r\n" * 3000 + b"text\r\n",
        "Empty lines that turn out not to be the last ones.",
        covers="trailing-lines",
    ),
)

_WHITE_SPACE = (
    body(
        "lines-with-trailing-white-space",
        b"one \r\ntwo\t\r\nthree \t \r\n\tfour\r\n",
        "The first thing that a relay on the way trims.",
        covers="trailing-white-space",
    ),
    body(
        "lines-of-nine-hundred-spaces",
        b"".join(b" " * 900 + b"x\r\n" for _ in range(1000)),
        "Runs of spaces cost some canonicalizers the square of their length.",
        covers="space-run",
    ),
    body(
        "trailing-runs-of-nine-hundred-spaces",
        b"".join(b"x" + b" \t" * 450 + b"\r\n" for _ in range(1000)),
        "The same at the end of lines, where it is dropped.",
        covers="space-run trailing-white-space",
    ),
    body(
        "megabyte-of-spaces-on-one-line",
        lambda: b" " * 1_000_000 + b"x\r\n",
        "A quadratic canonicalizer stops the relay; Postfix cuts the line anyway.",
        covers="space-run long-line",
        why="line-too-long",
    ),
    body(
        "form-feeds-and-vertical-tabs",
        b"page one\x0c\r\npage two \x0b\r\n\x0c\r\n\x0b\x0c",
        "White space for a C library, not for RFC 6376.",
        covers="vertical-space",
    ),
    body(
        "no-break-spaces-at-line-ends",
        "Grüße\u00a0\r\n\u3000\r\nende\u2028\r\n".encode(),
        "Unicode white space is no white space here.",
        covers="trailing-white-space eight-bit-body",
        parameters=(b"BODY=8BITMIME",),
    ),
)

_CHUNKS = (
    body(
        "cr-and-lf-in-two-chunks",
        lambda: cut_at_chunk(b"\r\n", 1),
        "CR ends one packet, LF begins the next.",
        covers="chunk-boundary",
    ),
    body(
        "space-and-line-end-in-two-chunks",
        lambda: cut_at_chunk(b" \r\n", 1),
        "Trailing white space is known as such only with the next packet.",
        covers="chunk-boundary trailing-white-space",
    ),
    body(
        "white-space-run-over-two-chunks",
        lambda: cut_at_chunk(b"a" + b" \t" * 40 + b"b\r\n", 30),
        "A run in two packets is still one run.",
        covers="chunk-boundary space-run",
    ),
    body(
        "empty-lines-over-two-chunks",
        lambda: cut_at_chunk(b"\r\n" * 20, 21),
        "Empty lines in two packets.",
        covers="chunk-boundary trailing-lines",
    ),
    body(
        "body-ends-with-the-chunk",
        lambda: cut_at_chunk(b"\r\n", 2, after=b""),
        "The last packet is full to its last octet.",
        covers="chunk-boundary",
    ),
    body(
        "only-empty-lines-in-the-second-chunk",
        lambda: cut_at_chunk(b"\r\n", 2, after=b"\r\n" * 7),
        "A whole packet counts for nothing.",
        covers="chunk-boundary trailing-lines",
    ),
    body(
        "character-in-two-chunks",
        lambda: cut_at_chunk("ü\r\n".encode(), 1),
        "Whoever decodes packets fails here.",
        covers="chunk-boundary eight-bit-body",
        parameters=(b"BODY=8BITMIME",),
    ),
)

_OCTETS = (
    body(
        "bare-lf-in-the-body",
        b"one\ntwo\n\nthree\r\n",
        "UNIX line ends over SMTP.",
        covers="bare-lf",
        note="smtpd ends lines at LF, so CRLF is delivered.",
    ),
    body(
        "bare-cr-in-the-body",
        b"one\rtwo\r\rthree\r\n",
        "Old Macintosh line ends.",
        covers="bare-cr",
        note="Postfix makes each a space before the milter.",
    ),
    body(
        "cr-cr-lf-in-the-body",
        b"one\r\r\ntwo\r\r\r\n",
        "Line ends doubled by a gateway.",
        covers="bare-cr",
        note="smtpd strips every CR before the LF.",
    ),
    body(
        "dot-between-bare-line-ends",
        b"one\n.\r\nMAIL FROM:<x@remote.test>\r\n",
        "A second message smuggled behind a half-hearted end of data.",
        covers="bare-lf leading-dots",
        note="Here the dot is stuffed; sent raw it would end the message.",
    ),
    body(
        "nul-in-the-body",
        b"before\x00after\r\n\x00\r\n",
        "C strings end there, SHA-256 does not.",
        covers="nul",
    ),
    body(
        "every-octet-but-line-ends",
        bytes(octet for octet in range(256) if octet not in b"\0\r\n") + b"\r\n",
        "Undeclared binary content.",
        covers="control-characters eight-bit-body",
    ),
    body(
        "eight-bit-body-declared",
        "Grüße aus Köln\r\n".encode(),
        "A next hop without 8BITMIME would get it re-encoded: signed, with a warning.",
        covers="eight-bit-body",
        parameters=(b"BODY=8BITMIME",),
    ),
    body(
        "eight-bit-body-undeclared",
        b"Gr\xfc\xdfe aus K\xf6ln\r\n",
        "Latin-1 without a word about it.",
        covers="eight-bit-body",
    ),
    body(
        "byte-order-mark-first",
        b"\xef\xbb\xbfhello\r\n",
        "A mark that editors leave.",
        covers="eight-bit-body",
    ),
    body(
        "lines-beginning-with-dots",
        b".\r\n..\r\n...three\r\n.signature\r\n",
        "Dot-stuffing must leave no trace.",
        covers="leading-dots",
    ),
    body(
        "mbox-lines-in-the-body",
        b"From here on\r\n>From there\r\nFrom: mallory@remote.test\r\n",
        "Lines that mailbox formats quote, and a From that is no field.",
        covers="mbox-line",
    ),
    case(
        "binary-body-declared",
        "BINARYMIME is not for Postfix; the client hears that at MAIL.",
        covers="eight-bit-body",
        build=partial(letter, body=b"\x00\x01\xff\r\n"),
        parameters=(b"BODY=BINARYMIME",),
        smtp="postfix",
    ),
)

_LENGTHS = (
    body(
        "line-of-998-octets",
        b"x" * LONGEST + b"\r\n",
        "The longest line that passes unchanged.",
        covers="long-line",
    ),
    body(
        "line-of-998-octets-with-leading-dot",
        b"." + b"x" * (LONGEST - 1) + b"\r\n",
        "The stuffed dot does not count.",
        covers="long-line leading-dots",
    ),
    body(
        "line-of-999-octets",
        b"x" * (LONGEST + 1) + b"\r\n",
        "Postfix cuts it after the milter, and the signature with it.",
        covers="long-line",
        why="line-too-long",
    ),
    body(
        "last-line-of-999-octets-without-crlf",
        b"x" * (LONGEST + 1),
        "The line end comes from SMTP alone.",
        covers="long-line no-final-crlf",
        why="line-too-long",
    ),
    body(
        "line-of-1998-octets-of-white-space-at-the-end",
        b"x" + b" " * 1997 + b"\r\n",
        "What is cut here is white space that relaxed signing ignores, but not at a line start.",
        covers="long-line trailing-white-space",
        why="line-too-long",
    ),
    body(
        "line-of-2048-octets",
        b"y" * 2048 + b"\r\n",
        "Postfix reads lines in pieces of this size.",
        covers="long-line",
        why="line-too-long",
    ),
    body(
        "line-of-five-thousand-octets",
        b"<td>cell</td>" * 400 + b"\r\n",
        "HTML on one line, as programs write it.",
        covers="long-line html",
        why="line-too-long",
    ),
    body(
        "line-over-two-chunks",
        lambda: cut_at_chunk(b"z" * 1200 + b"\r\n", 600),
        "A long line of which no packet shows more than 998 octets.",
        covers="long-line chunk-boundary",
        why="line-too-long",
    ),
    body(
        "hundred-thousand-short-lines",
        lambda: b"x\r\n" * 100_000,
        "Work per line must be small.",
        covers="large-body",
    ),
    body(
        "five-megabytes-of-text",
        lambda: numbered_lines(5_000_000),
        "Memory must not grow with the body.",
        covers="large-body",
    ),
)

CASES = (*_EMPTINESS, *_WHITE_SPACE, *_CHUNKS, *_OCTETS, *_LENGTHS)

LARGE = (
    case(
        "fifty-megabytes",
        "Memory must not grow with the body, nor the time out of proportion.",
        covers="large-body",
        build=lambda: letter(
            *mime(b"application/octet-stream", b"base64"), body=numbered_lines(50_000_000)
        ),
    ),
    case(
        "twenty-megabytes-of-empty-lines",
        "Empty lines are pending until the end of the message.",
        covers="large-body trailing-lines",
        build=lambda: letter(body=b"\r\n" * 10_000_000),
    ),
    case(
        "forty-megabytes-of-spaces-in-lines",
        "Everything is white space that might be trailing.",
        covers="large-body space-run",
        build=lambda: letter(body=(b" " * 998 + b"\r\n") * 40_000 + b"x\r\n"),
    ),
)
