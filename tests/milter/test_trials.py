"""A copy counts as sent only where the message was accepted with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.carbonseal import ARCHIVE
from support.sealing import services

from carbonseal.milter import seal
from carbonseal.milter.archive.spool import SpoolUnwritable, taken
from carbonseal.milter.seal import NoOutages
from carbonseal.milter.transaction import Connection, Transaction
from carbonseal.policies.envelope import Client


class Noted(NoOutages):
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.copies: list[str] = []

    def sent(self, copies: tuple[str, ...], now: float) -> None:
        self.copies += copies


@pytest.mark.parametrize(
    ("fault", "failure", "sent"),
    [
        pytest.param(None, "tempfail", [ARCHIVE], id="accepted"),
        pytest.param(SpoolUnwritable("full"), "tempfail", [], id="refused-for-want-of-a-record"),
        pytest.param(SpoolUnwritable("full"), "accept", [ARCHIVE], id="accepted-without-a-record"),
    ],
)
def test_a_copy_is_a_trial_only_where_it_is_sent(
    tmp_path: Path, fault: SpoolUnwritable | None, failure: str, sent: list[str]
) -> None:
    """Else the next one would wait its time, and a mailbox that is well again be found later."""
    outages = Noted()
    given = services(tmp_path, {"failure": {"record_not_writable": failure}}, outages=outages)
    transaction = Transaction(
        Connection(
            Client("198.51.100.7", 25_000, "mx.example.net", "mx.example.net"), "smtpd", "mx1"
        ),
        (b"<a@example.net>",),
        resolved=None,
        body_canonicalization="relaxed",
    )
    transaction.add_recipient((b"<b@example.com>",), resolved=None, mailer=None, host=None)

    def put(line: bytes) -> None:
        if fault is not None:
            raise fault

    taken(seal.seal(transaction, given, 1_800_000_000.0, prepared=str), put)
    assert outages.copies == sent
