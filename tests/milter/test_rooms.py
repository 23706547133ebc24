"""Commands in rooms: what is listed of them unseen, and what a command does not load."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support.archive import Archive

from carbonseal.milter import cli
from carbonseal.milter.archive import commands
from carbonseal.milter.rooms import Room, Rooms

GROUPS = {"carbonseal": cli.carbonseal, "carbonseal archive": commands.archive}
CHECKS = {"pydantic", "yaml", "cryptography"}  # of a configuration, and of keys
REST = {"alembic", "dns", "dkim", "prometheus_client", "matplotlib"}


def loaded(directory: Path, *arguments: str, **environment: str) -> tuple[set[str], str]:
    """What a process of its own has loaded when a command is done, and what it printed."""
    listing = directory / "loaded"
    program = (
        "import atexit, pathlib, sys\n"
        "listing = pathlib.Path(sys.argv[1])\n"
        "atexit.register(lambda: listing.write_text(' '.join(sys.modules)))\n"
        "sys.argv = ['carbonseal', *sys.argv[2:]]\n"
        "from carbonseal.milter import cli\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(listing), *arguments],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(listing.read_text().split()), done.stdout


@pytest.mark.parametrize("words", GROUPS)
def test_the_list_says_what_click_would_say_of_the_commands(words: str) -> None:
    """A command that is described anew is described so in the list as well, at any width."""
    group = GROUPS[words]
    assert isinstance(group, Rooms)
    for width in (40, 78, 100, 200):
        context = click.Context(group, info_name=words)
        ours, clicks = click.HelpFormatter(width=width), click.HelpFormatter(width=width)
        group.format_commands(context, ours)
        click.Group.format_commands(group, context, clicks)
        assert ours.getvalue() == clicks.getvalue()


@pytest.mark.parametrize("incomplete", ["", "a", "e", "--", "no such"])
@pytest.mark.parametrize("words", GROUPS)
def test_completion_offers_what_click_would_offer(words: str, incomplete: str) -> None:
    """Names with their sentences, and options."""
    group = GROUPS[words]
    context = click.Context(group, info_name=words)
    ours = group.shell_complete(context, incomplete)
    clicks = click.Group.shell_complete(group, context, incomplete)
    assert [vars(one) for one in ours] == [vars(one) for one in clicks]


@pytest.mark.parametrize("words", [["--help"], ["archive", "--help"]])
def test_help_of_a_group_loads_no_command(tmp_path: Path, words: list[str]) -> None:
    """An officer sees it at once."""
    found, printed = loaded(tmp_path, *words)
    assert "search" in printed or "archive" in printed
    assert not found & (CHECKS | REST | {"sqlalchemy"})


def test_completion_loads_no_command(tmp_path: Path) -> None:
    """It is asked at every press of the key."""
    found, printed = loaded(
        tmp_path,
        _CARBONSEAL_COMPLETE="bash_complete",
        COMP_WORDS="carbonseal archive se",
        COMP_CWORD="2",
    )
    assert printed == "plain,search\n"
    assert not found & (CHECKS | REST | {"sqlalchemy"})


def test_help_of_a_search_loads_nothing_that_checks_a_configuration(tmp_path: Path) -> None:
    """Help is for whoever has no configuration yet, too."""
    found, printed = loaded(tmp_path, "archive", "search", "--help")
    assert "QUERY" in printed
    assert not found & (CHECKS | REST)


def test_a_search_loads_nothing_of_keys_dns_and_upgrades(tmp_path: Path) -> None:
    """What an officer types many times a day takes no longer than it must."""
    archive = Archive(tmp_path)
    archive.load()
    archive.close()
    file = tmp_path / "carbonseal.yaml"
    file.write_text(
        f"ours:\n  domains: [example.com]\nrecord:\n  database: {archive.database_url}\n"
    )
    found, _ = loaded(
        tmp_path, "--config", str(file), "archive", "search", "from:nobody@example.net"
    )
    assert "sqlalchemy" in found
    assert not found & (REST | {"cryptography", "carbonseal.keys.store"})


def test_what_cannot_be_loaded_leaves_the_collector_as_it_was() -> None:
    """Nothing is collected while a room is loaded; afterwards it is, whatever happened."""
    group = Rooms("all", package="carbonseal", rooms={"gone": Room("no.such:place", "Nowhere.")})
    with pytest.raises(ModuleNotFoundError):
        group.get_command(None, "gone")
    assert gc.isenabled()
