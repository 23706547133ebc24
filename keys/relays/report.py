"""What each relay does with the keys: this host's own report, and those of the others.

Promises: `local_report` and `gather` always return a report for each relay; why one is missing, old
or wrong stands in its `problem`, and then nothing else counts.  `to_json` and `from_json` are
inverse; what comes from another host has exact shapes and bounded sizes, or is a problem.  A report
is believed only if it carries the relay's name and its clock agrees with ours.

Raises: ValueError from `from_json`.

Does not: decide what a report allows (`policies.rotation` does).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from carbonseal.keys import keyring, store
from carbonseal.keys.relays import acknowledgement, postfix_queue, program, strict
from carbonseal.keys.relays.acknowledgement import Worker
from carbonseal.policies import errors
from carbonseal.policies.key_life import QueueReport, RelayReport, WorkerReport

VERSION: Final = 1
TIMEOUT: Final = 20.0  # seconds for the report of another relay
_MAX_REPORT: Final = 32 * 1024 * 1024  # octets; ten thousand domains come to 4 MB
_CLOCKS: Final = timedelta(minutes=5)  # by which two relays may differ
_AT_ONCE: Final = 16  # relays asked at the same time
_MAX_WORKERS: Final = 1024
_MAX_NUMBER: Final = 2**53
_REPORT = "v relay at workers loadable queue queue_problem problem".split()
_WORKER = "pid is_starting signing standby since problems".split()
_QUEUE = "count oldest queue_lifetime bounce_lifetime".split()


class Settings(Protocol):
    """What is needed of the configuration."""

    @property
    def relay(self) -> str:
        """The name of this relay."""

    @property
    def keys_directory(self) -> Path:
        """Where this relay's workers read their keys."""

    @property
    def spool_directory(self) -> Path:
        """Where they acknowledge them."""

    @property
    def postfix_directory(self) -> Path | None:
        """Postfix's configuration directory; None: its default."""

    @property
    def relay_commands(self) -> Mapping[str, list[str]]:
        """Other relays: name -> program with arguments that prints the relay's own report."""


def gather(settings: Settings, *, timeout: float = TIMEOUT) -> tuple[RelayReport, ...]:
    """The reports of this relay and of all others, which are asked at once; ours comes first."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="relay") as pool:
        others = [
            pool.submit(ask, name, argv, timeout=timeout)
            for name, argv in settings.relay_commands.items()
        ]
        return (local_report(settings), *(other.result() for other in others))


def local_report(settings: Settings) -> RelayReport:
    """What the workers here say, what would load if there are none, and Postfix's queue."""
    try:
        generation = store.Store(settings.keys_directory).generation()
        workers = acknowledgement.read(settings.spool_directory, generation)
        loadable = frozenset[str]() if workers else _loadable(settings.keys_directory)
    except (errors.CarbonsealError, OSError) as error:
        return RelayReport(settings.relay, datetime.now(UTC), problem=str(error))
    # After the workers were heard and before the queue is read: what was signed with a key that is
    # in use no more came before, and if it is still queued, it is seen.
    at = datetime.now(UTC)
    queue, queue_problem = _queue(settings.postfix_directory)
    return RelayReport(
        relay=settings.relay,
        at=at,
        workers=workers,
        loadable=loadable,
        queue=queue,
        queue_problem=queue_problem,
    )


def _loadable(keys_directory: Path) -> frozenset[str]:
    ring = keyring.load(keys_directory)
    return ring.signing_names | ring.standby_names


def _queue(postfix_directory: Path | None) -> tuple[QueueReport | None, str]:
    try:
        return postfix_queue.read(postfix_directory), ""
    except postfix_queue.QueueUnreadable as error:
        return None, error.sentence


def ask(name: str, argv: Sequence[str], *, timeout: float = TIMEOUT) -> RelayReport:
    """The report of another relay, as the program `argv` prints it."""
    try:
        said = program.output(argv, timeout=timeout, limit=_MAX_REPORT, environment=os.environ)
        return _believed(from_json(said), name, datetime.now(UTC))
    except program.ProgramFailed as failure:
        why = failure.sentence.rstrip(".")
    except ValueError as fault:
        why = (
            f"{argv[0]} prints no report ({fault}), it should run `carbonseal keys hosts --report`"
        )
    return _unknown(name, f"relay {name}: {why}; mend it, or correct `rotation.relays`.")


def _believed(report: RelayReport, name: str, now: datetime) -> RelayReport:
    if report.relay != name:
        return _unknown(
            name,
            f"relay {name}: the answer comes from {report.relay}; correct its `record.relay`, or"
            " `rotation.relays` here.",
        )
    if abs(report.at - now) > _CLOCKS:
        return _unknown(
            name,
            f"relay {name}: its report is of {strict.written(report.at)} and here it is"
            f" {strict.written(now)}; set both clocks, and let no old report be sent.",
        )
    return report


def _unknown(name: str, problem: str) -> RelayReport:
    return RelayReport(name, datetime.now(UTC), problem=strict.text(problem, 2000))


def to_json(report: RelayReport) -> str:
    """A report on one line."""
    queue = report.queue
    about = {
        "v": VERSION,
        "relay": report.relay,
        "at": strict.written(report.at),
        "workers": [_worker_about(worker) for worker in report.workers],
        "loadable": sorted(report.loadable),
        "queue": None if queue is None else _queue_about(queue),
        "queue_problem": report.queue_problem,
        "problem": report.problem,
    }
    return json.dumps(about, ensure_ascii=True)


def _worker_about(worker: WorkerReport) -> dict[str, Any]:
    since = worker.since if isinstance(worker, Worker) else None
    return {
        "pid": worker.pid,
        "is_starting": worker.is_starting,
        "signing": sorted(worker.signing),
        "standby": sorted(worker.standby),
        "since": None if since is None else strict.written(since),
        "problems": list(worker.problems) if isinstance(worker, Worker) else [],
    }


def _queue_about(queue: QueueReport) -> dict[str, Any]:
    return {
        "count": queue.count,
        "oldest": None if queue.oldest is None else strict.written(queue.oldest),
        "queue_lifetime": queue.queue_lifetime,
        "bounce_lifetime": queue.bounce_lifetime,
    }


def from_json(content: bytes | str) -> RelayReport:
    """The report that `to_json` wrote.  Raises: ValueError."""
    try:
        about = strict.document(content, _REPORT)
    except ValueError:
        raise ValueError("it is no report of this version of Carbonseal") from None
    if about["v"] != VERSION:
        raise ValueError("it is of another version of Carbonseal")
    queue = about["queue"]
    report = RelayReport(
        relay=strict.text(about["relay"]),
        at=strict.moment(about["at"]),
        workers=tuple(map(_worker, strict.sequence(about["workers"], _MAX_WORKERS))),
        loadable=strict.names(about["loadable"]),
        queue=None if queue is None else _read_queue(queue),
        queue_problem=strict.text(about["queue_problem"], 2000),
        problem=strict.text(about["problem"], 2000),
    )
    if report.problem:  # then nothing else is known
        return RelayReport(report.relay, report.at, problem=report.problem)
    if report.queue is None and not report.queue_problem:
        raise ValueError("it says neither what is queued nor why that is unknown")
    return report


def _worker(value: object) -> Worker:
    about = strict.mapping(value, _WORKER)
    return Worker(
        pid=strict.number(about["pid"], _MAX_NUMBER),
        is_starting=strict.truth(about["is_starting"]),
        signing=strict.names(about["signing"]),
        standby=strict.names(about["standby"]),
        since=None if about["since"] is None else strict.moment(about["since"]),
        problems=strict.sentences(about["problems"]),
    )


def _read_queue(value: object) -> QueueReport:
    about = strict.mapping(value, _QUEUE)
    count = strict.number(about["count"], _MAX_NUMBER)
    oldest = None if about["oldest"] is None else strict.moment(about["oldest"])
    if (count == 0) is not (oldest is None):
        raise ValueError("the oldest of no messages, or of some without a time")
    return QueueReport(
        count=count,
        oldest=oldest,
        queue_lifetime=strict.number(about["queue_lifetime"], _MAX_NUMBER),
        bounce_lifetime=strict.number(about["bounce_lifetime"], _MAX_NUMBER),
    )
