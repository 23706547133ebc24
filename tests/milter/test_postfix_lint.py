"""`carbonseal postfix lint` on real Postfix configurations: one broken setting in each row.

The configurations are read by the machine's postconf and postmap; no Postfix runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import forked
from support.carbonseal import COMMAND
from support.postfix import private_directory

from carbonseal.milter import config, postfix_lint, postfix_settings
from carbonseal.milter.postfix_finding import CATALOGUE, Severity

pytestmark = pytest.mark.skipif(
    shutil.which("postconf", path="/usr/sbin:/usr/bin") is None, reason="needs Debian's postfix"
)

MILTER = "inet:127.0.0.1:8894"
OURS = {
    "milter": {"socket": "inet:8894@127.0.0.1"},
    "ours": {
        "domains": ["example.com", "mx1.example.com", "xn--bcher-kva.example"],
        "networks": ["192.0.2.0/24"],
        "listeners": ["submission"],
    },
    "archive": {"recipients": ["archive@archive.example.net"]},
}
MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "mx1.example.com",
    "myorigin": "example.com",
    "mydestination": "example.com, $myhostname",
    "virtual_mailbox_domains": "bücher.example, xn--bcher-kva.example",
    "mynetworks": "127.0.0.0/8 [::1]/128 192.0.2.0/24",
    "transport_maps": "inline:{archive.example.net=archive:}",
    "smtpd_milters": MILTER,
    "non_smtpd_milters": "$smtpd_milters",
    "internal_mail_filter_classes": "bounce",
    "always_add_missing_headers": "yes",
    "enable_long_queue_ids": "yes",
    "disable_mime_output_conversion": "yes",
}
SUBMISSION = (
    "submission inet n - n - - smtpd"
    " -o milter_macro_daemon_name=submission -o smtpd_sasl_auth_enable=yes"
    " -o smtpd_client_restrictions=permit_sasl_authenticated,reject"
)
MASTER = (
    "smtp inet n - n - - smtpd",
    SUBMISSION,
    "cleanup unix n - n - 0 cleanup",
    "smtp unix - - n - - smtp",
    "archive unix - - n - - smtp",
)


@dataclass(frozen=True)
class Broken:
    """One setting that is not as it should be."""

    code: str
    place: str
    main: Mapping[str, str | None] = field(default_factory=dict)  # None takes a parameter out
    master: tuple[str, ...] = MASTER
    ours: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # beside main.cf; {etc} in values
    also: tuple[str, ...] = ()  # codes that come with it
    says: str = ""


def with_smtpd(*options: str) -> tuple[str, ...]:
    """master.cf with options on the service smtp/inet."""
    return (" ".join([MASTER[0], *(f"-o {{ {one} }}" for one in options)]), *MASTER[1:])


def and_service(line: str) -> tuple[str, ...]:
    return (*MASTER, line)


ROWS: Mapping[str, Broken] = {
    "nobody-asks-the-milter": Broken(
        "milter-missing",
        "smtpd_milters",
        {"smtpd_milters": "inet:127.0.0.1:9999", "non_smtpd_milters": MILTER},
    ),
    "one-service-asks-another": Broken(
        "service-without-milter", "master.cf smtp/inet", master=with_smtpd("smtpd_milters =")
    ),
    "postscreen-hands-over-to-a-service-without": Broken(
        "service-without-milter",
        "master.cf smtpd/pass",
        master=and_service("smtpd pass - - n - - smtpd -o smtpd_milters=inet:127.0.0.1:9"),
    ),
    "milters-off-for-a-service": Broken(
        "no-milters",
        "master.cf smtp/inet",
        master=with_smtpd("receive_override_options = no_milters"),
    ),
    "milters-off-on-loopback-without-a-filter": Broken(
        "no-milters-loopback",
        "master.cf 127.0.0.1:10025/inet",
        master=and_service(
            "127.0.0.1:10025 inet n - n - - smtpd -o receive_override_options=no_milters"
        ),
    ),
    "a-table-chooses-the-milters": Broken(
        "milter-maps", "smtpd_milter_maps", {"smtpd_milter_maps": "cidr:{{192.0.2.1/32 DISABLE}}"}
    ),
    "sendmail-is-not-seen": Broken(
        "non-smtpd-missing", "non_smtpd_milters", {"non_smtpd_milters": ""}
    ),
    "address-as-libmilter-writes-it": Broken(
        "socket-form",
        "smtpd_milters",
        {"smtpd_milters": "inet:8894@127.0.0.1", "non_smtpd_milters": MILTER},
        says="write inet:127.0.0.1:8894",
    ),
    "chroot-and-a-socket-outside-it": Broken(
        "socket-chroot",
        "smtpd_milters",
        {"smtpd_milters": "unix:/run/carbonseal/milter.sock"},
        master=("smtp inet n - y - - smtpd", *MASTER[2:]),
        ours={
            "milter": {"socket": "unix:/run/carbonseal/milter.sock"},
            "ours": {"listeners": []},
        },
        says="looks for /var/spool/postfix/run/carbonseal/milter.sock",
    ),
    "cleanup-in-a-chroot": Broken(
        "socket-chroot",
        "non_smtpd_milters",
        {"smtpd_milters": "unix:/run/carbonseal/milter.sock"},
        master=("smtp inet n - n - - smtpd", "cleanup unix n - y - 0 cleanup", *MASTER[3:]),
        ours={
            "milter": {"socket": "unix:/run/carbonseal/milter.sock"},
            "ours": {"listeners": []},
        },
        also=("non-smtpd-missing",),
    ),
    "a-socket-in-the-queue-directory-without-chroot": Broken(
        "socket-chroot",
        "smtpd_milters",
        {"smtpd_milters": "unix:/seal/m.sock", "non_smtpd_milters": "unix:seal/m.sock"},
        master=("smtp inet n - n - - smtpd", *MASTER[2:]),
        ours={
            "milter": {"socket": "unix:/var/spool/postfix/seal/m.sock"},
            "ours": {"listeners": []},
        },
        says="write unix:seal/m.sock",
    ),
    "filter-before-the-queue": Broken(
        "proxy-filter",
        "master.cf smtp/inet",
        master=with_smtpd("smtpd_proxy_filter = 127.0.0.1:10024"),
    ),
    "accepted-without-the-milter": Broken(
        "default-action", "milter_default_action", {"milter_default_action": "accept"}
    ),
    "accepted-without-this-milter": Broken(
        "default-action",
        "smtpd_milters",
        {"smtpd_milters": "{ inet:127.0.0.1:8894, default_action=accept }"},
    ),
    "refused-for-good-without-the-milter": Broken(
        "default-action-lost", "milter_default_action", {"milter_default_action": "reject"}
    ),
    "old-protocol": Broken("milter-protocol", "milter_protocol", {"milter_protocol": "4"}),
    "no-queue-id-at-the-end": Broken(
        "milter-macros",
        "milter_end_of_data_macros",
        {"milter_end_of_data_macros": "j", "milter_data_macros": ""},
    ),
    "another-milter-behind-ours": Broken(
        "milter-order",
        "smtpd_milters",
        {"smtpd_milters": f"{MILTER}, inet:127.0.0.1:11332"},
        says="inet:127.0.0.1:11332",
    ),
    "filter-hands-back-to-the-milter": Broken(
        "reinjection",
        "master.cf 127.0.0.1:10025/inet",
        {"content_filter": "scan:[127.0.0.1]:10024"},
        master=and_service("127.0.0.1:10025 inet n - n - - smtpd -o content_filter="),
        also=("content-filter",),
    ),
    "bounces-are-not-seen": Broken(
        "bounces-unseen", "internal_mail_filter_classes", {"internal_mail_filter_classes": ""}
    ),
    "queue-ids-that-repeat": Broken(
        "short-queue-ids", "enable_long_queue_ids", {"enable_long_queue_ids": "no"}
    ),
    "an-instance-of-another-name": Broken(
        "log-name",
        "syslog_name",
        {"syslog_name": "mx"},
        says="follow.syslog_name is postfix",
    ),
    "a-listener-of-another-name": Broken(
        "log-name", "master.cf smtp/inet", master=with_smtpd("syslog_name = inbound")
    ),
    "a-listener-that-the-name-of-an-instance-leaves-out": Broken(
        "log-name",
        "master.cf smtp/inet",
        {"syslog_name": "postfix-out"},
        master=with_smtpd("syslog_name = postfix/inbound"),
        ours={"follow": {"syslog_name": "postfix-out"}},
    ),
    "a-log-that-nobody-follows": Broken(
        "log-elsewhere",
        "maillog_file",
        {"maillog_file": "/var/log/postfix.log"},
        ours={"follow": {"log": "journal"}},
    ),
    "a-network-only-postfix-trusts": Broken(
        "network-unlisted",
        "mynetworks",
        {"mynetworks": "192.0.2.0/24, [2001:db8::]/32"},
        says="2001:db8::/32",
    ),
    "a-network-from-a-file": Broken(
        "network-unlisted",
        "mynetworks",
        {"mynetworks": "192.0.2.0/24, {etc}/networks"},
        files={"networks": "# customers\n198.51.100.0/24\n"},
        says="198.51.100.0/24",
    ),
    "a-network-only-the-rule-trusts": Broken(
        "network-unknown-here", "ours.networks", {"mynetworks": "127.0.0.0/8"}
    ),
    "networks-in-a-missing-table": Broken(
        "networks-unreadable", "mynetworks", {"mynetworks": "hash:{etc}/nothing"}
    ),
    "logins-that-prove-nothing": Broken(
        "login-unlisted",
        "master.cf submission/inet",
        ours={"ours": {"authenticated": False, "listeners": []}},
    ),
    "a-listener-nobody-is-called": Broken(
        "listener-unknown", "ours.listeners", ours={"ours": {"listeners": ["submission", "smtps"]}}
    ),
    "a-listener-open-to-all": Broken(
        "listener-open",
        "master.cf smtp/inet",
        master=with_smtpd("milter_macro_daemon_name = submission"),
    ),
    "a-domain-only-postfix-delivers": Broken(
        "domain-unlisted",
        "mydestination",
        {"mydestination": "example.com, $myhostname, example.org"},
        says="example.org",
    ),
    "a-domain-in-a-table": Broken(
        "domain-unlisted",
        "virtual_mailbox_domains",
        {"virtual_mailbox_domains": "texthash:{etc}/domains"},
        files={"domains": "example.org x\nxn--bcher-kva.example x\nbücher.example x\n"},
        says="example.org",
    ),
    "a-domain-in-an-inline-table": Broken(
        "domain-unlisted",
        "relay_domains",
        {"relay_domains": "inline:{example.org=1}", "parent_domain_matches_subdomains": ""},
        says="example.org",
    ),
    "an-alias-domain-by-default": Broken(
        "domain-unlisted",
        "virtual_alias_domains",
        {"virtual_alias_maps": "inline:{example.org=x, info@example.org=a@b.example}"},
        says="example.org",
    ),
    "the-relay-itself": Broken(
        "domain-own-name",
        "mydestination",
        {"mydestination": "example.com, $myhostname, localhost.$mydomain"},
        says="localhost.example.com",
    ),
    "a-domain-only-the-rule-knows": Broken(
        "domain-unknown-here",
        "ours.domains",
        {"mydestination": "$myhostname"},
        says="example.com",
    ),
    "subdomains-of-a-relay-domain": Broken(
        "subdomain-unlisted",
        "relay_domains",
        {"mydestination": "$myhostname", "relay_domains": "example.com"},
        says="no .example.com",
    ),
    "subdomains-only-the-rule-knows": Broken(
        "subdomain-unknown-here",
        "ours.domains",
        ours={"ours": {"domains": [*OURS["ours"]["domains"], ".corp.example.net"]}},
    ),
    "a-domain-of-aliases": Broken(
        "domain-alias-only",
        "virtual_alias_domains",
        {"virtual_alias_domains": "example.com", "mydestination": "$myhostname"},
    ),
    "only-the-u-label": Broken(
        "domain-u-label",
        "virtual_mailbox_domains",
        {"virtual_mailbox_domains": "bücher.example"},
        says="but not xn--bcher-kva.example",
    ),
    "only-the-a-label": Broken(
        "domain-u-label",
        "virtual_mailbox_domains",
        {"virtual_mailbox_domains": "xn--bcher-kva.example"},
        says="but not its U-label",
    ),
    "a-table-that-is-not-there": Broken(
        "domain-table",
        "relay_domains",
        {"relay_domains": "hash:{etc}/nothing"},
        says="No such file",
    ),
    "a-table-of-patterns": Broken(
        "domain-patterns", "relay_domains", {"relay_domains": "regexp:{{/^example\\.org$$/ 1}}"}
    ),
    "unqualified-addresses-go-elsewhere": Broken(
        "origin-unlisted", "myorigin", {"myorigin": "example.net"}
    ),
    "always-bcc-to-the-same-mailbox": Broken(
        "copy-doubled", "always_bcc", {"always_bcc": "Archive@archive.example.net"}
    ),
    "bcc-maps-to-the-same-mailbox": Broken(
        "copy-doubled",
        "recipient_bcc_maps",
        {"recipient_bcc_maps": "pcre:{{!/@example\\.com$$/ archive@archive.example.net}}"},
        says="its sender has addressed",
    ),
    "bcc-maps-and-a-filter-that-hands-back": Broken(
        "copy-doubled",
        "sender_bcc_maps",
        {
            "sender_bcc_maps": "texthash:{etc}/bcc",
            "content_filter": "scan:[127.0.0.1]:10024",
        },
        files={"bcc": "@example.com archive@archive.example.net\n"},
        master=and_service(
            "127.0.0.1:10025 inet n - n - - smtpd -o receive_override_options=no_milters"
        ),
        also=("content-filter",),
        says="without no_address_mappings",
    ),
    "bcc-maps-to-another-mailbox": Broken(
        "copy-elsewhere",
        "sender_bcc_maps",
        {"sender_bcc_maps": "inline:{@example.com=old@archive.example.org}"},
        says="old@archive.example.org",
    ),
    "bcc-maps-that-cannot-be-read": Broken(
        "copy-unknown", "recipient_bcc_maps", {"recipient_bcc_maps": "hash:{etc}/nothing"}
    ),
    "the-comparison-is-with-older-maps": Broken(
        "compare-differs",
        "recipient_delimiter",
        {"recipient_delimiter": "+"},
        ours={"archive": {"compare": "bcc_maps", "bcc_maps": {"delimiter": "-"}}},
    ),
    "copy-beside-the-recipients": Broken(
        "copy-visible", "transport_maps", {"transport_maps": ""}, says="archive.example.net"
    ),
    "dsn-switched-off": Broken(
        "dsn-discarded",
        "smtp_discard_ehlo_keywords",
        {"smtp_discard_ehlo_keywords": "chunking, DSN"},
    ),
    "no-original-recipient": Broken(
        "original-recipient", "enable_original_recipient", {"enable_original_recipient": "no"}
    ),
    "generic-maps": Broken(
        "rewrites-after", "smtp_generic_maps", {"smtp_generic_maps": "inline:{a@b=c@d}"}
    ),
    "header-checks-of-one-transport": Broken(
        "rewrites-after",
        "master.cf smtp/unix",
        master=(*MASTER[:3], "smtp unix - - n - - smtp -o smtp_header_checks=pcre:/x", MASTER[4]),
    ),
    "checks-of-what-milters-add": Broken(
        "milter-header-checks",
        "milter_header_checks",
        {"milter_header_checks": "pcre:{{/^X-/ IGNORE}}"},
    ),
    "content-filter-on-a-service": Broken(
        "content-filter",
        "master.cf smtp/inet",
        master=with_smtpd("content_filter = scan:[127.0.0.1]:10024"),
    ),
    "conversion-to-seven-bit": Broken(
        "seven-bit",
        "disable_mime_output_conversion",
        {"disable_mime_output_conversion": "no"},
    ),
    "missing-headers-are-not-added": Broken(
        "missing-headers", "always_add_missing_headers", {"always_add_missing_headers": "no"}
    ),
    "absent-date-is-signed": Broken(
        "missing-headers",
        "always_add_missing_headers",
        {"always_add_missing_headers": "no"},
        ours={"signing": {"oversign_absent": ["from", "date"]}},
        says="signs the absence of date",
    ),
    "canonical-maps-on-the-envelope": Broken(
        "envelope-rewritten", "canonical_maps", {"canonical_maps": "inline:{a@b=c@d}"}
    ),
    "masquerading": Broken(
        "envelope-rewritten", "masquerade_domains", {"masquerade_domains": "example.com"}
    ),
    "checks-that-redirect": Broken(
        "checks-act",
        "header_checks",
        {"header_checks": "pcre:{etc}/checks"},
        files={"checks": "/^Subject:.*invoice/\n  REDIRECT boss@example.org\n"},
        says="REDIRECT",
    ),
    "checks-that-rewrite": Broken(
        "checks-rewrite",
        "header_checks",
        {"header_checks": "regexp:{{/^Received:/ IGNORE}}"},
        says="IGNORE",
    ),
    "no-smtputf8": Broken("smtputf8-off", "smtputf8_enable", {"smtputf8_enable": "no"}),
    "unwritable-records-are-accepted": Broken(
        "failure-accept",
        "failure.record_not_writable",
        ours={"failure": {"record_not_writable": "accept"}},
    ),
}


def write(directory: Path, row: Broken) -> tuple[Path, Path]:
    """Postfix's directory and our file."""
    etc = directory / "etc"
    etc.mkdir()
    for name, text in row.files.items():
        (etc / name).write_text(text)
    main = {**MAIN, **row.main}
    lines = [f"{name} = {value}" for name, value in main.items() if value is not None]
    (etc / "main.cf").write_text("\n".join(lines).replace("{etc}", str(etc)) + "\n")
    (etc / "master.cf").write_text("\n".join(row.master) + "\n")
    sections = {name: {**section} for name, section in OURS.items()}
    for name, change in row.ours.items():
        sections[name] = {**sections.get(name, {}), **change}
    file = directory / "carbonseal.yaml"
    file.write_text(yaml.safe_dump(sections))
    return etc, file


def run(etc: Path, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    lint = ["postfix", "lint", "--config-directory", str(etc)]
    return forked.run(["--config", str(file), *lint, *options])


def test_a_clean_pair_yields_nothing(tmp_path: Path) -> None:
    """Not even a hint, and status 0."""
    etc, file = write(tmp_path, Broken("", ""))
    done = run(etc, file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no findings" in done.stdout
    assert run(etc, file, "--json").stdout == ""


@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ROWS.items()])
def test_one_broken_setting_is_one_finding(tmp_path: Path, row: Broken) -> None:
    """Exactly its code, at its place, in one sentence with a remedy."""
    etc, file = write(tmp_path, row)
    found = postfix_lint.lint(etc, config.load(file))
    assert {one.code for one in found} == {row.code, *row.also}, found
    about = [one for one in found if one.code == row.code]
    assert row.place in {one.place for one in about}
    assert any(row.says in one.text for one in about), about
    for one in found:
        assert ";" in one.text
        assert not one.text.endswith((".", ";"))
        assert not re.search(r"[.!?] [A-Z]", one.text)


def test_every_code_has_a_row() -> None:
    """No finding is untested, and none stands in the catalogue for nothing."""
    assert {row.code for row in ROWS.values()} == set(CATALOGUE)
    source = "".join(
        Path(module).read_text()
        for module in Path(postfix_lint.__file__).parent.glob("postfix_*.py")
    )
    assert set(re.findall(r'Finding\(\s*"([a-z0-9-]+)"', source)) == set(CATALOGUE)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        pytest.param("nobody-asks-the-milter", 1, id="error"),
        pytest.param("queue-ids-that-repeat", 1, id="warning"),
        pytest.param("bounces-are-not-seen", 0, id="hint"),
    ],
)
def test_the_status_tells_whether_something_is_to_be_done(
    tmp_path: Path, name: str, status: int
) -> None:
    """And JSON Lines carry severity, code, place and finding."""
    row = ROWS[name]
    done = run(*write(tmp_path, row), "--format", "jsonl")
    assert done.returncode == status
    (found,) = map(json.loads, done.stdout.splitlines())
    assert found.keys() == {"severity", "code", "place", "finding"}
    assert (found["code"], found["place"]) == (row.code, row.place)
    assert found["severity"] == CATALOGUE[row.code][0]


def test_what_cannot_be_looked_at_is_status_75(tmp_path: Path) -> None:
    """One sentence, no guess."""
    _, file = write(tmp_path, Broken("", ""))
    done = run(tmp_path, file)
    assert done.returncode == 75
    assert done.stdout == ""
    assert "--config-directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_worst_comes_first(tmp_path: Path) -> None:
    """Errors, then warnings, then hints."""
    etc, file = write(
        tmp_path,
        Broken(
            "",
            "",
            {
                "milter_default_action": "accept",
                "enable_long_queue_ids": "no",
                "internal_mail_filter_classes": "",
            },
        ),
    )
    found = [one.severity for one in postfix_lint.lint(etc, config.load(file))]
    assert found == [Severity.ERROR, Severity.WARNING, Severity.HINT]


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """Everything about every file but when it was read."""
    content = {}
    for path in [directory, *directory.rglob("*")]:
        about = path.stat()
        text = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        facts = (about.st_mode, about.st_ino, about.st_mtime_ns, about.st_ctime_ns, text)
        content[str(path)] = facts
    return content


def test_nothing_is_written(tmp_path: Path) -> None:
    """With a Berkeley table, files and every class of finding: no byte, no time stamp changes."""
    row = Broken(
        "",
        "",
        {
            "mydestination": "hash:{etc}/domains",
            "relay_domains": "texthash:{etc}/domains",
            "mynetworks": "{etc}/networks",
            "header_checks": "pcre:{etc}/checks",
            "sender_bcc_maps": "hash:{etc}/domains",
        },
        files={
            "domains": "example.org x\n",
            "networks": "192.0.2.0/24\n",
            "checks": "/a/ IGNORE\n",
        },
    )
    etc, file = write(tmp_path, row)
    subprocess.run(["/usr/sbin/postmap", "-c", etc, f"hash:{etc / 'domains'}"], check=True)
    before = snapshot(tmp_path)
    done = run(etc, file)
    assert done.returncode == 1
    assert "example.org" in done.stdout
    assert snapshot(tmp_path) == before


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root for another user")
def test_a_user_who_may_read_little_is_told_so() -> None:
    """The table that is closed is named, and everything else is still found."""
    row = Broken(
        "",
        "",
        {"relay_domains": "texthash:{etc}/closed", "enable_long_queue_ids": "no"},
        files={"closed": "example.org x\n"},
    )
    # Not below pytest's own directory, which every session that begins closes to others.
    with private_directory() as directory:
        etc, file = write(directory, row)
        (etc / "closed").chmod(0o600)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", COMMAND]
        environment = {"PATH": os.environ["PATH"], "HOME": "/"}
        if subprocess.run([*nobody, "--version"], env=environment, check=False).returncode:
            pytest.skip("nobody else may run this checkout")
        done = subprocess.run(
            [*nobody, "--config", file, "postfix", "lint", "--config-directory", etc, "--json"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        found = {one["code"]: one["finding"] for one in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == {"domain-table", "short-queue-ids"}, done.stderr
    assert "Permission denied" in found["domain-table"]


def test_postfix_is_asked_a_bounded_number_of_questions(tmp_path: Path) -> None:
    """A thousand domains of ours in a table that can be listed are one question."""
    names = [f"d{number}.example.com" for number in range(1000)]
    row = Broken(
        "",
        "",
        {"relay_domains": "texthash:{etc}/domains", "parent_domain_matches_subdomains": ""},
        files={"domains": "".join(f"{name} x\n" for name in names)},
        ours={"ours": {"domains": [*OURS["ours"]["domains"], *names]}},
    )
    etc, file = write(tmp_path, row)
    asked: list[str] = []
    original = postfix_settings._run

    def counting(command: list[str]) -> str:
        asked.append(command[0])
        return original(command)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(postfix_settings, "_run", counting)
        assert postfix_lint.lint(etc, config.load(file)) == []
    assert len(asked) < 20


def test_our_own_snippet_yields_hints_at_most(tmp_path: Path) -> None:
    """Who pastes what `postfix snippet` prints is not told off for it."""
    etc, file = write(tmp_path, Broken("", ""))
    printed = forked.run(["--config", str(file), "postfix", "snippet"]).stdout
    main, _, master = printed.partition("# --- master.cf")
    ours = {
        name: value
        for name, value in MAIN.items()
        if not re.search(rf"^{name} =", main, re.MULTILINE)
    }
    lines = [f"{name} = {value}" for name, value in ours.items()]
    # The service for mail that a filter hands back stands there for sites that have a filter.
    (etc / "main.cf").write_text("\n".join([*lines, "content_filter = scan:[::1]:9"]) + f"\n{main}")
    others = [MASTER[0], *MASTER[2:]]
    (etc / "master.cf").write_text("\n".join([*others, f"# {master}"]) + "\n")
    found = postfix_lint.lint(etc, config.load(file))
    assert {one.code for one in found} == {"content-filter"}


def test_config_check_says_it_too(tmp_path: Path) -> None:
    """A failure class answered with accept is a hint there, and no reason to fail for it."""
    _, file = write(tmp_path, ROWS["unwritable-records-are-accepted"])
    done = forked.run(["--config", str(file), "config", "check"])
    assert "hint: failure.record_not_writable: it is accept" in done.stdout
