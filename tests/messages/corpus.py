"""All cases, and which of them are to be sent over one connection."""

from __future__ import annotations

from messages import addresses, authors, bodies, fields, forwarding, octets, origins, people
from messages.case import Case, Conversation

CASES: tuple[Case, ...] = (
    *origins.CASES,
    *authors.CASES,
    *fields.CASES,
    *octets.CASES,
    *bodies.CASES,
    *people.CASES,
    *forwarding.CASES,
    *addresses.CASES,
)
LARGE: tuple[Case, ...] = bodies.LARGE  # 20 to 50 MB each

BY_ID = {one.id: one for one in (*CASES, *LARGE)}

CONVERSATIONS = (
    Conversation(
        id="no-author-after-an-author-of-ours",
        about="The second message has no From; the domain of the first must not sign it.",
        covers=("carry-over", "no-from"),
        cases=("subject-empty", "no-from-field", "subject-twice", "no-from-field"),
        between="nothing",
    ),
    Conversation(
        id="no-author-after-rset",
        about="A transaction given up after MAIL leaves nothing behind.",
        covers=("carry-over", "no-from"),
        cases=("subject-empty", "no-from-field"),
        between="rset-after-mail",
    ),
    Conversation(
        id="no-author-after-rset-with-a-recipient",
        about="A transaction given up after RCPT leaves neither recipient nor crossing behind.",
        covers=("carry-over", "internal"),
        cases=("archive-and-partner", "mail-among-ourselves", "no-from-field"),
        between="rset-after-recipient",
    ),
    Conversation(
        id="no-author-after-a-refused-recipient",
        about="A refused recipient is no recipient, of this message or the next.",
        covers=("carry-over", "mixed-recipients"),
        cases=("mail-among-ourselves", "no-from-field", "mail-among-ourselves"),
        between="refused-recipient",
    ),
    Conversation(
        id="unreadable-and-foreign-authors-in-turn",
        about="Every kind of unusable author after one that signs.",
        covers=("carry-over", "unparsable-from", "foreign-author"),
        cases=(
            "author-domain-in-capitals",
            "quote-never-closed",
            "author-at-our-subsidiary",
            "author-group",
            "author-at-an-a-label-domain",
            "author-at-a-look-alike-suffix",
            "author-domain-in-capitals",
        ),
        between="nothing",
    ),
    Conversation(
        id="a-long-line-then-a-short-one",
        about="Counters of lines, octets and fields start anew.",
        covers=("carry-over", "long-line"),
        cases=(
            "line-of-999-octets",
            "body-empty",
            "subject-line-of-999-octets",
            "five-hundred-to-fields",
            "body-without-final-crlf",
            "nothing-at-all",
            "body-of-empty-lines",
        ),
        between="nothing",
    ),
    Conversation(
        id="strangers-on-one-connection",
        about="Nothing of an earlier stranger's message gives the next one a proof.",
        covers=("carry-over", "spoofed-author"),
        cases=(
            "outside-client-writes-to-us",
            "outside-client-forges-envelope-and-author",
            "bounce-from-outside",
            "list-post-from-outside-with-our-author",
        ),
        between="rset-after-mail",
    ),
)
