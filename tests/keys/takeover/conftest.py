"""Keys of other signers, made by their own tools, and those signers themselves.

OpenDKIM and rspamd run as private processes on UNIX sockets in the test's directory; they sign one
message and are ended by pid.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import old_signer, verifiers
from support.milter_client import Conversation, Envelope

from carbonseal.keys import dns_record, key_file, keyring

_AS_OURSELVES = ["-i", "-u", "root", "-g", "root"] if os.geteuid() == 0 else ["-i"]
_FIELDS: list[tuple[str | bytes, bytes]] = [
    ("From", b" alice@example.com"),
    ("To", b" bob@example.org"),
    ("Subject", b" hello"),
    ("Date", b" Sat, 21 Nov 2026 12:00:00 +0000"),
    ("Message-ID", b" <1@example.com>"),
]
_BODY = b"Hello, Bob.\r\n"
_CLIENTS = "192.0.2.0/24\n127.0.0.0/8\n"


@pytest.fixture(scope="session")
def genkey_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mail.private` and `mail.txt` as opendkim-genkey leaves them."""
    folder = tmp_path_factory.mktemp("genkey")
    command = ["opendkim-genkey", "-b", "2048", "-d", "example.com", "-s", "mail", "-D", folder]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def genkey(genkey_folder: Path) -> Path:
    """The private key file of `genkey_folder`."""
    return genkey_folder / "mail.private"


@pytest.fixture(scope="session")
def records_of() -> Callable[..., dict[str, bytes]]:
    """What DNS would say: `records_of(name=path, ...)`, names as 'selector.domain'."""

    def build(keys: dict[str, Path]) -> dict[str, bytes]:
        return {
            name: dns_record.value(keyring.public_octets(key_file.read(path))).encode()
            for name, path in keys.items()
        }

    return build


Sign = Callable[..., bytes]


@pytest.fixture
def sign_with_opendkim(tmp_path: Path) -> Sign:
    """One message as OpenDKIM signs it, with these lines of opendkim.conf."""

    def sign(lines: str, author: bytes = b"alice@example.com") -> bytes:
        folder = tmp_path / f"opendkim-{time.monotonic_ns()}"
        folder.mkdir()
        (folder / "clients").write_text(_CLIENTS)
        conf = folder / "opendkim.conf"
        conf.write_text(
            f"{lines}\nMode s\nSyslog no\nRequireSafeKeys no\nCanonicalization relaxed/relaxed\n"
            f"InternalHosts {folder}/clients\nSocket local:{folder}/socket\nUMask 000\n"
            "Background no\nAutoRestart no\n"
        )
        with old_signer.running(["/usr/sbin/opendkim", "-f", "-x", conf], folder):
            return _signed(folder / "socket", author)

    return sign


@pytest.fixture
def sign_with_rspamd(tmp_path: Path) -> Sign:
    """One message as rspamd signs it, with these lines of dkim_signing.conf."""

    def sign(lines: str, author: bytes = b"alice@example.com") -> bytes:
        here = tmp_path / f"rspamd-{time.monotonic_ns()}"
        here.mkdir(mode=0o755)
        # The whole list of public suffixes takes it many seconds to compile.
        (here / "suffixes").write_text("com\norg\nnet\n")
        conf = here / "rspamd.conf"
        conf.write_text(
            f"""options {{
  pidfile = "{here}/pid"; tempdir = "{here}"; hs_cache_dir = "{here}/";
  control_socket = "{here}/control mode=0600"; cache_file = "{here}/cache";
  history_file = "{here}/history"; stats_file = "{here}/stats";
  url_tld = "{here}/suffixes";
  dns {{ nameserver = ["127.0.0.1:9"]; }}
  filters = "dkim"; local_addrs = ["192.0.2.0/24", "127.0.0.0/8"];
}}
logging {{ type = "file"; filename = "{here}/log"; level = "info"; }}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
dkim {{ }}
dkim_signing {{
  allow_username_mismatch = true; allow_hdrfrom_mismatch = true;
  {lines}
}}
worker "rspamd_proxy" {{
  bind_socket = "{here}/socket mode=0666"; milter = yes; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""
        )
        with old_signer.running(["/usr/bin/rspamd", "-f", *_AS_OURSELVES, "-c", conf], here):
            return _signed(here / "socket", author)

    return sign


def _signed(socket: Path, author: bytes) -> bytes:
    """The message with the signatures on top, lines in CRLF."""
    fields = [
        ("From", b" " + author) if name == "From" else (name, value) for name, value in _FIELDS
    ]
    envelope = Envelope(f"<{author.decode()}>")
    with Conversation(socket) as conversation:
        conversation.open()
        outcome = conversation.send_message(envelope, fields, _BODY)
    top = [
        (name, value if value.startswith(b" ") else b" " + value)
        for _, name, value in outcome.inserted
        if name.lower() == "dkim-signature"
    ]
    whole = [*reversed(top), *fields]
    section = b"".join(
        (name if isinstance(name, bytes) else name.encode()) + b":" + value + b"\r\n"
        for name, value in whole
    )
    text: bytes = (section + b"\r\n" + _BODY).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return text


def passes(message: bytes, records: dict[str, bytes]) -> list[tuple[str, str, str]]:
    """SDID, selector and result of each signature, by a judge that knows both algorithms."""
    return [
        (one.sdid, one.selector, one.result.value)
        for one in verifiers.verify(verifiers.OPENDKIM, message, records)
    ]


@pytest.fixture(scope="session", name="passes")
def _passes() -> Callable[[bytes, dict[str, bytes]], list[tuple[str, str, str]]]:
    return passes
