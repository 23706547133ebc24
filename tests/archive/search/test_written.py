"""Queries written for people: the list of holds can be pasted back into a search."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from carbonseal.milter.archive.search import language, written

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param("participant:@partner.org after:2025-01-01", id="address-and-day"),
        pytest.param("from:a@example.com OR to:b@example.com", id="either"),
        pytest.param("(from:a@example.com OR to:b@example.com) before:2026-01-01", id="period"),
        pytest.param('subject:"annual report" NOT crossing:internal', id="phrase-and-not"),
        pytest.param("NOT (crossing:internal signed:yes) from:a@example.com", id="not-both"),
        pytest.param('sender:"<>" on:2026-05-06', id="null-sender"),
        pytest.param("header.list-id:news.example.org client:2001:db8::/32", id="header-client"),
        pytest.param(r'from:"\"a b\"@example.com"', id="quoted-local-part"),
        pytest.param("", id="everything"),
    ],
)
def test_a_written_query_finds_the_same(typed: str) -> None:
    """Reading it again gives the Search that it was written from."""
    search = language.parse(typed, now=NOW)
    assert language.parse(written.query(search), now=NOW) == search


def test_it_is_what_people_type() -> None:
    """No JSON, no quotes that nobody needs."""
    typed = (
        "participant:@partner.org crossing:outbound after:2025-01-01 before:2025-02-01T10:00:00Z"
    )
    assert written.query(language.parse(typed, now=NOW)) == typed
