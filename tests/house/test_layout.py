"""The rules of the house that no other tool checks."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("policies", "keys", "milter")
TOP_LEVEL = {
    *("setup.cfg", "milter", "keys", "policies", "tests", "packaging", "docs"),
    *("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Makefile", "pyproject.toml"),
}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    return [Path(name) for name in listed if name and (ROOT / name).exists()]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_top_level_is_exactly_what_it_must_be() -> None:
    """Nobody has to guess where a thing belongs."""
    names = {path.parts[0] for path in tracked() if not path.parts[0].startswith(".")}
    assert names == TOP_LEVEL


@pytest.mark.parametrize("folder", ["milter", "keys", "policies", "packaging", "tests"])
def test_no_top_level_folder_is_a_regular_package(folder: str) -> None:
    """pymilter installs a module called `milter`, and `packaging` is a well-known library.

    With an __init__.py, a folder of that name would hide the installed module whenever the
    checkout is on sys.path (python -m, pytest).
    """
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_package_is_listed_in_setup_cfg() -> None:
    """A sub-package that is not listed would be missing from the wheel only."""
    listed = set(setup_cfg()["options"]["packages"].split())
    found = {f"carbonseal.{room}" for room in ROOMS}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            found.add("carbonseal." + ".".join(init.parent.relative_to(ROOT).parts))
    assert listed == found


def extensions() -> list[dict[str, Any]]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return list(declared["tool"]["setuptools"]["ext-modules"])


def included(source: Path) -> set[Path]:
    """The headers of ours that a file in C includes, and those that they include."""
    found = set()
    for name in re.findall(r'^#include "(.+)"$', source.read_text(), re.MULTILINE):
        header = (source.parent / name).resolve()
        found |= {header} | included(header)
    return found


@pytest.mark.parametrize("extension", [pytest.param(one, id=one["name"]) for one in extensions()])
def test_every_header_is_declared_for_what_includes_it(extension: dict[str, Any]) -> None:
    """One that is not would be missing from the sdist only, and its changes from a build."""
    wanted = {header for name in extension["sources"] for header in included(ROOT / name)}
    assert {ROOT / name for name in extension.get("depends", ())} == wanted


def test_every_file_in_c_belongs_to_an_extension() -> None:
    """One that no extension names is compiled by nobody."""
    named = {name for one in extensions() for name in (*one["sources"], *one.get("depends", ()))}
    found = {str(one) for one in tracked() if one.suffix in {".c", ".h"} and one.parts[0] in ROOMS}
    assert found == named


def test_every_module_but_two_is_kept_from_pymilter() -> None:
    """The import rule lists its modules, and a new one would be missing there in silence."""
    rule = setup_cfg()["importlinter:contract:libmilter"]
    listed = {name for name in rule["source_modules"].split() if ".milter." in name}
    found = {f"carbonseal.milter.{path.stem}" for path in (ROOT / "milter").glob("*.py")} | {
        f"carbonseal.milter.{path.parent.name}" for path in (ROOT / "milter").glob("*/__init__.py")
    }
    assert listed == found - {"carbonseal.milter.session", "carbonseal.milter.worker"}


@pytest.mark.parametrize("directory", [ROOT, Path("/")], ids=["in-the-checkout", "elsewhere"])
def test_pymilter_and_our_room_can_be_imported_side_by_side(directory: Path) -> None:
    """The name trap stays closed from every directory."""
    program = (
        "import milter, carbonseal.milter.session as s; print(milter.getversion(), s.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=str(p)) for p in tracked() if p.suffix == ".py" and p.parts[0] in ROOMS],
)
def test_every_module_opens_with_its_manual_page(path: Path) -> None:
    """The promise, not the code, is what the next module relies on."""
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert docstring
    assert len(docstring.splitlines()) <= 30


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p)) for p in tracked()])
def test_nothing_names_a_machine_or_a_package_registry(path: Path) -> None:
    """The repository speaks of the product alone."""
    text = (ROOT / path).read_bytes().lower()
    if path.name == "test_layout.py":
        return
    for word in (b"/work/", b"/root/", b"pypi.org", b"files.pythonhosted", b"deb.debian.org"):
        assert word not in text, f"{path} names {word.decode()}"
