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
from typing import Final, NamedTuple

from carbonseal.keys.keyring import Keyring
from carbonseal.milter.config import Configuration
from carbonseal.milter.decisions import Decisions, Said, decide
from carbonseal.milter.transaction import Transaction
from carbonseal.policies import archive_outage
from carbonseal.policies.address import Address, Path
from carbonseal.policies.archive_outage import Outlook
from carbonseal.policies.envelope import Client, Envelope, Recipient, ReversePath

_REMEMBERED: Final = 1024
_MOST_OCTETS: Final = 4096  # of all texts in one; a usual message has some 400


class _NotRemembered(Exception):
    """What raises is not."""


class _Like(NamedTuple):
    """What policies look at of a message: that of two is equal, or they are two kinds."""

    address: str
    is_portless: bool  # all that is asked of the port, see `origin`
    name: str
    helo: str
    listener: str
    login: str
    login_method: str
    path: Path
    resolved: str | None
    recipient: Recipient
    from_values: tuple[bytes, ...]
    names: tuple[str, ...]


_Decided = Callable[[_Like], Decisions]
_new: Final = tuple.__new__  # without the function that a named tuple has for it


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
        is_usual = len(recipients) == 1 and outlook is archive_outage.WELL
        if is_usual and not self._is_comparing:
            ring, decided = self._known
            if ring() is not keyring:
                decided = self._begin(keyring)
            client = transaction.client
            path, resolved, _ = transaction.reverse_path
            try:
                return decided(
                    _new(
                        _Like,
                        (
                            client.address,
                            client.port == 0,
                            client.name,
                            client.helo,
                            transaction.listener,
                            transaction.login,
                            transaction.login_method,
                            path,
                            resolved,
                            recipients[0],
                            tuple(transaction.values_of("from")),
                            transaction.names(),
                        ),
                    )
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
        def decided(like: _Like) -> Decisions:
            address, is_portless, name, helo, listener, login, login_method = like[:7]
            path, resolved, recipient, from_values, names = like[7:]
            to, *routed, esmtp = recipient
            texts = (address, name, helo, listener, login, login_method, path.raw, to.raw, *esmtp)
            given = [one or "" for one in (resolved, *routed)]
            octets = sum(map(len, (*texts, *given, *from_values, *names)))
            keyring = ring()
            if octets > _MOST_OCTETS or keyring is None or not keyring.keys:
                raise _NotRemembered
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


def _unknown(_like: _Like) -> Decisions:
    raise _NotRemembered
