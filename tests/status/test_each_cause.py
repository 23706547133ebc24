"""Each cause of unreadiness, made for real: seen by the endpoint, by `status`, and by an alert.

One relay and one private Prometheus for all of them; each cause is mended before the next, and
ready again is waited for.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import ports
from support.carbonseal import Carbonseal
from support.milter_client import Answer, Conversation, Envelope
from support.postfix import private_directory
from support.prometheus import Prometheus, prometheus
from support.waiting import wait_until

from carbonseal.milter.status import state_files

pytestmark = pytest.mark.xdist_group("each-cause")
FIELDS: list[tuple[str | bytes, bytes]] = [("From", b" alice@example.com")]
LIMIT = 128 * 1024
ACCEPTED = 'carbonseal_messages_total{crossing="outbound",disposition="accept"}'


class Watched:
    """A relay under the eyes of Prometheus."""

    def __init__(self, service: Carbonseal, port: int, server: Prometheus) -> None:
        self.service = service
        self.port = port
        self.server = server

    def get(self, path: str) -> tuple[int, bytes]:
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            asking.request("GET", path)
            answer = asking.getresponse()
            return answer.status, answer.read()
        finally:
            asking.close()

    def wrong(self) -> list[str]:
        """The checks that make the relay unready."""
        try:
            status, body = self.get("/health/ready")
        except OSError:
            return ["(no answer)"]
        about = json.loads(body) if status != 503 or body.startswith(b"{") else {"checks": []}
        found = [one["name"] for one in about["checks"] if one["needed"] and not one["ok"]]
        assert about.get("ready", False) == (status == 200)
        return found if about["checks"] else ["(no page)"]

    def wait_until_ready(self) -> None:
        wait_until(lambda: not self.wrong(), "the relay to be ready")

    def assert_seen(self, check: str) -> str:
        """By the endpoint, the command and the alert; what the command says."""
        wait_until(lambda: check in self.wrong(), f"{check} to be wrong")
        done = self.service.command("status", check=False)
        assert done.returncode == 1
        assert f"! {check}:" in done.stdout
        self.server.wait_for("CarbonsealNotReady", check=check)
        return done.stdout

    def metric(self, line: str) -> float:
        """The value of one series, named as the page names it."""
        lines = self.get("/metrics")[1].decode().splitlines()
        [found] = [one for one in lines if one.startswith(line + " ")]
        return float(found.rpartition(" ")[2])

    def send(self, count: int = 1) -> list[Answer]:
        with Conversation(self.service.socket) as conversation:
            conversation.open()
            return [
                conversation.send_message(Envelope(), FIELDS, b"text\r\n").final
                for _ in range(count)
            ]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    # No user of a service may enter what pytest makes.
    with private_directory() as directory:
        yield from watched_in(directory, tmp_path_factory.mktemp("watched") / "prom")


def watched_in(directory: Path, beside: Path) -> Iterator[Watched]:
    """The service is no root's: whatever is closed would be open to it."""
    port = ports.free_port()
    service = Carbonseal(directory / "seal", user="nobody")
    service.configure(
        {
            "milter": {"workers": 1, "drain": 1},
            "signing": {"keys": "keys", "rules": [{"author": "*", "sdid": "example.com"}]},
            "record": {
                "spool": "spool",
                "database": f"sqlite:///{service.database}",
                "spool_limit": LIMIT,
            },
            "status": {"listen": f"inet:{port}@127.0.0.1"},
        }
    )
    service.make_key("example.com")
    service.spool.mkdir()
    with on_a_small_disk(service.spool), service, prometheus(beside, port) as server:
        yield Watched(service, port, server)


@pytest.fixture(autouse=True)
def ready(watched: Watched) -> Iterator[None]:
    """Before and after each cause."""
    watched.wait_until_ready()
    yield
    watched.wait_until_ready()


@contextmanager
def on_a_small_disk(path: Path) -> Iterator[None]:
    """A file system of its own, which can be filled, where we may mount one."""
    if os.geteuid() != 0:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=750", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def key_file(watched: Watched) -> Path:
    [path] = (watched.service.directory / "keys/example.com").glob("*.pem")
    return path


def test_a_relay_that_is_well(watched: Watched) -> None:
    """Ready everywhere; what was sent is counted, and by the whole chain."""
    before = watched.metric('carbonseal_signed_messages_total{domain="example.com"}')
    assert watched.send(3) == [Answer.ACCEPT] * 3
    wait_until(
        lambda: (
            watched.metric('carbonseal_signed_messages_total{domain="example.com"}') == before + 3
        ),
        "the count",
    )
    done = watched.service.command("status")
    assert done.stdout.startswith("READY")
    page = json.loads(watched.service.command("status", "--json").stdout)
    assert page["ready"]
    assert page["workers"]["serving"] == 1
    query = "carbonseal_ready"
    wait_until(
        lambda: (
            [
                one["value"][1]
                for one in watched.server.ask(f"/api/v1/query?query={query}")["result"]
            ]
            == ["1"]
        ),
        "the scrape",
    )
    assert not [one for one in watched.server.firing() if one["severity"] == "critical"]


def test_the_key_is_gone(watched: Watched) -> None:
    """Removed behind everybody's back; the workers hold it until they are restarted."""
    path = key_file(watched)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    try:
        assert "the private key is gone" in watched.assert_seen("signing")
    finally:
        aside.rename(path)


def test_the_key_is_empty(watched: Watched) -> None:
    """What a full disk can leave of it."""
    path = key_file(watched)
    content = path.read_bytes()
    os.truncate(path, 0)
    try:
        assert "no private key any more" in watched.assert_seen("signing")
    finally:
        path.write_bytes(content)


def test_the_key_is_closed_to_the_service(watched: Watched) -> None:
    """Restored from a backup by root, who can read it and sees nothing wrong with it."""
    path = key_file(watched)
    about = path.stat()
    path.chmod(0)
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
        path.chmod(0o600)
    try:
        said = watched.assert_seen("signing")
        assert f"{path}: {pwd.getpwuid(about.st_uid).pw_name} may not read it" in said
        watched.service.reload()
        wait_until(lambda: watched.send() == [Answer.TEMPFAIL], "workers that do not hold it")
        assert watched.send() == [Answer.TEMPFAIL]
    finally:
        os.chown(path, about.st_uid, about.st_gid)
        path.chmod(0o600)
        watched.service.reload()
    watched.wait_until_ready()
    wait_until(lambda: watched.send() == [Answer.ACCEPT], "the workers to hold it again")


def test_the_key_is_open_to_everybody(watched: Watched) -> None:
    """Too open for our rules, which refuse it as if it were closed."""
    path = key_file(watched)
    path.chmod(0o644)
    try:
        assert "too many may use it" in watched.assert_seen("signing")
    finally:
        path.chmod(0o600)


@pytest.mark.parametrize(
    "mode", [pytest.param(0o500, id="unwritable"), pytest.param(0, id="closed")]
)
def test_the_spool_is_taken_from_the_service(watched: Watched, mode: int) -> None:
    """A mode that somebody set with the best intentions: no segment can be begun there."""
    spool = watched.service.spool
    usual = spool.stat().st_mode & 0o7777
    spool.chmod(mode)
    try:
        assert f"{spool}: nothing can be written there (Permission denied)" in watched.assert_seen(
            "spool"
        )
        # What the workers hold open they still write; their successors find the door closed.
        watched.service.reload()
        wait_until(lambda: watched.send() == [Answer.TEMPFAIL], "a worker that has no segment")
    finally:
        spool.chmod(usual)
    wait_until(lambda: watched.send() == [Answer.ACCEPT], "the workers to begin a segment")


def test_the_spool_is_gone_or_full(watched: Watched) -> None:
    """Nothing can be put on record: mail is told to come again, and somebody is told why."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root")
    with kept_full(watched.service.spool):
        wait_until(lambda: Answer.TEMPFAIL in watched.send(20), "a refusal")
        assert "nothing can be written there" in watched.assert_seen("spool")
        # Whoever reads the file instead of asking has it from the same full disk.
        about = state_files.read(watched.service.spool, "status")
        assert about is not None
        assert about["ready"] is False
        watched.server.wait_for("CarbonsealRecordsRefused")


@contextmanager
def kept_full(directory: Path) -> Iterator[None]:
    """Whatever comes free is taken: the room of a closed segment, a state that was replaced."""
    filler, is_over = directory / "filler", threading.Event()

    def fill() -> None:
        with filler.open("wb", buffering=0) as stream:
            while not is_over.wait(0.02):
                with contextlib.suppress(OSError):
                    while stream.write(bytes(4096)):
                        pass

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        yield
    finally:
        is_over.set()
        filling.join()
        filler.unlink()


def test_the_spool_is_at_its_limit(watched: Watched) -> None:
    """The writer stands still, and more waits than may."""
    service = watched.service
    # The reload before has left an old one for a moment, or none yet.
    wait_until(lambda: len(writers(service)) == 1, "one writer")
    [writer] = writers(service)
    os.kill(writer, signal.SIGSTOP)
    try:
        answers = watched.send(150)
        assert answers[0] is Answer.ACCEPT
        assert "the limit is" in watched.assert_seen("spool-limit")
        assert watched.send() == [Answer.TEMPFAIL]
        watched.server.wait_for("CarbonsealSpoolFills")
    finally:
        os.kill(writer, signal.SIGCONT)
        answered = watched.metric(ACCEPTED)
        service.reload()  # the old worker closes its segment, which the writer then takes away
    watched.wait_until_ready()
    # The workers measure the spool once a second by themselves.
    wait_until(lambda: watched.send() == [Answer.ACCEPT], "the workers to see that, too")
    assert watched.metric(ACCEPTED) >= answered > 0  # the new worker's memory holds the old counts


def writers(service: Carbonseal) -> list[int]:
    return [pid for pid in service.children() if "sqlalchemy" in maps(pid)]


def test_the_database_is_down(watched: Watched) -> None:
    """No cause of unreadiness: mail flows, the lag is shown, and somebody is told."""
    locker = sqlite3.connect(watched.service.database, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    try:
        assert watched.send(3) == [Answer.ACCEPT] * 3
        wait_until(lambda: watched.metric("carbonseal_database_up") == 0, "the writer to notice")
        assert not watched.wrong()
        # And perhaps one that was sent before, and not loaded yet.
        assert watched.metric("carbonseal_spool_records") in (3, 4)
        assert watched.metric("carbonseal_spool_lag_seconds") > 0
        done = watched.service.command("status")  # exit status 0
        assert done.stdout.startswith("READY")
        assert "! database: " in done.stdout
        watched.server.wait_for("CarbonsealDegraded", check="database")
    finally:
        locker.execute("ROLLBACK")
        locker.close()
    wait_until(lambda: watched.metric("carbonseal_spool_lag_seconds") == 0, "the writer's return")


def test_the_copies_do_not_arrive(watched: Watched) -> None:
    """As whoever follows Postfix's log writes it down."""
    spool = watched.service.spool
    mailbox = "archive@archive.example.net"
    about = {"state": "failing", "failures": 7, "since": time.time() - 60}
    state_files.write(spool, "copies", {"recipients": {mailbox: about}})
    try:
        assert f"{mailbox} since " in watched.assert_seen("archive-copy")
        watched.server.wait_for("CarbonsealCopyFailing")
    finally:
        state_files.write(spool, "copies", {"recipients": {mailbox: {"state": "ok"}}})


def test_the_evidence_key_is_damaged(watched: Watched) -> None:
    """Only the writer may read it, and says so."""
    directory = watched.service.spool / "evidence"
    wait_until((directory / "evidence.key").exists, "the first seal, after the reload above")
    content = (directory / "evidence.key").read_bytes()
    (directory / "evidence.key").write_bytes(b"no key\n")
    try:
        assert "no Ed25519 private key" in watched.assert_seen("evidence")
    finally:
        (directory / "evidence.key").write_bytes(content)


def test_the_workers_die_again_and_again(watched: Watched) -> None:
    """Killed whenever one comes: the supervisor waits longer each time.  No count falls."""
    watched.send()
    before = watched.metric(ACCEPTED)
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.02):
            for pid in watched.service.children():
                if "/milter.cpython" in maps(pid):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        watched.assert_seen("workers")
        watched.server.wait_for("CarbonsealRestarting", role="worker")
    finally:
        stop.set()
        killer.join()
    watched.wait_until_ready()
    assert watched.send() == [Answer.ACCEPT]
    wait_until(lambda: watched.metric(ACCEPTED) == before + 1, "the count to go on")


def maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def test_the_service_is_stopped(watched: Watched) -> None:
    """Last: nobody answers, the command says so from the file, and Prometheus by itself."""
    assert watched.service.stop() == 0
    done = watched.service.command("status", check=False)
    assert done.returncode == 1
    assert "the service has stopped" in done.stdout
    watched.server.wait_for("CarbonsealDown")
    watched.service.start()
