"""The comparison with Postfix's BCC maps from the operator's side: section, files, commands."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import boundary_cases, forked
from support.boundary_cases import ARCHIVE, CASES, BoundaryCase

from carbonseal.keys import keyring
from carbonseal.milter import config
from carbonseal.milter.config import Configuration, InvalidConfiguration
from carbonseal.milter.decisions import Decisions, Said, decide
from carbonseal.milter.transaction import Connection, Transaction
from carbonseal.policies import bcc_maps
from carbonseal.policies.envelope import Client

TRICK = f"pcre:{{{{!/@example\\.com$/ {ARCHIVE}}}}}"
needs_postfix = pytest.mark.skipif(
    shutil.which("postconf", path="/usr/sbin:/usr/bin") is None, reason="needs Debian's postfix"
)


def written(directory: Path, **archive: Any) -> Path:
    file = directory / "carbonseal.yaml"
    sections = {
        "ours": {
            "domains": list(boundary_cases.OUR_DOMAINS),
            "networks": [boundary_cases.OUR_NETWORK],
            "peers": [boundary_cases.PEER_NETWORK],
        },
        "signing": {"keys": str(directory)},
        "archive": {"recipients": [ARCHIVE], **archive},
    }
    file.write_text(yaml.safe_dump(sections))
    return file


def run(file: Path, *arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return forked.run(["--config", str(file), *map(str, arguments)], given=text)


def decided(case: BoundaryCase, configuration: Configuration) -> Decisions:
    transaction = Transaction(
        Connection(Client(boundary_cases.CLIENTS[case.client], 1, "", ""), "", ""),
        (f"<{case.reverse_path}>".encode(),),
        resolved=case.mail_macro or case.reverse_path.lower(),
        body_canonicalization="relaxed",
    )
    for to in case.to:
        transaction.add_recipient(
            (f"<{to.raw}>".encode(),), resolved=to.macro, mailer=to.mailer, host=None
        )
    archive = configuration.archive.all_recipients()
    return decide(Said.by(transaction), configuration, keyring.EMPTY, archive)


def compared(decisions: Decisions) -> list[str]:
    """The reasons that tell of the comparison."""
    return [str(one) for one in decisions.reasons_after if one.code.startswith("bcc-maps-")]


def facts(decisions: Decisions) -> dict[str, object]:
    """Everything but the comparison."""
    others = [one for one in decisions.reasons_after if str(one) not in compared(decisions)]
    return {**decisions._asdict(), "bcc_maps": None, "reasons_after": others}


def test_the_comparison_changes_no_decision(tmp_path: Path) -> None:
    """Every edge case is decided the same, for the same reasons but those of the comparison."""
    off = config.load(written(tmp_path))
    maps = {"sender": TRICK, "recipient": TRICK}
    on = config.load(written(tmp_path, compare="bcc_maps", bcc_maps=maps))
    for case in CASES:
        without, beside = decided(case, off), decided(case, on)
        assert facts(without) == facts(beside)
        assert (without.bcc_maps, compared(without)) == (None, [])
        assert beside.bcc_maps
        assert compared(beside)


@pytest.mark.parametrize(
    ("case_id", "reasons"),
    [
        pytest.param("local-to-local", ["bcc-maps-agree(no copy)"], id="local"),
        pytest.param(
            "local-to-local-and-remote", [f"bcc-maps-agree({ARCHIVE})"], id="mixed-recipients"
        ),
        pytest.param("percent-hack-to-outside", [f"bcc-maps-would-miss({ARCHIVE})"], id="percent"),
        pytest.param("bounce-from-outside", [f"bcc-maps-would-miss({ARCHIVE})"], id="bounce"),
        pytest.param(
            "outside-client-forges-our-reverse-path",
            [f"bcc-maps-would-miss({ARCHIVE})"],
            id="forgery",
        ),
        pytest.param(
            "relay-domain-that-is-listed", [f"bcc-maps-would-add({ARCHIVE})"], id="relay-domain"
        ),
        pytest.param(
            "archive-recipient-and-outside",
            [f"bcc-maps-would-double({ARCHIVE})"],
            id="archive-addressed",
        ),
    ],
)
def test_what_the_classic_pair_gets_wrong(tmp_path: Path, case_id: str, reasons: list[str]) -> None:
    """The differences that an administrator is to see before he switches over."""
    maps = {"sender": TRICK, "recipient": TRICK}
    configuration = config.load(written(tmp_path, compare="bcc_maps", bcc_maps=maps))
    (case,) = [one for one in CASES if one.id == case_id]
    assert compared(decided(case, configuration)) == reasons


def test_maps_stand_in_files_beside_the_configuration(tmp_path: Path) -> None:
    """Relative paths are relative to our file; indexed types are read from their source."""
    (tmp_path / "senders").write_text("# boss\nboss@example.com boss-archive@example.net\n")
    maps = {"sender": "hash:senders"}
    configuration = config.load(written(tmp_path, compare="bcc_maps", bcc_maps=maps))
    assert configuration.compare is not None
    assert bcc_maps._of_reverse_path(configuration.compare, "<Boss@Example.com>").adds == (
        "boss-archive@example.net",
    )


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        pytest.param({"sender": "ldap:/etc/postfix/x"}, "type ldap", id="only-postfix-can"),
        pytest.param({"recipient": "pcre:nothing"}, "No such file", id="missing"),
        pytest.param({"recipient": "pcre:."}, "Is a directory", id="directory"),
        pytest.param({"sender": "pcre:{{/(?R)/ a@b}}"}, "simplify it", id="unclear-pattern"),
        pytest.param({"sender": "archive@example.net"}, "names no table", id="an-address"),
    ],
)
def test_a_map_that_cannot_be_compared_is_a_mistake_of_the_configuration(
    tmp_path: Path, maps: Mapping[str, str], says: str
) -> None:
    """With file, line, key and remedy; when loaded, not when mail comes."""
    file = written(tmp_path, compare="bcc_maps", bcc_maps=dict(maps))
    with pytest.raises(InvalidConfiguration) as refused:
        config.load(file)
    (key,) = maps
    assert f"archive.bcc_maps.{key}: " in refused.value.sentence
    assert "line " in refused.value.sentence
    assert says in refused.value.sentence
    # Without the comparison the section is not looked into.
    assert config.load(written(tmp_path, bcc_maps=dict(maps))).compare is None


@needs_postfix
def test_postfix_s_own_section_can_be_pasted(tmp_path: Path) -> None:
    """What `postfix bcc-maps` prints loads, and judges as Postfix's configuration says."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "recipients").write_text("@partner.example partner@archive.example.net\n")
    (etc / "main.cf").write_text(
        "compatibility_level = 3.6\nmyhostname = mx1.example.com\nmyorigin = example.com\n"
        "mydestination = example.com, $myhostname\nrecipient_delimiter = +\n"
        f"sender_bcc_maps = {TRICK.replace('$', '$$')}\n"
        f"recipient_bcc_maps = $sender_bcc_maps, texthash:{etc}/recipients\n"
        "always_bcc = always@archive.example.net\n"
    )
    (etc / "master.cf").write_text("")
    done = run(written(tmp_path), "postfix", "bcc-maps", "--config-directory", etc)
    assert (done.returncode, done.stderr) == (0, "")
    section = yaml.safe_load(done.stdout)["archive"]
    configuration = config.load(written(tmp_path, **section))
    maps = configuration.compare
    assert maps is not None
    assert (maps.origin, maps.delimiter) == ("example.com", "+")
    assert maps.local == {"example.com", "mx1.example.com"}
    assert maps.always == "always@archive.example.net"
    assert bcc_maps._of_reverse_path(maps, "<x@y>").adds == (ARCHIVE,)
    assert bcc_maps._of_recipient(maps, "<x@example.com>").adds == ()


@needs_postfix
def test_a_section_that_cannot_be_compared_is_said(tmp_path: Path) -> None:
    """Printed all the same, with the sentence and status 78."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "main.cf").write_text("compatibility_level = 3.6\nsender_bcc_maps = mysql:/x\n")
    (etc / "master.cf").write_text("")
    done = run(written(tmp_path), "postfix", "bcc-maps", "--config-directory", etc)
    assert done.returncode == 78
    assert "type mysql" in done.stderr
    assert yaml.safe_load(done.stdout)["archive"]["bcc_maps"]["sender"] == "mysql:/x"


def record(**changes: Any) -> str:
    content = {
        "record_id": "1",
        "recorded_at": "2026-11-21T10:00:00Z",
        "queue_id": "q",
        "reverse_path": "a@example.com",
        "recipients": ["x@remote.test"],
        "archive_recipients": [ARCHIVE],
        "reasons": [],
        **changes,
    }
    return json.dumps(content) + "\n"


def test_policy_compare_judges_what_was_not_compared(tmp_path: Path) -> None:
    """Records from before the comparison, from standard input; the sum on standard error."""
    file = written(tmp_path, bcc_maps={"recipient": TRICK})
    lines = [
        record(),
        record(record_id="2", recipients=["b@example.com"]),
        record(record_id="3", recipients=["b@example.com"], reasons=["bcc-maps-agree(no copy)"]),
    ]
    done = run(file, "policy", "compare", "--json", text="".join(lines))
    assert done.returncode == 0
    (found,) = map(json.loads, done.stdout.splitlines())
    assert found["record_id"] == "2"
    assert found["difference"] == [f"bcc-maps-would-miss({ARCHIVE})"]
    assert done.stderr.strip() == "3 records: 2 agree, 1 would-miss"
    anew = run(file, "policy", "compare", "--anew", "--all", "--json", text="".join(lines))
    assert len(anew.stdout.splitlines()) == 3
    assert anew.stderr.strip() == "3 records: 1 agree, 2 would-miss"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        pytest.param("no json\n", 65, id="no-json"),
        pytest.param('{"a": 1}\n', 65, id="no-record"),
        pytest.param("[" * 100_000 + "\n", 65, id="nested"),
        pytest.param("7\n", 65, id="a-number"),
        pytest.param(record(reverse_path={"raw": 1}), 65, id="half-a-path"),
        pytest.param("\n" + '{"footer":{}}\n', 0, id="empty-line-and-footer"),
        pytest.param("", 0, id="nothing"),
    ],
)
def test_policy_compare_answers_what_is_no_record_with_a_sentence(
    tmp_path: Path, text: str, status: int
) -> None:
    """And names the line."""
    done = run(written(tmp_path), "policy", "compare", "--json", text=text)
    assert done.returncode == status, done.stderr
    assert ("line 1 is no record" in done.stderr) == (status == 65)


def test_policy_compare_anew_needs_the_maps(tmp_path: Path) -> None:
    """Status 78, and the command that prints them."""
    done = run(written(tmp_path), "policy", "compare", "--anew", text=record())
    assert done.returncode == 78
    assert "postfix bcc-maps" in done.stderr


def test_explain_shows_the_comparison(tmp_path: Path) -> None:
    """As a reason like the others."""
    file = written(tmp_path, compare="bcc_maps", bcc_maps={"sender": TRICK, "recipient": TRICK})
    done = run(
        *(file, "policy", "explain", "--client", "198.51.100.1", "--from", "ceo@example.com"),
        *("--rcpt", "b@example.com"),
    )
    assert f"The BCC maps of Postfix would not send the copy to {ARCHIVE}." in done.stdout
