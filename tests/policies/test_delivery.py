"""What a mail log says of a message, and the state that follows for each of its ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import delivery
from carbonseal.policies.delivery import Attempt, Change, Notified, Queued, State

QUEUED = Queued("2026-03-01T12:00:00.000001Z", "smtpd", "client.example.com[192.0.2.7]")
REMOVED = Change("2026-03-01T12:00:09.000000Z", "removed")
BOB, EVE, ARCHIVE = "bob@example.org", "eve@example.net", "archive@archive.example.net"


def attempt(
    to: str, status: str, second: int = 1, orig_to: str | None = None, service: str = "smtp"
) -> Attempt:
    at = f"2026-03-01T12:00:{second:02d}.000000Z"
    return Attempt(at, service, to, orig_to, "mx[192.0.2.1]:25", status, "2.0.0", None, "250 Ok")


def change(kind: str, second: int = 5) -> Change:
    return Change(f"2026-03-01T12:00:{second:02d}.000000Z", kind)


def part(fact: Attempt | Change) -> Attempt | Change:
    """The same of a message that was made from the first."""
    return replace(fact, is_part=True)


FORWARDED = [QUEUED, attempt(BOB, "sent", 1, service="local"), REMOVED]
STATES = [
    pytest.param([], "offered", id="nothing-was-logged"),
    pytest.param([QUEUED], "queued", id="in-the-queue"),
    pytest.param([QUEUED, attempt(BOB, "sent"), REMOVED], "delivered", id="taken-by-the-next-hop"),
    pytest.param([attempt(BOB, "sent")], "delivered", id="the-log-begins-after-queueing"),
    pytest.param([QUEUED, attempt(BOB, "deferred")], "deferred", id="deferred"),
    pytest.param(
        [QUEUED, attempt(BOB, "deferred", 1), attempt(BOB, "sent", 3)],
        "delivered",
        id="deferred-then-delivered",
    ),
    pytest.param(
        [QUEUED, attempt(BOB, "sent", 1), change("removed", 1), attempt(BOB, "deferred", 2)],
        "delivered",
        id="deferred-by-a-line-that-was-written-late",
    ),
    pytest.param(
        [
            part(attempt(BOB, "sent", 1)),
            part(change("removed", 1)),
            *FORWARDED,
            part(attempt(BOB, "deferred", 2)),
        ],
        "delivered",
        id="forwarded-and-deferred-by-a-line-that-was-written-late",
    ),
    pytest.param(
        [
            *FORWARDED,
            part(attempt(BOB, "sent", 2)),
            replace(part(attempt(BOB, "deferred", 3)), next_hop="mx[192.0.2.9]:25"),
        ],
        "deferred",
        id="forwarded-through-a-filter-and-deferred-behind-it",
    ),
    pytest.param([QUEUED, attempt(BOB, "bounced"), REMOVED], "bounced", id="bounced"),
    pytest.param(
        [QUEUED, attempt(BOB, "deferred"), change("expired"), REMOVED],
        "expired",
        id="deferred-until-it-expired",
    ),
    pytest.param([QUEUED, change("held")], "held", id="held-on-arrival"),
    pytest.param([QUEUED, attempt(BOB, "deferred"), change("held")], "held", id="deferred-held"),
    pytest.param([QUEUED, change("held", 1), change("released", 2)], "queued", id="released"),
    pytest.param([QUEUED, change("deleted")], "deleted", id="deleted-by-an-administrator"),
    pytest.param([QUEUED, change("rejected")], "refused", id="refused-by-a-later-milter"),
    pytest.param([QUEUED, change("discarded")], "deleted", id="discarded-by-a-later-milter"),
    pytest.param([QUEUED, REMOVED], "unknown", id="left-without-a-word"),
    pytest.param(
        [QUEUED, attempt(BOB, "sent", service="discard"), REMOVED],
        "deleted",
        id="thrown-away-by-a-transport",
    ),
    pytest.param(
        [QUEUED, attempt(BOB, "deliverable")], "queued", id="a-probe-of-the-address-is-no-delivery"
    ),
    pytest.param(
        [QUEUED, attempt("BOB@Example.ORG", "sent")], "delivered", id="another-case-of-the-address"
    ),
    pytest.param(
        [
            QUEUED,
            attempt("carol@example.net", "sent", orig_to=BOB),
            attempt("dave@example.net", "deferred", orig_to=BOB),
        ],
        "deferred",
        id="an-alias-of-two-of-whom-one-waits",
    ),
    pytest.param(
        [
            QUEUED,
            attempt("carol@example.net", "sent", orig_to=BOB),
            attempt("dave@example.net", "bounced", orig_to=BOB),
        ],
        "bounced",
        id="an-alias-of-two-of-whom-one-bounced",
    ),
    pytest.param(
        [QUEUED, attempt(BOB, "sent", 1), change("deleted"), REMOVED],
        "delivered",
        id="delivered-before-the-rest-was-deleted",
    ),
    pytest.param(
        [QUEUED, change("requeued", 1), attempt(BOB, "sent", 3)], "delivered", id="requeued"
    ),
    pytest.param(
        [*FORWARDED, part(attempt("dave@example.net", "deferred", 8, orig_to=BOB))],
        "deferred",
        id="forwarded-and-waiting-when-the-first-message-has-left",
    ),
    pytest.param(
        [
            *FORWARDED,
            part(attempt("dave@example.net", "deferred", 4, orig_to=BOB)),
            part(change("expired", 20)),
            part(change("removed", 20)),
        ],
        "expired",
        id="forwarded-and-given-up",
    ),
    pytest.param(
        [
            *FORWARDED,
            part(attempt("dave@example.net", "deferred", 4, orig_to=BOB)),
            part(change("expired", 3)),
        ],
        "deferred",
        id="forwarded-twice-and-one-given-up",
    ),
    pytest.param(
        [QUEUED, attempt(BOB, "deferred", 2), part(change("expired", 3))],
        "deferred",
        id="another-recipients-forwarded-mail-was-given-up",
    ),
]


@pytest.mark.parametrize(("facts", "state"), STATES)
def test_a_recipient_is_in_the_state_that_the_log_says(
    facts: list[delivery.Fact], state: str
) -> None:
    """One recipient; the message as a whole is in the same state."""
    story = delivery.told(facts, [BOB])
    assert story.passages[0].state == State(state)
    assert story.state == State(state)


def test_each_end_has_a_state_of_its_own_and_the_worst_is_the_messages() -> None:
    """A copy that bounced shows although the recipient has the message."""
    facts = [QUEUED, attempt(BOB, "sent"), attempt(ARCHIVE, "bounced"), REMOVED]
    story = delivery.told(facts, [BOB], [ARCHIVE])
    assert [(one.address, one.is_copy, one.state) for one in story.passages] == [
        (BOB, False, State.DELIVERED),
        (ARCHIVE, True, State.BOUNCED),
    ]
    assert story.state is State.BOUNCED
    assert story.copies == (story.passages[1],)


def test_attempts_for_nobody_of_the_envelope_are_kept_apart() -> None:
    """Somebody (a BCC map) added a recipient after the milter."""
    extra = attempt(EVE, "sent")
    story = delivery.told([QUEUED, attempt(BOB, "sent"), extra], [BOB])
    assert story.others == (extra,)
    assert story.state is State.DELIVERED


def test_mail_that_an_alias_leads_out_is_named() -> None:
    """bob is ours and his alias is not; what local(8) keeps on this host is no exit."""
    out = attempt("bob@elsewhere.example", "sent", orig_to="bob@example.com")
    facts = [out, attempt("root@example.com", "sent", orig_to="postmaster@example.com")]
    facts.append(attempt("|prog", "sent", orig_to="list@example.com", service="local"))
    story = delivery.told(facts, ["bob@example.com", "postmaster@example.com", "list@example.com"])
    assert delivery.exits(story, lambda text: text.endswith("@example.com")) == (out,)


_facts = st.lists(
    st.one_of(
        st.sampled_from([QUEUED, REMOVED, Notified("2026-03-01T12:00:02.000000Z", "4ZX")]),
        st.builds(
            attempt,
            st.sampled_from([BOB, ARCHIVE, EVE]),
            st.sampled_from(["sent", "deferred", "bounced", "expired", "deliverable"]),
            st.integers(0, 20),
            st.sampled_from([None, BOB]),
            st.sampled_from(["smtp", "local", "discard"]),
        ),
        st.builds(change, st.sampled_from(delivery.CHANGES), st.integers(0, 20)),
    ),
    max_size=8,
)


@given(facts=_facts, more=st.data())
def test_neither_order_nor_repetition_changes_the_story(
    facts: list[delivery.Fact], more: st.DataObject
) -> None:
    """A log that is read twice, or in pieces, says the same."""
    again = more.draw(st.permutations(facts))
    repeated = again + more.draw(st.lists(st.sampled_from(facts))) if facts else again
    assert delivery.told(repeated, [BOB], [ARCHIVE]) == delivery.told(facts, [BOB], [ARCHIVE])


NO_FACTS: list[Any] = [
    pytest.param({}, id="nothing"),
    pytest.param({"kind": "queued", "at": "x"}, id="without-a-service"),
    pytest.param({"kind": "queued", "at": 1, "service": "smtpd"}, id="time-is-a-number"),
    pytest.param({"kind": "queued", "at": "x", "service": "smtpd", "size": True}, id="size-true"),
    pytest.param({"kind": "attempt", "at": "x", "service": "smtp"}, id="attempt-without-recipient"),
    pytest.param({"kind": "exploded", "at": "x"}, id="unknown-kind"),
    pytest.param({"kind": "held", "at": "x", "reply": 7}, id="reply-is-a-number"),
]


@pytest.mark.parametrize("told", NO_FACTS)
def test_what_is_no_fact_is_refused(told: dict[str, Any]) -> None:
    """With ValueError and nothing else, so that one bad line costs one line."""
    with pytest.raises(ValueError, match=r"no |is "):
        delivery.fact(told)


def test_facts_are_read_as_event_lines_carry_them() -> None:
    """Keys as in the event line; what is not there is null; keys of tomorrow are let be."""
    at = "2026-03-01T12:00:00.000001Z"
    told: list[dict[str, Any]] = [
        {"kind": "queued", "at": at, "service": "smtpd", "client": "client.example.com[192.0.2.7]"},
        {
            "kind": "attempt",
            "at": at,
            "service": "smtp",
            "to": BOB,
            "orig_to": None,
            "next_hop": "none",
            "status": "deferred",
            "dsn": "4.4.1",
            "delays": [0.1, 0, 3, 0],
            "reply": "timed out",
            "new": 1,
        },
        {"kind": "removed", "at": at},
        {"kind": "notified", "at": at, "queue_id": "4ZX"},
    ]
    assert [delivery.fact(one) for one in told] == [
        QUEUED,
        Attempt(at, "smtp", BOB, None, "none", "deferred", "4.4.1", (0.1, 0, 3, 0), "timed out"),
        Change(at, "removed"),
        Notified(at, "4ZX"),
    ]
