"""What is wrong with a configuration file, in words for the person who wrote it.

Promises: one sentence for each key, with file, line, key, what to write and what was found; the
nearest name for one that is misspelt.  What may hold a password is not shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from carbonseal.milter import config_file
from carbonseal.milter.config_sections import FileModel

# By the codes of pydantic.
_PLAIN = {
    "bool_type": "write true or false",
    "dict_type": "write names with values below it",
    "float_type": "write a number",
    "greater_than_equal": "write a number from {ge} up",
    "int_type": "write a whole number",
    "less_than_equal": "write a number up to {le}",
    "list_type": "write a list, such as [one, two]",
    "literal_error": "write {expected}",
    "model_type": "write a section, with its keys below it",
    "path_type": "write a path",
    "string_type": "write text, in quotes if it looks like a number",
    "too_short": "write at least {min_length} of them",
}
_PATTERNS = {
    "socket_mode": "write an octal mode in quotes, such as '0660'",
    "canonicalization": "write relaxed/relaxed, relaxed/simple, simple/relaxed or simple/simple",
    "provider": "write the name of a provider in small letters, such as route53",
    "url": "write an address that begins with http:// or https://",
}


def sentences(
    document: config_file.Document, errors: list[Any], written: set[Any]
) -> Iterator[str]:
    """One for each key; where a value may be of several kinds, pydantic complains of each."""
    by_key: dict[tuple[Any, ...], list[Any]] = {}
    for error in errors:
        # pydantic names the branches of a union in the location; the operator never wrote those.
        key_path = tuple(part for part in error["loc"] if part in written)
        by_key.setdefault(
            (key_path, error["loc"] if error["type"] == "missing" else ()), []
        ).append(error)
    for (key_path, _), about in by_key.items():
        # Whoever wrote a list, one of whose entries is wrong, did not mean the word in its place.
        is_list = isinstance(about[0]["input"], list) and about[0]["type"] == "literal_error"
        if not (is_list and any(other[:-1] == key_path for other, _ in by_key)):
            yield _sentence(document, key_path, about)


def _sentence(document: config_file.Document, key_path: tuple[Any, ...], about: list[Any]) -> str:
    error = about[0]
    dotted = ".".join(map(str, key_path)) or "the file"
    place = document.place(key_path)
    if error["type"] == "extra_forbidden":
        known = _known_names(key_path[:-1])
        near = difflib.get_close_matches(str(key_path[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{place}: {dotted} is not a key; {hint}"
    if error["type"] == "missing":
        return f"{place}: {'.'.join(map(str, error['loc']))} is missing; it has no default"
    words = " or ".join(dict.fromkeys(_in_words(one, key_path) for one in about))
    words = words.replace(" or write ", " or ")
    # Of what contradicts itself within a section the words say which part is meant.
    is_whole = error["type"] == "value_error" and isinstance(error["input"], dict | list)
    is_shown = dotted != "record.database" and not is_whole
    found = f" (found {_found(error['input'])})" if is_shown else ""
    return f"{place}: {dotted}: {words}{found}"


def _in_words(error: Any, key_path: tuple[Any, ...]) -> str:
    pattern = _PATTERNS.get(str(key_path[-1])) if key_path else None
    if error["type"] == "string_pattern_mismatch":
        return pattern or "write the name of a header field, without a colon"
    if error["type"] == "string_type" and pattern:
        return pattern  # an octal mode without quotes is another number
    words = _PLAIN.get(error["type"])
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return words.format(**error.get("ctx", {}))


def _found(value: Any) -> str:
    """What was written, in YAML's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return f"{value!r:.80}" if isinstance(value, str) else f"{value!s:.80}"


def _known_names(key_path: tuple[Any, ...]) -> list[str]:
    model: Any = FileModel
    is_named = False  # the next part is a name that the operator chose
    for part in key_path:
        if isinstance(part, int) or is_named:
            is_named = False
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        models = [one for one in candidates if hasattr(one, "model_fields")]
        if not models:
            return []
        model = models[0]
        is_named = getattr(annotation, "__origin__", None) is dict
    return list(model.model_fields)
