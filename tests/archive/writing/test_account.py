"""What the writer says of its troubles is said once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carbonseal.milter.archive.progress import Progress
from carbonseal.milter.archive.writing.account import Account

Events = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def account(tmp_path: Path, events: Events) -> Account:
    def report(event: str, **facts: Any) -> None:
        events.append((event, facts))

    return Account(report, tmp_path, tmp_path / "evidence")


def test_a_trouble_is_said_once_as_long_as_it_is_the_same(account: Account, events: Events) -> None:
    """An outage of an hour is two lines in the log, unless it becomes another one meanwhile."""
    for problem in ("it is down", "it is down", "it is a standby", "it is a standby"):
        account.waits(problem)
    account.serves({})
    account.serves({})
    assert events == [
        ("database-waits", {"problem": "it is down"}),
        ("database-waits", {"problem": "it is a standby"}),
        ("database-serves-again", {"after": "it is a standby"}),
    ]


def test_an_archive_that_is_gone_is_an_error(account: Account, events: Events) -> None:
    """It does not come back by itself, as a database that is down mostly does."""
    for is_lost in (True, True, False):
        account.waits("it is gone" if is_lost else "it is down", is_lost=is_lost)
    account.serves({})
    names = [name for name, _ in events]
    assert names == ["archive-lost", "database-waits", "database-serves-again"]


def test_the_same_trouble_is_said_again_after_it_was_over(account: Account, events: Events) -> None:
    """Two outages are two."""
    for _ in range(2):
        account.waits("it is down")
        account.serves({})
    assert [name for name, _ in events] == ["database-waits", "database-serves-again"] * 2


def test_trouble_lasts_until_a_pass_is_done(account: Account, tmp_path: Path) -> None:
    """A commit in between does not take it back: what comes after it may fail again."""
    account.waits("it is down")
    account.has_loaded(3, {"one": Progress(offset=10, lines=3, records=3)})
    assert said(tmp_path)["trouble"] == "it is down"
    account.serves({"one": Progress(offset=10, lines=3, records=3)})
    assert said(tmp_path)["trouble"] is None
    assert said(tmp_path)["loaded"] == 3
    assert said(tmp_path)["progress"] == {"one": [10, 3]}


def said(spool: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((spool / "state" / "writer.json").read_bytes())
    return content
