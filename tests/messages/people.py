"""Mail as people and their programs send it, in the languages they write."""

from __future__ import annotations

import base64
from functools import partial

from messages.compose import base64_lines, case, letter, mime, multipart, part

PDF = b"%PDF-1.7\n" + bytes(range(256)) * 120 + b"\n%%EOF\n"
SPACED_HTML = (
    b"<html>\r\n<body>\r\n"
    + b"    <table>   <tr>\t\t\t<td>   Offer        </td>   <td>      12,50     </td></tr>  \r\n"
    * 60
    + b"    </table>   \r\n\t\r\n\r\n</body>\r\n</html>   \r\n"
)
GERMAN = (
    b"Sehr geehrte Frau M=C3=BCller,=20\r\n\r\nvielen Dank f=C3=BCr Ihre Anfrage. Die Gr=C3=B6=\r\n"
    b"=C3=9Fe betr=C3=A4gt 3=20\xe2=\r\n".replace(b"\xe2", b"=E2=82=AC")
    + b"=2E\r\n"
)
JAPANESE = "四半期の数字をお送りします。\r\n以上、よろしくお願いいたします。\r\n".encode(
    "iso-2022-jp"
)
INVITATION = (
    b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Example//Calendar//EN\r\nMETHOD:REQUEST\r\n"
    b"BEGIN:VEVENT\r\nUID:4711@example.com\r\nDTSTAMP:20261120T081500Z\r\n"
    b"DTSTART:20261123T090000Z\r\nDTEND:20261123T100000Z\r\nSUMMARY:Figures\r\n"
    b"ORGANIZER;CN=Alice:mailto:alice@example.com\r\n"
    b"ATTENDEE;RSVP=TRUE:mailto:\r\n bob@partner.example\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)

_PROGRAMS = (
    case(
        "quoted-printable-german",
        "Soft line breaks and =20 at line ends are where relays cut.",
        covers="quoted-printable",
        build=partial(
            letter,
            *mime(b"text/plain; charset=utf-8", b"quoted-printable"),
            b"Subject: =?utf-8?Q?Angebot_f=C3=BCr_M=C3=BCller_&_S=C3=B6hne?=",
            body=GERMAN,
        ),
    ),
    case(
        "pdf-attachment",
        "The most common business mail of all.",
        covers="attachment",
        build=lambda: letter(
            *mime(b'multipart/mixed; boundary="=_next"'),
            body=multipart(
                b"=_next",
                part(b"text/plain; charset=us-ascii", b"The offer is attached.\r\n"),
                part(
                    b'application/pdf; name="Angebot M=?utf-8?Q?=C3=BC?=ller.pdf"',
                    base64_lines(PDF),
                    b"Content-Transfer-Encoding: base64",
                    b"Content-Disposition: attachment;\r\n filename*=utf-8''Angebot%20M%C3%BC.pdf",
                ),
                preamble=b"This is a multi-part message in MIME format.\r\n\r\n",
            ),
        ),
    ),
    case(
        "newsletter-with-html-full-of-spaces",
        "Templates indent with runs of spaces and leave them at line ends.",
        covers="html space-run trailing-white-space",
        build=lambda: letter(
            *mime(b'multipart/alternative; boundary="----=_Part_1"'),
            b"List-Unsubscribe: <https://example.com/u?id=4711>,\r\n <mailto:out@example.com>",
            b"List-Unsubscribe-Post: List-Unsubscribe=One-Click",
            body=multipart(
                b"----=_Part_1",
                part(b"text/plain; charset=utf-8", b"Offer\t12,50  \r\n"),
                part(b"text/html; charset=utf-8", SPACED_HTML),
            ),
        ),
        reverse_path=b"newsletter@example.com",
    ),
    case(
        "japanese-in-iso-2022-jp",
        "Escape characters switch the character set inside every line.",
        covers="japanese",
        build=partial(
            letter,
            *mime(b"text/plain; charset=iso-2022-jp", b"7bit"),
            b"Subject: =?ISO-2022-JP?B?GyRCO01IPjR8JE4/dDt6GyhC?=",
            body=JAPANESE,
        ),
    ),
    case(
        "chinese-in-gb18030",
        "Multi-byte characters whose second octet looks like ASCII.",
        covers="chinese eight-bit-body",
        reasons="eight-bit-content",
        build=partial(
            letter,
            *mime(b"text/plain; charset=gb18030", b"8bit"),
            b"Subject: =?gb18030?B?yP28vrbIyv3X1g==?=",
            body="三季度数字已准备好。\r\n丂乗\r\n".encode("gb18030"),
        ),
        parameters=(b"BODY=8BITMIME",),
    ),
    case(
        "arabic-and-hebrew-in-utf-8",
        "Right-to-left text with its marks.",
        covers="right-to-left smtputf8",
        build=partial(
            letter,
            *mime(b"text/plain; charset=utf-8", b"8bit"),
            "Subject: \u200fאופק / الأرقام جاهزة\u200e".encode(),  # noqa: RUF001
            body="الأرقام جاهزة\r\nהמספרים מוכנים\r\n".encode(),  # noqa: RUF001
        ),
        parameters=(b"SMTPUTF8", b"BODY=8BITMIME"),
    ),
    case(
        "flowed-text-with-signature",
        "In format=flowed the space at the end of a line has a meaning, and '-- ' ends with one.",
        covers="trailing-white-space",
        build=partial(
            letter,
            *mime(b"text/plain; charset=us-ascii; format=flowed; delsp=no"),
            body=b"This line goes on \r\nand ends here.\r\n\r\n> quoted \r\n\r\n-- \r\nAlice\r\n",
        ),
    ),
    case(
        "calendar-invitation",
        "Accepted and declined by machines that read every octet.",
        covers="calendar",
        build=lambda: letter(
            *mime(b'multipart/alternative; boundary="inv"'),
            b"Content-Class: urn:content-classes:calendarmessage",
            body=multipart(
                b"inv",
                part(b"text/plain; charset=us-ascii", b"Meeting\r\n"),
                part(b'text/calendar; charset="utf-8"; method=REQUEST', INVITATION),
            ),
        ),
    ),
    case(
        "signed-with-openpgp",
        "A signature inside the signature: neither may touch the other.",
        covers="inner-signature",
        build=lambda: letter(
            *mime(
                b"multipart/signed; micalg=pgp-sha512;\r\n"
                b' protocol="application/pgp-signature"; boundary="sig"'
            ),
            body=multipart(
                b"sig",
                part(b"text/plain; charset=utf-8", b"signed text =20\r\n"),
                part(
                    b"application/pgp-signature",
                    b"-----BEGIN PGP SIGNATURE-----\r\n\r\n"
                    + base64_lines(b"\x88\x01" * 90)
                    + b"-----END PGP SIGNATURE-----\r\n",
                ),
            ),
        ),
    ),
    case(
        "opaque-s-mime",
        "One base64 part, and Autocrypt beside it.",
        covers="inner-signature attachment",
        build=lambda: letter(
            *mime(b'application/pkcs7-mime; smime-type=signed-data; name="smime.p7m"', b"base64"),
            b"Autocrypt: addr=alice@example.com; keydata=\r\n "
            + base64.b64encode(b"\x99\x01" * 200).replace(b"iQG", b"iQG\r\n ", 8),
            body=base64_lines(bytes(range(256)) * 20),
        ),
    ),
    case(
        "forwarded-as-attachment",
        "The From of the message inside is not the author.",
        covers="nested-message",
        build=lambda: letter(
            *mime(b'multipart/mixed; boundary="fwd"'),
            body=multipart(
                b"fwd",
                part(b"text/plain", b"see below\r\n"),
                part(b"message/rfc822", letter(b"From: mallory@remote.test")),
            ),
        ),
    ),
    case(
        "multipart-that-never-ends",
        "A last delimiter is missing, an empty boundary is named inside.",
        covers="broken-mime",
        build=lambda: letter(
            *mime(b'multipart/mixed; boundary="open"'),
            body=multipart(b"open", part(b'multipart/mixed; boundary=""', b"--\r\n"), end=b""),
        ),
    ),
    case(
        "multipart-in-a-hundred-and-fifty-levels",
        "Parsers recurse; Postfix stops looking at a hundred.",
        covers="broken-mime parser-bound",
        build=lambda: letter(
            *mime(b'multipart/mixed; boundary="level0"'),
            body=b"".join(
                b'--level%d\r\nContent-Type: multipart/mixed; boundary="level%d"\r\n\r\n'
                % (at, at + 1)
                for at in range(150)
            ),
        ),
    ),
    case(
        "base64-body-marked-with-an-unknown-encoding",
        "Content-Transfer-Encoding is only a field to sign.",
        covers="broken-mime",
        build=partial(
            letter, *mime(b"text/plain", b"x-uuencode"), body=b"begin 644 a\r\n#86)C\r\nend\r\n"
        ),
    ),
)

_SCRIPTS = (
    case(
        "scan-from-the-printer",
        "Devices leave out half of what a message needs and write the rest in their own way.",
        covers="missing-fields odd-field-name",
        build=lambda: (
            b"from:scanner@example.com\r\nto:bob@partner.example\r\nsubject:\r\n"
            b"X-Scan-Result : ok\r\n\r\nScan attached.\r\n"
        ),
        reverse_path=b"scanner@example.com",
    ),
    case(
        "monitoring-alert",
        "A subject of 300 octets with percent signs, braces and a URL.",
        covers="program-mail",
        build=partial(
            letter,
            b"Subject: [CRIT] disk %d at 97%% {host=mx1} ${HOSTNAME} %s "
            + b"https://monitor.example.com/?q="
            + b"a%20b" * 40,
            b"Auto-Submitted: auto-generated",
            b"Precedence: bulk",
        ),
        reverse_path=b"monitor@example.com",
    ),
    case(
        "to-undisclosed-recipients",
        "An empty group in To.",
        covers="group",
        build=partial(letter, b"To: undisclosed-recipients:;"),
        to=(b"bob@partner.example", b"dave@remote.test"),
    ),
    case(
        "no-to-and-no-cc",
        "Only the envelope knows who gets it; To and Cc are oversigned as absent.",
        covers="missing-fields",
        build=partial(letter, without="to"),
    ),
    case(
        "two-hundred-folded-recipients",
        "A long To, folded as it should be.",
        covers="long-value folded-value",
        build=partial(
            letter,
            b"To: "
            + b",\r\n\t".join(b'"User, %d" <u%d@partner.example>' % (at, at) for at in range(200)),
        ),
    ),
    case(
        "sql-in-the-subject",
        "Text that must stay text in every query and log line.",
        covers="injection",
        build=partial(
            letter,
            b"Subject: '; DROP TABLE record; -- \" OR 1=1 \\x00 \xe2\x80\xa8 {{7*7}}",
            b"X-Mailer: =cmd|' /C calc'!A0",
            b"Message-ID: <'\"><script>alert(1)</script>@example.com>",
        ),
    ),
)

CASES = (*_PROGRAMS, *_SCRIPTS)
