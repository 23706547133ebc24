"""OpenDKIM's configuration in all its forms: what is written here signs what OpenDKIM signs.

The judge is the real opendkim with the old configuration; our side is `policy explain` with the new
one, which asks the very policies and keys that the mail path asks.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import old_signer
from support.old_signer import Case

from carbonseal.milter import cli, config, explain

AUTHORS = (
    "alice@example.com",
    "carol@example.com",
    "news@lists.example.com",
    "bob@example.net",
    "dora@sub.example.org",
    "eve@partner.example",
    "x@exempt.example.com",
)
CASES = [
    *(Case(author) for author in AUTHORS),
    *(Case(author, client="198.51.100.9", login="desk") for author in AUTHORS),
    *(Case(author, client="198.51.100.9") for author in AUTHORS),
    *(Case(author, client="198.51.100.9", listener="submission") for author in AUTHORS),
    *(
        Case("alice@example.com", client=one)
        for one in ("192.0.2.99", "203.0.113.7", "2001:db8::5")
    ),
]
HOSTS = "127.0.0.1\nlocalhost\n192.0.2.0/24\n!192.0.2.99\n2001:db8::/64\n"


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key as opendkim-genkey leaves it."""
    folder = tmp_path_factory.mktemp("genkey")
    subprocess.run(
        ["opendkim-genkey", "-b", "2048", "-d", "example.com", "-s", "mail", "-D", folder],
        check=True,
    )
    return folder / "mail.private"


@dataclass(frozen=True, slots=True)
class Site:
    """An OpenDKIM installation in a directory."""

    folder: Path

    def write(self, **files: str) -> Path:
        """Files with @ for the directory; returns opendkim.conf."""
        for name, text in files.items():
            path = self.folder / name
            path.write_text(text.replace("@", str(self.folder)).replace("(at)", "@"))
        return self.folder / "conf"

    def migrate(self, *options: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of the command."""
        return command("migrate", "opendkim", "--from", str(self.folder / "conf"), *options)


def command(*arguments: str) -> tuple[int, str, str]:
    """`carbonseal ...` in this process."""
    out, aside = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(aside):
        try:
            cli.main(list(arguments))
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return status, out.getvalue(), aside.getvalue()


@pytest.fixture
def site(tmp_path: Path, key: Path) -> Site:
    """One with key files for several domains."""
    folder = tmp_path / "old"
    (folder / "keys").mkdir(parents=True)
    for name in ("example.com", "example.net", "example.org", "one", "two"):
        shutil.copy(key, folder / "keys" / name)
    (folder / "hosts").write_text(HOSTS)
    return Site(folder)


CONFIGURATIONS = {
    "one-key-for-a-domain": {
        "conf": "Domain example.com\nSelector mail\nKeyFile @/keys/one\n"
        "InternalHosts @/hosts\nCanonicalization relaxed/simple\n"
    },
    "one-key-for-a-list-and-its-subdomains": {
        "conf": "Domain csl:example.com,example.org\nSelector Mail\nKeyFile @/keys/one\n"
        "SubDomains yes\nInternalHosts 192.0.2.0/24\nMTA submission\nMode s\n"
    },
    "domains-in-a-file": {
        "conf": "Domain file:@/domains\nSelector mail\nKeyFile @/keys/one\nMode s\n"
        "InternalHosts file:@/hosts\nExternalIgnoreList file:@/hosts\n",
        "domains": "example.com # the first\n\nexample.net\n",
    },
    "tables-with-patterns": {
        "conf": "KeyTable file:@/keytable\nSigningTable refile:@/signing\nInternalHosts @/hosts\n"
        "ExemptDomains exempt.example.com\nMode s\n",
        "keytable": "one example.com:mail:@/keys/one\ntwo example.net:two:@/keys/two\n",
        "signing": "*(at)example.com one\n*(at)*.example.com one\n*(at)example.net two\n",
    },
    "flat-tables": {
        "conf": "KeyTable @/keytable\nSigningTable @/signing\nInternalHosts csl:192.0.2.0/24\n"
        "Mode s\nOversignHeaders From,Subject\n",
        "keytable": "one example.com:mail:@/keys/one\ntwo example.net:two:@/keys/two\n",
        "signing": "alice(at)example.com one\n.example.org two\nexample.net two\n",
    },
    "tables-in-the-configuration": {
        "conf": "KeyTable csl:one=example.com:mail:@/keys/one\n"
        "SigningTable csl:example.com=one\nInternalHosts 192.0.2.10\nMode sv\n"
    },
    "the-author-s-domain-as-a-variable": {
        "conf": "KeyTable @/keytable\nSigningTable refile:@/signing\n"
        "InternalHosts @/hosts\nMode s\n",
        "keytable": "any %:mail:@/keys/%\n",
        "signing": "*(at)example.com any\n*(at)example.net any\n",
    },
    "a-domain-that-signs-for-everybody": {
        "conf": "KeyTable @/keytable\nSigningTable refile:@/signing\n"
        "InternalHosts @/hosts\nMode s\nMacroList daemon_name=submission|other\n",
        "keytable": "one example.com:mail:@/keys/one\n",
        "signing": "* one\n",
    },
    "peers": {
        "conf": "Domain example.com\nSelector mail\nKeyFile @/keys/one\nMode s\n"
        "InternalHosts 192.0.2.0/24\nPeerList 192.0.2.99\n"
    },
    "verifying-only": {
        "conf": "Domain example.com\nSelector mail\nKeyFile @/keys/one\nMode v\n"
        "InternalHosts 192.0.2.0/24\n"
    },
}


def ours(configuration: config.Configuration, case: Case) -> list[tuple[str, str]]:
    """What we would sign, as (SDID, selector)."""
    question = explain.Question(
        client=case.client,
        reverse_path=case.author,
        recipients=["bob@partner.example"],
        login=case.login,
        listener=case.listener,
    )
    said = explain.explain(question, configuration)
    return sorted(
        (sdid, selector) for sdid, _, selector in (s.partition("/") for s in said.would_sign)
    )


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_same_mail_is_signed_by_the_same_key(site: Site, tmp_path: Path, name: str) -> None:
    """For every author, network, listener and login: d= and s= are OpenDKIM's."""
    conf = site.write(**CONFIGURATIONS[name])
    status, out, aside = site.migrate("--to", str(tmp_path / "new"))
    assert status == 0, out + aside
    new = config.load(tmp_path / "new" / "carbonseal.yaml")
    with old_signer.opendkim(conf, site.folder) as old:
        differing = {
            case: (was, will_be)
            for case in CASES
            if (was := old.signs(case)) != (will_be := ours(new, case))
        }
    assert not differing
    status, _, aside = command("--config", str(new.path), "config", "check")
    assert status == 0, aside
