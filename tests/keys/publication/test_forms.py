"""What people paste is taken by the programs they paste it into."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support import name_servers
from support.name_servers import Bind, Knot, Nsd, TsigKey, Zone

from carbonseal.keys.publication import forms
from carbonseal.policies import errors

ZONE = "example.test"
NAME = f"s1._domainkey.{ZONE}"
KEY = TsigKey()
LONG = "v=DKIM1; k=rsa; h=sha256; p=" + base64.b64encode(bytes(range(55)) * 10).decode()
SHORT = "v=DKIM1; k=ed25519; h=sha256; p=" + base64.b64encode(bytes(32)).decode()
REVOKED = "v=DKIM1; k=rsa; h=sha256; p="
AWKWARD = "v=DKIM1; n=a \"quoted\" back\\slash 'and' $ @; p="
VALUES = [
    pytest.param(LONG, id="rsa-4096"),
    pytest.param(SHORT, id="ed25519"),
    pytest.param(REVOKED, id="revoked"),
    pytest.param(AWKWARD, id="quotes-and-backslashes"),
    pytest.param("x" * 255, id="one-full-string"),
    pytest.param("x" * 256, id="one-more"),
]


@pytest.fixture(scope="module", params=[Bind, Knot])
def server(request: pytest.FixtureRequest) -> Iterator[Bind | Knot]:
    with request.param([Zone(ZONE)], keys=[KEY]) as running:
        yield running


def nsupdate(server: Bind | Knot, script: str) -> subprocess.CompletedProcess[str]:
    """Feed a script to nsupdate, as a person would who has named the server."""
    return subprocess.run(
        ["nsupdate", "-k", KEY.write(server.directory / "nsupdate.key")],
        input=f"server {server.address.host} {server.address.port}\n{script}\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def render(
    form: forms.Form, text: str, *, change: forms.Change = "add", old: str = "", ttl: int = 300
) -> str:
    return forms.render(form, NAME, text, ttl, zone=ZONE, change=change, old_text=old)


@pytest.mark.parametrize("value", VALUES)
def test_nsupdate_takes_the_scripts_of_a_whole_life(server: Bind | Knot, value: str) -> None:
    """Add, revoke, remove; and each a second time does nothing, and says so."""
    steps: list[tuple[str, list[str]]] = [
        (render("nsupdate", value), [value]),
        (render("nsupdate", "gone", change="revoke", old=value), ["gone"]),
        (render("nsupdate", "", change="remove", old="gone"), []),
    ]
    for script, shown in steps:
        done = nsupdate(server, script)
        assert done.returncode == 0, done.stderr
        assert name_servers.txt_at(server.address, NAME) == shown
        if shown != ["gone"] or value != "gone":
            again = nsupdate(server, script)
            assert again.returncode != 0
            assert "YX" in again.stderr or "NX" in again.stderr
            assert name_servers.txt_at(server.address, NAME) == shown


def test_nsupdate_finds_the_zone_by_itself_where_none_is_known(server: Bind | Knot) -> None:
    """It asks the server that is named for the SOA."""
    script = forms.render("nsupdate", NAME, SHORT, 300, zone=None)
    assert "zone" not in script
    done = nsupdate(server, script)
    assert done.returncode == 0, done.stderr
    nsupdate(server, render("nsupdate", "", change="remove", old=SHORT))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", [Bind, Nsd])
def test_zone_text_is_loaded(kind: type[Bind] | type[Nsd], value: str) -> None:
    """Appended to a zone file, with its comments."""
    revoked = render("zone", value, change="revoke", old=LONG)
    removed = render("zone", "", change="remove", old=LONG)
    with kind([Zone(ZONE, (removed, revoked))]) as server:
        answer = name_servers.ask(server.address, NAME).answer
        assert [rrset.ttl for rrset in answer] == [300]
        assert name_servers.txt_at(server.address, NAME) == [value]


def test_named_checkzone_finds_nothing_wrong(tmp_path: Path) -> None:
    """Every form of zone text, the alias of a delegation among them."""
    lines = [
        render("zone", LONG),
        forms.alias(f"s2._domainkey.{ZONE}", "s2.dkim.example.net", 3600),
        forms.alias(f"s3._domainkey.{ZONE}", "s3.dkim.example.net"),
    ]
    file = tmp_path / "zone"
    file.write_text(Zone(ZONE, tuple(lines)).text())
    done = subprocess.run(
        ["named-checkzone", ZONE, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("OK\n")


@pytest.mark.parametrize("value", VALUES)
def test_octodns_reads_the_value_back(value: str) -> None:
    """YAML, then octoDNS's own unescaping of semicolons, for a name relative to the zone."""
    read = yaml.safe_load(render("octodns", value))
    assert read == {
        "s1._domainkey": {"type": "TXT", "ttl": 300, "value": value.replace(";", "\\;")}
    }


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=600),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[0-9]{1,5})?", fullmatch=True),
)
def test_octodns_yaml_means_the_same_for_any_text(value: str, selector: str) -> None:
    """No selector is a number, a truth value or a null, and no value ends early."""
    name = f"{selector}._domainkey.{ZONE}"
    read = yaml.safe_load(forms.render("octodns", name, value, 60, zone=ZONE))
    [(key, record)] = read.items()
    assert key == f"{selector}._domainkey"
    assert record["value"].replace("\\;", ";") == value.replace("\\;", ";")


def test_octodns_is_told_what_to_take_away() -> None:
    """A comment: octoDNS deletes what is no longer in its files."""
    text = render("octodns", "", change="remove", old=LONG)
    assert yaml.safe_load(text) is None
    assert "s1._domainkey" in text


@pytest.mark.parametrize("zone", [None, "example.org", "ample.test", NAME])
def test_octodns_needs_the_zone_of_the_name(zone: str | None) -> None:
    with pytest.raises(errors.DataError, match="set `zone`"):
        forms.render("octodns", NAME, LONG, 300, zone=zone)


def test_json_carries_everything() -> None:
    """For scripts."""
    assert json.loads(render("json", LONG)) == {
        "change": "add",
        "name": NAME,
        "zone": ZONE,
        "type": "TXT",
        "ttl": 300,
        "value": LONG,
        "strings": [LONG[:255], LONG[255:510], LONG[510:]],
        "old_value": None,
    }
    removed = json.loads(render("json", "", change="remove", old=LONG))
    assert removed["old_value"] == LONG
    assert [removed[key] for key in ("value", "strings", "ttl")] == [None] * 3


def test_the_plain_value_is_just_that() -> None:
    """For web forms; what is to be removed is shown so that it can be found there."""
    assert render("value", LONG) == LONG
    assert render("value", REVOKED, change="revoke", old=LONG) == REVOKED
    assert render("value", "", change="remove", old=LONG) == LONG


@pytest.mark.parametrize("value", ["a\nb", "a\tb", "ä", "a\udc80", "a\0"])
@pytest.mark.parametrize("form", forms.FORMS)
def test_no_line_can_be_smuggled_in(form: forms.Form, value: str) -> None:
    """Somebody else's record may stand in `old_text`."""
    with pytest.raises(errors.DataError, match="plain ASCII"):
        render(form, value)
    with pytest.raises(errors.DataError, match="plain ASCII"):
        render(form, "", change="remove", old=value)
