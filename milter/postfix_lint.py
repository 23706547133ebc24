"""`postfix lint`: where Postfix and our own configuration do not fit together.

Promises: reads only; finds by comparing settings, never by sending mail; the worst comes first, and
the same setting is reported once.

Raises: `postfix_settings.SettingsUnreadable`.

Does not: know what runs; it reads the files that the next reload would read.

See also: `postfix_passage` (does mail reach the milter), `postfix_trust`, `postfix_domains`,
`postfix_effects` (what happens afterwards), `postfix_log` (who learns of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from carbonseal.milter import (
    postfix_domains,
    postfix_effects,
    postfix_log,
    postfix_passage,
    postfix_settings,
    postfix_trust,
)
from carbonseal.milter.config import Configuration
from carbonseal.milter.postfix_finding import Finding, Severity

_ORDER = list(Severity)


def lint(directory: Path | None, configuration: Configuration) -> list[Finding]:
    """Every finding; `directory` is Postfix's configuration directory, None its default."""
    settings = postfix_settings.read(directory)
    found = [
        *postfix_passage.check(settings, configuration),
        *postfix_trust.check(settings, configuration),
        *postfix_domains.check(settings, configuration),
        *postfix_effects.check(settings, configuration),
        *postfix_log.check(settings, configuration),
    ]
    return sorted(dict.fromkeys(found), key=lambda one: _ORDER.index(one.severity))


def is_clean(findings: Sequence[Finding]) -> bool:
    """Whether nothing is worse than a hint."""
    return all(one.severity is Severity.HINT for one in findings)
