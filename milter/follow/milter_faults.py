"""When Postfix complained that it could not reach a milter: spans that its log names.

With `milter_default_action = accept` such mail goes on without a record, and nothing else tells
why.  The spans stand in the follower's state (`milter_faults`): what was seen in the last seconds
before a kill -9 is lost, and so are all but the newest spans.

Does not: say which milter is ours; a relay has few, and each of them missing is worth knowing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

START: Final = "warning: "
_FAULT = re.compile(
    r"warning: (?:(?:[0-9A-Za-z]{6,32}: )?milter |connect to Milter service )([^\s,]{1,200}): (.*)",
    re.ASCII | re.DOTALL,
)
_SERVICES = frozenset(("smtpd", "cleanup", "qmqpd"))
_TOGETHER = 60.0  # seconds between complaints of one span
_MOST = 200  # spans that are kept
_LONGEST = 200  # characters of a complaint


@dataclass(slots=True)
class MilterFaults:
    """The spans, the oldest first."""

    _spans: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> MilterFaults:
        """As a state says it."""
        told = state.get("milter_faults")
        spans = [dict(one) for one in told if _is_span(one)] if isinstance(told, list) else []
        return cls(spans)

    def take(self, at: str, service: str, text: str) -> None:
        """One warning of Postfix, whatever it is about."""
        if service.rpartition("/")[2] not in _SERVICES:
            return
        found = _FAULT.match(text)
        if found is None:
            return
        last = self._spans[-1] if self._spans else None
        if last is not None and _seconds(last["until"], at) <= _TOGETHER:
            last["until"] = max(at, last["until"])
            last["count"] += 1
            return
        self._spans.append(
            {
                "since": at,
                "until": at,
                "count": 1,
                "milter": found[1],
                "says": found[2][:_LONGEST],
            }
        )
        del self._spans[:-_MOST]

    def told(self) -> list[dict[str, Any]]:
        """For the state."""
        return self._spans


def _seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _is_span(one: Any) -> bool:
    if not isinstance(one, dict) or type(one.get("count")) is not int:
        return False
    try:
        return all(datetime.fromisoformat(one[name]).tzinfo for name in ("since", "until"))
    except (KeyError, TypeError, ValueError):
        return False
