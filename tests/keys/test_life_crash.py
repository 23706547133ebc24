"""kill -9 at every call to the system in every step of a key's life, then `reconcile`.

The guarantee.  However a command about keys ends, from the next moment on and after what brings it
to its end: a domain that had a signing key has one; nothing signs whose record some server does not
show; no selector is used twice; no private key is lost, and none is kept that was to be destroyed;
nothing stands in DNS that no key knows of; no file is half-written; and the life goes on to the
same end as if nothing had happened.

How.  Each order runs in a process of its own that is killed by SIGKILL (`support.killed`) against
a real primary and secondary (`support.key_life`).  In the normal run every call of the gravest
orders is tried and a part of the others'; `make test-crash` tries every call of all, each before
it, after it and torn in the middle.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from support import key_life, killed, name_servers
from support.carbonseal import COMMAND
from support.key_life import RULES, ZONE, House, Memory, Servers
from support.killed import Moment

from carbonseal.keys import dns_record, orders
from carbonseal.keys.key_record import KeyRecord
from carbonseal.policies import errors
from carbonseal.policies.key_life import Stage

EVERY = os.environ.get("CRASH") == "all"
SPARSE = 13  # in the normal run, every so many-th call of an order that is not grave
ROUNDS = 12  # two days each; a whole life takes fewer
FOREIGN = "v=DKIM1; k=rsa; p=c29tZWJvZHkgZWxzZQ=="

Act = Callable[[House], object]
STOCK = key_life.made_before()


@dataclass(frozen=True)
class State:
    """How it stands with a domain, made from another state by orders that are not killed."""

    before: str | None
    act: Act
    days: float = 0.0
    standby: bool = False


def tend(house: House) -> object:
    return house.tend()


def rotate(house: House) -> object:
    return house.tend(forced=True)


def import_key(house: House) -> object:
    return house.keep(STOCK[0], "old")


def stand_already(house: House) -> None:
    """Somebody else made the record of the first key."""
    record = import_key(house)
    assert isinstance(record, KeyRecord)
    house.servers.put(record.dns_name, dns_record.value(record.public_key))


def let(selector: int, *more: str) -> Act:
    """Somebody makes these the records at a key's name: its own value, or others."""

    def act(house: House) -> None:
        record = list(house.records.values())[selector]
        values = [dns_record.value(record.public_key) if one == "own" else one for one in more]
        house.servers.put(record.dns_name, *values)

    return act


STATES = {
    "nothing": State(None, lambda house: house.directory.mkdir(parents=True, mode=0o700)),
    "sent": State("nothing", rotate),
    "published": State("sent", tend),
    "signing": State("published", tend, 2),
    "next-sent": State("signing", rotate),
    "next-published": State("next-sent", tend),
    "retiring": State("next-published", tend, 2),
    "stopped": State("retiring", tend, 0.1),
    "revoking": State("stopped", tend, 2),
    "revoked": State("revoking", tend),
    "removing": State("revoked", tend, 2),
    "standby-sent": State("signing", tend, standby=True),
    "standby-published": State("standby-sent", tend, standby=True),
    "standby": State("standby-published", tend, 2, standby=True),
    "imported": State("nothing", import_key),
    "foreign-record": State("nothing", stand_already),
    "second-record": State("next-published", let(1, "own", FOREIGN)),
    "held": State("second-record", tend),
    "held-for-nothing": State("held", let(1, "own")),
    "lost-before": State("next-published", let(1)),
    "lost": State("signing", let(0)),
    "refused": State("lost", tend),
    "found": State("refused", let(0, "own")),
}


@dataclass(frozen=True)
class Case:
    """An order that is killed, and what may come of it."""

    state: str
    act: Act
    days: float = 0.0
    grave: bool = False  # every call is tried in the normal run as well
    standby: bool = False  # rotation.standby
    may_be_silent: bool = False  # nothing signs afterwards, and that was wanted
    is_lost: bool = False  # the record of the key that signs was taken away by somebody
    alone: bool = True  # `reconcile` ends it once it is written down; else it ends otherwise


def order(selector: int, act: Callable[[orders.Order], object]) -> Act:
    return lambda house: act(house.order(selector))


CASES = {
    "first-key": Case("nothing", rotate),
    "confirm-published": Case("sent", tend),
    "activate-first": Case("published", tend, 2),
    "generate-and-publish": Case("signing", rotate),
    "activate": Case("next-published", tend, 2, grave=True),
    "confirm-stopped": Case("retiring", tend, 0.1),
    "revoke": Case("stopped", tend, 2),
    "confirm-revoked": Case("revoking", tend),
    "remove": Case("revoked", tend, 2, grave=True),
    "confirm-removed": Case("removing", tend, grave=True),
    "standby": Case("signing", tend, standby=True),
    "make-ready": Case("standby-published", tend, 2),
    "promote-standby": Case("standby", rotate),
    "emergency": Case(
        "standby",
        order(0, lambda one: orders.emergency(one, leave_unsigned=False, dry_run=False)),
        grave=True,
    ),
    "emergency-unsigned": Case(
        "signing",
        order(0, lambda one: orders.emergency(one, leave_unsigned=True, dry_run=False)),
        may_be_silent=True,
    ),
    "rollback": Case(
        "stopped", order(0, lambda one: orders.rollback(one, dry_run=False)), alone=False
    ),
    "cancel": Case(
        "next-published", order(1, lambda one: orders.remove(one, force=False, dry_run=False))
    ),
    "retire": Case(
        "signing",
        order(0, lambda one: orders.retire(one, leave_unsigned=True, dry_run=False)),
        may_be_silent=True,
    ),
    "revoke-by-force": Case(
        "stopped", order(0, lambda one: orders.revoke(one, force=True, dry_run=False))
    ),
    "remove-by-force": Case(
        "stopped", order(0, lambda one: orders.remove(one, force=True, dry_run=False))
    ),
    "publish": Case(
        "imported", order(0, lambda one: orders.publish(one, adopt=False, dry_run=False))
    ),
    "adopt": Case(
        "foreign-record", order(0, lambda one: orders.publish(one, adopt=True, dry_run=False))
    ),
    "assume-published": Case(
        "foreign-record",
        order(
            0,
            lambda one: orders.activate(
                one, assume_published=True, when_ready=False, dry_run=False
            ),
        ),
    ),
    "activate-by-order": Case(
        "standby",
        order(
            1,
            lambda one: orders.activate(
                one, assume_published=False, when_ready=False, dry_run=False
            ),
        ),
    ),
    "hold": Case("second-record", tend),
    "release": Case("held-for-nothing", order(1, lambda one: orders.release(one, dry_run=False))),
    "fall-back": Case("lost-before", tend),
    "refuse": Case("lost", tend, may_be_silent=True, is_lost=True),
    "allow": Case("found", tend),
}


# --- the past of each case ----------------------------------------------------------------------


@dataclass
class Past:
    """States, each made once."""

    servers: Servers
    folder: Path
    made: dict[str, House] = field(default_factory=dict)

    def house(self, name: str) -> House:
        """A house in a state; nobody may change it."""
        if name not in self.made:
            self.made[name] = self._make(name, STATES[name])
        return self.made[name]

    def _make(self, name: str, state: State) -> House:
        sdid = f"{name}.{ZONE}"
        if state.before is None:
            house = House(self.folder / name, sdid, self.servers)
            house.folder.mkdir()
        else:
            house = self.again(self.house(state.before), name, sdid)
        house.days += state.days
        house.rules = key_life.with_standby(RULES) if state.standby else RULES
        in_process(lambda: state.act(house), house.folder)
        self.servers.sync()
        return house

    def again(self, house: House, *names: str) -> House:
        """A copy, with its DNS."""
        folder, sdid = names
        texts = key_life.renamed(house.texts(), house.sdid, sdid)
        self.servers.put_many(texts)
        return house.copy(self.folder / folder, sdid)


def in_process(work: Callable[[], object], folder: Path) -> None:
    """Do it in a fork, where keys come from the stock."""

    def prepared() -> None:
        key_life.use_made(STOCK)
        work()

    killed.run(prepared, folder / "fault")


@pytest.fixture(scope="module")
def past() -> Iterator[Past]:
    # In memory where that is possible: what was written survives the death of a process there as
    # well, and nothing is slowed down by fsync.
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        Servers(Path(folder)) as servers,
    ):
        yield Past(servers, Path(folder))


# --- many lives at once -------------------------------------------------------------------------


@dataclass
class Life:
    """One copy of the start, and where it was killed; number 0 lives."""

    house: House
    number: int
    moment: Moment
    call: str
    memory: Memory
    start: tuple[object, ...]
    records: dict[str, KeyRecord]
    token: bytes  # of the generation of keys

    def __str__(self) -> str:
        return f"killed {self.moment} call {self.number} ({self.call})"


def points(calls: Sequence[str], case: Case) -> Iterator[tuple[int, Moment]]:
    """Where an order is killed.

    After a call is, but for torn writes, the same as before the next one.
    """
    questions = {"connect", "send", "recv_into", "recvfrom", "recv"}
    for number, call in enumerate(calls, 1):
        torn = call in killed.TEARABLE
        chosen = number % SPARSE == len(calls) % SPARSE
        chosen = chosen or (case.grave and call not in questions)
        if EVERY or chosen:
            yield number, Moment.BEFORE
        if torn and (EVERY or chosen):
            yield number, Moment.TORN
        if EVERY or number == len(calls):
            yield number, Moment.AFTER


@dataclass
class Many:
    """All lives of one case, looked after together: a round is one wait for the secondary."""

    servers: Servers
    case: Case
    lives: list[Life]
    folder: Path

    def all(self, act: Act, lives: Sequence[Life] | None = None, days: float = 0.0) -> None:
        """One act in each house, in one process with threads, as `rotate --all` does."""
        chosen = self.lives if lives is None else lives
        for life in chosen:
            life.house.days += days

        def work() -> None:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(act, [life.house for life in chosen]))

        in_process(work, self.folder)
        self.servers.sync()

    def check(self, when: str, *, recovered: bool) -> None:
        """Every invariant of every life."""
        primary, secondary = self.servers.texts(), self.servers.texts(self.servers.secondary)
        found = []
        for life in self.lives:
            silent = self.case.may_be_silent
            found += [
                f"{life}, {when}: {fault}"
                for fault in key_life.faults_of(
                    life.house,
                    life.memory,
                    primary,
                    secondary,
                    recovered=recovered,
                    may_be_silent=silent,
                    is_lost=self.case.is_lost and not recovered,
                    foreign=foreign_names(self.case, life.house),
                )
            ]
            life.memory = Memory.of(life.house, primary, life.memory)
        assert not found, "\n".join(found[:20])

    def shapes(self) -> list[tuple[object, ...]]:
        """How it stands with each."""
        texts = self.servers.texts()
        return [key_life.shape(life.house, texts) for life in self.lives]


def foreign_names(case: Case, house: House) -> list[str]:
    """Where somebody else's data stands by the case's own doing."""
    if case.state not in ("second-record", "foreign-record", "refused", "lost"):
        return []
    return [record.dns_name for record in house.records.values()]


def begin(past: Past, name: str, case: Case) -> Many:
    """The lives of a case, each copied from the start, with their DNS."""
    start = past.house(case.state)
    counting = past.again(start, f"{name}-0", f"{name}-0.{ZONE}")
    counting.days += case.days
    counting.rules = key_life.with_standby(RULES) if case.standby else RULES
    texts = past.servers.texts()
    lives = [_life(counting, 0, Moment.AFTER, "none", texts)]
    calls = killed.calls_of(functools.partial(_acted, case, counting), counting.folder)
    copies: dict[tuple[int, Moment], House] = {}
    wanted: key_life.Texts = {}
    for number, moment in points(calls, case):
        label = f"{name}-{number}{moment[0]}"
        copies[number, moment] = start.copy(past.folder / label, f"{label}.{ZONE}")
        copies[number, moment].days = counting.days
        copies[number, moment].rules = counting.rules
        own = key_life.of_sdid(texts, start.sdid)
        wanted |= key_life.renamed(own, start.sdid, f"{label}.{ZONE}")
    past.servers.put_many(wanted)
    texts = past.servers.texts()
    for (number, moment), house in copies.items():
        lives.append(_life(house, number, moment, calls[number - 1], texts))
    return Many(past.servers, case, lives, past.folder)


def _life(house: House, number: int, moment: Moment, call: str, texts: key_life.Texts) -> Life:
    memory = Memory.of(house, texts)
    start = key_life.shape(house, texts)
    return Life(house, number, moment, call, memory, start, house.records, token_of(house))


def _acted(case: Case, house: House) -> None:
    key_life.use_made(STOCK)
    case.act(house)


def kill(life: Life, case: Case, servers: Servers) -> None:
    """Do the order and die in it; at that very moment, what signs is shown everywhere."""
    house = life.house
    work = functools.partial(_acted, case, house)
    killed.killed_at(life.number, life.moment, work, house.folder / "fault")
    signing = house.signing()
    assert signing or not life.memory.signed or case.may_be_silent, f"{life}: no key signs"
    for selector in signing:
        record = house.records[selector]
        if not record.assumed_published and not case.is_lost:
            for address in servers.addresses:
                shown = name_servers.txt_at(address, record.dns_name)
                assert shown == [dns_record.value(record.public_key)], (life, address, shown)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_an_order_that_is_killed_anywhere_is_brought_to_its_end(past: Past, name: str) -> None:
    """See the top of this file."""
    case = CASES[name]
    many = begin(past, name, case)
    everybody = many.lives
    for life in everybody[1:]:
        kill(life, case, past.servers)
    past.servers.sync()
    many.check("after the kill", recovered=False)
    many.all(lambda house: house.tend(begin=False), many.lives[1:])
    many.check("after reconcile", recovered=True)
    for life in many.lives:
        # A worker reads its keys again only when the generation is another one.
        told = token_of(life.house) != life.token or life.house.records == life.records
        assert told, f"{life}: workers were not told"
    lost = [
        life
        for life, shape in zip(many.lives, many.shapes(), strict=True)
        if life.number and shape == life.start
    ]
    many.all(case.act, lost)
    many.check("after the same order again", recovered=True)
    if not EVERY:  # lives that do not differ have one future
        shapes = many.shapes()
        first = dict(zip(reversed(shapes), reversed(many.lives), strict=True))
        many.lives = [many.lives[0], *(one for one in first.values() if one.number)]
    ends = live_on(many)
    assert ends[0] != many.lives[0].start or name in STAYS, "the order itself does nothing"
    differing = [
        f"{life} ends as {end}"
        for life, end in zip(many.lives, ends, strict=True)
        if end != ends[0] and case.alone
    ]
    assert not differing, "\n".join([f"without a kill: {ends[0]}", *differing[:10]])
    past.servers.clear(life.house.sdid for life in everybody)
    for life in everybody:
        shutil.rmtree(life.house.folder)


STAYS = ("hold",)


def live_on(many: Many) -> list[tuple[object, ...]]:
    """Let `rotate --all` run every other day until nothing happens any more."""
    before = many.shapes()
    for round_ in range(ROUNDS):
        many.all(tend, days=2)
        many.check(f"in round {round_}", recovered=True)
        after = many.shapes()
        if after == before:
            break
        before = after
    else:
        pytest.fail("it never comes to an end")
    for life, shape in zip(many.lives, before, strict=True):
        stages = set(life.house.stages)
        assert stages <= {Stage.ACTIVE, Stage.READY, Stage.REMOVED} or many.case.act is tend, (
            life,
            shape,
        )
    return before


def token_of(house: House) -> bytes:
    """The generation of its keys."""
    return house.shelf.generation()


# --- several at once ----------------------------------------------------------------------------


def at_once(house: House, order_: str) -> None:
    """One order of somebody who is not alone: done, or told to come back; nothing in between."""
    selectors = list(house.records)
    acts: dict[str, Act] = {
        "rotate": rotate,
        "timer": tend,
        "reconcile": lambda house: house.tend(begin=False),
        "rollback": lambda house: orders.rollback(
            house.order(orders.predecessor(house.shelf, house.sdid)), dry_run=False
        ),
        "activate": lambda house: orders.activate(
            house.order(selectors[-1]), assume_published=False, when_ready=True, dry_run=False
        ),
        "cancel": lambda house: orders.remove(
            house.order(selectors[-1]), force=False, dry_run=False
        ),
        "revoke": lambda house: orders.revoke(house.order(selectors[0]), force=True, dry_run=False),
    }
    with contextlib.suppress(
        errors.TryLater, orders.Forbidden, orders.NotYet, orders.Mismatch, orders.Unreachable
    ):
        acts[order_](house)


@pytest.mark.chaos
@pytest.mark.parametrize(
    "together",
    [
        pytest.param(("rotate", "rotate", "timer"), id="two-rotate-and-the-timer"),
        pytest.param(("rollback", "timer", "revoke"), id="back-and-away"),
        pytest.param(("activate", "cancel", "timer"), id="forward-and-away"),
        pytest.param(("rollback", "rotate", "reconcile", "timer"), id="everybody"),
    ],
)
def test_several_people_and_the_timer_at_once_do_no_harm(
    past: Past, together: tuple[str, ...]
) -> None:
    """Each is done or told to try later, and every invariant holds all the time."""
    start = past.house("stopped")
    name = "-".join(together)
    house = past.again(start, name, f"at-once-{len(together)}{together[1]}.{ZONE}")
    memory = Memory.of(house, past.servers.texts())
    for _ in range(ROUNDS // 2):
        house.days += 2
        works = [functools.partial(_with_stock, at_once, house, one) for one in together]
        assert set(killed.run_all(works, house.folder / "fault")) == {0}, faults_told(house)
        past.servers.sync()
        primary = past.servers.texts()
        secondary = past.servers.texts(past.servers.secondary)
        assert not [*key_life.faults_of(house, memory, primary, secondary, recovered=True)], (
            house.records
        )
        memory = Memory.of(house, primary, memory)
    past.servers.clear([house.sdid])


def _with_stock(act: Callable[..., None], *args: object) -> None:
    key_life.use_made(STOCK)
    act(*args)


def faults_told(house: House) -> str:
    """What went wrong in the processes."""
    return "\n".join(path.read_text() for path in house.folder.glob("fault-*"))


# --- the command itself -------------------------------------------------------------------------


@pytest.mark.chaos
def test_the_command_killed_at_any_time_is_brought_to_its_end_by_reconcile(
    past: Past, tmp_path: Path
) -> None:
    """`carbonseal keys rotate SDID`, killed after a random time, then `keys reconcile`."""
    sdid = f"command.{ZONE}"
    servers, chance = past.servers, random.Random()
    (tmp_path / "carbonseal.yaml").write_text(
        yaml.safe_dump(
            {
                "milter": {"socket": f"unix:{tmp_path}/m.sock"},
                "ours": {"domains": [sdid]},
                "signing": {"keys": str(tmp_path / "keys")},
                "record": {
                    "spool": str(tmp_path / "spool"),
                    "database": f"sqlite:///{tmp_path}/archive.db",
                },
                "dns": {
                    "servers": {ZONE: [str(one) for one in servers.addresses]},
                    "publish": [
                        {
                            "method": "rfc2136",
                            "server": str(servers.primary.address),
                            "key_file": str(servers.key_file),
                        }
                    ],
                },
                "rotation": {"safety": "0s", "keep_revoked": "0s"},
            }
        )
    )
    program = [str(COMMAND), "--config", str(tmp_path / "carbonseal.yaml"), "keys"]
    house = House(tmp_path, sdid, servers)
    began = time.monotonic()
    subprocess.run([*program, "rotate", sdid], capture_output=True, check=False)
    whole = time.monotonic() - began
    servers.sync()
    memory = Memory.of(house, servers.texts())
    for _ in range(3 if not EVERY else 40):
        process = subprocess.Popen(
            [*program, "rotate", sdid], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.3 * whole, 1.2 * whole))
        process.kill()
        process.wait()
        done = subprocess.run(
            [*program, "reconcile", sdid], capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        servers.sync()
        primary, secondary = servers.texts(), servers.texts(servers.secondary)
        found = key_life.faults_of(house, memory, primary, secondary, recovered=True)
        assert not [*found], done.stderr
        memory = Memory.of(house, primary, memory)
    assert memory.records
    servers.clear([sdid])
