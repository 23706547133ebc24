"""Who sends: everybody who may not make us sign, and those who may."""

from __future__ import annotations

from functools import partial

from messages.compose import case, letter

SPOOFED = b"From: The Board <ceo@example.com>"
FOREIGN = b"From: Carol <carol@partner.example>"
MILTER_ONLY = "Foreign mail is decided by the proof of origin before anybody looks at the author."

CASES = (
    case(
        "outside-client-writes-as-our-board",
        "A stranger writes our domain into From; a signature would vouch for the forgery.",
        covers="spoofed-author",
        build=partial(letter, SPOOFED, b"To: bob@example.com"),
        why="no-origin-proof",
        crossing="inbound",
    ),
    case(
        "outside-client-forges-envelope-and-author",
        "Judged by addresses alone this is mail among ourselves: signed, and not archived.",
        covers="spoofed-author forged-reverse-path",
        reasons="reverse-path-unproven",
        build=partial(letter, SPOOFED, b"To: bob@example.com"),
        why="no-origin-proof",
        crossing="inbound",
        reverse_path=b"ceo@example.com",
    ),
    case(
        "outside-client-writes-to-us",
        "Ordinary mail from a partner must reach the archive and stay unsigned.",
        covers="plain-inbound",
        build=partial(letter, FOREIGN, b"To: bob@example.com"),
        why="no-origin-proof",
        crossing="inbound",
    ),
    case(
        "outside-client-wants-to-relay",
        "A stranger uses our relay to reach third parties; Postfix refuses, nothing is recorded.",
        covers="relay-attempt",
        build=partial(letter, FOREIGN),
        crossing="transit",
        via="outside",
        smtp="postfix",
        note="554 5.7.1 at RCPT, where the restrictions of the relay say so.",
    ),
    case(
        "outside-client-with-our-archive-marker",
        "A field that a filter might trust must not switch the copy off.",
        covers="spoofed-author forged-marker",
        build=partial(
            letter,
            FOREIGN,
            b"To: bob@example.com",
            b"X-Archived: yes",
            b"X-Carbonseal-Record: 01JD0000000000000000000000",
        ),
        why="no-origin-proof",
        crossing="inbound",
    ),
    case(
        "content-filter-returns-foreign-mail",
        "A filter hands spam back from loopback; who trusts loopback signs it.",
        covers="loopback",
        build=partial(letter, SPOOFED, b"To: bob@example.com"),
        why="no-origin-proof",
        crossing="inbound",
        via="loopback",
    ),
    case(
        "content-filter-returns-our-own-mail",
        "The same with our reverse-path: nothing tells it from a forgery.",
        covers="loopback forged-reverse-path",
        reasons="reverse-path-unproven",
        build=partial(letter, b"To: bob@example.com"),
        why="no-origin-proof",
        crossing="inbound",
        via="loopback",
        reverse_path=b"alice@example.com",
    ),
    case(
        "login-from-anywhere",
        "A traveller with a login writes to a partner and must be signed.",
        covers="login",
        build=letter,
        via="submission",
        login="alice",
    ),
    case(
        "submission-without-login",
        "A listener with its own access rules is a proof of its own.",
        covers="listener",
        build=letter,
        via="submission",
    ),
    case(
        "login-writes-as-a-stranger",
        "A login proves who sends, not that the author is ours: there is no key for a stranger.",
        covers="login foreign-author",
        build=partial(letter, FOREIGN),
        why="author-not-ours",
        via="submission",
        login="alice",
    ),
    case(
        "login-with-a-private-reverse-path",
        "An employee sends with a private reverse-path: signed for the author, and it crosses.",
        covers="login foreign-reverse-path",
        build=partial(letter, b"To: bob@example.com"),
        crossing="inbound",
        via="submission",
        login="alice",
        reverse_path=b"alice@remote.test",
    ),
    case(
        "mail-among-ourselves",
        "Internal mail is signed as well but must not fill the archive.",
        covers="internal",
        build=partial(letter, b"To: bob@example.com"),
        crossing="internal",
    ),
    case(
        "forwarded-for-a-partner",
        "An inside server forwards foreign mail: both ends outside, copied, not ours to sign.",
        covers="transit foreign-author",
        build=partial(letter, FOREIGN, b"To: dave@remote.test"),
        why="author-not-ours",
        crossing="transit",
    ),
    case(
        "cron-through-sendmail",
        "Whatever runs on the relay may call sendmail(1); unless allowed, that proves nothing.",
        covers="sendmail",
        build=partial(letter, b"From: root@example.com (Cron Daemon)", b"To: bob@example.com"),
        why="no-origin-proof",
        crossing="inbound",
        via="sendmail",
        reverse_path=b"root@example.com",
        note="Seen through non_smtpd_milters only, with LF, as localhost [127.0.0.1] port 0.",
    ),
)
