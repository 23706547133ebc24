"""A relay whose keys are published through private name servers, driven by the real commands.

Promises: a `Rig` has a BIND primary and secondary with many zones, and Knot for a zone elsewhere.
A `Relay` has a configuration file of its own; calling it runs `carbonseal keys ...` in this
process; `signing` is what a worker would sign with that reads the keys now.  All waits for mail are
zero, and negative answers are not kept.

Does not: run a worker, or put anything into Postfix's queue.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.exception
import dns.rcode
import yaml

from carbonseal.keys import dns_record, keyring, store
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.milter import cli
from carbonseal.policies.key_life import Stage
from support import name_servers, ports, postfix
from support.name_servers import Bind, Knot, TsigKey, Zone
from support.waiting import NotInTime, wait_until

PROVIDER = "example.net"  # whose zone holds records of others, by CNAME
_ZONES = 70  # one for each test of a module


@dataclass(frozen=True)
class Rig:
    """Name servers that all cases share; each case has a zone of its own."""

    primary: Bind
    secondary: Bind
    provider: Knot
    tsig: TsigKey
    postfix: Path  # the configuration of a Postfix without mail
    taken: list[str] = field(default_factory=list)

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """Both that are authoritative for the zones."""
        return self.primary.address, self.secondary.address

    def zone(self) -> str:
        """One that nobody used before."""
        name = f"d{len(self.taken)}.test"
        self.taken.append(name)
        assert name in self.primary.zones, "let the rig have more zones"
        return name


@contextlib.contextmanager
def running() -> Iterator[Rig]:
    """Start the name servers and Postfix."""
    tsig = TsigKey()
    zones = [Zone(f"d{number}.test", minimum=0, refresh=60) for number in range(_ZONES)]
    primary = Bind(zones, keys=[tsig])
    secondary = Bind(primary=primary)
    provider = Knot([Zone(PROVIDER, minimum=0)], keys=[tsig], owner=None)
    with primary, secondary, provider, _postfix() as configuration:
        yield Rig(primary, secondary, provider, tsig, configuration)


@contextlib.contextmanager
def _postfix() -> Iterator[Path]:
    """A Postfix without mail: postqueue(1) waits a second where none runs."""
    with (
        postfix.private_directory() as directory,
        postfix.PrivatePostfix(directory, remote=ports.free_port()) as mta,
    ):
        yield mta.configuration


@dataclass(frozen=True)
class Said:
    """What a command gave back."""

    status: int
    rows: tuple[dict[str, Any], ...]
    aside: str  # standard error

    @property
    def text(self) -> str:
        """All sentences."""
        return "\n".join([self.aside, *(str(row.get("why", "")) for row in self.rows)])


@dataclass
class Relay:
    """A relay that signs for one domain: its configuration file and its commands."""

    rig: Rig
    directory: Path
    sdid: str
    servers: Sequence[ServerAddress]
    publish: dict[str, Any]

    @property
    def keys(self) -> Path:
        """Where its keys are."""
        return self.directory / "keys"

    def write(self) -> None:
        """The configuration file."""
        zeros = ("safety", "downstream_queue", "verifier_slack", "queue_lifetime", "keep_revoked")
        sections = {
            "ours": {"domains": [self.sdid]},
            "signing": {"keys": str(self.keys)},
            "record": {
                "spool": str(self.directory / "spool"),
                "database": f"sqlite:///{self.directory}/archive.db",
                "relay": "r1",
            },
            "dns": {
                "servers": {
                    self.sdid: [str(one) for one in self.servers],
                    PROVIDER: [str(self.rig.provider.address)],
                },
                "timeout": "1s",
                "tries": 1,
                "ttl": "1s",
                "publish": [self.publish],
            },
            "rotation": {"postfix": str(self.rig.postfix), **dict.fromkeys(zeros, "0s")},
        }
        (self.directory / "carbonseal.yaml").write_text(yaml.safe_dump(sections))

    def change(self, **changes: Any) -> None:
        """Another configuration: attributes of the relay, or keys of its rule for publishing."""
        for name, value in changes.items():
            if name == "servers":
                self.servers = value
            else:
                self.publish = {**self.publish, name: value}
        self.write()

    def __call__(self, *words: str) -> Said:
        """Run `carbonseal keys ...` as a person does, but for the form of the output."""
        out, aside = io.StringIO(), io.StringIO()
        arguments = ["--config", str(self.directory / "carbonseal.yaml"), "keys", *words]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(aside):
            try:
                cli.main([*arguments, "--format", "jsonl"])
            except SystemExit as leaving:
                status = int(leaving.code or 0)
        rows = tuple(json.loads(line) for line in out.getvalue().splitlines() if line[:1] == "{")
        return Said(status, rows, aside.getvalue())

    # --- what is so

    @property
    def records(self) -> tuple[KeyRecord, ...]:
        """Every key, as it is on disk."""
        return store.Store(self.keys).lineage(self.sdid).records

    def key(self, selector: str) -> KeyRecord:
        """One key, as it is on disk."""
        return store.Store(self.keys).find(self.sdid, selector)

    @property
    def newest(self) -> KeyRecord:
        """The key begun last."""
        return max(self.records, key=lambda key: key.history[0].at)

    @property
    def signing(self) -> list[str]:
        """The selectors that a worker would sign with, having read the keys now."""
        ring = keyring.load(self.keys)
        return [key.facts.selector for key in ring.signing_keys(self.sdid)]

    def put(self, name: str, *values: str, ttl: int = 0, everywhere: bool = True) -> None:
        """What somebody else does to the zone at the primary."""
        where = self.rig.primary.address
        name_servers.put_txt(where, self.sdid, self.rig.tsig, name, *values, ttl=ttl)
        if everywhere:
            name_servers.wait_for_txt(self.rig.secondary.address, name, *values)

    # --- what must be so

    def assert_mail_is_signed(self, *selectors: str) -> None:
        """Exactly these keys sign, and every server that answers shows their records."""
        assert self.signing == list(selectors)
        for selector in selectors:
            record = self.key(selector)
            for server in self.rig.servers:
                with contextlib.suppress(OSError, dns.exception.Timeout):
                    said = name_servers.ask(server, record.dns_name, timeout=0.3)
                    if said.rcode() == dns.rcode.NOERROR:
                        (text,) = name_servers.txt_at(server, record.publication.name)
                        assert dns_record.parse(text).public_key == record.public_key

    def go_on(self, selector: str, stage: Stage, *words: str) -> Said:
        """Run `reconcile` until a key is so far; the last run must find nothing to complain of."""
        words = words or ("reconcile", self.sdid)
        said: list[Said] = []

        def is_there() -> bool:
            said.append(self(*words))
            return self.key(selector).stage is stage

        try:
            wait_until(is_there, f"{selector} is not {stage.value}", 30)
        except NotInTime as error:
            raise AssertionError(f"{error}\n{self.key(selector)}\n{said[-1].text}") from None
        return said[-1]


def relay_at(rig: Rig, directory: Path, sdid: str) -> Relay:
    """A domain without a key whose records are published by update."""
    path = rig.tsig.write(directory / "tsig.key")
    rule = {"method": "rfc2136", "server": str(rig.primary.address), "key_file": str(path)}
    relay = Relay(rig, directory, sdid, rig.servers, rule)
    relay.write()
    return relay


def with_key(relay: Relay) -> Relay:
    """The same, with one key that signs."""
    relay("rotate", relay.sdid)
    relay.go_on(relay.newest.selector, Stage.ACTIVE)
    relay.assert_mail_is_signed(relay.newest.selector)
    return relay
