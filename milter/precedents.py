"""Decisions about messages that come again: taken once, and remembered until something changes.

The same people write to the same people, from the same clients, with the same kind of letter; what
the policies say of such a message is a third of the interpreter's steps that it takes.

Promises: `decide` answers what `decisions.decide` would, each time.  All that policies look at is
compared (`decisions.Said`); with another keyring nothing is known any more, and no keyring lives
longer for what was decided with it.  What is kept is bounded, whatever strangers write.  Never
remembered: messages to several recipients, what was decided while there was no usable key or copies
went astray, and anything while Postfix's BCC maps are compared.

Raises: what policies raise.

Does not: decide anything itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from carbonseal.keys.keyring import Keyring
from carbonseal.milter.config import Configuration
from carbonseal.milter.decisions import Decisions, Said, decide
from carbonseal.milter.transaction import Transaction
from carbonseal.policies.address import Address, Path
from carbonseal.policies.archive_outage import WELL, Outlook
from carbonseal.policies.envelope import Client, Envelope, Recipient, ReversePath

_REMEMBERED: Final = 1024
_MOST_OCTETS: Final = 4096  # of all texts in one; a usual message has some 400


class _NotRemembered(Exception):
    """What raises is not."""


# Of what is equal in all this, the same is decided: what policies look at of the client and of
# MAIL, whether the client has no port (nothing else is asked of it, see `origin`), the recipient,
# the values of From, and the names of the fields as `HeaderSection.joined_names` gives them.
_Facts = tuple[str, str, str, str, str, str, Path, str | None]
_Decided = Callable[[_Facts, bool, Recipient, tuple[bytes, ...], str | None], Decisions]


class Precedents:
    """Decides about messages; for any number of threads."""

    def __init__(
        self,
        configuration: Configuration,
        archive_addresses: frozenset[Address],
        key_complaint: Callable[[], str | None],
    ) -> None:
        """As `decisions.decide` takes them."""
        self._configuration = configuration
        self._archive_addresses = archive_addresses
        self._key_complaint = key_complaint
        self._is_comparing = configuration.compare is not None
        # The keyring by which it is decided, and what remembers.
        self._known: tuple[Callable[[], Keyring | None], _Decided] = (lambda: None, _unknown)

    def decide(self, transaction: Transaction, keyring: Keyring, outlook: Outlook) -> Decisions:
        """What `decisions.decide` says."""
        recipients = transaction.recipients
        if len(recipients) == 1 and outlook is WELL and not self._is_comparing:
            ring, decided = self._known
            if ring() is not keyring:
                decided = self._begin(keyring)
            client = transaction.client
            path, resolved, _ = transaction.reverse_path
            header = transaction.header
            try:
                return decided(
                    (
                        client.address,
                        client.name,
                        client.helo,
                        transaction.listener,
                        transaction.login,
                        transaction.login_method,
                        path,
                        resolved,
                    ),
                    client.port == 0,
                    recipients[0],
                    tuple(header.values("from")),
                    header.joined_names(),
                )
            except _NotRemembered:
                pass
        return decide(
            Said.by(transaction),
            self._configuration,
            keyring,
            self._archive_addresses,
            key_complaint=self._key_complaint,
            outlook=outlook,
        )

    def _begin(self, keyring: Keyring) -> _Decided:
        """Forget what was decided by another keyring."""
        ring = weakref.ref(keyring)

        @lru_cache(_REMEMBERED)
        def decided(
            facts: _Facts,
            is_portless: bool,
            recipient: Recipient,
            from_values: tuple[bytes, ...],
            joined_names: str | None,
        ) -> Decisions:
            keyring = ring()
            if joined_names is None or keyring is None or not keyring.keys:
                raise _NotRemembered
            address, name, helo, listener, login, login_method, path, resolved = facts
            to, *routed, esmtp = recipient
            texts = (address, name, helo, listener, login, login_method, path.raw, to.raw, *esmtp)
            given = [one or "" for one in (resolved, *routed)]
            if sum(map(len, (*texts, *given, *from_values, joined_names))) > _MOST_OCTETS:
                raise _NotRemembered
            names = tuple(joined_names.split("\n"))
            client = Client(address, 0 if is_portless else 1, name, helo)
            reverse_path = ReversePath(path, resolved, ())
            envelope = Envelope(client, listener, login, login_method, reverse_path, (recipient,))
            return decide(
                Said(envelope, from_values, names),
                self._configuration,
                keyring,
                self._archive_addresses,
                key_complaint=self._key_complaint,
            )

        self._known = (ring, decided)
        return decided


def _unknown(*_facts: object) -> Decisions:
    raise _NotRemembered
