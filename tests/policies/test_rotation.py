"""What is due in the life of a key: stages, what DNS, relays and queues show, flags, time."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from carbonseal.policies import rotation
from carbonseal.policies.key_life import (
    DnsView,
    Goal,
    KeyLife,
    QueueReport,
    RelayReport,
    ServerState,
    ServerView,
    Stage,
    WorkerReport,
)
from carbonseal.policies.rotation import Action, Due, Rules, Seen, Standing

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
RULES = Rules(safety=600)
NEGATIVE = 3600
SHOWN, ABSENT, OTHER = ServerState.SHOWN, ServerState.ABSENT, ServerState.OTHER
REVOKED, UNKNOWN = ServerState.REVOKED, ServerState.UNKNOWN
NAME = frozenset(("example.com/s1",))
NONE: frozenset[str] = frozenset()
ABOUT = {
    ABSENT: "there is no TXT record",
    OTHER: "the record is cut short",
    UNKNOWN: "no answer came",
    REVOKED: "p= is empty",
}


def key(stage: Stage, **about: Any) -> KeyLife:
    """A key that is in its stage for a year, so that no wait stands in the way."""
    goals = dict.fromkeys(list(Stage)[5:], Goal.REMOVED)
    plain: dict[str, Any] = {
        "goal": goals.get(stage, Goal.ACTIVE),
        "since": NOW - 365 * DAY,
        "published_at": NOW - 365 * DAY,
        "stopped_at": None if stage is not Stage.RETIRING else NOW - 365 * DAY,
        "revoked_at": NOW - 365 * DAY,
    }
    return KeyLife(
        sdid="example.com",
        selector="s1",
        algorithm="rsa-sha256",
        stage=stage,
        **{**plain, **about},
    )


def look(*states: ServerState, foreign: bool = False, age: timedelta = timedelta()) -> DnsView:
    """What servers show; `foreign`: another party's data where it is OTHER."""
    servers = tuple(
        ServerView(
            f"ns{number}.example.net",
            f"192.0.2.{number}@53",
            state,
            NOW - age,
            text="" if state in (ABSENT, UNKNOWN) else "v=DKIM1; p=",
            fault="mismatch" if foreign and state is OTHER else "",
            about="another key is published"
            if foreign and state is OTHER
            else ABOUT.get(state, ""),
            ttl=300 if state in (SHOWN, OTHER, REVOKED) else None,
            serial=7,
        )
        for number, state in enumerate(states, 1)
    )
    return DnsView("n", NOW - age, servers, negative_ttl=NEGATIVE, refresh=4500)


def relay(does: str, name: str = "mx1", *, oldest: datetime | None = None) -> RelayReport:
    """One relay with an empty queue, or one whose oldest mail came at `oldest`."""
    workers = {
        "signs": (WorkerReport(1, is_starting=False, signing=NAME),),
        "loaded": (WorkerReport(1, is_starting=False, standby=NAME),),
        "stopped": (WorkerReport(1, is_starting=False),),
        "starts": (WorkerReport(1, is_starting=True),),
        "no-worker": (),
    }
    if does == "silent":
        return RelayReport(name, NOW, problem="ssh: no route to host")
    queue = QueueReport(0 if oldest is None else 1, oldest, 5 * 86400, 5 * 86400)
    return RelayReport(name, NOW, workers[does], queue=queue)


def blind(name: str = "mx1") -> RelayReport:
    return dataclasses.replace(
        relay("stopped", name), queue=None, queue_problem="postqueue: denied"
    )


def what_is_due(
    life: KeyLife,
    dns: DnsView | None = None,
    relays: tuple[RelayReport, ...] = (relay("loaded"),),
    *,
    by_hand: bool = False,
    rules: Rules = RULES,
    now: datetime = NOW,
) -> Due:
    return rotation.due(life, Seen(now, dns, relays, by_hand), rules)


# --- stages by what DNS shows ---------------------------------------------------------------------

WAIT, DONE, NOT_YET = Action.WAIT, Standing.DONE, Standing.NOT_YET
HELD, SILENT = Standing.HELD, Standing.UNREACHABLE
VIEWS = {
    "everywhere": look(SHOWN, SHOWN),
    "nowhere": look(ABSENT, ABSENT),
    "one-server-lacks-it": look(SHOWN, ABSENT),
    "one-server-shows-a-damaged-one": look(SHOWN, OTHER),
    "damaged-everywhere": look(OTHER, OTHER),
    "somebody-elses-at-one": dataclasses.replace(look(SHOWN, OTHER, foreign=True)),
    "somebody-elses-everywhere": look(OTHER, OTHER, foreign=True),
    "revoked-everywhere": look(REVOKED, REVOKED),
    "revoked-at-one": look(SHOWN, REVOKED),
    "one-server-silent": look(SHOWN, UNKNOWN),
    "one-silent-the-other-lacks-it": look(ABSENT, UNKNOWN),
    "all-silent": look(UNKNOWN, UNKNOWN),
    "no-zone": DnsView("n", NOW, problem="no zone was found"),
    "not-asked": None,
}
# For each stage, in the order of VIEWS: the step, and how it stands while nothing can be done.
TABLE: dict[Stage, list[tuple[Action, Standing]]] = {
    Stage.GENERATED: [
        *[(Action.PUBLISH, DONE)] * 3,
        *[(Action.HOLD, HELD)] * 6,
        *[(Action.PUBLISH, DONE)] * 5,  # sent so that it can hit nothing that stands there
    ],
    Stage.PUBLISHING: [
        (Action.CONFIRM_PUBLISHED, DONE),
        (Action.PUBLISH, NOT_YET),
        (WAIT, HELD),  # a year after it was sent, no secondary merely lags
        *[(WAIT, HELD)] * 2,
        *[(Action.HOLD, HELD)] * 2,
        *[(WAIT, HELD)] * 2,
        (WAIT, SILENT),
        (Action.PUBLISH, NOT_YET),
        *[(WAIT, SILENT)] * 3,
    ],
    Stage.PUBLISHED: [
        (Action.MAKE_READY, DONE),
        *[(Action.FALL_BACK, NOT_YET)] * 8,
        (WAIT, SILENT),
        (Action.FALL_BACK, NOT_YET),
        *[(WAIT, SILENT)] * 3,
    ],
    Stage.READY: [
        (Action.ACTIVATE, DONE),
        *[(Action.FALL_BACK, NOT_YET)] * 8,
        (WAIT, SILENT),
        (Action.FALL_BACK, NOT_YET),
        *[(WAIT, SILENT)] * 3,
    ],
    Stage.ACTIVE: [
        (WAIT, DONE),
        (Action.REFUSE, HELD),
        *[(WAIT, HELD)] * 2,  # some receivers verify: unsigned mail would help nobody
        (Action.REFUSE, HELD),
        (WAIT, HELD),
        *[(Action.REFUSE, HELD)] * 2,
        (WAIT, HELD),
        (WAIT, SILENT),
        (WAIT, HELD),
        *[(WAIT, SILENT)] * 2,
        (WAIT, DONE),
    ],
    Stage.RETIRING: [
        (Action.REVOKE, DONE),
        (Action.REMOVE, DONE),
        (Action.REVOKE, DONE),
        *[(Action.HOLD, HELD)] * 4,
        *[(Action.REVOKE, DONE)] * 2,
        *[(WAIT, SILENT)] * 5,
    ],
    Stage.REVOKING: [
        (Action.REVOKE, NOT_YET),
        (Action.REMOVE, DONE),
        (WAIT, HELD),
        *[(Action.HOLD, HELD)] * 4,
        (Action.CONFIRM_REVOKED, DONE),
        (WAIT, HELD),
        (Action.REVOKE, NOT_YET),
        *[(WAIT, SILENT)] * 4,
    ],
    Stage.REVOKED: [
        (Action.REVOKE, HELD),  # a zone from a backup shows the key again
        (Action.REMOVE, DONE),
        *[(Action.REVOKE, HELD)] * 2,
        (Action.HOLD, HELD),
        (Action.REVOKE, HELD),
        (Action.HOLD, HELD),
        (Action.REMOVE, DONE),
        *[(Action.REVOKE, HELD)] * 2,
        *[(WAIT, SILENT)] * 4,
    ],
    Stage.REMOVING: [
        (Action.REMOVE, NOT_YET),
        (Action.CONFIRM_REMOVED, DONE),
        (WAIT, HELD),
        *[(Action.HOLD, HELD)] * 4,
        (Action.REMOVE, NOT_YET),
        (WAIT, HELD),
        (Action.REMOVE, NOT_YET),
        *[(WAIT, SILENT)] * 4,
    ],
    Stage.REMOVED: [(WAIT, DONE)] * 14,
}


@pytest.mark.parametrize(
    ("stage", "dns", "action", "standing"),
    [
        pytest.param(stage, dns, *expected, id=f"{stage.value}-{name}")
        for stage, row in TABLE.items()
        for (name, dns), expected in zip(VIEWS.items(), row, strict=True)
    ],
)
def test_what_dns_shows_decides(
    stage: Stage, dns: DnsView | None, action: Action, standing: Standing
) -> None:
    """Each stage, when all waits are over and a program publishes."""
    relays = (relay("stopped" if stage is Stage.RETIRING else "loaded"),)
    found = what_is_due(key(stage), dns, relays)
    assert (found.action, found.standing) == (action, standing)
    assert all(found.why)


FORWARD = (Action.CONFIRM_PUBLISHED, Action.MAKE_READY, Action.ACTIVATE, Action.CONFIRM_REVOKED)


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("by_hand", [False, True])
def test_nothing_goes_forward_or_is_destroyed_on_something_unknown(
    stage: Stage, by_hand: bool
) -> None:
    """One silent server is enough, whatever the others show; what is sent again is no progress."""
    destroys = (Action.REMOVE, Action.REVOKE, Action.CONFIRM_REMOVED)
    sends_again = {Stage.REVOKING: Action.REVOKE, Stage.REMOVING: Action.REMOVE}
    for shown in (SHOWN, ABSENT, REVOKED, UNKNOWN):
        life = key(stage)
        found = what_is_due(life, look(shown, UNKNOWN), (relay("stopped"),), by_hand=by_hand)
        assert found.action not in FORWARD
        if found.action in destroys and stage is not Stage.REVOKED:
            assert found.action is sends_again.get(stage)


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("name", [name for name, dns in VIEWS.items() if dns is not None])
@pytest.mark.parametrize("age", [3 * HOUR, -3 * HOUR], ids=["old", "from-the-future"])
def test_an_old_look_decides_nothing_and_says_its_age(
    stage: Stage, name: str, age: timedelta
) -> None:
    """What was seen three hours ago, or by a clock that was ahead, is a plan at best."""
    dns = dataclasses.replace(VIEWS[name] or look(), at=NOW - age)
    found = what_is_due(key(stage), dns, (relay("stopped"),))
    assert found.action is WAIT
    if stage is not Stage.REMOVED:
        assert ("3h ago" if age > timedelta() else "clock was ahead") in found.why[-1]


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "dns", "says"),
    [
        pytest.param(
            Stage.PUBLISHING,
            look(ABSENT, ABSENT),
            "publish it, `carbonseal keys publish example.com s1` prints it",
            id="record-not-published-yet",
        ),
        pytest.param(
            Stage.PUBLISHING,
            look(ABSENT, UNKNOWN),
            "publish it, `carbonseal keys publish",
            id="not-published-and-one-server-silent",
        ),
        pytest.param(
            Stage.REVOKING, look(SHOWN, SHOWN), "make its p= empty by hand", id="p-not-emptied-yet"
        ),
        pytest.param(
            Stage.REMOVING,
            look(REVOKED, REVOKED),
            "still shows the empty p=; take the record away by hand",
            id="empty-record-not-taken-away-yet",
        ),
        pytest.param(
            Stage.REMOVING,
            look(SHOWN, SHOWN),
            "still shows the record; take the record away by hand",
            id="record-not-taken-away-yet",
        ),
    ],
)
def test_a_person_is_told_what_to_do(stage: Stage, dns: DnsView, says: str) -> None:
    """Where a person publishes, nothing is sent; the reason names the change and the command."""
    found = what_is_due(key(stage), dns, by_hand=True)
    assert (found.action, found.standing) == (WAIT, NOT_YET)
    assert says in " ".join(found.why)


@pytest.mark.parametrize("by_hand", [False, True], ids=["by-program", "by-hand"])
@pytest.mark.parametrize(
    ("after", "standing", "says"),
    [
        pytest.param(
            timedelta(minutes=10), NOT_YET, "a secondary follows within 1h15m", id="within-the-soa"
        ),
        pytest.param(2 * HOUR, HELD, "should have followed within 1h15m", id="overdue"),
    ],
)
def test_a_secondary_that_lags_needs_a_person_when_its_soa_says_so(
    after: timedelta, standing: Standing, says: str, by_hand: bool
) -> None:
    """Nothing is sent again; after refresh + retry, waiting is no answer any more."""
    life = key(Stage.PUBLISHING, since=NOW - 9 * DAY, sent_at=NOW - after)
    found = what_is_due(life, look(SHOWN, ABSENT), by_hand=by_hand)
    assert (found.action, found.standing) == (WAIT, standing)
    late, hint = found.why
    assert late == "ns2.example.net (192.0.2.2@53) does not show the record yet (serial 7)"
    assert says in hint
    assert "zone transfers and NOTIFY" in hint


# --- goals and flags ------------------------------------------------------------------------------

BEFORE = (Stage.GENERATED, Stage.PUBLISHING, Stage.PUBLISHED, Stage.READY)


@pytest.mark.parametrize(
    ("life", "action", "standing", "says"),
    [
        pytest.param(
            key(Stage.GENERATED, goal=Goal.KEPT), WAIT, DONE, "kept", id="generated-and-kept"
        ),
        pytest.param(
            key(Stage.GENERATED, goal=Goal.READY),
            Action.PUBLISH,
            DONE,
            "ready",
            id="standby-begins",
        ),
        pytest.param(
            key(Stage.READY, goal=Goal.READY), WAIT, DONE, "stands by", id="standby-stands-by"
        ),
        pytest.param(
            key(Stage.READY, activate_from=NOW + DAY),
            WAIT,
            NOT_YET,
            "its predecessor signs until 2026-03-02T12:00:00Z",
            id="ready-before-its-time",
        ),
        pytest.param(
            key(Stage.READY, activate_from=NOW),
            Action.ACTIVATE,
            DONE,
            "shown everywhere just now",
            id="ready-and-its-time-has-come",
        ),
        pytest.param(
            key(Stage.ACTIVE, refused="wrong"),
            Action.ALLOW,
            DONE,
            "shown again",
            id="refused-mended",
        ),
        pytest.param(
            key(Stage.ACTIVE, assumed_published=True), WAIT, DONE, "signs", id="assumed-and-shown"
        ),
        pytest.param(
            key(Stage.READY, compromised_at=NOW),
            Action.REMOVE,
            DONE,
            "compromised; it never signed",
            id="compromised-before-it-signed",
        ),
        *[
            pytest.param(
                key(stage, cancelled_at=NOW),
                Action.CONFIRM_REMOVED if stage is Stage.GENERATED else Action.REMOVE,
                DONE,
                "cancelled",
                id=f"cancelled-when-{stage.value}",
            )
            for stage in BEFORE
        ],
        *[
            pytest.param(
                key(stage, held="two records"), WAIT, HELD, "held: two records", id=f"held-{stage}"
            )
            for stage in list(Stage)[:-1]
        ],
    ],
)
def test_goals_and_flags(life: KeyLife, action: Action, standing: Standing, says: str) -> None:
    """What somebody wants, and what was found before, where every server shows the record."""
    found = what_is_due(life, look(SHOWN, SHOWN), (relay("loaded"),))
    assert (found.action, found.standing) == (action, standing)
    assert says in found.why[0]


def test_a_refused_key_stays_refused_and_says_so_while_its_record_is_wrong() -> None:
    """It is refused once, not at each look."""
    found = what_is_due(key(Stage.ACTIVE, refused="wrong"), look(ABSENT, ABSENT))
    assert (found.action, found.standing) == (WAIT, HELD)
    assert found.why == ("may not sign", "there is no TXT record")


@pytest.mark.parametrize(
    ("dns", "action"),
    [
        pytest.param(look(SHOWN, SHOWN), Action.REVOKE, id="shown"),
        pytest.param(look(SHOWN, UNKNOWN), Action.REVOKE, id="shown-and-one-silent"),
        pytest.param(look(UNKNOWN, UNKNOWN), Action.REVOKE, id="all-silent"),
        pytest.param(look(SHOWN, OTHER, foreign=True), Action.REVOKE, id="shown-beside-foreign"),
        pytest.param(look(OTHER, OTHER, foreign=True), Action.HOLD, id="only-foreign"),
        pytest.param(look(ABSENT, ABSENT), Action.REMOVE, id="gone-already"),
    ],
)
def test_a_compromised_key_is_revoked_without_waiting(dns: DnsView, action: Action) -> None:
    """Neither relays nor queues nor a silent server delay it; where it may stand, it is revoked."""
    life = key(Stage.RETIRING, since=NOW, stopped_at=None, compromised_at=NOW)
    for report in (relay("signs"), relay("silent"), relay("stopped", oldest=NOW - 3 * DAY)):
        assert what_is_due(life, dns, (report,)).action is action


def test_a_compromised_key_on_its_way_out_is_not_held_by_a_bad_server() -> None:
    """Nobody should have to release it before the others go on."""
    life = key(Stage.REVOKING, compromised_at=NOW - DAY)
    found = what_is_due(life, look(REVOKED, OTHER, foreign=True))
    assert (found.action, found.standing) == (WAIT, HELD)


@pytest.mark.parametrize(
    ("revoke", "action"), [("empty", Action.REVOKE), ("remove", Action.REMOVE), ("keep", WAIT)]
)
def test_what_becomes_of_a_drained_record_is_a_rule(revoke: Any, action: Action) -> None:
    """rotation.revoke: empty, remove or keep."""
    rules = dataclasses.replace(RULES, revoke=revoke)
    found = what_is_due(key(Stage.RETIRING), look(SHOWN), (relay("stopped"),), rules=rules)
    assert (found.action, found.standing) == (action, DONE)


# --- relays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.PUBLISHED, Stage.READY])
@pytest.mark.parametrize(
    ("relays", "standing", "says"),
    [
        pytest.param((), SILENT, "no relay was asked", id="nobody-asked"),
        pytest.param((relay("stopped"),), NOT_YET, "mx1 has not loaded", id="not-loaded"),
        pytest.param((relay("no-worker"),), NOT_YET, "mx1 has not loaded", id="does-not-load"),
        pytest.param(
            (relay("loaded"), relay("stopped", "mx2")), NOT_YET, "mx2 has not", id="one-of-two"
        ),
        pytest.param((relay("starts"),), NOT_YET, "mx1: it has not said", id="starting"),
        pytest.param((relay("silent"),), SILENT, "mx1: ssh: no route", id="silent"),
        pytest.param(
            (relay("silent"), relay("stopped", "mx2")), NOT_YET, "mx2 has not", id="silent-and-late"
        ),
        pytest.param(
            (dataclasses.replace(relay("loaded"), at=NOW - 3 * HOUR),),
            NOT_YET,
            "too long ago",
            id="heard-too-long-ago",
        ),
    ],
)
def test_no_key_goes_on_to_sign_before_every_relay_has_loaded_it(
    stage: Stage, relays: tuple[RelayReport, ...], standing: Standing, says: str
) -> None:
    """Loaded and self-tested on all relays, by their own word."""
    found = what_is_due(key(stage), look(SHOWN), relays)
    assert (found.action, found.standing) == (WAIT, standing)
    assert says in found.why[0]


@pytest.mark.parametrize(
    ("relays", "action", "standing"),
    [
        pytest.param((relay("stopped"),), Action.CONFIRM_STOPPED, NOT_YET, id="stopped"),
        pytest.param((relay("loaded"),), Action.CONFIRM_STOPPED, NOT_YET, id="only-loaded"),
        pytest.param((relay("no-worker"),), Action.CONFIRM_STOPPED, NOT_YET, id="no-worker-runs"),
        pytest.param((relay("signs"),), WAIT, NOT_YET, id="still-signs"),
        pytest.param((relay("stopped"), relay("signs", "mx2")), WAIT, NOT_YET, id="the-last-signs"),
        pytest.param((relay("starts"),), WAIT, NOT_YET, id="starting"),
        pytest.param((relay("silent"),), WAIT, SILENT, id="silent"),
        pytest.param(
            (relay("stopped"), relay("silent", "mx2")), WAIT, SILENT, id="the-last-silent"
        ),
        pytest.param((), WAIT, SILENT, id="nobody-asked"),
    ],
)
def test_a_key_has_stopped_when_the_last_relay_says_so(
    relays: tuple[RelayReport, ...], action: Action, standing: Standing
) -> None:
    """The drain begins with the last one."""
    found = what_is_due(key(Stage.RETIRING, stopped_at=None), look(SHOWN), relays)
    assert (found.action, found.standing) == (action, standing)


@pytest.mark.parametrize("after", [DAY, 365 * DAY], ids=["in-the-drain", "after-the-drain"])
def test_a_relay_that_signs_after_all_begins_the_drain_anew(after: timedelta) -> None:
    """One that was added to the configuration late, or came back with old keys."""
    life = key(Stage.RETIRING, stopped_at=NOW - after)
    found = what_is_due(life, look(SHOWN), (relay("stopped"), relay("signs", "mx2")))
    assert found.action is Action.DENY_STOPPED
    assert "relay mx2 signs with it after all" in found.why[0]


@pytest.mark.parametrize(
    ("relays", "standing", "says"),
    [
        pytest.param((relay("stopped"), relay("starts", "mx2")), NOT_YET, "mx2", id="one-starts"),
        pytest.param((relay("silent"),), SILENT, "no route to host", id="silent"),
        pytest.param((blind(),), SILENT, "postqueue: denied", id="queue-unreadable"),
        pytest.param((), SILENT, "no relay was asked", id="nobody-asked"),
        pytest.param(
            (relay("stopped", oldest=NOW - 366 * DAY),),
            NOT_YET,
            "postqueue -p",
            id="older-mail-held",
        ),
        pytest.param(
            (relay("stopped", oldest=NOW - 365 * DAY + timedelta(seconds=1)),),
            NOT_YET,
            "perhaps signed with it",
            id="mail-of-that-second",
        ),
    ],
)
def test_nothing_is_revoked_before_every_queue_is_seen_and_drained(
    relays: tuple[RelayReport, ...], standing: Standing, says: str
) -> None:
    """Though the longest time is over: held mail has no limit, and unknown is not empty."""
    found = what_is_due(key(Stage.RETIRING), look(SHOWN), relays)
    assert (found.action, found.standing) == (WAIT, standing)
    assert says in " ".join(found.why)


def test_mail_that_came_later_does_not_delay_a_revocation() -> None:
    """It was signed with the next key."""
    relays = (relay("stopped", oldest=NOW - 364 * DAY),)
    assert what_is_due(key(Stage.RETIRING), look(SHOWN), relays).action is Action.REVOKE


def test_a_record_that_is_lost_during_the_drain_is_reported() -> None:
    """It should stand; who took it away may have had a reason, so nothing is sent."""
    life = key(Stage.RETIRING, stopped_at=NOW - DAY)
    found = what_is_due(life, look(SHOWN, ABSENT), (relay("stopped"),))
    assert (found.action, found.standing) == (WAIT, HELD)
    assert found.why[0] == "its record should still stand"


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "length", "action"),
    [
        pytest.param(
            key(Stage.PUBLISHED, published_at=NOW),
            timedelta(seconds=NEGATIVE + 600),
            Action.MAKE_READY,
            id="negative-answers",
        ),
        pytest.param(
            key(Stage.PUBLISHED, published_at=NOW, cache_ttl=86400),
            timedelta(seconds=86400 + 600),
            Action.MAKE_READY,
            id="negative-answers-that-lived-longer-before",
        ),
        pytest.param(
            key(Stage.READY, activate_from=NOW + DAY), DAY, Action.ACTIVATE, id="predecessors-end"
        ),
        pytest.param(
            key(Stage.RETIRING, stopped_at=NOW), 14 * DAY, Action.REVOKE, id="mail-in-flight"
        ),
        pytest.param(
            key(Stage.REVOKED, revoked_at=NOW),
            30 * DAY + timedelta(seconds=300),
            Action.REMOVE,
            id="empty-p-stands",
        ),
    ],
)
def test_each_wait_ends_to_the_second(life: KeyLife, length: timedelta, action: Action) -> None:
    """A second before, it is waited for and the end is named; at the end, the step is due."""

    def at(now: datetime) -> Due:
        state = REVOKED if life.stage is Stage.REVOKED else SHOWN
        does = "stopped" if life.stage is Stage.RETIRING else "loaded"
        report = dataclasses.replace(relay(does), at=now)
        dns = dataclasses.replace(look(state), at=now)
        return what_is_due(life, dns, (report,), now=now)

    before = at(NOW + length - timedelta(seconds=1))
    assert before.action is WAIT
    assert before.at == NOW + length
    assert (NOW + length).strftime("%Y-%m-%dT%H:%M:%SZ") in before.why[0]
    assert at(NOW + length).action is action


def test_a_publication_that_was_dated_by_a_clock_that_was_ahead_begins_anew() -> None:
    """Otherwise the key would wait until 2036."""
    life = key(Stage.PUBLISHED, published_at=NOW + 3650 * DAY)
    found = what_is_due(life, look(SHOWN))
    assert found.action is Action.FALL_BACK
    assert "clock that was ahead" in found.why[0]


def test_a_drain_that_was_dated_by_a_clock_that_was_ahead_says_so() -> None:
    """It cannot be shortened safely, but nobody has to wonder."""
    life = key(Stage.RETIRING, stopped_at=NOW + 100 * DAY)
    found = what_is_due(life, look(SHOWN), (relay("stopped"),))
    assert found.action is WAIT
    assert "that begins 100d from now: see to the clock" in found.why[0]
