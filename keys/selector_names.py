"""How new selectors are named: a template, and the names made of it.

Promises: a name is unique under the SDID, as far as the caller knows those that are taken.  The
clock is passed in.

Raises: `errors.UsageError` for a template that makes no sense.

Does not: make keys (`generate`) or load what would.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Final

from carbonseal.policies import errors, signing_request

SELECTOR_TEMPLATE: Final = "s{date}{letter}"
_TRIES = 1000
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def choose_selector(
    template: str, algorithm: str, at: datetime, is_taken: Callable[[str], bool]
) -> str:
    """A selector that was never used, made from {date}, {letter} (r or e) and {random}.

    A taken name gets a number, from 2 on.
    """
    letter = "e" if algorithm == signing_request.ED25519 else "r"
    parts = {"date": at.strftime("%Y%m%d"), "letter": letter}
    for attempt in range(1, _TRIES):
        name = _fill(template, parts) + (str(attempt) if attempt > 1 else "")
        if not is_taken(name):
            return name
    raise errors.UsageError(
        f"no free selector was found with the template {template!r}; give one with --selector."
    )


def check_template(template: str) -> str:
    """The template itself if selectors can be made of it, else `errors.CarbonsealError`."""
    example = _fill(template, {"date": "20261121", "letter": "r"}).lower()
    signing_request.check_selector(example, "example.com")
    return template


def _fill(template: str, parts: dict[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1] == "random":
            return secrets.token_hex(4)
        if match[1] in parts:
            return parts[match[1]]
        raise errors.UsageError(
            f"{match[0]} in the selector template {template!r} is unknown;"
            " use {date}, {letter} or {random}."
        )

    return _PLACEHOLDER.sub(one, template)
