"""A day of mixed mail through a real Postfix, with the old signer first and a dry run behind it.

OpenDKIM signs with a configuration in its own forms; ours is what `migrate` makes of that.  What is
compared are the signature that OpenDKIM put on and the one that we would have put on.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import old_signer
from support.carbonseal import ARCHIVE, COMMAND, Carbonseal
from support.postfix import PrivatePostfix, private_directory
from support.sink import Sink
from traffic import generator

MESSAGES = int(os.environ.get("CARBONSEAL_DAY_OF_MAIL", "150"))
DOMAINS = ("example.com", "example.org", "corp.example.com", "werk.example.net")

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]


@dataclass(frozen=True, slots=True)
class Day:
    """What is left of it: the spool, what was delivered, and the service that ran dry."""

    service: Carbonseal
    delivered: tuple[bytes, ...]  # to everybody but the archive
    copies: int
    refused: int
    sent: int

    def compare(self, *arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
        """Exit status, rows and summary."""
        done = self.service.command(
            "policy", "compare", "--format", "jsonl", *map(str, arguments), check=False
        )
        return done.returncode, [json.loads(one) for one in done.stdout.splitlines()], done.stderr


def write_old(folder: Path) -> Path:
    """OpenDKIM's configuration, with a key and a line of each table for every domain."""
    (folder / "keys").mkdir(parents=True)
    subprocess.run(["opendkim-genkey", "-b", "2048", "-s", "old", "-D", folder], check=True)
    for domain in DOMAINS:
        shutil.copy(folder / "old.private", folder / "keys" / domain)
    (folder / "keytable").write_text(
        "".join(f"{name} {name}:Old{number}:{folder}/keys/{name}\n"
                for number, name in enumerate(DOMAINS))
    )  # fmt: skip
    (folder / "signing").write_text("".join(f"*@{name} {name}\n" for name in DOMAINS))
    (folder / "hosts").write_text("127.0.0.1\n10.20.0.0/24\n")
    conf = folder / "opendkim.conf"
    conf.write_text(
        f"KeyTable {folder}/keytable\nSigningTable refile:{folder}/signing\nMode s\n"
        f"InternalHosts {folder}/hosts\nPeerList 10.0.0.0/28\nOversignHeaders From\n"
        "Canonicalization relaxed/simple\n"
    )
    return conf


def message(record: dict[str, Any], rng: random.Random) -> bytes:
    """The message that a record of the generator tells of, with some body."""
    section = "".join(f"{name}:{value}\n" for name, value in record["header_fields"])
    words = [rng.choice(("Termin", "report", "zażółć", "見積", ".", "=20", " ")) for _ in range(80)]
    lines = [" ".join(words[at : at + 8]) + " " * rng.randrange(3) for at in range(0, 80, 8)]
    text = section + "\n" + "\n".join(lines) + "\n" * rng.randrange(4)
    return text.encode("utf-8", "surrogateescape").replace(b"\n", b"\r\n")


def send(mta: PrivatePostfix, record: dict[str, Any], content: bytes) -> bool:
    """As the client of the record; whether Postfix took it."""
    identity = {"address": record["client"]["address"]}
    if record["login"]:
        identity["login"] = record["login"]
    with mta.client("submission" if record["login"] else "inside", **identity) as client:
        done = client.send(
            record["reverse_path"]["raw"], [one["raw"] for one in record["recipients"]], content
        )
    return done.end.is_positive


@pytest.fixture(scope="module")
def day() -> Iterator[Day]:
    with private_directory("/dev/shm") as here, Sink() as sink, Sink() as archive:
        conf = write_old(here / "old")
        subprocess.run(
            [COMMAND, "migrate", "opendkim", "--from", conf, "--to", here / "new", "--beside",
             "--archive", ARCHIVE],
            check=True, capture_output=True,
        )  # fmt: skip
        service = Carbonseal(here / "service")
        service.file = here / "new" / "carbonseal.yaml"
        service.spool = here / "new" / "spool"
        (here / "mta").mkdir(mode=0o755)
        with (
            old_signer.opendkim(conf, here / "old") as old,
            service,
            PrivatePostfix(
                here / "mta",
                remote=sink.port,
                archive=archive.port,
                milters=[
                    f"unix:{old.socket}",
                    f"{{ unix:{here}/new/milter.sock, default_action=accept }}",
                ],
            ) as mta,
        ):
            rng = random.Random(7)
            taken = [
                send(mta, record, message(record, rng)) for record in generator.records(MESSAGES)
            ]
            mta.sendmail(
                "cron@example.com",
                ["bob@partner.example"],
                b"From: cron@example.com\nSubject: of the relay itself\n\ndone\n",
            )
            service.wait_for_records(sum(taken) + 1)
            mta.wait_until_empty()
            service.stop()
            yield Day(
                service,
                tuple(one.content for one in sink.deliveries),
                len(archive.deliveries),
                len(taken) - sum(taken),
                len(taken) + 1,
            )


def test_nothing_is_different_that_is_not_explained(day: Day) -> None:
    """Every message of the day: signed by both, or by neither, with the same d=, s= and a=."""
    status, rows, said = day.compare("--all", day.service.spool)
    assert [row for row in rows if row["verdict"] == "unexplained"] == []
    assert status == 0, said
    assert len(rows) == day.sent - day.refused
    signed = [row for row in rows if row["old"]]
    assert len(signed) > MESSAGES / 3
    assert {outcome for row in signed for outcome in row["verified"]} == {"pass"}
    assert len(rows) - len(signed) > MESSAGES / 5  # mail of others


def test_only_mail_of_the_relay_itself_is_signed_by_one_of_them(day: Day) -> None:
    """OpenDKIM trusts loopback; what migrate wrote does not, and said so."""
    _, rows, _ = day.compare("--all", day.service.spool)
    only = [
        row for row in rows if any(one["code"] == "signed-only-there" for one in row["differences"])
    ]
    assert [row["author"] for row in only] == ["cron@example.com"]
    assert "ours.local_submission" in only[0]["differences"][0]["why"]


def test_the_dry_run_has_changed_nothing(day: Day) -> None:
    """One signature, the old one; no copy although a mailbox is named."""
    assert day.copies == 0
    ours = [one.lower().count(b"; s=old") for one in day.delivered]
    assert max(ours) == 1
    assert all(b"carbonseal" not in one.lower() for one in day.delivered)


def test_a_message_that_left_the_old_signer_is_compared_with_one_made_now(
    day: Day, tmp_path: Path
) -> None:
    """The delivered octets in files, in a maildir and in an mbox say the same as the records."""
    signed = [one for one in day.delivered if b"s=Old" in one and b"cron@" not in one][:20]
    assert len(signed) > 10
    for name in ("new", "cur", "tmp"):
        (tmp_path / "maildir" / name).mkdir(parents=True)
    for number, content in enumerate(signed):
        (tmp_path / "maildir" / "cur" / str(number)).write_bytes(content)
    mbox = tmp_path / "mbox"
    mbox.write_bytes(
        b"".join(
            b"From x\n" + one.replace(b"\r\n", b"\n").replace(b"\nFrom ", b"\n>From ") + b"\n"
            for one in signed
        )
    )
    for place in (tmp_path / "maildir", mbox):
        status, rows, said = day.compare("--all", place)
        assert status == 0, (said, [row for row in rows if row["verdict"] == "unexplained"])
        assert len(rows) == len(signed)
        assert {tuple(row["verified"]) for row in rows} == {("pass",)}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(('selector": "', 'selector": "x'), "selector", id="another-selector"),
        pytest.param(('"sdid": "', '"sdid": "x.'), "domain", id="another-domain"),
        pytest.param(('"fields": "from:from:', '"fields": "from:'), "fields-lost", id="h"),
    ],
)
def test_a_difference_that_nothing_explains_is_found(
    day: Day, tmp_path: Path, change: tuple[str, str], code: str
) -> None:
    """Records in which we would have signed otherwise."""
    lines = [
        line
        for path in day.service.spool.rglob("*.jsonl")
        for line in path.read_text().rstrip("\0").splitlines()
        if '"dry_run":{"signatures":[{' in line and "DKIM-Signature" in line
    ][:5]
    assert len(lines) == 5
    changed = [json.dumps(json.loads(line)).replace(*change) for line in lines]
    (tmp_path / "records").write_text("\n".join(changed) + "\n")
    status, rows, _ = day.compare(tmp_path / "records")
    assert status == 1
    found = {one["code"] for row in rows for one in row["differences"] if not one["explained"]}
    assert code in found
