"""Header fields as they stand on the wire: spacing, folding, names, number, size."""

from __future__ import annotations

from functools import partial

from messages.compose import case, letter, section, subject

LONGEST = 998  # octets of a line without CRLF that smtp(8) leaves alone


_SPACING = (
    subject(
        "subject-without-space",
        b"Figures",
        "A value given without its spacing is rebuilt wrongly.",
        covers="value-spacing",
    ),
    subject(
        "subject-after-two-spaces",
        b"  Figures",
        "One space dropped on the way breaks simple signatures.",
        covers="value-spacing",
    ),
    subject(
        "subject-after-a-tab",
        b"\tFigures",
        "A tab is not the space that Postfix strips.",
        covers="value-spacing",
    ),
    subject(
        "subject-with-trailing-white-space",
        b" Figures \t  ",
        "Relaxed signing drops it, Postfix keeps it.",
        covers="value-spacing",
    ),
    subject(
        "subject-with-inner-runs",
        b" Figures   of \t the\t\tquarter",
        "Runs of white space count as one.",
        covers="value-spacing",
    ),
    subject("subject-empty", b"", "A field without value is a field.", covers="empty-value"),
    subject(
        "subject-of-white-space",
        b" \t ",
        "White space only is an empty value, not a missing field.",
        covers="empty-value",
    ),
    subject(
        "subject-folded-with-an-empty-first-line",
        b"\r\n Figures",
        "The fold right after the colon gets lost in milters that trim.",
        covers="folded-value",
    ),
    subject(
        "subject-folded-with-a-white-space-line",
        b" Figures\r\n \t\r\n of the quarter",
        "A line of white space looks like the end of the header section.",
        covers="folded-value",
    ),
    subject(
        "subject-ending-in-a-white-space-line",
        b" Figures\r\n  ",
        "The last fold has nothing after it.",
        covers="folded-value",
    ),
    subject(
        "subject-folded-with-tabs",
        b" Figures\r\n\tof the\r\n\t\tquarter",
        "Tabs in folds.",
        covers="folded-value",
    ),
    case(
        "message-id-on-its-own-line",
        "Outlook writes Message-ID this way; trimmed values break the signature.",
        covers="folded-value message-id",
        build=partial(letter, b"Message-ID:\r\n <DB7PR0123456789@DB7PR01.example.com>"),
    ),
)

_NAMES = (
    case(
        "field-names-in-odd-case",
        "Names have no case; a table keyed by spelling misses them.",
        covers="odd-field-name",
        build=lambda: section(
            b"FROM: alice@example.com",
            b"tO: bob@partner.example",
            b"subject: lower",
            b"DATE: Fri, 20 Nov 2026 09:15:00 +0100",
            b"mESSAGE-iD: <odd@example.com>",
            b"MIME-VERSION: 1.0",
            b"content-TYPE: text/plain",
        ),
    ),
    case(
        "space-before-the-colon",
        "Obsolete syntax that some libraries refuse.",
        covers="odd-field-name",
        build=partial(letter, b"Subject : Figures", b"X-Odd \t: value"),
        note="Postfix removes the white space before the milter.",
    ),
    case(
        "field-name-with-8-bit",
        "No field at all: the header section ends there.",
        covers="odd-field-name malformed-header",
        build=partial(letter, b"X-Gr\xfc\xdfe: hello", b"X-After: is body now"),
        note="Postfix takes the line for the first of the body.",
    ),
    case(
        "line-without-a-colon-in-the-header",
        "A broken script; what follows is body, for Postfix and for us.",
        covers="malformed-header",
        build=partial(letter, b"this line has no colon", b"X-After: is body now"),
    ),
    case(
        "from-after-a-line-without-a-colon",
        "An author in what has become the body is no author.",
        covers="malformed-header no-from",
        build=lambda: section(b"Subject: x", b"no colon here", b"From: alice@example.com"),
        why="no-author",
    ),
    case(
        "field-without-a-name",
        "An empty name ends the header section.",
        covers="malformed-header odd-field-name",
        build=partial(letter, b": nothing", b"X-After: is body now"),
    ),
    case(
        "first-line-begins-with-white-space",
        "A continuation of nothing raises in parsers.",
        covers="malformed-header no-from",
        build=lambda: b" folded without a field\r\n" + letter(),
        why="no-author",
        note="Postfix puts an empty line before it: no header section is left.",
    ),
    case(
        "mbox-line-at-the-top",
        "Mail fed from mailbox files; Postfix renames the line before anybody signs.",
        covers="mbox-line",
        build=lambda: b"From alice@example.com Fri Nov 20 09:15:00 2026\r\n" + letter(),
        note="It arrives as X-Mailbox-Line.",
    ),
    case(
        "quoted-mbox-line-at-the-top",
        "The same with the quote that mailbox files use.",
        covers="mbox-line",
        build=lambda: b">From alice@example.com Fri Nov 20 09:15:00 2026\r\n" + letter(),
        note="It arrives as X-Mailbox-Line.",
    ),
    case(
        "no-header-section",
        "A body alone.",
        covers="malformed-header no-from",
        build=lambda: b"\r\njust text\r\n",
        why="no-author",
    ),
    case(
        "nothing-at-all",
        "DATA with nothing but the final dot.",
        covers="malformed-header no-from empty-body",
        build=lambda: b"",
        why="no-author",
    ),
    case(
        "header-without-empty-line-or-body",
        "The header section ends with the message.",
        covers="empty-body malformed-header",
        build=lambda: letter(body=b"").removesuffix(b"\r\n"),
    ),
)

_NUMBER = (
    case(
        "subject-twice",
        "Readers show one, verifiers check the last; both must be covered.",
        covers="duplicate-field",
        build=partial(letter, b"Subject: first", b"Subject: second"),
    ),
    case(
        "every-singular-field-twice",
        "To, Cc, Date, Message-ID and Content-Type twice each.",
        covers="duplicate-field",
        build=partial(
            letter,
            b"To: bob@partner.example",
            b"To: dave@remote.test",
            b"Cc: carol@partner.example",
            b"Cc: erin@partner.example",
            b"Date: Fri, 20 Nov 2026 09:15:00 +0100",
            b"Date: Thu, 01 Jan 1970 00:00:00 +0000",
            b"Message-ID: <one@example.com>",
            b"Message-ID: <two@example.com>",
            b"Content-Type: text/plain",
            b"Content-Type: text/html",
        ),
    ),
    case(
        "five-hundred-to-fields",
        "A program writes one To per recipient: h= would be longer than verifiers read.",
        covers="duplicate-field many-fields",
        build=lambda: letter(*(b"To: user%d@partner.example" % at for at in range(500))),
        why="too-many-fields",
    ),
    case(
        "five-thousand-fields",
        "Filters in a row each leave their fields; costs must stay linear.",
        covers="many-fields",
        build=lambda: letter(*(b"X-Filter-%d: passed" % at for at in range(5000))),
    ),
    case(
        "hundred-kilobytes-of-header",
        "A limit on the header section must not become an endless tempfail.",
        covers="large-header",
        build=lambda: letter(*(b"X-Trace-%d: " % at + b"0123456789 " * 80 for at in range(120))),
    ),
    case(
        "field-of-sixty-thousand-octets",
        "Almost a whole milter packet in one signed field.",
        covers="large-header long-value",
        build=lambda: letter(b"References:" + b"\r\n <0123456789abcdef@example.com>" * 1900),
    ),
    case(
        "field-longer-than-postfix-keeps",
        "Postfix cuts one field at header_size_limit; signing comes after.",
        covers="large-header long-value",
        build=lambda: letter(b"X-Spam-Report:" + b"\r\n  0.1 RULE hit in this line" * 4200),
        note="header_size_limit 102400.",
    ),
    case(
        "signed-field-longer-than-postfix-keeps",
        "The same in a field that is signed: what was cut is what must be signed.",
        covers="large-header long-value",
        build=lambda: letter(b"References:" + b"\r\n <0123456789abcdef@example.com>" * 4000),
        note="More than the 65,535 octets of a milter packet; Debian's libmilter takes it.",
    ),
    case(
        "message-id-of-twelve-kilobytes",
        "Indexes refuse it, and in some archives the whole batch with it.",
        covers="message-id long-value",
        build=partial(
            letter, b"Message-ID: <" + b"\r\n ".join([b"0123456789abcdef" * 60] * 13) + b"@x>"
        ),
    ),
    case(
        "references-of-five-hundred-messages",
        "A thread of years.",
        covers="long-value",
        build=partial(
            letter,
            b"References: "
            + b"\r\n ".join(b"<%d.thread@partner.example>" % at for at in range(500)),
            b"In-Reply-To: <499.thread@partner.example>",
        ),
    ),
    case(
        "bcc-and-return-path-in-the-message",
        "Postfix removes Bcc, Return-Path, Content-Length and Resent-Bcc before the milter.",
        covers="dropped-field",
        build=partial(
            letter,
            b"Bcc: secret@partner.example",
            b"Return-Path: <alice@example.com>",
            b"Content-Length: 4711",
            b"Resent-Bcc: other@partner.example",
        ),
    ),
    case(
        "no-date-and-no-message-id",
        "A scanner that sets no fields; signing their absence breaks where a relay adds them.",
        covers="missing-fields",
        build=partial(letter, without="date message-id mime-version content-type subject"),
    ),
)

_LENGTH = (
    subject(
        "subject-line-of-998-octets",
        b" " + b"x" * (LONGEST - 9),
        "The longest line that passes unchanged.",
        covers="long-line",
    ),
    subject(
        "subject-line-of-999-octets",
        b" " + b"x" * (LONGEST - 8),
        "One more and Postfix cuts it after the milter.",
        covers="long-line",
        why="line-too-long",
    ),
    subject(
        "subject-value-of-1000-octets",
        b" " + b"0123456789" * 100,
        "A ticket system that never folds.",
        covers="long-line",
        why="line-too-long",
    ),
    subject(
        "folded-line-of-999-octets",
        b" short\r\n " + b"x" * LONGEST,
        "The long line is not the first of its field.",
        covers="long-line folded-value",
        why="line-too-long",
    ),
    case(
        "recipients-on-one-line",
        "Programs write a hundred recipients without folding.",
        covers="long-line",
        build=partial(
            letter, b"To: " + b", ".join(b"user%03d@partner.example" % at for at in range(100))
        ),
        why="line-too-long",
    ),
    case(
        "long-line-in-a-field-that-is-not-signed",
        "Postfix cuts a field that no signature covers: no harm.",
        covers="long-line",
        build=partial(letter, b"X-Report: " + b"0123456789" * 200),
        note="Refusing to sign because of it would be safe, but needless.",
    ),
)

CASES = (*_SPACING, *_NAMES, *_NUMBER, *_LENGTH)
