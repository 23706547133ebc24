"""`carbonseal keys rotate, reconcile, emergency`: whole signing domains, one or all.

Promises: one SDID in trouble does not stop another; what is in trouble is named at the end.  Exit
statuses: 0 done, 1 not yet, 2 a mismatch or held, 3 unreachable, 4 refused by a rule; for all SDIDs
together, waiting is no trouble.

Raises: `errors.CarbonsealError`; `milter.cli` turns it into a sentence and an exit status.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Protocol

import click

from carbonseal.keys import life_world, lifecycle, orders, progress, store, tables
from carbonseal.keys.command_line import (
    Domains,
    Settings,
    dry_run_option,
    no_key_of,
    order_for,
    progress_of,
    reason_option,
    say,
    say_steps,
    sdid_of,
    sdid_to_begin,
    standing_of,
    wait_option,
    warn_if_unknown,
    watch,
    who,
    world_of,
    write,
)
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.life_commands import finish
from carbonseal.keys.life_world import Report, World
from carbonseal.keys.record_text import print_record
from carbonseal.keys.relays import postfix_queue
from carbonseal.policies import errors, key_life, quantity, succession
from carbonseal.policies.key_life import Stage
from carbonseal.policies.rotation import Action, Standing

_AT_ONCE = 16  # SDIDs looked after at the same time; most of the time is waiting for answers
_SHOWN_IDS = 20


class RotateSettings(Settings, Domains, Protocol):
    """What begins the first key of a domain needs to know besides."""


# --- rotate, reconcile ----------------------------------------------------------------------------


@click.command(name="rotate")
@click.argument("sdid", required=False)
@click.option("--all", "every", is_flag=True, help="Every SDID, each step when its time has come.")
@click.option(
    "--now", "forced", is_flag=True, help="With --all: begin successors before their time."
)
@wait_option
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def rotate(
    settings: RotateSettings,
    *,
    sdid: str | None,
    every: bool,
    forced: bool,
    wait: float | None,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Take every step that is due; with SDID, begin its next key now.

    Where a key of SDID is on its way already, the command goes on with that one and begins no
    other: repeat it until the key signs.

    `rotate --all` is what the timer runs: it begins a key only when its predecessor is old enough,
    goes on with what was begun, and revokes and removes what is drained.  One SDID in trouble does
    not stop another.
    """
    if every == (sdid is not None):
        raise errors.UsageError("give one SDID, or --all.")
    if every and wait is not None:
        raise errors.UsageError("--wait is for one SDID; with --all, the timer comes again.")
    world = world_of(settings)
    why = who(reason)
    if sdid is None:
        found = each(
            world.shelf.sdids(),
            lambda name, relays: _tend(world, name, why, relays, forced=forced, dry_run=dry_run),
            world,
        )
        return sum_up(found, output_format, dry_run=dry_run)
    name = sdid_to_begin(world.shelf, sdid)
    _refuse_hidden(world.shelf, name)
    warn_if_unknown(settings, world.shelf, name)
    before = succession.on_their_way(world.shelf.lineage(name).records)
    for selector in before:
        say(f"{selector} is on its way already: this goes on with it and begins no other key")
    if dry_run:
        done = lifecycle.preview(
            world, name, relays=life_world.gather(world), forced=True, first=True
        )
        say_steps(done, dry_run=True)
        write(done.keys, output_format)
        return done.standing
    done = lifecycle.tend(
        world, name, why=why, relays=life_world.gather(world), forced=True, first=True
    )
    say_steps(done)
    if _waits_for_relays(done):
        # They were asked before there was this key.
        done = lifecycle.tend(world, name, why=why, relays=life_world.gather(world), begin=False)
        say_steps(done)
    done = watch(world, done, why=why, seconds=wait)
    _say_finished(done, before)
    write(done.keys, output_format)
    if done.problem:
        say(done.problem)
    return progress_of(done)


def _say_finished(done: Report, before: Sequence[str]) -> None:
    """Name the rotations that were under way and are at their end, so that nobody repeats more."""
    for key in done.keys:
        if key.record.selector in before and key.record.stage is Stage.ACTIVE:
            say(
                f"{key.record.selector} signs now, which ends this rotation; the next"
                f" `carbonseal keys rotate {done.sdid}` begins another"
            )


def _refuse_hidden(shelf: store.Store, sdid: str) -> None:
    """Begin no key beside others that are there and cannot be seen."""
    if shelf.exists() and not shelf.lineage(sdid).records:
        shelf.refuse_hidden(sdid)


def _waits_for_relays(done: Report) -> bool:
    """Whether a key was begun and seen everywhere, so that only relays are left to hear of it."""
    fresh = {step.selector for step in done.steps if step.action is Action.CONFIRM_PUBLISHED}
    return any(key.record.selector in fresh and key.due.at is None for key in done.keys)


@click.command(name="reconcile")
@click.argument("sdid", required=False)
@click.argument("selector", required=False)
@click.option("--release", is_flag=True, help="Let a held key go on; its cause must be gone.")
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def reconcile(
    settings: Settings,
    *,
    sdid: str | None,
    selector: str | None,
    release: bool,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Compare keys, DNS and relays, finish what was interrupted, and report what is left over.

    Begins nothing new.  What has no owner is listed, never deleted.
    """
    if release:
        if sdid is None or selector is None:
            raise errors.UsageError("--release needs SDID and SELECTOR.")
        order = order_for(settings, sdid, selector, reason)
        done = orders.release(order, dry_run=dry_run)
        return finish(order, done, wait=None, dry_run=dry_run, output_format=output_format)
    if selector is not None:
        raise errors.UsageError("SELECTOR is for --release; without it, give SDID alone.")
    world = world_of(settings)
    why = who(reason)
    names = world.shelf.sdids()
    if sdid is not None:
        name = sdid_of(sdid)
        if name not in names:  # what an interrupted command left has a directory, if no key
            raise no_key_of(world.shelf, name)
        names = [name]
    found = each(
        names,
        lambda name, relays: _tend(
            world, name, why, relays, forced=False, dry_run=dry_run, begin=False
        ),
        world,
    )
    for name in names:
        for orphan in world.shelf.orphans(name):
            say(orphan)
    return sum_up(found, output_format, dry_run=dry_run)


def _tend(
    world: World,
    name: str,
    why: str,
    relays: tuple[key_life.RelayReport, ...],
    *,
    forced: bool,
    dry_run: bool,
    begin: bool = True,
) -> Report:
    if dry_run:
        return lifecycle.preview(world, name, relays=relays, forced=forced, begin=begin)
    return lifecycle.tend(world, name, why=why, relays=relays, forced=forced, begin=begin)


def each(
    names: Sequence[str],
    work: Callable[[str, tuple[key_life.RelayReport, ...]], Report],
    world: World,
) -> list[Report]:
    """Look after many SDIDs at once; what goes wrong with one is its report."""
    relays = life_world.gather(world)

    def one(name: str) -> Report:
        try:
            return work(name, relays)
        except errors.TryLater as error:
            return Report(name, problem=error.sentence, problem_standing=Standing.NOT_YET)
        except errors.CarbonsealError as error:
            return Report(name, problem=error.sentence)

    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(progress.watched(pool.map(one, names), len(names), "signing domains"))


def sum_up(found: Sequence[Report], output_format: str, *, dry_run: bool) -> int:
    """A row for each SDID in which something happened or is open, and a line with the sums."""
    columns = ("sdid", "standing", "steps", "why")
    rows = [
        {
            "sdid": one.sdid,
            "standing": one.standing.word,
            "steps": [f"{step.selector}: {step.action.value}" for step in one.steps],
            "why": one.problem or what_is_open(one),
        }
        for one in found
    ]
    shown = [
        row
        for row, one in zip(rows, found, strict=True)
        if output_format != "table" or one.steps or one.standing is not Standing.DONE
    ]
    tables.write_rows(shown, columns, output_format)
    steps = sum(len(one.steps) for one in found)
    counts = {standing: sum(one.standing is standing for one in found) for standing in Standing}
    for_person = counts[Standing.HELD] + counts[Standing.REFUSED]
    say(
        f"{quantity.of(len(found), 'signing domain')}: {quantity.of(steps, 'step')}"
        f" {'due' if dry_run else 'taken'};"
        f" {quantity.of(counts[Standing.NOT_YET], 'waits', 'wait')},"
        f" {quantity.of(counts[Standing.UNREACHABLE], 'has', 'have')} somebody who does not answer,"
        f" {quantity.of(for_person, 'needs', 'need')} a person"
        + ("; dry run, nothing changed" if dry_run else "")
    )
    worst = life_world.gravest(one.standing for one in found)
    return Standing.DONE if worst is Standing.NOT_YET else worst


def what_is_open(one: Report) -> str:
    """What the first of the keys in the gravest state waits for, and how many others do."""
    waiting = [key for key in one.keys if key.due.standing is one.standing]
    if one.standing is Standing.DONE or not waiting:
        return ""
    # All of it: the remedy stands at the end, and the timer's journal is all that a person has.
    said = f"{waiting[0].record.selector}: {'; '.join(waiting[0].due.why)}"
    more = len(waiting) - 1
    return f"{said} (and {more} more key{'s' * (more > 1)})" if more else said


# --- emergency ------------------------------------------------------------------------------------


@click.command(name="emergency")
@click.argument("sdid")
@click.argument("selector", required=False)
@click.option(
    "--leave-unsigned",
    is_flag=True,
    help="Stop signing with it even if no other key is ready.",
)
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def emergency(
    settings: Settings,
    *,
    sdid: str,
    selector: str | None,
    leave_unsigned: bool,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """A private key has leaked: switch to the standby at once and revoke the record.

    Prints how long forgeries can verify at worst, and what is queued that will fail.
    """
    name = sdid_of(sdid)
    chosen = selector or _signing_selector(store.Store(settings.keys_directory), name)
    order = order_for(settings, name, chosen, reason)
    done = orders.emergency(order, leave_unsigned=leave_unsigned, dry_run=dry_run)
    if done.successor is not None:
        say(f"{done.successor.dns_name} {'would sign' if dry_run else 'signs'} from now on")
    elif done.is_last:
        unsigned = "would not be signed" if dry_run else "is not signed"
        say(f"mail of {name} {unsigned} until another key is ready")
    say(f"forgeries can verify until {done.exposure.sentence} at worst, once p= is empty")
    _say_queued(settings, done.compromised)
    is_manual = order.world.is_by_hand(name)
    if output_format == "table" and not dry_run and is_manual:
        say("publish this now:")
        print_record(settings, done.compromised, "zone")
    if dry_run:
        say("dry run; nothing changed")
        return Standing.DONE
    write(done.report.keys, output_format)
    return standing_of(done.report, chosen)


def _signing_selector(shelf: store.Store, sdid: str) -> str:
    records = shelf.lineage(sdid).records
    signing = store.active(records)
    leaving = [key for key in records if key.is_compromised and key.stage is not Stage.REMOVED]
    if leaving:
        raise errors.UsageError(
            f"{sdid}: {leaving[-1].selector} was declared compromised before; name the key that"
            f" has leaked now, or finish with `carbonseal keys rotate {sdid}`."
        )
    if not signing:
        shelf.refuse_hidden(sdid)
    if len(signing) != 1:
        names = " ".join(key.selector for key in signing) or "none"
        raise errors.UsageError(f"{sdid}: name the key that has leaked; those that sign: {names}.")
    return signing[0].selector


def _say_queued(settings: Settings, compromised: KeyRecord) -> None:
    """The messages that left their author signed with the key and wait here."""
    since = compromised.activated_at
    if since is None:
        return None
    try:
        ids = [
            one.queue_id
            for one in postfix_queue.messages(settings.postfix_directory)
            if one.arrival >= since
        ]
    except errors.CarbonsealError as error:
        return say(f"what is queued is not known: {error.sentence}")
    if ids:
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        say(
            f"{quantity.of(len(ids), 'queued message')} may carry its signature, which will fail;"
            f" what is queued cannot be signed again: {' '.join(ids[:_SHOWN_IDS])}{more}"
        )
    else:
        say("nothing is queued here that it signed")
    return None
