"""The writer alone: realistic segments into an SQLite archive, and what each record costs.

`python -m benchmarks.records [COUNT]` (with PYTHONPATH=tests) prints one JSON line: records a
second, microseconds of CPU time and octets of database per record, and the resident memory of the
writer's process after a tenth of the records and after all of them.

Promises: the segments are made by the product's own encoder, footer included, before the clock
starts; the writer runs in a process of its own, as the product runs it.  People, domains, clients
and circumstances recur as in a relay's mail; identifiers, subjects and times do not.  The same
count gives the same records, record ids apart.

Does not: measure the milter or the spool's fsync; `benchmarks` does both.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carbonseal.milter.archive import merkle, open_segment, record, writer

START = 1_795_237_200.0  # 2026-11-21T05:00:00Z
DEFAULT_COUNT = 20_000
_SEGMENT_RECORDS = 10_000
_RATE = 2500.0  # records a second of recorded time
_NAMES = (
    "Alex Anna Ben Clara Daniel Emma Felix Greta Hans Ida Jonas Klara Lukas Mia Noah Olga Paul "
    "Quentin Rosa Simon Thea Uwe Vera Willi Xenia Yusuf Zoe"
).split()
_SYLLABLES = "ba ce di fo gu ha ke li mo nu pa re si to vu wa xe yi zo schmi ger mann stein".split()
_VERSIONS = ("TLSv1.3", "TLS_AES_256_GCM_SHA384", "256"), ("TLSv1.2", "ECDHE-RSA-AES128", "128")
_DATE = "%a, %d %b %Y %H:%M:%S +0000"
_SIGNED = "from:from:to:to:cc:cc:subject:subject:date:message-id:reply-to:mime-version:content-type"


def records(count: int, seed: int = 3) -> Iterator[dict[str, Any]]:
    """`count` records of a relay: half outbound, the rest inbound and internal."""
    world = _World(random.Random(seed))
    for number in range(count):
        yield world.record(START + number / _RATE)


class _World:
    """Who writes to whom, and by which way."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._vocabulary = [self._word() for _ in range(3000)]
        ours = [f"{name}.example.com" for name in ("mail", "shop", "corp")] + ["example.com"]
        theirs = [f"{self._word()}.example" for _ in range(1500)]
        self._colleagues = self._people(1000, ours)
        self._strangers = self._people(20_000, theirs)

    def _word(self) -> str:
        return "".join(self._rng.choices(_SYLLABLES, k=self._rng.randint(1, 4)))

    def _people(self, count: int, domains: list[str]) -> list[tuple[str, str]]:
        return [self._person(number, domains) for number in range(count)]

    def _person(self, number: int, domains: list[str]) -> tuple[str, str]:
        first, last = self._rng.choice(_NAMES), self._word().title()
        domain = self._few(domains)
        return f"{first} {last}", f"{first.lower()}.{last.lower()}{number}@{domain}"

    def _few(self, items: list[Any]) -> Any:
        """A choice of which some come up far more often than others, and every third is any."""
        if self._rng.random() < 0.3:
            return self._rng.choice(items)
        return items[min(int(self._rng.paretovariate(0.7)) - 1, len(items) - 1)]

    def record(self, now: float) -> dict[str, Any]:
        """One message at `now`."""
        rng = self._rng
        crossing = rng.choices(("outbound", "inbound", "internal"), (5, 4, 1))[0]
        inside = crossing != "inbound"
        author = self._few(self._colleagues if inside else self._strangers)
        readers = [
            self._few(self._strangers if crossing == "outbound" else self._colleagues)
            for _ in range(rng.choice((1, 1, 1, 2, 3)))
        ]
        octets = rng.randbytes(32)
        queue_id = f"4{octets.hex()[:10].upper()}z"
        size = rng.randint(500, 60_000)
        fields = self._fields(author, readers, now, octets, queue_id)
        header_size = sum(len(name) + len(value) + 3 for name, value in fields)
        return {
            "queue_id": queue_id,
            **self._client(author[1], inside),
            "reverse_path": self._path(author[1], "reverse-path", inside, [f"SIZE={size}"]),
            "recipients": [
                self._path(address, "recipient", crossing != "outbound", [])
                | {"mailer": "smtp", "host": address.rpartition("@")[2]}
                for _, address in readers
            ],
            "crossing": crossing,
            "header_count": len(fields),
            "header_size": header_size,
            "body_size": size,
            "size": header_size + 2 + size,
            "body_hash": {
                "canonicalization": "relaxed",
                "sha256": base64.b64encode(octets).decode("ascii"),
            },
            "v": record.VERSION,
            "salt": octets.hex()[:32],
            "retention": None,
            "bcc_maps": None,
            "record_id": record.new_record_id(int(now * 1000)),
            "recorded_at": record.timestamp(now),
            "relay": "mx1.example.com",
            "config_version": "0123456789ab",
            "header_fields": fields,
            **self._outcome(author[1], readers, crossing, now),
        }

    def _client(self, author: str, inside: bool) -> dict[str, Any]:
        number = len(author) * 7 % 200
        version, cipher, bits = self._rng.choice(_VERSIONS)
        name = f"desk{number}.example.com" if inside else f"mx{number}.{author.rpartition('@')[2]}"
        return {
            "listener": "submission" if inside else "smtpd",
            "client": {
                "address": f"10.0.1.{number}" if inside else f"192.0.2.{number}",
                "port": self._rng.randint(1024, 65535),
                "name": name,
                "helo": name,
            },
            "login": author if inside else None,
            "login_method": "PLAIN" if inside else None,
            "tls": {"version": version, "cipher": cipher, "bits": bits},
            "origin": {
                "kind": "login" if inside else "none",
                "about": author if inside else "",
            },
        }

    def _path(self, address: str, what: str, inside: bool, esmtp: list[str]) -> dict[str, Any]:
        place = "inside" if inside else "outside"
        return {
            "raw": f"<{address}>",
            "address": address,
            "resolved": address,
            "esmtp": esmtp,
            "place": place,
            "why": f"{what}-{place}({address})",
        }

    def _outcome(
        self, author: str, readers: list[tuple[str, str]], crossing: str, now: float
    ) -> dict[str, Any]:
        is_ours = crossing == "outbound"
        domain = author.rpartition("@")[2]
        signature = {
            "sdid": domain,
            "selector": "s2026",
            "auid": f"@{domain}",
            "algorithm": "rsa-sha256",
            "canonicalization": "relaxed/relaxed",
            "fields": _SIGNED,
            "signed_at": int(now),
            "expires_at": None,
        }
        reasons = [f"origin-login({author})"] if crossing != "inbound" else ["origin-none"]
        reasons += [f"recipient-{crossing}({address})" for _, address in readers]
        return {
            "signatures": [signature] if is_ours else [],
            "archive_recipients": ["archive@archive.example.net"] if crossing != "internal" else [],
            "archive_addressed": False,
            "disposition": "accept",
            "reasons": [*reasons, f"signed({domain}/s2026)"] if is_ours else reasons,
        }

    def _fields(
        self,
        author: tuple[str, str],
        readers: list[tuple[str, str]],
        now: float,
        octets: bytes,
        queue_id: str,
    ) -> list[tuple[str, str]]:
        rng = self._rng
        moment = time.strftime(_DATE, time.gmtime(now))
        digest, domain = octets.hex(), author[1].rpartition("@")[2]
        subject = " ".join(rng.choices(self._vocabulary, k=rng.randint(2, 7)))
        if rng.random() < 0.2:
            encoded = base64.b64encode(f"{subject} über {digest[:4]}".encode()).decode("ascii")
            subject = f"=?UTF-8?B?{encoded}?="
        to = ",\n\t".join(f"{name} <{address}>" for name, address in readers)
        return [
            (
                "Received",
                f" from desk.{domain} (desk.{domain} [10.0.1.{octets[0]}])\n\t(using TLSv1.3 with "
                "cipher TLS_AES_256_GCM_SHA384 (256/256 bits))\n\tby mx1.example.com (Postfix) "
                f"with ESMTPSA id {queue_id}\n\tfor <{readers[0][1]}>; {moment}",
            ),
            (
                "Received",
                f" from [10.2.{octets[1]}.{octets[2]}] by desk.{domain} with LMTP id "
                f"{digest[:16]}; {moment}",
            ),
            ("Message-ID", f" <{digest[:8]}-{digest[8:12]}-{digest[12:24]}@{domain}>"),
            ("Date", f" {moment}"),
            ("MIME-Version", " 1.0"),
            ("User-Agent", " Mozilla Thunderbird"),
            ("Subject", f" {subject}"),
            ("Content-Language", " en-US"),
            ("To", f" {to}"),
            ("References", f" <{digest[24:48]}@{domain}>"),
            ("In-Reply-To", f" <{digest[24:48]}@{domain}>"),
            ("From", f" {author[0]} <{author[1]}>"),
            ("Organization", f" {self._few(self._vocabulary).title()} Ltd"),
            ("Content-Type", " text/plain; charset=UTF-8; format=flowed"),
            ("Content-Transfer-Encoding", " 7bit"),
        ]


def fill(directory: Path, count: int) -> int:
    """Write closed segments with `count` records into the spool `directory`; octets written."""
    made = records(count)
    octets = 0
    while content := list(itertools.islice(made, _SEGMENT_RECORDS)):
        name = f"{content[0]['record_id']}-1"
        tree = merkle.Tree()
        with open(directory / (name + open_segment.CLOSED_SUFFIX), "wb") as stream:
            for one in content:
                line = record.encode(one)
                tree.add(line)
                octets += stream.write(line)
            stream.write(open_segment.footer(name, tree))
    return octets


def resident() -> int:
    """KiB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


def _most_resident() -> int:
    """KiB of memory that this program held at most.

    Not ru_maxrss, which begins with what the process held before it ran this program.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def measure(directory: Path) -> dict[str, Any]:
    """Load the spool in `directory` into an archive beside it, in this process."""
    sizes: list[int] = []

    def report(event: str, **_facts: Any) -> None:
        if event == "segment-loaded":
            sizes.append(resident())

    usage, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    file = directory / "archive.db"
    count = writer.run_once(directory / "spool", f"sqlite:///{file}", report=report)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - usage.ru_utime, after.ru_stime - usage.ru_stime
    return {
        "records": count,
        "records_per_second": round(count / seconds),
        "cpu_us_per_record": round((user + system) / count * 1e6, 1),
        "system_us_per_record": round(system / count * 1e6, 1),
        "database_octets_per_record": round(file.stat().st_size / count),
        "resident_kib_early": sizes[max(len(sizes) // 10 - 1, 0)],
        "resident_kib_late": sizes[-1],
        "resident_kib_most": _most_resident(),
    }


def main(arguments: list[str]) -> None:
    """Print the measurement of a writer in a fresh process."""
    if arguments[:1] == ["--load"]:
        print(json.dumps(measure(Path(arguments[1]))))
        return
    count = int(arguments[0]) if arguments else DEFAULT_COUNT
    with tempfile.TemporaryDirectory() as name:
        spool_directory = Path(name) / "spool"
        spool_directory.mkdir()
        octets = fill(spool_directory, count)
        command = [sys.executable, "-m", "benchmarks.records", "--load", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    print(json.dumps({**json.loads(done.stdout), "line_octets": octets // count}))


if __name__ == "__main__":
    main(sys.argv[1:])
