"""Hundreds of signing domains at real name servers: everybody is looked after, in bounded time.

BIND serves 200 zones, with DOMAINS=1000 (`make test-long`) a thousand, and a second one follows it.
Times are measured and printed (run with -s), never asserted: what is asserted is what comes out,
and how often a silent server was asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519
from support import ports
from support.carbonseal import COMMAND
from support.name_servers import Bind, TsigKey, Zone, put_txt, txt_at

from carbonseal.keys import dns_record, generate, key_record, selector_names, store
from carbonseal.keys.key_record import KeyRecord, Origin, Publication
from carbonseal.policies.key_life import Stage

pytestmark = pytest.mark.timeout(600)

COUNT = int(os.environ.get("DOMAINS", "200"))  # more of them prove nothing more
SDIDS = [f"d{number:04}.test" for number in range(COUNT)]
DAMAGED, FOREIGN = SDIDS[COUNT // 3], SDIDS[COUNT * 2 // 3]
SELECTOR = "k1"
TTL = 2
UNDER_WAY = (Stage.PUBLISHING, Stage.PUBLISHED, Stage.READY, Stage.ACTIVE)


@dataclass(frozen=True)
class House:
    """All domains, each with one key that signs and is published."""

    directory: Path
    file: Path
    primary: Bind
    secret: TsigKey
    sections: Mapping[str, Any]
    seconds: dict[str, float]  # what was measured

    @property
    def shelf(self) -> store.Store:
        return store.Store(self.directory / "keys")

    def configure(self, servers: list[str]) -> None:
        """Ask these about every zone."""
        dns = {**self.sections["dns"], "servers": dict.fromkeys(SDIDS, servers)}
        self.file.write_text(yaml.safe_dump({**self.sections, "dns": dns}))

    def keys(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`carbonseal keys …`, its time kept."""
        began = time.monotonic()
        done = subprocess.run(
            [COMMAND, "--config", self.file, "keys", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        self.keep(" ".join(arguments), time.monotonic() - began)
        assert "internal error" not in done.stderr, done.stderr
        return done

    def keep(self, what: str, seconds: float) -> None:
        """Print and remember how long something took."""
        self.seconds[what] = seconds
        print(f"{COUNT} domains: {what}: {seconds:.1f} s")

    def rows(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """The rows that a command prints, by SDID; for several of one, the last."""
        done = self.keys(*arguments, "--json")
        return {row["sdid"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    private = ed25519.Ed25519PrivateKey.generate()
    text = dns_record.value(generate.keyring.public_octets(private))
    records = (f'{SELECTOR}._domainkey {TTL} IN TXT "{text}"',)
    secret = TsigKey()
    primary = Bind([Zone(sdid, records) for sdid in SDIDS], keys=[secret])
    secondary = Bind(primary=primary)
    # In memory: as many fsyncs tell about the disk of the machine, not about us.
    directory = Path(tempfile.mkdtemp(prefix="thousand", dir="/dev/shm"))
    try:
        make_keys(directory / "keys", private, text)
        with primary, secondary:
            sections = {
                "milter": {"socket": f"unix:{directory}/milter.sock"},
                "ours": {"domains": [".test"]},
                "signing": {"keys": "keys"},
                "record": {
                    "spool": "spool",
                    "database": f"sqlite:///{directory}/archive.db",
                    "relay": "one",
                },
                "dns": {
                    "timeout": "1s",
                    "ttl": f"{TTL}s",
                    "publish": [
                        {
                            "method": "rfc2136",
                            "server": str(primary),
                            "key_file": str(secret.write(directory / "update.key")),
                        }
                    ],
                },
                "rotation": {"safety": "0s", "postfix": str(directory / "no-postfix")},
            }
            file = directory / "carbonseal.yaml"
            built = House(directory, file, primary, secret, sections, {})
            built.configure([str(primary), str(secondary)])
            yield built
    finally:
        shutil.rmtree(directory)


def make_keys(directory: Path, private: ed25519.Ed25519PrivateKey, text: str) -> None:
    """One key for all, as files; what makes them one by one is tested elsewhere."""
    at = datetime.now(UTC) - timedelta(days=1)
    record = generate.new_record(
        private, SDIDS[0], SELECTOR, origin=Origin.GENERATED, at=at, why="test"
    )
    record = record.moved(Stage.ACTIVE, at=at, why="test")
    pem = generate.private_pem(private)
    directory.mkdir(mode=0o700)
    for sdid in SDIDS:
        (directory / sdid).mkdir(mode=0o700)
        own = dataclasses.replace(
            record,
            sdid=sdid,
            published_at=at,
            publication=Publication(f"{SELECTOR}._domainkey.{sdid}", text, is_ours=True),
        )
        (directory / sdid / f"{SELECTOR}.json").write_bytes(key_record.to_json(own))
        file = directory / sdid / f"{SELECTOR}.pem"
        file.touch(mode=0o600)
        file.write_bytes(pem)


def test_all_domains_are_shown_planned_and_tried(house: House) -> None:
    """Every command lists every domain, from memory or from the servers, and changes nothing."""
    assert set(house.rows("status")) == set(SDIDS)
    assert set(house.rows("plan")) == set(SDIDS)
    done = house.keys("rotate", "--all", "--dry-run", "--json")
    rows = list(map(json.loads, done.stdout.splitlines()))
    assert [row["sdid"] for row in rows] == SDIDS
    assert {row["standing"] for row in rows} == {"done"}
    assert not any(row["steps"] for row in rows)
    assert f"/{COUNT}" not in done.stderr, "a bar where nobody looks"
    assert all(len(house.shelf.lineage(sdid).records) == 1 for sdid in SDIDS)


def test_a_person_sees_how_far_it_is(house: House) -> None:
    """On a terminal a bar counts the domains."""
    began = time.monotonic()
    said = on_a_terminal([str(COMMAND), "--config", str(house.file), "keys", "status", "--look"])
    house.keep("status --look", time.monotonic() - began)
    counts = {int(found) for found in re.findall(rf"(\d+)/{COUNT}\b", said)}
    assert COUNT in counts
    assert len(counts) > 3, "it did not move"


def on_a_terminal(argv: list[str]) -> str:
    """What a command writes to its terminal."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        argv, stdin=its, stdout=subprocess.DEVNULL, stderr=its, env=environment
    )
    os.close(its)
    said = b""
    with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
        # Not select(2): a test process that ran many servers has descriptors above its 1,024.
        readable = select.poll()
        readable.register(ours, select.POLLIN)
        while readable.poll(120_000) and (piece := os.read(ours, 65_536)):
            said += piece
    os.close(ours)
    process.wait(60)
    return said.decode(errors="replace")


class SilentServer:
    """A name server that takes every question and answers none; it counts them."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((ports.LOOPBACK, 0))
        self._name = f"{ports.LOOPBACK}@{self._socket.getsockname()[1]}"
        self.questions = 0
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def __str__(self) -> str:
        return self._name

    def _count(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._socket.recvfrom(65_535)
                self.questions += 1


def test_a_silent_secondary_costs_its_patience_once_and_not_once_for_each_domain(
    house: House,
) -> None:
    """The breaker: a server that does not answer is given up for the run, and said to be silent."""
    before = house.file.read_text()
    with SilentServer() as silent:
        house.configure([str(house.primary), str(silent)])
        began = time.monotonic()
        rows = house.rows("rotate", "--all", "--dry-run")
        house.keep("rotate --all --dry-run with a silent secondary", time.monotonic() - began)
        asked = silent.questions
    house.file.write_text(before)
    assert set(rows) == set(SDIDS)
    assert {row["standing"] for row in rows.values()} == {"unreachable"}
    assert 0 < asked < 150, "it was asked for each domain"
    assert all(str(silent) in row["why"] for row in rows.values())


def test_one_damaged_and_one_foreign_domain_do_not_stop_the_others(house: House) -> None:
    """`rotate --all --now` publishes a key for all others; the two need a person and are named."""
    damaged = house.shelf.record_path(DAMAGED, SELECTOR)
    kept = damaged.read_bytes()
    damaged.write_bytes(kept[: len(kept) // 2])
    selector = coming_selector()
    name = f"{selector}._domainkey.{FOREIGN}"
    put_txt(house.primary.address, FOREIGN, house.secret, name, "v=spf1 -all")

    first = house.rows("rotate", "--all", "--now")
    assert set(first) == set(SDIDS)
    assert all(row["steps"] for sdid, row in first.items() if sdid != DAMAGED)

    good = [sdid for sdid in SDIDS if sdid not in (DAMAGED, FOREIGN)]
    done = house.keys("rotate", "--all", "--json")
    rows = list(map(json.loads, done.stdout.splitlines()))
    held = [row for row in rows if row["standing"] == "held"]
    assert [row["sdid"] for row in held] == [DAMAGED, FOREIGN]
    assert all(row["why"] for row in held)
    assert done.returncode == 2, "a person is needed"
    for sdid in good:
        assert house.shelf.find(sdid, selector).stage in UNDER_WAY, sdid
    assert signing(house, FOREIGN).selector == SELECTOR
    assert txt_at(house.primary.address, name) == ["v=spf1 -all"]
    assert damaged.read_bytes() == kept[: len(kept) // 2]
    names = [f"{selector}._domainkey.{sdid}" for sdid in good]
    assert all(txt_at(house.primary.address, name) for name in names)


def signing(house: House, sdid: str) -> KeyRecord:
    [found] = [key for key in house.shelf.lineage(sdid).records if key.stage is Stage.ACTIVE]
    return found


def coming_selector() -> str:
    return selector_names.choose_selector(
        selector_names.SELECTOR_TEMPLATE, "ed25519-sha256", datetime.now(UTC), lambda name: False
    )
