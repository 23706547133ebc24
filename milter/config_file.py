"""Reading the configuration file: YAML with the line of every key, and nothing executed.

Promises: `read` gives plain values and remembers on which line each key stands, so that every later
complaint can name its place.  Duplicate keys are an error, because YAML would let the last one win
in silence.  Anchors may be used, but what they unfold to is bounded.

Raises: ConfigurationError, one sentence with file, line and remedy.

Does not: know which keys exist (`config` does).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from carbonseal.milter import named_file
from carbonseal.policies.errors import ConfigurationError

MAX_BYTES = 4 * 1024 * 1024
MAX_VALUES = 200_000  # after aliases were followed: an alias of an alias ... doubles each time
MAX_DEPTH = 20

_PYTHON = "tag:yaml.org,2002:python/"

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The content of one configuration file."""

    path: Path
    content: dict[str, Any]
    lines: dict[KeyPath, int]  # where each key or list item stands, counted from 1

    def place(self, key_path: KeyPath) -> str:
        """`file, line n` for a key, or for the nearest key above it that is written down."""
        while key_path and key_path not in self.lines:
            key_path = key_path[:-1]
        line = self.lines.get(key_path)
        return f"{self.path}, line {line}" if line else str(self.path)


def read(path: Path) -> Document:
    """Read and check the form of `path`."""
    try:
        with named_file.opened(path) as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as fault:
        raise ConfigurationError(
            f"{path}: cannot read the configuration ({fault.strerror}); name another file with "
            f"--config or CARBONSEAL_CONFIG"
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_BYTES} bytes; is it the right file?")
    return parse(path, raw)


def parse(path: Path, raw: bytes) -> Document:
    """The document in `raw`; `path` is used in complaints only."""
    reading = None
    try:
        loader = yaml.SafeLoader(raw)
        root = loader.get_single_node()
        reading = _Reading(loader, path)
        content = None if root is None else reading.value(root, ())
    except yaml.reader.ReaderError as fault:
        raise _unreadable_text(path, raw, fault) from None
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise ConfigurationError(
            f"{path}, line {line}: not YAML ({fault.problem}); {_remedy(str(fault.problem))}"
        ) from None
    except RecursionError:
        raise ConfigurationError(f"{path}: nested too deeply; is it the right file?") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}, line 1: the file must hold sections such as `ours:`")
    return Document(path, content, reading.lines)


def _unreadable_text(path: Path, raw: bytes, fault: yaml.reader.ReaderError) -> ConfigurationError:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as undecodable:
        line = raw.count(b"\n", 0, undecodable.start) + 1
        return ConfigurationError(
            f"{path}, line {line}: not UTF-8 text (octet 0x{raw[undecodable.start]:02x}); save the "
            f"file as UTF-8"
        )
    # The position counts characters, but for a byte order mark.
    line = text.count("\n", 0, fault.position) + 1
    return ConfigurationError(
        f"{path}, line {line}: a control character (U+{fault.character:04X}); take it out, or "
        f"save the file as UTF-8"
    )


def _remedy(problem: str) -> str:
    if "\\t" in problem:
        return "indent with spaces, not with tabs"
    if "another document" in problem:
        return "keep one document, without a second ---"
    if "alias" in problem:
        return "put quotes around text that begins with *"
    return "look at the indentation, colons and quotes there and one line above"


@dataclass(slots=True)
class _Reading:
    """One walk over the nodes of a file."""

    loader: yaml.SafeLoader
    path: Path
    lines: dict[KeyPath, int] = field(default_factory=dict)
    values: int = 0

    def value(self, node: yaml.Node, key_path: KeyPath) -> Any:
        """What `node` stands for; notes the lines on the way."""
        line = node.start_mark.line + 1
        self.lines.setdefault(key_path, line)
        self.values += 1
        if self.values > MAX_VALUES or len(key_path) > MAX_DEPTH:
            raise ConfigurationError(
                f"{self.path}, line {line}: more than {MAX_VALUES} values or {MAX_DEPTH} levels, "
                f"aliases followed; write it without them"
            )
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith(_PYTHON):
            raise ConfigurationError(
                f"{self.path}, line {line}: the YAML tag {node.tag} is not allowed; "
                f"write plain values"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key_path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(one, (*key_path, index)) for index, one in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, key_path: KeyPath) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigurationError(
                    f"{self.path}, line {line}: a list or section stands where a key should; "
                    f"write a name before the colon"
                )
            key = str(self._scalar(key_node))
            if key in mapping:
                raise ConfigurationError(
                    f"{self.path}, line {line}: {'.'.join(map(str, (*key_path, key)))} stands here "
                    f"for the second time; keep one of the two"
                )
            self.lines[(*key_path, key)] = line
            mapping[key] = self.value(value_node, (*key_path, key))
        return mapping

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self.loader.construct_object(node, deep=True)
        except (ArithmeticError, AttributeError, LookupError, ValueError):
            # PyYAML takes 2026-99-99 for a date and `!!bool x` for a boolean, and then fails.
            raise ConfigurationError(
                f"{self.path}, line {node.start_mark.line + 1}: {str(node.value)[:80]!r} is no "
                f"{node.tag.rpartition(':')[2]}; put quotes around it if it is text"
            ) from None
