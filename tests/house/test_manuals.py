"""The man pages say what the program does: they are compared with it, and their examples are run.

`make manuals` writes anew what the program says of itself: after a command, an option or a key of
the configuration was added, that is all there is to do.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from support import carbonseal, manual_examples, manual_pages
from support.manual_examples import World

from carbonseal.milter import cli, config_file
from carbonseal.milter.config_sections import FileModel
from carbonseal.policies import errors, readiness

PAGES = manual_pages.pages()
ROOT = manual_pages.ROOT
REMEDY = "run: make manuals"
BY_NAME = [pytest.param(page, id=page.name) for page in PAGES]
EXAMPLES = {
    f"{page.name}-{number}": one
    for page in PAGES
    for number, one in enumerate(manual_examples.examples(page))
}


@functools.cache
def shown(page: Path) -> str:
    """The page as a reader has it, on lines of any length."""
    environment = {**os.environ, "MANWIDTH": "1000", "MAN_KEEP_FORMATTING": ""}
    command = ["man", "--local-file", "-E", "UTF-8", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


# --- Pages and program ----------------------------------------------------------------------------


def test_every_group_of_commands_has_its_page() -> None:
    """And no page is about a group that is gone."""
    wanted = {f"carbonseal-{name}.8" for name in manual_pages.groups()}
    assert {page.name for page in PAGES} == wanted | {"carbonseal.8", "carbonseal.yaml.5"}, REMEDY


@pytest.mark.parametrize("page", BY_NAME)
def test_the_page_has_what_the_program_says_of_itself(page: Path) -> None:
    """Commands, arguments, options, keys, types and defaults: nothing less and nothing more."""
    assert manual_pages.renewed(page) == page.read_text(), REMEDY


@pytest.mark.parametrize("name", manual_pages.groups())
def test_every_option_can_be_read_on_its_page(name: str) -> None:
    """Looked for in what man(1) prints, with its explanation; so the generator is tried, too."""
    text = shown(manual_pages.PAGES / f"carbonseal-{name}.8")
    plain = " ".join(text.split())
    for words, command in manual_pages.commands(manual_pages.groups()[name], name).items():
        assert f"carbonseal {words}" in plain
        for one in manual_pages.options(command):
            for spelling in (*one.opts, *one.secondary_opts):
                assert re.search(rf"(?m)^ {{7,}}(.*, )?{spelling}( |,|$)", text), spelling
            assert " ".join((one.help or "").replace("`", "").split()) in plain


@pytest.mark.parametrize("page", BY_NAME)
def test_the_page_names_no_option_that_does_not_exist(page: Path) -> None:
    """In prose, too."""
    known = {"--help", "--version", "--config"} | {
        spelling
        for group in manual_pages.groups().items()
        for command in manual_pages.commands(group[1], group[0]).values()
        for one in command.params
        for spelling in (*one.opts, *one.secondary_opts)
    }
    others = {"--unit", "--since", "--follow", "--now"}  # of systemctl and journalctl
    said = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", shown(page))
    assert set(said) <= known | others


def keys(model: Any = FileModel, above: str = "") -> Iterator[str]:
    """Every key that can be written below a section, dotted."""
    for name, annotation in manual_pages.hints(model).items():
        if name in model.model_fields:
            if above:
                yield above + name
            inner = manual_pages.inner_model(annotation)
            if inner is not None:
                yield from keys(inner, f"{above}{name}{'[]' if above else ''}.")


def test_every_key_of_the_configuration_can_be_read_on_its_page() -> None:
    """Each with its type and its default, and no other one."""
    text = shown(manual_pages.PAGES / "carbonseal.yaml.5")
    said = re.findall(
        r"(?m)^ +([a-z_]+\.[a-z_.\[\]]+) \((?:[^()]|\(\))*(?:default: |required)", text
    )
    assert sorted(said) == sorted(keys()), REMEDY


@pytest.mark.parametrize("page", BY_NAME)
def test_keys_that_are_named_exist(page: Path) -> None:
    """In bold, section and key: `record.spool_limit`."""
    sections = "|".join(FileModel.model_fields)
    text = page.read_text()
    known = set(keys())
    for name in re.findall(rf"\\fB((?:{sections})\.[a-z_]+(?:\[\]\.[a-z_]+)*)\\fR", text):
        assert name in known, f"{page.name}: {name}"


def exit_codes() -> set[int]:
    """0, the code of every error class, that of an interrupt and that of a list cut short."""
    codes = {0, 130, 141}
    waiting: list[type[errors.CarbonsealError]] = [errors.CarbonsealError]
    while waiting:
        one = waiting.pop()
        codes.add(one.exit_code)
        waiting.extend(one.__subclasses__())
    return codes


def test_the_overview_explains_every_exit_status() -> None:
    """Scripts rely on them."""
    text = (manual_pages.PAGES / "carbonseal.8").read_text()
    part = text.partition(".SH EXIT STATUS")[2].partition(".SH")[0]
    assert {int(one) for one in re.findall(r"(?m)^\.B (\d+)$", part)} == exit_codes()


def test_the_overview_explains_every_variable_of_the_environment() -> None:
    """That is read by the program, but for those every program has."""
    text = (manual_pages.PAGES / "carbonseal.8").read_text()
    part = text.partition(".SH ENVIRONMENT")[2].partition(".SH")[0]
    said = set(re.findall(r"(?m)^\.B ([A-Z_]+)$", part))
    read = {cli._DEBUG, "CARBONSEAL_CONFIG"}
    for room in ("milter", "keys"):
        for path in (ROOT / room).rglob("*.py"):
            read |= set(re.findall(r'os\.environ(?:\.get\(|\[)"([A-Z_]+)"', path.read_text()))
    assert said == read - {"PATH"}


def test_the_overview_names_every_service_and_timer() -> None:
    """A service that a timer starts goes by the timer's name."""
    text = shown(manual_pages.PAGES / "carbonseal.8")
    units = {path.name for path in (ROOT / "packaging/systemd").iterdir()}
    timers = {name for name in units if name.endswith(".timer")}
    services = {name.removesuffix(".service") for name in units - timers}
    services -= {name.removesuffix(".timer") for name in timers}
    said = set(re.findall(r"(?m)^ {7}(carbonseal-[a-z]+(?:\.timer)?)$", text))
    assert said == services | timers


def test_the_page_of_status_explains_every_check() -> None:
    """Those that are needed, and those that are not."""
    nothing = readiness.Seen(wanted=0, serving=0, spool_limit=0)
    checks = {check.name for check in readiness.checks(nothing)}
    text = (manual_pages.PAGES / "carbonseal-status.8").read_text()
    part = text.partition(".SH CHECKS")[2].partition(".SH")[0]
    assert {manual_pages.plain(one) for one in re.findall(r"(?m)^\.B (.*)$", part)} == checks


# --- Pages as pages -------------------------------------------------------------------------------


@pytest.mark.parametrize("page", BY_NAME)
def test_man_prints_the_page_without_a_warning(page: Path) -> None:
    """On a terminal of the usual width."""
    command = ["man", "--warnings=w", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
    environment = {**os.environ, "MANWIDTH": "80"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""


@pytest.mark.parametrize("page", BY_NAME)
def test_the_page_is_built_as_pages_are(page: Path) -> None:
    """apropos(1) finds it by its name; parts stand in the usual order; lines fit a terminal."""
    text = page.read_text()
    name, section = page.name.rsplit(".", 1)
    assert text.startswith(".TH " + manual_pages.code(name).upper() + f" {section} ")
    assert re.search(
        rf"(?m)^\.SH NAME\n{re.escape(manual_pages.code(name))} \\- \S.*\n\.SH SYNOPSIS$", text
    )
    parts = re.findall(r"(?m)^\.SH (.*)$", text)
    assert len(parts) == len(set(parts))
    assert parts[-1] == "SEE ALSO"
    assert "EXAMPLES" in parts
    assert text.isascii()


def test_references_lead_somewhere() -> None:
    """To our own pages, to those of Postfix and the system, and to documents in the checkout."""
    own = {page.name for page in PAGES}
    others = {
        "postconf(5)", "postconf(1)", "postmap(1)", "master(5)", "smtpd(8)", "cleanup(8)",
        "postlogd(8)", "sendmail(1)", "journalctl(1)", "dig(1)", "syslog(3)",
    }  # fmt: skip
    named = set()
    for page in PAGES:
        for name, section in re.findall(r"([a-z][\w.-]*)\s?\(([1-8])\)", shown(page)):
            named.add(f"{name}({section})")
            assert f"{name}.{section}" in own or f"{name}({section})" in others, page.name
        for path in re.findall(r"/usr/share/doc/carbonseal/([\w./-]+)", shown(page)):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
    assert others <= named, "take out of this list what no page names"
    assert {f"{one.rsplit('.', 1)[0]}({one[-1]})" for one in own} <= named


# --- The examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_program_takes_every_command_of_the_example(name: str) -> None:
    """Whatever it needs: words, options, choices and numbers are right."""
    example = EXAMPLES[name]
    assert example.needs <= manual_examples.NEEDS
    if example.is_configuration:
        return
    for words in manual_examples.ours(example):
        if words[0] == "carbonseal":
            command, rest = found(words[1:])
            command.make_context("carbonseal", rest)


def found(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words call, and what is left of them."""
    if words[0] == "--config":
        words = words[2:]
    here: click.Command = cli.carbonseal
    while isinstance(here, click.Group):
        inner = here.get_command(click.Context(here), words[0])
        assert inner is not None, words
        here, words = inner, words[1:]
    return here, words


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A relay that takes some time to build."""
    return World(tmp_path_factory.mktemp("relay") / "one").build()


@pytest.fixture
def world(relay: World) -> Iterator[World]:
    """A relay of this test's own, under a path that is short enough for a UNIX socket."""
    with tempfile.TemporaryDirectory(prefix="man") as directory:
        yield relay.copy(Path(directory) / "relay")


@pytest.mark.parametrize("page", BY_NAME)
def test_every_command_of_the_page_does_what_it_is_shown_for(page: Path, world: World) -> None:
    """All in the order of the page, on one relay; those that need the DNS or a person left out."""
    for example in manual_examples.examples(page):
        if example.is_configuration or not example.needs <= manual_examples.GIVEN:
            continue
        with Serving(world, wanted="service" in example.needs):
            for words in manual_examples.ours(example):
                done = world.command(words)
                said = f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
                assert done.returncode == example.exits, said
                assert "internal error" not in said


class Serving:
    """`carbonseal run` in the background, until it is ready, where it is wanted."""

    def __init__(self, world: World, *, wanted: bool) -> None:
        self._world = world
        self._wanted = wanted
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> None:
        if not self._wanted:
            return
        self._process = subprocess.Popen(
            [carbonseal.COMMAND, "run"],
            env=self._world.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        assert any(re.search(carbonseal.READY, line) for line in self._process.stderr)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate(timeout=60)


@pytest.mark.parametrize("name", [name for name, one in EXAMPLES.items() if one.is_configuration])
def test_every_configuration_shown_passes_the_check(name: str, relay: World) -> None:
    """Laid over that of a relay, which has the domains, keys and classes that it speaks of."""
    example = EXAMPLES[name]
    pieces = yaml.safe_load(example.text)
    config_file.parse(Path("example.yaml"), example.text.encode())  # no key twice
    if "rules" in pieces.get("retention", {}):
        used = {rule["use"]: {"keep": "2w"} for rule in pieces["retention"]["rules"]}
        pieces["retention"].setdefault("classes", used)
    path = relay.file.with_name("example.yaml")
    relay.configure(path, pieces)
    done = relay.command(
        ["carbonseal", "--config", "/etc/carbonseal/example.yaml", "config", "check"]
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_installs_every_page() -> None:
    """dh_installman is given the directory."""
    rules = (ROOT / "packaging/debian/rules").read_text()
    assert "dh_installman $(wildcard packaging/man/*.[1-8])" in rules
    assert shutil.which("man"), "packaging/debian-packages.txt has man-db"
