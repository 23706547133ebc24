"""The life of keys against a real BIND primary and secondary, and what must always be true of it.

Promises: `Servers` are one zone in which each signing domain of a test is a name of its own, so
that hundreds of lives go on at once; `House` is one keys directory with one signing domain.  Every
wait is a day, and the clock is the test's (`House.days`): nothing has to be waited for but the
secondary.  `faults_of` names every broken invariant in a sentence.

Does not: run workers; a relay is what `keyring.load` gives, and its queue is empty.
"""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.update
import dns.zone
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import (
    command_line,
    dns_record,
    generate,
    key_size,
    keyring,
    life_world,
    lifecycle,
    orders,
    selector_names,
    store,
)
from carbonseal.keys.key_record import KeyRecord, Origin
from carbonseal.keys.life_world import Report, World
from carbonseal.keys.publication import check
from carbonseal.keys.publication.settings import DnsSettings, PublishRule
from carbonseal.policies import errors, rotation, signing_request
from carbonseal.policies.key_life import QueueReport, RelayReport, Stage
from support import name_servers
from support.name_servers import Bind, TsigKey, Zone
from support.waiting import wait_until

ZONE = "example.test"
DAY = 86400
RULES = rotation.Rules(
    lifetime=3650 * DAY,
    lead=14 * DAY,
    safety=DAY // 2,
    downstream_queue=0,
    verifier_slack=0,
    queue_lifetime=DAY,
    keep_revoked=DAY,
)
TTL = 60
_BATCH = 40  # records in one update, which must fit into 64 KB
_SDID = re.compile(r"(?P<selector>[^.]+)\._domainkey\.(?P<sdid>.+)\Z")
Texts = dict[str, list[str]]  # by absolute name without the last dot


# --- keys that are made once --------------------------------------------------------------------


def made_before(count: int = 4) -> list[rsa.RSAPrivateKey]:
    """RSA keys for `use_made`; making them is not what is tested."""
    return [rsa.generate_private_key(65537, 2048) for _ in range(count)]


def use_made(stock: Sequence[rsa.RSAPrivateKey]) -> None:
    """Let this process take its new RSA keys from a stock; for a fork, there is no way back."""

    def take(algorithm: str, bits: int = 2048) -> keyring.PrivateKey:
        if algorithm == signing_request.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        return random.choice(stock)

    generate.generate = take


# --- servers ------------------------------------------------------------------------------------


class Servers:
    """A primary that takes updates below one zone, and its secondary."""

    def __init__(self, folder: Path) -> None:
        self.tsig = TsigKey()
        self.key_file = self.tsig.write(folder / "tsig.key")
        # The secondary follows when it is told to (`sync`), so that each step is one of its own.
        zone = Zone(ZONE, soa_ttl=1, minimum=1, refresh=3600, retry=3600, expire=DAY)
        self.primary = Bind([zone], keys=[self.tsig], grant="zonesub TXT CNAME", notify=False)
        self.secondary = Bind(primary=self.primary)

    def __enter__(self) -> Self:
        self.primary.__enter__()
        try:
            self.secondary.__enter__()
        except BaseException as error:
            self.primary.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            self.secondary.__exit__(kind, error, at)
        finally:
            self.primary.__exit__(kind, error, at)

    def sync(self) -> None:
        """Let the secondary have all that the primary has."""
        if self.secondary.serial(ZONE) != self.primary.serial(ZONE):
            self.secondary.control("refresh", ZONE)
        wait_until(
            lambda: self.secondary.serial(ZONE) == self.primary.serial(ZONE), "the secondary"
        )

    def put(self, name: str, *values: str, ttl: int = TTL) -> None:
        """Make these the TXT records at a name, at both servers, as a person would."""
        name_servers.put_txt(self.primary.address, ZONE, self.tsig, name, *values, ttl=ttl)
        self.sync()

    def put_alias(self, name: str, target: str) -> None:
        """A CNAME, as the owner of a domain sets it up."""
        update = dns.update.UpdateMessage(ZONE + ".", keyring=self.tsig.key)
        update.add(name + ".", TTL, "CNAME", target + ".")
        self._send(update)
        self.sync()

    def put_many(self, texts: Texts) -> None:
        """Add many records at once."""
        items = [(name, value) for name, values in texts.items() for value in values]
        for at in range(0, len(items), _BATCH):
            update = dns.update.UpdateMessage(ZONE + ".", keyring=self.tsig.key)
            for name, value in items[at : at + _BATCH]:
                update.add(name + ".", TTL, name_servers.txt(value))
            self._send(update)
        self.sync()

    def clear(self, sdids: Iterable[str]) -> None:
        """Take away every key record of these signing domains."""
        ends = tuple(f"._domainkey.{sdid}" for sdid in sdids)
        names = [name for name in self.texts() if name.endswith(ends)]
        for at in range(0, len(names), 4 * _BATCH):
            update = dns.update.UpdateMessage(ZONE + ".", keyring=self.tsig.key)
            for name in names[at : at + 4 * _BATCH]:
                update.delete(name + ".", "TXT")
            self._send(update)
        self.sync()

    def _send(self, update: dns.update.UpdateMessage) -> None:
        where = self.primary.address
        answer = dns.query.tcp(update, where.host, timeout=10, port=where.port)
        assert answer.rcode() == dns.rcode.NOERROR, dns.rcode.to_text(answer.rcode())

    def texts(self, server: Bind | None = None) -> Texts:
        """Every TXT record of the zone at a server, the primary if none is named."""
        where = (server or self.primary).address
        transfer = dns.query.xfr(where.host, ZONE, port=where.port, relativize=False)
        found: Texts = {}
        whole = dns.zone.from_xfr(transfer, relativize=False)
        for owner, rdataset in whole.iterate_rdatasets(dns.rdatatype.TXT):
            name = owner.to_text(omit_final_dot=True)
            found[name] = [b"".join(record.strings).decode() for record in rdataset]
        return found

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Both."""
        return self.primary.address, self.secondary.address

    def settings(self, *rules: PublishRule) -> DnsSettings:
        """The section `dns`: updates to the primary, unless other rules are given."""
        update = PublishRule(
            None, "rfc2136", server=self.primary.address, zone=ZONE, key_file=self.key_file
        )
        return DnsSettings(
            servers={ZONE: self.addresses}, timeout=5.0, ttl=TTL, publish=rules or (update,)
        )


def with_standby(rules: rotation.Rules) -> rotation.Rules:
    """The same, with one key more kept ready."""
    return dataclasses.replace(rules, standby=True)


def renamed(texts: Texts, old: str, new: str) -> Texts:
    """The key records of one signing domain under the name of another."""
    return {name.removesuffix(old) + new: value for name, value in of_sdid(texts, old).items()}


def of_sdid(texts: Texts, sdid: str) -> Texts:
    """The key records of one signing domain."""
    return {name: value for name, value in texts.items() if name.endswith(f"._domainkey.{sdid}")}


# --- one life -----------------------------------------------------------------------------------


@dataclass(slots=True)
class House:
    """One keys directory with one signing domain, and the time there."""

    folder: Path
    sdid: str
    servers: Servers
    rules: rotation.Rules = RULES
    days: float = 0.0  # by which the clock is ahead
    publish: tuple[PublishRule, ...] = ()
    asked: list[str] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """The keys directory."""
        return self.folder / "keys"

    @property
    def shelf(self) -> store.Store:
        """The same, as a store."""
        return store.Store(self.directory)

    @property
    def records(self) -> dict[str, KeyRecord]:
        """The keys by selector, oldest first."""
        lineage = self.shelf.lineage(self.sdid)
        assert not lineage.problems, lineage.problems
        return {record.selector: record for record in lineage.records}

    @property
    def stages(self) -> list[Stage]:
        """Their stages, oldest first."""
        return [record.stage for record in self.records.values()]

    def now(self) -> datetime:
        """The time here."""
        return datetime.now(UTC) + timedelta(days=self.days)

    def world(self) -> World:
        """Everybody, as the commands have it, but for the clock and the relay's queue."""
        settings: Any = SimpleNamespace(
            keys_directory=self.directory,
            dns=self.servers.settings(*self.publish),
            rotation=self.rules,
            selectors=selector_names.SELECTOR_TEMPLATE,
            bits=key_size.DEFAULT_BITS,
        )
        world = command_line.world_of(settings)
        checker = check.Checker(settings.dns, self.now)
        return dataclasses.replace(
            world,
            look=checker.look,
            forget=checker.forget,
            ask_relays=self.relays,
            clock=self.now,
        )

    def relays(self) -> tuple[RelayReport, ...]:
        """One relay without a worker and with an empty queue."""
        try:
            ring = keyring.load(self.directory)
        except errors.CarbonsealError:
            ring = keyring.EMPTY
        queue = QueueReport(0, None, 0, 0)
        names = ring.signing_names | ring.standby_names
        return (RelayReport("relay", self.now(), loadable=names, queue=queue),)

    def tend(self, *, forced: bool = False, begin: bool = True, days: float = 0.0) -> Report:
        """What `keys rotate` does; the clock goes ahead by `days` before."""
        self.days += days
        world = self.world()
        relays = life_world.gather(world)
        return lifecycle.tend(
            world, self.sdid, why="test", relays=relays, forced=forced, first=forced, begin=begin
        )

    def order(self, selector: str | int) -> orders.Order:
        """An order about a key: its selector, or its place in the order of their making."""
        if isinstance(selector, int):
            selector = list(self.records)[selector]
        return orders.Order(self.world(), self.sdid, selector, "test")

    def keep(self, private: keyring.PrivateKey, selector: str) -> KeyRecord:
        """A key that was made elsewhere."""
        record = generate.new_record(
            private, self.sdid, selector, origin=Origin.IMPORTED, at=self.now(), why="test"
        )
        with self.shelf.writing(self.sdid) as writer:
            writer.add(record, generate.private_pem(private))
        return record

    def signing(self) -> list[str]:
        """The selectors a worker would sign with, which must all be usable."""
        ring = keyring.load(self.directory)
        return [key.facts.selector for key in ring.signing_keys(self.sdid)]

    def texts(self) -> Texts:
        """What the primary has for this signing domain."""
        return of_sdid(self.servers.texts(), self.sdid)

    def copy(self, folder: Path, sdid: str) -> House:
        """The same life under another name; DNS is the caller's."""
        shutil.copytree(self.folder, folder)
        keys = folder / "keys"
        if (keys / self.sdid).exists():
            (keys / self.sdid).rename(keys / sdid)
            for path in (keys / sdid).iterdir():
                if path.suffix in (".json", ".observed"):
                    path.write_text(path.read_text().replace(self.sdid, sdid))
        return dataclasses.replace(self, folder=folder, sdid=sdid)


# --- what must always be true -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """What was once true and must never be untrue again."""

    records: dict[str, KeyRecord]
    published: frozenset[str]  # selectors that ever stood in DNS
    signed: bool

    @classmethod
    def of(cls, house: House, texts: Texts, before: Memory | None = None) -> Memory:
        """What is true now, beside what was."""
        selectors = {_selector(name) for name in of_sdid(texts, house.sdid)}
        known = before.published if before is not None else frozenset()
        return cls(house.records, known | selectors, bool(house.signing()))


def _selector(name: str) -> str:
    found = _SDID.match(name)
    assert found, name
    return found["selector"]


def faults_of(
    house: House,
    memory: Memory,
    primary: Texts,
    secondary: Texts,
    *,
    recovered: bool,
    may_be_silent: bool = False,
    is_lost: bool = False,
    foreign: Iterable[str] = (),
) -> Iterator[str]:
    """Each invariant that does not hold, in a sentence.

    recovered: `reconcile` has run since the kill, so that nothing half-written may be left.
    may_be_silent: the order was to sign no more.
    is_lost: somebody took away the record of a key that signs.
    foreign: names at which somebody else's records stand.
    """
    ring = keyring.load(house.directory)
    yield from ring.problems.values()
    signing = [key.facts.selector for key in ring.signing_keys(house.sdid)]
    if memory.signed and not signing and not may_be_silent:
        yield "no key signs, and one did"
    records = house.records
    here = of_sdid(primary, house.sdid)
    for selector in signing:
        record = records[selector]
        for server, texts in (("primary", primary), ("secondary", secondary)):
            values = texts.get(record.dns_name, [])
            if not (record.assumed_published or is_lost) and values != [
                dns_record.value(record.public_key)
            ]:
                yield f"{selector} signs and {server} shows {values}"
    yield from _names_that_came_back(house, memory, here)
    for name, values in here.items():
        record = records.get(_selector(name))
        if name in foreign:
            continue
        if record is None or record.stage in (Stage.GENERATED, Stage.REMOVED):
            yield f"{name} stands in DNS, and its key is {record and record.stage}"
        elif len(values) != 1:
            yield f"{name} has {len(values)} records"
    for record in records.values():
        yield from _about_private_key(house, record, recovered=recovered)
    if recovered:
        for path in house.directory.rglob("*"):
            if path.name.startswith(".new-") or path.name == ".untold":
                yield f"{path.name} was left"


def _names_that_came_back(house: House, memory: Memory, here: Texts) -> Iterator[str]:
    records = house.records
    for selector, before in memory.records.items():
        record = records.get(selector)
        if record is None:
            yield f"{selector} was forgotten"
            continue
        if record.fingerprint != before.fingerprint:
            yield f"{selector} was given to another key"
        if record.history[: len(before.history)] != before.history:
            yield f"the history of {selector} was rewritten"
        if before.stage is Stage.REMOVED and record.stage is not Stage.REMOVED:
            yield f"{selector} came back"
    for selector in memory.published:
        if not house.shelf.is_taken(house.sdid, selector):
            yield f"{selector} was published and could be given again"
    del here


def _about_private_key(house: House, record: KeyRecord, *, recovered: bool) -> Iterator[str]:
    path = house.shelf.private_path(record.sdid, record.selector)
    if record.stage is Stage.REMOVED:
        if path.exists() and recovered:
            yield f"the private key of {record.selector} was not destroyed"
        return
    if not path.exists():
        yield f"the private key of {record.selector} is gone while it is {record.stage}"
        return
    private = serialization.load_pem_private_key(
        path.read_bytes(), None, unsafe_skip_rsa_key_validation=True
    )
    assert isinstance(private, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)
    if keyring.public_octets(private) != record.public_key:
        yield f"the private key of {record.selector} is another"


def _kind(record: KeyRecord, text: str) -> str:
    if text == dns_record.value(record.public_key):
        return "key"
    return "revoked" if text == dns_record.revocation(record.public_key) else "other"


def shape(house: House, texts: Texts) -> tuple[object, ...]:
    """What makes two lives differ for the future; times do not."""
    return tuple(
        (
            record.stage,
            record.goal,
            bool(record.held),
            bool(record.refused),
            record.is_compromised,
            record.is_cancelled,
            record.publication.is_ours,
            record.stopped_at is None,
            tuple(_kind(record, text) for text in texts.get(record.dns_name, ())),
        )
        for record in house.records.values()
    )
