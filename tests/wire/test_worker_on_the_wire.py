"""Starting, reloading and stopping under a client's eyes: nobody who is connected is cut off."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from support import milter_protocol as wire
from support import ports
from support.carbonseal import COMMAND, Carbonseal, wait_until
from support.milter_client import Answer, Channel, Conversation, Envelope

FIELDS: list[tuple[str | bytes, bytes]] = [("From", b" alice@example.com")]
OFFER = wire.framed(
    wire.OPTNEG, b"".join(number.to_bytes(4) for number in (6, 0x1FF, int(wire.ALL_PROTOCOL)))
)


def is_sealed(conversation: Conversation) -> bool:
    """Send one message; whether it was accepted with signature and copy."""
    outcome = conversation.send_message(Envelope(), FIELDS, b"text\r\n")
    return (
        outcome.final == Answer.ACCEPT
        and len(outcome.inserted) == 1
        and len(outcome.added_recipients) == 1
    )


def reload(service: Carbonseal) -> None:
    mark = service.mark()
    service.reload()
    service.wait_for_log(r"[ \"]ready[ \"]", since=mark)


def test_a_connection_that_has_not_spoken_yet_survives_a_reload(made: Carbonseal) -> None:
    """Accepted by an old worker, negotiated after the reload: the old worker waits for it."""
    made.configure({"milter": {"workers": 2, "drain": 10}})
    with made:
        silent = Channel(made.socket, timeout=10)
        # Connections are taken in order: once this one was answered, the silent one was taken.
        with Conversation(made.socket):
            pass
        old = set(made.children())
        reload(made)
        # The old writer and the old worker without a connection have left; the other one stays.
        wait_until(lambda: len(old & set(made.children())) <= 1, "the idle ones' leaving")
        silent.send(OFFER)
        assert silent.receive().command == wire.OPTNEG
        silent.close()
        wait_until(lambda: not old & set(made.children()), "the old worker's leaving")


def test_an_old_worker_that_hangs_does_not_stay_for_ever(made: Carbonseal) -> None:
    """A stopped process cannot leave by itself."""
    made.configure({"milter": {"workers": 1, "drain": 1}})
    with made:
        stuck = worker_of(made)
        os.kill(stuck, signal.SIGSTOP)
        reload(made)
        made.wait_for_log(rf"child-killed.*pid={stuck}\b")
        wait_until(lambda: stuck not in made.children(), "the end of the stopped worker")
        with Conversation(made.socket) as conversation:
            conversation.open()
            assert is_sealed(conversation)


@pytest.mark.parametrize("kind", ["disk-full", "reader-gone"])
def test_mail_flows_though_nothing_can_be_logged(kind: str, made: Carbonseal) -> None:
    """The record holds every decision; a log on a full disk is no reason to refuse mail."""
    if kind == "disk-full":
        error_stream = os.open("/dev/full", os.O_WRONLY)
    else:
        read_end, error_stream = os.pipe()
        os.close(read_end)
    command = [str(COMMAND), "--config", str(made.file), "run"]
    process = subprocess.Popen(command, stderr=error_stream)
    os.close(error_stream)
    try:
        wait_until(made.socket.exists, "the socket")
        for _ in range(3):
            with Conversation(made.socket) as conversation:
                conversation.open()
                assert is_sealed(conversation)
        os.kill(worker_of(made, process.pid), signal.SIGKILL)  # and the supervisor must live on
        with Conversation(made.socket) as conversation:
            conversation.open()
            assert is_sealed(conversation)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_supervisor_that_cannot_start_a_child_goes_on_and_tries_again(
    service: Carbonseal,
) -> None:
    """No descriptors, memory or processes left for a while: that must not end everything."""
    used = len(os.listdir(f"/proc/{service.pid}/fd"))
    before = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
    mark = service.mark()
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (used - 1, before[1]))
    os.kill(worker_of(service), signal.SIGKILL)
    service.wait_for_log("start-failed.*open files", since=mark)
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, before)
    with Conversation(service.socket, timeout=30) as conversation:
        conversation.open()
        assert is_sealed(conversation)


@pytest.mark.parametrize("is_inet", [False, True], ids=["unix", "inet"])
def test_a_reload_may_change_the_mode_of_the_socket(made: Carbonseal, is_inet: bool) -> None:
    """The socket itself stays, so that a reload that fails later leaves one that serves."""
    address = ("127.0.0.1", ports.free_port()) if is_inet else made.socket
    form = f"inet:{address[1]}@127.0.0.1" if isinstance(address, tuple) else f"unix:{address}"
    made.configure({"milter": {"workers": 1, "drain": 1, "socket": form}})
    with made:
        made.configure({"milter": {"workers": 1, "socket": form, "socket_mode": "0600"}})
        reload(made)
        if not is_inet:
            assert stat.S_IMODE(made.socket.stat().st_mode) == 0o600
            made.configure({"milter": {"socket": form, "socket_group": "no-such-group"}})
            mark = made.mark()
            made.reload()
            made.wait_for_log("reload-refused.*no such group", since=mark)
        with Conversation(address) as conversation:
            conversation.open()
            assert is_sealed(conversation)


WITHOUT_DNS = """
set -e
printf '127.0.0.1 localhost\\n' >hosts
printf 'nameserver 192.0.2.%d\\n' 53 54 55 >resolv
mount --bind hosts /etc/hosts
mount --bind resolv /etc/resolv.conf
hostname relay-without-dns
exec "$@"
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of its own needs root")
def test_the_service_starts_while_no_name_server_answers(made: Carbonseal) -> None:
    """At boot a relay may be up before its resolver; its own name must not keep it from starting.

    Here the query takes some 18 seconds, and the workers have 15 for their start.
    """
    command = ["unshare", "--mount", "--uts", "sh", "-c", WITHOUT_DNS, "sh"]
    service = [str(COMMAND), "--config", str(made.file), "run"]
    process = subprocess.Popen(
        [*command, *service], cwd=made.directory, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert " ready " in process.stderr.readline()
        with Conversation(made.socket) as conversation:
            conversation.open()
            assert is_sealed(conversation)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def worker_of(service: Carbonseal, supervisor: int = 0) -> int:
    """The worker's process: the only one that has libmilter loaded."""
    parent = supervisor or service.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (worker,) = [pid for pid in children if "/milter.cpython" in maps_of(pid)]
    return int(worker)


def maps_of(pid: str) -> str:
    """What a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text()
