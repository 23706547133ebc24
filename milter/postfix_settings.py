"""What Postfix is told to do: main.cf and master.cf as postconf(1) understands them, and tables.

Promises: only asks (`postconf`, `postmap -s` and `-q`); nothing is written, no daemon is spoken to.
Every question is bounded in time and size.  Values come with $name filled in.  A table that cannot
be listed is told from one that is empty.

Raises: `SettingsUnreadable`, one sentence, when postconf does not answer.

Does not: judge (`postfix_lint` does), or guess what it cannot read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from carbonseal.keys.relays import program
from carbonseal.policies import errors, lookup_table
from carbonseal.policies.lookup_table import Reference

TIMEOUT: Final = 10.0  # seconds for one question
_MAX_OUTPUT: Final = 1 << 24  # octets
_LISTED: Final = frozenset(
    ("hash", "btree", "cdb", "dbm", "sdbm", "lmdb", "texthash", "inline")
)  # those which postmap -s can list


class SettingsUnreadable(errors.TryLater):
    """Nobody knows how Postfix is set up."""


@dataclass(frozen=True, slots=True)
class Service:
    """One line of master.cf."""

    name: str  # smtp, submission, 127.0.0.1:10025
    type: str  # inet, unix, pass, fifo
    is_chrooted: bool
    program: str  # smtpd, cleanup
    overrides: Mapping[str, str]  # its -o options, $name filled in

    @property
    def place(self) -> str:
        """For people."""
        return f"master.cf {self.name}/{self.type}"


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    directory: Path | None  # None: Postfix's default
    parameters: Mapping[str, str]  # every parameter of main.cf, defaults included, $name filled in
    written: frozenset[str]  # those that main.cf sets
    services: tuple[Service, ...]

    def value(self, name: str, service: Service | None = None) -> str:
        """The effective value of `name`, for `service` where one is given."""
        if service is not None and name in service.overrides:
            return service.overrides[name]
        return self.parameters.get(name, "")

    def is_on(self, name: str, service: Service | None = None) -> bool:
        """Whether a yes/no parameter says yes."""
        return self.value(name, service).strip().lower() == "yes"

    def running(self, program: str) -> Iterator[Service]:
        """The services that run `program`."""
        return (one for one in self.services if one.program == program)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list of names and tables holds."""

    names: tuple[str, ...]
    excluded: tuple[str, ...] = ()  # written with ! in front
    results: Mapping[str, str] = field(default_factory=dict)  # of the tables' entries
    patterns: tuple[Reference, ...] = ()  # tables that answer questions, but cannot be listed
    problems: tuple[str, ...] = ()  # what could not be read, and why


def read(directory: Path | None) -> Settings:
    """Everything postconf knows; `directory` is Postfix's configuration directory."""
    parameters = dict(_assignments(_postconf(directory, "-x")))
    written = {name for name, _ in _assignments(_postconf(directory, "-n"))}
    overrides: dict[tuple[str, str], dict[str, str]] = {}
    for name, value in _assignments(_postconf(directory, "-P", "-x")):
        service, kind, parameter = _three(name)
        overrides.setdefault((service, kind), {})[parameter] = value
    fields: dict[tuple[str, str], dict[str, str]] = {}
    for name, value in _assignments(_postconf(directory, "-F")):
        service, kind, column = _three(name)
        fields.setdefault((service, kind), {})[column] = value
    level = parameters.get("compatibility_level", "0").partition(".")[0]
    default_chroot = "y" if level == "0" else "n"
    services = tuple(
        Service(
            name=name,
            type=kind,
            is_chrooted=columns.get("chroot", "-").replace("-", default_chroot) == "y",
            program=(columns.get("command", "").split() or [""])[0].rpartition("/")[2],
            overrides=overrides.get((name, kind), {}),
        )
        for (name, kind), columns in fields.items()
    )
    return Settings(directory, parameters, frozenset(written), services)


def listing(settings: Settings, value: str) -> Listing:
    """The names in a parameter such as mydestination: written out, in files and in tables."""
    names: list[str] = []
    excluded: list[str] = []
    results: dict[str, str] = {}
    patterns: list[Reference] = []
    problems: list[str] = []
    for word in lookup_table.words(value):
        bare = word.lstrip("!")
        target = excluded if (len(word) - len(bare)) % 2 else names
        try:
            if bare.startswith("/"):
                target.extend(_file(bare))
            elif ":" not in bare or bare.startswith("["):
                target.append(bare)
            else:
                about = lookup_table.reference(bare)
                if about.type in _LISTED:
                    entries = dict(_entries(settings, about))
                    results |= entries
                    target.extend(entries)
                else:
                    patterns.append(about)
        except errors.CarbonsealError as fault:
            problems.append(fault.sentence.rstrip("."))
    return Listing(tuple(names), tuple(excluded), results, tuple(patterns), tuple(problems))


def ask(settings: Settings, about: Reference, key: str) -> str | None:
    """The answer of one table, None without one.  Raises: CarbonsealError when it cannot answer."""
    command = _command("postmap", settings.directory, "-q", key, _postfix_form(about))
    try:
        return _run(command).rstrip("\n") or None
    except program.ProgramFailed as fault:
        # Status 1 without a word means that the key is not there.
        if fault.sentence.endswith("ended with status 1"):
            return None
        raise


def text_of(path: str) -> str:
    """What a file holds that a parameter names.  Raises: CarbonsealError."""
    return _contents(path)


def _entries(settings: Settings, about: Reference) -> Iterator[tuple[str, str]]:
    for line in _run(_command("postmap", settings.directory, "-s", _postfix_form(about))).split(
        "\n"
    ):
        key, _, result = line.partition("\t")
        if key:
            yield key, result


def _postfix_form(about: Reference) -> str:
    name = f"{{{about.name}}}" if about.is_inline else about.name
    return f"{about.type}:{name}"


def _file(path: str) -> Iterator[str]:
    for line in _contents(path).splitlines():
        if not line.lstrip().startswith("#"):
            yield from lookup_table.words(line)


def _contents(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read(_MAX_OUTPUT).decode("utf-8", "surrogateescape")
    except OSError as fault:
        raise errors.TryLater(f"{path} cannot be read ({fault.strerror})") from None


def _postconf(directory: Path | None, *options: str) -> str:
    try:
        return _run(_command("postconf", directory, *options))
    except program.ProgramFailed as fault:
        said = fault.sentence.rstrip(".")
        raise SettingsUnreadable(
            f"the configuration of Postfix is unknown: {said}; see that Postfix is installed here"
            f" and that --config-directory names its configuration"
        ) from None


def _run(command: list[str]) -> str:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    environment = {"PATH": path, "LC_ALL": "C", "TZ": "UTC"}
    said = program.output(command, timeout=TIMEOUT, limit=_MAX_OUTPUT, environment=environment)
    return said.decode("utf-8", "surrogateescape")


def _command(name: str, directory: Path | None, *arguments: str) -> list[str]:
    return [name, *(() if directory is None else ("-c", str(directory))), *arguments]


def _assignments(said: str) -> Iterator[tuple[str, str]]:
    for line in said.splitlines():
        name, equals, value = line.partition(" =")
        if equals:
            yield name, value.strip()


def _three(name: str) -> tuple[str, str, str]:
    """service/type/what; a service may be a path and hold slashes."""
    front, _, last = name.rpartition("/")
    service, _, kind = front.rpartition("/")
    return service, kind, last
