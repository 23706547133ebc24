"""The package in a fresh Debian 12 with systemd: installed, configured, used, upgraded, purged.

Ten minutes and root: `make test-package` builds two versions of the package and sets PACKAGE.  The
tests of this file tell one story in order, on one machine that has no network but loopback.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ports, verifiers
from support.fresh_debian import FreshDebian

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build/deb"
PLACE = ROOT / "build/package"
CONFIGURATION = "/etc/carbonseal/carbonseal.yaml"
ARCHIVE = "archive@archive.example.net"

# Its dependencies, and what is tried beside it: the package itself comes without a network.
NEEDED = ("systemd", "dbus", "procps", "python3", "libmilter1.0.1", "libpq5", "postfix")
TRIED = ("apparmor", "bash-completion", "zsh")

pytestmark = [
    pytest.mark.root,
    pytest.mark.postfix,
    pytest.mark.xdist_group("package"),
    pytest.mark.skipif("PACKAGE" not in os.environ, reason="make test-package"),
    pytest.mark.timeout(1800),
]

SEND = """
import smtplib, sys
lines = ["From: alice@example.com", "To: bob@remote.test", "Subject: " + sys.argv[1]]
lines += ["Date: Sat, 21 Nov 2026 12:00:00 +0000", "Message-ID: <1@example.com>", "", "text", ""]
with smtplib.SMTP("127.0.0.1", 25, local_hostname="desk.example.com") as client:
    client.sendmail("alice@example.com", ["bob@remote.test"], "\\r\\n".join(lines))
"""


def package(revision: str) -> Path:
    """The package as deb.sh has built it."""
    (found,) = BUILT.glob(f"*-{revision}/carbonseal_*.deb")
    return found


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def fresh() -> Iterator[FreshDebian]:
    """A booted machine with Postfix and the two packages in /root."""
    machine = FreshDebian(PLACE, "machine")
    machine.prepare(*NEEDED, *TRIED)
    for revision in ("1", "2"):
        machine.path(f"/srv/{revision}.deb").write_bytes(package(revision).read_bytes())
    try:
        machine.boot()
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="module")
def before(fresh: FreshDebian) -> dict[str, object]:
    return traces(fresh)


def traces(machine: FreshDebian) -> dict[str, object]:
    """Everything that a package could leave behind."""
    return {
        "files": machine.files(),
        "users": machine.run("getent", "passwd"),
        "groups": machine.run("getent", "group"),
        "units": machine.run("systemctl", "list-unit-files", "--no-legend", "--no-pager"),
        "packages": machine.run("dpkg-query", "-W", "-f", "${Package} ${Status}\\n"),
        "postfix": machine.run("postconf", "-n"),
    }


def configure(machine: FreshDebian, **values: str) -> None:
    """The edit: in the file as it was installed, keys that stand there."""
    path = machine.path(CONFIGURATION)
    text = path.read_text()
    for key, value in values.items():
        line = re.search(rf"(?m)^  {key}: .*$", text) or re.search(rf"(?m)^#  {key}: .*$", text)
        assert line, key
        text = text.replace(f"{line[0]}\n", f"  {key}: {value}\n", 1)
    path.write_text(text.replace("#archive:\n", "archive:\n"))


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


def send(machine: FreshDebian, subject: str) -> list[bytes]:
    """Mail to the outside through Postfix; both deliveries as the sink has them."""
    machine.run("python3", "-c", SEND, subject)
    sink = machine.path("/var/spool/sink")

    def arrived() -> list[Path]:
        return [one for one in sink.iterdir() if f"Subject: {subject}\n" in one.read_text()]

    wait_until(lambda: len(arrived()) == 2, f"two deliveries of {subject}")
    return [one.read_bytes() for one in arrived()]


def found(machine: FreshDebian, subject: str) -> list[dict[str, object]]:
    """What the archive says of it, asked as its documentation says."""
    asked = machine.call(
        *("setpriv", "--reuid=carbonseal-writer", "--regid=carbonseal-writer", "--init-groups"),
        *("carbonseal", "archive", "search", "--format", "jsonl", f"subject:{subject}"),
    )
    return [json.loads(line) for line in asked.stdout.splitlines() if line.startswith("{")]


def test_it_installs_without_a_network_and_starts_nothing(
    fresh: FreshDebian, before: dict[str, object]
) -> None:
    """Nothing runs before somebody has said which domains are ours; a sentence says so."""
    said = fresh.run("dpkg", "--force-confold", "-i", "/srv/1.deb")
    assert "write at least ours.domains" in said
    assert fresh.call("systemctl", "--failed", "--no-legend").stdout == ""
    assert len(services(fresh)) >= 2
    for unit in services(fresh):
        assert fresh.run("systemctl", "is-enabled", unit).strip() == "enabled"
        assert not is_active(fresh, unit)
    for unit in units(fresh, ".timer"):
        assert fresh.call("systemctl", "is-enabled", unit).stdout.strip() == "disabled"


def test_directories_units_and_profiles_are_as_written(fresh: FreshDebian) -> None:
    """Owners and modes of tmpfiles.d; systemd and AppArmor take what is installed."""
    for line in fresh.path("/usr/lib/tmpfiles.d/carbonseal.conf").read_text().splitlines():
        if line.startswith("d "):
            _, path, mode, owner, group, _ = line.split()
            made = fresh.run("stat", "-c", "%a %U %G", path).split()
            assert made == [mode.lstrip("0"), owner, group], path
    paths = [f"/lib/systemd/system/{one}" for one in units(fresh, ".*")]
    assert fresh.run("systemd-analyze", "verify", *paths) == ""
    fresh.run("apparmor_parser", "--skip-kernel-load", "--skip-cache", "/etc/apparmor.d/carbonseal")
    assert "carbonseal" in fresh.run("carbonseal", "--version")


def test_completion_works_in_bash_and_zsh(fresh: FreshDebian) -> None:
    """Found by name where the shells look, and answering."""
    bash = """. /usr/share/bash-completion/bash_completion; _completion_loader carbonseal
        COMP_WORDS=(carbonseal keys gen) COMP_CWORD=2; _carbonseal_completion carbonseal
        echo "${COMPREPLY[@]}" """
    assert fresh.run("bash", "-c", bash).strip() == "generate"
    zsh = "autoload -Uz compinit; compinit -u -D; echo $_comps[carbonseal]"
    assert fresh.run("zsh", "-fc", zsh).strip() == "_carbonseal"
    answer = fresh.run(
        *("env", "_CARBONSEAL_COMPLETE=zsh_complete", "COMP_WORDS=carbonseal keys gen"),
        *("COMP_CWORD=2", "carbonseal"),
    )
    assert "generate" in answer.splitlines()


def test_a_start_without_the_edit_says_what_to_write(fresh: FreshDebian) -> None:
    """Status 78, the line and the remedy; and no attempt after attempt."""
    assert fresh.call("systemctl", "start", "carbonseal-milter").returncode != 0
    said = fresh.call("systemctl", "status", "--no-pager", "carbonseal-milter").stdout
    assert "status=78" in said
    assert "ours.domains: write at least 1" in said
    fresh.run("systemctl", "reset-failed")


def test_one_edit_and_mail_is_signed_copied_recorded_and_found(fresh: FreshDebian) -> None:
    """The configuration, a key, two lines for Postfix."""
    configure(
        fresh,
        domains="[example.com]",
        networks="[127.0.0.1]",
        recipients=f"[{ARCHIVE}]",
        socket="unix:/var/spool/postfix/carbonseal/milter.sock",
    )
    fresh.run("systemctl", "start", "carbonseal-milter", "carbonseal-writer")
    fresh.run("carbonseal", "keys", "generate", "example.com", "--activate", "--assume-published")
    fresh.run("install", "-d", "-o", "nobody", "/var/spool/sink")
    sink = ["smtp-sink", "-u", "nobody", "-d", "/var/spool/sink/%M.", "127.0.0.1:2525", "100"]
    fresh.run("systemd-run", "--unit=sink", *sink)
    fresh.run(
        *("postconf", "-e", "smtpd_milters=unix:/carbonseal/milter.sock"),
        *("non_smtpd_milters=$smtpd_milters", "relayhost=[127.0.0.1]:2525", "mydestination="),
        *("default_transport=smtp",),
        *("smtp_dns_support_level=disabled", "default_destination_recipient_limit=1"),
    )
    fresh.run("systemctl", "restart", "postfix")
    wait_until(lambda: is_active(fresh, "postfix@-"), "Postfix")

    deliveries = send(fresh, "first")
    copies = [one for one in deliveries if ARCHIVE.encode() in one.partition(b"\n\n")[0]]
    assert len(copies) == 1
    for one in deliveries:
        verify(fresh, one)
    wait_until(lambda: len(found(fresh, "first")) == 1, "the record")
    (record,) = found(fresh, "first")
    assert record["archive_recipients"] == [ARCHIVE]
    assert record["crossing"] == "outbound"


def verify(machine: FreshDebian, delivery: bytes) -> None:
    """Three judges, on what the sink wrote down after its own lines."""
    facts = json.loads(
        machine.run("carbonseal", "keys", "list", "--format", "jsonl").splitlines()[0]
    )
    shown = json.loads(
        machine.run("carbonseal", "keys", "show", facts["sdid"], facts["selector"], "--json")
    )
    message = delivery[delivery.index(b"DKIM-Signature:") :].replace(b"\n", b"\r\n")
    before = delivery[: delivery.index(b"DKIM-Signature:")].split(b"\n")
    fields = [line for line in before if not re.match(rb"X-[A-Za-z-]+: |$", line)]
    assert fields == [] or all(line.startswith((b"Received:", b"\t", b" ")) for line in fields)
    judged = verifiers.verify_by_all(
        message.rstrip(b"\r\n") + b"\r\n", {shown["dns_name"]: shown["dns_value"].encode()}
    )
    for judge, (word,) in judged.items():
        assert word.result is verifiers.Result.PASS, (judge, word)


def kept(machine: FreshDebian) -> set[str]:
    """What an upgrade must not touch: contents; owners and modes."""
    listed = machine.run(
        *("sh", "-c"),
        "find /etc/carbonseal /var/lib/carbonseal/keys -type f -exec sha256sum {} + | sort;"
        "find /etc/carbonseal /var/lib/carbonseal /var/spool/carbonseal -type d"
        " -printf '%p %m %u %g\\n' | sort",
    )
    return set(listed.splitlines())


def main_pid(machine: FreshDebian, unit: str) -> str:
    return machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).strip()


def test_an_upgrade_keeps_keys_and_data(fresh: FreshDebian) -> None:
    """The new code runs; what was recorded is found, what is sent is signed as before."""
    old, pids = kept(fresh), {one: main_pid(fresh, one) for one in services(fresh)}
    fresh.run("dpkg", "--force-confold", "-i", "/srv/2.deb")
    assert "-2\n" in fresh.run("dpkg-query", "-W", "-f", "${Version}\\n", "carbonseal")
    assert kept(fresh) >= old  # a segment that was loaded makes the directory loaded
    for unit in ("carbonseal-milter.service", "carbonseal-writer.service"):
        assert is_active(fresh, unit)
        assert main_pid(fresh, unit) != pids[unit]
    for one in send(fresh, "second"):
        verify(fresh, one)
    wait_until(lambda: len(found(fresh, "second")) == 1, "the record")
    assert len(found(fresh, "first")) == 1


def test_an_upgrade_that_does_not_take_the_configuration_leaves_the_mail_flowing(
    fresh: FreshDebian,
) -> None:
    """The old processes go on, and apt says why."""
    path = fresh.path(CONFIGURATION)
    good, pid = path.read_text(), main_pid(fresh, "carbonseal-milter")
    path.write_text(good + "unheard_of: {}\n")
    said = fresh.run("dpkg", "--force-confold", "-i", "/srv/1.deb")
    assert "nothing was restarted" in said
    assert main_pid(fresh, "carbonseal-milter") == pid
    try:
        send(fresh, "third")
    finally:
        path.write_text(good)
    assert "nothing was restarted" not in fresh.run("dpkg", "--force-confold", "-i", "/srv/2.deb")
    assert main_pid(fresh, "carbonseal-milter") != pid


def test_after_a_boot_everything_runs(fresh: FreshDebian) -> None:
    """As the power failure left it."""
    fresh.stop()
    fresh.boot()
    for unit in ("carbonseal-milter.service", "carbonseal-writer.service"):
        assert is_active(fresh, unit)
    assert fresh.call("systemctl", "--failed", "--no-legend").stdout == ""


def test_remove_keeps_what_is_not_the_packages_and_a_return_finds_it(fresh: FreshDebian) -> None:
    """Configuration, keys, archive and users stay; services come back by themselves."""
    old = kept(fresh)
    said = fresh.run("dpkg", "-r", "carbonseal")
    assert "Postfix still asks the milter" in said
    assert kept(fresh) >= old
    assert not fresh.path("/usr/lib/carbonseal").exists()
    assert fresh.call("pgrep", "-u", "carbonseal,carbonseal-writer").stdout == ""
    fresh.run("dpkg", "--force-confold", "-i", "/srv/2.deb")
    for unit in ("carbonseal-milter.service", "carbonseal-writer.service"):
        assert is_active(fresh, unit)
    assert len(found(fresh, "first")) == 1


# What the machine itself goes on writing, and what this test made.
OTHERS = re.compile(
    r"/(var/(log|cache|spool/(postfix|sink)|lib/(dpkg|postfix|systemd/(catalog|coredump|random)))"
    r"|root|etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/.pwd.lock|var/tmp)"
)


def test_purge_leaves_nothing(fresh: FreshDebian, before: dict[str, object]) -> None:
    """No file, no user, no group, no unit, no entry of dpkg's."""
    fresh.run(
        *("sh", "-c"),
        "postconf -X smtpd_milters non_smtpd_milters smtp_dns_support_level"
        " default_destination_recipient_limit && postconf -e mydestination= relayhost=",
    )
    said = fresh.run("dpkg", "--purge", "carbonseal")
    assert "removing private keys" in said
    after = traces(fresh)
    files, files_before = after.pop("files"), before["files"]
    assert isinstance(files, set)
    assert isinstance(files_before, set)
    assert sorted(one for one in files - files_before if not OTHERS.match(one)) == []
    # What dh_apparmor writes into each package takes empty directories of apparmor's with it.
    gone = files_before - files - {"/etc/apparmor.d/disable", "/etc/apparmor.d/local"}
    assert sorted(one for one in gone if not OTHERS.match(one)) == []
    assert not [one for one in files if "carbonseal" in one and "/var/log/" not in one]
    for what in ("users", "groups", "units", "packages"):
        assert after[what] == before[what], what


def test_two_builds_of_one_source_are_the_same_octet_by_octet(tmp_path: Path) -> None:
    """The package says which sources it was made of, and anybody can make it again."""
    first = package("2").read_bytes()
    environment = os.environ | {"REVISION": "2", "TZ": "Pacific/Auckland", "LC_ALL": "C"}
    environment["HOME"] = str(tmp_path)
    subprocess.run(["sh", ROOT / "packaging/deb.sh"], env=environment, check=True, umask=0o027)
    assert package("2").read_bytes() == first


def test_the_steps_of_the_container_file_make_a_relay() -> None:
    """No engine runs here: its RUN steps and its entry point, in the same Debian."""
    machine = FreshDebian(PLACE, "container")
    machine.prepare()
    machine.path("/tmp/carbonseal.deb").write_bytes(package("1").read_bytes())
    entry: list[str] = []
    steps = (ROOT / "packaging/container/Containerfile").read_text().replace("\\\n", " ")
    for line in steps.splitlines():
        word, _, rest = line.partition(" ")
        if word == "RUN":
            machine.chroot("env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", rest)
        elif word == "ENTRYPOINT":
            entry = json.loads(rest)
    assert not machine.path("/lib/systemd/systemd").exists()
    configure(
        machine,
        domains="[example.com]",
        socket=f"inet:{ports.free_port()}@127.0.0.1",
        socket_group="null",
    )
    user = "setpriv --reuid=carbonseal --regid=carbonseal --init-groups"
    command = f"timeout --signal=TERM 20 {user} {' '.join(entry)} 2>&1 || true"
    said = machine.chroot("sh", "-c", command)
    assert " ready " in said
    assert " stopped" in said
    assert " error " not in said
