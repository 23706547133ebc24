"""Does all mail come to the milter, with everything the record needs?

Promises: each smtpd service is judged by its own effective settings; what stands behind a chroot is
compared with where our socket really is.

Does not: connect to the socket, or follow the contents of smtpd_milter_maps.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass

from carbonseal.milter import macros, socket_address
from carbonseal.milter.config import Configuration
from carbonseal.milter.postfix_finding import Finding
from carbonseal.milter.postfix_settings import Service, Settings
from carbonseal.milter.socket_address import SocketAddress
from carbonseal.policies import lookup_table

_LOOPBACK = ("127.", "[::1]", "localhost:")


@dataclass(frozen=True, slots=True)
class Entry:
    """One milter of a list."""

    address: str  # inet:host:port, unix:path
    default_action: str  # '' when the general one holds


def check(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    """Every finding about the way to the milter."""
    yield from _reached(settings, configuration)
    yield from _talked_to(settings)


def entries(value: str) -> list[Entry]:
    """The milters of smtpd_milters or non_smtpd_milters, in their order."""
    found = []
    for word in lookup_table.words(value):
        parts = lookup_table.words(word[1:-1] if word.startswith("{") else word)
        options = dict(part.replace(" ", "").partition("=")[::2] for part in parts[1:])
        found.append(Entry(parts[0] if parts else "", options.get("default_action", "")))
    return found


def is_ours(entry: Entry, ours: SocketAddress, settings: Settings, *, chrooted: bool) -> bool:
    """Whether Postfix reaches our socket by this entry."""
    kind, _, rest = entry.address.partition(":")
    if kind in ("unix", "local"):
        if ours.path is None:
            return False
        queue = settings.value("queue_directory")
        inside = chrooted or not rest.startswith("/")
        return _real(f"{queue}/{rest.lstrip('/')}" if inside else rest) == _real(ours.path)
    if kind != "inet" or ours.path is not None:
        return False
    host, _, port = rest.rpartition(":")
    return port == str(ours.port) and _same_host(host.strip("[]"), ours.host or "")


def _real(path: str) -> str:
    return os.path.realpath(path)


def _same_host(theirs: str, ours: str) -> bool:
    try:
        one, other = ipaddress.ip_address(theirs), ipaddress.ip_address(ours)
    except ValueError:
        return True  # a name; to look it up would be to ask DNS
    return one == other or other.is_unspecified


# --- Does mail reach the milter? ------------------------------------------------------------------


def _reached(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    ours = socket_address.parse(configuration.file.milter.socket)
    services = list(settings.running("smtpd"))
    asked = [one for one in services if _position(settings, ours, one) is not None]
    explained = list(_nearly(settings, ours, services))
    yield from explained
    if not asked and not explained:
        yield Finding(
            "milter-missing",
            "smtpd_milters",
            f"no smtpd service asks {ours.postfix_form}, so nothing is sealed; add it, as"
            " carbonseal postfix snippet prints it",
        )
    for service in services:
        yield from _of_service(settings, ours, service, is_any_asked=bool(asked))
    if settings.value("smtpd_milter_maps"):
        yield Finding(
            "milter-maps",
            "smtpd_milter_maps",
            f"{settings.value('smtpd_milter_maps')[:80]} decides for each client which milters are"
            " asked; see that every answer names ours too",
        )
    yield from _beside_smtp(settings, ours)
    yield from _default_actions(settings, ours, asked)


def _position(settings: Settings, ours: SocketAddress, service: Service) -> int | None:
    found = entries(settings.value("smtpd_milters", service))
    for number, entry in enumerate(found):
        if is_ours(entry, ours, settings, chrooted=service.is_chrooted):
            return number
    return None


def _nearly(settings: Settings, ours: SocketAddress, services: list[Service]) -> Iterator[Finding]:
    """Entries that mean our socket and do not reach it, each once."""
    said: set[str] = set()
    cleanup = next(settings.running("cleanup"), None)
    places = [(settings.value("smtpd_milters", one), "smtpd_milters", one) for one in services]
    if cleanup is not None:
        places.append((settings.value("non_smtpd_milters"), "non_smtpd_milters", cleanup))
    for value, parameter, service in places:
        for entry in entries(value):
            key = f"{entry.address} {service.program}"
            if key in said or is_ours(entry, ours, settings, chrooted=service.is_chrooted):
                continue
            if ours.path is None and "@" in entry.address and str(ours.port) in entry.address:
                said.add(key)
                yield Finding(
                    "socket-form",
                    parameter,
                    f"{entry.address} is libmilter's way to write the address, so Postfix finds"
                    f" nobody there; write {ours.postfix_form}",
                )
            elif ours.path is not None and _means(entry, ours.path, settings):
                said.add(key)
                yield _chroot(entry, ours.path, settings, parameter, service)


def _means(entry: Entry, path: str, settings: Settings) -> bool:
    kind, _, rest = entry.address.partition(":")
    queue = settings.value("queue_directory")
    return kind in ("unix", "local") and path in (rest, f"{queue}/{rest.lstrip('/')}")


def _chroot(
    entry: Entry, path: str, settings: Settings, parameter: str, service: Service
) -> Finding:
    queue = settings.value("queue_directory")
    if not path.startswith(f"{queue}/"):
        remedy = (
            f"put the socket below {queue}, or set chroot to n for {service.program} in master.cf"
        )
    else:
        remedy = f"write unix:{path.removeprefix(queue + '/')}, which is right with and without it"
    state = "runs in a chroot" if service.is_chrooted else "runs in no chroot"
    rest = entry.address.partition(":")[2]
    looks = f"{queue}/{rest.lstrip('/')}" if service.is_chrooted else rest
    return Finding(
        "socket-chroot",
        parameter,
        f"{service.place} {state} and looks for {looks}, but the milter listens on {path};"
        f" {remedy}",
    )


def _of_service(
    settings: Settings, ours: SocketAddress, service: Service, *, is_any_asked: bool
) -> Iterator[Finding]:
    switches = lookup_table.words(settings.value("receive_override_options", service))
    is_handed_back = service.name.startswith(_LOOPBACK) and bool(_filters(settings))
    position = _position(settings, ours, service)
    if "no_milters" in switches:
        if service.name.startswith(_LOOPBACK) and not is_handed_back:
            yield Finding(
                "no-milters-loopback",
                service.place,
                "receive_override_options has no_milters, but no content filter is configured that"
                " hands mail back here, so what local programs send there is neither signed, copied"
                " nor recorded; take the service out",
            )
        elif not is_handed_back:
            yield Finding(
                "no-milters",
                service.place,
                "receive_override_options has no_milters, so its mail is neither signed, copied nor"
                " recorded; take it out, except where a content filter hands mail back on loopback",
            )
        return
    if position is None:
        if is_any_asked and not is_handed_back:
            why = "overrides smtpd_milters" if "smtpd_milters" in service.overrides else "has none"
            yield Finding(
                "service-without-milter",
                service.place,
                f"it {why} and does not ask {ours.postfix_form}, so its mail is neither signed,"
                " copied nor recorded; add the milter there",
            )
        return
    if settings.value("smtpd_proxy_filter", service):
        yield Finding(
            "proxy-filter",
            service.place,
            "it has smtpd_proxy_filter, and then milters see neither header nor body; put the"
            " milter on the service behind the filter",
        )
    if is_handed_back and _is_asked_elsewhere(settings, ours, service):
        yield Finding(
            "reinjection",
            service.place,
            "a content filter hands mail back here, and the milter is asked on both sides, so each"
            " message is recorded twice and may get two copies; add receive_override_options="
            "no_milters,no_address_mappings on one side",
        )
    behind = entries(settings.value("smtpd_milters", service))[position + 1 :]
    if behind:
        names = ", ".join(entry.address for entry in behind)
        yield Finding(
            "milter-order",
            service.place if "smtpd_milters" in service.overrides else "smtpd_milters",
            f"{names} comes after ours at {service.name}: what it changes breaks the signature, and"
            " what it refuses is on record as accepted; put ours last",
        )


def _filters(settings: Settings) -> list[str]:
    """Where mail is handed to a content filter."""
    names = ("content_filter", "smtpd_proxy_filter")
    values = [settings.value(name) for name in names]
    values += [one.overrides.get(name, "") for one in settings.services for name in names]
    return [value for value in values if value]


def _is_asked_elsewhere(settings: Settings, ours: SocketAddress, service: Service) -> bool:
    return any(
        _position(settings, ours, other) is not None
        and "no_milters" not in settings.value("receive_override_options", other)
        and not settings.value("smtpd_proxy_filter", other)
        for other in settings.running("smtpd")
        if other != service
    )


def _beside_smtp(settings: Settings, ours: SocketAddress) -> Iterator[Finding]:
    cleanup = next(settings.running("cleanup"), None)
    chrooted = cleanup is not None and cleanup.is_chrooted
    own = [
        entry
        for entry in entries(settings.value("non_smtpd_milters"))
        if is_ours(entry, ours, settings, chrooted=chrooted)
    ]
    if not own:
        yield Finding(
            "non-smtpd-missing",
            "non_smtpd_milters",
            "it does not name the milter, so mail of sendmail(1), cron and programs on the relay is"
            " neither signed, copied nor recorded; set non_smtpd_milters = $smtpd_milters",
        )
    classes = lookup_table.words(settings.value("internal_mail_filter_classes"))
    if own and "bounce" not in classes:
        yield Finding(
            "bounces-unseen",
            "internal_mail_filter_classes",
            "it has no bounce, so bounces that Postfix makes are neither signed, copied nor"
            " recorded; set it to bounce if they are to be",
        )


def _default_actions(
    settings: Settings, ours: SocketAddress, asked: list[Service]
) -> Iterator[Finding]:
    said: set[tuple[str, str]] = set()
    for service in asked:
        entry = entries(settings.value("smtpd_milters", service))[
            _position(settings, ours, service) or 0
        ]
        place = "smtpd_milters"
        action = entry.default_action
        if not action:
            place = "milter_default_action"
            action = settings.value(place, service).partition(" ")[0]
            if place in service.overrides:
                place = service.place
        if (place, action) in said:
            continue
        said.add((place, action))
        if action == "accept":
            yield Finding(
                "default-action",
                place,
                "it is accept, so mail passes without record, copy and signature while the milter"
                " cannot be asked; set it to tempfail",
            )
        elif action not in ("tempfail", "shutdown"):
            yield Finding(
                "default-action-lost",
                place,
                f"it is {action}, so mail is lost to its senders while the milter cannot be asked;"
                " set it to tempfail",
            )


# --- Does the milter get what it needs? -----------------------------------------------------------

# All other macros are asked for when the session begins.  At MAIL and at the first RCPT there is no
# queue id yet; one of these has to bring it (measured with Postfix 3.7).
_QUEUE_ID_COMES_WITH = ("milter_data_macros", "milter_end_of_data_macros")


def _talked_to(settings: Settings) -> Iterator[Finding]:
    protocol = settings.value("milter_protocol")
    if protocol.isdigit() and int(protocol) < 6:
        yield Finding(
            "milter-protocol",
            "milter_protocol",
            f"it is {protocol}, and before 6 header fields come without their leading space, so the"
            " milter refuses to work; set it to 6",
        )
    sent = " ".join(settings.value(parameter) for parameter in _QUEUE_ID_COMES_WITH)
    if macros.QUEUE_ID not in [word.strip("{}") for word in sent.replace(",", " ").split()]:
        yield Finding(
            "milter-macros",
            _QUEUE_ID_COMES_WITH[-1],
            f"neither it nor {_QUEUE_ID_COMES_WITH[0]} sends {macros.QUEUE_ID}, so records have no"
            " queue id; take both out of main.cf",
        )
    if not settings.is_on("enable_long_queue_ids"):
        yield Finding(
            "short-queue-ids",
            "enable_long_queue_ids",
            "it is no, so queue ids come again after days and a trace by queue id mixes messages;"
            " set it to yes",
        )
