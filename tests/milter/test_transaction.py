"""What one message may take of memory, and what is counted of its header section."""

from __future__ import annotations

import pytest

from carbonseal.milter.header_section import MAX_FIELDS, MAX_HEADER_OCTETS
from carbonseal.milter.transaction import Transaction
from carbonseal.policies.envelope import Client


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("X", b" y", id="many-fields"),
        pytest.param("X", b"y" * 60_000, id="many-octets"),
    ],
)
def test_a_header_section_without_end_fills_no_memory(name: str, value: bytes) -> None:
    """What goes beyond any letter is not kept, and the message is known to be incomplete."""
    transaction = empty()
    for _ in range(MAX_FIELDS + 10):
        transaction.add_field(name, value)
    assert transaction.is_header_oversized
    assert len(transaction.fields) <= MAX_FIELDS
    assert transaction.header_size <= MAX_HEADER_OCTETS + 70_000


def empty() -> Transaction:
    return Transaction(
        client=Client("", 0, "", ""),
        listener="",
        relay="",
        arguments=(b"<a@example.com>",),
        resolved=None,
        body_canonicalization="relaxed",
    )


def test_the_size_of_the_header_section_is_that_on_the_wire() -> None:
    """Folding shows as LF in the milter protocol and is CRLF on the wire."""
    transaction = empty()
    transaction.add_field("Subject", b" one\n two")
    transaction.add_field("To", b" x@y")
    assert transaction.header_size == len(b"Subject: one\r\n two\r\nTo: x@y\r\n")
