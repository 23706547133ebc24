"""The service as systemd and an administrator treat it: reload, stop, death of any process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import ports
from support.carbonseal import COMMAND, Carbonseal
from support.postfix import is_running
from support.relay import Relay, relay
from support.waiting import wait_until

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]

MESSAGE = b"From: alice@example.com\r\nSubject: service\r\n\r\ntext\r\n"


@pytest.fixture
def running() -> Iterator[Relay]:
    with relay() as started:
        yield started


def send(running: Relay) -> int:
    return running.send("inside", "alice@example.com", ["bob@remote.test"], MESSAGE).end.code


def test_everybody_leaves_when_the_supervisor_is_killed(running: Relay) -> None:
    """No orphan holds the socket or the spool; a new supervisor serves at once."""
    children = running.service.children()
    assert len(children) == 4  # two workers, the status process, the writer
    running.service.kill_supervisor()
    wait_until(
        lambda: not any(is_running(pid) for pid in children), "the children of a killed supervisor"
    )
    running.service.start()
    assert send(running) == 250


def test_a_port_is_free_again_after_the_supervisor_was_killed(tmp_path: Path) -> None:
    """Workers let go of a TCP port, so that the next supervisor can bind it."""
    service = Carbonseal(
        tmp_path / "seal", {"milter": {"socket": f"inet:{ports.free_port()}@127.0.0.1"}}
    )
    service.make_key("example.com")
    service.start()
    service.kill_supervisor()
    service.start()
    assert service.stop() == 0


def test_a_new_configuration_is_taken_up_without_losing_a_message(running: Relay) -> None:
    """HUP: a connection that is open goes on, the next message follows the new rules."""
    with running.client("inside") as client:
        client.mail("alice@example.com")
        mark = running.service.mark()
        running.service.configure({"archive": {"recipients": ["other@archive.example.net"]}})
        running.service.reload()
        running.service.wait_for_log(" ready ", since=mark)
        client.rcpt("bob@remote.test")
        assert client.data(MESSAGE).code == 250
    assert send(running) == 250
    first, second = reversed(running.service.wait_for_records(2))
    assert first["archive_recipients"] == ["archive@archive.example.net"]
    assert second["archive_recipients"] == ["other@archive.example.net"]


def test_a_bad_configuration_is_refused_and_the_old_one_kept(running: Relay) -> None:
    """One sentence with the place, and mail goes on as before."""
    mark = running.service.mark()
    with running.service.file.open("a") as stream:
        stream.write("archiv: {}\n")
    running.service.reload()
    line = running.service.wait_for_log("reload-refused", since=mark)
    assert "did you mean archive?" in line
    assert send(running) == 250


def test_a_new_key_is_taken_up_by_running_workers(running: Relay) -> None:
    """Without a reload; after a moment the old key signs no more."""
    assert send(running) == 250
    running.service.make_key("example.com", "--selector", "fresh")

    def is_signed_with_it_alone() -> bool:
        for _ in range(5):  # each worker looks for itself, and Postfix delivers in any order
            send(running)
        running.mta.wait_until_empty()
        return all(b"s=fresh;" in one.content for one in running.sink.deliveries[-5:])

    wait_until(is_signed_with_it_alone, "signatures with the new key only", timeout=30)


def test_stop_lets_an_open_session_finish(running: Relay) -> None:
    """TERM: what was begun is sealed and recorded before the service leaves."""
    with running.client("inside") as client:
        client.mail("alice@example.com")
        client.rcpt("bob@remote.test")
        os.kill(running.service.pid, signal.SIGTERM)
        running.service.wait_for_log("stopping")
        assert client.data(MESSAGE).code == 250
    assert running.service.stop() == 0
    assert len(running.service.wait_for_records(1)) == 1


def test_without_the_service_postfix_refuses_with_4yz(running: Relay) -> None:
    """Unsealed mail never slips through."""
    running.service.stop()
    with running.mta.client("inside") as client:
        reply = client.mail("alice@example.com")
        assert reply.code // 100 == 4 or client.rcpt("bob@remote.test").code // 100 == 4


def test_one_broken_key_stops_its_own_domain_only(tmp_path: Path) -> None:
    """Mail of the broken domain waits; every other domain is signed."""
    with relay(keys=(("example.com",), ("mail.corp.example.com",))) as running:
        key = next((running.service.directory / "keys" / "mail.corp.example.com").glob("*.pem"))
        running.service.stop()
        key.chmod(0o644)
        running.service.start()
        running.service.wait_for_log("key-unusable")
        assert send(running) == 250
        broken = MESSAGE.replace(b"alice@example.com", b"x@mail.corp.example.com")
        sending = running.send("inside", "x@mail.corp.example.com", ["bob@remote.test"], broken)
        assert sending.end.code == 451
        key.chmod(0o600)

        def is_accepted() -> bool:
            return (
                running.send(
                    "inside", "x@mail.corp.example.com", ["bob@remote.test"], broken
                ).end.code
                == 250
            )

        wait_until(is_accepted, "the mended key", timeout=20)


def test_a_second_service_on_the_same_spool_waits_with_its_writer(running: Relay) -> None:
    """Two writers never load one spool at a time."""
    done = subprocess.run(
        [COMMAND, "--config", running.service.file, "archive", "write", "--once"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 75
    assert "another writer" in done.stderr


def test_the_log_line_of_a_message_names_every_decision(tmp_path: Path) -> None:
    """One canonical line per message, as JSON where that is asked for."""
    with relay({"log": {"format": "json"}}) as running:
        send(running)
        line = json.loads(running.service.wait_for_log('"event": ?"sealed"'))
    assert line["crossing"] == "outbound"
    assert line["signed"].startswith("example.com/")
    assert line["copy"] == "archive@archive.example.net"
    assert "recipient-outside(bob@remote.test)" in line["reasons"]
    assert yaml.safe_load(json.dumps(line)) == line


def test_a_start_without_keys_or_with_a_bad_socket_says_so(tmp_path: Path) -> None:
    """Exit status 78 and one sentence with the remedy."""
    service = Carbonseal(tmp_path / "seal", {})
    done = service.command("run", check=False)
    assert done.returncode == 78
    assert "keys" in done.stderr
    service.make_key("example.com")
    service.configure({"milter": {"socket": "unix:/nonexistent/milter.sock"}})
    done = service.command("run", check=False)
    assert done.returncode == 78
    assert "create /nonexistent" in done.stderr


def test_a_signal_to_the_whole_process_group_is_a_clean_stop(tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches everybody in the foreground; only the supervisor acts on it."""
    service = Carbonseal(tmp_path / "seal")
    service.make_key("example.com")
    process = subprocess.Popen(
        [COMMAND, "--config", service.file, "run"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " ready " in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    log = process.stderr.read()
    assert process.wait(30) == 0
    assert "stopped" in log
    assert "child-" not in log


def test_a_writer_that_dies_while_stopping_is_not_waited_for(running: Relay) -> None:
    """Whoever is gone already need not be told to leave, and nothing else is ever signalled."""
    writer = running.service.children()[-1]
    with running.client("inside") as client:
        client.mail("alice@example.com")
        os.kill(running.service.pid, signal.SIGTERM)
        running.service.wait_for_log("stopping")
        os.kill(writer, signal.SIGKILL)
        client.rset()
    assert running.service.stop(timeout=20) == 0
