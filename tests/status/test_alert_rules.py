"""The alert rules and the dashboard: they fire when they should, and name metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.carbonseal import Carbonseal
from support.counting import count
from support.prometheus import ROOT, RULES, hastened

from carbonseal.milter import config
from carbonseal.milter.status import exposition, state_files
from carbonseal.milter.status.board import Board
from carbonseal.milter.status.counters import Facts
from carbonseal.milter.status.page import Looker

DASHBOARD = ROOT / "packaging/grafana/carbonseal.json"
OPERATIONS = ROOT / "docs/operations.md"
NAME = re.compile(r"\bcarbonseal_[a-z_]+")
HOUR = 61  # minutes
UNSIGNED = "carbonseal_unsigned_messages_total"

# Alert, series, and what it does each minute: as it should not be, and as it may be.
WRONG: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("CarbonsealDown", {'up{job="carbonseal"}': "0"}, {'up{job="carbonseal"}': "1"}),
    (
        "CarbonsealNotReady",
        {'carbonseal_check{check="signing",needed="true"}': "0"},
        {'carbonseal_check{check="signing",needed="true"}': "1"},
    ),
    (
        "CarbonsealDegraded",
        {'carbonseal_check{check="keys",needed="false"}': "0"},
        {'carbonseal_check{check="keys",needed="false"}': "1"},
    ),
    (
        "CarbonsealWorkersMissing",
        {
            'carbonseal_workers{state="wanted"}': "5",
            'carbonseal_workers{state="serving"}': "5",
            'carbonseal_workers{state="stuck"}': "1",
        },
        {
            'carbonseal_workers{state="wanted"}': "5",
            'carbonseal_workers{state="serving"}': "5",
            'carbonseal_workers{state="stuck"}': "0",
        },
    ),
    (
        "CarbonsealRestarting",
        {'carbonseal_restarts_total{role="worker"}': "0+1"},
        {'carbonseal_restarts_total{role="worker"}': "7"},
    ),
    (
        "CarbonsealSlow",
        {
            'carbonseal_phase_seconds_bucket{phase="whole",le="2.1"}': "0+10",
            'carbonseal_phase_seconds_bucket{phase="whole",le="4.2"}': "0+20",
            'carbonseal_phase_seconds_bucket{phase="whole",le="+Inf"}': "0+20",
        },
        {
            'carbonseal_phase_seconds_bucket{phase="whole",le="1.05"}': "0+20",
            'carbonseal_phase_seconds_bucket{phase="whole",le="2.1"}': "0+20",
            'carbonseal_phase_seconds_bucket{phase="whole",le="+Inf"}': "0+20",
        },
    ),
    (
        "CarbonsealSpoolLag",
        {"carbonseal_spool_lag_seconds": "301"},
        {"carbonseal_spool_lag_seconds": "299"},
    ),
    (
        "CarbonsealSpoolFills",
        {"carbonseal_spool_octets": "81", "carbonseal_spool_limit_octets": "100"},
        {"carbonseal_spool_octets": "79", "carbonseal_spool_limit_octets": "100"},
    ),
    (
        "CarbonsealRecordsRefused",
        {"carbonseal_records_refused_total": "0+1"},
        {"carbonseal_records_refused_total": "5"},
    ),
    ("CarbonsealWriterStopped", {"carbonseal_writer_up": "0"}, {"carbonseal_writer_up": "1"}),
    (
        "CarbonsealDatabaseWaits",
        {"carbonseal_database_waits_seconds": "301"},
        {"carbonseal_database_waits_seconds": "20"},
    ),
    (
        "CarbonsealRecordsSetAside",
        {"carbonseal_writer_set_aside_total": "0+1"},
        {"carbonseal_writer_set_aside_total": "3"},
    ),
    (
        "CarbonsealHoles",
        {"carbonseal_completeness_holes": "1"},
        {"carbonseal_completeness_holes": "0"},
    ),
    (
        "CarbonsealCompletenessOld",
        # The clock of these trials begins at 0.
        {"carbonseal_completeness_time_seconds": "-170000"},
        {"carbonseal_completeness_time_seconds": "-160000"},
    ),
    (
        "CarbonsealCopyFailing",
        {'carbonseal_archive_mailboxes{state="failing"}': "1"},
        {
            'carbonseal_archive_mailboxes{state="failing"}': "0",
            'carbonseal_archive_mailboxes{state="ok"}': "1",
        },
    ),
    (
        "CarbonsealCopiesLost",
        {"carbonseal_archive_copies_lost_total": "0+1"},
        {"carbonseal_archive_copies_lost_total": "3"},
    ),
    ("CarbonsealFollowerStopped", {"carbonseal_follower_up": "0"}, {"carbonseal_follower_up": "1"}),
    (
        "CarbonsealFollowerLag",
        {"carbonseal_follower_lag_seconds": "301"},
        {"carbonseal_follower_lag_seconds": "2"},
    ),
    (
        "CarbonsealKeyOverdue",
        {'carbonseal_key_due_time_seconds{sdid="example.com"}': "-1"},
        {'carbonseal_key_due_time_seconds{sdid="example.com"}': "999999"},
    ),
    (
        "CarbonsealUnsigned",
        # Nothing for an hour, then ten a minute.
        {f'{UNSIGNED}{{domain="example.com",reason="no-active-key"}}': "0+0x62 0+10x18"},
        {
            f'{UNSIGNED}{{domain="example.com",reason="no-active-key"}}': "0+1",
            f'{UNSIGNED}{{domain="other",reason="no-origin-proof"}}': "0+999",
            f'{UNSIGNED}{{domain="example.com",reason="author-exempt"}}': "0+0x62 0+99x18",
        },
    ),
]


def stretched(values: str) -> str:
    """A value for each minute of more than an hour."""
    if " " in values:
        return values
    return f"{values}x{HOUR + 20}" if "+" in values else f"{values}+0x{HOUR + 20}"


def trial(alert: str, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """One test in the words of promtool."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": one, "values": stretched(values)} for one, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": f"{HOUR + 15}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prometheus_takes_the_rules() -> None:
    """Both as they are and as the tests hasten them."""
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stderr


def test_the_hastened_rules_are_rules_too(tmp_path: Path) -> None:
    """With nothing left to wait for but a second."""
    (tmp_path / "rules.yml").write_text(hastened(RULES.read_text()))
    assert promtool("check", "rules", tmp_path / "rules.yml").returncode == 0
    assert not re.search(r"for: \d+m", (tmp_path / "rules.yml").read_text())


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    """promtool plays the series, one alert after the other."""
    trials = [
        trial(alert, series, fires=fires)
        for alert, wrong, well in WRONG
        for series, fires in ((wrong, True), (well, False))
    ]
    tests = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": trials}
    (tmp_path / "trials.yml").write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", tmp_path / "trials.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def test_no_alert_is_left_untried_or_without_advice() -> None:
    """Each has a severity, a sentence, and what to do; the manual explains each."""
    assert [one["alert"] for one in alerts()] == [alert for alert, _, _ in WRONG]
    manual = OPERATIONS.read_text()
    for one in alerts():
        assert one["labels"]["severity"] in ("critical", "warning")
        assert one["annotations"].keys() == {"summary", "action"}
        assert f"`{one['alert']}`" in manual


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every metric of a relay that has seen everything, and its labels."""
    made = Carbonseal(tmp_path_factory.mktemp("relay") / "seal")
    made.make_key("example.com")
    made.spool.mkdir()
    now = time.time()
    state_files.write(made.spool, "follow", {"lag": 1.0, "lines": 5, "facts": 2, "unread": 1})
    state_files.write(made.spool, "completeness", {"holes": 0})
    state_files.write(made.spool, "copies", {"recipients": {"a@b.example": {"state": "ok"}}})
    state_files.write(made.spool, "writer", {"loaded": 7, "trouble_since": now})
    board = Board(1)
    board.settle(0, 1)
    tally = board.tally(0)
    count(tally, Facts("outbound", unsigned="no-active-key"))
    text = exposition.text(Looker(config.load(made.file), board).look()).decode()
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.partition(" ")[0].partition("{")
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_prometheus_takes_the_page(metrics: dict[str, set[str]]) -> None:
    """All of ours, and nothing of the client library's own."""
    assert len(metrics) > 35
    assert all(name.startswith("carbonseal_") for name in metrics)


def named_in(text: str) -> set[str]:
    return set(NAME.findall(text))


def test_the_rules_name_metrics_and_labels_that_exist(metrics: dict[str, set[str]]) -> None:
    """A rule about nothing never fires, and nobody would know."""
    for one in alerts():
        assert named_in(one["expr"]) <= metrics.keys() - {"carbonseal"}, one["alert"]
        for name, labels in re.findall(r"(carbonseal_\w+)\{([^}]*)\}", one["expr"]):
            assert set(re.findall(r"(\w+)\s*(?:=|!)", labels)) <= metrics[name]


def test_the_dashboard_names_metrics_and_labels_that_exist(metrics: dict[str, set[str]]) -> None:
    """And every panel asks for something."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [one for one in dashboard["panels"] if one["type"] != "row"]
    assert len({one["id"] for one in dashboard["panels"]}) == len(dashboard["panels"])
    shown: set[str] = set()
    for panel in panels:
        expressions = [target["expr"] for target in panel["targets"]]
        assert expressions
        for expression in expressions:
            names = named_in(expression)
            assert names, panel["title"]
            assert names <= metrics.keys(), panel["title"]
            shown |= names
            for name, labels in re.findall(r"(carbonseal_\w+)\{([^}]*)\}", expression):
                wanted = set(re.findall(r"(\w+)\s*(?:=|!)", labels)) - {"instance"}
                assert wanted <= metrics[name], panel["title"]
    assert len(shown) > 25


def test_the_panels_do_not_lie_upon_each_other() -> None:
    """The grid is 24 wide."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_manual_names_every_metric(metrics: dict[str, set[str]]) -> None:
    """By its name in the page; of a histogram, its own."""
    manual = named_in(OPERATIONS.read_text())
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in metrics}
    assert ours <= manual
    assert manual <= ours | metrics.keys()
