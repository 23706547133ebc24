"""Keys rotate under mail: no message is unsigned, and no signature fails anywhere at any moment.

What must hold, and is verified with libopendkim and the key's text as each server says it at that
moment (a BIND primary and a secondary that lags, a Knot and its secondary, and an Unbound whose
cache was filled with "there is no such key" for every selector before that was published):

* each delivery carries exactly one signature of its author's domain, and verifies at every server
  the moment it arrives, however long it was deferred or held in the queue;
* it verifies at every server once more a little later, within `rotation.verifier_slack` of its
  arrival: that is how long those who verify late are promised the record.  Afterwards the key may
  be revoked, and it is, so nothing is asked of older mail;
* the exception is a key declared compromised: from the order on its signatures are to fail.  Mail
  is signed without a gap even then.

One run has four generations of keys for each of two signing domains, three of which go the whole
way from generated to removed; a message that is held in the queue meanwhile; a secondary that is
refused its transfers for a while; a rollback and the way forward again; a HUP; a worker killed with
SIGKILL; and an emergency with a standby.

ROTATIONS=100 makes the last test turn so many times more (`make soak-rotation`); ROTATION_LOG=FILE
keeps what the commands said.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from support import rotation
from support.carbonseal import READY
from support.name_servers import txt_at
from support.postfix import PrivatePostfix
from support.rotation import FIRST, SDIDS, SECOND, Acknowledgements, Judge, Poison, Senders, World
from support.waiting import wait_until

from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.relays import acknowledgement
from carbonseal.policies.key_life import Stage

TURNS = int(os.environ.get("ROTATIONS", "0"))

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.timeout(300 + 30 * TURNS),
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

LONGEST = 90.0  # seconds for any one thing that is waited for


@dataclass
class Scene:
    """A world with mail under way, and everybody who watches it."""

    world: World
    judge: Judge
    senders: Senders
    poison: Poison
    acknowledgements: Acknowledgements
    said: list[str] = field(default_factory=list)  # by the commands

    def order(self, *arguments: str) -> int:
        """A command about keys; its exit status."""
        assert not self.judge.faults, "\n".join([*self.judge.faults[:20], *self.said])
        if arguments[0] == "rotate" and arguments != ("rotate", "--all"):
            self.poison.prime()
        began = time.monotonic()
        status, text = self.world.keys_command(*arguments)
        self.said.append(f"{text}-> {status} in {time.monotonic() - began:.1f} s\n")
        return status

    def rotate_both(self) -> None:
        """Begin the next key of both domains, and wait until it signs."""
        threads = [
            threading.Thread(target=self.rotate, args=(sdid,), daemon=True) for sdid in SDIDS
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST)

    def rotate(self, sdid: str) -> None:
        """As a person does it."""
        assert self.order("rotate", sdid, "--wait", f"{LONGEST:.0f}s") == 0, self.said[-1]

    def turn_timer_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Run what the timer runs, again and again."""

        def turn() -> bool:
            if is_so():
                return True
            self.world.relay.mta.flush()
            status = self.order("rotate", "--all")
            assert status == 0, self.said[-1]
            return is_so()

        wait_until(turn, what, LONGEST)

    def signing(self, sdid: str) -> KeyRecord:
        """The key that signs."""
        [found] = [key for key in self.world.keys(sdid) if key.stage is Stage.ACTIVE]
        return found

    def all_sign_anew(self, before: Mapping[str, str]) -> bool:
        """Whether each SDID signs with another key than before."""
        return all(self.signing(sdid).selector != selector for sdid, selector in before.items())

    def settle(self) -> dict[str, str]:
        """Let every worker take up the active keys, and mail leave with them; which they are."""
        selectors = {sdid: self.signing(sdid).selector for sdid in SDIDS}
        for sdid, selector in selectors.items():
            self.wait_for_workers(sdid)
            self.wait_for_mail_of(sdid, selector)
        return selectors

    def is_kept_by_the_queue(self, keys: Mapping[str, str]) -> bool:
        """Whether all that keys wait for is the queue; none of them may have gone further."""
        for sdid, selector in keys.items():
            key = self.key(sdid, selector)
            assert key.stage is Stage.RETIRING, f"{key.stage} while its mail is held"
        return self.said[-1].count("still holds mail") == len(keys)

    def key(self, sdid: str, selector: str) -> KeyRecord:
        """One key."""
        return self.world.shelf.find(sdid, selector)

    def wait_for_mail_of(self, sdid: str, selector: str, count: int = 3) -> None:
        """Until so many messages signed with a key were delivered and judged."""
        before = len(self.judge.signed_with(sdid, selector))
        self.judge.wait_until(
            lambda _: len(self.judge.signed_with(sdid, selector)) >= before + count
        )

    def wait_for_workers(self, sdid: str) -> None:
        """Until every worker has acknowledged that it signs with the active key and no other."""
        wait_for_workers(self.world, self.signing(sdid))


def wait_for_workers(world: World, key: KeyRecord) -> None:
    """Until every worker has acknowledged that it signs with a key and no other of its SDID."""
    wanted = f"{key.sdid}/{key.selector}"

    def follow() -> bool:
        workers = acknowledgement.read(world.relay.service.spool)
        return len(workers) == rotation.WORKERS and all(
            not one.is_starting
            and {name for name in one.signing if name.startswith(f"{key.sdid}/")} == {wanted}
            for one in workers
        )

    wait_until(follow, f"{wanted} at every worker", LONGEST)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Two signing domains whose first key signs, and mail under way."""
    with ExitStack() as stack:
        world = stack.enter_context(rotation.running())
        first_keys(world)
        judge = stack.enter_context(Judge(world))
        acknowledgements = stack.enter_context(Acknowledgements(world))
        poison = stack.enter_context(Poison(world))
        senders = stack.enter_context(Senders(world, judge))
        scene = Scene(world, judge, senders, poison, acknowledgements)
        try:
            yield scene
        except BaseException as error:
            error.add_note("\n".join(judge.faults[:20]))
            raise
        finally:
            if path := os.environ.get("ROTATION_LOG"):
                Path(path).write_text("".join([*scene.said, *judge.faults]))


def first_keys(world: World) -> None:
    """One key for each domain, published and signing."""
    for sdid in SDIDS:
        status, said = world.keys_command("rotate", sdid)
        assert status == 1, said

    def sign() -> bool:
        status, said = world.keys_command("rotate", "--all")
        assert status == 0, said
        return all(key.stage is Stage.ACTIVE for sdid in SDIDS for key in world.keys(sdid))

    wait_until(sign, "the first keys", LONGEST)
    for sdid in SDIDS:
        wait_for_workers(world, world.keys(sdid)[0])


def test_no_message_is_unsigned_and_no_signature_fails_while_keys_rotate(scene: Scene) -> None:
    """The promise of the whole life cycle; the module's docstring says what it means."""
    started = time.monotonic()
    service, mta = scene.world.relay.service, scene.world.relay.mta
    first = scene.settle()
    held = hold_a_message(scene, FIRST)

    # The second generation as a person makes it, while a worker is killed.
    scene.rotate_both()
    kill_a_worker(scene)
    second = scene.settle()

    # The third by the timer, while the service reads its configuration again.
    refuse_transfers(scene, FIRST)
    mark = service.mark()
    service.reload()
    scene.turn_timer_until(lambda: scene.all_sign_anew(second), "the third")
    service.wait_for_log(READY, since=mark)
    third = scene.settle()

    # Back, and forth again; the held message keeps the way open, however slow the machine is.
    assert scene.order("rollback", FIRST, "--reason", "a receiver complains") == 0, scene.said[-1]
    assert scene.settle()[FIRST] == second[FIRST]
    assert scene.order("rotate", FIRST) in (0, 1), scene.said[-1]
    scene.turn_timer_until(lambda: scene.signing(FIRST).selector == third[FIRST], "the way forward")
    scene.settle()

    # Whoever holds mail keeps the records of all keys that may have signed it, however long ago
    # they stopped; when it is released, those who get it have their time to verify it.
    scene.turn_timer_until(lambda: scene.is_kept_by_the_queue(first), "the queue to be waited for")
    scene.world.relay.sink.reply("@held.example", "")
    mta.release(held)
    scene.judge.wait_until(lambda messages: any(one.mark == "held" for one in messages))
    assert scene.order("rotate", "--all") == 0, scene.said[-1]

    # The fourth, with a standby behind it, until nothing is left of the first three.
    changes = scene.world.changes
    changes["rotation"]["standby"] = True
    service.configure(changes)
    assert scene.order("rotate", "--all", "--now") == 0, scene.said[-1]
    scene.turn_timer_until(lambda: scene.all_sign_anew(third), "the fourth")
    scene.settle()
    scene.turn_timer_until(
        lambda: all(
            scene.key(sdid, selector).stage is Stage.REMOVED
            for generation in (first, second, third)
            for sdid, selector in generation.items()
        ),
        "the end of the first three keys",
    )
    emergency(scene, SECOND)
    finish(scene)
    report(scene, time.monotonic() - started)


@pytest.mark.skipif(TURNS < 3, reason="for a long run: ROTATIONS=100, or `make soak-rotation`")
def test_many_generations_leave_no_gap_either(scene: Scene) -> None:
    """The same promise for as many generations as ROTATIONS says, three at least."""
    started = time.monotonic()
    for _ in range(TURNS):
        before = scene.settle()
        assert scene.order("rotate", "--all", "--now") == 0, scene.said[-1]
        scene.turn_timer_until(lambda before=before: scene.all_sign_anew(before), "the next")  # type: ignore[misc]
    scene.settle()
    finish(scene)
    report(scene, time.monotonic() - started)


def refuse_transfers(scene: Scene, sdid: str, turns: int = 3) -> None:
    """The next generation begins, and a secondary cannot get what its primary shows already.

    However often the timer comes, the key does not sign.
    """
    primary = scene.world.primary
    primary.allow_transfer = False
    primary.reconfigure()
    assert scene.order("rotate", "--all", "--now") == 0, scene.said[-1]
    (fresh,) = (key for key in scene.world.keys(sdid) if key.stage is Stage.PUBLISHING)
    wait_until(lambda: bool(txt_at(primary.address, fresh.dns_name)), "the record", LONGEST)
    for _ in range(turns):
        assert scene.order("rotate", "--all") == 0, scene.said[-1]
        assert scene.key(sdid, fresh.selector).stage is Stage.PUBLISHING
        scene.wait_for_mail_of(sdid, scene.signing(sdid).selector, 1)
    primary.allow_transfer = True
    primary.reconfigure()


def hold_a_message(scene: Scene, sdid: str) -> str:
    """A message that is signed now and delivered when somebody releases it; its queue id."""
    relay = scene.world.relay
    relay.sink.reply("@held.example", "450 4.2.0 not now")
    sending = relay.send(
        "inside", f"alice@{sdid}", ["bob@held.example"], rotation.content("held", sdid)
    )
    assert sending.end.code == 250
    relay.mta.wait_for_log(f"{sending.queue_id}: .*status=deferred")
    relay.mta.hold(sending.queue_id)
    return sending.queue_id


def kill_a_worker(scene: Scene) -> None:
    """SIGKILL in the midst of mail; the supervisor starts another."""
    before = {one.pid for one in acknowledgement.read(scene.world.relay.service.spool)}
    victim = min(before)
    os.kill(victim, signal.SIGKILL)

    def is_replaced() -> bool:
        workers = acknowledgement.read(scene.world.relay.service.spool)
        return len(workers) == rotation.WORKERS and victim not in {one.pid for one in workers}

    wait_until(is_replaced, "a new worker", LONGEST)


def emergency(scene: Scene, sdid: str) -> None:
    """A key leaks while a standby is ready."""
    scene.turn_timer_until(
        lambda: any(key.stage is Stage.READY for key in scene.world.keys(sdid)), "a standby"
    )
    leaked = scene.signing(sdid)
    [standby] = [key for key in scene.world.keys(sdid) if key.stage is Stage.READY]
    scene.judge.compromised.add((sdid, leaked.selector))
    scene.order("emergency", sdid, "--reason", "the backup tape is gone")
    assert scene.signing(sdid).selector == standby.selector, scene.said[-1]
    scene.wait_for_workers(sdid)
    scene.wait_for_mail_of(sdid, standby.selector)
    scene.turn_timer_until(
        lambda: scene.key(sdid, leaked.selector).stage in (Stage.REVOKED, Stage.REMOVED),
        "the revocation of the leaked key",
    )


def finish(scene: Scene) -> None:
    """Stop sending, let everything arrive, and see what was found."""
    world, judge, senders = scene.world, scene.judge, scene.senders
    senders.stop()
    wait_until(lambda: is_empty_after_a_flush(world.relay.mta), "an empty queue", LONGEST)
    judge.finish()
    assert not judge.faults, "\n".join([*judge.faults[:20], *scene.said])

    delivered = {one.mark for one in judge.messages}
    assert set(senders.accepted) <= delivered, "accepted but not delivered"
    assert {code // 100 for code in senders.refusals} <= {4}, senders.refusals
    everywhere = [place.name for one in judge.messages for place in world.places[one.author]]
    assert judge.verified == Counter(everywhere)
    # Nearly all were looked at for a second time before that was too late.
    assert judge.too_late <= 0.1 * judge.verified_again.total()
    check_poison(scene)
    check_drains(scene)
    check_acknowledgements(scene)


def is_empty_after_a_flush(mta: PrivatePostfix) -> bool:
    """With deferrals of a second, Postfix sometimes leaves a message in incoming until a flush."""
    mta.flush()
    return not mta.queue()


def check_poison(scene: Scene) -> None:
    """The resolver denied each key that came under way, after its servers had it for the most."""
    published = {
        f"{key.dns_name}"
        for sdid in SDIDS
        for key in scene.world.keys(sdid)[1:4]  # later ones stood by first
    }
    assert published <= set(scene.poison.denials)
    assert +scene.poison.stale, "no cache was behind: the wait for it was not tried"


def check_drains(scene: Scene) -> None:
    """No key is revoked before the queues and the late verifiers are done with it."""
    least = timedelta(seconds=rotation.QUEUE_LIFETIME + rotation.SLACK)
    for sdid in SDIDS:
        for key in scene.world.keys(sdid):
            ends = [entry.at for entry in key.history if entry.what == Stage.REVOKING.value]
            if not ends or key.is_compromised:
                continue
            marks = [one.mark for one in scene.judge.signed_with(sdid, key.selector)]
            last = max(
                scene.senders.accepted[one] for one in marks if one in scene.senders.accepted
            )
            # An SMTP client hears of its message a moment after the milter has signed it.
            assert ends[0] >= last + least - timedelta(seconds=1), key.history
            came = max(one.came_at for one in scene.judge.signed_with(sdid, key.selector))
            # The judge hears of it a moment after it has left the queue.
            late = timedelta(seconds=rotation.SLACK - scene.judge.longest_lag - 0.5)
            assert ends[0] >= came + late, (came, key.history)


def check_acknowledgements(scene: Scene) -> None:
    """Workers that are up take a key to work within a second, without a restart."""
    delays = activation_delays(scene)
    assert len(delays) >= 12  # two workers, two domains, three activations under mail and more
    assert statistics.median(delays) < 1.0, delays


def activation_delays(scene: Scene) -> list[float]:
    """Seconds from the record's word that a key signs to each worker's."""
    starts = {
        pid: min(at for (one, _), at in scene.acknowledgements.first.items() if one == pid)
        for pid, _ in scene.acknowledgements.first
    }
    activated = {
        f"{key.sdid}/{key.selector}": min(
            entry.at for entry in key.history if entry.what == Stage.ACTIVE.value
        )
        for sdid in SDIDS
        for key in scene.world.keys(sdid)
        if key.activated_at is not None
    }
    return [
        (at - activated[name]).total_seconds()
        for (pid, name), at in scene.acknowledgements.first.items()
        if starts[pid] < activated[name]
    ]


def report(scene: Scene, seconds: float) -> None:
    judge = scene.judge
    opinions = rotation.second_opinion(judge.messages)
    keys = {(one.author, one.selector) for one in judge.messages}
    print(
        f"\n{len(judge.messages)} messages, {len(keys)} keys,"
        f" {judge.verified.total()} verifications at once and {judge.verified_again.total()} again"
        f" ({judge.too_late} too late, {judge.excused} of a leaked key failed),"
        f" {dict(opinions)} by others; stale denials {scene.poison.stale.total()},"
        f" refusals {dict(scene.senders.refusals)}, broken {scene.senders.broken},"
        f" longest lag {judge.longest_lag:.2f} s,"
        f" workers {statistics.median(activation_delays(scene)):.2f} s,"
        f" at most {max(activation_delays(scene)):.2f} s; {len(scene.said)} commands;"
        f" {seconds:.0f} s"
    )
