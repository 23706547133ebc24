"""The audit: who asked for what, before it is answered."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, delete, insert, update

from carbonseal.milter.archive import audit, audit_commands, commands, database, schema
from carbonseal.policies.errors import DataError, UsageError

WRITERS, EVENTS_EACH = 3, 15


@dataclass(frozen=True)
class Context:
    database_url: str
    require_reason: bool = False
    spool_directory: Path = field(default_factory=Path)
    keep_loaded: int | None = None


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'archive.db'}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    with audit.opened(url) as opened:
        yield opened


def add(engine: Engine, number: int = 1, **changes: Any) -> audit.Event:
    given: dict[str, Any] = {"action": "search", "reason": "case 7", "detail": {"n": number}}
    return audit.append(engine, **{**given, **changes})


def all_events(engine: Engine) -> list[audit.Event]:
    return list(audit.events(engine))[::-1]


def faults(engine: Engine, *known: audit.Head) -> list[tuple[int, str]]:
    return [(one.number, one.what) for one in audit.check(engine, known)]


def test_events_are_numbered_chained_and_read_back(engine: Engine) -> None:
    """From 1 without a gap, each with the digest of the one before, exactly as written."""
    added = [add(engine, number, detail={"text": "\x00\udcff\u202e"}) for number in range(1, 4)]
    assert [one.number for one in added] == [1, 2, 3]
    assert all_events(engine) == added
    assert added[0].previous == bytes(32)
    assert [one.previous for one in added[1:]] == [one.digest for one in added[:-1]]
    assert added[0].facts == {"text": "\x00\udcff\u202e"}
    assert faults(engine) == []


def test_an_empty_audit_is_true(engine: Engine) -> None:
    """Nothing was asked, nothing is false."""
    assert faults(engine) == []


def test_the_pages_of_a_long_audit_fit_together(engine: Engine) -> None:
    """More events than a page, in the same transaction as nobody would write them."""
    last = add(engine)
    rows = []
    for _ in range(1100):
        at = last.at
        digest = audit._digest(last.digest, last.number + 1, at, "a", "show", "", "{}")
        last = audit.Event(last.number + 1, at, "a", "show", "", "{}", last.digest, digest)
        rows.append({name: getattr(last, name) for name in schema.audit.columns.keys()})  # noqa: SIM118
    with engine.begin() as connection:
        connection.execute(insert(schema.audit), rows)
    assert [one.number for one in all_events(engine)] == list(range(1, 1102))
    assert faults(engine) == []


ROW = schema.audit.c
TAMPERING = [
    pytest.param(
        update(schema.audit).where(ROW.number == 3).values(actor="nobody"),
        [(3, "was changed")],
        id="actor",
    ),
    pytest.param(
        update(schema.audit).where(ROW.number == 3).values(detail='{"n":4}'),
        [(3, "was changed")],
        id="detail",
    ),
    pytest.param(
        update(schema.audit).where(ROW.number == 3).values(at=ROW.at + 1),
        [(3, "was changed")],
        id="time",
    ),
    pytest.param(
        update(schema.audit).where(ROW.number == 3).values(digest=bytes(32)),
        [(3, "was changed"), (4, "does not follow from the event before")],
        id="digest",
    ),
    pytest.param(
        delete(schema.audit).where(ROW.number == 3),
        [(3, "events are missing up to number 3")],
        id="removed",
    ),
    pytest.param(
        delete(schema.audit).where(ROW.number == 1),
        [(1, "events are missing up to number 1")],
        id="the-first-removed",
    ),
    pytest.param(
        delete(schema.audit).where(ROW.number == 5),
        [(5, "is missing: the audit ends with number 4")],
        id="the-last-removed",
    ),
    pytest.param(
        delete(schema.audit),
        [(5, "is missing: the audit ends with number 0")],
        id="all-removed",
    ),
]


@pytest.mark.parametrize(("statement", "found"), TAMPERING)
def test_tampering_is_found_and_where(
    engine: Engine, statement: Any, found: list[tuple[int, str]]
) -> None:
    """The number of the first event that is not true, and what is wrong with it."""
    for number in range(1, 6):
        head = add(engine, number).head
    with engine.begin() as connection:
        connection.execute(statement)
    assert faults(engine, head) == found


def test_an_audit_written_anew_is_found_by_a_head_that_was_kept(engine: Engine) -> None:
    """A chain that fits in itself is still not the one that others remember."""
    kept = [add(engine, number).head for number in range(1, 4)][1]
    with engine.begin() as connection:
        connection.execute(delete(schema.audit))
    for number in range(1, 4):
        add(engine, number, detail={"n": -number})
    assert faults(engine) == []
    assert faults(engine, kept) == [
        (2, "is not the event that was there when it was sealed or noted")
    ]


def answer(context: Context, reason: str = "") -> None:
    """An answer that must not be given."""
    with audit.asking(context, "search", {}, reason):
        pytest.fail("was answered")


ADDER = """
import sys
from carbonseal.milter.archive import audit
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
with audit.opened(url) as engine:
    for number in range(count):
        audit.append(engine, actor=name, action="search", reason="", detail={"n": number})
"""


def add_from_processes(url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADDER, url, f"officer{number}", str(EVENTS_EACH)],
            stdin=subprocess.PIPE,
        )
        for number in range(WRITERS)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        assert process.wait(120) == 0
        assert process.stdin
        process.stdin.close()


@pytest.fixture
def any_url(database_url: str) -> str:
    """An archive on each engine, with its tables where they are a server's."""
    if not database_url.startswith("sqlite:"):
        engine = database.writing_engine(database_url)
        database.upgrade(engine)
        engine.dispose()
    return database_url


def test_processes_that_add_at_once_share_one_chain(any_url: str) -> None:
    """No number twice, no gap, the chain whole, each process's events in its order."""
    add_from_processes(any_url)
    with audit.opened(any_url) as engine:
        found = all_events(engine)
        assert faults(engine) == []
    assert [one.number for one in found] == list(range(1, WRITERS * EVENTS_EACH + 1))
    for number in range(WRITERS):
        mine = [one.facts["n"] for one in found if one.actor == f"officer{number}"]
        assert mine == list(range(EVENTS_EACH))


def test_each_engine_keeps_the_same(any_url: str) -> None:
    """Text that databases refuse, the order, the chain, and what was tampered with."""
    with audit.opened(any_url) as engine:
        added = [add(engine, detail={"text": "\x00\udcff\u202e"}, reason="Prüfung 7") for _ in "12"]
        assert all_events(engine) == added
        assert faults(engine, added[-1].head) == []
        add(engine, actor=f"{audit.person()}% as root")
        assert list(audit.events(engine, actor=audit.person()))[::-1] == added
        with engine.begin() as connection:
            connection.execute(update(schema.audit).where(ROW.number == 1).values(reason=""))
        assert faults(engine) == [(1, "was changed")]


def test_what_is_asked_stands_there_before_the_answer(url: str) -> None:
    """The question first; what was given in a second event."""
    with audit.asking(Context(url), "search", {"sender": "a@b"}, "case 7") as asked:
        with audit.opened(url) as engine:
            [first] = all_events(engine)
        assert (first.action, first.facts) == ("search", {"sender": "a@b"})
        assert list(asked.counted("abc")) == ["a", "b", "c"]
        asked.note(manifest="00ff")
    with audit.opened(url) as engine:
        _, last = all_events(engine)
    assert (last.action, last.reason) == ("answered", "case 7")
    assert last.facts == {"of": 1, "outcome": "complete", "given": 3, "manifest": "00ff"}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        pytest.param(BrokenPipeError, "cut short", id="reader-went-away"),
        pytest.param(KeyboardInterrupt, "cut short", id="interrupted"),
        pytest.param(RuntimeError, "failed", id="defect"),
    ],
)
def test_an_answer_that_was_not_complete_says_so(
    url: str, fault: type[BaseException], outcome: str
) -> None:
    """What was handed out until then is counted; the fault goes on."""
    asking = audit.asking(Context(url), "search", {})
    rows = asking.__enter__().counted(range(10))
    next(rows)
    next(rows)
    given = fault()
    assert not asking.__exit__(fault, given, None)
    with audit.opened(url) as engine:
        assert all_events(engine)[-1].facts == {"of": 1, "outcome": outcome, "given": 2}


def test_without_an_audit_there_is_no_answer(tmp_path: Path) -> None:
    """What cannot be written down is not answered, with a sentence."""
    (tmp_path / "archive-audit.db").write_bytes(b"this is no database, and has no room for rows\n")
    context = Context(f"sqlite:///{tmp_path / 'archive.db'}")
    with pytest.raises(audit.AuditUnusable, match=r"archive-audit\.db") as raised:
        answer(context)
    assert raised.value.exit_code == 75
    assert "\n" not in raised.value.sentence


ASKER = """
import os, resource, signal, sys
from carbonseal.milter.archive import audit
from carbonseal.policies.errors import CarbonsealError

class Context:
    database_url, require_reason = sys.argv[1], False

file, is_full = sys.argv[2], sys.argv[3] == "full"
with audit.asking(Context, "search", {}, ""):
    if not is_full:
        os.kill(os.getpid(), signal.SIGKILL)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(file),) * 2)
try:
    while True:
        with audit.asking(Context, "search", {}, "r" * 500):
            print("answered", flush=True)
except CarbonsealError as fault:
    print(fault.sentence)
"""


def asked(url: str, tmp_path: Path, how: str) -> tuple[int, list[str], list[audit.Event]]:
    """Status and output of a process that asks, and the events of type search."""
    arguments = [sys.executable, "-c", ASKER, url, tmp_path / "archive-audit.db", how]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=False, timeout=180)
    with audit.opened(url) as engine:
        assert faults(engine) == []
        events = [one for one in all_events(engine) if one.action == "search"]
    return done.returncode, done.stdout.decode().splitlines(), events


def test_no_answer_goes_out_for_which_a_full_disk_has_no_room(url: str, tmp_path: Path) -> None:
    """Each that was given stands in the audit; the next is one sentence, and the chain is whole."""
    status, said, events = asked(url, tmp_path, "full")
    assert status == 0
    assert "the audit cannot be used" in said[-1]
    assert 1 + said.count("answered") == len(events)  # the first had no limit, and said nothing


def test_whoever_is_killed_before_the_answer_has_asked_all_the_same(
    url: str, tmp_path: Path
) -> None:
    """The question is on the disk; that nobody answered it shows."""
    status, said, events = asked(url, tmp_path, "killed")
    assert (status, said, len(events)) == (-9, [], 1)
    with audit.opened(url) as engine:
        assert [one.action for one in all_events(engine)] == ["search"]


def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """Nobody can make the file where there is no directory."""
    context = Context(f"sqlite:///{tmp_path / 'nowhere' / 'archive.db'}")
    with pytest.raises(audit.AuditUnusable, match="no answer"):
        answer(context)


@pytest.mark.parametrize("reason", ["", "   "])
def test_a_reason_can_be_demanded(url: str, reason: str) -> None:
    """Without one there is a usage error, no answer and no event."""
    with pytest.raises(UsageError, match="--reason"):
        answer(Context(url, require_reason=True), reason)
    with audit.opened(url) as engine:
        assert all_events(engine) == []


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[0m", "x" * 501, "\udcff"])
def test_a_reason_is_one_line(url: str, reason: str) -> None:
    """What could play with the terminal of whoever reads it is refused."""
    with pytest.raises(DataError, match="--reason"):
        answer(Context(url), reason)


def test_the_files_are_for_the_group(tmp_path: Path, url: str) -> None:
    """Officers of the archive's group can add, whatever the umask, and need no other right."""
    (tmp_path / "archive.db").touch()
    mask = os.umask(0o077)
    try:
        with audit.opened(url) as engine:
            add(engine)
    finally:
        os.umask(mask)
    for name in ("archive-audit.db", "archive-audit.db-journal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o660


OFFICER = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(65534)
from carbonseal.milter.archive import audit
with audit.opened(sys.argv[1]) as engine:
    audit.append(engine, action="search", reason="", detail={})
"""


@pytest.mark.root
def test_an_officer_who_may_make_no_file_there_can_add() -> None:
    """Another user of the group, in a directory that is closed to writing, and the owner after."""
    group = 65533
    # Not below pytest's directory, which every other run of pytest closes to other users.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        archive = Path(directory) / "archive.db"
        archive.touch()
        os.chown(archive, 0, group)
        url = f"sqlite:///{archive}"
        with audit.opened(url) as engine:
            add(engine)
        subprocess.run([sys.executable, "-c", OFFICER, url, str(group)], check=True)
        with audit.opened(url) as engine:
            add(engine)
            assert [one.number for one in all_events(engine)] == [1, 2, 3]
            assert faults(engine) == []


@pytest.mark.root
def test_what_root_makes_belongs_to_whoever_has_the_archive(tmp_path: Path) -> None:
    """Or has its directory, before there is one: the writer must be able to go on."""
    for name in ("before", "after"):
        directory = tmp_path / name
        directory.mkdir()
        os.chown(directory, 65534, 65533)
        if name == "after":
            (directory / "archive.db").touch()
            os.chown(directory / "archive.db", 65532, 65531)
        with audit.opened(f"sqlite:///{directory / 'archive.db'}") as engine:
            add(engine)
        status = (directory / "archive-audit.db").stat()
        wanted = {"before": (65534, 65533), "after": (65532, 65531)}[name]
        assert (status.st_uid, status.st_gid) == wanted


PIPED = """
import sys
from types import SimpleNamespace
from carbonseal.milter.archive import commands
commands.archive(["audit", "--json", "--all"], obj=SimpleNamespace(
    database_url=sys.argv[1], require_reason=False))
"""


def test_a_reader_that_has_enough_is_no_reader_of_all(engine: Engine, url: str) -> None:
    """`... | head -1`: some were handed out, not all, and the audit says so."""
    add(engine)
    many = [
        {"number": number, "at": 0, "actor": "a", "action": "show", "reason": "r" * 400,
         "detail": "{}", "previous": bytes(32), "digest": bytes(32)}
        for number in range(2, 1500)
    ]  # fmt: skip
    with engine.begin() as connection:
        connection.execute(insert(schema.audit), many)
    process = subprocess.Popen([sys.executable, "-c", PIPED, url], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    process.wait(60)
    last = next(audit.events(engine))
    assert last.facts["outcome"] == "cut short"
    assert 0 < last.facts["given"] < 1500


def test_who_asks_is_who_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account always stands there; what only the environment says is marked."""
    monkeypatch.setattr(audit, "_login", lambda: None)
    monkeypatch.delenv("SUDO_USER", raising=False)
    account = audit.person()
    monkeypatch.setenv("SUDO_USER", "alice")
    assert audit.person() == f"alice (says SUDO_USER) as {account}"
    monkeypatch.setenv("SUDO_USER", "\x1b[31malice")
    assert audit.person() == account
    monkeypatch.setattr(audit, "_login", lambda: "bob")
    assert audit.person() == f"bob as {account}"


def call(url: str, *arguments: str, require_reason: bool = False) -> Result:
    return CliRunner().invoke(commands.archive, arguments, obj=Context(url, require_reason))


def test_the_command_lists_and_is_listed(engine: Engine, url: str) -> None:
    """Newest first, the question itself on top; the look stands in the audit."""
    add(engine, 1, actor="alice")
    add(engine, 2, actor="bob", action="export", reason="case 9")
    result = call(url, "audit", "--json", "--reason", "yearly review")
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["action"] for one in found] == ["audit", "export", "search"]
    assert found[0]["reason"] == "yearly review"
    assert found[1]["detail"] == {"n": 2}
    assert all_events(engine)[-1].facts == {"of": 3, "outcome": "complete", "given": 3}


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        pytest.param(["--actor", "alice"], [1], id="actor"),
        pytest.param(["--action", "export"], [2], id="action"),
        pytest.param(["--limit", "1"], [3], id="limit"),
        pytest.param(["--limit", "1", "--all"], [3, 2, 1], id="all"),
        pytest.param(["--since", "1h"], [3, 2, 1], id="since"),
        pytest.param(["--until", "1h"], [], id="until"),
    ],
)
def test_the_command_finds(
    engine: Engine, url: str, options: list[str], numbers: list[int]
) -> None:
    """Options mean what their help says."""
    add(engine, 1, actor="alice")
    add(engine, 2, actor="bob", action="export")
    result = call(url, "audit", "--json", *options)
    assert [json.loads(line)["number"] for line in result.stdout.splitlines()] == numbers


def test_every_action_that_the_audit_gets_can_be_asked_for() -> None:
    """A word that the list lacks could not be looked for any more."""
    room = Path(audit.__file__).parent
    asked = re.compile(r'audit\.asking\(\s*context,\s*"([a-z-]+)"')
    used = {word for path in room.rglob("*.py") for word in asked.findall(path.read_text())}
    assert len(used) > 10
    assert used | {audit.ANSWERED, audit.REWRITTEN} == set(audit_commands.ACTIONS)


def test_times_are_those_of_the_clock(engine: Engine) -> None:
    """Microseconds UTC."""
    before = datetime.now(UTC)
    event = add(engine)
    at = datetime.fromtimestamp(event.at / 1_000_000, UTC)
    assert before - timedelta(milliseconds=1) <= at <= datetime.now(UTC) + timedelta(seconds=1)


def test_the_command_needs_a_reason_where_one_is_demanded(url: str) -> None:
    """A usage error that names the option; exit status 64."""
    result = call(url, "audit", require_reason=True)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 64
