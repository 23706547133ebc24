"""For all rooms: the longest files first; Hypothesis does not judge the machine's speed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no defect of ours.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
