"""The documents say what the code does: manual, example configuration, units, Postfix snippets.

`python tests/house/test_documents.py` writes the generated tables of the manual anew: map,
commands, reasons, findings.  The tables of the configuration and of the failure policy carry
meanings written by hand; their keys and defaults are compared here.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import yaml

from carbonseal.milter import cli, config, config_file, config_sections
from carbonseal.milter.archive import audit
from carbonseal.milter.config_sections import FileModel
from carbonseal.milter.postfix_finding import CATALOGUE
from carbonseal.policies import disposition, errors, reason

NOWHERE = click.Context(cli.carbonseal)
ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
POSTFIX = ROOT / "docs/postfix.md"
MANUAL = (
    ROOT / "docs/operations.md",
    README,
    POSTFIX,
    *(ROOT / "docs" / name for name in ("archive.md", "keys.md", "migration.md")),
)
EXAMPLE = ROOT / "packaging/etc/carbonseal.yaml"
UNITS = ROOT / "packaging/systemd"
SNIPPETS = ROOT / "packaging/postfix"
PIPE = r"\|"  # within a cell of a table

# What the packaged file sets, because its defaults suit a checkout better than an installation.
PACKAGED = {
    "milter.socket_group": "postfix",
}


# --- The code, as the documents should show it ----------------------------------------------------


def keys(model: type[FileModel] | Any = FileModel, above: str = "") -> Iterator[str]:
    """Every key that can be written, dotted; `[]` after a list of mappings."""
    for name, about in model.model_fields.items():
        inner = [one for one in (about.annotation, *get_args(about.annotation)) if is_model(one)]
        is_list = bool(inner) and inner[0] is not about.annotation
        if not inner or is_list:
            yield above + name
        if inner:
            yield from keys(inner[0], f"{above}{name}{'[]' if is_list else ''}.")


def is_model(annotation: Any) -> bool:
    return hasattr(annotation, "model_fields")


def defaults() -> dict[str, Any]:
    """Every key outside lists with its default; ours.domains has none."""
    model = FileModel.model_validate({"ours": {"domains": ["example.com"]}})
    flat = flatten(model.model_dump(mode="json"))
    del flat["ours.domains"]
    return flat


def flatten(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{top}.{key}": value for top, one in sections.items() for key, value in one.items()}


def commands(group: click.Group = cli.carbonseal, above: str = "") -> dict[str, click.Command]:
    """Every command that does something, by the words that call it."""
    found: dict[str, click.Command] = {}
    for name in group.list_commands(NOWHERE):
        command = group.get_command(NOWHERE, name)
        assert command is not None
        words = f"{above}{name}"
        if isinstance(command, click.Group):
            found |= commands(command, words + " ")
        else:
            found[words] = command
    return found


def exit_codes() -> set[int]:
    """0, the code of every error class, that of an interrupt and that of a list cut short."""
    codes = {0, 130, 141}
    waiting: list[type[errors.CarbonsealError]] = [errors.CarbonsealError]
    while waiting:
        one = waiting.pop()
        codes.add(one.exit_code)
        waiting.extend(one.__subclasses__())
    return codes


def commands_table() -> str:
    rows = ["| command | what it does |", "|---|---|"]
    for words, command in commands().items():
        first = " ".join((command.help or "").split("\n\n")[0].split())
        arguments = " ".join(filter(None, map(argument, command.params)))
        call = f"{words} {arguments}".strip()
        rows.append(f"| `{call.replace('|', PIPE)}` | {first} |")
    return "\n".join(rows)


def argument(parameter: click.Parameter) -> str:
    """How an argument is shown; nothing for an option."""
    if not isinstance(parameter, click.Argument):
        return ""
    name = parameter.metavar or (parameter.name or "").upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def reasons_table() -> str:
    rows = ["| reason | in words |", "|---|---|"]
    rows += [
        f"| `{code}` | {sentence.format(about='…')} |"
        for code, sentence in reason.SENTENCES.items()
    ]
    return "\n".join(rows)


def findings_table() -> str:
    rows = ["| code | severity | what it means |", "|---|---|---|"]
    rows += [f"| `{code}` | {one} | {means} |" for code, (one, means) in CATALOGUE.items()]
    return "\n".join(rows)


FOLDERS = {
    "policies": "DECIDE: values in, values with reasons out; no files, sockets, clock or logs",
    "keys": "HOLD: the only room that sees private key bytes",
    "keys/publication": "between a key and the DNS: asking the servers, publishing there",
    "keys/relays": "between a key and the relays that sign with it",
    "keys/takeover": "keys that other signers kept, and keys for them",
    "milter": "SPEAK: the process, its configuration and its commands",
    "milter/archive": "the memory of what was sealed: record, spool, database, writer, audit",
    "milter/archive/writing": "the parts of the writer: from the spool to SQL",
    "milter/archive/search": "questions to the archive, and their language",
    "milter/archive/evidence": "proof that what the archive says is what was recorded",
    "milter/archive/keeping": "how long records are kept, what holds them, and how they go",
    "milter/archive/handover": "records that leave the archive, with their proof, and come back",
    "milter/archive/migrations": "the steps of the database's schema",
    "milter/follow": "what became of each message: Postfix's log, followed",
    "milter/copies": "archive copies once they were sent: who watches them, and who is told",
    "milter/status": "how the relay is: what is counted and seen of it, and who is told",
    "milter/supervision": "the parent of a relay's processes: starts, replaces and ends them",
}


def house_map() -> str:
    """Each folder and module with the first line of its manual page."""
    lines = ["```"]
    for folder, about in FOLDERS.items():
        lines += (
            ["", f"{folder + '/':28} {about}"] if len(lines) > 1 else [f"{folder + '/':28} {about}"]
        )
        for path in sorted((ROOT / folder).glob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
            if path.name != "__init__.py":
                lines.append(f"  {path.name:26} {docstring.splitlines()[0].rstrip('.')}")
    return "\n".join([*lines, "```"])


GENERATED = {
    "map": (README, house_map),
    "commands": (README, commands_table),
    "reasons": (README, reasons_table),
    "findings": (POSTFIX, findings_table),
}


def block(name: str, document: Path = README) -> str:
    """What stands between two marks of a document."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", document.read_text(), re.DOTALL)
    assert found, f"{document.name} has no block <!-- {name} -->"
    return found[1]


def rows(name: str) -> list[list[str]]:
    """The cells of the table between two marks, without its head and back quotes."""
    lines = block(name).splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines]


# --- The manual -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATED)
def test_the_manual_holds_the_table_the_code_gives(name: str) -> None:
    """Mend with: python tests/house/test_documents.py"""
    document, made = GENERATED[name]
    assert block(name, document) == made()


def test_the_manual_names_every_configuration_key() -> None:
    """Each with what it is for; none that does not exist."""
    table = {row[0]: row[-1] for row in rows("configuration")}
    assert set(table) == set(keys())
    assert all(meaning for meaning in table.values())


def test_the_manual_gives_the_real_defaults() -> None:
    """As `config show` prints them."""
    table = {row[0]: row[1] for row in rows("configuration") if "[]" not in row[0]}
    required = table.pop("ours.domains")
    assert required == "required"
    assert {key: yaml.safe_load(text) for key, text in table.items()} == defaults()


def test_the_manual_gives_the_real_failure_policy() -> None:
    """Class, default answer, and the replies a client would see."""
    table = {row[0]: row[2:5] for row in rows("failures")}
    assert table == {
        str(one): [str(disposition.DEFAULTS[one]), reply(one, "tempfail"), reply(one, "reject")]
        for one in disposition.FailureClass
    }


def reply(failure: disposition.FailureClass, answer: str) -> str:
    policy = disposition.FailurePolicy({failure: disposition.Answer(answer)})
    given = policy.dispose(failure)
    return f"{given.code} {given.enhanced}"


def test_the_configuration_cannot_drift_from_the_failure_policy() -> None:
    """The defaults stand in two rooms, because the lower one may not know the upper one."""
    model = config_sections.FailureSection().model_dump()
    assert model == {str(one): str(answer) for one, answer in disposition.DEFAULTS.items()}


def test_the_manual_explains_every_exit_code() -> None:
    """Scripts rely on them."""
    assert {int(row[0]) for row in rows("exit-codes")} == exit_codes()


@pytest.mark.parametrize("words", commands())
def test_every_command_has_help(words: str) -> None:
    """And so has every option; click shows names of its own for arguments."""
    command = commands()[words]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{words} {parameter.opts[0]}"


@pytest.mark.parametrize("words", commands())
def test_the_manual_shows_every_command(words: str) -> None:
    """By the words one would type."""
    assert any(f"carbonseal {words}" in document.read_text() for document in MANUAL)


def test_the_manual_calls_only_what_exists() -> None:
    """An example with a command or option of yesterday is worse than none."""
    known = commands()
    for line in re.findall(
        r"^\s*(?:\$ |# )?(?:sudo (?:-u \S+ )?)?carbonseal (.*)$", manual_code(), re.M
    ):
        words = re.match(r"(?:--config \S+ )?((?:[a-z][a-z-]* ?)+)", line)
        assert words, line
        called = words[1].strip()
        names = [name for name in known if called == name or called.startswith(name + " ")]
        assert names, f"the manual: carbonseal {line}"
        options = {
            opt for one in known[names[0]].params for opt in (*one.opts, *one.secondary_opts)
        }
        used = set(re.findall(r"(?<![\w-])--[a-z-]+", line)) - {"--config", "--help"}
        assert used <= options, f"the manual: carbonseal {line}"


def manual_code() -> str:
    read = (document.read_text() for document in MANUAL)
    text = "\n".join(
        code for one in read for code in re.findall(r"^```\w*\n(.*?)^```", one, re.DOTALL | re.M)
    )
    return text.replace("\\\n", " ")


def test_every_file_the_documents_name_is_there() -> None:
    """Paths in back quotes that begin with a folder of the house."""
    folders = "policies|keys|milter|packaging|tests"
    for document in (README, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"):
        for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", document.read_text()):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def logged() -> set[str]:
    """Every event name in the code: the first argument of whatever logs or reports."""
    found = set()
    for path in (ROOT / "milter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and is_logging(node.func):
                names = [one for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)]
                found |= {str(one.value) for one in names}
    return {name for name in found if re.fullmatch(r"[a-z]+(-[a-z]+)*", name)} - {"accept"}


def is_logging(called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id in {"report", "WordForm"}
    if not isinstance(called, ast.Attribute):
        return False
    if called.attr == "_report":
        return True
    is_log = isinstance(called.value, ast.Name) and called.value.id in {"log", "_log"}
    return is_log and called.attr in {"event", "info", "warning", "error"}


def test_the_manual_explains_every_event_of_the_log() -> None:
    """Alarms are set on these names."""
    named = {name for row in rows("events") for name in re.findall(r"[a-z-]+", row[0])}
    assert named == logged()


# --- The example configuration --------------------------------------------------------------------


def read_example(text: str) -> config_file.Document:
    filled = text.replace("\n  domains: []\n", "\n  domains: [example.com]\n")
    assert filled != text
    return config_file.parse(EXAMPLE, filled.encode())


def uncommented(text: str) -> str:
    """The example with every default switched on and what the package sets switched off."""
    lines = [
        line[1:] if re.match(r"#(?=[a-z_]+:|  [a-z_]+:)", line) else line
        for line in text.splitlines()
    ]
    for key, value in PACKAGED.items():
        lines.remove(f"  {key.partition('.')[2]}: {value}")
    return "\n".join(lines) + "\n"


def test_the_example_configuration_waits_for_the_domains() -> None:
    """A service that starts with somebody else's domains would send every copy astray."""
    with pytest.raises(config.InvalidConfiguration) as fault:
        config.load(EXAMPLE)
    assert len(fault.value.problems) == 1
    assert "ours.domains" in fault.value.problems[0]


def test_the_example_configuration_is_the_default_one() -> None:
    """But for what an installation needs otherwise, and says so."""
    configuration = config.assemble(read_example(EXAMPLE.read_text()))
    content = flatten(configuration.file.model_dump(mode="json"))
    del content["ours.domains"]
    assert content == defaults() | PACKAGED


def test_the_example_configuration_shows_every_option_with_its_default() -> None:
    """What a commented line says is what happens without it."""
    document = read_example(uncommented(EXAMPLE.read_text()))
    configuration = config.assemble(document)
    shown = flatten(document.content)
    assert set(shown) == {key for key in keys() if "[]" not in key}
    content = flatten(configuration.file.model_dump(mode="json"))
    del content["ours.domains"]
    assert content == defaults()


def test_the_example_configuration_names_every_option_of_a_rule() -> None:
    """Lists of mappings have no default to show, so their options stand in the explanation."""
    for key in keys():
        section, _, option = key.rpartition("[].")
        if section:
            assert re.search(rf"#.*\b{option}\b", EXAMPLE.read_text()), key


# --- The units ------------------------------------------------------------------------------------

HARDENING = {
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectProc": "invisible",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "CapabilityBoundingSet": "",
    "NoNewPrivileges": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "SystemCallArchitectures": "native",
    "UMask": "0027",
}
# Root changes keys, asks other relays with its ssh, and reads the queue that is closed to others.
OTHERWISE = {
    "carbonseal-keys.service": {
        "ProtectHome": "read-only",
        "CapabilityBoundingSet": "CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE",
        "UMask": "0077",
    },
    "carbonseal-follow.service": {
        "IPAddressDeny": "any",
        "IPAddressAllow": "localhost",
        "ProcSubset": "all",
    },
}
UNIT_FILES = [pytest.param(path, id=path.name) for path in sorted(UNITS.glob("*.service"))]


def unit(path: Path) -> dict[str, list[str]]:
    """Every assignment of a unit file, in order."""
    content: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            content.setdefault(key, []).append(value)
    return content


@pytest.mark.parametrize("path", UNIT_FILES)
def test_each_unit_is_hardened(path: Path) -> None:
    """What a service does not need it must not have."""
    content = unit(path)
    wanted = HARDENING | OTHERWISE.get(path.name, {})
    assert {key: content.get(key) for key in wanted} == {
        key: [value] for key, value in wanted.items()
    }
    assert content["SystemCallFilter"][:2] == ["@system-service", "~@privileged @resources"]


@pytest.mark.parametrize("path", UNIT_FILES)
def test_each_unit_runs_a_command_that_exists(path: Path) -> None:
    """With options that exist."""
    (line,) = unit(path)["ExecStart"]
    program, *arguments = line.split()
    assert Path(program).name == "carbonseal"
    words = " ".join(one for one in arguments if not one.startswith("-"))
    options = {name for one in commands()[words].params for name in one.opts}
    assert {one.split("=")[0] for one in arguments if one.startswith("-")} <= options


def test_the_milter_cannot_touch_the_archive_nor_the_writer_the_keys() -> None:
    """Two users and two views of the file system."""
    milter = unit(UNITS / "carbonseal-milter.service")
    writer = unit(UNITS / "carbonseal-writer.service")
    assert milter["User"] != writer["User"]
    assert "/var/lib/carbonseal" not in "".join(milter["ReadWritePaths"])
    assert milter["InaccessiblePaths"] == ["-/var/lib/carbonseal/archive"]
    assert writer["InaccessiblePaths"] == ["-/var/lib/carbonseal/keys"]
    assert milter["Group"] == ["carbonseal"]  # of the keys directory
    assert "SupplementaryGroups" not in writer


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs the Debian package systemd")
@pytest.mark.parametrize("path", UNIT_FILES)
def test_systemd_takes_each_unit_and_finds_it_safe(path: Path, tmp_path: Path) -> None:
    """Exposure below 2.0 of 10 (root: 3.0) by systemd's own measure, no word it does not know."""
    threshold = "20" if "User" in unit(path) else "30"
    copy = tmp_path / path.name
    text = re.sub("ExecStart=.*", "ExecStart=/bin/true", path.read_text())
    copy.write_text(re.sub("(Wants|Documentation)=.*\n", "", text))
    for question in (
        ["verify"],
        ["security", "--offline=yes", f"--threshold={threshold}", "--no-pager"],
    ):
        done = subprocess.run(
            ["systemd-analyze", *question, copy], capture_output=True, text=True, check=False
        )
        complaints = [line for line in done.stderr.splitlines() if path.name in line]
        assert done.returncode == 0, done.stdout + done.stderr
        assert not complaints


WITHOUT_WRITABLE_CODE = """
import ctypes, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from carbonseal.milter import cli, worker
import sqlalchemy
rsa.generate_private_key(65537, 1024)
ed25519.Ed25519PrivateKey.generate().sign(b"text")
sqlalchemy.create_engine("sqlite://").connect().close()
"""


def test_everything_works_without_writable_code() -> None:
    """MemoryDenyWriteExecute= stops libraries that write machine code; ours must not be among them.

    The kernel's own refusal (Linux 6.3) stands in for the filter that systemd installs.
    """
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_WRITABLE_CODE], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("needs Linux 6.3 or newer")
    assert done.returncode == 0, done.stderr


# --- Users, directories and Postfix ---------------------------------------------------------------


def wanted_directories() -> dict[str, tuple[int, str, str]]:
    """Mode, owner and group of every directory that tmpfiles.d makes."""
    found = {}
    for line in (ROOT / "packaging/tmpfiles.d/carbonseal.conf").read_text().splitlines():
        if line.startswith("d "):
            _, path, mode, owner, group, _ = line.split()
            found[path] = (int(mode, 8), owner, group)
    return found


def test_units_directories_and_configuration_agree() -> None:
    """Each path a unit may write is made, and each default path is one of them or inside one."""
    made = wanted_directories()
    for path in UNITS.glob("*.service"):
        for entry in " ".join(unit(path)["ReadWritePaths"]).split():
            assert entry.removeprefix("-") in made
    example = config.assemble(read_example(EXAMPLE.read_text())).file
    assert str(example.signing.keys) in made
    assert str(example.record.spool) in made
    assert str(Path(example.record.database.removeprefix("sqlite:///")).parent) in made


def test_every_user_of_units_and_directories_is_made() -> None:
    """postfix comes with Postfix, root with the machine."""
    text = (ROOT / "packaging/sysusers.d/carbonseal.conf").read_text()
    made = set(re.findall(r"^[ug] (\S+)", text, re.M)) | {"root", "postfix"}
    for path in UNITS.glob("*.service"):
        content = unit(path)
        assert {*content.get("User", ()), *content.get("Group", ())} <= made
    for _, owner, group in wanted_directories().values():
        assert {owner, group} <= made


MILTER, WRITER = 64801, 64802  # users and groups that no machine has

SEAL_AND_LOAD = """
import os, sys
from pathlib import Path
from carbonseal.milter.archive import record, segments
from carbonseal.milter.archive.spool import Spool
os.umask(0o027)
who, directory = int(sys.argv[1]), Path(sys.argv[2])
os.setgroups([]); os.setgid(who); os.setuid(who)
if sys.argv[3] == "seal":
    for number in (1, 2):
        spool = Spool(directory)
        spool.put(record.encode({"n": number}))
        if number == 1:
            spool.close()
else:
    found = segments.pending(directory)
    lines = [e.line for one in found for e in segments.read(one, 0) if not e.is_footer]
    print(len(lines))
    for one in found:
        if one.is_closed:
            segments.finish(one)
    print(len(list((directory / "loaded").iterdir())))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: two users share a spool")
def test_two_users_share_the_spool_that_tmpfiles_makes() -> None:
    """The milter's segments, open and closed, can be read by the writer, who moves them away."""
    mode, owner, group = wanted_directories()["/var/spool/carbonseal"]
    numbers = {"carbonseal": MILTER, "carbonseal-writer": WRITER}
    with tempfile.TemporaryDirectory() as base:  # tmp_path lies in a directory closed to others
        Path(base).chmod(0o755)
        spool = Path(base) / "spool"
        spool.mkdir()
        os.chown(spool, numbers[owner], numbers[group])
        spool.chmod(mode)

        def run(who: int, what: str) -> str:
            done = subprocess.run(
                [sys.executable, "-c", SEAL_AND_LOAD, str(who), str(spool), what],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        run(MILTER, "seal")
        assert run(WRITER, "load").split() == ["2", "1"]


OFFICER = 64803

WRITE_AND_ASK = """
import os, sys
from carbonseal.milter.archive import audit, database
os.umask(0o027)
url, user, groups = sys.argv[1], int(sys.argv[2]), [int(one) for one in sys.argv[3:]]
os.setgroups(groups); os.setgid(user); os.setuid(user)
if not groups:
    engine = database.writing_engine(url)
    database.upgrade(engine)
    engine.connect()
    print("written", flush=True)
    sys.stdin.read()
else:
    database.reading_engine(url).dispose()
    with audit.opened(url) as engine:
        print(audit.append(engine, action="search", reason="", detail={}).number)
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: two users share an archive")
def test_officers_ask_the_archive_that_tmpfiles_makes_room_for() -> None:
    """Their group reads it while the writer runs, and adds to the audit, whoever made the file."""
    mode, owner, group = wanted_directories()["/var/lib/carbonseal/archive"]
    numbers = {"carbonseal-writer": WRITER, "carbonseal-officer": OFFICER}
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        place = Path(base) / "archive"
        place.mkdir()
        os.chown(place, numbers[owner], numbers[group])
        place.chmod(mode)
        command = [sys.executable, "-c", WRITE_AND_ASK, f"sqlite:///{place}/archive.db"]
        with subprocess.Popen(
            [*command, str(WRITER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "written\n"
            url = f"sqlite:///{place}/archive.db"
            with audit.opened(url) as engine:  # root asks first
                audit.append(engine, action="search", reason="", detail={})
            done = subprocess.run(
                [*command, "64804", str(OFFICER)], capture_output=True, text=True, check=False
            )
            assert done.stdout == "2\n", done.stderr
            writer.communicate("")


MASTER_CF = {"submission.cf", "reinjection.cf"}


@pytest.mark.parametrize("path", [pytest.param(p, id=p.name) for p in SNIPPETS.glob("*.cf")])
def test_postfix_takes_each_snippet(path: Path, tmp_path: Path) -> None:
    """No parameter it does not know, no line it cannot read."""
    into = "master.cf" if path.name in MASTER_CF else "main.cf"
    for name in ("main.cf", "master.cf"):
        (tmp_path / name).write_text("compatibility_level = 3.6\n" if name == "main.cf" else "")
    with (tmp_path / into).open("a") as stream:
        stream.write(path.read_text())
    option = "-M" if into == "master.cf" else "-n"
    done = subprocess.run(
        ["postconf", "-c", tmp_path, option], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout


def main() -> None:
    """Write the generated tables of the manual."""
    for name, (document, make) in GENERATED.items():
        table = make().replace("\\", r"\\")
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, rf"\g<1>{table}\n\g<2>", document.read_text(), flags=re.DOTALL)
        document.write_text(text)
    print(json.dumps(sorted(GENERATED)))


if __name__ == "__main__":
    main()
