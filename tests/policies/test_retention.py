"""Retention: stamped once, never under the floor, never over the ceiling, parts before wholes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carbonseal.policies import address, retention
from carbonseal.policies.boundary import Classification, CrossingKind, End, Place
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.errors import ConfigurationError
from carbonseal.policies.reason import Reason
from carbonseal.policies.retention import DAY, YEAR, RetentionPolicy, RetentionRule, Terms
from carbonseal.policies.signing import AuthorPattern

LONG = 10**12  # seconds; stands for "for ever" where numbers are compared
TIMES = st.none() | st.integers(DAY, 20 * YEAR)
TERMS = st.builds(Terms, TIMES, TIMES, TIMES)
CLASSES = {"business": Terms(7 * YEAR, YEAR, 90 * DAY), "brief": Terms(21 * DAY), "all": Terms()}


def crossing(kind: str = "outbound", *recipients: str) -> Classification:
    why = Reason("recipient-outside")
    ends = tuple(End(one, Place.OUTSIDE, why) for one in recipients or ("x@remote.test",))
    return Classification(CrossingKind(kind), End("a@example.com", Place.INSIDE, why), ends, ())


def effective(terms: Terms) -> tuple[int, int, int]:
    """Seconds of record, header section and subject, `None` read as the glossary says."""
    keep = LONG if terms.keep is None else terms.keep
    headers = keep if terms.headers is None else terms.headers
    return keep, headers, headers if terms.subject is None else terms.subject


def policy(*rules: RetentionRule, default: str | None = None) -> RetentionPolicy:
    return RetentionPolicy(CLASSES, rules, default)


@pytest.mark.parametrize(
    ("rule", "message", "is_about"),
    [
        pytest.param(RetentionRule("brief"), crossing(), True, id="no-condition-holds-for-all"),
        pytest.param(
            RetentionRule("brief", crossing=CrossingKind.INTERNAL),
            crossing("internal"),
            True,
            id="crossing",
        ),
        pytest.param(
            RetentionRule("brief", crossing=CrossingKind.INTERNAL),
            crossing("inbound"),
            False,
            id="other-crossing",
        ),
        pytest.param(
            RetentionRule("brief", domains=DomainSet([".remote.test"])),
            crossing("outbound", "x@a.remote.test"),
            True,
            id="domain-of-a-recipient",
        ),
        pytest.param(
            RetentionRule("brief", domains=DomainSet(["example.com"])),
            crossing(),
            True,
            id="domain-of-the-reverse-path",
        ),
        pytest.param(
            RetentionRule("brief", domains=DomainSet(["remote.test"])),
            crossing("outbound", "x@evilremote.test"),
            False,
            id="not-the-end-of-a-name",
        ),
        pytest.param(
            RetentionRule("brief", author=AuthorPattern.parse("*@desk.example.com")),
            crossing(),
            True,
            id="author",
        ),
        pytest.param(
            RetentionRule("brief", author=AuthorPattern.parse("*@example.com")),
            crossing(),
            False,
            id="other-author",
        ),
        pytest.param(
            RetentionRule("brief", logins=frozenset({"alice"})), crossing(), True, id="login"
        ),
        pytest.param(
            RetentionRule("brief", logins=frozenset({"bob"})), crossing(), False, id="other-login"
        ),
        pytest.param(
            RetentionRule(
                "brief", crossing=CrossingKind.OUTBOUND, logins=frozenset({"bob", "carol"})
            ),
            crossing(),
            False,
            id="every-condition-must-hold",
        ),
    ],
)
def test_a_rule_is_about_what_its_conditions_say(
    rule: RetentionRule, message: Classification, is_about: bool
) -> None:
    """And what no rule is about belongs to the default, with another reason."""
    stamp, why = retention.stamp(
        message,
        author=address.parse_address("Anna@desk.example.com"),
        login="Alice",
        policy=policy(rule, default="business"),
    )
    assert stamp is not None
    assert why is not None
    assert (stamp.name, why.code) == (
        ("brief", "retention-rule") if is_about else ("business", "retention-default")
    )


def test_the_first_rule_that_fits_counts() -> None:
    """Order decides, not length."""
    stamp, _ = retention.stamp(
        crossing(),
        author=None,
        login="",
        policy=policy(RetentionRule("business"), RetentionRule("brief")),
    )
    assert stamp is not None
    assert stamp.name == "business"


def test_a_message_without_a_readable_author_belongs_to_no_author() -> None:
    """Several authors, a group: nobody can choose a class by writing himself in beside another."""
    rule = RetentionRule("brief", author=AuthorPattern.parse("*"))
    stamp, _ = retention.stamp(
        crossing(), author=None, login="", policy=policy(rule, default="business")
    )
    assert stamp is not None
    assert stamp.name == "business"


def test_nothing_is_stamped_without_a_default() -> None:
    """And so nothing expires."""
    assert retention.stamp(crossing(), author=None, login="", policy=RetentionPolicy()) == (
        None,
        None,
    )


@given(terms=TERMS, floor=TERMS, ceiling=TERMS)
def test_no_class_leaves_floor_or_ceiling(terms: Terms, floor: Terms, ceiling: Terms) -> None:
    """Whatever is written: where it contradicts the limits it is refused, else it keeps them."""
    try:
        made = RetentionPolicy({"one": terms}, floor=floor, ceiling=ceiling)
    except ConfigurationError:
        assume(False)
    stamped = made.stamps["one"].terms
    keep, headers, subject = effective(stamped)
    assert keep >= headers >= subject
    for part, time in (("keep", keep), ("headers", headers), ("subject", subject)):
        least, most = getattr(floor, part), getattr(ceiling, part)
        assert least is None or time >= least
        assert most is None or time <= most


@given(terms=TERMS, floor=TERMS, ceiling=TERMS)
def test_what_is_written_down_and_allowed_is_what_is_stamped(
    terms: Terms, floor: Terms, ceiling: Terms
) -> None:
    """The limits change only what a class leaves open."""
    try:
        made = RetentionPolicy({"one": terms}, floor=floor, ceiling=ceiling)
    except ConfigurationError:
        assume(False)
    stamped = effective(made.stamps["one"].terms)
    written = (terms.keep, terms.headers, terms.subject)
    assert all(want in (None, got) for want, got in zip(written, stamped, strict=True))


@given(terms=TERMS, floor=TERMS, ceiling=TERMS)
def test_limits_applied_twice_are_limits_applied_once(
    terms: Terms, floor: Terms, ceiling: Terms
) -> None:
    """So it cannot matter where they are applied."""
    once = retention.limited(terms, floor=floor, ceiling=ceiling)
    assert effective(retention.limited(once, floor=floor, ceiling=ceiling)) == effective(once)


@pytest.mark.parametrize(
    ("given_policy", "words"),
    [
        pytest.param(
            {"classes": {"brief": Terms(DAY)}, "floor": Terms(7 * DAY)},
            ["retention.classes.brief.keep", "1 day", "7 days", "retention.floor"],
            id="under-the-floor",
        ),
        pytest.param(
            {"classes": {"x": Terms(None, None, YEAR)}, "ceiling": Terms(subject=90 * DAY)},
            ["retention.classes.x.subject", "366 days", "90 days", "retention.ceiling"],
            id="over-the-ceiling",
        ),
        pytest.param(
            {"classes": {"x": Terms(DAY)}, "floor": Terms(subject=2 * DAY)},
            ["retention.classes.x.keep", "2 days"],
            id="the-floor-of-a-part-is-one-of-the-whole",
        ),
        pytest.param(
            {"floor": Terms(2 * YEAR), "ceiling": Terms(YEAR)},
            ["retention.floor", "retention.ceiling"],
            id="floor-over-ceiling",
        ),
        pytest.param(
            {"classes": {"x": Terms(DAY, 2 * DAY)}},
            ["headers", "longer than keep"],
            id="a-part-longer-than-its-whole",
        ),
        pytest.param({"default": "buisness"}, ["'buisness'", "none"], id="unknown-default"),
        pytest.param(
            {"classes": CLASSES, "rules": (RetentionRule("long"),)},
            ["'long'", "business, brief, all"],
            id="unknown-class-in-a-rule",
        ),
    ],
)
def test_contradictions_are_refused_when_they_are_read(
    given_policy: dict[str, object], words: list[str]
) -> None:
    """In one sentence with both numbers, years before anything would be deleted."""
    with pytest.raises(ConfigurationError) as refusal:
        RetentionPolicy(**given_policy)  # type: ignore[arg-type]
    assert all(word in refusal.value.sentence for word in words)


def test_a_year_is_never_too_short() -> None:
    """Seven years of the calendar have one or two leap days."""
    assert 7 * YEAR >= 2557 * DAY
