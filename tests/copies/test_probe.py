"""`config check --probe`: what is wrong with the archive's host is said, and nothing is sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.carbonseal import ARCHIVE, Carbonseal
from support.name_servers import Knot, Zone
from support.ports import LOOPBACK
from support.postfix import Listener, PrivatePostfix, private_directory
from support.sink import Sink

from carbonseal.keys.publication import mail_hosts
from carbonseal.keys.publication.settings import DnsSettings
from carbonseal.milter import config
from carbonseal.milter.copies import probe
from carbonseal.milter.copies.probe import Host

DISCARD = "smtpd_discard_ehlo_keywords"
SIZE = 10_240_000
CASES = {
    "whole": ({}, "", "STARTTLS"),
    "dsn": ({DISCARD: "dsn"}, "does not offer DSN", "STARTTLS"),
    "smtputf8": ({DISCARD: "smtputf8"}, "does not offer SMTPUTF8", "STARTTLS"),
    "small": ({"message_size_limit": "100000"}, "takes 100000 octets at most", "STARTTLS"),
    "nosize": ({DISCARD: "size"}, "", "does not offer SIZE"),
    "seven": ({DISCARD: "8bitmime"}, "", "does not offer 8BITMIME"),
    "closed": (
        {"smtpd_recipient_restrictions": "static:{550 5.7.1 not for you}, reject"},
        f"RCPT TO:<{ARCHIVE}>",
        "STARTTLS",
    ),
    "later": (
        {"smtpd_recipient_restrictions": "defer"},
        "",
        f"RCPT TO:<{ARCHIVE}>",
    ),
}


def configured(tmp_path: Path, port: int) -> Carbonseal:
    next_hop = f"inet:{port}@{LOOPBACK}"
    return Carbonseal(
        tmp_path / "seal", {"archive": {"recipients": [ARCHIVE], "next_hop": next_hop}}
    )


def found(made: Carbonseal) -> tuple[list[str], list[str]]:
    """Complaints and hints."""
    told = list(probe.findings(config.load(made.file), size_limit=SIZE))
    return (
        [one.sentence for one in told if one.is_complaint],
        [one.sentence for one in told if not one.is_complaint],
    )


@pytest.fixture(scope="module")
def archive() -> Iterator[PrivatePostfix]:
    """A real Postfix in the archive's place, with a port for each thing that can be wrong."""
    with private_directory() as directory, Sink() as sink:
        listeners = [
            Listener(name, {"message_size_limit": str(SIZE), **overrides})
            for name, (overrides, _, _) in CASES.items()
        ]
        with PrivatePostfix(directory, remote=sink.port, listeners=listeners) as mta:
            yield mta
        assert sink.count == 0


@pytest.mark.root
@pytest.mark.postfix
@pytest.mark.parametrize("case", CASES)
def test_what_a_real_host_does_not_offer_is_said(
    case: str, archive: PrivatePostfix, tmp_path: Path
) -> None:
    """Each with what comes of it and what to do; and nothing is put into its queue."""
    _, complaint, hint = CASES[case]
    complaints, hints = found(configured(tmp_path, archive.port(case)))
    assert len(complaints) == bool(complaint), complaints
    assert all(complaint in one and "; " in one for one in complaints)
    assert any(hint in one for one in hints), hints
    assert archive.queue() == []


def test_nobody_listens(tmp_path: Path) -> None:
    """One sentence, with place and remedy, and the exit status of a configuration that is wrong."""
    with Sink() as sink:
        made = configured(tmp_path, sink.port)
    made.make_key("example.com")
    made.spool.mkdir()
    done = made.command("config", "check", "--probe", check=False)
    assert done.returncode == 78
    assert f"{LOOPBACK} port {sink.port}: Connection refused" in done.stderr
    assert made.command("config", "check").returncode == 0


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="another-protocol"),
        pytest.param(b"554 5.3.2 no service\r\n", id="refuses-everybody"),
        pytest.param(b"220-" + b"x" * 100_000, id="a-line-without-end"),
        pytest.param(b"220-a\r\n" * 20_000, id="a-reply-without-end"),
        pytest.param(b"220 a\r\n250-\xff\xfe\r\n999999 x\r\n", id="no-reply-code"),
    ],
)
def test_a_host_that_says_nonsense_is_let_go(said: bytes) -> None:
    """Bounded in time and octets, and never more than a sentence."""
    with serving(said) as port, pytest.raises(probe.Unanswered):
        probe.ask(Host("archive", LOOPBACK, port), [ARCHIVE], seconds=1.0)


@contextlib.contextmanager
def serving(said: bytes) -> Iterator[int]:
    """A server that says that to everybody, and then listens."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(said)
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_the_hosts_are_those_of_the_dns() -> None:
    """MX by preference, else the address, else a sentence."""
    records = (
        "archive 60 MX 20 second",
        "archive 60 MX 10 first",
        "first 60 A 192.0.2.1",
        "second 60 AAAA 2001:db8::2",
        "plain 60 A 192.0.2.3",
        "null 60 MX 0 .",
        "lost 60 MX 10 nowhere",
    )
    with Knot([Zone("example.net", records)]) as server:
        settings = DnsSettings(resolvers=(server.address,))
        hosts = mail_hosts.of("archive.example.net", settings)
        assert [(one.name, one.address) for one in hosts] == [
            ("first.example.net", "192.0.2.1"),
            ("second.example.net", "2001:db8::2"),
        ]
        [plain] = mail_hosts.of("plain.example.net", settings)
        assert plain.address == "192.0.2.3"
        for name in ("null", "lost", "none"):
            with pytest.raises(mail_hosts.NoMailHost, match=rf"^{name}\.example\.net: .*; "):
                mail_hosts.of(f"{name}.example.net", settings)
    [literal] = mail_hosts.of("[192.0.2.9]", DnsSettings())
    assert literal.address == "192.0.2.9"
