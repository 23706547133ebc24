"""The follower's two files about archive copies, in `<spool>/state/`.

    copies.json   how each mailbox fares, whether others get its copies: small, read by the workers
                  and by `status`; written when something changes and every few seconds
    copy-list.json   the copies that wait or are lost, by queue id and Message-ID: the newest 2,000
                  of each; written when they change

What is older is known until the follower ends, no longer.  After that, such a copy that waits is in
no count until it is tried again, and nobody is told if it is deleted or expires untried; of the
lost ones only the count goes on.

Promises: durable, replaced in one step, and read with suspicion: what makes no sense is as good as
not said.

Raises: OSError from `write_standings` and `write_lists`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from carbonseal.keys import durable
from carbonseal.milter.status import state_files
from carbonseal.policies.archive_outage import Standing

NAME: Final = "copies"
LISTS: Final = "copy-list"
OK: Final = "ok"
FAILING: Final = "failing"
MOST: Final = 2_000  # copies in a list
_TIMES: Final = ("since", "failed_at", "tried_at", "delivered_at", "incident")
_COUNTS: Final = ("failures", "lost")
_FLAGS: Final = ("is_diverted", "was_diverted")
_TEXTS: Final = ("reply", "next_hop")


def path(spool: Path, name: str = NAME) -> Path:
    """Where a file is."""
    return spool / state_files.FOLDER / f"{name}.json"


def spoken(standing: Standing) -> dict[str, Any]:
    """A standing as the file says it."""
    state = FAILING if standing.is_failing else OK
    return {"state": state, **dataclasses.asdict(standing)}


def standing(told: Any) -> Standing:
    """The standing that the file says; a good one where it says nothing that makes sense."""
    if not isinstance(told, dict):
        return Standing()
    found: dict[str, Any] = {}
    for name in _TIMES:
        if _is_number(told.get(name)):
            found[name] = float(told[name])
    for name in _COUNTS:
        if type(told.get(name)) is int and told[name] >= 0:
            found[name] = told[name]
    found |= {name: told.get(name) is True for name in _FLAGS}
    found |= {name: told[name] for name in _TEXTS if isinstance(told.get(name), str)}
    return Standing(**found)


def standings(about: Mapping[str, Any]) -> dict[str, Standing]:
    """Of every mailbox that a file knows."""
    recipients = about.get("recipients")
    if not isinstance(recipients, dict):
        return {}
    return {mailbox: standing(told) for mailbox, told in recipients.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read(spool: Path, name: str = NAME) -> dict[str, Any]:
    """What a file says; empty where it says nothing."""
    return state_files.read(spool, name) or {}


def write(spool: Path, name: str, content: Mapping[str, Any]) -> None:
    """Replace a file.  Raises: OSError."""
    target = path(spool, name)
    state_files.make_folder(target.parent)
    data = json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"
    durable.replace(target, data, durable.Access(0o640))


def newest(copies: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """The last of them, as a file lists them."""
    first = max(0, len(copies) - MOST)
    return [dataclasses.asdict(one) for one in itertools.islice(copies.values(), first, None)]
