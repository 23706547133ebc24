"""A fresh Debian 12 below a directory, with systemd as its first process, where packages are tried.

Promises: nothing of this machine changes.  The system lives in namespaces of its own: processes,
mounts, control groups, host name, and a network that is loopback alone, so that whatever happens in
it after `boot` happens without a network.  All of it is gone after `stop`, mounts and processes
included, also when the test was killed: its first process dies with ours.

`prepare` needs the network and debootstrap; packages come from where this machine gets its own.
The bare system is made once and kept beside the others as base.tar.

Raises: Broken, with the command and what it said.

Does not: need systemd-nspawn, or a container engine.  It needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"
_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"

# Nothing that a package brings may start before there is an init.
_INSTALL = """set -e
root=$1; shift
cp /etc/resolv.conf /etc/hosts "$root/etc/"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
printf '#!/bin/sh\\nexit 101\\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
export DEBIAN_FRONTEND=noninteractive
echo "postfix postfix/main_mailer_type select Local only
postfix postfix/mailname string relay.example.com" | chroot "$root" debconf-set-selections
chroot "$root" apt-get update -q
chroot "$root" apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
chroot "$root" apt-get clean
rm "$root/usr/sbin/policy-rc.d"
"""

_BOOT = """set -e
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
    touch "$root/dev/$name" && mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
hostname relay.example.com
ip link set lo up
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /lib/systemd/systemd
"""


class Broken(Exception):
    """A command failed that should not; the text carries what it said."""


def run(arguments: Sequence[str | Path], *, given: str | None = None) -> str:
    """Run a command on this machine and return what it printed.  Raises: Broken."""
    done = subprocess.run(
        arguments,
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Broken(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def sources() -> list[str]:
    """The lines of sources.list that stand for where this machine gets its packages."""
    form = "$(REPO_URI) $(RELEASE)"
    asked = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    found = {tuple(line.split()) for line in asked.splitlines()}
    return [
        f"deb {place} {release} main"
        for place, release in sorted(found, key=lambda one: len(one[1]))
        if release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    ]


def base(place: Path) -> Path:
    """The bare system as a tar file, made now if it is not there."""
    made = place / "base.tar"
    if made.exists():
        return made
    lines = sources()
    if not lines:
        raise Broken(f"apt has no source for {SUITE}; it takes one to make a fresh Debian")
    root = place / "base"
    shutil.rmtree(root, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    run(["debootstrap", "--variant=minbase", SUITE, root, lines[0].split()[1]])
    (root / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
    run(["tar", "-c", "--numeric-owner", "-f", made.with_suffix(".new"), "-C", root, "."])
    made.with_suffix(".new").rename(made)
    shutil.rmtree(root)
    return made


class FreshDebian:
    """One system: prepared, booted, and thrown away."""

    def __init__(self, place: Path, name: str) -> None:
        self.root = place / name
        self._base = base(place)
        self._outer: subprocess.Popen[bytes] | None = None
        self._init = 0

    def prepare(self, *packages: str) -> None:
        """Make the system anew, with these packages in it (names, or paths inside it)."""
        if self.root.exists():
            shutil.rmtree(self.root)
        self.root.mkdir(parents=True)
        run(["tar", "-x", "--numeric-owner", "-f", self._base, "-C", self.root])
        if packages:
            self.install(*packages)

    def install(self, *packages: str) -> None:
        """Install with apt and the network, before `boot`."""
        run(["unshare", "--mount", "sh", "-c", _INSTALL, "install", self.root, *packages])

    def boot(self) -> None:
        """Start systemd in it and wait until it has started everything."""
        spaces = ["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup"]
        self._outer = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "--fork", "--kill-child"),
                *("sh", "-c", _BOOT, "boot", self.root),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while (state := self._state()) not in ("running", "degraded"):
            if time.monotonic() > deadline or self._outer.poll() is not None:
                raise Broken(f"systemd did not start in {self.root}: {state}")
            time.sleep(0.2)

    def _state(self) -> str:
        assert self._outer is not None
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        try:
            found = children.read_text().split()
        except FileNotFoundError:
            return "gone"
        if not found or "systemd" not in Path(f"/proc/{found[0]}/comm").read_text():
            return "not yet"
        self._init = int(found[0])
        return self.call("systemctl", "is-system-running").stdout.strip()

    def call(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the booted system as its root, whatever comes of it."""
        into = ["nsenter", f"--target={self._init}", "--all", "--root"]
        return subprocess.run(
            [*into, "env", "-i", "--chdir=/", _PATH, "LC_ALL=C.UTF-8", *arguments],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def run(self, *arguments: str, given: str | None = None) -> str:
        """The same, and it has to succeed.  Raises: Broken."""
        done = self.call(*arguments, given=given)
        if done.returncode:
            raise Broken(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}")
        return done.stdout

    def chroot(self, *arguments: str, given: str | None = None) -> str:
        """Run a command in the system without booting it, with this machine's network."""
        mounted = 'mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev"'
        script = f'{mounted} && exec env -i {_PATH} chroot "$0" "$@"'
        return run(["unshare", "--mount", "sh", "-c", script, self.root, *arguments], given=given)

    def path(self, inside: str) -> Path:
        """Where a file of the system is on this machine (not below /run or /tmp)."""
        return self.root / inside.lstrip("/")

    def files(self) -> set[str]:
        """Every path of the system on its own disk."""
        listed = self.run("find", "/", "-xdev", "-print0")
        return set(listed.split("\0")) - {""}

    def stop(self) -> None:
        """End all its processes at once, as a power failure would."""
        if self._outer is not None:
            if self._init:
                os.kill(self._init, signal.SIGKILL)
            self._outer.kill()
            self._outer.wait()
            self._outer, self._init = None, 0
