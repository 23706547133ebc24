"""The configuration: every mistake gets one sentence with its place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbonseal.milter import config, socket_address
from carbonseal.policies.errors import ConfigurationError

MINIMAL = "ours:\n  domains: [example.com]\n"


def load(tmp_path: Path, text: str) -> config.Configuration:
    path = tmp_path / "carbonseal.yaml"
    path.write_text(text)
    return config.load(path)


def test_the_smallest_configuration_has_safe_defaults(tmp_path: Path) -> None:
    """Nothing is trusted that is not listed, and nothing is accepted unrecorded."""
    configuration = load(tmp_path, MINIMAL)
    assert configuration.ours.networks == ()
    assert configuration.ours.listeners == frozenset()
    assert configuration.ours.local_submission is False
    assert configuration.file.failure.record_not_writable == "tempfail"
    assert configuration.file.failure.internal_error == "tempfail"
    assert configuration.file.archive.when == "crossing"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        pytest.param("ours: {}\n", 1, ["ours.domains", "missing"], id="domains-missing"),
        pytest.param("", None, ["ours", "missing"], id="empty-file"),
        pytest.param(
            "ours:\n  domain: [example.com]\n",
            2,
            ["ours.domain", "did you mean domains?"],
            id="misspelt-key",
        ),
        pytest.param(
            MINIMAL + "ours:\n  domains: []\n", 3, ["ours", "second time"], id="section-twice"
        ),
        pytest.param(
            MINIMAL + "archive:\n  when: sometimes\n",
            4,
            ["archive.when", "'crossing'", "sometimes"],
            id="unknown-word",
        ),
        pytest.param(
            MINIMAL + "archive:\n  recipients: [nobody]\n",
            4,
            ["archive.recipients", "nobody"],
            id="archive-recipient-without-domain",
        ),
        pytest.param(
            MINIMAL + "milter:\n  socket: inet:127.0.0.1:8894\n",
            4,
            ["milter.socket", "inet:8894@127.0.0.1"],
            id="socket-in-postfix-spelling",
        ),
        pytest.param(
            MINIMAL + "status:\n  listen: inet:9894\n",
            4,
            ["status.listen", "write inet:9894@127.0.0.1"],
            id="port-without-address",
        ),
        pytest.param(
            MINIMAL + "milter:\n  socket_mode: 0660\n",
            4,
            ["milter.socket_mode", "in quotes, such as '0660'"],
            id="mode-without-quotes",
        ),
        *(
            pytest.param(
                MINIMAL + f"archive:\n  next_hop: '{written}'\n",
                4,
                ["archive.next_hop", f"write {meant}"],
                id=f"next-hop-{name}",
            )
            for name, written, meant in (
                ("as-postfix-writes-it", "[192.0.2.50]:2525", "inet:2525@192.0.2.50"),
                ("as-a-transport", "smtp:[2001:db8::25]", "inet:25@2001:db8::25"),
                ("bare", "192.0.2.50", "inet:25@192.0.2.50"),
                ("by-name", "mail.example.net", "the IP address and port"),
                ("half-a-bracket", "[::1", "inet:25@::1"),
                ("socket", "unix:/run/mail.sock", "the IP address and port"),
            )
        ),
        pytest.param(
            "ours:\n  domains: [example.com]\n  networks: [192.0.2.300/24]\n",
            3,
            ["ours.networks.0", "192.0.2.0/24"],
            id="impossible-network",
        ),
        pytest.param(
            "ours:\n  domains: [example.com]\n  networks: [192.0.2.1/24]\n",
            3,
            ["host bits"],
            id="network-with-host-bits",
        ),
        pytest.param(
            MINIMAL + "signing:\n  expires_after: soon\n",
            4,
            ["signing.expires_after", "7d"],
            id="duration-in-words",
        ),
        pytest.param(
            MINIMAL + "signing:\n  rules:\n    - author: example.com\n      sdid: example.com\n",
            5,
            ["signing.rules.0.author", "*@example.com"],
            id="author-pattern-without-at",
        ),
        pytest.param(
            MINIMAL + "milter:\n  workers: many\n", 4, ["milter.workers"], id="workers-in-words"
        ),
        pytest.param(
            MINIMAL + "failure:\n  no_key: accept\n",
            4,
            ["failure.no_key", "did you mean"],
            id="unknown-failure-class",
        ),
        pytest.param(
            MINIMAL + "dns:\n  servers: {example.com: [ns1.example.com]}\n",
            4,
            ["dns.servers", "ns1.example.com", "192.0.2.53@5353"],
            id="name-server-by-name",
        ),
        pytest.param(
            MINIMAL + "dns:\n  publish:\n    - {delegate: keys.example.net}\n",
            5,
            ["delegate", "{selector}"],
            id="delegation-without-selector",
        ),
        pytest.param(
            MINIMAL + "dns:\n  publish:\n    - {method: nsupdate}\n",
            5,
            ["method", "'rfc2136'"],
            id="unknown-publisher",
        ),
        pytest.param(
            MINIMAL + "rotation:\n  relays: {relay2: ssh relay2}\n",
            4,
            ["rotation.relays", "list"],
            id="relay-command-as-text",
        ),
        pytest.param(
            MINIMAL + "rotation:\n  selector: 's{day}'\n",
            4,
            ["rotation.selector", "{day}", "{date}"],
            id="selector-of-something-unknown",
        ),
        pytest.param(
            MINIMAL + "rotation:\n  selector: 's_{date}'\n",
            4,
            ["rotation.selector", "hyphens"],
            id="selector-that-is-no-name",
        ),
        pytest.param("ours: [\n", 2, ["not YAML"], id="broken-yaml"),
        pytest.param("- a\n- b\n", 1, ["sections"], id="list-instead-of-sections"),
        pytest.param("ours: !!python/object:os.system {}\n", None, ["YAML"], id="python-object"),
        pytest.param(
            MINIMAL + "ourz:\n  x: 1\n", 3, ["ourz", "did you mean ours?"], id="misspelt-section"
        ),
    ],
)
def test_a_mistake_is_named_with_file_line_and_remedy(
    tmp_path: Path, text: str, line: int | None, words: list[str]
) -> None:
    """One sentence that an administrator can act on at three in the morning."""
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, text)
    sentence = raised.value.sentence
    assert str(tmp_path / "carbonseal.yaml") in sentence
    if line is not None:
        assert f"line {line}" in sentence
    for word in words:
        assert word in sentence
    assert "\n" not in sentence


def test_a_wrong_entry_is_no_complaint_about_its_list(tmp_path: Path) -> None:
    """Where a word or a list may stand, who wrote a list is not told to write the word."""
    with pytest.raises(config.InvalidConfiguration) as raised:
        load(tmp_path, MINIMAL + "record:\n  headers: [from, 'x y']\n")
    [problem] = raised.value.problems
    assert "record.headers.1: write the name of a header field" in problem


def test_what_contradicts_itself_in_a_section_is_said_without_the_section(tmp_path: Path) -> None:
    """The words name the keys; `found a section` would say nothing."""
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, MINIMAL + "archive: {recipients: [a@x.example], alternate: [a@x.example]}\n")
    assert "alternate: a@x.example is one of archive.recipients" in raised.value.sentence
    assert "found" not in raised.value.sentence


def test_a_missing_file_names_the_ways_to_give_another(tmp_path: Path) -> None:
    """The first thing that goes wrong on a new machine."""
    with pytest.raises(ConfigurationError, match=r"--config or CARBONSEAL_CONFIG"):
        config.load(tmp_path / "none.yaml")


def test_every_complaint_is_kept_for_config_check(tmp_path: Path) -> None:
    """Three mistakes are three sentences, not three runs."""
    with pytest.raises(config.InvalidConfiguration) as raised:
        load(tmp_path, "ours:\n  domain: []\nlog:\n  form: x\n")
    assert len(raised.value.problems) == 3
    assert "2 more" in raised.value.sentence


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A configuration can be moved with what belongs to it."""
    configuration = load(
        tmp_path,
        MINIMAL + "signing: {keys: keys}\nrecord: {spool: spool, database: 'sqlite:///a.db'}\n",
    )
    assert configuration.keys_directory == tmp_path / "keys"
    assert configuration.spool_directory == tmp_path / "spool"
    assert configuration.database_url == f"sqlite:///{tmp_path}/a.db"


def test_who_publishes_is_the_first_rule_that_fits(tmp_path: Path) -> None:
    """Files are relative to the configuration; who has no publisher is published by hand."""
    dns = load(
        tmp_path,
        MINIMAL
        + "dns:\n  publish:\n"
        + "    - {domains: [.example.com], method: rfc2136, server: 192.0.2.53, key_file: t.key}\n"
        + "    - {domains: [example.com], delegate: '{selector}.{sdid}.dkim.example.net'}\n",
    ).dns
    under, itself, other = map(dns.rule_for, ("a.example.com", "example.com", "example.org"))
    assert (under.method, str(under.server)) == ("rfc2136", "192.0.2.53@53")
    assert under.key_file == tmp_path / "t.key"
    assert itself.target("example.com", "s1") == "s1.example.com.dkim.example.net"
    assert (other.method, other.target("example.org", "s1")) == (
        "manual",
        "s1._domainkey.example.org",
    )


def test_the_version_changes_with_the_content_and_not_with_comments(tmp_path: Path) -> None:
    """A record names the rules that were in force when it was made."""
    first = load(tmp_path, MINIMAL)
    assert load(tmp_path, "# a remark\n" + MINIMAL).version == first.version
    assert load(tmp_path, MINIMAL + "archive: {when: always}\n").version != first.version


@pytest.mark.parametrize(
    ("text", "postfix_form"),
    [
        pytest.param("unix:/run/x.sock", "unix:/run/x.sock", id="unix"),
        pytest.param("local:/run/x.sock", "unix:/run/x.sock", id="local-is-unix"),
        pytest.param("inet:8894@127.0.0.1", "inet:127.0.0.1:8894", id="inet"),
        pytest.param("inet6:8894@::1", "inet:[::1]:8894", id="inet6"),
        pytest.param("inet:8894@[::1]", "inet:[::1]:8894", id="bracketed-inet6"),
    ],
)
def test_the_socket_is_written_for_postfix_as_postfix_wants_it(
    text: str, postfix_form: str
) -> None:
    """libmilter and Postfix write the same address in opposite order."""
    assert socket_address.parse(text).postfix_form == postfix_form


@pytest.mark.parametrize(
    "text",
    ["", "unix:relative", "inet:x@127.0.0.1", "inet:70000@127.0.0.1", "inet:1@host", "/run/x"],
)
def test_a_socket_that_cannot_be_is_refused(text: str) -> None:
    """Refused when the file is read, not when mail comes."""
    with pytest.raises(ConfigurationError):
        socket_address.parse(text)


def test_a_long_unix_path_is_refused_with_the_limit() -> None:
    """The kernel's own error would not say which limit."""
    with pytest.raises(ConfigurationError, match="107"):
        socket_address.parse("unix:/" + "x" * 120)
