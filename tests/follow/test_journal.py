"""The follower on the journal of a real systemd-journald, which runs privately.

The daemon lives in a mount namespace in which /run is a directory of the test, so that the
machine's own journal is neither read nor written.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from support.waiting import PATIENCE, wait_until

from carbonseal.milter.archive import segments
from carbonseal.milter.follow import journal as journals
from carbonseal.milter.follow import journal_export, position
from carbonseal.milter.follow.journal import Journal
from carbonseal.milter.follow.log_line import Services
from carbonseal.milter.follow.taken import Entry, LogUnreadable

_JOURNALD = Path("/lib/systemd/systemd-journald")
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_DROPPED = b"a596d6fe7bfa4994828e72309e95d61e"
_STARTED = b"f77379a8490b408bbe5f6940505a777b"  # SD_MESSAGE_JOURNAL_START
_PERSON = 12345  # a user id that is no system account's
pytestmark = pytest.mark.root
_ALONE = """
set -e
mount --make-rprivate /
mount --bind "$0" /run
mount -t tmpfs tmpfs /var/log
if [ -e "$0/boot_id" ]; then mount --bind "$0/boot_id" /proc/sys/kernel/random/boot_id; fi
exec {journald}
"""


class PrivateJournal:
    """A journald of our own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "systemd/journal").mkdir(parents=True)
        (directory / "log/journal").mkdir(parents=True)
        self._socket = directory / "systemd/journal/dev-log"
        self.boot()

    def boot(self, boot_id: str = "") -> None:
        """Start the daemon, in another boot if that is given."""
        (self.directory / "boot_id").unlink(missing_ok=True)
        if boot_id:
            (self.directory / "boot_id").write_text(f"{boot_id}\n")
        self._socket.unlink(missing_ok=True)
        script = _ALONE.format(journald=_JOURNALD)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind("")  # a name of the kernel's choice, which begins with NUL
            notices.settimeout(PATIENCE)
            name = notices.getsockname().decode("ascii").replace("\0", "@")
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, self.directory],
                env={**os.environ, "NOTIFY_SOCKET": name},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # Its socket is there a moment before it asks who sends, and what it then gets has no
            # _UID: nothing that Postfix could have written.
            while b"READY=1" not in notices.recv(4096):
                pass

    def stop(self) -> None:
        """End the daemon; what it was sent is written."""
        self.process.terminate()
        self.process.wait()

    @property
    def files(self) -> Path:
        """Where journalctl finds it."""
        return self.directory / "log/journal"

    def log(self, text: bytes, *, program: str = "postfix/smtp", facility: int = 2) -> None:
        """As syslog(3) does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect(str(self._socket))
            one.send(b"<%d>Nov 21 17:16:47 %s[7]: %b" % (facility * 8 + 6, program.encode(), text))

    def log_native(self, **fields: str) -> None:
        """As sd_journal_send(3) does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect(str(self.directory / "systemd/journal/socket"))
            one.send("".join(f"{name}={text}\n" for name, text in fields.items()).encode())

    def log_large(self, octets: int) -> None:
        """The same with more than a datagram holds, by somebody with an account."""
        memory = os.memfd_create("entry", os.MFD_ALLOW_SEALING)
        with open(memory, "wb") as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            stream.write(b"SYSLOG_FACILITY=2\nMESSAGE=" + b"x" * octets + b"\n")
            stream.flush()
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _ALL_SEALS)
            one.connect(str(self.directory / "systemd/journal/socket"))
            socket.send_fds(one, [b""], [memory])

    def log_as_person(self, text: bytes) -> None:
        """The same by somebody with an account."""
        pid = os.fork()
        if pid == 0:
            os.setuid(_PERSON)
            self.log(text)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    def deliver(self, numbers: range) -> None:
        """Deliveries, each to a recipient of its own."""
        for number in numbers:
            self.log(_delivery(number))

    def rotate(self) -> None:
        """Begin new journal files."""
        self.process.send_signal(signal.SIGUSR2)


def _delivery(number: int) -> bytes:
    return (
        b"4jWzgV1kV9z%04d: to=<r%d@out.example>, relay=mx[192.0.2.1]:25, delay=1, "
        b"delays=0/0/0/1, dsn=2.0.0, status=sent (250 Ok)" % (number % 7, number)
    )


@pytest.fixture(scope="module")
def journal() -> Iterator[PrivateJournal]:
    """One for all tests of this file."""
    directory = Path(tempfile.mkdtemp(prefix="jr"))
    directory.chmod(0o755)
    made = PrivateJournal(directory)
    yield made
    made.process.terminate()
    made.process.wait()
    shutil.rmtree(directory)


class Relay:
    """A spool and a configuration that follows a journal."""

    def __init__(self, directory: Path, journal: PrivateJournal) -> None:
        self.spool = directory / "spool"
        self.spool.mkdir()
        self.file = directory / "carbonseal.yaml"
        content = {
            "ours": {"domains": ["example.com"]},
            "record": {"spool": str(self.spool), "relay": "mx1.example.com"},
            "follow": {"log": f"journal:{journal.files}"},
        }
        self.file.write_text(json.dumps(content))

    def start(self, *options: str, stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        """`carbonseal follow`."""
        program = Path(sys.executable).with_name("carbonseal")
        command = [program, "--config", self.file, "follow", *options]
        return subprocess.Popen(command, stderr=stderr)

    def once(self) -> None:
        """To the end of what there is."""
        assert self.start("--once").wait(60) == 0

    def facts(self) -> list[dict[str, Any]]:
        """All that stands in the spool."""
        return [
            fact
            for segment in segments.pending(self.spool)
            for entry in segments.read(segment, 0)
            if entry.fault is None and not entry.is_footer
            for fact in entry.content["facts"]
        ]

    def told(self) -> Counter[str]:
        """How often each delivery does."""
        return Counter(fact["to"] for fact in self.facts() if "to" in fact)


@pytest.fixture
def relay(tmp_path: Path, journal: PrivateJournal) -> Relay:
    """Nothing followed yet."""
    return Relay(tmp_path, journal)


def _wanted(numbers: range) -> Counter[str]:
    return Counter(f"r{number}@out.example" for number in numbers)


def _await(relay: Relay, wanted: Counter[str]) -> None:
    wait_until(
        lambda: set(relay.told()) == set(wanted),
        f"facts about {len(wanted)} deliveries",
        60,
        told=lambda: str(relay.told()),
    )


def test_the_journal_is_followed_through_kill_and_rotation(
    journal: PrivateJournal, relay: Relay
) -> None:
    """Each entry once: after a run that ended, after kill -9, and across journal files."""
    journal.deliver(range(20))
    wait_until(lambda: any(journal.files.rglob("*.journal")), "a journal")
    follower = relay.start()
    try:
        _await(relay, _wanted(range(20)))
        follower.kill()
        follower.wait()
        journal.rotate()
        journal.deliver(range(20, 40))
        follower = relay.start()
        _await(relay, _wanted(range(40)))
        journal.deliver(range(40, 50))
        _await(relay, _wanted(range(50)))
    finally:
        follower.terminate()
        assert follower.wait(30) == 0
    relay.once()
    assert max(relay.told().values()) <= 2  # twice only where a flush was torn by the kill
    assert sum(relay.told().values()) <= 50 + 20


def test_a_reboot_loses_nothing(relay: Relay, journal: PrivateJournal) -> None:
    """Entries of an earlier boot, and the first one of this, after a follower that has stopped."""
    journal.stop()
    journal.boot("6b1d7a2c-0f3e-4c55-9d1f-3a5b7c9e1f20")
    journal.deliver(range(2000, 2003))
    _await_entry(journal, 2002)
    relay.once()
    journal.deliver(range(2003, 2006))
    _await_entry(journal, 2005)
    journal.stop()
    journal.boot()
    journal.deliver(range(2006, 2009))
    follower = relay.start()
    try:
        _await_some(relay, range(2000, 2009))
        journal.deliver(range(2009, 2012))
        _await_some(relay, range(2000, 2012))
    finally:
        follower.terminate()
        assert follower.wait(30) == 0
    told = relay.told()
    assert {told[name] for name in _wanted(range(2000, 2012))} == {1}


def _await_entry(journal: PrivateJournal, number: int) -> None:
    wait_until(lambda: _in_journal(journal, number), f"entry {number} in the journal")


def _in_journal(journal: PrivateJournal, number: int) -> bool:
    command = ["journalctl", "--directory", journal.files, "--output=cat", "SYSLOG_FACILITY=2"]
    said = subprocess.run(command, capture_output=True, check=False).stdout
    return b"<r%d@" % number in said


def _await_some(relay: Relay, numbers: range) -> None:
    wait_until(
        lambda: set(_wanted(numbers)) <= set(relay.told()),
        f"facts about {numbers}",
        60,
        told=lambda: str(relay.told()),
    )


def test_who_wrote_an_entry_counts(journal: PrivateJournal, relay: Relay) -> None:
    """Made up by a user, logged by another program or facility: no fact.  Octets stay octets."""
    journal.log_as_person(_delivery(1000))
    journal.log(_delivery(1001), program="sshd")
    journal.log(_delivery(1002), facility=4)
    journal.log(b"4jWzgV1kV9zcbwh: message-id=<\xff\xc3\xa4@x>", program="postfix/cleanup")
    journal.log(b"4jWzgV1kV9zcbwh: message-id=<end@x>", program="postfix/cleanup")

    def has_all() -> bool:
        relay.once()
        return any(fact.get("message_id") == "<end@x>" for fact in relay.facts())

    wait_until(has_all, "the last entry", 60)
    assert not {f"r{number}@out.example" for number in (1000, 1001, 1002)} & set(relay.told())
    [odd] = [one for one in relay.facts() if "\udcff" in one.get("message_id", "")]
    assert odd["message_id"].encode("utf-8", "surrogateescape") == b"<\xff\xc3\xa4@x>"


def test_a_position_that_the_journal_does_not_know(journal: PrivateJournal, relay: Relay) -> None:
    """It is said, and the journal is read from its beginning."""
    journal.deliver(range(3))
    gaps = []
    made = Journal(
        Services("postfix"),
        position={"journal": str(journal.files), "cursor": "no cursor"},
        directory=str(journal.files),
        once=True,
        report=lambda event, **facts: gaps.append(event),
    )
    entries = _read_to_the_end(made)
    made.close()
    assert gaps == ["log-gap"]
    assert any(b"r2@out.example" in text for _, _, _, text in entries)


def test_what_journald_suppressed_is_a_gap(
    journal: PrivateJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rate limit takes lines away from a busy relay, which somebody has to know.

    journald limits units, of which a test has none.  So a program stands in for journalctl here
    that prints what journald would have written; that a real one writes its own entries so, and
    that they are found, is the next test.
    """
    entries = b"".join(
        b"__CURSOR=s=%d\nMESSAGE=Suppressed 5 messages from %b.service\nMESSAGE_ID=%b\n%b\n\n"
        % (number, unit, _DROPPED, trusted)
        for number, (unit, trusted) in enumerate(
            [
                (b"sshd", b"_TRANSPORT=driver\n_UID=0"),
                (b"postfix@-", b"_TRANSPORT=driver\n_UID=0"),
                (b"postfix@made-up", b"_TRANSPORT=journal\n_UID=12345"),
                (b"postfix@made-up", b"SYSLOG_FACILITY=2\n_TRANSPORT=syslog\n_UID=12345"),
            ]
        )
    )
    (tmp_path / "entries").write_bytes(entries)
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\nexec cat {tmp_path}/entries\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert _gaps(journal) == [
        "journald: Suppressed 5 messages from postfix@-.service; set LogRateLimitIntervalSec=0 in "
        "that unit"
    ]


def test_nobody_but_journald_can_make_a_gap(
    journal: PrivateJournal, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with its MESSAGE_ID; while what it says itself when it begins is found."""
    mine = f"Suppressed 5 messages from postfix@{relay.spool.parent.name}.service"
    for facility in ("2", "3"):
        journal.log_native(
            MESSAGE=mine,
            MESSAGE_ID=_DROPPED.decode(),
            SYSLOG_FACILITY=facility,
            _TRANSPORT="driver",
        )
    journal.deliver(range(4000, 4001))
    _await_entry(journal, 4000)
    assert not any(mine in one for one in _gaps(journal))
    monkeypatch.setattr(journals, "_DROPPED", _STARTED)
    transport = journals._MATCHES[-1]
    monkeypatch.setattr(journals, "_MATCHES", (f"MESSAGE_ID={_STARTED.decode()}", transport))
    said: list[str] = []
    monkeypatch.setattr(Journal, "_note_dropped", lambda self, message: said.append(message))
    _gaps(journal)
    assert "Journal started" in said


def _gaps(journal: PrivateJournal) -> list[str]:
    gaps: list[str] = []
    made = Journal(
        Services("postfix"),
        directory=str(journal.files),
        once=True,
        report=lambda event, **facts: gaps.append(facts["problem"]),
    )
    _read_to_the_end(made)
    made.close()
    return gaps


def test_an_entry_that_is_too_long_stops_nobody(journal: PrivateJournal, relay: Relay) -> None:
    """Any user may write one; it is passed over, and said, and what follows it is read."""
    journal.deliver(range(3000, 3002))
    # One that is longer by less than what is read at once may be read whole, which hurts nobody.
    for octets in (journal_export.LONGEST * 3 // 2, 3 * journal_export.LONGEST):
        journal.log_large(octets)
        journal.deliver(range(3002, 3004))
    _await_entry(journal, 3003)
    gaps: list[str] = []
    made = Journal(
        Services("postfix"),
        directory=str(journal.files),
        once=True,
        report=lambda event, **facts: gaps.append(facts["problem"]),
    )
    told = b"".join(text for _, _, _, text in _read_to_the_end(made))
    made.close()
    assert [told.count(b"<r%d@" % number) for number in range(3000, 3004)] == [1, 1, 2, 2]
    assert ["passed over" in one for one in gaps[-2:]] == [True, True]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("missing", "there is no such directory", id="missing"),
        pytest.param("mail.log", "is no directory", id="a-log-file"),
        pytest.param("mail.log/journal", "there is no such directory", id="below-a-file"),
    ],
)
def test_a_directory_that_is_none_is_named(tmp_path: Path, name: str, said: str) -> None:
    """With what to write; no group would help."""
    (tmp_path / "mail.log").write_text("no journal\n")
    made = Journal(Services("postfix"), directory=str(tmp_path / name), once=True)
    with pytest.raises(LogUnreadable) as caught:
        _read_to_the_end(made)
    made.close()
    assert f"follow.log journal:{tmp_path / name}: {said}; name the one" in str(caught.value)
    assert "systemd-journal" not in str(caught.value)


def test_a_journal_that_is_not_for_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the group that may read it."""
    (tmp_path / "bin").mkdir()
    closed = tmp_path / "bin" / "journalctl"  # as it answers whoever is not root
    closed.write_text("#!/bin/sh\necho 'Failed to open: Permission denied' >&2\nexit 1\n")
    closed.chmod(0o755)
    monkeypatch.setenv("PATH", f"{closed.parent}:{os.environ['PATH']}")
    made = Journal(Services("postfix"), directory=str(tmp_path), once=True)
    with pytest.raises(LogUnreadable, match="systemd-journal"):
        _read_to_the_end(made)
    made.close()


def test_one_that_cannot_be_read_for_long_is_said_once(
    tmp_path: Path, journal: PrivateJournal, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new journalctl seems well until it complains; what is said is what is so."""
    journal.deliver(range(4000, 4003))
    _await_entry(journal, 4002)
    content = json.loads(relay.file.read_text())
    place, tried = tmp_path / "journal", tmp_path / "tried"
    content["follow"]["log"] = f"journal:{place}"
    relay.file.write_text(json.dumps(content))
    counting = tmp_path / "bin" / "journalctl"
    counting.parent.mkdir()
    counting.write_text(f'#!/bin/sh\necho >> {tried}\nexec {shutil.which("journalctl")} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("PATH", f"{counting.parent}:{os.environ['PATH']}")
    with (tmp_path / "said").open("wb") as said:
        follower = relay.start(stderr=said)
    try:
        wait_until(lambda: tried.exists() and len(tried.read_text()) > 3, "three more trials", 60)
        place.symlink_to(journal.files)
        wait_until(lambda: bool(relay.told()), "facts", 60, told=lambda: str(relay.told()))
    finally:
        follower.terminate()
        follower.wait(30)
    lines = [line.split(maxsplit=2)[2] for line in (tmp_path / "said").read_text().splitlines()]
    told = [line for line in lines if line.startswith("follow-")]
    waits = [line for line in told if line.startswith("follow-waits")]
    # On a stalled machine there may be two reasons; each of them is said once.
    assert waits
    assert len(set(waits)) == len(waits), told
    assert [line.split()[0] for line in told if line not in waits] == [
        "follow-begins",
        "follow-goes-on",
    ], told


def test_where_there_is_no_journal_it_is_said(tmp_path: Path) -> None:
    """journalctl does not."""
    made = Journal(Services("postfix"), directory=str(tmp_path), once=True)
    with pytest.raises(LogUnreadable, match=r"set follow\.log"):
        _read_to_the_end(made)
    made.close()


def _read_to_the_end(journal: Journal) -> list[Entry]:
    entries: list[Entry] = []
    while not journal.is_finished:
        taken = journal.take()
        if taken is None:
            journal.wait(0.2)
        else:
            entries += taken.entries
    return entries


def test_the_position_is_a_cursor(journal: PrivateJournal, relay: Relay) -> None:
    """An event line carries what journalctl needs to go on."""
    journal.deliver(range(1))
    wait_until(lambda: any(journal.files.rglob("*.journal")), "a journal")
    relay.once()
    found = position.newest(relay.spool)
    assert found is not None
    source = found.of_journal(str(journal.files))
    assert source is not None
    assert source["cursor"].startswith("s=")
    assert found.of_journal("") is None
    assert found.of_file(Path("/var/log/mail.log")) is None
