"""For all rooms: the longest files first; property tests that say the same of the same code.

Hypothesis draws the same examples in every run, so that a change is judged by what it changed;
`make test-fresh` draws new ones.  It does not judge the machine's speed.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "house",
    derandomize=not os.environ.get("FRESH"),
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")

# Files that take longest, longest first: begun last, one of them would keep a single worker busy
# when all others have nothing left to do.  (`make test` hands out whole files, in this order.)
_LONGEST = (
    "postfix/test_corpus.py",
    "postfix/test_rotation.py",
    "house/test_doors.py",
    "keys/test_life_crash.py",
    "archive/many/test_galera.py",
    "postfix/test_chaos.py",
    "postfix/test_archive_outage.py",
    "archive/test_writer_on_servers.py",
    "keys/test_thousand_domains.py",
    "wire/test_session_on_the_wire.py",
    "wire/test_worker_on_the_wire.py",
    "postfix/test_trouble.py",
    "keys/test_dns_trouble.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable: within a file, and among all other files, the order stays."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    path = item.path.as_posix()
    ranks = (number for number, name in enumerate(_LONGEST) if path.endswith(f"/tests/{name}"))
    return next(ranks, len(_LONGEST))
