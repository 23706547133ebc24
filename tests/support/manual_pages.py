r"""The man pages: what the program knows of itself is written into them, the rest is kept.

`make manuals` writes anew, in each page of packaging/man, what stands between a line
`.\" generated: NAME` and the next line `.\" end`; everything else is written by hand.  A command
or group without a page gets one that is to be filled.

Promises: commands, arguments and options come from click; keys, types and defaults of the
configuration from its models; their explanations from packaging/etc/carbonseal.yaml, and those of
keys in lists from the table of README.md.

Does not: judge the prose; tests/house/test_manuals.py runs its examples.
"""

from __future__ import annotations

import re
import textwrap
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from carbonseal.milter import cli, config_types
from carbonseal.milter.archive.search import fields
from carbonseal.milter.config_sections import FileModel

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "packaging/man"
EXAMPLE = ROOT / "packaging/etc/carbonseal.yaml"
SHARED = 3  # commands that have an option, from which on it is explained once for all

_NOWHERE = click.Context(cli.carbonseal)
_BLOCK = re.compile(r'(?ms)^(\.\\" generated: (\w+)\n)(.*?)(^\.\\" end$)')

_SKELETON = r""".TH CARBONSEAL\-{upper} 8 "" "Carbonseal" "Carbonseal"
.nr HY 0
.nh
.ad l
.SH NAME
carbonseal\-{name} \- {about}
.SH SYNOPSIS
.\" generated: synopsis
.\" end
.SH COMMANDS
.\" generated: commands
.\" end
.SH EXAMPLES
.EX
$ carbonseal {name} \-\-help
.EE
.SH SEE ALSO
.BR carbonseal (8),
.BR carbonseal.yaml (5)
"""


# --- Text as roff ---------------------------------------------------------------------------------


def code(text: str) -> str:
    """Text that is typed as it stands: no typographic quotes and hyphens."""
    for plain, escaped in (
        ("\\", "\\e"),
        ("-", "\\-"),
        ("'", "\\(aq"),
        ("`", "\\(ga"),
        ("^", "\\(ha"),
        ("~", "\\(ti"),
    ):
        text = text.replace(plain, escaped)
    return _ascii(text)


def prose(text: str) -> list[str]:
    """A paragraph as lines of roff, each sentence on a line of its own."""
    text = re.sub(r"\[([^]]*)\]\(([^)]*)\)", r"\1", " ".join(text.split()))
    words = re.split(r"(`[^`]*`|(?<![\w-])--[a-z][a-z-]*|\b[a-z0-9-]+\([1-8]\))", text)
    made = "".join(
        f"\\fB{code(one.strip('`'))}\\fR" if number % 2 else _plain(one)
        for number, one in enumerate(words)
    )
    lines = []
    for sentence in re.split(r"(?<=[.;:?]) (?=[A-Z\\])", made):
        lines += textwrap.wrap(sentence, 96, break_long_words=False, break_on_hyphens=False)
    return [f"\\&{line}" if line[:1] in {".", "'"} else line for line in lines]


def _plain(text: str) -> str:
    return _ascii(text.replace("\\", "\\e").replace("^", "\\(ha").replace("~", "\\(ti"))


def _ascii(text: str) -> str:
    return "".join(one if ord(one) < 128 else f"\\[u{ord(one):04X}]" for one in text)


def plain(roff: str) -> str:
    """A line of roff as it will be read; for text that `code` wrote, its inverse."""
    text = re.sub(r"\\f(?:\[\w*\]|.)|\\&", "", roff)
    for escaped, one in (("\\-", "-"), ("\\(aq", "'"), ("\\(ga", "`"), ("\\(ha", "^")):
        text = text.replace(escaped, one)
    return text.replace("\\(ti", "~").replace("\\(dq", '"').replace("\\e", "\\")


# --- Commands -------------------------------------------------------------------------------------


def groups() -> dict[str, click.Command]:
    """The commands of the first level, each with a page of its own."""
    found = {name: cli.carbonseal.get_command(_NOWHERE, name) for name in _first_level()}
    return {name: one for name, one in found.items() if one is not None}


def _first_level() -> list[str]:
    return cli.carbonseal.list_commands(_NOWHERE)


def commands(group: click.Command, words: str) -> dict[str, click.Command]:
    """Every command that does something, by the words that call it."""
    if not isinstance(group, click.Group):
        return {words: group}
    found: dict[str, click.Command] = {}
    for name in group.list_commands(_NOWHERE):
        inner = group.get_command(_NOWHERE, name)
        assert inner is not None
        found |= commands(inner, f"{words} {name}")
    return found


def options(command: click.Command) -> list[click.Option]:
    """Those that are no secret."""
    found = [one for one in command.params if isinstance(one, click.Option)]
    return [one for one in found if not one.hidden]


def _argument(one: click.Argument) -> str:
    name = one.metavar or (one.name or "").upper().replace("_", "-")
    name = name.removesuffix("...").strip("[]")
    shown = f"\\fI{code(name)}\\fR" + (" ..." if one.nargs == -1 else "")
    return shown if one.required else f"[{shown}]"


def _usage(words: str, command: click.Command) -> str:
    parts = [f"\\fBcarbonseal {code(words)}\\fR"]
    for one in options(command):
        if one.required:
            parts.append(_tag(one))
    if any(not one.required for one in options(command)):
        parts.append("[\\fIOPTION\\fR ...]")
    parts += [_argument(one) for one in command.params if isinstance(one, click.Argument)]
    return " ".join(parts)


def _tag(one: click.Option) -> str:
    names = ", ".join(f"\\fB{code(name)}\\fR" for name in (*one.opts, *one.secondary_opts))
    if one.is_flag:
        return names
    if isinstance(one.type, click.Choice):
        choices = [code(str(choice)) for choice in one.type.choices]
        return " ".join((names, "|\\:".join(choices)))  # a line may be broken there
    kinds = {"integer": "N", "integer range": "N", "path": "PATH"}
    name = one.metavar or kinds.get(one.type.name, "TEXT")
    return f"{names} \\fI{code(name)}\\fR"


def _key(one: click.Option) -> tuple[str, str]:
    return _tag(one), f"{one.help or ''} {one.default if one.show_default else ''}"


def _option(one: click.Option) -> list[str]:
    about = one.help or ""
    if one.show_default and one.default is not None:
        about += f"  Default: `{one.default}`."
    if one.multiple and "repeat" not in about:
        about += "  May be repeated."
    return [".TP", _tag(one), *prose(about)]


def synopsis(name: str) -> list[str]:
    """One line for each command."""
    lines: list[str] = []
    for words, command in commands(groups()[name], name).items():
        lines += [_usage(words, command), ".br"]
    return lines[:-1]


def commands_of(name: str) -> list[str]:
    """Each command with its arguments, its explanation and its options."""
    found = commands(groups()[name], name)
    counts = Counter(_key(one) for command in found.values() for one in options(command))
    shared = {key for key, count in counts.items() if count >= SHARED}
    lines: list[str] = []
    for words, command in found.items():
        if len(found) > 1:
            lines.append(f".SS {code(words.partition(' ')[2] or words)}")
        lines += _about(words, command, shared, is_one_of_several=len(found) > 1)
    if shared:
        lines.append(".SS Options of several commands")
        done: set[tuple[str, str]] = set()
        for command in found.values():
            for one in options(command):
                if _key(one) in shared and _key(one) not in done:
                    done.add(_key(one))
                    lines += _option(one)
    return lines


def _about(
    words: str,
    command: click.Command,
    shared: set[tuple[str, str]],
    *,
    is_one_of_several: bool,
) -> list[str]:
    lines = [_usage(words, command)] if is_one_of_several else []
    for paragraph in re.split(r"\n\s*\n", (command.help or "").strip()):
        lines += [".PP", *prose(paragraph)]
    own = [one for one in options(command) if _key(one) not in shared]
    for one in own:
        lines += _option(one)
    others = [
        f"\\fB{code(max(one.opts, key=len))}\\fR" for one in options(command) if _key(one) in shared
    ]
    if others:
        which = "And" if own else "Options"
        listed = textwrap.wrap(", ".join(others) + ".", 96, break_on_hyphens=False)
        lines += [".PP", f"{which}, explained below:", *listed]
    return lines


def fields_of_search(name: str) -> list[str]:
    """The conditions of a query, with the values of those that have a few."""
    choices = {
        one.name: one.type.choices
        for one in options(commands(groups()[name], name)["archive search"])
        if isinstance(one.type, click.Choice)
    }
    lines: list[str] = []
    for field in fields.FIELDS.values():
        others = [code(alias) for alias, one in fields.ALIASES.items() if one == field.name]
        about = f"{field.finds[:1].upper()}{field.finds[1:]}."
        if field.name in choices:
            about += f"  One of {_or([str(one) for one in choices[field.name]])}."
        if others:
            about += f"  Also written {_or([f'`{one}:`' for one in others])}."
        lines += [".TP", f"\\fB{code(field.name)}:\\fR", *prose(about)]
    return lines


def overview(_: str) -> list[str]:
    """For carbonseal(8): the pages, and what each command there does."""
    lines: list[str] = []
    for name, group in groups().items():
        lines += [".TP", f".BR carbonseal\\-{code(name)} (8)"]
        for words, command in commands(group, name).items():
            first = " ".join((command.help or "").split("\n\n")[0].split())
            lines += [f"\\fB{code(words)}\\fR:", *prose(first), ".br"]
        lines.pop()
    return lines


def global_options(_: str) -> list[str]:
    """Those that stand before the command."""
    lines: list[str] = []
    for one in options(cli.carbonseal):
        lines += _option(one)
    return [*lines, ".TP", "\\fB\\-h\\fR, \\fB\\-\\-help\\fR", *prose("Show help and stop.")]


# --- The configuration ----------------------------------------------------------------------------


@dataclass
class Entry:
    """Keys of the configuration that are explained together, as packaging/etc/carbonseal.yaml has
    them."""

    keys: list[tuple[str, str]]  # name, default as it stands there
    about: list[str] = dataclass_field(default_factory=list)  # paragraphs
    example: str = ""  # YAML, the value of the first key


@dataclass
class Section:
    """A section of the configuration in that file."""

    name: str
    title: str
    entries: list[Entry] = dataclass_field(default_factory=list)


def sections(text: str) -> list[Section]:
    """What packaging/etc/carbonseal.yaml says."""
    found: list[Section] = []
    title, comment = "", list[str]()
    is_fresh = True
    for line in text.splitlines():
        if heading := re.match(r"# --- (.*?) -+$", line):
            title = heading[1]
        elif section := re.match(r"#?([a-z_]+):$", line):
            found.append(Section(section[1], title))
            comment = []
        elif re.match(r"  #( |$)", line):
            comment = [] if is_fresh else comment
            comment.append(line[4:])
            is_fresh = False
        elif found and (key := re.match(r"#?  ([a-z_]+): (.*)$", line)):
            _add(found[-1], key[1], key[2], [] if is_fresh else comment)
            is_fresh = True
    return found


def _add(section: Section, name: str, default: str, comment: list[str]) -> None:
    if any(name == one for entry in section.entries for one, _ in entry.keys):
        return  # what the package sets stands below the default
    if not comment:
        section.entries[-1].keys.append((name, default))
        return
    text = "\n".join(comment)
    about, _, example = text.partition("Example:")
    paragraphs = [one for one in re.split(r"\n\s*\n", about) if one.strip()]
    section.entries.append(Entry([(name, default)], paragraphs, textwrap.dedent(example).strip()))


def yaml_example(section: Section, entry: Entry) -> str:
    """The example of an entry as a piece of carbonseal.yaml."""
    name = entry.keys[0][0]
    if entry.example.startswith("- "):
        return f"{section.name}:\n  {name}:\n" + textwrap.indent(entry.example, "    ")
    return f"{section.name}:\n  {name}: {entry.example}"


_KINDS: list[tuple[Any, str, str]] = [
    (config_types.Duration, "duration", "durations"),
    (config_types.Period, "time to keep", "times to keep"),
    (config_types.Size, "size", "sizes"),
    (config_types.Line, "text", "texts"),
    (config_types.Directory, "path", "paths"),
    (config_types.DatabaseUrl, "database URL", "database URLs"),
    (config_types.DomainEntry, "domain entry", "domain entries"),
    (config_types.NetworkText, "address or network", "addresses or networks"),
    (config_types.Mailbox, "mailbox", "mailboxes"),
    (config_types.Pattern, "author pattern", "author patterns"),
    (config_types.DomainName, "domain name", "domain names"),
    (config_types.SocketText, "socket", "sockets"),
    (config_types.SmtpAddress, "address and port", "addresses and ports"),
    (config_types.ServerText, "server", "servers"),
    (config_types.FieldName, "header field name", "header field names"),
    (bool, "true or false", "truth values"),
    (int, "whole number", "whole numbers"),
    (float, "number", "numbers"),
    (str, "text", "texts"),
    (Path, "path", "paths"),
    (type(None), "null", "nulls"),
]


def kind(annotation: Any, *, several: bool = False) -> str:
    """The type of a key in words."""
    for known, one, many in _KINDS:
        if annotation is known or annotation == known:
            return many if several else one
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(annotation, several=several)
    if origin is Literal:
        return _or([str(one) for one in arguments])
    if origin in (Union, types.UnionType):
        return _or([kind(one, several=several) for one in arguments])
    if origin is list:
        return f"list of {kind(arguments[0], several=True)}"
    if origin is dict:
        return f"mapping of {kind(arguments[0], several=True)} to {kind(arguments[1])}"
    return "mappings" if several else "mapping"


def _annotated(annotation: Any, *, several: bool) -> str:
    """A type with bounds; what is `Annotated` twice has become one, with the metadata of both."""
    metadata = annotation.__metadata__
    for known, one, many in _KINDS:
        own = getattr(known, "__metadata__", ())
        if own and metadata[: len(own)] == own:
            bounds = _bounds(metadata[len(own) :])
            least, most = bounds.get("ge"), bounds.get("le")
            words = [f" of at least {least} s"] if least else []
            words += [f"{' and' if least else ' of'} at most {most} s"] if most else []
            return (many if several else one) + "".join(words)
    bounds = _bounds(metadata)
    limits = f" from {bounds['ge']} to {bounds['le']}" if len(bounds) == 2 else ""
    return kind(get_args(annotation)[0], several=several) + limits


def _bounds(metadata: tuple[Any, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in metadata:
        for rule in getattr(one, "metadata", ()):
            found |= {name: getattr(rule, name) for name in ("ge", "le") if hasattr(rule, name)}
    return found


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def hints(model: Any) -> dict[str, Any]:
    """The annotations of a model, with what `Annotated` adds."""
    return typing.get_type_hints(model, include_extras=True)


def inner_model(annotation: Any) -> Any:
    """The model that a key's value or entries are made of; None if there is none."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(inner_model, get_args(annotation))), None)


def meanings() -> dict[str, tuple[str, str]]:
    """key -> (default, meaning), from the table of README.md."""
    text = (ROOT / "README.md").read_text()
    table = re.search(r"(?s)<!-- configuration -->\n(.*?)\n<!-- end -->", text)
    assert table
    rows = [line.strip("| ").split(" | ") for line in table[1].splitlines()[2:]]
    return {row[0].strip("` "): (row[1].strip(), row[-1].strip(" |")) for row in rows}


def keys_of_configuration(_: str) -> list[str]:
    """Every section with its keys."""
    lines: list[str] = []
    told = meanings()
    models = hints(FileModel)
    for section in sections(EXAMPLE.read_text()):
        annotations = hints(models[section.name])
        lines += [f".SS {_plain(section.name)}: {_plain(section.title)}"]
        for entry in section.entries:
            lines += _entry(section, entry, annotations, told)
    return lines


def _entry(
    section: Section, entry: Entry, annotations: dict[str, Any], told: dict[str, tuple[str, str]]
) -> list[str]:
    lines = []
    for number, (name, default) in enumerate(entry.keys):
        about = "required" if told[f"{section.name}.{name}"][0] == "required" else ""
        about = about or f"default: {code(default)}"
        lines += [
            ".TQ" if number else ".TP",
            f"\\fB{section.name}.{name}\\fR ({_plain(kind(annotations[name]))}; {about})",
        ]
    for number, paragraph in enumerate(entry.about):
        lines += [*([".IP"] if number else []), *prose(paragraph)]
    if entry.example:
        example = [code(line) for line in yaml_example(section, entry).splitlines()]
        lines += [".IP", '.\\" configuration', ".EX", *example, ".EE"]
    for name, _ in entry.keys:
        lines += _inner(f"{section.name}.{name}[].", inner_model(annotations[name]), told)
    return lines


def _inner(above: str, model: Any, told: dict[str, tuple[str, str]]) -> list[str]:
    if model is None:
        return []
    lines = [".RS"]
    for name, annotation in hints(model).items():
        if name not in model.model_fields:
            continue
        default, meaning = told[above + name]
        shown = code(default.strip("`")) if default.startswith("`") else _plain(default)
        about = shown if default == "required" else f"default: {shown}"
        tag = f"\\fB{code(above + name)}\\fR ({_plain(kind(annotation))}; {about})"
        lines += [".TP", tag, *prose(meaning)]
    return [*lines, ".RE"]


# --- The pages ------------------------------------------------------------------------------------

_MADE: dict[str, Callable[[str], list[str]]] = {
    "synopsis": synopsis,
    "commands": commands_of,
    "fields": fields_of_search,
    "overview": overview,
    "options": global_options,
    "keys": keys_of_configuration,
}


def renewed(path: Path) -> str:
    """The page with what the program says of itself today."""
    name = path.stem.partition("-")[2]

    def block(found: re.Match[str]) -> str:
        lines = _MADE[found[2]](name)
        return "".join((found[1], *(f"{line}\n" for line in lines), found[4]))

    return _BLOCK.sub(block, path.read_text())


def pages() -> list[Path]:
    """All that are there."""
    return sorted(PAGES.glob("*.[1-8]"))


def missing() -> Iterator[Path]:
    """Pages of groups of commands that nobody has begun."""
    for name in groups():
        path = PAGES / f"carbonseal-{name}.8"
        if not path.exists():
            yield path


def write() -> None:
    """Begin the pages that are missing, and renew all of them."""
    for path in missing():
        name = path.stem.partition("-")[2]
        help_text = (groups()[name].help or "").split("\n\n")[0].rstrip(".")
        about = " ".join([help_text[:1].lower() + help_text[1:]]).replace("-", "\\-")
        path.write_text(_SKELETON.format(name=code(name), upper=code(name.upper()), about=about))
        print(f"{path.relative_to(ROOT)} is new; write what it lacks")
    for path in pages():
        text = renewed(path)
        if text != path.read_text():
            path.write_text(text)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    write()
