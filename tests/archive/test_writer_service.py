"""The writer as a service of its own: what systemd is told of it, and when."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.carbonseal import COMMAND, Carbonseal

from carbonseal.milter.archive.writing import known_archive
from carbonseal.milter.supervision.service_manager import WriterNotices
from carbonseal.policies.errors import ConfigurationError, TryLater

PATIENCE = 60
NOBODY = "postgresql+psycopg://writer@127.0.0.1:1/archive"  # where nobody listens


class Manager:
    """systemd's end of the socket, and the writer that it starts."""

    def __init__(self, channel: socket.socket, service: Carbonseal) -> None:
        self.channel = channel
        self.service = service
        service.spool.mkdir(exist_ok=True)

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """A writer; ended at the end."""
        command = [COMMAND, "--config", self.service.file, "archive", "write"]
        environment = {**os.environ, "NOTIFY_SOCKET": self.channel.getsockname()}
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
                process.communicate(timeout=PATIENCE)

    def heard(self) -> list[str]:
        """The next assignments."""
        return self.channel.recv(4096).decode().splitlines()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(PATIENCE)
        channel.bind(str(tmp_path / "notify"))
        yield Manager(channel, Carbonseal(tmp_path / "seal"))


def test_what_comes_after_the_writer_finds_spool_and_archive_in_its_hands(
    manager: Manager,
) -> None:
    """Ready: no other writer begins, and whoever asks the archive has its tables.

    The units of retention and completeness start after it; on a new host they would find no archive
    otherwise.
    """
    with manager.started() as process:
        assert manager.heard() == ["READY=1", "STATUS=loads the spool"]
        with closing(sqlite3.connect(manager.service.database)) as connection:
            assert connection.execute("SELECT count(*) FROM message").fetchone() == (0,)
        with manager.started() as second:
            assert second.wait(PATIENCE) == TryLater.exit_code
        process.terminate()
        assert manager.heard() == ["STOPPING=1"]
        assert process.wait(PATIENCE) == 0


def test_a_writer_whose_database_cannot_serve_is_ready_and_says_so(manager: Manager) -> None:
    """Records wait in the spool; nobody's start has to wait with them."""
    manager.service.configure({"record": {"database": NOBODY}})
    with manager.started() as process:
        ready, status = manager.heard()
        assert ready == "READY=1"
        assert status.startswith("STATUS=waits: ")
        assert "127.0.0.1" in status
        process.terminate()
        assert manager.heard() == ["STOPPING=1"]


def test_a_writer_whose_archive_is_gone_is_ready_and_says_so(manager: Manager) -> None:
    """It waits as for a database that is down: a start that failed would end it after a while."""
    (manager.service.spool / known_archive.MARK).touch()
    with manager.started() as process:
        ready, status = manager.heard()
        assert ready == "READY=1"
        assert status.startswith("STATUS=waits: ")
        assert "the archive is gone" in status
        process.terminate()
        assert manager.heard() == ["STOPPING=1"]
    assert not manager.service.database.exists()


def test_a_writer_that_cannot_work_is_never_ready(manager: Manager) -> None:
    """Its start fails, and whoever started it hears of it."""
    with closing(sqlite3.connect(manager.service.database)) as connection:
        connection.execute("CREATE TABLE message (of_another_program TEXT)")
    with manager.started() as process:
        assert process.wait(PATIENCE) == ConfigurationError.exit_code
        manager.channel.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.heard()


def test_what_is_wrong_with_the_database_cannot_pass_for_another_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server words it; each word is told once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notices = WriterNotices()
        for _ in range(2):
            notices.waits("refused\nMAINPID=1")
        notices.loads()
        told = [channel.recv(4096).decode() for _ in range(2)]
        assert told == ["READY=1\nSTATUS=waits: refused MAINPID=1", "STATUS=loads the spool"]
        with pytest.raises(BlockingIOError):
            channel.recv(4096)
