"""The machine that measured, for the report: what the figures depend on besides the code."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import Contestant


def describe(
    contestants: Sequence[Contestant], *, load_average: float, stolen: float
) -> dict[str, str | int | float]:
    """Name and value of each circumstance; `load_average` is from before the start.

    `stolen` is the share of the cores' time during the run in which a virtual machine's host ran
    others.
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": platform.release(),
        "system": _system(),
        "spool on": _filesystem(tempfile.gettempdir()),
        "load average before": load_average,
        "cores' time that the host took meanwhile": f"{stolen:.1%}",
        "Python": platform.python_version(),
        "OpenSSL": ssl.OPENSSL_VERSION.split(" (")[0],
        **{one.name: one.version() for one in contestants},
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _system() -> str:
    names = platform.freedesktop_os_release()
    return names.get("PRETTY_NAME", platform.system())


def _filesystem(place: str) -> str:
    words = ["df", "--output=fstype,source", place]  # stat -f cannot tell ext4 from ext2
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    kind, device = said.splitlines()[-1].split(maxsplit=1)
    # A sync costs other things there, and so does a new file.
    journals = Path("/proc/fs/jbd2")
    name = Path(device).resolve().name
    has_none = kind == "ext4" and not any(journals.glob(f"{name}-*"))
    return f"{kind} without a journal" if has_none else kind
