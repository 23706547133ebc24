"""Find the key files that a path with a variable for the domain stands for.

Promises: lists what is there, without following links to directories and without looking at more
than `MAX_NAMES` names; what stands for the variable is a domain name.

Raises: `errors.DataError` if a directory cannot be listed or holds more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from carbonseal.keys.takeover import lines
from carbonseal.policies import domains, errors

MAX_NAMES: Final = 100_000


def domains_at(template: str, variable: str) -> Iterator[tuple[str, Path]]:
    """Each domain for which the absolute path `template` leads to a file, with that file, sorted.

    For example `/keys/$domain.mail.key` with the variable `$domain`.
    """
    before, mark, after = template.partition(variable)
    folder, _, prefix = before.rpartition("/")
    suffix, slash, below = after.partition("/")
    if not mark or not folder:
        return
    shape = re.compile(re.escape(prefix) + r"(.{1,255})" + re.escape(suffix) + r"\Z", re.DOTALL)
    for name in _names(Path(folder)):
        fits = shape.match(name)
        domain = _domain(fits[1]) if fits else None
        if fits is None or domain is None:
            continue
        path = Path(folder, name + slash + below.replace(variable, fits[1]))
        if path.is_file():
            yield domain, path


def _names(folder: Path) -> list[str]:
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > MAX_NAMES:
                    raise lines.unusable(folder, "it holds too many files; divide it")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "no file name"
        raise lines.unusable(
            folder, f"it cannot be listed ({reason}); run the command as root"
        ) from None
    return sorted(names)


def _domain(text: str) -> str | None:
    try:
        domain = domains.normalize(text)
    except errors.DataError:
        return None
    return domain if "." in domain and not domain.startswith("[") else None
