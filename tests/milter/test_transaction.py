"""What one message may take of memory, and what is counted of its header section."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.milter import transaction as transactions
from carbonseal.milter.header_section import MAX_FIELDS, MAX_HEADER_OCTETS
from carbonseal.milter.transaction import Connection, TooManyRecipients, Transaction
from carbonseal.policies import boundary, origin
from carbonseal.policies.domains import DomainSet
from carbonseal.policies.envelope import RECURRING, Client


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
    assert transaction.header.is_oversized
    assert len(transaction.fields) <= MAX_FIELDS
    assert transaction.header.size <= MAX_HEADER_OCTETS + 70_000


@pytest.mark.parametrize(
    ("arguments", "resolved"),
    [
        pytest.param((b"<a@x>",), None, id="many"),
        pytest.param((b"<a@x>", b"y" * 60_000), None, id="many-octets"),
        pytest.param((b"<a@x>", *[b""] * 300), None, id="many-parameters"),
        pytest.param((b"<a@x>",), "y" * 30_000, id="long-macros"),
    ],
)
def test_recipients_without_end_fill_no_memory(
    arguments: tuple[bytes, ...], resolved: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that is not kept is a fault of the message, and no other is: each is logged."""
    monkeypatch.setattr(transactions, "MAX_RECIPIENTS", 5_000)
    monkeypatch.setattr(transactions, "MAX_RECIPIENT_OCTETS", 1_000_000)

    def add(transaction: Transaction, times: int = 1) -> None:
        for _ in range(times):
            transaction.add_recipient(arguments, resolved=resolved, mailer=None, host=None)

    transaction = empty()
    with pytest.raises(TooManyRecipients):
        add(transaction, 5_001)
    kept = len(transaction.recipients)
    add(transaction)
    transaction.add_recipient((b"<a@x>",), resolved=None, mailer=None, host=None)
    assert len(transaction.recipients) == kept
    assert kept * (sum(map(len, arguments)) + len(resolved or "")) <= 1_000_000
    assert kept * len(arguments) <= 20_000
    add(empty())


def test_the_bound_is_beyond_what_any_mta_hands_over() -> None:
    """Every one of so many is kept, with both parameters that Postfix passes on."""
    transaction = empty()
    address = b"<%s@%s>" % (b"local-part" * 5, b"example." * 4)
    arguments = (address, b"NOTIFY=SUCCESS,FAILURE,DELAY")
    for _ in range(50_000):
        transaction.add_recipient(
            arguments, resolved=address.decode(), mailer="smtp", host="mx.example.org"
        )
    assert len(transaction.recipients) == 50_000


def empty() -> Transaction:
    return Transaction(
        Connection(Client("", 0, "", ""), "", ""),
        (b"<a@example.com>",),
        resolved=None,
        body_canonicalization="relaxed",
    )


def test_the_size_of_the_header_section_is_that_on_the_wire() -> None:
    """Folding shows as LF in the milter protocol and is CRLF on the wire."""
    transaction = empty()
    transaction.add_field("Subject", b" one\n two")
    transaction.add_field("To", b" x@y")
    assert transaction.header.size == len(b"Subject: one\r\n two\r\nTo: x@y\r\n")


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
            Connection(Client("", 0, "", ""), "", ""),
            (long,),
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


OURS = origin.Ours(domains=DomainSet(["example.com"]))


def message_to(*arguments: bytes) -> Transaction:
    transaction = empty()
    for argument in arguments:
        macro = argument.strip(b"<>").decode()
        transaction.add_recipient((argument,), resolved=macro, mailer="smtp", host="example.org")
    return transaction


def ends(transaction: Transaction) -> tuple[boundary.End, ...]:
    envelope = transaction.envelope()
    return boundary.classify(envelope, OURS, origin.prove(envelope, OURS)).recipients


def test_a_mailing_drives_out_nobody_who_is_remembered() -> None:
    """Those who recur are the very same values after a message to thousands of others."""
    friends = [b"<friend%d@example.com>" % number for number in range(100)]
    before = message_to(*friends)
    places = ends(before)
    mailing = message_to(*(b"<reader%d@example.org>" % number for number in range(5_000)))
    assert len({end.text for end in ends(mailing)}) == 5_000
    after = message_to(*friends)
    assert all(one is other for one, other in zip(before.recipients, after.recipients, strict=True))
    assert all(one is other for one, other in zip(places, ends(after), strict=True))


macros = st.none() | st.sampled_from(["", "b@example.org", "B@Example.org", "b@example.com"])
local_parts = st.sampled_from(["b", "B", '"b c"', "b%example.org", "example.org!b", '"b@c"', "b@c"])
sides = st.sampled_from(["example.com", "example.org", "EXAMPLE.com.", "[192.0.2.1]", "bücher.de"])
routes = st.sampled_from(["", "@example.net:"])
paths = st.builds("<{}{}@{}>".format, routes, local_parts, sides).map(str.encode)


@given(
    path=paths
    | st.binary(max_size=20)
    | st.integers(200, 3000).map(lambda size: b"<%0*d>" % (size, 1)),
    parameters=st.lists(st.sampled_from([b"NOTIFY=NEVER", b"ORCPT=rfc822;x", b"\xff"]), max_size=2),
    resolved=macros,
    mailer=st.sampled_from([None, "smtp", "error"]),
)
def test_the_first_of_many_recipients_and_the_last_are_read_and_placed_alike(
    path: bytes, parameters: list[bytes], resolved: str | None, mailer: str | None
) -> None:
    """Remembered or read anew, a recipient is the same in the record and for the crossing."""
    transaction = empty()
    for _ in range(RECURRING + 1):
        transaction.add_recipient(
            (path, *parameters), resolved=resolved, mailer=mailer, host="example.org"
        )
    first, *_, last = transaction.recipients
    assert first == last
    first_end, *_, last_end = ends(transaction)
    assert first_end == last_end
