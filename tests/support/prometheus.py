"""A private Prometheus on loopback that scrapes one relay and judges its alert rules.

Promises: everything in one directory; the process is gone at the end.  The rules are those of
`packaging/prometheus`, with their waiting times and windows made short.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import ports
from support.background import Background
from support.waiting import wait_until

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
        wait_until(
            lambda: any(wanted.items() <= one.items() for one in self.firing()),
            f"the alert {wanted}",
            timeout,
            told=lambda: f"those that fire: {self.firing()}",
        )

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
    running = Prometheus(port)
    try:
        with Background(command, directory / "log", running._is_ready, cwd=directory):
            yield running
    finally:
        shutil.rmtree(directory / "data", ignore_errors=True)
