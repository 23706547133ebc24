"""The corpus of messages keeps its own promises."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from messages import corpus
from messages.case import CLIENTS, Case
from messages.topics import TOPICS

EVERY = (*corpus.CASES, *corpus.LARGE)
# Reasons that only other worlds (peers, rules, bound logins, bad keys) show are not among them.
REASONS = frozenset(
    "no-origin-proof no-author several-author-fields several-authors group-author "
    "unparsable-author author-not-ours line-too-long disputed-octets too-many-fields".split()
)


def test_ids_are_unique_and_readable() -> None:
    """An id names one case, in words a postmaster would use."""
    counts = Counter(one.id for one in (*EVERY, *corpus.CONVERSATIONS))
    assert [name for name, count in counts.items() if count > 1] == []
    assert [name for name in counts if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name)] == []


def test_there_are_enough_cases_and_each_says_what_could_go_wrong() -> None:
    """At least ninety telling cases, each with one sentence."""
    assert len(corpus.CASES) >= 90
    assert [one.id for one in EVERY if not one.about.endswith(".")] == []


def test_every_known_danger_is_covered_and_no_other_word_is_used() -> None:
    """Each topic has a case or a conversation, and each word of `covers` is a topic."""
    covered = {topic for one in (*EVERY, *corpus.CONVERSATIONS) for topic in one.covers}
    assert covered == set(TOPICS)


def test_every_reason_not_to_sign_has_a_case() -> None:
    """The world of the corpus shows each of these reasons, and no other."""
    assert {one.expect.why_unsigned for one in EVERY} - {None} == REASONS


def test_expectations_do_not_contradict_themselves() -> None:
    """Unsigned mail has its reason, internal mail no copy, refused mail neither."""
    for one in EVERY:
        expect = one.expect
        if expect.smtp == "250":
            assert expect.signed == (expect.why_unsigned is None), one.id
        else:
            assert (expect.signed, expect.why_unsigned, expect.copy) == (False, None, False), one.id
        assert not (expect.crossing == "internal" and expect.copy), one.id
        assert expect.signed <= (one.via in ("inside", "submission")), one.id


def test_envelopes_fit_their_way_in() -> None:
    """Only submission knows logins; paths come without brackets."""
    for one in EVERY:
        assert one.via in CLIENTS
        assert one.login is None or one.via == "submission", one.id
        assert one.recipients, one.id
        assert not any(path[:1] == b"<" for path in (one.reverse_path, *one.recipients)), one.id


@pytest.mark.parametrize("one", [pytest.param(one, id=one.id) for one in corpus.CASES])
def test_each_message_can_be_built_and_is_bounded(one: Case) -> None:
    """The same octets at every call, at most six megabytes; lines begin and end as told."""
    message = one.build()
    assert message == one.build()
    assert len(message) < 6_000_000
    assert message == b"" or b"\r\n" in message or one.id == "body-of-one-space"


@pytest.mark.parametrize("one", [pytest.param(one, id=one.id) for one in corpus.LARGE])
def test_large_messages_are_large_and_below_the_limit_of_the_relay(one: Case) -> None:
    """Between ten and sixty megabytes."""
    assert 10_000_000 < len(one.build()) < 60_000_000


def test_long_lines_are_where_they_are_expected() -> None:
    """A message is expected to be too long exactly if a line that is signed has over 998 octets."""
    for one in corpus.CASES:
        # A bare LF and a NUL end lines for Postfix, but no case is long by them.
        longest = max(map(len, re.split(rb"\r*\n", one.build())))
        is_refused = one.expect.why_unsigned == "line-too-long"
        assert is_refused == (longest > 998) or one.id == (
            "long-line-in-a-field-that-is-not-signed"
        ), one.id


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("cr-and-lf-in-two-chunks", b"\r", b"\n"),
        ("space-and-line-end-in-two-chunks", b" ", b"\r\n"),
        ("white-space-run-over-two-chunks", b" ", b"\t "),
        ("empty-lines-over-two-chunks", b"\n\r", b"\n\r"),
        ("character-in-two-chunks", b"\xc3", b"\xbc"),
        ("body-ends-with-the-chunk", b"\r\n", b""),
    ],
)
def test_chunks_are_cut_where_the_case_says(name: str, before: bytes, after: bytes) -> None:
    """The first packet of 65,535 octets ends in the middle of it."""
    body = corpus.BY_ID[name].build().partition(b"\r\n\r\n")[2]
    assert body[:65_535].endswith(before)
    assert body[65_535:].startswith(after)
    assert after or len(body) == 65_535


def test_conversations_are_over_one_connection() -> None:
    """All cases of a conversation exist and come from the same client."""
    for one in corpus.CONVERSATIONS:
        assert len({(corpus.BY_ID[name].via, corpus.BY_ID[name].login) for name in one.cases}) == 1
