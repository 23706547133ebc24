"""Whether copies arrive: incidents, who takes over, and when the mailbox gets its copies back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.policies import address, archive_outage, archiving
from carbonseal.policies.archive_outage import Attempt, Outcome, Outlook, Standing
from carbonseal.policies.archiving import ArchivePolicy, When
from carbonseal.policies.boundary import Classification, CrossingKind, End, Place
from carbonseal.policies.delivery import State
from carbonseal.policies.origin import Origin, OriginKind
from carbonseal.policies.reason import Reason

DELIVERED, DEFERRED, LOST = Outcome.DELIVERED, Outcome.DEFERRED, Outcome.LOST
MAIN, OTHER = "archive@a.example", "legal@a.example"
SPARE, THIRD = "spare@b.example", "third@c.example"


def told(outcomes: list[Outcome], *, limit: int = 3, first: Standing | None = None) -> Standing:
    """The standing after one attempt a second."""
    standing = Standing() if first is None else first
    begin = 1000.0 if standing.tried_at is None else standing.tried_at + 1
    for at, outcome in zip(itertools.count(begin), outcomes, strict=False):
        standing = archive_outage.after(standing, Attempt(at, outcome, "no", "mx"), limit=limit)
    return standing


outcomes = st.lists(st.sampled_from(list(Outcome)), max_size=30)


@given(outcomes, st.integers(1, 5))
def test_what_counts_is_the_last_row_of_failures(some: list[Outcome], limit: int) -> None:
    """Failing, since when, how many lost, and whether others get the copies."""
    standing = told(some, limit=limit)
    row = list(itertools.takewhile(lambda one: one is not DELIVERED, reversed(some)))
    assert standing.failures == len(row)
    assert standing.is_failing == bool(row)
    assert standing.since == (1000.0 + len(some) - len(row) if row else None)
    assert standing.lost == some.count(LOST)
    assert (standing.incident is not None) == any(one is not DELIVERED for one in some)
    if not row:
        assert not standing.is_diverted
    if len(row) >= limit:
        assert standing.is_diverted
    if standing.is_diverted and len(row) < limit:
        assert standing.was_diverted


few = st.lists(st.sampled_from(list(Outcome)), max_size=12)


@given(few, few)
def test_the_same_log_again_changes_no_standing(some: list[Outcome], more: list[Outcome]) -> None:
    """What was read before the follower was killed is told once more."""
    standing = told([*some, *more])
    again = standing
    for at, outcome in zip(itertools.count(1000.0), [*some, *more][:-1], strict=False):
        if outcome is not LOST:  # whose copies are counted by their queue ids
            again = archive_outage.after(again, Attempt(at, outcome), limit=3)
    assert again == standing


def test_after_an_outage_one_more_failure_is_enough() -> None:
    """Until the incident is over; then it takes the full number again."""
    down = told([LOST] * 3)
    back = told([DELIVERED], first=down)
    assert (down.is_diverted, back.is_diverted) == (True, False)
    assert told([DEFERRED], first=back).is_diverted
    assert not archive_outage.is_over(back, back.failed_at or 0.0, quiet=300)
    assert archive_outage.is_over(back, (back.failed_at or 0.0) + 300, quiet=300)
    well = archive_outage.over(back)
    assert well.incident is None
    assert not told([DEFERRED], first=well).is_diverted


def test_an_incident_is_not_over_while_copies_fail() -> None:
    """However long ago the last attempt was."""
    assert not archive_outage.is_over(told([LOST]), 1e9, quiet=300)


@pytest.mark.parametrize(
    ("state", "meant"),
    [(State.DELIVERED, DELIVERED), (State.DEFERRED, DEFERRED)]
    + [(one, LOST) for one in (State.BOUNCED, State.EXPIRED, State.DELETED, State.UNKNOWN)],
)
def test_what_a_state_means_for_a_copy(state: State, meant: Outcome) -> None:
    """Only what waits in the queue is not lost yet."""
    assert archive_outage.outcome(state) is meant


@pytest.mark.parametrize(
    ("now", "sent", "is_stale", "tried"),
    [
        pytest.param(1010.0, 0.0, False, False, id="soon-after-the-last-attempt"),
        pytest.param(1302.0, 0.0, False, True, id="nobody-tried-for-long"),
        pytest.param(1302.0, 1300.0, False, False, id="we-did"),
        pytest.param(1010.0, 0.0, True, True, id="nobody-follows-the-log"),
        pytest.param(900.0, 0.0, False, True, id="a-clock-was-set-back"),
    ],
)
def test_a_copy_is_tried_now_and_then(now: float, sent: float, is_stale: bool, tried: bool) -> None:
    """While others get them; nobody would learn otherwise that the mailbox is well again."""
    bad = {MAIN: told([LOST] * 3), OTHER: told([LOST])}
    outlook = archive_outage.outlook(
        bad, now, retry=300, is_stale=is_stale, tried_by_us={MAIN: sent}
    )
    assert outlook.failing == {MAIN, OTHER}
    assert outlook.diverted == {MAIN}
    assert outlook.tried == ({MAIN} if tried else frozenset())


def planned(outlook: Outlook, *, addressed: tuple[str, ...] = (), alternates: str = "") -> object:
    why = Reason("recipient-outside")
    ends = [End("x@remote.test", Place.OUTSIDE, why)]
    ends += [End(one, Place.OUTSIDE, why, is_archive=True) for one in addressed]
    message = Classification(
        CrossingKind.OUTBOUND, End("a@example.com", Place.INSIDE, why), tuple(ends), ()
    )
    policy = ArchivePolicy(
        recipients=tuple(map(address.parse_address, (MAIN, OTHER))),
        when=When.CROSSING,
        alternates=tuple(map(address.parse_address, alternates.split())),
    )
    plan = archiving.recipients(message, Origin(OriginKind.NETWORK, "x"), policy, outlook)
    return plan.add, [one.code for one in plan.reasons]


def outlook(diverted: str = "", failing: str = "", tried: str = "") -> Outlook:
    given = [frozenset(text.split()) for text in (failing, diverted, tried)]
    return Outlook(given[0] | given[1], given[1], given[2])


BOTH = f"{SPARE} {THIRD}"


@pytest.mark.parametrize(
    ("known", "alternates", "addressed", "expected"),
    [
        pytest.param(outlook(), BOTH, (), ((MAIN, OTHER), ["archive-copy"]), id="all-is-well"),
        pytest.param(
            outlook(failing=MAIN),
            BOTH,
            (),
            ((MAIN, OTHER), ["archive-copy"]),
            id="too-few-failures",
        ),
        pytest.param(
            outlook(MAIN),
            BOTH,
            (),
            ((SPARE, OTHER), ["archive-copy", "archive-alternate"]),
            id="the-first-alternate-instead-of-the-one-that-fails",
        ),
        pytest.param(
            outlook(MAIN, SPARE),
            BOTH,
            (),
            ((THIRD, OTHER), ["archive-copy", "archive-alternate"]),
            id="the-first-that-is-well",
        ),
        pytest.param(
            outlook(f"{MAIN} {OTHER}"),
            BOTH,
            (),
            ((SPARE,), ["archive-copy", "archive-alternate", "archive-alternate"]),
            id="two-fail-one-copy-for-both",
        ),
        pytest.param(
            outlook(MAIN, tried=MAIN),
            BOTH,
            (),
            ((SPARE, MAIN, OTHER), ["archive-copy", "archive-alternate", "archive-trial"]),
            id="a-trial",
        ),
        pytest.param(
            outlook(MAIN, BOTH),
            BOTH,
            (),
            ((MAIN, SPARE, THIRD, OTHER), ["archive-copy", "archive-all-fail"]),
            id="none-is-well",
        ),
        pytest.param(
            outlook(MAIN), "", (), ((MAIN, OTHER), ["archive-copy"]), id="there-is-no-alternate"
        ),
        pytest.param(
            outlook(MAIN),
            SPARE,
            (SPARE,),
            ((OTHER,), ["archive-copy", "archive-alternate"]),
            id="the-sender-addressed-the-alternate",
        ),
        pytest.param(
            outlook(MAIN),
            SPARE,
            (MAIN, OTHER),
            ((SPARE,), ["archive-copy", "archive-alternate"]),
            id="the-sender-addressed-the-one-that-fails",
        ),
    ],
)
def test_who_gets_the_copy(
    known: Outlook, alternates: str, addressed: tuple[str, ...], expected: object
) -> None:
    """Each once; nobody less than one place where it may arrive."""
    assert planned(known, addressed=addressed, alternates=alternates) == expected


@given(
    st.sets(st.sampled_from([MAIN, OTHER, SPARE, THIRD])),
    st.sets(st.sampled_from([MAIN, OTHER])),
    st.sets(st.sampled_from([MAIN, OTHER])),
    st.sampled_from(["", SPARE, BOTH]),
)
def test_no_copy_is_only_where_it_fails_if_another_place_is_well(
    failing: set[str], diverted: set[str], tried: set[str], alternates: str
) -> None:
    """And none is twice at one place."""
    known = Outlook(frozenset(failing | diverted), frozenset(diverted), frozenset(tried & diverted))
    add, _ = planned(known, alternates=alternates)  # type: ignore[misc]
    assert len(set(add)) == len(add) > 0
    well = [one for one in alternates.split() if one not in known.failing]
    for mailbox in (MAIN, OTHER):
        if mailbox in diverted and well:
            assert well[0] in add
        else:
            assert mailbox in add
