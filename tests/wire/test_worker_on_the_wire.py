"""Starting, reloading and stopping under a client's eyes: nobody who is connected is cut off."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import milter_protocol as wire
from support import ports
from support.carbonseal import COMMAND, Carbonseal
from support.milter_client import Answer, Channel, Conversation, Envelope, MilterGone, Outcome
from support.waiting import wait_until

from carbonseal.keys.relays import acknowledgement

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


def half_a_message(conversation: Conversation) -> None:
    conversation.open()
    conversation.mail("<alice@example.com>")
    conversation.rcpt("<bob@example.org>")
    conversation.header(*FIELDS[0])


def sockets_of(pid: int) -> set[str]:
    """Its sockets by their numbers in the kernel."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(entry))
    return {one for one in links if one.startswith("socket:")}


def end_worker(service: Carbonseal) -> int:
    """TERM to the only worker; returns its process when it has let go of the relay's socket."""
    worker = worker_of(service)
    os.kill(worker, signal.SIGTERM)
    # The line between the two has one socket at each end, so that only this one is in both.
    wait_until(lambda: not sockets_of(worker) & sockets_of(service.pid), "no more connections")
    return worker


@pytest.mark.parametrize("protocol", ["own"])
def test_a_worker_that_is_told_to_end_finishes_its_sessions_and_is_replaced_at_once(
    made: Carbonseal,
) -> None:
    """TERM to the only worker: nothing is cut off, and who comes meanwhile is served by another.

    Its sessions may take all of milter.drain; an MTA that cannot speak with anybody gives up before
    that, and has its mail wait.
    """
    made.configure({"milter": {"workers": 1, "drain": 300}})
    with made:
        mark = made.mark()
        with Conversation(made.socket) as conversation:
            half_a_message(conversation)
            worker = end_worker(made)
            with Conversation(made.socket, timeout=30) as other:
                other.open()
                assert is_sealed(other)
            assert worker in made.children()
            reply, edits = conversation.end_of_message()
            conversation.abort()
            assert is_sealed(conversation)
        assert reply.answer in (Answer.ACCEPT, Answer.CONTINUE)
        assert len(edits.inserted) == len(edits.added_recipients) == 1
        wait_until(lambda: worker not in made.children(), "its leaving")
        made.wait_for_log(rf"worker-leaves pid={worker} ", since=mark)
        made.wait_for_records(3)
        assert worker_of(made) != worker
        # It was no accident: no pause before the next one, nothing to be looked after.
        assert "child-died" not in made.log()
        assert "segment-recovered" not in made.log()


@pytest.mark.parametrize("protocol", ["own"])
def test_a_relay_stops_while_a_worker_that_was_told_to_end_finishes(made: Carbonseal) -> None:
    """TERM to all processes, as a service manager may send it: all leave, and nobody stays."""
    made.configure({"milter": {"workers": 1, "drain": 30}})
    with made, Conversation(made.socket) as conversation:
        half_a_message(conversation)
        mark = made.mark()
        end_worker(made)
        os.kill(made.pid, signal.SIGTERM)
        made.wait_for_log("stopping", since=mark)
        reply, _ = conversation.end_of_message()
        conversation.quit()
        made.wait_for_log("stopped", since=mark)
        assert reply.answer in (Answer.ACCEPT, Answer.CONTINUE)
        assert made.stop() == 0
        assert "child-died" not in made.log()
        assert "child-killed" not in made.log()


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


# --- keys -----------------------------------------------------------------------------------------

# Between the signature and the answer the record is written; there this lets a message wait, and
# before its first look at the keys a worker.
HOLD = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void hold(const char *name) {
    const char *path = getenv(name);
    while (path && access(path, F_OK) == 0) usleep(5000);
}

int fdatasync(int file) {
    const char *reached = getenv("REACHED");
    const char *path = getenv("HOLD_MESSAGES");
    if (path && access(path, F_OK) == 0 && reached) close(creat(reached, 0600));
    hold("HOLD_MESSAGES");
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    const char *end = strrchr(path, '/');
    if (end && !strcmp(end, "/generation")) hold("HOLD_KEYS");
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
"""


@dataclass(frozen=True)
class Brake:
    """Holds messages between signature and answer, and workers before they read keys."""

    messages: Path  # while this file exists
    keys: Path
    reached: Path  # exists once a message waits


@pytest.fixture
def brake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Brake]:
    source, library = tmp_path / "hold.c", tmp_path / "hold.so"
    source.write_text(HOLD)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    one = Brake(tmp_path / "hold-messages", tmp_path / "hold-keys", tmp_path / "reached")
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("HOLD_MESSAGES", str(one.messages))
    monkeypatch.setenv("HOLD_KEYS", str(one.keys))
    monkeypatch.setenv("REACHED", str(one.reached))
    yield one
    one.messages.unlink(missing_ok=True)
    one.keys.unlink(missing_ok=True)


def in_use(service: Carbonseal) -> list[acknowledgement.Worker]:
    """What the living workers say, as whoever revokes a key would hear it."""
    generation = (service.directory / "keys" / "generation").read_bytes()
    return list(acknowledgement.read(service.spool, generation))


def signing(service: Carbonseal) -> list[set[str]]:
    """The selectors each worker may sign with; none for one that is starting or late."""
    return [
        set() if worker.is_starting else {name.rpartition("/")[2] for name in worker.signing}
        for worker in in_use(service)
    ]


def selector_of(service: Carbonseal) -> str:
    """The key of a message sent now."""
    with Conversation(service.socket) as conversation:
        conversation.open()
        outcome = conversation.send_message(Envelope(), FIELDS, b"text\r\n")
    return selector_in(outcome)


def selector_in(outcome: Outcome) -> str:
    ((_, _, value),) = outcome.inserted
    found = re.search(rb"\bs=([^;]+);", value)
    assert found is not None
    return found[1].decode()


@pytest.fixture
def keyed(tmp_path: Path) -> Carbonseal:
    """A service that signs with the key `a`, with one worker, not started."""
    one = Carbonseal(tmp_path / "seal", {"milter": {"workers": 1, "drain": 10}})
    one.make_key("example.com", "--selector", "a")
    return one


def test_an_activation_is_taken_up_and_acknowledged_without_any_mail(keyed: Carbonseal) -> None:
    """The worker looks by itself; what it says is what it then signs with."""
    with keyed:
        assert signing(keyed) == [{"a"}]
        for selector in ("b", "c"):
            keyed.make_key("example.com", "--selector", selector)
            wait_until(lambda key=selector: signing(keyed) == [{key}], "the change", timeout=10)
        assert selector_of(keyed) == "c"
        assert [worker.pid for worker in in_use(keyed)] == [worker_of(keyed)]


def test_a_key_is_named_until_the_last_message_signed_with_it_is_answered(
    keyed: Carbonseal, brake: Brake
) -> None:
    """Its disk is slow just now: the message has its signature, and Postfix not yet the message."""
    with keyed, ThreadPoolExecutor(1) as pool:
        brake.messages.touch()
        waiting = pool.submit(selector_of, keyed)
        wait_until(brake.reached.exists, "the message at its end")
        keyed.make_key("example.com", "--selector", "b")
        wait_until(lambda: signing(keyed) == [{"a", "b"}], "the change")
        keyed.make_key("example.com", "--selector", "c")
        wait_until(lambda: signing(keyed) == [{"a", "c"}], "the next change")
        brake.messages.unlink()
        assert waiting.result(30) == "a"
        wait_until(lambda: signing(keyed) == [{"c"}], "the end of the old key")
        assert selector_of(keyed) == "c"


def test_a_killed_worker_signs_with_nothing(keyed: Carbonseal, brake: Brake) -> None:
    """Whatever it was doing; the next worker begins with the keys of now."""
    with keyed, ThreadPoolExecutor(1) as pool:
        old = worker_of(keyed)
        brake.messages.touch()
        waiting = pool.submit(selector_of, keyed)
        wait_until(brake.reached.exists, "the message at its end")
        keyed.make_key("example.com", "--selector", "b")
        wait_until(lambda: signing(keyed) == [{"a", "b"}], "the change")
        os.kill(old, signal.SIGKILL)
        with pytest.raises(MilterGone):
            waiting.result(30)
        brake.messages.unlink()  # the supervisor wants to close the dead one's segment
        wait_until(lambda: signing(keyed) == [{"b"}], "the next worker")
        assert old not in [worker.pid for worker in in_use(keyed)]


def test_a_worker_that_reads_its_first_keys_says_so(keyed: Carbonseal, brake: Brake) -> None:
    """Nobody knows yet which it will sign with, and it is seen before it reads."""
    brake.keys.touch()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(keyed.start)
        wait_until(lambda: bool(in_use(keyed)), "the worker's first word")
        assert [worker.is_starting for worker in in_use(keyed)] == [True]
        brake.keys.unlink()
        starting.result(30)
    assert signing(keyed) == [{"a"}]
    assert keyed.stop() == 0
    assert in_use(keyed) == []


def test_an_old_worker_that_still_serves_follows_and_acknowledges(keyed: Carbonseal) -> None:
    """After a reload it finishes its connections, and signs on them with the key of now."""
    with keyed:
        old = worker_of(keyed)
        with Conversation(keyed.socket) as conversation:
            conversation.open()
            reload(keyed)
            wait_until(lambda: len(in_use(keyed)) == 2, "both workers")
            keyed.make_key("example.com", "--selector", "b")
            wait_until(lambda: signing(keyed) == [{"b"}, {"b"}], "the change in both")
            outcome = conversation.send_message(Envelope(), FIELDS, b"text\r\n")
            assert selector_in(outcome) == "b"
        wait_until(lambda: old not in [one.pid for one in in_use(keyed)], "the old one's leaving")
        assert signing(keyed) == [{"b"}]


def test_a_worker_that_cannot_acknowledge_signs_on_and_proves_nothing(keyed: Carbonseal) -> None:
    """One warning; mail is first, and nobody takes the silence for a proof."""
    keyed.spool.mkdir()
    (keyed.spool / acknowledgement.FOLDER).write_text("somebody else's")
    with keyed:
        keyed.wait_for_log("keys-not-acknowledged.*keys-in-use")
        keyed.make_key("example.com", "--selector", "b")
        wait_until(lambda: selector_of(keyed) == "b", "the change")
        assert [worker.is_starting for worker in in_use(keyed)] == [True]
        assert keyed.log().count("keys-not-acknowledged") == 1
        (keyed.spool / acknowledgement.FOLDER).unlink()
        wait_until(lambda: signing(keyed) == [{"b"}], "the acknowledgement")
