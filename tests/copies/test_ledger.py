"""What the follower keeps of the archive copies: which wait, which are lost."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter.copies import ledger
from carbonseal.milter.copies.ledger import Ledger
from carbonseal.milter.follow import postfix_line

MAIN = "archive@archive.example.net"
ODD = '"the archive"@archive.example.net'
_RESULT = "relay=mx[192.0.2.80]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status="


def book(*, limit: int = 3) -> Ledger:
    return Ledger(mailboxes={MAIN: MAIN, ODD.lower(): ODD}, limit=limit)


def at(second: int) -> str:
    return f"2026-11-21T10:{second // 60:02}:{second % 60:02}.000000Z"


def tell(made: Ledger, *lines: str, begin: int = 0) -> Ledger:
    """Lines of a log as Postfix writes them, 'service: text', one a second."""
    for second, line in enumerate(lines, begin):
        service, _, text = line.partition(": ")
        for queue_id, fact in postfix_line.read(at(second), service, text):
            made.take(queue_id, fact)
    return made


def attempt(queue_id: str, status: str, *, to: str = MAIN, service: str = "smtp") -> str:
    return f"{service}: {queue_id}: to=<{to}>, {_RESULT}{status} (reply)"


MESSAGE = "cleanup: 4CAAAA1: message-id=<one@example.com>"
GONE = "qmgr: 4CAAAA1: removed"


@pytest.mark.parametrize(
    ("lines", "waiting", "lost", "failures"),
    [
        pytest.param([attempt("4CAAAA1", "sent"), GONE], 0, 0, 0, id="delivered"),
        pytest.param([attempt("4CAAAA1", "bounced"), GONE], 0, 1, 1, id="bounced"),
        pytest.param([attempt("4CAAAA1", "deferred")], 1, 0, 1, id="deferred"),
        pytest.param(
            [attempt("4CAAAA1", "sent", service="discard"), GONE], 0, 1, 1, id="thrown-away"
        ),
        pytest.param(
            [attempt("4CAAAA1", "deferred"), attempt("4CAAAA1", "sent"), GONE],
            0,
            0,
            0,
            id="deferred-then-delivered",
        ),
        pytest.param(
            [
                attempt("4CAAAA1", "deferred"),
                "qmgr: 4CAAAA1: from=<a@example.com>, status=expired, returned to sender",
                GONE,
            ],
            0,
            1,
            1,
            id="deferred-then-expired",
        ),
        pytest.param(
            [attempt("4CAAAA1", "deferred"), "postsuper: 4CAAAA1: removed"], 0, 1, 1, id="deleted"
        ),
        pytest.param(
            [attempt("4CAAAA1", "deferred"), "postsuper: 4CAAAA1: expired"], 1, 0, 1, id="marked"
        ),
        pytest.param(
            [
                attempt("4CAAAA1", "deferred"),
                "postsuper: 4CAAAA1: requeued",
                "pickup: 4CBBBB2: uid=0 from=<a@example.com> orig_id=4CAAAA1",
                attempt("4CBBBB2", "bounced"),
            ],
            0,
            1,
            2,
            id="under-a-new-queue-id",
        ),
        pytest.param([attempt("4CAAAA1", "bounced", to="x@out.example")], 0, 0, 0, id="no-copy"),
        pytest.param(
            [f"smtp: 4CAAAA1: to=<real@x.example>, orig_to=<{MAIN}>, {_RESULT}bounced (no)"],
            0,
            1,
            1,
            id="through-an-alias",
        ),
        pytest.param([attempt("4CAAAA1", "bounced", to=MAIN.title())], 0, 1, 1, id="other-case"),
        pytest.param([attempt("4CAAAA1", "undeliverable")], 0, 0, 0, id="an-address-probe"),
    ],
)
def test_what_becomes_of_a_copy(lines: list[str], waiting: int, lost: int, failures: int) -> None:
    """As the lines of Postfix say it; and told again, nothing changes."""
    made = tell(book(), MESSAGE, *lines)
    for _ in range(2):
        assert (len(made.waiting), len(made.lost)) == (waiting, lost)
        assert made.lost_in_all == lost
        assert made.standings[MAIN].failures == failures
        for one in (*made.waiting.values(), *made.lost.values()):
            assert one.message_id == "<one@example.com>"
        tell(made, MESSAGE, *lines)


@pytest.mark.parametrize(
    ("late", "second", "lost"),
    [
        pytest.param("sent", 2, 0, id="delivered"),
        pytest.param("sent", 1, 0, id="delivered-the-second-before"),
        pytest.param("bounced", 2, 1, id="bounced"),
        pytest.param("sent", 0, 1, id="another-message-before"),
        pytest.param("sent", 4, 1, id="another-message-after"),
    ],
)
def test_a_delivery_that_is_told_after_the_end_counts(late: str, second: int, lost: int) -> None:
    """Lines of several processes overtake each other; what arrived is in no list of lost copies."""
    made = tell(book(), MESSAGE, attempt("4CAAAA1", "deferred"), GONE)
    assert (len(made.lost), made.lost_in_all, made.standings[MAIN].lost) == (1, 1, 1)
    for _ in range(2):
        tell(made, attempt("4CAAAA1", late), begin=second)
        assert (len(made.lost), made.lost_in_all, made.standings[MAIN].lost) == (lost, lost, lost)
        assert not made.waiting
    if late == "bounced":
        assert [one.reply for one in made.lost.values()] == ["reply"]


def test_a_mailbox_with_a_quoted_name_is_known() -> None:
    """However it is spelled."""
    made = tell(book(), attempt("4CAAAA1", "bounced", to=ODD))
    assert [one.mailbox for one in made.lost.values()] == [ODD.lower()]


def test_a_queue_id_that_comes_back_is_another_message() -> None:
    """Short ones do."""
    made = tell(book(), attempt("ABCDEF1", "bounced"))
    tell(made, attempt("ABCDEF1", "sent"), begin=100)
    assert not made.standings[MAIN].is_failing
    assert len(made.lost) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts go on; what is kept is the newest that is lost."""
    for name in ("_WAITING", "_LOST", "_IDS"):
        monkeypatch.setattr(ledger, name, 10)
    made = book()
    for number in range(50):
        queue_id = f"4C{number:05}"
        line = f"cleanup: {queue_id}: message-id=<{number}@example.com>"
        tell(made, line, attempt(queue_id, "bounced"), attempt(queue_id + "7", "deferred"))
    assert (len(made.waiting), len(made.lost), made.lost_in_all) == (10, 10, 50)
    assert next(iter(made.lost.values())).message_id == "<40@example.com>"
    assert len(made._message_ids) <= 10


steps = st.tuples(
    st.sampled_from(["4CAAAA1", "4CBBBB2"]),
    st.sampled_from(["sent", "deferred", "bounced", "removed", "deleted", "expired"]),
)


@given(st.lists(steps, max_size=20), st.integers(0, 20))
def test_a_follower_that_was_killed_goes_on_with_what_it_knew(
    some: list[tuple[str, str]], cut: int
) -> None:
    """Written down, read again, told the same lines again from some earlier one on."""
    lines = [_line(queue_id, what) for queue_id, what in some]
    once = tell(book(), *lines)
    before = tell(book(), *lines[:cut])
    lists = json.loads(json.dumps([dataclasses.asdict(one) for one in before.waiting.values()]))
    gone = json.loads(json.dumps([dataclasses.asdict(one) for one in before.lost.values()]))
    after = Ledger(
        mailboxes=before.mailboxes,
        limit=3,
        standings=dict(before.standings),
        waiting=ledger.kept(lists),
        lost=type(before.lost)(ledger.kept(gone)),
        lost_in_all=before.lost_in_all,
    )
    tell(after, *lines[cut:], begin=cut)
    assert after.waiting == once.waiting
    assert after.lost == once.lost
    assert after.standings == once.standings


def _line(queue_id: str, what: str) -> str:
    if what in ("sent", "deferred", "bounced"):
        return attempt(queue_id, what)
    if what == "expired":
        return f"qmgr: {queue_id}: from=<a@example.com>, status=expired, returned to sender"
    return f"{'qmgr' if what == 'removed' else 'postsuper'}: {queue_id}: removed"


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"mailbox": 1},
        {"mailbox": MAIN, "queue_id": "A", "reply": "", "next_hop": "", "at": "x"},
    ],
)
def test_a_damaged_list_is_read_as_far_as_it_goes(told: dict[str, Any]) -> None:
    """Nobody's follower must stop for it."""
    good = {
        "mailbox": MAIN,
        "queue_id": "4CAAAA1",
        "message_id": None,
        "since": 1.0,
        "at": 2.0,
        "reply": "",
        "next_hop": "",
    }
    assert list(ledger.kept([told, good])) == [(MAIN, "4CAAAA1")]
