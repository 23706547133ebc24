"""`carbonseal config check`: what is wrong, and what is right but will surprise."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.carbonseal import Carbonseal


def check(home: Path, **record: Any) -> subprocess.CompletedProcess[str]:
    """Of a relay that has a spool and a keys directory, with these settings of its record."""
    service = Carbonseal(
        home, {"record": {"spool": "spool", "database": "sqlite:///a.db", **record}}
    )
    for name in ("spool", "keys"):
        (home / name).mkdir(mode=0o750, exist_ok=True)
    return service.command("config", "check", check=False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("archive.db", "is no database URL", id="no URL"),
        pytest.param("sqlite://", "an archive in memory would be lost", id="in memory"),
        pytest.param("oracle://x/y", "no driver for oracle", id="no driver"),
        pytest.param("mysql://x/y", "or mysql+pymysql:", id="another driver"),
        pytest.param("sqlite:////nowhere/a.db", "/nowhere: no such directory", id="no directory"),
    ],
)
def test_a_database_that_can_never_serve_is_a_complaint(
    tmp_path: Path, url: str, says: str
) -> None:
    """Mail would flow all the same, and records wait until the spool is full."""
    done = check(tmp_path / "relay", database=url)
    assert done.returncode == 78
    [line] = done.stderr.splitlines()
    assert line.startswith("record.database")
    assert says in line


@pytest.mark.parametrize("url", ["sqlite:///a.db", "postgresql+psycopg://u:secret@192.0.2.1/x"])
def test_a_database_that_is_only_away_is_none(tmp_path: Path, url: str) -> None:
    """It is not asked: the writer waits for it, and the milter's user may not."""
    done = check(tmp_path / "relay", database=url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "secret" not in done.stdout


def test_another_archive_than_that_of_the_spool_is_a_hint(tmp_path: Path) -> None:
    """A slip of the pen begins an empty one; the writer's mark tells which it was before."""
    home = tmp_path / "relay"
    assert "hint: record.database" not in check(home).stdout
    mark = home / "spool" / "writer.archive"
    mark.write_text(json.dumps({"database": str(home / "a.db"), "segment": "x"}))
    assert "hint: record.database" not in check(home).stdout
    done = check(home, database="sqlite:///ab.db")
    assert (done.returncode, done.stderr) == (0, "")
    [hint] = [line for line in done.stdout.splitlines() if line.startswith("hint: record.database")]
    assert f"{home / 'a.db'}, and this names {home / 'ab.db'}, where nothing is" in hint


def test_a_key_that_is_made_and_not_active_signs_nothing(tmp_path: Path) -> None:
    """To forget the second step is easy, and then all mail leaves unsigned."""
    check(tmp_path / "relay")
    service = Carbonseal(tmp_path / "relay")
    service.command("keys", "generate", "example.com")
    hint = "hint: signing: no key is active, so no mail is signed; carbonseal keys rotate"
    assert hint in service.command("config", "check").stdout
    service.make_key("example.com")
    assert "hint" not in service.command("config", "check").stdout


@pytest.mark.parametrize(
    ("networks", "says"),
    [
        pytest.param(["192.0.2.0/24", "0.0.0.0/0"], ["0.0.0.0/0"], id="everybody"),
        pytest.param(["0.0.0.0/1", "128.0.0.0/1"], ["0.0.0.0/0"], id="in two halves"),
        pytest.param(["::/0", "0.0.0.0/0"], ["0.0.0.0/0", "::/0"], id="both versions"),
        pytest.param(["192.0.2.0/24", "2001:db8::/32"], [], id="some"),
    ],
)
def test_that_everybody_may_speak_for_us_is_a_complaint(
    tmp_path: Path, networks: list[str], says: list[str]
) -> None:
    """An open relay that signs."""
    home = tmp_path / "relay"
    check(home)
    service = Carbonseal(home)
    service.configure({"ours": {"domains": ["example.com"], "networks": networks}})
    done = service.command("config", "check", check=False)
    assert done.returncode == (78 if says else 0)
    assert [line.split()[:2] for line in done.stderr.splitlines()] == [
        ["ours.networks:", one] for one in says
    ]


def test_a_limit_below_what_open_files_take_is_a_hint(tmp_path: Path) -> None:
    """They count although all in them was loaded; two workers and the follower have three."""
    hint = "hint: record.spool_limit: the files that are being written count too, up to 64MiB each"
    assert hint in check(tmp_path / "relay", spool_limit="191MiB").stdout
    assert hint not in check(tmp_path / "relay", spool_limit="192MiB").stdout
