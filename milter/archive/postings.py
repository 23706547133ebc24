"""The terms of a record where the index is an array with GIN (PostgreSQL).

A term is a 64-bit number: the id of what is looked for, mixed with a constant for the kind of
term.  Someone who takes part has one term for all roles held at once, so that a record has few
terms; a condition asks for any of the terms whose roles meet it (at most 31, most of them of no
record, which costs a look-up each; `role_sets` says which of them may have records).

Promises: a record meets a condition of `search` when its terms and those of the condition overlap,
but for two different texts of one hash (`terms.term`, `terms.found_by`).  The numbers are stored:
they never change.

Does not: know SQL.  The other engines have tables for the same (`schema.participant` and so on).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256

from carbonseal.milter.archive import role_sets, schema

_HALF, _WHOLE = 1 << 63, 1 << 64


def _kind(name: str) -> int:
    """The constant of a kind: 64 bits made from its name."""
    return int.from_bytes(sha256(b"carbonseal " + name.encode("ascii")).digest()[:8], "big")


def _kinds(name: str) -> Mapping[int, int]:
    """One constant for each set of roles; those held indirectly are sets of their own."""
    direct = range(1, schema.ANY_ROLE + 1)
    return {
        roles: _kind(f"{name} {roles}")
        for held in direct
        for roles in (held, held << schema.INDIRECT)
    }


_ADDRESS, _DOMAIN = _kinds("address"), _kinds("domain")
_WORD, _LOGIN, _CROSSED = map(_kind, ("word", "login", "crossing and signed"))


def _term(identifier: int, kind: int) -> int:
    """The id mixed with its kind, as a signed number of 64 bits."""
    mixed = (identifier % _WHOLE) ^ kind
    return mixed - _WHOLE if mixed >= _HALF else mixed


def of_message(
    *,
    participants: Mapping[int, int],
    domains: Mapping[int, int],
    login: int | None,
    crossing: int,
    is_signed: bool,
) -> list[int]:
    """Terms of a message: ids of addresses and domains with their roles, and the rest."""
    found = [_crossed(crossing, is_signed)]
    if login is not None:
        found.append(_term(login, _LOGIN))
    for held_by, kinds in ((participants, _ADDRESS), (domains, _DOMAIN)):
        for identifier, roles in held_by.items():
            found += [_term(identifier, kinds[one]) for one in role_sets.divided(roles)]
    return found


def of_header_section(term_ids: Iterable[int]) -> list[int]:
    """Terms of a header section: subject words and values of indexed fields."""
    return [_term(one, _WORD) for one in term_ids]


def with_address(address_id: int, roles: int, possible: Collection[int] | None = None) -> list[int]:
    """Any of these: that address holds one of these roles (those shifted by INDIRECT included).

    `possible`: sets of roles that it may hold at once; None: any.
    """
    return [_term(address_id, kind) for kind in _meeting(_ADDRESS, roles, possible)]


def with_domain(domain_id: int, roles: int, possible: Collection[int] | None = None) -> list[int]:
    """Any of these: somebody of that domain holds one of these roles; `possible`: as above."""
    return [_term(domain_id, kind) for kind in _meeting(_DOMAIN, roles, possible)]


def _meeting(
    kinds: Mapping[int, int], roles: int, possible: Collection[int] | None = None
) -> list[int]:
    sets = kinds if possible is None else possible
    return [kinds[held] for held in sets if held & roles]


def domain_kinds(roles: int) -> list[int]:
    """Constants that, mixed with a domain's id by XOR, give terms of these roles: for counts."""
    return [_term(0, kind) for kind in _meeting(_DOMAIN, roles)]


def with_word(term_id: int) -> list[int]:
    """That subject word, or value of an indexed field."""
    return [_term(term_id, _WORD)]


def with_login(login_hash: int) -> list[int]:
    """That login."""
    return [_term(login_hash, _LOGIN)]


def with_crossed(pairs: Iterable[tuple[int, bool]]) -> list[int]:
    """Any of these: that crossing, by its number, and signed or not."""
    return [_crossed(crossing, is_signed) for crossing, is_signed in pairs]


@functools.cache
def _crossed(crossing: int, is_signed: bool) -> int:
    """One term for both, since each record has both."""
    return _term(2 * crossing + is_signed, _CROSSED)
