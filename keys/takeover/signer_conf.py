"""Read opendkim.conf and its like: a parameter and its value a line, `#` begins a comment.

Promises: parameters are found whatever their case; `Include` is followed five levels deep, as
opendkim.conf(5) has it.

Raises: `errors.DataError` for a file that cannot be read, and for a parameter that stands twice
when it is asked for (`Conf.value`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from carbonseal.keys.takeover import lines
from carbonseal.policies import errors

_INCLUDES: Final = 5
_FILES: Final = 50  # in all, or five levels could be a million files
_USUAL = frozenset(
    "authservid autorestart background basedirectory canonicalization domain externalignorelist"
    " include internalhosts keyfile keyfileed25519 keytable keytableed25519 logresults logwhy mode"
    " nameservers on-badsignature on-default on-dnserror oversignheaders pidfile requiresafekeys"
    " selector selectored25519 signaturealgorithm signheaders signingtable socket softwareheader"
    " subdomains syslog syslogfacility syslogsuccess trustanchorfile umask userid".split()
)


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a parameter and where it stands."""

    source: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Conf:
    """A configuration file with those it includes."""

    path: Path
    values: dict[str, list[Value]]

    def value(self, name: str) -> Value | None:
        """The value of a parameter, None if it is not set."""
        found = self.values.get(name.lower(), [])
        if len(found) > 1:
            places = ", ".join(value.source for value in found[:3])
            raise errors.DataError(
                f"{self.path}: {name} stands there more than once ({places}); leave one."
            )
        return found[0] if found else None

    def says(self, name: str) -> bool:
        """Whether a switch is on; opendkim.conf(5) looks at the first letter only."""
        value = self.value(name)
        return value is not None and value.text[:1] in ("T", "t", "Y", "y", "1")

    @property
    def base(self) -> Path | None:
        """What relative paths are relative to, None if the file does not say."""
        value = self.value("BaseDirectory")
        return Path(value.text) if value else None


def read(path: Path) -> Conf:
    """The parameters of a configuration file."""
    values: dict[str, list[Value]] = {}
    _read_into(values, path, 0, [])
    return Conf(path, values)


def is_conf(path: Path) -> bool:
    """Whether a file is a configuration and no table: by its name, else by its first word."""
    if path.suffix == ".conf":
        return True
    first = lines.read(path)[:1]
    return bool(first) and first[0].text.split()[0].lower() in _USUAL


def _read_into(values: dict[str, list[Value]], path: Path, depth: int, seen: list[Path]) -> None:
    seen.append(path)
    if depth > _INCLUDES or len(seen) > _FILES:
        raise lines.unusable(path, f"files are included more than {_INCLUDES} levels deep")
    for line in lines.read(path):
        name, *rest = line.text.split(None, 1)
        text = rest[0].strip() if rest else ""
        if name.lower() == "include" and text:
            _read_into(values, path.parent / text, depth + 1, seen)
        else:
            values.setdefault(name.lower(), []).append(Value(line.source, text))
