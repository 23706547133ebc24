"""Header fields whose octets or encodings are odd: 8-bit, control characters, encoded-words."""

from __future__ import annotations

from functools import partial

from messages.compose import case, letter, subject

CASES = (
    subject(
        "subject-in-raw-latin-1",
        b" Gr\xfc\xdfe aus K\xf6ln",
        "Signers that decode drop the field from what they sign.",
        covers="eight-bit-header",
    ),
    subject(
        "subject-in-raw-utf-8-without-smtputf8",
        " Grüße aus Köln".encode(),
        "Undeclared UTF-8 is common and passes.",
        covers="eight-bit-header",
    ),
    subject(
        "subject-in-broken-utf-8",
        b" \xc3\x28 \xed\xa0\x80 \xff\xfe",
        "Truncated sequences and encoded surrogates are only octets.",
        covers="eight-bit-header lone-surrogate",
    ),
    case(
        "headers-in-utf-8-with-smtputf8",
        "Declared international mail keeps raw UTF-8 in every field.",
        covers="smtputf8 eight-bit-header",
        build=partial(
            letter,
            "Subject: Größe 📦 日本語".encode(),
            "To: Bücherwurm <bücherwurm@partner.example>".encode(),
        ),
        parameters=(b"SMTPUTF8", b"BODY=8BITMIME"),
        to=("bücherwurm@partner.example".encode(),),
    ),
    subject(
        "subject-with-form-feed",
        b" Figures\x0cof the quarter",
        "Verifiers differ on whether it is white space; some would fail.",
        covers="vertical-space",
        why="disputed-octets",
    ),
    subject(
        "subject-ending-in-form-feed",
        b" Figures \x0c",
        "Stripped by one verifier, kept by another.",
        covers="vertical-space",
        why="disputed-octets",
    ),
    subject(
        "subject-ending-in-vertical-tab",
        b" Figures\x0b",
        "Stripped by one verifier, kept by another.",
        covers="vertical-space",
        why="disputed-octets",
    ),
    case(
        "form-feed-in-a-field-that-is-not-signed",
        "A disputed octet outside the signature harms nobody.",
        covers="vertical-space",
        build=partial(letter, b"X-Printer: tray 1\x0ctray 2\x0b"),
    ),
    subject(
        "subject-with-control-characters",
        b" \x01bell\x07 \x1b[31mred\x1b[0m \x7f",
        "Escapes must not reach an operator's terminal.",
        covers="control-characters",
    ),
    subject(
        "subject-with-nul",
        b" Figures\x00hidden",
        "Header values are C strings for Postfix: it ends at the NUL.",
        covers="nul",
        note="Postfix cuts the line at the NUL before the milter.",
    ),
    case(
        "from-cut-by-nul",
        "What stands after the NUL must decide nothing.",
        covers="nul",
        build=partial(letter, b"From: alice@example.com\x00, mallory@remote.test"),
        note="Postfix cuts the line at the NUL before the milter.",
    ),
    subject(
        "subject-with-bare-cr",
        b" Figures\rFrom: mallory@remote.test",
        "A bare CR shows a second field in some readers.",
        covers="bare-cr",
        note="Postfix makes it a space before the milter (cleanup_replace_stray_cr_lf).",
    ),
    subject(
        "subject-with-bare-lf",
        b" Figures\nX-Smuggled: yes",
        "A bare LF ends the line for Postfix: another field begins.",
        covers="bare-lf",
        note="smtpd ends lines at LF; with smtpd_forbid_bare_newline it would differ.",
    ),
    subject(
        "subject-with-cr-cr-lf",
        b" Figures\r",
        "Doubled CRs of broken gateways.",
        covers="bare-cr",
        note="smtpd strips every CR before the LF.",
    ),
    subject(
        "subject-decodes-to-nul",
        b" =?utf-8?Q?Figures=00hidden?=",
        "Databases refuse or cut text with NUL.",
        covers="encoded-nul encoded-word",
    ),
    subject(
        "subject-decodes-to-a-lone-surrogate",
        b" =?utf-16?B?2AAAQQ==?= =?utf-16-be?Q?=DC=00?=",
        "A lone surrogate cannot be written as UTF-8: one row blocks a batch.",
        covers="lone-surrogate encoded-word",
    ),
    subject(
        "subject-in-surrogate-utf-8",
        b" =?utf-8?B?7aCAYQ==?=",
        "Encoded surrogates in UTF-8, as some systems write them.",
        covers="lone-surrogate encoded-word",
    ),
    subject(
        "subject-in-an-unknown-charset",
        b" =?x-unknown-9?Q?Gr=FC=DFe?=",
        "A codec that does not exist raises.",
        covers="encoded-word",
    ),
    subject(
        "subject-in-a-charset-that-is-no-text",
        b" =?base64?Q?Zm9v?= =?rot13?Q?sbb?= =?idna?Q?xn--?= =?unicode_escape?Q?=5CuD800?=",
        "Python has codecs that are no charsets.",
        covers="encoded-word",
    ),
    subject(
        "subject-in-broken-base64",
        b" =?utf-8?B?R3L8A?= =?utf-8?B?====?=",
        "Padding errors raise in careless decoders.",
        covers="encoded-word",
    ),
    subject(
        "subject-with-a-character-split-over-words",
        b" =?UTF-8?Q?Gr=C3?=\r\n =?UTF-8?Q?=BC=C3=9Fe?=",
        "A character cut in two encoded-words.",
        covers="encoded-word folded-value",
    ),
    subject(
        "subject-with-right-to-left-override",
        b" =?utf-8?B?4oCudHhlLmNvZOKArA==?= \xe2\x80\xaegpj.exe",
        "Shown backwards, and a trap in terminals.",
        covers="right-to-left eight-bit-header",
    ),
    subject(
        "subject-in-iso-2022-jp",
        b" =?ISO-2022-JP?B?GyRCO01IPjR8JE4/dDt6GyhC?=",
        "A stateful charset.",
        covers="encoded-word japanese",
    ),
    subject(
        "subject-of-four-thousand-emoji",
        b"".join(b"\r\n =?utf-8?B?8J+TpvCfk6bwn5Om8J+TpvCfk6bwn5OmfPCfk6Y=?=" for _ in range(570)),
        "Astral characters and a value no index takes.",
        covers="astral long-value",
    ),
)
