"""Bounces, replies by machines, lists, forwarders, and mail that was signed before."""

from __future__ import annotations

from functools import partial

from messages.case import Case
from messages.compose import TEXT, case, letter, mime, multipart, part, section

SEALED_BY_PARTNER = (
    b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=partner.example; s=2026a;\r\n"
    b"\th=from:to:subject:date:message-id; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n"
    b"\tb=" + b"0123456789abcdef" * 4 + b"\r\n\t " + b"fedcba9876543210" * 4
)
SEALED_BY_US = SEALED_BY_PARTNER.replace(b"partner.example", b"example.com")
REPORT = b'multipart/report; report-type=%b;\r\n\tboundary="rpt"'
LIST = (
    b"List-Id: Figures <figures.lists.example.com>",
    b"List-Post: <mailto:figures@example.com>",
    b"List-Help: <mailto:figures-request@example.com?subject=help>",
    b"List-Unsubscribe: <mailto:figures-leave@example.com>",
    b"List-Archive: <https://lists.example.com/figures/>",
    b"Precedence: list",
    b"X-BeenThere: figures@example.com",
)
FOOTER = TEXT + b"_" * 47 + b"\r\nfigures mailing list -- figures@example.com\r\n"
RECEIVED = (
    b"Received: from mx%d.partner.example (mx%d.partner.example [203.0.113.%d])\r\n"
    b"\tby mx%d.remote.test (Postfix) with ESMTPS id 4ABC%04d\r\n"
    b"\tfor <bob@example.com>; Fri, 20 Nov 2026 09:%02d:00 +0100 (CET)"
)


def _received(number: int) -> tuple[bytes, ...]:
    return tuple(RECEIVED % (at, at, at, at, at, at % 60) for at in range(number))


def _delivery_status(recipient: bytes, original: bytes) -> bytes:
    status = (
        b"Reporting-MTA: dns; mx1.example.com\r\n\r\nFinal-Recipient: rfc822; "
        + recipient
        + b"\r\n"
        b"Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n"
    )
    return multipart(
        b"rpt",
        part(b"text/plain; charset=us-ascii", b"I'm sorry to have to inform you.\r\n"),
        part(b"message/delivery-status", status),
        part(b"message/rfc822", original),
    )


def _bounce(author: bytes, to: bytes, original: bytes) -> bytes:
    return letter(
        b"From: " + author,
        b"To: " + to,
        b"Subject: Undelivered Mail Returned to Sender",
        b"Auto-Submitted: auto-replied",
        *mime(REPORT % b"delivery-status"),
        body=_delivery_status(to, original),
    )


_MACHINES = (
    case(
        "bounce-from-outside",
        "A null reverse-path from a stranger is not ours, whatever maps of addresses say.",
        covers="bounce null-reverse-path",
        reasons="null-reverse-path-outside",
        build=lambda: _bounce(
            b"MAILER-DAEMON@partner.example (Mail Delivery System)", b"alice@example.com", letter()
        ),
        why="no-origin-proof",
        crossing="inbound",
        reverse_path=b"",
        to=(b"alice@example.com",),
    ),
    case(
        "bounce-from-our-server",
        "Our own bounces leave with a null reverse-path and need a signature like all mail.",
        covers="bounce null-reverse-path",
        reasons="null-reverse-path-inside",
        build=lambda: _bounce(
            b"MAILER-DAEMON@example.com (Mail Delivery System)", b"carol@partner.example", letter()
        ),
        reverse_path=b"",
        to=(b"carol@partner.example",),
    ),
    case(
        "bounce-among-ourselves",
        "A null reverse-path from inside to inside crosses nothing.",
        covers="bounce null-reverse-path internal",
        build=lambda: _bounce(b"MAILER-DAEMON@example.com", b"bob@example.com", letter()),
        crossing="internal",
        reverse_path=b"",
    ),
    case(
        "bounce-with-a-foreign-author",
        "An inside server bounces under a name of its own for which there is no key.",
        covers="bounce null-reverse-path foreign-author",
        build=lambda: _bounce(b"postmaster@mx9.internal.test", b"carol@partner.example", letter()),
        why="author-not-ours",
        reverse_path=b"",
        to=(b"carol@partner.example",),
    ),
    case(
        "out-of-office-reply",
        "Replies by machines have a null reverse-path and a human author.",
        covers="auto-reply null-reverse-path",
        build=partial(
            letter,
            b"Subject: Automatic reply: Figures",
            b"Auto-Submitted: auto-replied (vacation)",
            b"X-Auto-Response-Suppress: All",
            b"In-Reply-To: <question@partner.example>",
            b"References: <question@partner.example>",
        ),
        reverse_path=b"",
    ),
    case(
        "read-receipt",
        "A disposition notification to a partner.",
        covers="auto-reply null-reverse-path",
        build=lambda: letter(
            *mime(REPORT % b"disposition-notification"),
            body=multipart(
                b"rpt",
                part(b"text/plain", b"Your message was displayed.\r\n"),
                part(
                    b"message/disposition-notification",
                    b"Final-Recipient: rfc822;alice@example.com\r\n"
                    b"Disposition: manual-action/MDN-sent-manually; displayed\r\n",
                ),
            ),
        ),
        reverse_path=b"",
    ),
)

_LISTS = (
    case(
        "list-post-by-a-member-of-ours",
        "Our list sends our author to an outside subscriber, with its footer.",
        covers="list verp",
        build=partial(letter, *LIST, b"Sender: figures-bounces@example.com", body=FOOTER),
        reverse_path=b"figures-bounces+bob=partner.example@example.com",
    ),
    case(
        "list-post-by-an-outside-member",
        "The author is a stranger; a list does not make him ours.",
        covers="list verp foreign-author",
        build=partial(letter, b"From: Carol <carol@partner.example>", *LIST, body=FOOTER),
        why="author-not-ours",
        reverse_path=b"figures-bounces+dave=remote.test@example.com",
        to=(b"dave@remote.test",),
    ),
    case(
        "list-post-with-munged-author",
        "Lists rewrite authors of strict domains to their own address.",
        covers="list verp address-in-display-name",
        build=partial(
            letter,
            b'From: "carol@partner.example via Figures" <figures@example.com>',
            b"Reply-To: Carol <carol@partner.example>, figures@example.com",
            *LIST,
            body=FOOTER,
        ),
        reverse_path=b"figures-bounces+dave=remote.test@example.com",
        to=(b"dave@remote.test",),
    ),
    case(
        "list-post-from-outside-with-our-author",
        "A list elsewhere sends our own author back to us: no proof, no second signature.",
        covers="list spoofed-author already-signed",
        build=partial(letter, SEALED_BY_US, *LIST, body=FOOTER),
        why="no-origin-proof",
        crossing="inbound",
        reverse_path=b"list-bounces@remote.test",
    ),
    case(
        "verp-newsletter",
        "The reverse-path holds the recipient; it is still ours.",
        covers="verp",
        build=partial(letter, b"From: News <news@example.com>"),
        reverse_path=b"news+4711-bob=partner.example@example.com",
    ),
    case(
        "srs-from-our-forwarder",
        "A forwarder of ours rewrote the reverse-path: it looks inside and began outside.",
        covers="srs foreign-author",
        reasons="reverse-path-srs",
        build=partial(letter, b"From: Dave <dave@remote.test>", b"To: bob@example.com"),
        why="author-not-ours",
        crossing="inbound",
        via="inside",
        reverse_path=b"SRS0=HHH=TT=remote.test=dave@example.com",
    ),
    case(
        "srs-from-outside",
        "The same from a stranger, who has written SRS himself.",
        covers="srs forged-reverse-path",
        build=partial(letter, b"From: Dave <dave@remote.test>", b"To: bob@example.com"),
        why="no-origin-proof",
        crossing="inbound",
        reverse_path=b"SRS1=HHH=remote.test==HHH=TT=third.test=dave@example.com",
    ),
    case(
        "redirected-by-a-user-of-ours",
        "Resent-From is ours, the author is not: a redirect is no authorship.",
        covers="resent foreign-author",
        build=partial(
            letter,
            b"Resent-From: Alice <alice@example.com>",
            b"Resent-To: bob@partner.example",
            b"Resent-Date: Fri, 20 Nov 2026 10:00:00 +0100",
            b"Resent-Message-ID: <resent.1@example.com>",
            b"From: Dave <dave@remote.test>",
        ),
        why="author-not-ours",
    ),
    case(
        "resent-twice-by-our-author",
        "Two blocks of Resent fields, all of them signed.",
        covers="resent duplicate-field",
        build=partial(
            letter,
            b"Resent-From: Bob <bob@example.com>",
            b"Resent-To: carol@partner.example",
            b"Resent-Date: Fri, 20 Nov 2026 11:00:00 +0100",
            b"Resent-Message-ID: <resent.2@example.com>",
            b"Resent-From: Alice <alice@example.com>",
            b"Resent-To: bob@example.com",
            b"Resent-Date: Fri, 20 Nov 2026 10:00:00 +0100",
            b"Resent-Message-ID: <resent.1@example.com>",
        ),
    ),
)


def _signed_before(name: str, about: str, *fields: bytes, covers: str) -> Case:
    return case(name, about, covers=covers, build=lambda: section(*fields, *_standard_fields()))


def _standard_fields() -> list[bytes]:
    return letter(body=b"").removesuffix(b"\r\n\r\n").split(b"\r\n")


_SIGNED = (
    _signed_before(
        "signed-by-somebody-before",
        "Ours goes above; theirs stays as it is, valid or not.",
        SEALED_BY_PARTNER,
        covers="already-signed",
    ),
    _signed_before(
        "signed-by-us-before",
        "A stale signature of our own domain must not be taken for the new one.",
        SEALED_BY_US,
        covers="already-signed",
    ),
    _signed_before(
        "signed-many-times-before",
        "Each relay and list on the way left one; ours is the topmost.",
        *(SEALED_BY_PARTNER.replace(b"2026a", b"s%d" % at) for at in range(12)),
        covers="already-signed many-fields",
    ),
    case(
        "signature-field-that-is-none-before",
        "A broken signature field of a program before us spoils ours for one verifier.",
        covers="already-signed malformed-signature",
        build=lambda: section(b"DKIM-Signature: this is none", *_standard_fields()),
        verifies=False,
        note="libopendkim 2.11 gives up ('Syntax error'); dkimpy and Mail::DKIM accept ours.",
    ),
    case(
        "empty-signature-field-before",
        "The same with a field that a filter has emptied.",
        covers="already-signed malformed-signature empty-value",
        build=lambda: section(b"dkim-signature:", *_standard_fields()),
        verifies=False,
        note="libopendkim 2.11 gives up ('Syntax error'); dkimpy and Mail::DKIM accept ours.",
    ),
    _signed_before(
        "sealed-with-arc",
        "Three ARC fields and authentication results of a forwarder.",
        b"ARC-Seal: i=1; a=rsa-sha256; t=1795162500; cv=none; d=partner.example; s=arc;\r\n"
        b"\tb=" + b"0123456789abcdef" * 8,
        b"ARC-Message-Signature: i=1; a=rsa-sha256; c=relaxed/relaxed; d=partner.example;\r\n"
        b"\ts=arc; h=from:to; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n"
        b"\tb=" + b"0123456789abcdef" * 8,
        b"ARC-Authentication-Results: i=1; mx.partner.example; dkim=pass header.d=partner.example",
        b"Authentication-Results: mx.partner.example; dkim=pass header.i=@partner.example;\r\n"
        b"\tspf=pass smtp.mailfrom=carol@partner.example",
        covers="arc already-signed",
    ),
    _signed_before(
        "received-through-thirty-relays",
        "A long way behind it, all of it above the author's fields.",
        *_received(30),
        covers="received-chain",
    ),
    case(
        "received-through-sixty-relays",
        "Postfix takes it for a loop.",
        covers="received-chain",
        build=lambda: section(*_received(60), *_standard_fields()),
        smtp="postfix",
        note="hopcount_limit 50: cleanup(8) refuses at end of data, before the milter's.",
    ),
)

CASES = (*_MACHINES, *_LISTS, *_SIGNED)
