"""The rig proves itself: a private Postfix does what real relays do and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import postfix, sasl, sink
from support.waiting import wait_until

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a private Postfix needs root, because master(8) changes users"
    ),
]


@pytest.fixture
def directory() -> Iterator[Path]:
    with postfix.private_directory() as path:
        yield path


@pytest.fixture
def remote() -> Iterator[sink.Sink]:
    with sink.Sink() as server:
        yield server


@pytest.fixture
def local() -> Iterator[sink.Sink]:
    with sink.Sink() as server:
        yield server


@pytest.fixture
def archive() -> Iterator[sink.Sink]:
    with sink.Sink() as server:
        yield server


def test_postfix_is_installed() -> None:
    """A machine without Postfix fails here, with the command that installs it."""
    assert (postfix.DAEMONS / "master").exists(), postfix.INSTALL


def test_exact_octets_reach_the_sink(directory: Path, remote: sink.Sink) -> None:
    """What is sent arrives: leading dots, 8-bit octets, NUL, ends of lines."""
    body = b".\r\n..two dots\r\n" + bytes(range(128, 256)) + b"\0\r\n" + b"x" * 900 + b"\r\n"
    content = b"From: a@example.com\r\nSubject: dots\r\n\r\n" + body * 100
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client("inside") as client:
            sending = client.send("a@example.com", ["b@remote.test"], content)
        [delivery] = remote.wait_for(1)
        mta.wait_until_empty()
    assert sending.queue_id in delivery.header_section.decode()
    assert delivery.body == body * 100


@pytest.mark.parametrize(
    ("listener", "identity", "logged"),
    [
        pytest.param(
            "inside",
            {"address": "192.0.2.7", "name": "host.example", "helo": "ehlo.example"},
            "client=host.example[192.0.2.7]",
            id="inside-with-name",
        ),
        pytest.param("outside", {"address": "198.51.100.9"}, "[198.51.100.9]", id="outside"),
        pytest.param("outside", {"address": "2001:db8::9"}, "[2001:db8::9]", id="outside-ipv6"),
        pytest.param(
            "submission",
            {"address": "203.0.113.4", "login": "al ice+é"},
            "sasl_username=al ice+",
            id="submission-with-login",
        ),
    ],
)
def test_xclient_makes_any_client(
    directory: Path, remote: sink.Sink, listener: str, identity: dict[str, str], logged: str
) -> None:
    """Each listener takes a client's address, name, HELO and login from XCLIENT."""
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client(listener, **identity) as client:
            assert client.send("a@example.com", ["b@remote.test"], b"\r\nhello").queue_id
        remote.wait_for(1)
        mta.wait_for_log(rf"postfix/{listener}/smtpd.*{re.escape(logged)}")


def test_a_real_login_needs_its_password(directory: Path, remote: sink.Sink) -> None:
    """AUTH is offered by the submission listener only, and a wrong password logs nobody in."""
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client("outside") as client:
            assert "AUTH" not in client.ehlo().text
        with mta.client("submission") as client:
            assert "AUTH PLAIN" in client.ehlo().text
            assert client.auth_plain("alice", "wrong").code == 535
            assert client.auth_plain("alice", sasl.PASSWORD).code == 235
            assert client.send("a@example.com", ["b@remote.test"], b"\r\nhello").queue_id
        with mta.client("submission") as client:
            assert client.command(b"AUTH PLAIN").code == 334
            assert client.command(b"AGJvYgBvcGVuIHNlc2FtZQ==").code == 235
            assert client.send("a@example.com", ["b@remote.test"], b"\r\nhello").queue_id
        remote.wait_for(2)
        mta.wait_for_log("sasl_username=bob")
        logins = re.findall("sasl_method=PLAIN, sasl_username=(.*)", mta.log())
    assert logins == ["alice", "bob"]


def test_each_destination_has_its_sink(
    directory: Path, remote: sink.Sink, local: sink.Sink, archive: sink.Sink
) -> None:
    """Remote, local and archive mail go their own ways, by the agents a real relay uses."""
    with postfix.PrivatePostfix(
        directory,
        remote=remote.port,
        local=local.port,
        archive=archive.port,
        maps={
            "relay_domains": {"relay.example.org": "x"},
            "virtual_mailbox_domains": {"vmb.example.com": "x"},
            "virtual_mailbox_maps": {"b@vmb.example.com": "x"},
            "virtual_alias_domains": {"valias.example.com": "x"},
            "virtual_alias_maps": {"info@valias.example.com": "someone@remote.test"},
            "alias_maps": {"fw": "ext@remote.test"},
        },
    ) as mta:
        recipients = [
            "b@example.com",
            "fw@example.com",
            "b@vmb.example.com",
            "b@relay.example.org",
            "info@valias.example.com",
            "x@remote.test",
            "archive@archive.example.net",
        ]
        with mta.client("inside") as client:
            sending = client.send("a@example.com", recipients, b"\r\nhello")
            unknown = client.send("a@example.com", ["nobody@valias.example.com"], b"\r\nhello")
        assert sending.queue_id
        assert unknown.recipients[0].code == 550
        mta.wait_until_empty()
        mta.wait_for_log(f"{sending.queue_id}: removed")
        log = mta.log()

    assert _addresses(archive) == ["archive@archive.example.net"]
    assert _addresses(local) == ["b@example.com", "b@vmb.example.com"]
    assert _addresses(remote) == [
        "b@relay.example.org",
        "ext@remote.test",
        "someone@remote.test",
        "x@remote.test",
    ]
    assert set(re.findall(r"postfix/(\w+/)?smtp\[\d+\]: \w+: to=<([^>]*)>", log)) == {
        ("", "b@example.com"),
        ("", "ext@remote.test"),
        ("virtual/", "b@vmb.example.com"),
        ("relay/", "b@relay.example.org"),
        ("", "someone@remote.test"),
        ("", "x@remote.test"),
        ("archive/", "archive@archive.example.net"),
    }
    passed_on = re.findall(r"postfix/local\[\d+\]: \w+: passing <([^>]*)>", log)
    assert passed_on == ["b@example.com"]


def test_sendmail_comes_without_smtp(directory: Path, remote: sink.Sink) -> None:
    """sendmail(1) submits to this instance's own maildrop: the way of non_smtpd_milters."""
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        mta.sendmail("a@example.com", ["b@remote.test"], b"Subject: s\n\nhello\n", "-N", "never")
        [delivery] = remote.wait_for(1)
        mta.wait_for_log(r"/pickup\[.*from=<a@example.com>")
    assert delivery.reverse_path == "a@example.com"
    assert delivery.body == b"hello\r\n"
    assert "NOTIFY=NEVER" in delivery.recipients[0].parameters


def test_internationalised_mail_and_envelope_parameters_arrive(
    directory: Path, remote: sink.Sink
) -> None:
    """SMTPUTF8, BODY, NOTIFY and ORCPT go through as they were given."""
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client("inside") as client:
            client.send(
                "jörg@example.com",
                ["<ünal@remote.test> NOTIFY=FAILURE ORCPT=rfc822;old@remote.test"],
                "Subject: für dich\r\n\r\nhello\r\n".encode(),
                parameters=["SMTPUTF8", "BODY=8BITMIME"],
            )
        [delivery] = remote.wait_for(1)
    assert delivery.reverse_path == "jörg@example.com"
    assert {"SMTPUTF8", "BODY=8BITMIME"} <= set(delivery.parameters)
    assert delivery.addresses == ("ünal@remote.test",)
    assert set(delivery.recipients[0].parameters) == {
        "NOTIFY=FAILURE",
        "ORCPT=rfc822;old@remote.test",
    }


def test_deferred_mail_waits_in_the_queue_until_flushed(directory: Path, remote: sink.Sink) -> None:
    """A sink that says later leaves the message deferred, one that says no makes a bounce."""
    remote.reply("later@remote.test", "450 4.2.0 later")
    remote.reply("@gone.test", "550 5.1.1 gone")
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client("inside") as client:
            queue_id = client.send("a@sender.test", ["later@remote.test"], b"\r\nhello").queue_id
            client.send("a@sender.test", ["b@gone.test"], b"\r\nhello")
        [bounce] = remote.wait_for(1)
        assert (bounce.reverse_path, bounce.addresses) == ("", ("a@sender.test",))
        mta.wait_for_log(rf"{queue_id}.*status=deferred")
        # The bounce is at the sink a moment before it leaves the queue.
        wait_until(
            lambda: [one["queue_id"] for one in mta.queue()] == [queue_id], "the bounce to go"
        )

        remote.reply("later@remote.test", "")
        mta.flush()
        remote.wait_for(2)
        mta.wait_until_empty()


@pytest.mark.parametrize("reply", ["451 4.3.0 later", sink.DROP], ids=["tempfail", "hang-up"])
def test_a_sink_that_fails_after_the_data_has_not_taken_the_message(
    directory: Path, remote: sink.Sink, reply: str
) -> None:
    """What the sink did not confirm is not a delivery; Postfix keeps it."""
    remote.data_reply = reply
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client("inside") as client:
            client.send("a@example.com", ["b@remote.test"], b"\r\nhello")
        mta.wait_for_log("status=deferred")
        assert remote.deliveries == []
        assert len(mta.queue()) == 1


def test_no_milter_means_the_default_action(directory: Path, remote: sink.Sink) -> None:
    """smtpd_milters and milter_default_action reach Postfix, and a reload changes them."""
    absent = f"unix:{directory}/nobody.sock"
    with postfix.PrivatePostfix(directory, remote=remote.port, milters=[absent]) as mta:
        with mta.client("inside") as client:
            assert client.mail("a@example.com").code == 451
        mta.reload(milter_default_action="accept")
        assert mta.postconf("milter_default_action") == "accept"
        with mta.client("inside") as client:
            assert client.send("a@example.com", ["b@remote.test"], b"\r\nhello").queue_id
        remote.wait_for(1)


def test_many_messages_on_one_connection(directory: Path, remote: sink.Sink) -> None:
    """Transactions of one connection stay apart, a reset one leaves nothing."""
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client("inside") as client:
            client.mail("x@example.com")
            client.rcpt("x@remote.test")
            client.rset()
            sent = [
                client.send(f"a{n}@example.com", [f"b{n}@remote.test"], b"\r\n%d" % n).queue_id
                for n in range(50)
            ]
        deliveries = remote.wait_for(50)
        mta.wait_until_empty()
    assert len(set(sent)) == 50
    assert {(one.reverse_path, one.addresses, one.body) for one in deliveries} == {
        (f"a{n}@example.com", (f"b{n}@remote.test",), b"%d\r\n" % n) for n in range(50)
    }


def test_bdat_carries_the_content_without_dots(directory: Path, remote: sink.Sink) -> None:
    """CHUNKING gives the same content as DATA, wherever the chunks are cut."""
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        with mta.client("inside") as client:
            client.mail("a@example.com")
            client.rcpt("b@remote.test")
            assert client.bdat(b"Subject: s\r", b"\n\r\n.dot\r", b"\n.\r\nend\r\n").queue_id
        [delivery] = remote.wait_for(1)
    assert delivery.body == b".dot\r\n.\r\nend\r\n"


def test_stopping_leaves_nothing(directory: Path, remote: sink.Sink) -> None:
    """After stop no process of the instance lives, and its port is free for the next start."""
    mta = postfix.PrivatePostfix(directory, remote=remote.port)
    with mta:
        client = mta.client("inside")  # a client in mid-session does not keep its smtpd alive
        running = mta.processes()
        assert mta.pid in running
        assert len(running) > 3
    client.close()
    assert [pid for pid in running if postfix.is_running(pid)] == []
    with mta, mta.client("inside") as client:
        assert client.send("a@example.com", ["b@remote.test"], b"\r\nagain").queue_id
        remote.wait_for(1)
    assert mta.processes() == set()


def test_a_dead_master_is_reported_with_its_log(directory: Path, remote: sink.Sink) -> None:
    """A start that fails says why, and leaves nothing running."""
    mta = postfix.PrivatePostfix(directory, remote=remote.port, services=["nonsense line"])
    with pytest.raises(postfix.PostfixFailed, match="bad transport type"):
        mta.start()
    assert mta.processes() == set()


def test_a_killed_master_does_not_pass_for_a_running_one(
    directory: Path, remote: sink.Sink
) -> None:
    """Waiting on a Postfix that died ends at once with its log, and stop cleans up its orphans."""
    mta = postfix.PrivatePostfix(directory, remote=remote.port)
    with mta:
        running = mta.processes()
        os.kill(mta.pid, signal.SIGKILL)
        with pytest.raises(postfix.PostfixFailed, match="ended with -9"):
            mta.wait_for_log("never logged")
    assert [pid for pid in running if postfix.is_running(pid)] == []


def test_a_killed_test_process_takes_its_postfix_along(directory: Path) -> None:
    """SIGKILL to whoever started Postfix (a timeout, a crash) leaves no master and no service."""
    program = (
        "import pathlib, sys\n"
        "from support import postfix\n"
        "with postfix.PrivatePostfix(pathlib.Path(sys.argv[1]), remote=9) as mta:\n"
        "    print(*mta.processes(), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, directory],
        env={"PYTHONPATH": str(Path(postfix.__file__).parents[1]), "PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as starter:
        assert starter.stdout is not None
        running = [int(pid) for pid in starter.stdout.readline().split()]
        starter.kill()
    assert len(running) > 3
    wait_until(lambda: not any(postfix.is_running(pid) for pid in running), "the end of all")


def test_a_closed_directory_is_refused(tmp_path: Path, remote: sink.Sink) -> None:
    """A place where the user postfix may not go is named before the start."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(postfix.PostfixFailed, match="private_directory"):
        postfix.PrivatePostfix(closed, remote=remote.port).start()


def test_the_machines_own_postfix_is_not_touched(directory: Path, remote: sink.Sink) -> None:
    """Nothing below /etc/postfix or /var/spool/postfix changes, and port 25 is not opened."""
    before = _states(Path("/etc/postfix")) | _states(Path("/var/spool/postfix"))
    with postfix.PrivatePostfix(directory, remote=remote.port) as mta:
        mta.sendmail("a@example.com", ["b@remote.test"], b"\nhello\n")
        remote.wait_for(1)
        assert ":25 " not in (directory / "etc" / "master.cf").read_text()
    assert _states(Path("/etc/postfix")) | _states(Path("/var/spool/postfix")) == before


def _states(directory: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in directory.rglob("*")}


def _addresses(server: sink.Sink) -> list[str]:
    return sorted(address for one in server.deliveries for address in one.addresses)
