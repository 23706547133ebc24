"""Ready or not: what makes a relay unready, what only degrades it, and that each says why."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from carbonseal.policies import readiness
from carbonseal.policies.readiness import Reporter, Seen, Signers

LIVING = Reporter(1.0)
WELL = Seen(wanted=2, serving=2, spool_limit=1000, writer=LIVING, copies=1)


def test_a_relay_that_is_well_is_ready_and_every_check_says_so() -> None:
    """The good ones are named too, so that nobody has to guess what was looked at."""
    found = readiness.checks(WELL)
    assert readiness.is_ready(found)
    assert all(check.is_ok and not check.why for check in found)
    assert len({check.name for check in found}) == len(found) == 11


@pytest.mark.parametrize(
    ("changes", "name", "word"),
    [
        pytest.param({"age": 16.0}, "sight", "16 s", id="nobody-looked-for-a-while"),
        pytest.param({"serving": 0}, "workers", "none of 2", id="no-worker"),
        pytest.param({"stuck": 2}, "workers", "hang", id="every-worker-hangs"),
        pytest.param(
            {"unsigned": {"example.com": "the private key is gone"}},
            "signing",
            "example.com (the private key is gone)",
            id="a-domain-that-must-sign-cannot",
        ),
        pytest.param({"spool_problem": "/s: full"}, "spool", "/s: full", id="spool-not-writable"),
        pytest.param({"spool_octets": 1001}, "spool-limit", "1001", id="spool-over-its-limit"),
        pytest.param(
            {"copies": 2, "failing": 1, "failing_for": 60.0},
            "archive-copy",
            "1 of 2",
            id="copy-fails",
        ),
        pytest.param({"evidence_problem": "no key"}, "evidence", "no key", id="evidence-key"),
    ],
)
def test_what_is_needed_makes_the_relay_unready(
    changes: dict[str, Any], name: str, word: str
) -> None:
    """Exactly that check fails, and says why and what to do."""
    found = readiness.checks(dataclasses.replace(WELL, **changes))
    assert not readiness.is_ready(found)
    [wrong] = [check for check in found if not check.is_ok]
    assert (wrong.name, wrong.is_needed) == (name, True)
    assert word in wrong.why
    assert wrong.remedy


@pytest.mark.parametrize(
    ("changes", "name", "word"),
    [
        pytest.param({"writer": Reporter()}, "writer", "never", id="writer-never-heard-of"),
        pytest.param({"writer": Reporter(31.0)}, "writer", "31 s", id="writer-silent"),
        pytest.param(
            {"writer": Reporter(1.0, "db: down"), "lag": 7.0}, "database", "7 s", id="database-down"
        ),
        pytest.param({"weakened": {"a.example": "x"}}, "keys", "a.example", id="one-key-of-two"),
        pytest.param({"follower": Reporter(40.0)}, "follower", "40 s", id="follower-silent"),
        pytest.param({"follower": Reporter(1.0, "gone")}, "follower", "gone", id="log-is-gone"),
        pytest.param(
            {"copies": 2, "failing": 1, "covered": 1},
            "archive-copy",
            "go to others",
            id="alternate",
        ),
        pytest.param({"copies_problem": "unread"}, "archive-copy", "unread", id="copies-unread"),
    ],
)
def test_what_only_degrades_leaves_the_relay_ready(
    changes: dict[str, Any], name: str, word: str
) -> None:
    """Mail flows while the database is down; somebody should look all the same."""
    found = readiness.checks(dataclasses.replace(WELL, **changes))
    assert readiness.is_ready(found)
    [wrong] = [check for check in found if not check.is_ok]
    assert wrong.name == name
    assert word in wrong.why
    assert wrong.remedy


@pytest.mark.parametrize(
    ("follower", "word"),
    [
        pytest.param(Reporter(), "start carbonseal-follow", id="never-there"),
        pytest.param(Reporter(31.0, "the log is gone"), "start carbonseal-follow", id="gone"),
        pytest.param(Reporter(1.0, "the log is gone"), "goes on by itself", id="waits"),
    ],
)
def test_a_follower_that_waits_is_not_started_again(follower: Reporter, word: str) -> None:
    """What it waits for wants to be mended, and it does the rest."""
    found = readiness.checks(dataclasses.replace(WELL, follower=follower))
    [wrong] = [check for check in found if not check.is_ok]
    assert word in wrong.remedy


def test_what_starts_with_the_service_may_take_its_time() -> None:
    """After a night in which the machine was off, or the first time ever."""
    asleep = dataclasses.replace(WELL, writer=Reporter(30_000.0), follower=Reporter())
    for running, silent in ((29.0, []), (31.0, ["writer", "follower"])):
        found = readiness.checks(dataclasses.replace(asleep, running=running))
        assert [check.name for check in found if not check.is_ok] == silent


def test_a_service_that_has_stopped_is_seen_at_once() -> None:
    """Its last page may be a second old."""
    assert not readiness.sight(0.0, has_left=True).is_ok


def test_many_domains_are_counted_and_not_all_spelled_out() -> None:
    """A sentence stays a sentence with a thousand domains."""
    seen = dataclasses.replace(WELL, unsigned={f"d{n}.example": "gone" for n in range(1000)})
    [wrong] = [check for check in readiness.checks(seen) if not check.is_ok]
    assert wrong.why.endswith("and 997 more")
    assert len(wrong.why) < 200


RSA, SECOND = "example.com/r", "example.com/e"
TWO = {"example.com": ("r", "e")}
HELD = frozenset((RSA, SECOND))
NEW = frozenset(("example.com/r2",))


@pytest.mark.parametrize(
    ("known", "unsigned", "weakened"),
    [
        pytest.param(Signers(frozenset(), TWO, HELD), [], [], id="all-well"),
        pytest.param(
            Signers(frozenset(("example.com",)), {}, HELD), ["example.com"], [], id="rule-no-key"
        ),
        pytest.param(
            Signers(frozenset(), TWO, HELD, problems={RSA: "gone"}),
            [],
            ["example.com"],
            id="one-file-of-two-is-gone",
        ),
        pytest.param(
            Signers(frozenset(), TWO, HELD, problems={RSA: "gone", SECOND: "empty"}),
            ["example.com"],
            [],
            id="both-files-are-gone",
        ),
        pytest.param(
            Signers(frozenset(), TWO, frozenset((RSA,)), refused={RSA: "not in DNS"}),
            ["example.com"],
            [],
            id="one-refused-one-not-held",
        ),
        pytest.param(
            Signers(frozenset(), {}, frozenset(), records={"example.com": "damaged"}),
            ["example.com"],
            [],
            id="no-record-can-be-read",
        ),
        pytest.param(
            Signers(frozenset(), TWO, HELD, records={"example.com": "damaged"}),
            [],
            ["example.com"],
            id="one-record-more-that-is-damaged",
        ),
        pytest.param(
            Signers(frozenset(), {"example.com": ("r2",)}, HELD, fresh=NEW),
            [],
            [],
            id="a-new-key-while-workers-sign-with-its-predecessor",
        ),
        pytest.param(
            Signers(frozenset(), {"example.com": ("r2",)}, HELD),
            ["example.com"],
            [],
            id="a-key-that-workers-should-have-taken-up-by-now",
        ),
        pytest.param(
            Signers(frozenset(), {"example.com": ("r2",)}, frozenset(("a.example/r",)), fresh=NEW),
            ["example.com"],
            [],
            id="a-new-key-and-no-worker-signs-for-its-domain",
        ),
        pytest.param(
            Signers(
                frozenset(), {"example.com": ("r2",)}, HELD, {"example.com/r2": "gone"}, fresh=NEW
            ),
            ["example.com"],
            [],
            id="a-new-key-whose-file-is-gone-is-no-matter-of-time",
        ),
        pytest.param(Signers(frozenset(), {}, frozenset()), [], [], id="nobody-must-sign"),
    ],
)
def test_a_domain_must_sign_if_a_rule_names_it_or_a_key_of_it_is_active(
    known: Signers, unsigned: list[str], weakened: list[str]
) -> None:
    """It can as long as one of its keys is held by the workers and whole on disk."""
    found = readiness.troubles(known)
    assert ([*found[0]], [*found[1]]) == (unsigned, weakened)
    assert all(why for some in found for why in some.values())
