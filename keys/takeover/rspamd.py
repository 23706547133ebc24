"""What rspamd signs with: local.d/dkim_signing.conf with the maps it names.

As its module dkim_signing does it: the selectors and paths of `domain { ... }`, filled up from
`selector_map` and `path_map`, then from `selector` and `path`, where `$domain` and `$selector`
stand for the names.  With `try_fallback` (the default) any other domain is signed whose key is at
`path`: those are found by their files.  `signing_table` and `key_table` are OpenDKIM's.

Promises: what rspamd keeps elsewhere (Redis, Vault, HTTP, Lua) is refused with what to do; each
line of a map ends in a key or a refusal.

Known limit: `use_esld` (the default) needs the list of public suffixes; here each domain with a
key stands for its subdomains, which is the same wherever the keys are those of such domains.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from carbonseal.keys.takeover import (
    dataset,
    found,
    key_and_signing_table,
    lines,
    path_template,
    ucl,
)
from carbonseal.keys.takeover.found import Findings, Found, Refusal, Rule, Signs
from carbonseal.keys.takeover.signing_table import Dialect
from carbonseal.policies import errors

_SECTION = "dkim_signing"
_DATABASE = "/var/lib/rspamd"  # DBDIR of the packages
_DEFAULT_PATH = "${DBDIR}/dkim/$domain.$selector.key"
_DEFAULT_SELECTOR = "dkim"
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]{1,40})\}|([A-Za-z_]{1,40}))")
_ON = frozenset(("true", "yes", "on", "1"))
_ELSEWHERE = {
    "use_redis": "the keys are in Redis (key_prefix names the hash); write each into a file with"
    " `redis-cli HGET`",
    "use_vault": "the keys are in Vault; write each into a file with `rspamadm vault show`",
    "use_http_headers": "the keys come with each HTTP request; find their files",
    "sign_condition": "a Lua function chooses the keys; find their files",
}
_IMPORT = "and import it with `carbonseal keys import SDID SELECTOR --private-key FILE`."


@dataclass(frozen=True, slots=True)
class _Wish:
    """A selector and a path for a domain, either of which may come from a later place."""

    source: str
    selector: str = ""
    path: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Conf:
    """The section with what its text cannot say by itself."""

    path: Path
    section: ucl.Section
    other: Path | None = None  # a second file, and the values of the section that stand in it
    in_other: frozenset[int] = frozenset()  # id() of each

    def at(self, value: ucl.Value | None) -> str:
        """Where a value stands."""
        if value is None:
            return str(self.path)
        return f"{self.other if id(value) in self.in_other else self.path}:{value.line}"

    def says(self, name: str, *, default: bool) -> bool:
        """Whether a switch is on."""
        value = self.section.text(name)
        return default if value is None else value.text.lower() in _ON

    def expand(self, text: str, **names: str) -> str:
        """The text with its variables; `errors.DataError` for one we do not know."""
        parent = self.path.parent
        configuration = parent.parent if parent.name in ("local.d", "override.d") else parent
        known = {
            "DBDIR": _DATABASE,
            "CONFDIR": str(configuration),
            "LOCAL_CONFDIR": str(configuration),
            **names,
        }

        def one(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in known:
                raise errors.DataError(
                    f"the variable ${name} in it is not known here; write the path out."
                )
            return known[name]

        return _VARIABLE.sub(one, text)


def read(place: str, signing_table: str | None = None) -> Findings:
    """The findings of a dkim_signing.conf, or of the configuration directory it is in."""
    path = Path(place)
    if signing_table is not None:
        return found.refused(
            place, "rspamd names its signing table in its own file; leave out --signing-table."
        )
    try:
        if os.path.isdir(path):  # where a name that is too long is no error
            path = _in_directory(path)
        conf = conf_of(path)
    except ucl.NotRead as error:
        return found.refused(f"{path}:{error.line}", error.sentence)
    except errors.DataError as error:
        return found.refused(path, error.sentence)
    return of_conf(conf)


def of_conf(conf: Conf) -> Findings:
    """The findings of a section that was read."""
    try:
        return _of_section(conf)
    except ucl.NotRead as error:
        return found.refused(f"{conf.path}:{error.line}", error.sentence)
    except errors.DataError as error:
        return found.refused(conf.path, error.sentence)


def conf_of(path: Path) -> Conf:
    """The section of one file.  Raises: `ucl.NotRead`, `errors.DataError`."""
    section = ucl.parse(lines.text(path).replace("\r\n", "\n"))
    inner = section.one(_SECTION)
    if isinstance(inner, ucl.Section):
        section = replace(inner, skipped=section.skipped)
    return Conf(path, section)


def merged(below: Conf, above: Conf) -> Conf:
    """Two files as rspamd merges them: what stands in `above` (override.d) replaces the same name.

    The names of `domain` in `above` are those that count, as for every other name.
    """
    names = {name for name, _ in above.section.pairs}
    kept = tuple(pair for pair in below.section.pairs if pair[0] not in names)
    section = ucl.Section(below.section.line, (*kept, *above.section.pairs), below.section.skipped)
    return Conf(below.path, section, above.path, frozenset(map(id, _inside(above.section))))


def _inside(value: ucl.Value) -> Iterator[ucl.Value]:
    yield value
    if isinstance(value, ucl.Section):
        for _, one in value.pairs:
            yield from _inside(one)
    elif isinstance(value, ucl.Items):
        for one in value.values:
            yield from _inside(one)


def _in_directory(folder: Path) -> Path:
    places = [folder / name / f"{_SECTION}.conf" for name in ("local.d", "override.d", ".")]
    there = [path for path in places if path.is_file()]
    if not there:
        raise lines.unusable(
            folder, f"there is no local.d/{_SECTION}.conf in it; give the file that says who signs"
        )
    if len(there) > 1:
        raise lines.unusable(
            folder, f"{there[0]} and {there[1]} are both in use; put them together and give that"
        )
    return there[0]


def _of_section(conf: Conf) -> Findings:
    skipped = [
        found.refused(
            f"{conf.path}:{line}",
            "an included file is not read; import it with a command of its own.",
        )
        for line in conf.section.skipped
    ]
    elsewhere = list(_elsewhere(conf))
    if conf.section.one("signing_table") is not None and conf.section.one("key_table") is not None:
        return found.joined([*skipped, *elsewhere, _of_tables(conf)])
    return found.joined([*skipped, *elsewhere, *_of_domains(conf)])


def _elsewhere(conf: Conf) -> Iterator[Findings]:
    for name, what in _ELSEWHERE.items():
        value = conf.section.one(name)
        if value is not None and (name == "sign_condition" or conf.says(name, default=False)):
            yield found.refused(conf.at(value), f"{what} {_IMPORT}")
    value = conf.section.text("use_domain")
    if value is not None and value.text != "header":
        yield found.refused(
            conf.at(value),
            "use_domain takes the signing domain from elsewhere than From, which no rule can say;"
            " check with `carbonseal policy explain` who would be signed.",
        )


# --- OpenDKIM's tables ----------------------------------------------------------------------------


def _of_tables(conf: Conf) -> Findings:
    selector = conf.section.text("selector")
    try:
        return key_and_signing_table.combine(
            table(conf, "key_table"),
            table(conf, "signing_table"),
            Dialect.RSPAMD,
            default_selector=selector.text if selector else _DEFAULT_SELECTOR,
        )
    except ucl.NotRead:
        raise
    except errors.DataError as error:
        return found.refused(conf.at(conf.section.one("key_table")), error.sentence)


def table(conf: Conf, name: str) -> dataset.Dataset:
    """A map of the section: a file with a name and a value a line, or a list of such lines."""
    value = conf.section.one(name)
    if value is None:
        return dataset.Dataset(dataset.Kind.FLAT, ())
    entries: list[dataset.Entry] = []
    if isinstance(value, ucl.Text) and not value.text.strip().count(" "):
        path = Path(conf.expand(_plain_path(value.text)))
        entries = [_map_entry(line.source, line.text) for line in lines.read(path)]
        return dataset.Dataset(dataset.Kind.FLAT, tuple(entries), path.parent)
    for item in value.values if isinstance(value, ucl.Items) else (value,):
        if not isinstance(item, ucl.Text) or not item.text.strip():
            raise ucl.NotRead(item.line, f"{name} is no file and no list of lines; write a file.")
        entries.append(_map_entry(conf.at(item), item.text.strip()))
    return dataset.Dataset(dataset.Kind.FLAT, tuple(entries), conf.path.parent)


def _plain_path(text: str) -> str:
    kind, semicolon, rest = text.partition(";")
    bare = rest if semicolon and kind in ("file", "glob", "map", "hash", "fallback+file") else text
    bare = bare.removeprefix("map://").removeprefix("file://").removeprefix("fallback+file://")
    if not bare.startswith(("/", "$")):
        raise errors.DataError(
            "the map is no file of this machine; write it into a file and name that."
        )
    return bare


def _map_entry(source: str, text: str) -> dataset.Entry:
    name, *rest = text.split(None, 1)
    value = rest[0].strip() if rest else ""
    return dataset.Entry(source, name.strip('"'), value.strip('"'))


# --- domains --------------------------------------------------------------------------------------


def _of_domains(conf: Conf) -> Iterator[Findings]:
    wishes: dict[str, list[_Wish]] = {}
    yield Findings(refusals=tuple(_domain_blocks(conf, wishes)))
    for name, is_path in (("selector_map", False), ("path_map", True)):
        try:
            lines_of = table(conf, name)
        except ucl.NotRead:
            raise
        except errors.DataError as error:
            yield found.refused(conf.at(conf.section.one(name)), error.sentence)
            continue
        yield Findings(refusals=tuple(_fill(wishes, lines_of, is_path=is_path)))
    below = conf.says("use_esld", default=True)
    for domain, several in wishes.items():
        for wish in several:
            yield _key(conf, domain, wish, below=below)
    if conf.says("try_fallback", default=True) and not conf.says("use_redis", default=False):
        yield from _fallback(conf, wishes, below=below)


def _domain_blocks(conf: Conf, wishes: dict[str, list[_Wish]]) -> Iterator[Refusal]:
    for block in conf.section.all("domain"):
        if not isinstance(block, ucl.Section):
            yield Refusal(conf.at(block), "domain is no section; write it as domain { ... }.")
            continue
        for domain, about in block.pairs:
            try:
                sdid = found.sdid_of(domain)
                wishes.setdefault(sdid, []).extend(_selectors(conf, about))
            except errors.DataError as error:
                yield Refusal(conf.at(about), error.sentence)


def _selectors(conf: Conf, about: ucl.Value) -> Iterator[_Wish]:
    if not isinstance(about, ucl.Section):
        raise errors.DataError("it is no section; write it as example.com { ... }.")
    if about.one("selector") is not None or about.one("path") is not None:
        yield _wish(conf, about)
    several = about.all("selectors")
    for one in several:
        if not isinstance(one, ucl.Section):
            raise errors.DataError("its selectors are no sections; write { selector; path }.")
        yield _wish(conf, one)
    if not several and about.one("selector") is None and about.one("path") is None:
        yield _Wish(conf.at(about))


def _wish(conf: Conf, section: ucl.Section) -> _Wish:
    selector, path = section.text("selector"), section.text("path")
    return _Wish(conf.at(section), selector.text if selector else "", path.text if path else "")


def _fill(
    wishes: dict[str, list[_Wish]], table: dataset.Dataset, *, is_path: bool
) -> Iterator[Refusal]:
    for entry in table.entries:
        try:
            domain = found.sdid_of(entry.name)
            if not entry.value:
                raise errors.DataError("the domain has no value in the map; complete the line.")
        except errors.DataError as error:
            yield Refusal(entry.source, error.sentence)
            continue
        fresh = (
            _Wish(entry.source, path=entry.value) if is_path else _Wish(entry.source, entry.value)
        )
        several = wishes.setdefault(domain, [])
        if not several:
            several.append(fresh)
            continue
        filled = [_filled(wish, fresh) for wish in several]
        if filled == several:
            yield Refusal(
                entry.source, "an earlier place says it already; this line has no effect."
            )
        several[:] = filled


def _filled(wish: _Wish, more: _Wish) -> _Wish:
    return replace(wish, selector=wish.selector or more.selector, path=wish.path or more.path)


def _key(conf: Conf, domain: str, wish: _Wish, *, below: bool) -> Findings:
    try:
        return _found(conf, domain, _with_defaults(conf, wish), below=below)
    except errors.DataError as error:
        return found.refused(wish.source, error.sentence)


def _with_defaults(conf: Conf, wish: _Wish) -> _Wish:
    selector, path = conf.section.text("selector"), conf.section.text("path")
    if not wish.path and conf.says("use_redis", default=False):
        raise errors.DataError(f"{_ELSEWHERE['use_redis']} {_IMPORT}")
    return _filled(
        wish,
        _Wish(
            wish.source,
            selector.text if selector else _DEFAULT_SELECTOR,
            path.text if path else _DEFAULT_PATH,
        ),
    )


def _found(conf: Conf, domain: str, wish: _Wish, *, below: bool) -> Findings:
    sdid, selector = found.names(domain, wish.selector)
    path = Path(conf.expand(wish.path, domain=sdid, selector=wish.selector))
    if not path.is_absolute() or "\0" in str(path):
        raise errors.DataError("its path is not absolute; write the whole path of the key file.")
    rules = [Rule(f"*@{sdid}", sdid, wish.source)]
    if below:
        rules.append(Rule(f"*@.{sdid}", sdid, wish.source))
    return Findings(
        (Found(sdid, selector, wish.source, path=path, signs=Signs.YES),), (), tuple(rules)
    )


def _fallback(conf: Conf, wishes: dict[str, list[_Wish]], *, below: bool) -> Iterator[Findings]:
    """The keys that lie where `path` says, of domains that are named nowhere."""
    wish = _with_defaults(conf, _Wish(conf.at(conf.section.one("path"))))
    mark = "\x1f"  # in no path that was written by hand
    try:
        template = conf.expand(wish.path, domain=mark, selector=wish.selector)
        listed = list(path_template.domains_at(template, mark))
    except errors.DataError as error:
        yield found.refused(wish.source, error.sentence)
        return
    if mark not in template and not wishes:
        yield found.refused(
            wish.source,
            "one key is used for all domains, and none is named; import it for each with"
            " `carbonseal keys import SDID SELECTOR --private-key FILE`.",
        )
    for domain, _ in listed:
        if domain not in wishes:
            yield _key(conf, domain, wish, below=below)
