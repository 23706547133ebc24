"""A change of one TXT record in the forms that people paste: zone text, nsupdate, JSON, octoDNS.

Promises: every form carries the whole value, in strings of at most 255 octets where strings are
written out, quoted and escaped for its reader; the nsupdate script changes nothing unless the name
is as expected.  Texts that are not plain ASCII are refused: no two of these readers agree on them.

Raises: `errors.DataError`.

Does not: end with a line feed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal, get_args

from carbonseal.keys import dns_record
from carbonseal.policies import errors

Form = Literal["zone", "nsupdate", "value", "json", "octodns"]
Change = Literal["add", "revoke", "remove"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The arguments of `render`."""

    name: str
    text: str
    ttl: int
    zone: str | None
    change: Change
    old_text: str


def render(
    form: Form,
    name: str,
    text: str,
    ttl: int,
    *,
    zone: str | None,
    change: Change = "add",
    old_text: str = "",
) -> str:
    """A change in one form.

    name: absolute, without the last dot.  text: the value to publish; for `remove`, not used.
    zone: the zone's name, which octodns needs and nsupdate otherwise finds by asking.
    old_text: for `revoke` and `remove`, what stands there now.
    """
    for value in (text, old_text):
        if not value.isascii() or not value.isprintable():
            raise errors.DataError(
                f"the value for {name} is not plain ASCII on one line; take it from `keys show`."
            )
    wanted = _Wanted(name, text, ttl, zone, change, old_text)
    if form == "zone":
        return _zone(wanted)
    if form == "nsupdate":
        return _nsupdate(wanted)
    if form == "json":
        return _json(wanted)
    if form == "octodns":
        return _octodns(wanted)
    return old_text if change == "remove" else text


def alias(name: str, target: str, ttl: int | None = None) -> str:
    """The line by which a domain's owner hands a name to us: a CNAME, as zone text."""
    return f"{name}. {'' if ttl is None else f'{ttl} '}IN CNAME {target}."


def _zone(wanted: _Wanted) -> str:
    shown = dns_record.zone_text(wanted.name, wanted.text, wanted.ttl)
    if wanted.change == "add":
        return shown
    old = _commented(dns_record.zone_text(wanted.name, wanted.old_text))
    if wanted.change == "remove":
        return f"; take away:\n{old}"
    return f"; in the place of:\n{old}\n{shown}"


def _commented(lines: str) -> str:
    return "\n".join(f"; {line}" for line in lines.splitlines())


def _nsupdate(wanted: _Wanted) -> str:
    name, old = wanted.name, _strings(wanted.old_text)
    lines = [f"zone {wanted.zone}."] if wanted.zone is not None else []
    if wanted.change == "add":
        lines.append(f"prereq nxdomain {name}.")
    else:
        lines.append(f"prereq yxrrset {name}. IN TXT {old}")
        lines.append(f"update delete {name}. IN TXT {old}")
    if wanted.change != "remove":
        lines.append(f"update add {name}. {wanted.ttl} IN TXT {_strings(wanted.text)}")
    return "\n".join([*lines, "send"])


def _strings(text: str) -> str:
    """Character-strings in master-file form, RFC 1035 section 5.1."""
    return " ".join(
        '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for part in dns_record.strings(text)
    )


def _json(wanted: _Wanted) -> str:
    stays = wanted.change != "remove"
    return json.dumps(
        {
            "change": wanted.change,
            "name": wanted.name,
            "zone": wanted.zone,
            "type": "TXT",
            "ttl": wanted.ttl if stays else None,
            "value": wanted.text if stays else None,
            "strings": dns_record.strings(wanted.text) if stays else None,
            "old_value": None if wanted.change == "add" else wanted.old_text,
        },
        indent=2,
    )


def _octodns(wanted: _Wanted) -> str:
    """octoDNS wants names relative to the zone, semicolons escaped, and splits by itself."""
    name, zone = wanted.name, wanted.zone
    if zone is None or not name.endswith(f".{zone}"):
        raise errors.DataError(
            f"octoDNS names records within a zone, and the zone of {name} is not known; set `zone`"
            " in the rule of dns.publish."
        )
    relative = _quoted(name.removesuffix(f".{zone}"))
    if wanted.change == "remove":
        return f"# take this away:\n# {relative}:"
    value = _quoted(wanted.text.replace(";", "\\;"))
    return f"{relative}:\n  type: TXT\n  ttl: {wanted.ttl}\n  value: {value}"


def _quoted(text: str) -> str:
    """A YAML scalar in single quotes: nothing in it means anything but a doubled quote."""
    return "'" + text.replace("'", "''") + "'"
