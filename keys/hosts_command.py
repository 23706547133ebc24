"""`carbonseal keys hosts`: what each relay does with each key, and what waits in its queue.

Promises: every relay of the configuration gets a line, asked at the same time; one that does not
answer costs the others nothing and makes the exit status 3.  With `--report`, one line of JSON
about this host alone: what other relays ask for, as `ssh relay2 carbonseal keys hosts --report`.

Raises: `errors.CarbonsealError` where the keys themselves cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

from carbonseal.keys import store, tables
from carbonseal.keys.command_line import known_sdid, selector_of
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.relays import report
from carbonseal.keys.relays.acknowledgement import Worker
from carbonseal.policies import errors
from carbonseal.policies.key_life import RelayReport, Stage

UNREACHABLE = 3  # the exit status when a relay gives no report
_COLUMNS = (
    "relay",
    "sdid",
    "selector",
    "stage",
    "state",
    "since",
    "workers",
    "queued",
    "oldest",
    "problem",
)


@click.command(name="hosts")
@click.argument("sdid", required=False)
@click.argument("selector", required=False)
@click.option(
    "--report",
    "is_report",
    is_flag=True,
    help="Print this host's own report as one line of JSON: what other relays ask for.",
)
@tables.output_options
@click.pass_obj
def hosts(
    settings: report.Settings,
    sdid: str | None,
    selector: str | None,
    *,
    is_report: bool,
    output_format: str,
) -> int:
    """Show which relay signs with which key, and what waits in its queue.

    State: signing, loaded (ready to sign at once), stopped, unknown.  Exit status 3 if a relay
    gives no report.
    """
    if is_report:
        if sdid is not None:
            raise errors.UsageError("--report is about all keys; leave out SDID and SELECTOR.")
        click.echo(report.to_json(report.local_report(settings)))
        return 0
    records = _wanted(store.Store(settings.keys_directory), sdid, selector)
    reports = report.gather(settings)
    tables.write_rows(_rows(reports, records), _COLUMNS, output_format)
    return UNREACHABLE if any(one.problem for one in reports) else 0


def _wanted(shelf: store.Store, sdid: str | None, selector: str | None) -> list[KeyRecord]:
    if sdid is None:
        lineages: Iterable[store.Lineage] = shelf.lineages()
    else:
        name = known_sdid(shelf, sdid)
        if selector is not None:
            return [shelf.find(name, selector_of(selector, name))]
        lineages = (shelf.lineage(name),)
    return [
        record
        for lineage in lineages
        for record in lineage.records
        if record.stage is not Stage.REMOVED
    ]


def _rows(reports: Sequence[RelayReport], records: Sequence[KeyRecord]) -> Iterator[tables.Row]:
    for one in reports:
        about = _about(one)
        for record in records:
            yield {
                **about,
                "sdid": record.sdid,
                "selector": record.selector,
                "stage": record.stage.value,
                "state": one.state_of(record.sdid, record.selector).value,
            }
        if not records:
            yield about


def _about(one: RelayReport) -> dict[str, object]:
    workers = [worker for worker in one.workers if isinstance(worker, Worker)]
    said = [worker.since for worker in workers if worker.since is not None]
    problems = [one.problem, one.queue_problem, *(said for it in workers for said in it.problems)]
    queue = one.queue
    return {
        "relay": one.relay,
        "at": one.at,
        "since": max(said, default=None),
        "workers": None if one.problem else len(one.workers),
        "queued": None if queue is None else queue.count,
        "oldest": None if queue is None else queue.oldest,
        "problem": " ".join(dict.fromkeys(filter(None, problems))),
    }
