"""The page as Prometheus metrics, in its text format.

Promises: every series is there from the start, at zero where nothing was counted, but for reasons
and keys, which come as they occur, and for the follower where none ever ran.  Labels hold words of
ours, our own signing domains and selectors, and nothing that a stranger wrote.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from carbonseal.milter.status.counters import BOUNDS, PHASES
from carbonseal.milter.status.page import Page
from carbonseal.policies import readiness
from carbonseal.policies.readiness import SILENT

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_KEY = ("sdid", "selector", "algorithm")


def text(page: Page) -> bytes:
    """Everything, for one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(page))
    made: bytes = exposition.generate_latest(registry)
    return made


class _Page(Collector):
    def __init__(self, page: Page) -> None:
        self._page = page

    def collect(self) -> Iterable[Metric]:
        page = self._page
        return itertools.chain(
            _mail(page), _times(page), _processes(page), _spool(page), _others(page), _keys(page)
        )


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"carbonseal_{name}", about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"carbonseal_{name}", about, value=value)


def _gauges(
    name: str, about: str, labels: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    return _filled(GaugeMetricFamily(f"carbonseal_{name}", about, labels=labels), found)


def _counters(
    name: str, about: str, labels: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    return _filled(CounterMetricFamily(f"carbonseal_{name}", about, labels=labels), found)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    found: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    for values, value in found:
        family.add_metric(values, value)
    return family


def _mail(page: Page) -> Iterator[Metric]:
    totals = page.totals
    yield _counters(
        "messages",
        "Messages that were answered.",
        ("crossing", "disposition"),
        totals.messages.items(),
    )
    domains = dict.fromkeys(page.keys.signers.active, 0) | totals.signed
    yield _counters(
        "signed_messages",
        "Messages that left with a signature of this domain.",
        ("domain",),
        (((domain,), count) for domain, count in sorted(domains.items())),
    )
    yield _counters(
        "unsigned_messages",
        "Messages without a signature of ours, and why.",
        ("reason", "domain"),
        sorted(totals.unsigned.items()),
    )
    yield _counter("message_octets", "Octets of the messages that were answered.", totals.octets)
    yield _counter(
        "records_refused", "Records that the spool could not take.", totals.records_refused
    )
    yield _counter("connections", "Connections of the MTA, ever.", totals.connections)
    yield _gauge("connections_open", "Connections of the MTA, now.", totals.open)


def _times(page: Page) -> Iterator[Metric]:
    family = HistogramMetricFamily(
        "carbonseal_phase_seconds",
        "How long a message took: receiving its header and body, and at its end deciding, signing,"
        " recording, and the whole.",
        labels=("phase",),
    )
    bounds = [*(f"{bound:.6f}" for bound in BOUNDS), "+Inf"]
    for phase in PHASES:
        histogram = page.totals.phases[phase]
        sums = itertools.accumulate(histogram.buckets)
        buckets = list(zip(bounds, map(float, sums), strict=True))
        family.add_metric((phase,), buckets, histogram.micros / 1e6)
    yield family


def _processes(page: Page) -> Iterator[Metric]:
    crew = page.crew
    yield _gauges(
        "workers",
        "Workers that should be there, that serve, and of these those that hang.",
        ("state",),
        (
            (("wanted",), crew.wanted),
            (("serving",), crew.serving),
            (("stuck",), crew.stuck),
        ),
    )
    yield _counters(
        "restarts",
        "Processes that died and were started again.",
        ("role",),
        (((role,), count) for role, count in crew.restarts.items()),
    )
    yield _gauge("start_time_seconds", "When the service started, Unix time.", crew.started_at)
    yield _gauges(
        "build_info",
        "1; what runs.",
        ("version", "config_version"),
        [((page.version, page.config_version), 1)],
    )
    age = max(0.0, time.time() - page.at)
    found = page.checks(age)
    yield _gauge(
        "ready",
        "Whether the relay is ready for mail.",
        readiness.is_ready(found),
    )
    yield _gauges(
        "check",
        "Each check of readiness: 1 is well.  Those that are not needed leave the relay ready.",
        ("check", "needed"),
        (((one.name, str(one.is_needed).lower()), one.is_ok) for one in found),
    )
    yield _gauge("look_age_seconds", "How old this is.", age)


def _spool(page: Page) -> Iterator[Metric]:
    depth = page.depth
    yield _gauge("spool_octets", "Octets of records that no writer has finished.", depth.octets)
    yield _gauge("spool_limit_octets", "record.spool_limit.", page.spool_limit)
    yield _gauge("spool_segments", "Segments that no writer has finished.", depth.segments)
    yield _gauge("spool_records", "Records that are not in the database yet.", depth.records)
    yield _gauge("spool_lag_seconds", "The age of the oldest of these.", page.lag)
    yield _gauge("spool_writable", "Whether the spool can be written.", not page.spool_problem)


def _others(page: Page) -> Iterator[Metric]:
    seen, writer = page.seen, page.writer
    yield _gauge("writer_up", "Whether the writer lives.", _lives(seen.writer.age))
    for name, about in (
        ("loaded", "Records that this writer has loaded."),
        ("segments", "Segments that this writer has finished."),
        ("set_aside", "Records that this writer has set aside, because no database takes them."),
    ):
        yield _counter(f"writer_{name}", about, _number(writer.get(name)))
    is_up = _lives(seen.writer.age) and not seen.writer.trouble
    yield _gauge("database_up", "Whether the writer reaches the database.", is_up)
    since = _number(writer.get("trouble_since"))
    waits = max(0.0, page.at - since) if since and seen.writer.trouble else 0.0
    yield _gauge("database_waits_seconds", "For how long the writer waits for it.", waits)
    follower = page.follower
    if follower is not None:
        age = None if seen.follower is None else seen.follower.age
        yield _gauge("follower_up", "Whether the follower of Postfix's log lives.", _lives(age))
        lag = _number(follower.get("lag"))
        yield _gauge("follower_lag_seconds", "How far it is behind the log.", lag)
        for name, about in (
            ("lines", "Lines that it has read."),
            ("facts", "Facts about deliveries that it found there."),
            ("unread", "Lines that it could not read."),
        ):
            yield _counter(f"follower_{name}", about, _number(follower.get(name)))
    yield _gauges(
        "archive_mailboxes",
        "Archive mailboxes by what becomes of the copies sent there.",
        ("state",),
        (((state,), page.copies.get(state, 0)) for state in ("ok", "failing")),
    )
    yield _gauge(
        "archive_failing_seconds",
        "For how long copies have not arrived, at the mailbox where it is longest.",
        seen.failing_for if seen.failing else 0.0,
    )
    trouble = page.copy_trouble
    yield _gauge(
        "archive_diverted", "Archive mailboxes whose copies an alternate gets.", trouble.diverted
    )
    yield _gauge("archive_copies_waiting", "Copies that wait in Postfix's queue.", trouble.waiting)
    yield _counter("archive_copies_lost", "Copies that were lost.", trouble.lost)
    if page.completeness is not None:
        at = _number(page.completeness.get("at"))
        yield _gauge("completeness_time_seconds", "When completeness was last looked at.", at)
        holes = _number(page.completeness.get("holes"))
        yield _gauge("completeness_holes", "What was found missing then, without an excuse.", holes)


def _keys(page: Page) -> Iterator[Metric]:
    yield _gauges(
        "key_created_time_seconds",
        "When the key was made, Unix time.",
        (*_KEY, "stage"),
        (
            ((one.sdid, one.selector, one.algorithm, one.stage), one.created_at)
            for one in page.keys.keys
        ),
    )
    yield _gauges(
        "key_due_time_seconds",
        "When the key's successor should sign, Unix time.",
        _KEY,
        (
            ((one.sdid, one.selector, one.algorithm), one.due_at)
            for one in page.keys.keys
            if one.due_at is not None
        ),
    )


def _lives(age: float | None) -> bool:
    return age is not None and age <= SILENT


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
