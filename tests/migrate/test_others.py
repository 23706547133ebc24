"""dkimpy-milter's and rspamd's configuration: read as they read it, written as ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import old_signer
from support.carbonseal import COMMAND
from support.milter_client import Client, Conversation, Envelope
from support.milter_protocol import Stage

from carbonseal.milter import config, explain
from carbonseal.milter.migrate import dkimpy_milter, rspamd
from carbonseal.milter.migrate.plan import Fate, Plan
from carbonseal.policies import errors


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key as opendkim-genkey leaves it."""
    folder = tmp_path_factory.mktemp("genkey")
    subprocess.run(["opendkim-genkey", "-b", "2048", "-s", "mail", "-D", folder], check=True)
    return folder / "mail.private"


def migrated(signer: str, place: Path, new: Path) -> config.Configuration:
    """What the installed command writes."""
    done = subprocess.run(
        [COMMAND, "migrate", signer, "--from", place, "--to", new],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return config.load(new / "carbonseal.yaml")


def fates(plan: Plan) -> dict[str, Fate]:
    """Of each thing the last that was noted."""
    return {note.name: note.fate for note in plan.notes}


# --- dkimpy-milter -------------------------------------------------------------------------------


def test_dkimpy_milter_is_taken_over_with_both_algorithms(tmp_path: Path, key: Path) -> None:
    """Its default canonicalization, its networks with bits behind the mask, and no logins."""
    seed = tmp_path / "ed"
    seed.write_text("UBFMXE8t9wGOXtM8/yGzQfOt1GHjPc7dPRhdZcDmAIs=\n")
    conf = tmp_path / "dkimpy-milter.conf"
    conf.write_text(
        f"Domain example.com\nSelector mail\nKeyFile {key}\nSelectorEd25519 ed\n"
        f"KeyFileEd25519 {seed}\nInternalHosts csl:192.0.2.9/24,127.0.0.1\nPeerList 192.0.2.1\n"
        "MacroListVerify daemon_name|MX\nMode s\n"
    )
    made = migrated("dkimpy-milter", conf, tmp_path / "new").file
    assert made.signing.canonicalization == "relaxed/simple"
    assert made.ours.networks == ["192.0.2.0/24"]
    assert not made.ours.authenticated
    assert not made.ours.peers
    known = fates(dkimpy_milter.read(conf, trust_loopback=False))
    assert known["peerlist"] is Fate.NOT_NEEDED
    assert known["MacroListVerify"] is Fate.NO_EQUAL


def test_a_macro_can_stand_for_logins_and_listeners(tmp_path: Path, key: Path) -> None:
    """In dkimpy-milter's form, name and value divided by a bar."""
    conf = tmp_path / "dkimpy-milter.conf"
    conf.write_text(
        f"Domain example.com\nSelector mail\nKeyFile {key}\n"
        "MacroList csl:daemon_name|ORIGINATING,auth_type,foo|bar\n"
    )
    plan = dkimpy_milter.read(conf, trust_loopback=False)
    assert (plan.listeners, plan.authenticated) == (("ORIGINATING",), True)
    assert fates(plan)["MacroList"] is Fate.NO_EQUAL  # foo, the last


# --- rspamd --------------------------------------------------------------------------------------


@pytest.fixture
def rspamd_folder(tmp_path: Path, key: Path) -> Path:
    """A configuration directory with keys."""
    folder = tmp_path / "rspamd"
    for name in ("local.d", "override.d", "keys"):
        (folder / name).mkdir(parents=True)
    shutil.copy(key, folder / "keys" / "one")
    shutil.copy(key, folder / "keys" / "two")
    return folder


def test_files_are_merged_as_rspamd_merges_them(rspamd_folder: Path) -> None:
    """What stands in override.d takes the place of the same name in local.d."""
    (rspamd_folder / "local.d" / "dkim_signing.conf").write_text(
        f'sign_authenticated = true; sign_local = false; selector = "old"; try_fallback = false;\n'
        f'path = "{rspamd_folder}/keys/one"; domain {{ example.com {{ }} }}\n'
    )
    (rspamd_folder / "override.d" / "dkim_signing.conf").write_text(
        'selector = "new";\nsign_authenticated = false;\nsign_networks = ["192.0.2.0/24"];\n'
    )
    plan = rspamd.read(rspamd_folder, trust_loopback=False)
    assert [(one.sdid, one.selector) for one in plan.findings.found] == [("example.com", "new")]
    assert not plan.authenticated
    assert plan.clients.networks == ("192.0.2.0/24",)


def test_local_addresses_are_those_of_options(rspamd_folder: Path) -> None:
    """And private ranges where options.inc says nothing; loopback never."""
    conf = rspamd_folder / "local.d" / "dkim_signing.conf"
    conf.write_text(
        f'try_fallback = false; domain {{ example.com {{ selector = "s"; '
        f'path = "{rspamd_folder}/keys/one"; }} }}\n'
    )
    plan = rspamd.read(rspamd_folder, trust_loopback=False)
    assert "10.0.0.0/8" in plan.clients.networks
    assert not any(one.startswith("127.") for one in plan.clients.networks)
    (rspamd_folder / "local.d" / "options.inc").write_text(
        'local_addrs = [ "198.51.100.0/24", "127.0.0.0/8" ];\n'
    )
    plan = rspamd.read(conf, trust_loopback=False)
    assert plan.clients.networks == ("198.51.100.0/24",)


def test_what_rspamd_refuses_and_we_do_not_is_said(rspamd_folder: Path) -> None:
    """Logins of another domain, envelopes of another domain; ARC has no equal."""
    (rspamd_folder / "local.d" / "arc.conf").write_text("")
    (rspamd_folder / "local.d" / "dkim_signing.conf").write_text(
        f'sign_inbound = true; use_domain_sign_local = "recipient"; check_pubkey = true;\n'
        'sign_headers = "(o)from:(x)subject:x-more:received"; unheard_of = 1; try_fallback = false;'
        f'\ndomain {{ example.com {{ selector = "s"; path = "{rspamd_folder}/keys/one"; }} }}\n'
    )
    plan = rspamd.read(rspamd_folder, trust_loopback=False)
    known = fates(plan)
    assert known["allow_username_mismatch"] is Fate.DIFFERENT
    assert known["allow_hdrfrom_mismatch"] is Fate.DIFFERENT
    for name in ("sign_inbound", "use_domain_sign_local", "unheard_of", "ARC"):
        assert known[name] is Fate.NO_EQUAL
    assert plan.oversign == ("x-more",)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        pytest.param("dkim_signing.conf", "domain {", "missing", id="no-end"),
        pytest.param("options.inc", "local_addrs = [", "missing", id="options-without-end"),
        pytest.param("dkim_signing.conf", 'sign_networks = "/nowhere";', "no such", id="no-map"),
    ],
)
def test_a_bad_file_is_one_sentence(rspamd_folder: Path, name: str, text: str, word: str) -> None:
    """With file and line."""
    (rspamd_folder / "local.d" / "dkim_signing.conf").write_text("")
    (rspamd_folder / "local.d" / name).write_text(text)
    with pytest.raises(errors.DataError, match=word):
        rspamd.read(rspamd_folder, trust_loopback=False)


AUTHORS = ("alice@example.com", "news@lists.example.com", "bob@example.net", "eve@partner.example")
CLIENTS = ("192.0.2.10", "203.0.113.9", "10.1.2.3")


@pytest.mark.skipif(not Path("/usr/bin/rspamd").exists(), reason="rspamd is not installed")
def test_the_same_mail_is_signed_by_the_same_key_as_rspamd_signs_with(
    rspamd_folder: Path, tmp_path: Path
) -> None:
    """For every author and client, with a login and without: the real rspamd is asked."""
    conf = rspamd_folder / "local.d" / "dkim_signing.conf"
    conf.write_text(
        f"""sign_networks = ["192.0.2.0/24"]; allow_username_mismatch = true; try_fallback = false;
domain {{
  example.com {{ selector = "one"; path = "{rspamd_folder}/keys/one"; }}
  example.net {{ selector = "two"; path = "{rspamd_folder}/keys/two"; }}
}}
"""
    )
    (rspamd_folder / "local.d" / "options.inc").write_text('local_addrs = ["10.0.0.0/8"];\n')
    new = migrated("rspamd", rspamd_folder, tmp_path / "new")
    differing = {}
    with running(conf, tmp_path / "run") as socket:
        for author in AUTHORS:
            for client in CLIENTS:
                for login in ("", "desk"):
                    old = signed(socket, author, client, login)
                    ours = would(new, author, client, login)
                    if old != ours:
                        differing[author, client, login] = (old, ours)
    assert not differing


def would(new: config.Configuration, author: str, client: str, login: str) -> list[str]:
    """Ours, as SDID/selector."""
    question = explain.Question(client, author, ["bob@partner.example"], login)
    return sorted(explain.explain(question, new).would_sign)


def signed(socket: Path, author: str, client: str, login: str) -> list[str]:
    """rspamd's, as SDID/selector."""
    fields: list[tuple[str | bytes, bytes]] = [
        ("From", f" {author}".encode()),
        ("To", b" bob@partner.example"),
        ("Date", b" Sat, 21 Nov 2026 12:00:00 +0000"),
        ("Message-ID", b" <1@example.com>"),
    ]
    macros = {Stage.MAIL: {"{auth_type}": "PLAIN", "{auth_authen}": login}} if login else {}
    with Conversation(socket) as talk:
        talk.open(Client("desk", client, 25_000, "desk"))
        outcome = talk.send_message(Envelope(f"<{author}>"), fields, b"x\r\n", macros=macros)
    names = []
    for _, name, value in outcome.inserted:
        if name.lower() == "dkim-signature":
            tags = dict(
                one.strip().split("=", 1) for one in value.decode().split(";") if "=" in one
            )
            names.append(f"{tags['d']}/{tags['s']}")
    return sorted(names)


@contextmanager
def running(conf: Path, here: Path) -> Iterator[Path]:
    """A private rspamd with this file as its dkim_signing."""
    here.mkdir(mode=0o755)
    (here / "suffixes").write_text("com\nnet\nexample\n")
    whole = here / "rspamd.conf"
    whole.write_text(
        f"""options {{
  pidfile = "{here}/pid"; tempdir = "{here}"; hs_cache_dir = "{here}/";
  control_socket = "{here}/control mode=0600"; cache_file = "{here}/cache";
  history_file = "{here}/history"; stats_file = "{here}/stats"; url_tld = "{here}/suffixes";
  dns {{ nameserver = ["127.0.0.1:9"]; }}
  filters = "dkim"; local_addrs = ["10.0.0.0/8"];
}}
logging {{ type = "file"; filename = "{here}/log"; level = "info"; }}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
dkim {{ }}
dkim_signing {{ {conf.read_text()} }}
worker "rspamd_proxy" {{
  bind_socket = "{here}/socket mode=0666"; milter = yes; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""
    )
    words = ["/usr/bin/rspamd", "-f", "-i"]
    words += ["-u", "root", "-g", "root"] if os.geteuid() == 0 else []
    with old_signer.running([*words, "-c", whole], here):
        yield here / "socket"
