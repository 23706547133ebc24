"""Everything that goes wrong in DNS while a key lives, with real servers and the real commands.

For each fault: the state in which the key ends, the exit status, a sentence that names the place
and says what to do, that mail goes on being signed by a key whose record stands, and that the next
run after the fault is mended goes on to the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import pytest
from support import name_servers, signing_relay
from support.broken_server import BrokenServer, reply
from support.name_servers import Bind, Nsd, TsigKey, Zone
from support.signing_relay import PROVIDER, Relay, Rig, relay_at, with_key
from support.waiting import wait_until

from carbonseal.keys import dns_record
from carbonseal.policies.key_life import Stage

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]
DONE, NOT_YET, HELD, UNREACHABLE, REFUSED = range(5)
ANOTHER = "v=DKIM1; k=ed25519; p=" + "A" * 43 + "="  # a key, but nobody's here
SPF = "v=spf1 -all"


# --- the rig --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Name servers that all cases share; each case has a zone of its own."""
    with signing_relay.running() as rig:
        yield rig


@pytest.fixture
def relay(rig: Rig, tmp_path: Path) -> Relay:
    """A domain without a key whose records are published by update."""
    return relay_at(rig, tmp_path, rig.zone())


@pytest.fixture
def signing(relay: Relay) -> Relay:
    """A domain with one key that signs."""
    return with_key(relay)


@pytest.fixture
def by_hand(relay: Relay) -> Relay:
    """A domain without a key whose records a person publishes."""
    relay.publish = {"method": "manual"}
    relay.write()
    return relay


def test_the_first_key_signs_after_one_command(relay: Relay) -> None:
    """Where nothing is in the way and nothing to be waited for, one call is enough.

    The secondary's transfer is something to be waited for: where it took longer than the call had
    patience, the call says so and changes nothing more, and the first one after it is enough.
    """
    said = relay("rotate", relay.sdid)
    if said.status == NOT_YET:
        assert "a secondary follows" in said.text
        assert relay.newest.stage == Stage.PUBLISHING
        serial = relay.rig.primary.serial(relay.sdid)
        wait_until(
            lambda: relay.rig.secondary.serial(relay.sdid) >= serial, "the secondary follows"
        )
        said = relay("rotate", relay.sdid)
    assert said.status == DONE, said.text
    relay.assert_mail_is_signed(relay.newest.selector)


def test_the_same_command_again_goes_on_with_the_rotation_and_says_so(signing: Relay) -> None:
    """Who repeats it, or takes up what was interrupted, burns no key."""
    before = signing.newest.selector
    with secondary_stopped(signing):
        first = signing("rotate", signing.sdid)
        new = signing.newest.selector
        assert "on its way already" not in first.text
        for words in (["--dry-run"], []):
            said = signing("rotate", signing.sdid, *words)
            assert f"{new} is on its way already" in said.text
            assert "begins no other key" in said.text
    last = signing.go_on(new, Stage.ACTIVE, "rotate", signing.sdid)
    assert f"{new} signs now, which ends this rotation" in last.text
    assert last.status == DONE
    assert {key.selector for key in signing.records} == {before, new}
    signing("rotate", signing.sdid)
    assert len(signing.records) == 3


def test_a_rollback_names_the_successor_that_it_stops_and_what_lets_it_sign(
    signing: Relay,
) -> None:
    """Nobody is to wonder why the ordered key does not sign, or why it does."""
    old = signing.newest.selector
    signing("rotate", signing.sdid)
    signing.go_on(signing.newest.selector, Stage.ACTIVE)
    with secondary_stopped(signing):
        signing("rotate", signing.sdid)
    ordered = signing.newest.selector
    order = f"carbonseal keys activate {signing.sdid} {ordered} --when-ready"
    for words, says in (["--dry-run"], "would stand by"), ([], "stands by"):
        said = signing("rollback", signing.sdid, *words)
        assert f"{ordered} was to sign next and {says}" in said.text
        assert order in said.text
    signing.go_on(ordered, Stage.READY, "rotate", "--all")
    signing("rotate", "--all")
    signing.assert_mail_is_signed(old)
    signing(*order.split()[2:])
    signing.assert_mail_is_signed(ordered)


# --- faults while a successor is published --------------------------------------------------------

Fault = Callable[[Relay], AbstractContextManager[None]]


@contextlib.contextmanager
def secondary_stopped(relay: Relay) -> Iterator[None]:
    """The program does not run."""
    relay.rig.secondary.stop()
    try:
        yield
    finally:
        relay.rig.secondary.start()


@contextlib.contextmanager
def secondary_silent(relay: Relay) -> Iterator[None]:
    """The host takes packets, nobody answers."""
    relay.rig.secondary.pause()
    try:
        yield
    finally:
        relay.rig.secondary.resume()


@contextlib.contextmanager
def primary_stopped(relay: Relay) -> Iterator[None]:
    """Down at the moment of the update."""
    relay.rig.primary.stop()
    try:
        yield
    finally:
        relay.rig.primary.start()


@contextlib.contextmanager
def transfer_refused(relay: Relay) -> Iterator[None]:
    """The secondary hears of the change and may not fetch it."""
    relay.rig.primary.allow_transfer = False
    relay.rig.primary.reconfigure()
    try:
        yield
    finally:
        relay.rig.primary.allow_transfer = True
        relay.rig.primary.reconfigure()
        relay.rig.secondary.control("retransfer", relay.sdid)


@contextlib.contextmanager
def policy_refuses(relay: Relay) -> Iterator[None]:
    """The key may change other names only."""
    grant, relay.rig.primary.grant = relay.rig.primary.grant, "name other.{zone}. TXT"
    relay.rig.primary.reconfigure()
    try:
        yield
    finally:
        relay.rig.primary.grant = grant
        relay.rig.primary.reconfigure()


@contextlib.contextmanager
def frozen(relay: Relay) -> Iterator[None]:
    """Somebody edits the zone file."""
    relay.rig.primary.freeze(relay.sdid)
    try:
        yield
    finally:
        relay.rig.primary.thaw(relay.sdid)


@contextlib.contextmanager
def clocks_apart(relay: Relay) -> Iterator[None]:
    """Ours is ten minutes ahead, for signatures only: waits go by the right one."""
    shifted = SimpleNamespace(time=lambda: time.time() + 600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dns.message, "time", shifted)
        yield


def other_key(make: Callable[[Relay], TsigKey]) -> Fault:
    """Sign updates with another key."""

    @contextlib.contextmanager
    def fault(relay: Relay) -> Iterator[None]:
        before = relay.publish["key_file"]
        relay.change(key_file=str(make(relay).write(relay.directory / "other.key")))
        yield
        relay.change(key_file=before)

    return fault


def listed(make: Callable[[Relay], AbstractContextManager[Any]]) -> Fault:
    """Another server stands in the list of those that are asked."""

    @contextlib.contextmanager
    def fault(relay: Relay) -> Iterator[None]:
        before = relay.servers
        with make(relay) as server:
            relay.change(servers=(*before, server.address))
            yield
            relay.change(servers=before)

    return fault


@contextlib.contextmanager
def nsd_takes_updates(relay: Relay) -> Iterator[None]:
    """Updates go to a server that has none."""
    before = relay.publish["server"]
    with Nsd([relay.rig.primary.zones[relay.sdid]]) as nsd:
        relay.change(server=str(nsd.address))
        yield
    relay.change(server=before)


def cut(question: dns.message.Message, over_tcp: bool) -> list[bytes]:
    """Any answer, too long for UDP."""
    return [reply(question, flags=dns.flags.AA | dns.flags.TC).to_wire()]


@dataclass(frozen=True)
class Expected:
    """How a successor stands while the fault lasts."""

    standing: int
    words: tuple[str, ...]  # in the sentences, with {primary}, {secondary} ...
    remedy: str
    code: str = ""  # of `keys check`
    checked: int = UNREACHABLE  # exit status of `keys check` while the fault lasts


WHILE_PUBLISHING = [
    pytest.param(
        secondary_stopped,
        Expected(
            UNREACHABLE,
            ("{secondary}", "nothing listens there"),
            "start this server",
            "connection-refused",
        ),
        id="secondary-stopped",
    ),
    pytest.param(
        secondary_silent,
        Expected(UNREACHABLE, ("{secondary}", "no answer came"), "start this server", "timeout"),
        id="secondary-silent",
    ),
    pytest.param(
        transfer_refused,
        Expected(
            NOT_YET,
            ("{secondary}", "does not show the record yet", "serial"),
            "zone transfers and NOTIFY",
            "stale-server",
            NOT_YET,
        ),
        id="transfer-refused",
    ),
    pytest.param(
        listed(lambda relay: Nsd([Zone("test", (f"{relay.sdid}. NS ns.{relay.sdid}.",))])),
        Expected(UNREACHABLE, ("it refers to",), "take it out of the NS records", "lame"),
        id="lame-the-parent-is-listed",
    ),
    pytest.param(
        listed(lambda relay: Nsd([Zone("other.test")])),
        Expected(UNREACHABLE, ("REFUSED",), "take it out of the NS records", "refused"),
        id="lame-without-the-zone",
    ),
    pytest.param(
        listed(lambda relay: BrokenServer(cut, tcp=False)),
        Expected(UNREACHABLE, ("too long for UDP",), "let TCP", "truncated-udp"),
        id="truncated-and-tcp-closed",
    ),
    pytest.param(
        other_key(lambda relay: TsigKey(relay.rig.tsig.name)),
        Expected(
            HELD,
            ("{primary}", "dkim-key", "another secret"),
            "put the server's own key into the key file",
            "missing",
            NOT_YET,
        ),
        id="wrong-secret",
    ),
    pytest.param(
        other_key(lambda relay: TsigKey("unknown-key")),
        Expected(
            HELD,
            ("{primary}", "unknown-key", "BADKEY"),
            "set it up there",
            "missing",
            NOT_YET,
        ),
        id="unknown-key",
    ),
    pytest.param(
        clocks_apart,
        Expected(HELD, ("{primary}", "clock", "by 600 s"), "set both by NTP", "missing", NOT_YET),
        id="clocks-apart",
    ),
    pytest.param(
        policy_refuses,
        Expected(
            HELD,
            ("{primary}", "dkim-key", "(REFUSED)"),
            "needs `update-policy {{ grant dkim-key wildcard *._domainkey.{sdid}. TXT; }};`",
            "missing",
            NOT_YET,
        ),
        id="refused-by-policy",
    ),
    pytest.param(
        frozen,
        Expected(
            HELD, ("{primary}", "(REFUSED)", "frozen"), "`rndc thaw {sdid}`", "missing", NOT_YET
        ),
        id="refused-because-frozen",
    ),
    pytest.param(
        nsd_takes_updates,
        Expected(
            HELD,
            ("takes no updates at all (NOTIMP)",),
            "name the primary behind it as `server`",
            "missing",
            NOT_YET,
        ),
        id="notimp",
    ),
    pytest.param(
        primary_stopped,
        Expected(
            UNREACHABLE,
            ("{primary}", "was not changed; see that the server runs"),
            "start this server",
            "connection-refused",
        ),
        id="primary-down-at-the-update",
    ),
]


@pytest.mark.parametrize(("fault", "expected"), WHILE_PUBLISHING)
def test_a_successor_waits_for_dns_while_its_predecessor_signs(
    signing: Relay, fault: Fault, expected: Expected
) -> None:
    """Nothing signs that is not shown everywhere; when the fault is gone, it goes on by itself."""
    relay, rig = signing, signing.rig
    (old,) = relay.signing
    names = {"primary": rig.primary, "secondary": rig.secondary, "sdid": relay.sdid}
    with fault(relay):
        said = relay("rotate", relay.sdid)
        key = relay.newest
        assert said.status == expected.standing, said.text
        assert (key.stage, key.held, key.refused) == (Stage.PUBLISHING, "", "")
        for words in (*expected.words, expected.remedy):
            assert words.format(**names) in said.text
        relay.assert_mail_is_signed(old)
        repeated = relay("rotate", "--all")
        assert repeated.status == (DONE if expected.standing == NOT_YET else expected.standing)
        assert expected.remedy.format(**names) in repeated.text
        assert [one.selector for one in relay.records] == [old, key.selector]
        checked = relay("check", relay.sdid, key.selector)
        assert checked.status == expected.checked
        assert expected.code in {row["fault"] for row in checked.rows}
        relay.assert_mail_is_signed(old)
    relay.go_on(key.selector, Stage.ACTIVE)
    relay.assert_mail_is_signed(key.selector)


@contextlib.contextmanager
def servers_of_its_own(rig: Rig, directory: Path, zone: Zone, **options: Any) -> Iterator[Relay]:
    """A domain that signs, with a primary and a secondary that nobody else uses."""
    primary = Bind([zone], keys=[rig.tsig], **options)
    secondary = Bind(primary=primary)
    with primary, secondary:
        own = dataclasses.replace(rig, primary=primary, secondary=secondary)
        yield with_key(relay_at(own, directory, zone.name))


def test_a_secondary_that_asks_once_an_hour_is_waited_for(rig: Rig, tmp_path: Path) -> None:
    """Not told and far behind: the sentence says which server, and until when."""
    zone = Zone("lagging.test", minimum=0, refresh=3000, retry=600, expire=9000)
    with servers_of_its_own(rig, tmp_path, zone) as relay:
        (old,) = relay.signing
        relay.rig.primary.notify = False
        relay.rig.primary.reconfigure()
        said = relay("rotate", relay.sdid)
        key = relay.newest
        assert (said.status, key.stage, key.held) == (NOT_YET, Stage.PUBLISHING, "")
        assert f"{relay.rig.secondary} does not show the record yet" in said.text
        assert "within 1h" in said.text
        relay.assert_mail_is_signed(old)
        relay.rig.secondary.control("refresh", relay.sdid)
        relay.go_on(key.selector, Stage.ACTIVE)
        relay.assert_mail_is_signed(key.selector)


def test_a_secondary_with_an_expired_zone_is_unknown_not_absent(rig: Rig, tmp_path: Path) -> None:
    """SERVFAIL proves nothing: neither does the new key sign, nor does the old one stop."""
    zone = Zone("expired.test", minimum=0, refresh=1, retry=1, expire=3)
    with servers_of_its_own(rig, tmp_path, zone) as relay:
        (old,) = relay.signing
        secondary = relay.rig.secondary
        relay.rig.primary.allow_transfer = False
        relay.rig.primary.reconfigure()
        relay("rotate", relay.sdid)
        wait_until(
            lambda: name_servers.rcode_at(secondary.address, relay.sdid, "SOA") == "SERVFAIL",
            "the zone expires",
        )
        said = relay("rotate", "--all")
        key = relay.newest
        assert (said.status, key.stage) == (UNREACHABLE, Stage.PUBLISHING)
        assert f"{secondary}: this server failed (SERVFAIL)" in said.text
        assert "expired" in said.text
        assert "look at its log" in said.text
        relay.assert_mail_is_signed(old)
        relay.rig.primary.allow_transfer = True
        relay.rig.primary.reconfigure()
        secondary.control("retransfer", relay.sdid)
        relay.go_on(key.selector, Stage.ACTIVE)
        relay.assert_mail_is_signed(key.selector)


# --- what others put at the name ------------------------------------------------------------------

STRANGERS = [
    pytest.param((ANOTHER,), "another key is published there", id="another-key"),
    pytest.param((SPF,), "the TXT record is no key record", id="no-key"),
    pytest.param((ANOTHER, SPF), "there are 2 TXT records", id="two-records"),
]


@pytest.mark.parametrize(("texts", "words"), STRANGERS)
def test_a_name_that_is_taken_is_left_alone(
    signing: Relay, texts: tuple[str, ...], words: str
) -> None:
    """What stood at the name before is not ours: nothing is sent, and a person must look."""
    relay, name = signing, f"s1._domainkey.{signing.sdid}"
    (old,) = relay.signing
    relay("generate", relay.sdid, "--selector", "s1")
    relay.put(name, *texts)
    said = relay("publish", relay.sdid, "s1")
    assert (said.status, relay.key("s1").stage) == (HELD, Stage.GENERATED)
    assert words in said.text
    assert words in relay.key("s1").held
    again = relay("activate", relay.sdid, "s1")
    assert again.status == HELD
    assert f"`carbonseal keys reconcile {relay.sdid} s1 --release`" in again.text
    assert relay("reconcile", relay.sdid, "s1", "--release").status == HELD
    assert relay("rotate", "--all").status == HELD
    for server in relay.servers:
        assert name_servers.txt_at(server, name) == sorted(texts)
    relay.assert_mail_is_signed(old)
    relay.put(name)
    relay("reconcile", relay.sdid, "s1", "--release")
    relay.go_on("s1", Stage.READY)
    assert relay("activate", relay.sdid, "s1").status == DONE
    relay.assert_mail_is_signed("s1")


def test_a_name_with_something_else_than_txt_is_left_alone(signing: Relay) -> None:
    """No question for TXT shows it; the server does not add a record beside it."""
    relay = signing
    (old,) = relay.signing
    relay("generate", relay.sdid, "--selector", "s1")
    zone = relay.rig.primary.zones[relay.sdid]
    text = dns_record.zone_text(relay.key(old).dns_name, relay.key(old).publication.text)
    alone = dataclasses.replace(zone, records=tuple(text.splitlines()))
    taken = dataclasses.replace(alone, records=(*alone.records, "s1._domainkey A 192.0.2.1"))
    relay.rig.primary.replace(taken)
    said = relay("publish", relay.sdid, "s1")
    assert said.status in (NOT_YET, HELD)
    assert "something at s1._domainkey" in said.text
    assert "take away what is not wanted there" in said.text
    relay.assert_mail_is_signed(old)
    relay.rig.primary.replace(alone)
    relay.go_on("s1", Stage.READY)
    relay.assert_mail_is_signed(old)


@pytest.mark.parametrize(("texts", "words"), STRANGERS)
def test_a_standby_whose_record_a_stranger_replaced_does_not_sign(
    signing: Relay, texts: tuple[str, ...], words: str
) -> None:
    """Held or waiting, it is not activated; when its own record is back, it stands by again."""
    relay, name = signing, f"s1._domainkey.{signing.sdid}"
    (old,) = relay.signing
    relay("generate", relay.sdid, "--selector", "s1")
    relay("publish", relay.sdid, "s1")
    relay.go_on("s1", Stage.READY)
    own = relay.key("s1").publication.text
    relay.put(name, *texts)
    refused = relay("activate", relay.sdid, "s1")
    assert refused.status == HELD
    assert words in refused.text
    said = relay("reconcile", relay.sdid)
    assert said.status == HELD
    assert words in said.text
    assert relay.key("s1").stage is Stage.PUBLISHING  # its waits begin anew
    emergency = relay("emergency", relay.sdid, "--reason", "try")
    assert emergency.status == REFUSED
    relay.assert_mail_is_signed(old)
    relay.put(name, own)
    relay("reconcile", relay.sdid, "s1", "--release")
    assert relay.key("s1").held == ""
    relay.go_on("s1", Stage.READY)
    assert relay("activate", relay.sdid, "s1").status == DONE
    relay.assert_mail_is_signed("s1")


def test_a_record_deleted_before_its_key_signs_is_published_again(signing: Relay) -> None:
    """The way to the signature begins anew, with all its waits."""
    relay, name = signing, f"s1._domainkey.{signing.sdid}"
    relay("generate", relay.sdid, "--selector", "s1")
    relay("publish", relay.sdid, "s1")
    relay.go_on("s1", Stage.READY)
    relay.put(name)
    said = relay("activate", relay.sdid, "s1")
    assert said.status == NOT_YET
    assert "there is no TXT record" in said.text
    relay("reconcile", relay.sdid)
    relay.go_on("s1", Stage.READY)
    assert relay("activate", relay.sdid, "s1").status == DONE
    relay.assert_mail_is_signed("s1")


# --- what others do to the record of a key that signs ---------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "words", "remedy"),
    [
        pytest.param(lambda _: (), "there is no TXT record", "publish the key's record", id="gone"),
        pytest.param(
            lambda _: (ANOTHER,),
            "another key is published there",
            "publish the key's own record",
            id="replaced",
        ),
        pytest.param(
            lambda own: (own, SPF), "there are 2 TXT records", "leave only", id="second-record"
        ),
        pytest.param(
            lambda own: (own.replace("p=", "t=y; p="),),
            "t=y, for testing",
            "take t=y out",
            id="t-y",
        ),
        pytest.param(
            lambda own: (own.partition(";")[0],), "cut short", "publish the whole value", id="cut"
        ),
    ],
)
def test_a_key_whose_record_is_wrong_everywhere_does_not_sign(
    signing: Relay, spoil: Callable[[str], tuple[str, ...]], words: str, remedy: str
) -> None:
    """The guard: workers leave the key out until the record is right, then take it up again."""
    relay = signing
    (old,) = relay.signing
    record = relay.key(old)
    relay.put(record.dns_name, *spoil(record.publication.text))
    said = relay("reconcile", relay.sdid)
    assert said.status == HELD
    assert words in said.text
    assert remedy in said.text
    assert words in relay.key(old).refused
    assert relay.key(old).stage is Stage.ACTIVE
    assert relay.signing == []
    checked = relay("check", relay.sdid, old)
    assert checked.status == (NOT_YET if words == "there is no TXT record" else HELD)
    shown = relay("status", relay.sdid)
    assert shown.status == HELD
    assert words in shown.text
    relay.put(record.dns_name, record.publication.text)
    assert relay("reconcile", relay.sdid).status == DONE
    assert relay.key(old).refused == ""
    relay.assert_mail_is_signed(old)


def test_a_key_that_may_not_sign_gets_a_successor_at_once(signing: Relay) -> None:
    """The timer does not wait for a person: the domain signs again with a new key."""
    relay = signing
    (old,) = relay.signing
    relay.put(relay.key(old).dns_name, ANOTHER)
    relay("rotate", "--all")
    new = relay.newest.selector
    if new == old:
        relay("rotate", "--all")
        new = relay.newest.selector
    assert new != old
    relay.go_on(new, Stage.ACTIVE, "rotate", "--all")
    relay.assert_mail_is_signed(new)
    for server in relay.servers:
        assert name_servers.txt_at(server, relay.key(old).dns_name) == [ANOTHER]


def test_a_key_whose_record_is_wrong_at_one_server_goes_on_signing(signing: Relay) -> None:
    """Unsigned mail would help nobody; a person is told."""
    relay = signing
    (old,) = relay.signing
    record = relay.key(old)
    with transfer_refused(relay):
        relay.put(record.dns_name, ANOTHER, everywhere=False)
        said = relay("reconcile", relay.sdid)
        assert said.status == HELD
        assert "another key is published there" in said.text
        assert relay.signing == [old]
        assert relay.key(old).refused == ""
        relay.put(record.dns_name, record.publication.text, everywhere=False)
    name_servers.wait_for_txt(relay.servers[1], record.dns_name, record.publication.text)
    assert relay("reconcile", relay.sdid).status == DONE


def test_a_key_whose_servers_are_all_silent_goes_on_signing(signing: Relay) -> None:
    """Unknown is not absent."""
    relay = signing
    (old,) = relay.signing
    with primary_stopped(relay), secondary_stopped(relay):
        said = relay("reconcile", relay.sdid)
        assert said.status == UNREACHABLE
        assert "nothing listens there" in said.text
        assert relay.signing == [old]
        assert relay.key(old).refused == ""
    assert relay("reconcile", relay.sdid).status == DONE
    relay.assert_mail_is_signed(old)


def test_a_note_in_the_record_does_no_harm(signing: Relay) -> None:
    """The key is what counts; only the change at the end needs the text that stands there."""
    relay = signing
    (old,) = relay.signing
    record = relay.key(old)
    noted = record.publication.text.replace("p=", "n=ask=20postmaster; p=")
    relay.put(record.dns_name, noted)
    assert relay("reconcile", relay.sdid).status == DONE
    relay.assert_mail_is_signed(old)
    relay("rotate", relay.sdid)
    relay.go_on(relay.newest.selector, Stage.ACTIVE)
    said = relay("revoke", relay.sdid, old, "--force", "--reason", "try")
    assert relay.key(old).stage is Stage.REVOKING
    assert said.status in (NOT_YET, HELD)
    assert "does not have exactly the expected record" in said.text
    assert f"`carbonseal keys publish {relay.sdid} {old} --adopt`" in said.text
    for server in relay.servers:
        assert name_servers.txt_at(server, record.dns_name) == [noted]
    relay("publish", relay.sdid, old, "--adopt")
    relay.go_on(old, Stage.REMOVED)


# --- revocation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "standing", "words"),
    [
        pytest.param(secondary_stopped, UNREACHABLE, "start this server", id="stopped"),
        pytest.param(transfer_refused, NOT_YET, "still shows the key", id="behind"),
    ],
)
def test_a_revocation_is_over_when_the_last_server_shows_it(
    signing: Relay, fault: Fault, standing: int, words: str
) -> None:
    """The empty p= is sent once, and waited for."""
    relay = signing
    (old,) = relay.signing
    relay("rotate", relay.sdid)
    new = relay.newest.selector
    relay.go_on(new, Stage.ACTIVE)
    with fault(relay):
        said = relay("revoke", relay.sdid, old, "--force", "--reason", "try")
        assert said.status == standing, said.text
        assert relay.key(old).stage is Stage.REVOKING
        assert words in said.text
        assert str(relay.rig.secondary) in said.text
        relay("reconcile", relay.sdid)
        assert relay.key(old).stage is Stage.REVOKING
        relay.assert_mail_is_signed(new)
    relay.go_on(old, Stage.REMOVED)
    relay.assert_mail_is_signed(new)


def test_an_emergency_does_not_wait_for_a_silent_secondary(signing: Relay) -> None:
    """The standby signs at once, and p= is emptied where it can be."""
    relay = signing
    (old,) = relay.signing
    relay("generate", relay.sdid, "--selector", "s1")
    relay("publish", relay.sdid, "s1")
    relay.go_on("s1", Stage.READY)
    with secondary_stopped(relay):
        said = relay("emergency", relay.sdid, "--reason", "leaked")
        assert relay.signing == ["s1"]
        assert relay.key(old).stage is Stage.REVOKING
        assert said.status == UNREACHABLE
        assert "forgeries can verify until" in said.text
        (text,) = name_servers.txt_at(relay.rig.primary.address, relay.key(old).dns_name)
        assert dns_record.parse(text).is_revoked
    relay.go_on(old, Stage.REMOVED)
    relay.assert_mail_is_signed("s1")


# --- aliases and wildcards ------------------------------------------------------------------------


@pytest.fixture
def delegated(relay: Relay) -> Relay:
    """A domain whose records stand in its provider's zone; the CNAME is still to be made."""
    server = str(relay.rig.provider.address)
    relay.change(server=server, delegate=f"{{selector}}.{{sdid}}.{PROVIDER}")
    relay("generate", relay.sdid, "--selector", "s1")
    return relay


def alias(relay: Relay, target: str) -> None:
    """Point the name of the key there."""
    zone = relay.rig.primary.zones[relay.sdid]
    records = (f"s1._domainkey 1 CNAME {target}",)
    relay.rig.primary.replace(dataclasses.replace(zone, records=records))
    serial = relay.rig.primary.serial(relay.sdid)
    wait_until(lambda: relay.rig.secondary.serial(relay.sdid) >= serial, "the secondary follows")


def test_a_record_is_published_at_the_end_of_an_alias(delegated: Relay) -> None:
    """In the provider's zone, which is asked at its own server; to the end of its life."""
    relay, target = delegated, f"s1.{delegated.sdid}.{PROVIDER}"
    alias(relay, f"{target}.")
    relay("publish", relay.sdid, "s1")
    relay.go_on("s1", Stage.READY)
    assert relay("activate", relay.sdid, "s1").status == DONE
    assert relay.signing == ["s1"]
    assert relay.key("s1").publication.name == target
    assert len(name_servers.txt_at(relay.rig.provider.address, target)) == 1
    relay("retire", relay.sdid, "s1", "--leave-unsigned")
    relay("revoke", relay.sdid, "s1", "--force", "--reason", "try")
    relay.go_on("s1", Stage.REMOVED)
    assert name_servers.txt_at(relay.rig.provider.address, target) == []


@pytest.mark.parametrize(
    ("target", "status", "words", "remedy"),
    [
        pytest.param(
            None, NOT_YET, "there is no TXT record", "must be a CNAME for s1.", id="no-alias"
        ),
        pytest.param(
            "s1._domainkey", HELD, "the aliases lead in a circle", "point the CNAME", id="circle"
        ),
        pytest.param(
            f"elsewhere.{PROVIDER}.",
            NOT_YET,
            f"elsewhere.{PROVIDER} at",
            "correct the CNAME",
            id="dangling",
        ),
    ],
)
def test_an_alias_that_leads_astray_is_named(
    delegated: Relay, target: str | None, status: int, words: str, remedy: str
) -> None:
    """The record stands where it should, but nobody finds it; with the right alias it goes on."""
    relay = delegated
    if target is not None:
        alias(relay, target)
    said = relay("publish", relay.sdid, "s1")
    assert said.status == status, said.text
    assert words in said.text
    assert remedy in said.text
    assert relay.key("s1").stage is not Stage.PUBLISHED
    assert relay.signing == []
    alias(relay, f"s1.{relay.sdid}.{PROVIDER}.")
    relay.go_on("s1", Stage.READY)


def test_a_wildcard_above_is_no_record_and_its_answers_are_waited_for(signing: Relay) -> None:
    """It neither counts as our record nor stands in its way; caches may hold its answer."""
    relay = signing
    (old,) = relay.signing
    relay.put(f"*._domainkey.{relay.sdid}", SPF, ttl=60)
    relay("generate", relay.sdid, "--selector", "s1")
    said = relay("publish", relay.sdid, "s1")
    assert relay.key("s1").held == ""
    (row,) = [row for row in said.rows if row["selector"] == "s1"]
    if row["stage"] == "publishing":
        said = relay("reconcile", relay.sdid)
    assert relay.key("s1").stage is Stage.PUBLISHED
    relay.go_on("s1", Stage.PUBLISHED)
    planned = relay("plan", relay.sdid, "--look")
    # A secondary that still answered with the wildcard counts besides, if it was seen.
    assert re.search("1m for the wildcard|2m for the longest-lived answer", planned.text)
    relay.assert_mail_is_signed(old)


# --- who is asked, and who is told ----------------------------------------------------------------


def test_a_hidden_primary_is_told_and_only_its_secondaries_are_asked(
    rig: Rig, tmp_path: Path
) -> None:
    """Repeating an update that it took already is no trouble: the others will follow."""
    relay = relay_at(rig, tmp_path, rig.zone())
    relay.change(servers=(rig.secondary.address,))
    with_key(relay)
    (old,) = relay.signing
    with transfer_refused(relay):
        for _ in range(3):
            said = relay("rotate", relay.sdid)
            assert said.status == NOT_YET, said.text
        assert f"{rig.primary} has this very record" in said.text
        assert "see that they get zone transfers and NOTIFY from it" in said.text
        assert relay.newest.held == ""
        assert len(relay.records) == 2
        relay.assert_mail_is_signed(old)
    relay.go_on(relay.newest.selector, Stage.ACTIVE)
    relay.assert_mail_is_signed(relay.newest.selector)
    rows = relay("status", relay.sdid).rows
    assert {server["address"] for row in rows for server in row["servers"]} == {
        str(rig.secondary.address)
    }


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("copy", "words", "remedy"),
    [
        pytest.param(
            lambda own: (own.partition(";")[0],), "cut short", "in quotation marks", id="cut"
        ),
        pytest.param(
            lambda own: (own[:255],), "cut short", "publish the whole value", id="one-string"
        ),
        pytest.param(
            lambda own: (f'"{own}"',), "quotation marks", "publish the bare value", id="quoted"
        ),
        pytest.param(
            lambda own: (own[:255], own[255:]), "divided wrongly", "publish one TXT", id="pieces"
        ),
        pytest.param(
            lambda own: (own.replace("p=", "t=y; p="),), "t=y", "take t=y out", id="for-testing"
        ),
    ],
)
def test_a_record_copied_wrongly_by_hand_is_explained(
    by_hand: Relay, copy: Callable[[str], tuple[str, ...]], words: str, remedy: str
) -> None:
    """The key waits and a person reads what is wrong; no release is needed once it is right."""
    relay = by_hand
    relay("generate", relay.sdid, "--selector", "s1")
    asked = relay("activate", relay.sdid, "s1", "--when-ready")
    assert asked.status == NOT_YET
    assert f"`carbonseal keys publish {relay.sdid} s1` prints it" in asked.text
    name, own = relay.key("s1").dns_name, dns_record.value(relay.key("s1").public_key)
    relay.put(name, *copy(own))
    said = relay("publish", relay.sdid, "s1")
    assert said.status == HELD, said.text
    assert name in said.text
    assert words in said.text
    assert remedy in said.text
    assert (relay.key("s1").stage, relay.key("s1").held) == (Stage.PUBLISHING, "")
    assert relay.signing == []
    relay.put(name, own)
    relay.go_on("s1", Stage.ACTIVE)
    relay.assert_mail_is_signed("s1")
