"""The package in a fresh Debian 12 with systemd: installed, configured, used, upgraded, purged.

Ten minutes and root: `make test-package` builds two versions of the package and sets PACKAGE.  The
tests of this file tell one story in order, on one machine that has no network but loopback.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import packaged_relay as relay
from support import ports
from support.fresh_debian import FreshDebian

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build/package"
ARCHIVE = "archive@archive.example.net"
PAGES = "inet:9894@127.0.0.1"
FOR_POSTFIX = "/var/spool/postfix/carbonseal/milter.sock"

# Its dependencies, and what is tried beside it: the package itself comes without a network.
NEEDED = ("systemd", "dbus", "procps", "python3", "libmilter1.0.1", "libpq5", "postfix")
TRIED = ("apparmor", "bash-completion", "man-db", "zsh")

# Exposure to attacks as `systemd-analyze security` counts it, from 0 to 10; 3 and more is "medium".
EXPOSURE = 2.5

pytestmark = [
    pytest.mark.root,
    pytest.mark.postfix,
    pytest.mark.xdist_group("package"),
    pytest.mark.skipif("PACKAGE" not in os.environ, reason="make test-package"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def fresh() -> Iterator[FreshDebian]:
    """A booted machine with Postfix and the two packages in /root."""
    machine = FreshDebian(PLACE, "machine")
    machine.prepare(*NEEDED, *TRIED)
    for revision in ("1", "2"):
        machine.path(f"/srv/{revision}.deb").write_bytes(relay.package(revision).read_bytes())
    try:
        machine.boot()
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="module")
def before(fresh: FreshDebian) -> dict[str, object]:
    return relay.traces(fresh)


def test_it_installs_without_a_network_and_starts_nothing(
    fresh: FreshDebian, before: dict[str, object]
) -> None:
    """Nothing runs before somebody has said which domains are ours; a sentence says so."""
    said = fresh.run("dpkg", "--force-confold", "-i", "/srv/1.deb")
    assert "write at least ours.domains" in said
    assert fresh.call("systemctl", "--failed", "--no-legend").stdout == ""
    assert len(relay.services(fresh)) >= 2
    for unit in relay.services(fresh):
        assert fresh.run("systemctl", "is-enabled", unit).strip() == "enabled"
        assert not relay.is_active(fresh, unit)
    for unit in relay.units(fresh, ".timer"):
        assert fresh.call("systemctl", "is-enabled", unit).stdout.strip() == "disabled"


def test_directories_units_and_profiles_are_as_written(fresh: FreshDebian) -> None:
    """Owners and modes of tmpfiles.d; systemd and AppArmor take what is installed."""
    for line in fresh.path("/usr/lib/tmpfiles.d/carbonseal.conf").read_text().splitlines():
        if line.startswith("d "):
            _, path, mode, owner, group, _ = line.split()
            made = fresh.run("stat", "-c", "%a %U %G", path).split()
            assert made == [mode.lstrip("0"), owner, group], path
    paths = [f"/lib/systemd/system/{one}" for one in relay.units(fresh, ".*")]
    assert fresh.run("systemd-analyze", "verify", *paths) == ""
    for unit in relay.units(fresh, ".service"):
        limit = f"--threshold={EXPOSURE * 10:.0f}"
        fresh.run("systemd-analyze", "security", "--no-pager", limit, unit)
    fresh.run("apparmor_parser", "--skip-kernel-load", "--skip-cache", "/etc/apparmor.d/carbonseal")
    assert "carbonseal" in fresh.run("carbonseal", "--version")


def test_what_was_unpacked_belongs_to_root_and_only_root_may_change_it(
    fresh: FreshDebian,
) -> None:
    """Nothing runs as somebody else than who calls it; compiled Python included."""
    listed = fresh.run("dpkg", "-L", "carbonseal").splitlines()
    seen = 0
    for path in [*map(fresh.path, listed), *fresh.path("/usr/lib/carbonseal").rglob("*")]:
        about, seen = path.lstat(), seen + 1
        assert (about.st_uid, about.st_gid) == (0, 0), path
        if not path.is_symlink():
            assert about.st_mode & 0o7022 == 0, f"{path}: {about.st_mode:o}"
    assert seen > 3000


def test_every_compiled_module_of_ours_is_in_it(fresh: FreshDebian) -> None:
    """Each has a twin in Python for where no compiler is, so that its lack would not be seen."""
    loaded = relay.compiled(fresh)
    assert len(loaded) == len(relay.extensions()) >= 1
    for path in loaded:
        assert re.fullmatch(r"/usr/lib/carbonseal/carbonseal/.*\.so", path)


def test_the_manuals_are_found_by_name(fresh: FreshDebian) -> None:
    """By man(1) and by apropos(1), and groff has nothing to complain of."""
    pages = [one for one in (ROOT / "packaging/man").iterdir() if one.suffix in (".5", ".8")]
    assert len(pages) >= 10
    for one in pages:
        path = fresh.run("man", "-w", one.stem).strip()
        assert path == f"/usr/share/man/man{one.suffix[1:]}/{one.name}.gz"
        shown = fresh.call("sh", "-c", f"man --warnings=w --encoding=UTF-8 {path} 2>&1 >/dev/null")
        assert (shown.returncode, shown.stdout) == (0, ""), one.name
        assert one.stem in fresh.run("whatis", one.stem)


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
    # Started with it, and slower to find the same mistake: until it has, a start finds it running.
    result = ("systemctl", "show", "--value", "-p", "Result", "carbonseal-writer")
    relay.wait_until(lambda: fresh.run(*result).strip() == "exit-code", "the end of the writer")
    fresh.run("systemctl", "reset-failed")


def test_one_edit_and_mail_is_signed_copied_recorded_and_found(fresh: FreshDebian) -> None:
    """The configuration, a key, two lines for Postfix; services started as README.Debian says."""
    edit = {
        "ours.domains": "[example.com]",
        "ours.networks": "[127.0.0.1]",
        "archive.recipients": f"[{ARCHIVE}]",
        "milter.socket": f"unix:{FOR_POSTFIX}",
        "status.listen": PAGES,
    }
    relay.configure(fresh, edit)
    fresh.run("systemctl", "start", "carbonseal-milter", "carbonseal-follow")
    fresh.run("carbonseal", "keys", "generate", "example.com", "--activate", "--assume-published")
    relay.start_sink(fresh)
    fresh.run(
        *("postconf", "-e", "smtpd_milters=unix:/carbonseal/milter.sock"),
        *("non_smtpd_milters=$smtpd_milters", "relayhost=[127.0.0.1]:2525", "mydestination="),
        *("default_transport=smtp",),
        *("smtp_dns_support_level=disabled", "default_destination_recipient_limit=1"),
    )
    fresh.run("systemctl", "restart", "postfix")
    relay.wait_until(lambda: relay.is_active(fresh, "postfix@-"), "Postfix")

    deliveries = relay.send(fresh, "first")
    copies = [one for one in deliveries if ARCHIVE.encode() in one.partition(b"\n\n")[0]]
    assert len(copies) == 1
    for one in deliveries:
        relay.verify(fresh, one)
    relay.wait_until(lambda: len(relay.found(fresh, "first")) == 1, "the record")
    (record,) = relay.found(fresh, "first")
    assert record["archive_recipients"] == [ARCHIVE]
    assert record["crossing"] == "outbound"


def test_what_became_of_it_is_known(fresh: FreshDebian) -> None:
    """The follower reads the journal: recipient and copy are delivered."""
    (record,) = relay.found(fresh, "first")
    relay.wait_until(lambda: relay.state(fresh, "first") == "delivered", "the first delivery")
    told = relay.delivery(fresh, record["record_id"])
    for kind, address in {"recipients": "bob@remote.test", "copies": ARCHIVE}.items():
        assert told[kind] == [{"address": address, "state": "delivered", "left_late": []}]
    traced = relay.as_writer(fresh, "trace", "1@example.com")
    assert traced.returncode == 0
    assert traced.stdout.count("delivered") >= 2


def test_the_service_says_that_it_is_ready(fresh: FreshDebian) -> None:
    """`carbonseal status` and the page for load balancers agree."""
    ready, live = (f"http://127.0.0.1:9894/health/{one}" for one in ("ready", "live"))
    relay.wait_until(lambda: relay.page(fresh, ready)[0] == 200, "readiness")
    assert relay.page(fresh, live)[0] == 200
    shown = fresh.run("carbonseal", "status")
    assert shown.startswith("READY")
    assert json.loads(fresh.run("carbonseal", "status", "--json"))["ready"]


def test_the_nightly_look_finds_everything_on_record(fresh: FreshDebian) -> None:
    """Its unit works as it is confined; the timer, once enabled, waits for the night."""
    fresh.run("systemctl", "enable", "--now", "carbonseal-completeness.timer")
    assert relay.is_active(fresh, "carbonseal-completeness.timer")
    fresh.run("systemctl", "start", "carbonseal-completeness.service")
    result = fresh.run("systemctl", "show", "--value", "-p", "Result", "carbonseal-completeness")
    assert result.strip() == "success"
    assert fresh.path("/var/spool/carbonseal/state/completeness.json").exists()
    looked = relay.as_writer(fresh, "completeness")  # yesterday there was no mail
    assert looked.returncode == 0, looked.stdout
    assert "1 message sealed, 1 of them in the log; 1 crossed, 1 of 1 copy" in looked.stdout


def test_an_upgrade_keeps_keys_and_data(fresh: FreshDebian) -> None:
    """The new code runs; what was recorded is found, what is sent is signed as before."""
    old = relay.kept(fresh)
    pids = {one: relay.main_pid(fresh, one) for one in relay.services(fresh)}
    fresh.run("dpkg", "--force-confold", "-i", "/srv/2.deb")
    assert "-2\n" in fresh.run("dpkg-query", "-W", "-f", "${Version}\\n", "carbonseal")
    assert relay.kept(fresh) >= old  # a segment that was loaded makes the directory loaded
    for unit in relay.services(fresh):
        assert relay.is_active(fresh, unit)
        assert relay.main_pid(fresh, unit) != pids[unit]
    for one in relay.send(fresh, "second"):
        relay.verify(fresh, one)
    relay.wait_until(lambda: relay.state(fresh, "second") == "delivered", "the second delivery")
    assert relay.state(fresh, "first") == "delivered"
    assert relay.is_active(fresh, "carbonseal-completeness.timer")


def test_an_upgrade_that_does_not_take_the_configuration_leaves_the_mail_flowing(
    fresh: FreshDebian,
) -> None:
    """The old processes go on, and apt says why."""
    path = fresh.path(relay.CONFIGURATION)
    good, pid = path.read_text(), relay.main_pid(fresh, "carbonseal-milter")
    path.write_text(good + "unheard_of: {}\n")
    said = fresh.run("dpkg", "--force-confold", "-i", "/srv/1.deb")
    assert "nothing was restarted" in said
    assert relay.main_pid(fresh, "carbonseal-milter") == pid
    try:
        relay.send(fresh, "third")
    finally:
        path.write_text(good)
    assert "nothing was restarted" not in fresh.run("dpkg", "--force-confold", "-i", "/srv/2.deb")
    assert relay.main_pid(fresh, "carbonseal-milter") != pid


def test_after_a_boot_everything_runs(fresh: FreshDebian) -> None:
    """As the power failure left it, and the next mail is followed to its end."""
    fresh.stop()
    fresh.boot()
    for unit in [*relay.services(fresh), "carbonseal-completeness.timer"]:
        assert relay.is_active(fresh, unit), unit
    assert fresh.call("systemctl", "--failed", "--no-legend").stdout == ""
    relay.start_sink(fresh)
    for one in relay.send(fresh, "fourth"):
        relay.verify(fresh, one)
    relay.wait_until(lambda: relay.state(fresh, "fourth") == "delivered", "the fourth delivery")


def test_what_is_written_is_closed_to_everybody_else(fresh: FreshDebian) -> None:
    """As tmpfiles.d says: keys for the milter, the archive for writer and officers."""
    written = relay.permissions(fresh, "/var/lib/carbonseal", "/var/spool/carbonseal")
    rules = {
        "/var/lib/carbonseal/keys/": "6[04]0 root (root|carbonseal)",
        "/var/lib/carbonseal/archive/archive-audit": "660 carbonseal-writer carbonseal-officer",
        "/var/lib/carbonseal/archive/": "640 carbonseal-writer carbonseal-officer",
        "/var/spool/carbonseal/evidence/": "6(00|44) carbonseal-writer carbonseal-writer",
        # What the services say of themselves is for those who get into the directory.
        "/var/spool/carbonseal/state/": "6(00|4[04]) carbonseal(-writer)? carbonseal-writer",
        "/var/spool/carbonseal/": "6[04]0 carbonseal(-writer)? carbonseal-writer",
    }
    for path, mode in written.items():
        rule = next(rules[one] for one in rules if path.startswith(one))
        assert re.fullmatch(rule, mode), (path, mode)
    for place in rules:
        assert any(path.startswith(place) for path in written), place
    closed = {
        "carbonseal": "/var/lib/carbonseal/archive",
        "carbonseal-writer": "/var/lib/carbonseal/keys",
        "nobody": "/var/lib/carbonseal /var/spool/carbonseal",
    }
    for user, places in closed.items():
        command = f"find {places} -type f -readable 2>/dev/null || true"
        command = f'setpriv --reuid={user} --regid=$(id -g {user}) --init-groups sh -c "{command}"'
        assert fresh.run("sh", "-c", command) == "", user


def test_remove_keeps_what_is_not_the_packages_and_a_return_finds_it(fresh: FreshDebian) -> None:
    """Configuration, keys, archive and users stay; services come back by themselves."""
    old = relay.kept(fresh)
    said = fresh.run("dpkg", "-r", "carbonseal")
    assert "Postfix still asks the milter" in said
    assert relay.kept(fresh) >= old
    assert not fresh.path("/usr/lib/carbonseal").exists()
    assert fresh.call("pgrep", "-u", "carbonseal,carbonseal-writer").stdout == ""
    assert not relay.is_active(fresh, "carbonseal-completeness.timer")
    fresh.run("dpkg", "--force-confold", "-i", "/srv/2.deb")
    for unit in relay.services(fresh):
        assert relay.is_active(fresh, unit)
    assert len(relay.found(fresh, "first")) == 1


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
    after = relay.traces(fresh)
    files, files_before = after.pop("files"), before["files"]
    assert isinstance(files, set)
    assert isinstance(files_before, set)
    assert sorted(one for one in files - files_before if not OTHERS.match(one)) == []
    # What dh_apparmor writes into each package takes empty directories of apparmor's with it.
    gone = files_before - files - {"/etc/apparmor.d/disable", "/etc/apparmor.d/local"}
    assert sorted(one for one in gone if not OTHERS.match(one)) == []
    named = [one for one in files if "carbonseal" in one]
    assert not [one for one in named if not re.match("/var/(log|cache/man)/", one)]
    for what in ("users", "groups", "units", "packages"):
        assert after[what] == before[what], what


def test_two_builds_of_one_source_are_the_same_octet_by_octet(tmp_path: Path) -> None:
    """Elsewhere, with another clock, umask and home: whoever doubts a package makes it again."""
    apart = tmp_path / "elsewhere"
    others = shutil.ignore_patterns("build", ".git", ".venv", ".*_cache", "*.so", "__pycache__")
    shutil.copytree(ROOT, apart, ignore=others)
    shutil.copytree(ROOT / "build/deb/fetched", apart / "build/deb/fetched")
    environment = os.environ | {"REVISION": "2", "TZ": "Pacific/Auckland", "LC_ALL": "C"}
    environment["HOME"] = str(tmp_path)
    built = ["sh", apart / "packaging/deb.sh"]
    subprocess.run(built, env=environment, check=True, umask=0o027)
    (again,) = apart.glob("build/deb/*-2/carbonseal_*.deb")
    assert again.read_bytes() == relay.package("2").read_bytes()


def test_the_steps_of_the_container_file_make_a_relay() -> None:
    """No engine runs here: its RUN steps and its entry point, in the same Debian."""
    machine = FreshDebian(PLACE, "container")
    machine.prepare()
    machine.path("/tmp/carbonseal.deb").write_bytes(relay.package("1").read_bytes())
    entry: list[str] = []
    steps = (ROOT / "packaging/container/Containerfile").read_text().replace("\\\n", " ")
    for line in steps.splitlines():
        word, _, rest = line.partition(" ")
        if word == "RUN":
            machine.chroot("env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", rest)
        elif word == "ENTRYPOINT":
            entry = json.loads(rest)
    assert not machine.path("/lib/systemd/systemd").exists()
    edit = {
        "ours.domains": "[example.com]",
        "milter.socket": f"inet:{ports.free_port()}@127.0.0.1",
        "milter.socket_group": "null",
    }
    relay.configure(machine, edit)
    user = "setpriv --reuid=carbonseal --regid=carbonseal --init-groups"
    command = f"timeout --signal=TERM 20 {user} {' '.join(entry)} 2>&1 || true"
    said = machine.chroot("sh", "-c", command)
    assert " ready " in said
    assert " stopped" in said
    assert " error " not in said
