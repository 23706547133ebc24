"""What one message may take of memory, and what is counted of its header section."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter import transaction as transactions
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


@given(
    names=st.lists(
        st.one_of(
            st.sampled_from(["From", "FROM", "to", "", "X\nY", "\u0130", "x" * 600]),
            st.text(max_size=5),
        ),
        max_size=6,
    )
)
def test_names_are_those_of_the_fields_whatever_is_remembered(names: list[str]) -> None:
    """Line ends inside a name, and sections too long to be remembered, are no exception."""
    transaction = empty()
    for number, name in enumerate(names):
        transaction.add_field(name, b"%d" % number)
    assert transaction.names() == tuple(name.lower() for name in names)
    values = [b"%d" % number for number, name in enumerate(names) if name.lower() == "from"]
    assert transaction.values_of("from") == values


def test_nobody_fills_the_memory_with_long_arguments() -> None:
    """What is longer than any address, or has parameters of its own, is read anew each time."""
    held = [cache.cache_info().currsize for cache in (transactions._path, transactions._recipient)]
    for number in range(3):
        long = b"<%d%s@example.com>" % (number, b"x" * 300)
        transaction = Transaction(
            client=Client("", 0, "", ""),
            listener="",
            relay="",
            arguments=(long,),
            resolved=None,
            body_canonicalization="relaxed",
        )
        for arguments in ((long,), (b"<a@example.com>", b"ORCPT=rfc822;%d" % number)):
            transaction.add_recipient(arguments, resolved=None, mailer=None, host=None)
        assert transaction.reverse_path.path.raw == long.decode()
        assert [one.path.raw for one in transaction.recipients] == [
            long.decode(),
            "<a@example.com>",
        ]
        assert transaction.recipients[1].esmtp == (f"ORCPT=rfc822;{number}",)
    now = [cache.cache_info().currsize for cache in (transactions._path, transactions._recipient)]
    assert now == held
