"""Reading the configuration file: YAML with the line of every key, and nothing executed.

Promises: `read` gives plain values and remembers on which line each key stands, so that every later
complaint can name its place.  Duplicate keys are an error, because YAML would let the last one win
in silence.

Raises: ConfigurationError, one sentence with file, line and remedy.

Does not: know which keys exist (`config` does).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from carbonseal.policies.errors import ConfigurationError

MAX_BYTES = 4 * 1024 * 1024

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
        with open(path, "rb") as stream:
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
    lines: dict[KeyPath, int] = {}
    try:
        loader = yaml.SafeLoader(raw)
        root = loader.get_single_node()
        content = None if root is None else _value(loader, root, (), lines, path)
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise ConfigurationError(f"{path}, line {line}: not YAML ({fault.problem})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as fault:
        raise ConfigurationError(f"{path}: not YAML ({fault})") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}, line 1: the file must hold sections such as `ours:`")
    return Document(path, content, lines)


def _value(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    key_path: KeyPath,
    lines: dict[KeyPath, int],
    path: Path,
) -> Any:
    lines.setdefault(key_path, node.start_mark.line + 1)
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith(_PYTHON):
        raise ConfigurationError(
            f"{path}, line {node.start_mark.line + 1}: the YAML tag {node.tag} is not allowed; "
            f"write plain values"
        )
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))  # type: ignore[no-untyped-call]
            line = key_node.start_mark.line + 1
            if key in mapping:
                raise ConfigurationError(
                    f"{path}, line {line}: {'.'.join(map(str, (*key_path, key)))} stands here "
                    f"for the second time; keep one of the two"
                )
            lines[(*key_path, key)] = line
            mapping[key] = _value(loader, value_node, (*key_path, key), lines, path)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(loader, item, (*key_path, index), lines, path)
            for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
