"""The Debian package, as far as its sources say what it will be; quick, and without building it.

`make test-package` builds it and tries it in a fresh Debian (test_life_of_the_package.py).
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
DEBIAN = PACKAGING / "debian"
COMMAND = Path(sys.executable).with_name("carbonseal")
SCRIPTS = [PACKAGING / "deb.sh", DEBIAN / "vendored.sh", *sorted(DEBIAN.glob("carbonseal.p*"))]
UNITS = sorted((PACKAGING / "systemd").iterdir())

# Extras that are vendored under another name, and those that are not: tools and pictures.
VENDORED_EXTRAS = ("providers", "postgresql", "mysql", "timestamp")


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, list[str]]]:
    """name -> (version, sums)."""
    text = (DEBIAN / "python.lock").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and line[0] != "#":
            pin, *sums = line.split()
            name, _, version = pin.partition("==")
            found[name] = (version, sums)
    return found


def wanted() -> dict[str, str]:
    """Direct requirements by name: the least version."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    for extra in VENDORED_EXTRAS:
        lines += setup["options.extras_require"][extra].splitlines()
    found = {}
    for line in filter(None, map(str.strip, lines)):
        pin = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[\w+\])?>=([\d.]+)", line)
        assert pin, line
        found[normal(pin[1])] = pin[2]
    return found


def control() -> list[Message]:
    """The paragraphs of debian/control: the source, then the package."""
    text = "\n".join(
        line for line in (DEBIAN / "control").read_text().splitlines() if line[:1] != "#"
    )
    return [message_from_string(one) for one in text.split("\n\n")]


def test_each_requirement_is_locked_with_its_sum() -> None:
    """`make deb-lock` was run after the last change of setup.cfg."""
    pins = locked()
    for name, least in wanted().items():
        assert name in pins, f"{name} is not locked; run make deb-lock"
        assert [*map(int, pins[name][0].split("."))] >= [*map(int, least.split("."))]
    for name, (_, sums) in pins.items():
        assert sums, name
        for one in sums:
            assert re.fullmatch("--hash=sha256:[0-9a-f]{64}", one)
    assert pins["psycopg"][0] == pins["psycopg-c"][0]


def test_what_is_vendored_has_its_licence_in_the_copyright_file() -> None:
    """Nothing more, nothing less; each licence that is named has its text."""
    text = (DEBIAN / "copyright").read_text()
    assert set(re.findall(r"(?m)^Files: vendor/(.*)-\*$", text)) == set(locked())
    texts = set(re.findall(r"(?m)^License: (\S+)\n ", text))
    named = set()
    for line in re.findall(r"(?m)^Copyright: .*(?:\n .*)*\nLicense: (.*)$", text):
        named |= set(re.split(r" (?:or|and) ", line.replace("(", "").replace(")", "")))
    assert named == texts


def test_changelog_and_setup_cfg_name_one_version() -> None:
    """A relay that says 0.1.0 has the package 0.1.0."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    found = re.fullmatch(r"carbonseal \((.*)-\d+\) \w+; urgency=\w+", first)
    assert found
    assert found[1] == setup["metadata"]["version"]


def test_the_control_file_asks_for_what_the_package_runs_on() -> None:
    """One CPython, because compiled parts are for one; libraries come from shlibs."""
    source, package = control()
    assert source["Source"] == package["Package"] == "carbonseal"
    depends = {one.strip() for one in package["Depends"].split(",")}
    assert {"python3 (<< 3.12~)", "python3 (>= 3.11~)", "${shlibs:Depends}", "procps"} <= depends
    known = (PACKAGING / "debian-packages.txt").read_text()
    known += (PACKAGING / "package-packages.txt").read_text()
    for name in re.findall(r"(?m)^(?:Build-Depends:)? *([a-z0-9-]+)", source["Build-Depends"]):
        if name not in ("debhelper-compat", "dh-sequence-installsysusers"):
            assert re.search(rf"(?m)^{name}\b", known), f"make setup does not install {name}"


def test_compiled_modules_are_built_from_what_the_package_takes_along() -> None:
    """For every machine of the architecture; a library needs its headers in Build-Depends."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    content = re.search(r'(?m)^CONTENT="(.*)"$', (PACKAGING / "deb.sh").read_text())
    assert content
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in"):
        assert name in content[1].split() or not (ROOT / name).exists(), name
    for module in declared["tool"]["setuptools"]["ext-modules"]:
        for source in [*module["sources"], *module.get("depends", [])]:
            assert (ROOT / source).exists()
            assert source.partition("/")[0] in content[1].split()
        for flag in module.get("extra-compile-args", []):
            assert not flag.startswith(("-march", "-mtune", "-mcpu")), flag
        for library in module.get("libraries", []):
            headers = {"crypto": "libssl-dev"}.get(library, f"lib{library}-dev")
            assert headers in control()[0]["Build-Depends"]


@pytest.mark.parametrize("script", [pytest.param(one, id=one.name) for one in SCRIPTS])
def test_each_script_is_one(script: Path) -> None:
    """And what dpkg runs says what it does."""
    if script.suffix != ".triggers":
        subprocess.run(["sh", "-n", script], check=True)
        assert script.read_text().startswith("#!/bin/sh\n#")


def test_whatever_the_rules_name_exists() -> None:
    """A file that went away would fail the build only."""
    rules = (DEBIAN / "rules").read_text()
    for name in re.findall(r"(?<![\w/])packaging/[\w./-]+", rules):
        if "/man" not in name:
            assert (ROOT / name).exists() or list(ROOT.glob(name + "*")), name
    for name in re.findall(r"(?<![\w$()])debian/([\w.-]+)", rules):
        made = ("carbonseal", "vendored.txt")
        assert name in made or (DEBIAN / name).exists(), name


def profiles() -> dict[str, str]:
    """What each AppArmor profile of the package holds, by its name."""
    text = (PACKAGING / "apparmor/carbonseal").read_text()
    return dict(re.findall(r"(?ms)^profile (\S+)(.*?)^}$", text))


def profile_of(unit: Path) -> str:
    """The one profile that a unit names."""
    (name,) = re.findall(r"(?m)^AppArmorProfile=-(\S+)$", unit.read_text())
    return str(name)


SERVICES = [pytest.param(one, id=one.stem) for one in UNITS if one.suffix == ".service"]


def test_each_service_has_a_profile_and_each_profile_a_service() -> None:
    """A name that is mistyped would confine nothing."""
    assert {profile_of(unit) for unit in UNITS if unit.suffix == ".service"} == set(profiles())


@pytest.mark.parametrize("unit", SERVICES)
def test_a_profile_lets_a_service_write_where_its_unit_does(unit: Path) -> None:
    """Enforced, it must not stop what the unit allows; what the unit hides it denies."""
    rules = profiles()[profile_of(unit)]
    for path in re.findall(r"(?m)(?<=[= -])/var/(?:lib|spool)/carbonseal\S*", unit.read_text()):
        is_hidden = re.search(rf"(?m)^InaccessiblePaths=.*-{path}\b", unit.read_text())
        assert (f"{path}/** rwx," if is_hidden else f"{path}/{{,**}} rw") in rules, path


@pytest.mark.skipif(not shutil.which("apparmor_parser"), reason="needs the package apparmor")
def test_apparmor_takes_the_profiles() -> None:
    """Without loading them."""
    options = ["--skip-kernel-load", "--skip-cache"]
    subprocess.run(["apparmor_parser", *options, PACKAGING / "apparmor/carbonseal"], check=True)


def test_each_service_started_at_boot_refuses_to_start_unconfigured() -> None:
    """Status 78 ends it for good: the package enables what it does not start."""
    for unit in UNITS:
        content = unit.read_text()
        if "WantedBy=multi-user.target" in content:
            assert "RestartPreventExitStatus=78" in content, unit.name


def test_the_users_of_the_package_stand_in_one_file() -> None:
    """The rules read them from there, for purge; each is a user or a group of ours."""
    lines = (PACKAGING / "sysusers.d/carbonseal.conf").read_text().splitlines()
    names = [line.split()[1] for line in lines if line[:2] in ("u ", "g ")]
    assert names
    for name in names:
        assert name.startswith("carbonseal")


BASH = """
source "$1"; shift
COMP_WORDS=(carbonseal "$@") COMP_CWORD=$#
_carbonseal_completion carbonseal
echo "${COMPREPLY[@]}"
complete -p carbonseal >&2
"""


def completion(shell: str) -> str:
    """What the package installs for this shell."""
    environment = os.environ | {"_CARBONSEAL_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [COMMAND], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        pytest.param(["ar"], "archive", id="a-group"),
        pytest.param(["keys", "gen"], "generate", id="a-command"),
        pytest.param(["keys", "generate", "--assume"], "--assume-published", id="an-option"),
        pytest.param(["keys", "list", "--format", "js"], "jsonl", id="a-value"),
    ],
)
def test_bash_completes(words: list[str], answer: str, tmp_path: Path) -> None:
    """In a real bash; no configuration is needed for it."""
    script = tmp_path / "carbonseal"
    script.write_text(completion("bash"))
    environment = os.environ | {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", script, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [answer]
    assert "-F _carbonseal_completion carbonseal" in done.stderr


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs the package zsh")
def test_zsh_takes_the_completion(tmp_path: Path) -> None:
    """By its first line, which names the command it is for."""
    (tmp_path / "_carbonseal").write_text(completion("zsh"))
    script = f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; "
    done = subprocess.run(
        ["zsh", "-fc", script + "print $_comps[carbonseal]; autoload +X _carbonseal"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "_carbonseal"


def test_the_container_file_runs_the_command_of_the_package() -> None:
    """What it installs besides is enough for a Debian without systemd."""
    lines = (PACKAGING / "container/Containerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [tuple(line.split(" ", 1)) for line in lines if line and line[0] != "#"]
    assert steps[0] == ("FROM", "debian:12-slim")
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["/usr/bin/carbonseal", "run"]
    assert dict(steps)["USER"].split(":")[0] == "carbonseal"
    assert any("systemd-standalone-sysusers" in rest for word, rest in steps if word == "RUN")
    assert any(rest.startswith("build/deb/carbonseal.deb") for _, rest in steps)
    assert "build/deb/carbonseal.deb" in (PACKAGING / "deb.sh").read_text()
