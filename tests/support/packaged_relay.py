"""What the tests of the package do on the machine they try it on: look, edit, send, ask, judge.

Promises: asks the product only as an administrator could, by its commands, its pages and its files.

Raises: AssertionError, when what is waited for does not come; fresh_debian.Broken.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from support import verifiers, waiting
from support.fresh_debian import FreshDebian

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = "/etc/carbonseal/carbonseal.yaml"

_SEND = """
import smtplib, sys
lines = ["From: alice@example.com", "To: bob@remote.test", "Subject: " + sys.argv[1]]
lines += ["Date: Sat, 21 Nov 2026 12:00:00 +0000", "Message-ID: <1@example.com>", "", "text", ""]
with smtplib.SMTP("127.0.0.1", 25, local_hostname="desk.example.com") as client:
    client.sendmail("alice@example.com", ["bob@remote.test"], "\\r\\n".join(lines))
"""

_GET = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=10)
except urllib.error.HTTPError as refused:
    answer = refused
except OSError as fault:
    sys.exit(str(fault))
print(answer.status, answer.read().decode())
"""

_IMPORT = """
import importlib, sys
sys.path.insert(0, "/usr/lib/carbonseal")
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""


def package(revision: str) -> Path:
    """The package as deb.sh has built it."""
    (found,) = (ROOT / "build/deb").glob(f"*-{revision}/carbonseal_*.deb")
    return found


def extensions() -> list[str]:
    """The compiled modules of ours that pyproject.toml declares."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [one["name"] for one in declared["tool"]["setuptools"]["ext-modules"]]


def wait_until(done: Callable[[], bool], what: str) -> None:
    """As everywhere, with the patience that a whole system needs."""
    waiting.wait_until(done, what, 180)


# --- The machine ----------------------------------------------------------------------------------


def traces(machine: FreshDebian) -> dict[str, object]:
    """Everything that a package could leave behind."""
    return {
        "files": machine.files(),
        "users": machine.run("getent", "passwd"),
        "groups": machine.run("getent", "group"),
        "units": _unit_files(machine),
        "packages": machine.run("dpkg-query", "-W", "-f", "${Package} ${Status}\\n"),
        "postfix": machine.run("postconf", "-n"),
    }


def kept(machine: FreshDebian) -> set[str]:
    """What an upgrade must not touch: contents; owners and modes."""
    listed = machine.run(
        *("sh", "-c"),
        "find /etc/carbonseal /var/lib/carbonseal/keys -type f -exec sha256sum {} + | sort;"
        "find /etc/carbonseal /var/lib/carbonseal /var/spool/carbonseal -type d"
        " -printf '%p %m %u %g\\n' | sort",
    )
    return set(listed.splitlines())


def permissions(machine: FreshDebian, *paths: str) -> dict[str, str]:
    """Path -> mode, owner and group of every file below them."""
    listed = machine.run(
        *("find", *paths, "-ignore_readdir_race", "-type", "f", "-printf", "%p\\t%m %u %g\\n")
    )
    return dict(line.split("\t") for line in listed.splitlines())


def compiled(machine: FreshDebian) -> list[str]:
    """The file each compiled module of ours is loaded from."""
    return machine.run("python3", "-ISc", _IMPORT, *extensions()).split()


# --- Units ----------------------------------------------------------------------------------------


def is_active(machine: FreshDebian, unit: str) -> bool:
    return machine.call("systemctl", "is-active", unit).stdout.strip() == "active"


def units(machine: FreshDebian, ending: str) -> list[str]:
    listed = map(Path, machine.run("dpkg", "-L", "carbonseal").splitlines())
    return sorted(one.name for one in listed if one.match(f"*/systemd/system/*{ending}"))


def services(machine: FreshDebian) -> list[str]:
    """Those that are started at boot."""
    return [
        one
        for one in units(machine, ".service")
        if "WantedBy=multi-user" in machine.path(f"/lib/systemd/system/{one}").read_text()
    ]


def main_pid(machine: FreshDebian, unit: str) -> str:
    return machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).strip()


# --- Use ------------------------------------------------------------------------------------------


def configure(machine: FreshDebian, values: Mapping[str, str]) -> None:
    """The edit: section.key, in the file as it was installed, where that key stands."""
    path = machine.path(CONFIGURATION)
    text = path.read_text()
    for name, value in values.items():
        section, _, key = name.partition(".")
        stands = rf"(?m)^({section}:\n(?:(?:[ #].*)?\n)*?)  {key}: .*\n"
        is_shown = rf"(?ms)^#?({section}:\n.*?)^#  {key}: [^\n]*\n"
        place = re.search(stands, text) or re.search(is_shown, text)
        assert place, name
        text = f"{text[: place.start()]}{place[1]}  {key}: {value}\n{text[place.end() :]}"
    path.write_text(text)


def _unit_files(machine: FreshDebian) -> list[str]:
    listed = machine.run("systemctl", "list-unit-files", "--no-legend", "--no-pager")
    # What is transient are services that a test itself runs beside, for as long as it does.
    return [one for one in listed.splitlines() if one.split()[1:2] != ["transient"]]


def start_sink(machine: FreshDebian) -> None:
    """Where all mail to the outside goes, into files, until the next boot."""
    machine.run("install", "-d", "-o", "nobody", "/var/spool/sink")
    sink = ("smtp-sink", "-u", "nobody", "-d", "/var/spool/sink/%M.", "127.0.0.1:2525", "100")
    machine.run("systemd-run", "--unit=sink", *sink)


def send(machine: FreshDebian, subject: str) -> list[bytes]:
    """Mail to the outside through Postfix; both deliveries as the sink has them."""
    machine.run("python3", "-c", _SEND, subject)
    sink = machine.path("/var/spool/sink")

    def arrived() -> list[Path]:
        return [one for one in sink.iterdir() if f"Subject: {subject}\n" in one.read_text()]

    wait_until(lambda: len(arrived()) == 2, f"two deliveries of {subject}")
    return [one.read_bytes() for one in arrived()]


def as_writer(machine: FreshDebian, *arguments: str) -> CompletedProcess[str]:
    """A command of the archive, asked as its documentation says."""
    user = ("setpriv", "--reuid=carbonseal-writer", "--regid=carbonseal-writer", "--init-groups")
    return machine.call(*user, "carbonseal", "archive", *arguments)


def found(machine: FreshDebian, subject: str) -> list[dict[str, Any]]:
    """What the archive says of it."""
    asked = as_writer(machine, "search", "--format", "jsonl", f"subject:{subject}")
    return [json.loads(line) for line in asked.stdout.splitlines() if line.startswith("{")]


def delivery(machine: FreshDebian, record_id: str) -> dict[str, Any]:
    """What became of it, as `archive show` has it."""
    shown: dict[str, Any] = json.loads(as_writer(machine, "show", "--json", record_id).stdout)
    told: dict[str, Any] = shown["delivery"]
    return told


def page(machine: FreshDebian, address: str) -> tuple[int, dict[str, Any]]:
    """Status and content of a page of the service; 0 when nobody answers."""
    asked = machine.call("python3", "-c", _GET, address)
    if asked.returncode:
        return 0, {"fault": asked.stdout}
    status, _, content = asked.stdout.partition(" ")
    return int(status), json.loads(content)


def state(machine: FreshDebian, subject: str) -> str:
    """How the one message of that subject stands; empty while it is not on record."""
    records = found(machine, subject)
    return str(delivery(machine, records[0]["record_id"])["state"]) if records else ""


def verify(machine: FreshDebian, received: bytes) -> None:
    """Three judges, on what the sink wrote down after its own lines."""
    facts = json.loads(
        machine.run("carbonseal", "keys", "list", "--format", "jsonl").splitlines()[0]
    )
    shown = json.loads(
        machine.run("carbonseal", "keys", "show", facts["sdid"], facts["selector"], "--json")
    )
    message = received[received.index(b"DKIM-Signature:") :].replace(b"\n", b"\r\n")
    before = received[: received.index(b"DKIM-Signature:")].split(b"\n")
    fields = [line for line in before if not re.match(rb"X-[A-Za-z-]+: |$", line)]
    assert fields == [] or all(line.startswith((b"Received:", b"\t", b" ")) for line in fields)
    judged = verifiers.verify_by_all(
        message.rstrip(b"\r\n") + b"\r\n", {shown["dns_name"]: shown["dns_value"].encode()}
    )
    assert len(judged) == 3
    for judge, (word,) in judged.items():
        assert word.result is verifiers.Result.PASS, (judge, word)
