"""Run the tests of a compiled module once more, with the module built under sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MARK = "CARBONSEAL_UNDER_SANITIZERS"
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_FLAGS = ("-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_PROGRAM = """
import importlib.util, sys, pytest
name, built, tests = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name.rpartition(".")[2], built)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules[name] = module
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", tests]))
"""


def are_at_work() -> bool:
    """Whether this process is such a run."""
    return _MARK in os.environ


def run(source: Path, tests: str, directory: Path, *flags: str) -> None:
    """Build `source` and let `tests` use it; fails where one of them does."""
    built = directory / f"{source.stem}.so"
    name = ".".join(("carbonseal", *source.relative_to(ROOT).with_suffix("").parts))
    include = "-I" + sysconfig.get_paths()["include"]
    compiler = ["cc", "-shared", "-fPIC", *_FLAGS, *_WARNINGS, include]
    # Libraries among the flags count for what stands before them.
    subprocess.run([*compiler, str(source), *flags, "-o", str(built)], check=True)
    runtime = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, name, str(built), tests],
        cwd=ROOT,
        env={
            **os.environ,
            _MARK: "1",
            "LD_PRELOAD": runtime,
            "PYTHONMALLOC": "malloc",  # so that each object has its own borders
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps what it has
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
