"""What orders and walks do to a key, against a real primary and secondary.

The guarantee: nothing signs that is not shown by every server, nothing that somebody else made is
changed, no order is obeyed that a rule forbids, and what is refused says why.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import key_life
from support.key_life import DAY, RULES, ZONE, House, Servers

from carbonseal.keys import dns_record, generate, life_world, lifecycle, orders, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.publication.settings import PublishRule
from carbonseal.policies import errors, signing_request
from carbonseal.policies.key_life import Goal, Stage
from carbonseal.policies.rotation import Action, Standing

FOREIGN = "v=DKIM1; k=rsa; p=c29tZWJvZHkgZWxzZQ=="
STOCK = key_life.made_before(3)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers")) as both:
        yield both


@pytest.fixture
def house(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A domain of its own without any key."""
    monkeypatch.setattr(generate, "generate", generate.generate)  # put back afterwards
    key_life.use_made(STOCK)
    one = House(tmp_path, f"d{next(_numbers)}.{ZONE}", servers)
    one.directory.mkdir(mode=0o700)
    yield one
    servers.clear([one.sdid])


def record_of(house: House, at: int = 0) -> KeyRecord:
    """A key by its place in the order of their making."""
    return list(house.records.values())[at]


def own(record: KeyRecord) -> str:
    """The TXT value of a key."""
    return dns_record.value(record.public_key)


def until_ready(house: House) -> None:
    """The record is shown everywhere, and old answers are gone; then whatever is due."""
    house.servers.sync()
    house.tend()
    house.tend(days=2)


def signing(house: House) -> House:
    """The first key signs."""
    house.tend(forced=True)
    until_ready(house)
    assert house.stages == [Stage.ACTIVE]
    return house


def rotated(house: House) -> House:
    """The second key signs, the first is retiring."""
    signing(house).tend(forced=True)
    until_ready(house)
    assert house.stages == [Stage.RETIRING, Stage.ACTIVE]
    return house


def with_standby(house: House) -> House:
    """The first key signs, the second is ready."""
    signing(house).rules = key_life.with_standby(RULES)
    house.tend()
    until_ready(house)
    house.rules = RULES
    assert house.stages == [Stage.ACTIVE, Stage.READY]
    return house


def standing(house: House, report: life_world.Report, at: int = 0) -> Standing:
    """How it stands with one key."""
    selector = record_of(house, at).selector
    return next(one.due.standing for one in report.keys if one.record.selector == selector)


# --- forward ------------------------------------------------------------------------------------


def test_a_dry_run_for_a_domain_without_keys_foresees_the_first(house: House) -> None:
    world = house.world()
    seen = lifecycle.preview(world, house.sdid, relays=life_world.gather(world), first=True)
    assert [step.action for step in seen.steps] == [Action.PUBLISH]
    assert not house.records
    unforced = lifecycle.preview(world, house.sdid, relays=(), forced=True)
    assert not unforced.steps


def test_a_key_signs_only_after_the_slowest_server_and_the_wait(house: House) -> None:
    """The secondary follows when it is told to; until then, and half a day more, nothing signs."""
    house.tend(forced=True)
    house.tend(days=3)
    assert house.stages == [Stage.PUBLISHING]
    house.servers.sync()
    house.tend()
    assert house.stages == [Stage.PUBLISHED]
    house.tend(days=0.4)
    assert house.signing() == []
    house.tend(days=0.2)
    assert house.signing() == [record_of(house).selector]


@pytest.mark.parametrize("keys", [0, 1], ids=["first-key", "successor"])
def test_an_order_to_rotate_given_again_goes_on_and_begins_no_other_key(
    keys: int, house: House
) -> None:
    """However often, until the key signs, and in the call that lets it; only the next begins one.

    Each call too many would let a fresh key sign for seconds and retire it, with all its waits.
    """
    if keys:
        signing(house)
    for _ in range(2):
        house.tend(forced=True)
    house.servers.sync()
    for days in (0.0, 0.1, 2.0):
        house.tend(forced=True, days=days)
    assert house.stages == [Stage.RETIRING, Stage.ACTIVE][1 - keys :]
    house.tend(forced=True)
    assert house.stages[-2:] == [Stage.ACTIVE, Stage.PUBLISHING]


def test_a_successor_is_begun_its_lead_before_the_end_and_signs_at_the_end(house: House) -> None:
    house.rules = dataclasses.replace(RULES, lifetime=100 * DAY, lead=10 * DAY)
    signing(house)
    report = house.tend(days=89)
    assert house.stages == [Stage.ACTIVE]
    assert [one.at > house.now() for one in report.coming] == [True]
    house.tend(days=1.5)
    until_ready(house)
    assert house.stages == [Stage.ACTIVE, Stage.READY]
    house.tend(days=5)
    assert house.stages == [Stage.ACTIVE, Stage.READY]
    house.tend(days=3)
    assert house.stages == [Stage.RETIRING, Stage.ACTIVE]


def test_a_standby_is_kept_takes_over_and_is_replaced(house: House) -> None:
    with_standby(house).rules = key_life.with_standby(RULES)
    house.tend()
    assert len(house.records) == 2, "one standby is enough"
    house.tend(forced=True)
    assert house.stages == [Stage.RETIRING, Stage.ACTIVE, Stage.PUBLISHING]
    assert record_of(house, 2).goal is Goal.READY


def test_a_key_whose_record_a_server_lost_falls_back_and_is_published_again(house: House) -> None:
    signing(house).tend(forced=True)
    house.servers.sync()
    house.tend()
    house.servers.put(record_of(house, 1).dns_name)
    house.tend()
    assert house.stages == [Stage.ACTIVE, Stage.PUBLISHING]
    house.servers.sync()
    house.tend()
    assert record_of(house, 1).stage is Stage.PUBLISHED
    house.tend(days=0.4)
    assert record_of(house, 1).stage is Stage.PUBLISHED, "the wait begins anew"
    house.tend(days=0.2)
    assert house.stages == [Stage.RETIRING, Stage.ACTIVE]


# --- what is not ours ---------------------------------------------------------------------------


def test_foreign_data_holds_a_key_until_it_is_gone_and_somebody_says_so(house: House) -> None:
    signing(house).tend(forced=True)
    house.servers.sync()
    new = record_of(house, 1)
    house.servers.put(new.dns_name, own(new), FOREIGN)
    house.tend()
    house.tend(days=2)
    assert record_of(house, 1).stage is not Stage.ACTIVE
    assert set(house.texts()[new.dns_name]) == {own(new), FOREIGN}
    if record_of(house, 1).held:
        with pytest.raises(orders.Mismatch, match="it stays held"):
            orders.release(house.order(1), dry_run=False)
        house.servers.put(new.dns_name, own(new))
        house.tend(days=2)
        assert record_of(house, 1).held, "nobody released it"
        orders.release(house.order(1), dry_run=False)
    else:
        house.servers.put(new.dns_name, own(new))
    house.tend()
    house.tend(days=2)
    assert house.stages == [Stage.RETIRING, Stage.ACTIVE]


def test_a_record_that_somebody_else_made_is_used_but_never_changed(house: House) -> None:
    """Until it is taken over, revoking it is left to whoever made it."""
    record = house.keep(STOCK[0], "old")
    house.servers.put(record.dns_name, own(record))
    orders.publish(house.order(0), adopt=False, dry_run=False)
    assert not record_of(house).publication.is_ours
    house.tend(days=2)
    orders.activate(house.order(0), assume_published=False, when_ready=True, dry_run=False)
    assert house.stages == [Stage.ACTIVE]
    house.tend(forced=True)
    until_ready(house)
    house.tend(days=0.1)
    report = house.tend(days=2)
    assert record_of(house).stage is Stage.REVOKING
    assert standing(house, report) is Standing.NOT_YET
    assert house.texts()[record.dns_name] == [own(record)], "untouched"
    orders.publish(house.order(0), adopt=True, dry_run=False)
    assert house.texts()[record.dns_name] == [dns_record.revocation(record.public_key)]


def test_a_record_taken_over_before_its_key_signed_is_taken_away_with_it(house: House) -> None:
    """Nothing stays in DNS of which no key knows."""
    record = house.keep(STOCK[0], "old")
    house.servers.put(record.dns_name, own(record))
    orders.publish(house.order(0), adopt=True, dry_run=False)
    orders.remove(house.order(0), force=False, dry_run=False)
    house.servers.sync()
    house.tend()
    assert house.stages == [Stage.REMOVED]
    assert not house.texts()


def test_what_is_not_shown_everywhere_cannot_be_taken_over(house: House) -> None:
    house.keep(STOCK[0], "old")
    with pytest.raises(errors.CarbonsealError, match="taken over when every server shows"):
        orders.publish(house.order(0), adopt=True, dry_run=False)


# --- by hand, and by delegation -----------------------------------------------------------------


def test_by_hand_nothing_is_sent_and_the_same_life_is_watched(house: House) -> None:
    house.publish = (PublishRule(None),)
    report = house.tend(forced=True)
    record = record_of(house)
    assert standing(house, report) is Standing.NOT_YET
    assert not house.texts()
    house.servers.put(record.dns_name, own(record))
    until_ready(house)
    assert house.stages == [Stage.ACTIVE]
    house.tend(forced=True)
    new = record_of(house, 1)
    house.servers.put(new.dns_name, own(new))
    until_ready(house)
    house.tend(days=0.1)
    house.tend(days=2)
    assert record_of(house).stage is Stage.REVOKING
    assert house.texts()[record.dns_name] == [own(record)]
    house.servers.put(record.dns_name, dns_record.revocation(record.public_key))
    house.tend()
    house.tend(days=2)
    assert record_of(house).stage is Stage.REMOVING
    house.servers.put(record.dns_name)
    house.tend()
    assert house.stages == [Stage.REMOVED, Stage.ACTIVE]
    assert not house.shelf.private_path(house.sdid, record.selector).exists()


def test_delegation_writes_at_the_target_and_waits_for_the_alias(house: House) -> None:
    sets = house.servers.settings().publish[0]
    target = f"{{selector}}.{house.sdid.split('.')[0]}.keys.{ZONE}"
    house.publish = (dataclasses.replace(sets, delegate=target),)
    house.tend(forced=True)
    record = record_of(house)
    place = target.format(selector=record.selector)
    house.servers.sync()
    house.tend()
    assert house.stages == [Stage.PUBLISHING], "the owner's CNAME is missing"
    assert house.servers.texts()[place] == [own(record)]
    house.servers.put_alias(record.dns_name, place)
    until_ready(house)
    assert house.stages == [Stage.ACTIVE]
    assert record_of(house).publication.name == place


# --- back, and away -----------------------------------------------------------------------------


def test_rollback_is_one_order_as_long_as_the_record_stands(house: House) -> None:
    rotated(house)
    old, new = house.records
    orders.rollback(house.order(orders.predecessor(house.shelf, house.sdid)), dry_run=False)
    assert house.signing() == [old]
    assert house.stages == [Stage.ACTIVE, Stage.READY], "the successor stands by"
    orders.rollback(house.order(old), dry_run=False)  # again does no harm
    house.tend(forced=True)
    assert house.signing() == [new]


@pytest.mark.parametrize("days", [0.0, 2.0], ids=["being-published", "about-to-sign"])
def test_no_timer_undoes_a_rollback_with_a_successor_that_was_on_its_way(
    days: float, house: House
) -> None:
    """It stands by, like the key that is taken back; an order lets it sign after all."""
    rotated(house).tend(forced=True)
    old, _, ordered = house.records
    house.servers.sync()
    if days:
        house.tend(begin=False)
        house.days += days
    assert [one.selector for one in orders.rollback(house.order(old), dry_run=True)] == [ordered]
    assert house.records[ordered].goal is Goal.ACTIVE
    assert [one.selector for one in orders.rollback(house.order(old), dry_run=False)] == [ordered]
    for _ in range(3):
        house.tend(days=1)
    assert house.signing() == [old]
    assert house.records[ordered].stage is Stage.READY
    assert orders.rollback(house.order(old), dry_run=False) == ()
    orders.activate(house.order(ordered), assume_published=False, when_ready=True, dry_run=False)
    assert house.signing() == [ordered]


def test_rollback_is_refused_when_the_record_is_gone_or_the_key_leaked(house: House) -> None:
    rotated(house)
    old = record_of(house)
    house.servers.put(old.dns_name)
    with pytest.raises(orders.Mismatch, match="only when every server shows"):
        orders.rollback(house.order(0), dry_run=False)
    house.servers.put(old.dns_name, own(old))
    orders.revoke(house.order(0), force=True, dry_run=False)
    with pytest.raises(orders.Forbidden, match="no way back"):
        orders.rollback(house.order(0), dry_run=False)
    with pytest.raises(orders.Forbidden, match="nothing to go back to"):
        orders.predecessor(house.shelf, house.sdid)
    assert house.signing() == [record_of(house, 1).selector]


def test_a_cancelled_key_leaves_dns_and_disk_and_its_name_is_used_up(house: House) -> None:
    signing(house).tend(forced=True)
    house.servers.sync()
    orders.remove(house.order(1), force=False, dry_run=False)
    house.servers.sync()
    house.tend()
    cancelled = record_of(house, 1)
    assert house.stages == [Stage.ACTIVE, Stage.REMOVED]
    assert cancelled.dns_name not in house.texts()
    assert not house.shelf.private_path(house.sdid, cancelled.selector).exists()
    with house.shelf.writing(house.sdid) as writer, pytest.raises(errors.DataError):
        writer.add(cancelled, b"")
    assert house.shelf.is_taken(house.sdid, cancelled.selector)


def test_nothing_is_revoked_before_its_time_but_by_force(house: House) -> None:
    rotated(house)
    with pytest.raises(orders.NotYet):
        orders.revoke(house.order(0), force=False, dry_run=False)
    with pytest.raises(orders.Forbidden, match="rotate first"):
        orders.revoke(house.order(1), force=True, dry_run=False)
    with pytest.raises(orders.Forbidden, match="signs"):
        orders.remove(house.order(1), force=True, dry_run=False)
    orders.revoke(house.order(0), force=True, dry_run=False)
    assert record_of(house).stage is Stage.REVOKING


def test_the_last_key_is_not_taken_away_by_accident(house: House) -> None:
    signing(house)
    with pytest.raises(orders.Forbidden, match="last key"):
        orders.retire(house.order(0), leave_unsigned=False, dry_run=False)
    orders.retire(house.order(0), leave_unsigned=True, dry_run=False)
    assert house.signing() == []


# --- emergency ----------------------------------------------------------------------------------


def test_an_emergency_switches_to_the_standby_and_revokes_at_once(house: House) -> None:
    with_standby(house)
    leaked, standby = house.records.values()
    done = orders.emergency(house.order(0), leave_unsigned=False, dry_run=False)
    assert house.signing() == [standby.selector]
    assert house.texts()[leaked.dns_name] == [dns_record.revocation(leaked.public_key)]
    terms = dict(done.exposure.terms)
    assert done.exposure.seconds == sum(terms.values()) == 3600 + 3600 + key_life.TTL
    assert record_of(house).is_compromised
    assert done.successor is not None
    again = orders.emergency(house.order(0), leave_unsigned=False, dry_run=False)
    assert again.successor is None
    assert house.signing() == [standby.selector]


def test_an_emergency_without_a_standby_is_a_decision_of_a_person(house: House) -> None:
    signing(house)
    with pytest.raises(orders.Forbidden, match="--leave-unsigned") as refusal:
        orders.emergency(house.order(0), leave_unsigned=False, dry_run=False)
    # With its name: after the rotation, the key that signs is the new one.
    leaked = f"`carbonseal keys emergency {house.sdid} {record_of(house).selector}`"
    assert leaked in refusal.value.sentence
    assert house.stages == [Stage.ACTIVE]
    orders.emergency(house.order(0), leave_unsigned=True, dry_run=False)
    assert house.signing() == []
    assert record_of(house).stage is Stage.REVOKING


def test_a_standby_that_cannot_be_used_is_none(house: House) -> None:
    """A key file that was damaged must not become the only one that signs."""
    with_standby(house)
    path = house.shelf.private_path(house.sdid, record_of(house, 1).selector)
    path.write_bytes(b"damaged")
    with pytest.raises(orders.Forbidden, match="no other is ready"):
        orders.emergency(house.order(0), leave_unsigned=False, dry_run=False)
    assert house.signing() == [record_of(house).selector]


# --- the sign-time guard, and what a person answers for -----------------------------------------


def test_a_key_that_no_server_shows_may_not_sign_until_one_does(house: House) -> None:
    name = record_of(signing(house)).dns_name
    house.servers.put(name)
    house.tend()
    assert record_of(house).refused
    assert house.signing() == []
    house.servers.put(name, own(record_of(house)))
    house.tend()
    assert not record_of(house).refused
    assert house.signing() == [record_of(house).selector]


def test_a_key_that_one_server_shows_still_signs(house: House) -> None:
    """Some receivers verify; unsigned mail would help nobody."""
    record = record_of(signing(house))
    key_life.name_servers.put_txt(
        house.servers.primary.address, ZONE, house.servers.tsig, record.dns_name
    )
    report = house.tend()
    assert standing(house, report) is Standing.HELD
    assert house.signing() == [record.selector]
    house.servers.sync()


def test_a_person_may_answer_for_a_record_and_is_written_down(house: House) -> None:
    house.keep(STOCK[0], "old")
    orders.activate(house.order(0), assume_published=True, when_ready=False, dry_run=False)
    assert house.signing() == ["old"]
    assert record_of(house).assumed_published


def test_without_that_nothing_unpublished_signs(house: House) -> None:
    house.keep(STOCK[0], "old")
    with pytest.raises(orders.NotYet, match="signs after every name server shows"):
        orders.activate(house.order(0), assume_published=False, when_ready=False, dry_run=False)
    assert house.signing() == []


# --- two at once --------------------------------------------------------------------------------


def test_an_order_about_a_key_that_changed_meanwhile_is_not_carried_out(house: House) -> None:
    """The timer may act between the judgement of an order and its lock."""
    rotated(house)
    order = house.order(0)
    looks: list[str] = []
    look = order.world.look

    def meanwhile(name: str, public_key: bytes | None, expected: str) -> object:
        if not looks:
            looks.append(name)
            orders.rollback(house.order(0), dry_run=False)
        return look(name, public_key, expected)

    late = dataclasses.replace(order, world=dataclasses.replace(order.world, look=meanwhile))
    with pytest.raises(errors.TryLater, match="another command has changed it"):
        orders.revoke(late, force=True, dry_run=False)
    assert house.stages == [Stage.ACTIVE, Stage.READY]


def test_a_lock_that_somebody_holds_means_later(house: House) -> None:
    signing(house)
    with store.Store(house.directory).writing(house.sdid), pytest.raises(errors.TryLater):
        house.tend()


def test_ed25519_and_rsa_live_side_by_side(house: House) -> None:
    """Each algorithm has its own succession."""
    signing(house)
    house.keep(generate.generate(signing_request.ED25519), "e1")
    orders.publish(house.order("e1"), adopt=False, dry_run=False)
    until_ready(house)
    orders.activate(house.order("e1"), assume_published=False, when_ready=True, dry_run=False)
    assert len(house.signing()) == 2
    house.tend(forced=True)
    until_ready(house)
    assert house.stages.count(Stage.ACTIVE) == 2
    assert house.stages.count(Stage.RETIRING) == 2
