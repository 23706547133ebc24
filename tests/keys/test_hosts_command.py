"""`carbonseal keys hosts`: what each relay does with each key, in one look."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from carbonseal.keys import hosts_command, keyring
from carbonseal.keys.relays import report
from carbonseal.keys.relays.acknowledgement import Acknowledgement, Worker
from carbonseal.policies import errors
from carbonseal.policies.key_life import QueueReport, RelayReport, Stage

from .conftest import NOW

NOWHERE = ["sh", "-c", "echo 'ssh: relay3: no route to host' >&2; exit 255"]


@dataclasses.dataclass
class Settings:
    """What `milter.cli` puts into the context."""

    keys_directory: Path
    spool_directory: Path
    relay: str = "relay1"
    postfix_directory: Path | None = None
    relay_commands: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)


@pytest.fixture
def settings(
    shelf: Any,
    keep: Any,
    tmp_path: Path,
    rsa_private: Any,
    rsa_other: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """Two keys of example.com, one of example.net, a tombstone; another relay signs with one."""
    keep(rsa_private, "a")
    for selector, stage in (("b", Stage.READY), ("old", Stage.REMOVED)):
        record = keep(rsa_other, selector, active=False)
        with shelf.writing("example.com") as writer:
            writer.put(record.moved(stage, at=NOW, why="test"))
    keep(rsa_private, "a", sdid="example.net")
    spool, programs = tmp_path / "spool", tmp_path / "bin"
    spool.mkdir()
    programs.mkdir()
    # Postfix's own would sleep a second before it gives up.
    (programs / "postconf").write_text("#!/bin/sh\nexit 69\n")
    (programs / "postconf").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    other = RelayReport(
        relay="relay2",
        at=datetime.now(UTC),
        workers=(
            Worker(
                7,
                False,
                frozenset({"example.com/a"}),
                frozenset({"example.com/b"}),
                NOW,
                ("its \x1b[2J disk is full",),
            ),
        ),
        queue=QueueReport(2, NOW, 432000, 432000),
    )
    command = [sys.executable, "-c", f"print({report.to_json(other)!r})"]
    return Settings(shelf.directory, spool, relay_commands={"relay2": command})


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(
        hosts_command.hosts,
        list(arguments),
        obj=settings,
        catch_exceptions=False,
        standalone_mode=False,
    )


def rows(settings: Settings, *arguments: str) -> list[dict[str, Any]]:
    done = run(settings, *arguments, "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_relay_has_a_line_for_every_key_that_is_not_removed(settings: Settings) -> None:
    """Here no worker runs; there one does."""
    shown = {(row["relay"], row["sdid"], row["selector"]): row for row in rows(settings)}
    assert {key: row["state"] for key, row in shown.items()} == {
        ("relay1", "example.com", "a"): "loaded",
        ("relay1", "example.com", "b"): "loaded",
        ("relay1", "example.net", "a"): "loaded",
        ("relay2", "example.com", "a"): "signing",
        ("relay2", "example.com", "b"): "loaded",
        ("relay2", "example.net", "a"): "stopped",
    }
    there = shown["relay2", "example.com", "b"]
    assert (there["stage"], there["workers"], there["queued"]) == ("ready", 1, 2)
    assert there["oldest"] == there["since"] == "2026-11-21T12:00:00Z"
    assert there["problem"] == "its \\x1b[2J disk is full"
    here = shown["relay1", "example.com", "a"]
    assert (here["workers"], here["queued"], here["since"]) == (0, None, None)
    assert "queue of Postfix is unknown" in here["problem"]


SELECTIONS = [
    pytest.param(["Example.COM"], {("example.com", "a"), ("example.com", "b")}, id="sdid"),
    pytest.param(["example.com", "B"], {("example.com", "b")}, id="selector"),
    pytest.param(["example.com", "old"], {("example.com", "old")}, id="even-if-removed"),
]


@pytest.mark.parametrize(("arguments", "expected"), SELECTIONS)
def test_keys_can_be_chosen(arguments: list[str], expected: set[Any], settings: Settings) -> None:
    """Every relay is shown with each."""
    shown = rows(settings, *arguments)
    assert {(row.get("sdid"), row.get("selector")) for row in shown} == expected
    assert {row["relay"] for row in shown} == {"relay1", "relay2"}


def test_a_key_that_never_was_is_an_error(settings: Settings) -> None:
    """Before anybody is asked."""
    with pytest.raises(errors.NotFound):
        run(settings, "example.com", "z")
    with pytest.raises(errors.NotFound, match=r"no key of example\.org is known"):
        run(settings, "example.org")


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_a_relay_without_a_report_makes_the_exit_status(form: str, settings: Settings) -> None:
    """All others are shown; what is wrong with it, too."""
    assert run(settings, "--format", form).return_value == 0
    settings.relay_commands = {**settings.relay_commands, "relay3": NOWHERE}
    done = run(settings, "--format", form)
    assert done.return_value == 3
    assert "no route to host" in done.stdout
    assert "relay2" in done.stdout
    assert "\x1b" not in done.stdout
    assert {row["state"] for row in rows(settings) if row["relay"] == "relay3"} == {"unknown"}


def test_the_report_for_other_relays_is_one_line_that_they_believe(settings: Settings) -> None:
    """A running worker's word, whole; nobody else is asked."""
    settings.relay_commands = {"relay3": NOWHERE}
    worker = Acknowledgement(settings.spool_directory, "relay1")
    watch = keyring.Watch(settings.keys_directory, lambda: 0.0, worker.before_use)
    done = run(settings, "--report")
    assert done.return_value == 0
    (line,) = done.stdout.splitlines()
    said = report.from_json(line)
    (one,) = said.workers
    assert one.signing == watch.current().signing_names
    assert one.standby == {"example.com/b"}
    with pytest.raises(errors.UsageError):
        run(settings, "example.com", "--report")


def test_a_report_is_given_even_where_nothing_can_be_read(settings: Settings) -> None:
    """The one who asks must hear why."""
    settings.keys_directory = settings.keys_directory.with_name("nowhere")
    done = run(settings, "--report")
    assert done.return_value == 0
    assert "signing.keys" in report.from_json(done.stdout).problem
