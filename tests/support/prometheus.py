"""A private Prometheus on loopback that scrapes one relay and judges its alert rules.

Promises: everything in one directory; the process is gone at the end.  The rules are those of
`packaging/prometheus`, with their waiting times and windows made short.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import ports
from support.carbonseal import ServiceFailed, wait_until

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging/prometheus/carbonseal.rules.yml"
_CONFIGURED = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: carbonseal
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


def hastened(rules: str) -> str:
    """The same rules without the patience that an operator wants."""
    rules = re.sub(r"for: \d+[mh]", "for: 1s", rules)
    # Not below two scrapes, which a rate needs; nor where a histogram or a day is looked at.
    return re.sub(r"\[(?:5|10)m\]|\[1h\]", "[20s]", rules)


@dataclass(frozen=True)
class Prometheus:
    """One server that runs."""

    port: int

    def ask(self, path: str) -> Any:
        """`data` of an answer of its HTTP interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def firing(self) -> list[dict[str, str]]:
        """The labels of every alert that fires now."""
        alerts = self.ask("/api/v1/alerts")["alerts"]
        return [one["labels"] for one in alerts if one["state"] == "firing"]

    def wait_for(self, name: str, timeout: float = 60, **labels: str) -> None:
        """Until an alert of that name, with those labels, fires."""
        wanted = {"alertname": name, **labels}
        deadline = time.monotonic() + timeout
        while not any(wanted.items() <= one.items() for one in self.firing()):
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{wanted} does not fire; those that do: {self.firing()}")
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        try:
            targets = self.ask("/api/v1/targets")["activeTargets"]
        except (OSError, urllib.error.URLError, ValueError):
            return False
        return bool(targets) and targets[0]["health"] == "up"


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[Prometheus]:
    """A server that scrapes 127.0.0.1:`target`, for as long as the block lasts."""
    directory.mkdir()
    (directory / "rules.yml").write_text(hastened(RULES.read_text()))
    (directory / "prometheus.yml").write_text(_CONFIGURED.format(target=target))
    port = ports.free_port()
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    running = Prometheus(port)
    try:
        wait_until(lambda: running._is_ready() or process.poll() is not None, "its first scrape")
        if process.poll() is not None:
            raise ServiceFailed((directory / "log").read_text())
        yield running
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory / "data", ignore_errors=True)
