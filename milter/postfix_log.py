"""Does the follower find in Postfix's log what Postfix writes there?

Promises: judges by the names that Postfix gives its programs and by `maillog_file`.

Does not: read a log (`follow.doubt` does, while it is followed).
"""

from __future__ import annotations

from collections.abc import Iterator

from carbonseal.milter.config import Configuration
from carbonseal.milter.follow.log_line import Services
from carbonseal.milter.postfix_finding import Finding
from carbonseal.milter.postfix_settings import Settings

_NAME = "syslog_name"


def check(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    """Every finding about the log."""
    section = configuration.file.follow
    followed = Services(section.syslog_name)
    found = {_NAME: settings.value(_NAME)} | {
        one.place: one.overrides[_NAME] for one in settings.services if _NAME in one.overrides
    }
    for place, name in found.items():
        if followed.of(f"{name}/smtpd".encode("utf-8", "replace")) is None:
            yield Finding(
                "log-name",
                place,
                f"its programs log as {name}/..., which the follower passes over, because"
                f" follow.syslog_name is {section.syslog_name}; write the same name in both places",
            )
    path = settings.value("maillog_file").strip()
    if path and path != section.log:
        yield Finding(
            "log-elsewhere",
            "maillog_file",
            f"Postfix logs into {path}, and the follower reads follow.log, which is {section.log};"
            f" set it to {path}, unless something copies the lines there",
        )
