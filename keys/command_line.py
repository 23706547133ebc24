"""What the commands about a key's life share: settings, options, an order, a watch, a table.

Promises: exit statuses are those of `rotation.Standing`; what is data goes to standard output, what
is said to a person to standard error.

Raises: `errors.CarbonsealError`; `milter.cli` turns it into a sentence and an exit status.
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import click

from carbonseal.keys import life_world, lifecycle, orders, store, tables
from carbonseal.keys.life_world import KeyReport, Report, World
from carbonseal.keys.publication import check, publisher
from carbonseal.keys.publication.settings import DnsSettings
from carbonseal.keys.relays import report
from carbonseal.policies import domains, errors, rotation, signing_request
from carbonseal.policies.key_life import Stage
from carbonseal.policies.rotation import Standing

_MAX_REASON = 500
_FIRST_POLL, _LAST_POLL = 0.5, 5.0  # seconds between looks while somebody waits, growing
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LEAVING = (Stage.RETIRING, Stage.REVOKING, Stage.REVOKED, Stage.REMOVING, Stage.REMOVED)
Command = TypeVar("Command", bound=Callable[..., Any])


class Settings(report.Settings, Protocol):
    """What these commands need to know of the configuration, besides what relays are asked for."""

    @property
    def dns(self) -> DnsSettings:
        """The section `dns`."""

    @property
    def rotation(self) -> rotation.Rules:
        """The section `rotation`."""

    @property
    def selectors(self) -> str:
        """`rotation.selector`."""

    @property
    def bits(self) -> int:
        """`rotation.bits`."""


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A time such as 90s, 30m, 2h or 1d, in seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd])", value)
    if not found:
        raise click.BadParameter(f"{value!r}: write a duration such as 90s, 30m or 2h")
    return float(int(found[1]) * _UNITS[found[2]])


def dry_run_option(command: Command) -> Command:
    """--dry-run, for everything that changes something."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Check everything and say what would be done; change nothing.",
    )(command)


def reason_option(command: Command) -> Command:
    """--reason, for the history."""
    return click.option(
        "--reason", default="", help="Why, for the key's history; your login name is added."
    )(command)


def wait_option(command: Command) -> Command:
    """--wait, for what takes time."""
    return click.option(
        "--wait",
        callback=_seconds,
        metavar="DURATION",
        help="Watch the servers for so long (90s, 30m, 2h) and go on as soon as they allow it.",
    )(command)


def who(reason: str) -> str:
    """The reason and the login name, as the history keeps them."""
    if len(reason) > _MAX_REASON or not reason.isprintable():
        raise errors.DataError(
            f"--reason {reason[:40]!r}: write one line of at most {_MAX_REASON} characters."
        )
    try:
        login = getpass.getuser()
    except (KeyError, OSError):
        login = "an unknown user"
    return f"{reason} (by {login})" if reason else f"by {login}"


def world_of(settings: Settings) -> World:
    """Everybody whom the life of a key depends on, as the configuration names them."""

    def now() -> datetime:
        return datetime.now(UTC)

    checker = check.Checker(settings.dns, now)
    return World(
        shelf=store.Store(settings.keys_directory),
        rules=settings.rotation,
        look=checker.look,
        is_by_hand=lambda sdid: settings.dns.rule_for(sdid).method == "manual",
        publisher_for=lambda sdid: publisher.publisher_for(settings.dns, sdid),
        target_for=lambda sdid, selector: settings.dns.rule_for(sdid).target(sdid, selector),
        ask_relays=lambda: report.gather(settings),
        clock=now,
        ttl=settings.dns.ttl,
        selectors=settings.selectors,
        bits=settings.bits,
        forget=checker.forget,
    )


def order_for(settings: Settings, sdid: str, selector: str, reason: str) -> orders.Order:
    """An order about a key that exists."""
    world = world_of(settings)
    name = sdid_of(sdid)
    chosen = selector_of(selector, name)
    world.shelf.find(name, chosen)
    return orders.Order(world, name, chosen, who(reason))


def sdid_of(text: str) -> str:
    """A signing domain in our spelling."""
    return signing_request.check_sdid(domains.normalize(text))


class Domains(Protocol):
    """What is known of the domains that we sign for."""

    def names_domain(self, sdid: str) -> bool:
        """Whether ours.domains or a signing rule of the configuration names it."""


def sdid_to_begin(shelf: store.Store, text: str) -> str:
    """A signing domain that is to have a key; an address is none: nobody looks up a key there."""
    name = sdid_of(text)
    if name.rpartition(".")[2].isdecimal() and not shelf.lineage(name).records:
        raise errors.DataError(
            f"{name} is no signing domain but an address; give a domain such as example.com."
        )
    return name


def warn_if_unknown(settings: Domains, shelf: store.Store, sdid: str) -> None:
    """Say that a domain may be mistyped, when its first key is about to be begun.

    No more than that: keys may be made before the configuration is written.
    """
    if not shelf.lineage(sdid).records and not settings.names_domain(sdid):
        say(
            f"warning: neither ours.domains nor a signing rule of the configuration names {sdid};"
            " see whether it is spelled right"
        )


def selector_of(text: str, sdid: str) -> str:
    """A selector in our spelling."""
    return signing_request.check_selector(text.lower(), sdid)


def sdids_of(world: World, sdid: str | None) -> list[str]:
    """The signing domain that was named, which has a key, or all that have or had one."""
    return world.shelf.sdids() if sdid is None else [known_sdid(world.shelf, sdid)]


def known_sdid(shelf: store.Store, text: str) -> str:
    """A signing domain in our spelling; `errors.NotFound` if it never had a key here."""
    name = sdid_of(text)
    if not shelf.lineage(name).records:
        shelf.refuse_hidden(name)
        raise no_key_of(shelf, name)
    return name


def no_key_of(shelf: store.Store, sdid: str) -> errors.NotFound:
    """The sentence for a domain that may be mistyped."""
    return errors.NotFound(
        f"{shelf.directory}: no key of {sdid} is known; `carbonseal keys list` shows all."
    )


def standing_of(done: Report, selector: str) -> Standing:
    """How it stands with one key of a report."""
    for key in done.keys:
        if key.record.selector == selector:
            return key.due.standing
    return done.standing


def progress_of(done: Report) -> Standing:
    """How it stands with the rotation itself: what drains for days is no reason to wait."""
    standings = [
        key.due.standing
        for key in done.keys
        if key.record.stage not in LEAVING or key.due.standing is Standing.HELD
    ]
    return Standing(done.problem_standing) if done.problem else life_world.gravest(standings)


def watch(
    world: World,
    done: Report,
    *,
    why: str,
    seconds: float | None,
    selector: str | None = None,
) -> Report:
    """Go on until nothing but a long wait is left, or the time is over."""
    deadline, poll = time.monotonic() + (seconds or 0), _FIRST_POLL
    while (left := deadline - time.monotonic()) > 0:
        standing = standing_of(done, selector) if selector else progress_of(done)
        if standing not in (Standing.NOT_YET, Standing.UNREACHABLE):
            break
        time.sleep(min(left, _pause(done, world.clock(), poll)))
        poll = _FIRST_POLL if done.steps else min(_LAST_POLL, 2 * poll)
        world.forget()
        done = lifecycle.tend(
            world, done.sdid, why=why, relays=life_world.gather(world), begin=False
        )
        say_steps(done)
    return done


def _pause(done: Report, now: datetime, poll: float) -> float:
    """Seconds until it makes sense to look again: the servers are not to be asked all the time."""
    ends = [key.due.at for key in done.keys if key.due.at is not None and key.due.at > now]
    soonest = min([(end - now).total_seconds() for end in ends], default=poll)
    return max(0.2, min(poll, soonest))


def say_steps(done: Report, *, dry_run: bool = False) -> None:
    """What was done, a line a step."""
    for step in done.steps:
        say(f"{'due' if dry_run else 'done'}: {step.selector} {step.action.value}: {step.why}")


def write(keys: Iterable[KeyReport], output_format: str) -> None:
    """How it stands with keys, as table or data."""
    columns = ("selector", "algorithm", "stage", "since", "goal", "standing", "next_at", "why")
    tables.write_rows((_row(key) for key in keys), columns, output_format)


def _row(key: KeyReport) -> dict[str, Any]:
    record, dns = key.record, key.seen.dns
    return {
        "sdid": record.sdid,
        "selector": record.selector,
        "algorithm": record.algorithm,
        "stage": record.stage.value,
        "since": record.since,
        "goal": record.goal.value,
        "standing": key.due.standing.word,
        "next": key.due.action.value,
        "next_at": key.due.at,
        "why": "; ".join(key.due.why),
        "held": record.held or None,
        "refused": record.refused or None,
        "compromised_at": record.compromised_at,
        "cancelled_at": record.cancelled_at,
        "activated_at": record.activated_at,
        "published_at": record.published_at,
        "stopped_at": record.stopped_at,
        "revoked_at": record.revoked_at,
        "assumed_published": record.assumed_published,
        "dns_name": record.dns_name,
        "published_name": record.publication.name or None,
        "servers": [
            {
                "server": view.server,
                "address": view.address,
                "state": view.state.value,
                "at": view.at,
                "ttl": view.ttl,
                "serial": view.serial,
                "fault": view.fault or None,
                "about": view.about or None,
            }
            for view in (dns.servers if dns else ())
        ],
        "relays": [
            {"relay": view.relay, "state": view.state.value, "since": view.since, "at": view.at}
            for view in key.seen.relays
        ],
    }


def say(text: str) -> None:
    """What is not data goes to standard error, so that output can be piped."""
    click.echo(tables.presentable(text), err=True)
