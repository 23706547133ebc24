"""docs/keys.md: its configurations run as they stand there, and it names what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import pytest
import yaml
from support import name_servers, signing_relay
from support.name_servers import Bind, Knot, NameServer, NameServerFailed, TsigKey, Zone

from carbonseal.keys import commands
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.policies import key_life
from carbonseal.policies.key_life import Stage

PAGE = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
ZONE = "example.com"


def block(mark: str) -> str:
    """The block below a comment."""
    found = re.search(rf"<!-- {mark} -->\n```\n(.*?)```\n", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


class BindOfThePage(Bind):
    """BIND with the zone statement of the page, at our paths."""

    tsig = TsigKey("carbonseal-key")

    def _zone(self, zone: str) -> list[str]:
        self.tsig.write(self.directory / "carbonseal.key")
        text = block("bind").replace("/etc/bind/", f"{self.directory}/")
        return [text.replace("/var/lib/bind/", f"{self.directory}/")]


class KnotOfThePage(Knot):
    """Knot with the sections of the page, at our paths."""

    tsig = TsigKey("carbonseal-key")

    def _configuration(self) -> Iterator[str]:
        for line in super()._configuration():
            if line == "acl:":
                break
            yield line
        text = block("knot").replace("/var/lib/knot/", f"{self.directory}/")
        yield text.replace("SECRET", self.tsig.secret)


def is_changed(server: ServerAddress, tsig: TsigKey, name: str) -> bool:
    """Whether a server takes a TXT record at a name from this key."""
    try:
        name_servers.put_txt(server, ZONE, tsig, name, "v=spf1 -all")
    except (NameServerFailed, dns.exception.DNSException):
        return False
    return True


@pytest.mark.parametrize("kind", [BindOfThePage, KnotOfThePage], ids=["bind", "knot"])
def test_the_configurations_of_the_page_rotate_a_key(
    kind: type[BindOfThePage | KnotOfThePage], tmp_path: Path
) -> None:
    """Those of the name server, of its key and of the relay; and they allow no more than said."""
    server: NameServer = kind([Zone(ZONE, minimum=0)])
    with server:
        relay = signing_relay.Relay(
            signing_relay.Rig(server, server, server, kind.tsig, tmp_path),  # type: ignore[arg-type]
            tmp_path,
            ZONE,
            (server.address,),
            yaml.safe_load(block("carbonseal"))["dns"]["publish"][0],
        )
        (tmp_path / "main.cf").write_text(f"queue_directory = {tmp_path}\n")
        key_file = tmp_path / relay.publish["key_file"]
        key_file.touch(mode=0o600)
        key_file.write_text(block("key").replace("SECRET", kind.tsig.secret))
        relay.change(server=str(server.address))
        assert relay("rotate", ZONE).status in (0, 1, 3)
        relay.go_on(relay.newest.selector, Stage.ACTIVE)
        assert relay.signing == [relay.newest.selector]
        assert not is_changed(server.address, kind.tsig, ZONE)
        assert not is_changed(server.address, kind.tsig, f"www.{ZONE}")


def test_every_stage_stands_in_the_table() -> None:
    """In the order of a life."""
    section = PAGE.partition("## Stages")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [*key_life.Stage]


def test_the_commands_and_options_that_are_named_exist() -> None:
    """A person copies them."""
    for name, rest in re.findall(r"carbonseal keys ([a-z-]+)([^`\n#]*)", PAGE):
        command = commands.keys.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None, name
        known = {option for one in command.params for option in one.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (name, rest)
