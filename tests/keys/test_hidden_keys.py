"""Who looks for keys without the right to, or in the wrong place, hears that, and no denial.

The guarantee: no `keys` command says that there is no key where it could not look.  In the night of
an emergency, "those that sign: none" would send a person after the wrong thing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carbonseal.keys import permission, store
from carbonseal.policies import errors

from .test_commands import PUBLISHED, Settings, run
from .test_permission import user

STRANGER = 12399
# Everything that a domain without keys gets a sentence about, or nothing.
LOOKING = [
    ["list", "example.com"],
    ["show", "example.com"],
    ["show", "example.com", "a"],
    ["check"],
    ["check", "example.com"],
    ["hosts", "example.com"],
    ["plan", "example.com"],
    ["status", "example.com"],
    ["status", "example.com", "--look"],
    ["history", "example.com"],
    ["history", "example.com", "a"],
    ["export", "example.com", "--to", "there", "--form", "pem"],
    ["emergency", "example.com", "--dry-run"],
    ["rollback", "example.com", "--dry-run"],
]
# These would begin a key beside the others.
BEGINNING = [["rotate", "example.com", "--dry-run"], ["rotate", "example.com"]]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A keys directory with one key that signs, on a way that is open to everybody."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    one = Settings(tmp_path / "keys")
    run(one, "generate", "example.com", "--selector", "a", "--activate", PUBLISHED)
    return one


def called(arguments: list[str]) -> str:
    return " ".join(arguments)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root for another user")
@pytest.mark.parametrize("closed", ["keys", "keys/example.com", "keys/example.com/a.json"])
@pytest.mark.parametrize("arguments", [*LOOKING, *BEGINNING], ids=called)
def test_without_the_right_to_read_the_remedy_is_said_and_no_denial(
    arguments: list[str], closed: str, settings: Settings, tmp_path: Path
) -> None:
    """The directory as a whole, that of the domain, or the record of its only key."""
    (tmp_path / "keys").chmod(0o755)
    (tmp_path / "keys/example.com").chmod(0o755)
    path = tmp_path / closed
    path.chmod(0o700 if path.is_dir() else 0o600)
    with user(STRANGER, STRANGER), pytest.raises(permission.WrongPermission) as refusal:
        run(settings, *arguments)
    assert refusal.value.exit_code == 78
    # Any of them, as other runs of the tests may close what lies above at this moment.
    assert Path(refusal.value.sentence.split(": ", 1)[0]) in (path, *path.parents)
    assert "; run: " in refusal.value.sentence


@pytest.mark.parametrize("arguments", LOOKING, ids=called)
def test_a_keys_directory_that_is_missing_is_named(
    arguments: list[str], settings: Settings
) -> None:
    """`signing.keys` may lead astray; a key that is begun would make the directory."""
    settings.keys_directory = settings.keys_directory.with_name("elsewhere")
    with pytest.raises(errors.ConfigurationError, match="no such keys directory") as refusal:
        run(settings, *arguments)
    assert refusal.value.exit_code == 78
    assert not settings.keys_directory.exists()


@pytest.mark.parametrize(
    "arguments",
    [one for one in (*LOOKING, *BEGINNING) if one != ["show", "example.com", "a"]],
    ids=called,
)
def test_a_record_that_is_damaged_is_named_before_it_is_said_that_there_is_none(
    arguments: list[str], settings: Settings
) -> None:
    """Nobody knows what it said."""
    path = store.Store(settings.keys_directory).record_path("example.com", "a")
    path.write_bytes(b"{")
    with pytest.raises(errors.DataError) as refusal:
        run(settings, *arguments)
    assert str(path) in refusal.value.sentence


WHOLE = ("list", "show", "hosts", "plan", "status", "history", "export")


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_is_still_shown_beside_what_is_hidden(name: str, settings: Settings) -> None:
    """The record of an old key does not stand in the way of what is known of another."""
    run(settings, "generate", "example.com", "--selector", "old")
    store.Store(settings.keys_directory).record_path("example.com", "old").write_bytes(b"{")
    more = ["--to", "there", "--form", "pem"] if name == "export" else []
    shown = "there/example.com.a.txt" if name == "export" else "a"
    assert shown in run(settings, name, "example.com", *more).stdout.split()
