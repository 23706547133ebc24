"""`carbonseal keys publish, activate, retire, revoke, remove, rollback`: orders about one key.

Promises: `--dry-run` asks everybody and changes nothing; the exit status says how it stands with
the key afterwards (`rotation.Standing`): 0 done, 1 not yet, 2 a mismatch or held, 3 unreachable,
4 refused by a rule.

Raises: `errors.CarbonsealError`; `milter.cli` turns it into a sentence and an exit status.

Does not: decide (`policies.rotation`, `orders`) or do (`lifecycle`).
"""

from __future__ import annotations

import click

from carbonseal.keys import lifecycle, orders, store, tables
from carbonseal.keys.command_line import (
    LEAVING,
    Settings,
    dry_run_option,
    order_for,
    reason_option,
    say,
    say_steps,
    sdid_of,
    standing_of,
    wait_option,
    watch,
    who,
    write,
)
from carbonseal.keys.life_world import Report
from carbonseal.keys.publication import forms
from carbonseal.keys.record_text import print_record
from carbonseal.policies import errors
from carbonseal.policies.key_life import Stage
from carbonseal.policies.rotation import Standing

# --- publish --------------------------------------------------------------------------------------


@click.command(name="publish")
@click.argument("sdid")
@click.argument("selector")
@click.option(
    "--form",
    type=click.Choice(forms.FORMS),
    default="zone",
    show_default=True,
    help="How the record is printed for a person who publishes it.",
)
@click.option(
    "--adopt",
    is_flag=True,
    help="Take over the record that stands there already: Carbonseal may change it from now on.",
)
@click.option("--print-only", is_flag=True, help="Print the record; write nothing down.")
@wait_option
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def publish(
    settings: Settings,
    *,
    sdid: str,
    selector: str,
    form: forms.Form,
    adopt: bool,
    print_only: bool,
    wait: float | None,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Make the record of a key known, by hand or by program, and watch until it may sign.

    Where a person publishes (dns.publish, method manual), the record is printed: the new one, the
    empty p= of a key that is being revoked, or the removal of one that leaves.
    """
    order = order_for(settings, sdid, selector, reason)
    if print_only:
        print_record(settings, order.key, form)
        return Standing.DONE
    done = orders.publish(order, adopt=adopt, dry_run=dry_run) if _may_go(order, adopt) else None
    is_manual = order.world.is_by_hand(order.sdid)
    if is_manual and output_format == "table" and not adopt and not _is_shown(done, selector):
        print_record(settings, order.key, form)
    return finish(order, done, wait=wait, dry_run=dry_run, output_format=output_format)


def _may_go(order: orders.Order, adopt: bool) -> bool:
    """Whether there is anything to order; a key on its way out is only printed."""
    return adopt or order.key.stage not in LEAVING


def _is_shown(done: Report | None, selector: str) -> bool:
    return done is not None and any(
        key.record.selector == selector and key.record.stage in (Stage.PUBLISHED, Stage.READY)
        for key in done.keys
    )


# --- activate, retire, revoke, remove, rollback ---------------------------------------------------


@click.command(name="activate")
@click.argument("sdid")
@click.argument("selector")
@click.option(
    "--assume-published",
    is_flag=True,
    help="You answer for it that the DNS record is visible everywhere; DNS is not asked.",
)
@click.option("--when-ready", is_flag=True, help="If it cannot sign yet, let it as soon as it can.")
@wait_option
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def activate(
    settings: Settings,
    *,
    sdid: str,
    selector: str,
    assume_published: bool,
    when_ready: bool,
    wait: float | None,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Sign with this key from now on; the one that did (same algorithm) is retired.

    Allowed once every authoritative name server shows its record, older negative answers ran out,
    and every relay has loaded it.  Running workers follow within a second.
    """
    order = order_for(settings, sdid, selector, reason)
    if order.key.stage is Stage.ACTIVE:
        say(f"{order.key.dns_name} signs already; nothing changed")
    done = orders.activate(
        order,
        assume_published=assume_published,
        when_ready=when_ready or wait is not None,
        dry_run=dry_run,
    )
    if assume_published:
        return finish_unasked(order, dry_run=dry_run, output_format=output_format)
    return finish(order, done, wait=wait, dry_run=dry_run, output_format=output_format)


@click.command(name="retire")
@click.argument("sdid")
@click.argument("selector")
@click.option(
    "--leave-unsigned", is_flag=True, help="Allow it even if no key signs for SDID afterwards."
)
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def retire(
    settings: Settings,
    *,
    sdid: str,
    selector: str,
    leave_unsigned: bool,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Sign no more with this key; its DNS record stays until its mail is delivered."""
    order = order_for(settings, sdid, selector, reason)
    if order.key.stage is Stage.RETIRING:
        say(f"{order.key.dns_name} is retiring already; nothing changed")
    orders.retire(order, leave_unsigned=leave_unsigned, dry_run=dry_run)
    return finish_unasked(order, dry_run=dry_run, output_format=output_format)


@click.command(name="revoke")
@click.argument("sdid")
@click.argument("selector")
@click.option("--force", is_flag=True, help="Do not wait for mail in flight; needs --reason.")
@wait_option
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def revoke(
    settings: Settings,
    *,
    sdid: str,
    selector: str,
    force: bool,
    wait: float | None,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Make p= of a retired key empty: its signatures verify no more.

    Allowed when every relay has stopped signing with it, the queue lifetimes are over, and no queue
    holds anything older.
    """
    _demand_reason(force=force, reason=reason)
    order = order_for(settings, sdid, selector, reason)
    done = orders.revoke(order, force=force, dry_run=dry_run)
    return finish(order, done, wait=wait, dry_run=dry_run, output_format=output_format)


@click.command(name="remove")
@click.argument("sdid")
@click.argument("selector")
@click.option("--force", is_flag=True, help="Do not wait; needs --reason.")
@wait_option
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def remove(
    settings: Settings,
    *,
    sdid: str,
    selector: str,
    force: bool,
    wait: float | None,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Take the record of a revoked key away and destroy its private half.

    A key that never signed is given up.  The selector is never used again.
    """
    _demand_reason(force=force, reason=reason)
    order = order_for(settings, sdid, selector, reason)
    done = orders.remove(order, force=force, dry_run=dry_run)
    return finish(order, done, wait=wait, dry_run=dry_run, output_format=output_format)


@click.command(name="rollback")
@click.argument("sdid")
@click.argument("selector", required=False)
@reason_option
@dry_run_option
@tables.output_options
@click.pass_obj
def rollback(
    settings: Settings,
    *,
    sdid: str,
    selector: str | None,
    reason: str,
    dry_run: bool,
    output_format: str,
) -> int:
    """Sign with the predecessor again, as long as its record stands.

    Without SELECTOR, the key that was retired last.  A successor that was on its way stands by.
    """
    name = sdid_of(sdid)
    who(reason)  # refused before anything else is looked at
    chosen = selector or orders.predecessor(store.Store(settings.keys_directory), name)
    order = order_for(settings, name, chosen, reason)
    for one in orders.rollback(order, dry_run=dry_run):
        say(
            f"{one.selector} was to sign next and {'would stand' if dry_run else 'stands'} by, so"
            " that nothing undoes the rollback;"
            f" `carbonseal keys activate {name} {one.selector} --when-ready` lets it sign after all"
        )
    return finish_unasked(order, dry_run=dry_run, output_format=output_format)


def finish(
    order: orders.Order,
    done: Report | None,
    *,
    wait: float | None,
    dry_run: bool,
    output_format: str,
) -> int:
    """Say what was done and how it stands with the key; the exit status."""
    if dry_run:
        return finish_unasked(order, dry_run=True, output_format=output_format)
    if done is None:
        return finish_unasked(order, dry_run=False, output_format=output_format)
    say_steps(done)
    done = watch(order.world, done, why=order.why, seconds=wait, selector=order.selector)
    write(done.keys, output_format)
    return standing_of(done, order.selector)


def finish_unasked(order: orders.Order, *, dry_run: bool, output_format: str) -> int:
    """Say how it stands by what is on disk."""
    found = lifecycle.from_memory(order.world, order.sdid)
    if dry_run:
        say(f"dry run: nothing stands in its way; {order.key.dns_name} is unchanged")
    write(found.keys, output_format)
    return Standing.DONE


def _demand_reason(*, force: bool, reason: str) -> None:
    if force and not reason:
        raise errors.UsageError("--force needs --reason: say why, for those who ask later.")
