"""Conditions as SQL: which index finds them, and how another index is asked about a candidate.

Promises: `compiler` turns a condition into a tree of leaves; each leaf is one index (or one column,
which cannot lead).  `leads` names the leaves whose walks together meet every record wanted;
`predicate` is the rest, asked of each candidate by primary key.  What SQL cannot decide exactly
(the order of words, fields that are not indexed, how a message stands now) is a `Check`:
`predicate` lets its candidates pass, and `walk` decides.  Everything a person typed is a bound
parameter.

Does not: run the searches (`walk`), check candidates (`checks`), or know arrays (`postings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    Select,
    and_,
    bindparam,
    column,
    false,
    func,
    not_,
    or_,
    select,
    table,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import BigInteger

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.search import checks

Columns: TypeAlias = Any  # the columns of a table or of its alias
Holds: TypeAlias = Callable[[Columns], ColumnElement[bool]]

_TERMS = column("terms", postgresql.ARRAY(BigInteger()))
# With the arrays that only PostgreSQL has, so that all conditions on a row are asked of one table.
MESSAGE = table("message", *(column(one.name, one.type) for one in schema.message.c), _TERMS)
SECTION = table(
    "header_section",
    *(column(one.name, one.type) for one in schema.header_section.c),
    column("terms", postgresql.ARRAY(BigInteger())),
)
_ONE_ROW = (MESSAGE, SECTION)  # tables with one row per record


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """What one index or column says."""

    table: FromClause | None  # None: the record id itself
    holds: Holds
    rank: int  # the smaller, the rarer it is as a rule
    leads: bool = True  # an index finds its records in order of time
    elements: tuple[int, ...] = ()  # PostgreSQL: of the table's array
    is_range: bool = False  # its index is in order of time for each value only
    is_windowed: bool = False  # the same, but what is asked for can be found piece by piece of time
    index: str = ""  # MariaDB's, which it may take the primary key for; empty: it does not
    crossed: tuple[int, bool] | None = None  # crossing and signed: what meets one meets no other
    clients: tuple[bytes, bytes] | None = None  # PostgreSQL: the first and the last of a network


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """What only the stored header section, or all facts of the mail log, say."""

    is_so: checks.IsSo


@dataclass(frozen=True, slots=True, eq=False)
class Every:
    """Each of them; none at all is true."""

    of: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Some:
    """At least one of them; none at all is false."""

    of: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Negated:
    """Not that."""

    of: Node


Node: TypeAlias = "Leaf | Check | Every | Some | Negated"
TRUE, FALSE = Every(()), Some(())


def simplified(node: Node, known: Leaf | None = None) -> Node:
    """Flat, without constants, with `known` taken as true."""
    if node is known:
        return TRUE
    if known and known.crossed and isinstance(node, Leaf) and node.crossed:
        return TRUE if node.crossed == known.crossed else FALSE
    if isinstance(node, Negated):
        inner = simplified(node.of, known)
        if isinstance(inner, Negated):
            return inner.of
        return FALSE if _is(inner, Every) else TRUE if _is(inner, Some) else Negated(inner)
    if not isinstance(node, (Every, Some)):
        return node
    kind, other = (Every, Some) if isinstance(node, Every) else (Some, Every)
    flat: list[Node] = []
    for one in node.of:
        part = simplified(one, known)
        if _is(part, other):
            return part
        flat += part.of if isinstance(part, kind) else (part,)
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


def is_true(node: Node) -> bool:
    """Whether nothing is demanded."""
    return _is(node, Every)


def _is(node: Node, kind: type[Every] | type[Some]) -> bool:
    return isinstance(node, kind) and not node.of


def leads(node: Node, cost: Callable[[Leaf], int]) -> list[Leaf] | None:
    """Leaves one of which each record meets, cheapest first; None when there are no such."""
    if isinstance(node, Leaf):
        return [node] if node.leads else None
    if isinstance(node, Some):
        found = [leads(one, cost) for one in node.of]
        return None if None in found else [leaf for one in found if one for leaf in one]
    if isinstance(node, Every):
        ways = [way for one in node.of if (way := leads(one, cost)) is not None]
        if len(ways) < 2:
            return ways[0] if ways else None
        return min(ways, key=lambda way: sum(map(cost, way)))
    return None


def predicate(
    node: Node,
    walked: FromClause,
    source: FromClause,
    within: Holds | None,
    *,
    is_positive: bool = True,
) -> ColumnElement[bool]:
    """That the candidate in a row of `walked` (an alias of `source`) meets it, or may meet it.

    `within` bounds the look-ups in other tables, where that helps an engine.
    """
    if isinstance(node, Leaf):
        return _asked(node, walked, source, within, is_positive=is_positive)
    if isinstance(node, Check):
        return true() if is_positive else false()
    if isinstance(node, Negated):
        return not_(predicate(node.of, walked, source, within, is_positive=not is_positive))
    parts = [predicate(one, walked, source, within, is_positive=is_positive) for one in node.of]
    return and_(true(), *parts) if isinstance(node, Every) else or_(false(), *parts)


def _asked(
    leaf: Leaf, walked: FromClause, source: FromClause, within: Holds | None, *, is_positive: bool
) -> ColumnElement[bool]:
    if leaf.table is None:
        return leaf.holds(walked.c)
    if leaf.table is source and source in _ONE_ROW:
        holds = leaf.holds(walked.c)
        return holds if is_positive else func.coalesce(holds, false(), type_=Boolean())
    other = leaf.table.alias()
    query: Select[Any] = select(1).select_from(other)
    query = query.where(other.c.record_id == walked.c.record_id, leaf.holds(other.c))
    return (query if within is None else query.where(within(other.c))).exists()


def sql_leaves(node: Node) -> Iterator[Leaf]:
    """Every leaf."""
    if isinstance(node, Leaf):
        yield node
    elif isinstance(node, Negated):
        yield from sql_leaves(node.of)
    elif not isinstance(node, Check):
        for one in node.of:
            yield from sql_leaves(one)


def has_checks(node: Node) -> bool:
    """Whether stored text must be looked at."""
    if isinstance(node, Negated):
        return has_checks(node.of)
    if isinstance(node, (Every, Some)):
        return any(has_checks(one) for one in node.of)
    return isinstance(node, Check)


def unchecked(node: Node) -> Node:
    """The part that `predicate` leaves open; TRUE where it decides everything."""
    if isinstance(node, Every):
        return simplified(Every(tuple(one for one in node.of if has_checks(one))))
    return node if has_checks(node) else TRUE


def is_met(node: Node, truth: Mapping[Leaf, bool], one: checks.Candidate) -> bool:
    """Whether a candidate meets it; `truth` is what SQL said of each leaf."""
    if isinstance(node, Leaf):
        return truth[node]
    if isinstance(node, Check):
        return node.is_so(one)
    if isinstance(node, Negated):
        return not is_met(node.of, truth, one)
    some = (is_met(part, truth, one) for part in node.of)
    return all(some) if isinstance(node, Every) else any(some)


def of_array(source: FromClause, elements: Sequence[int], rank: int) -> Leaf:
    """Any of these elements of the array of a table."""
    found = tuple(elements)
    return Leaf(source, lambda c: c.terms.overlap(list(found)), rank, elements=found)


def of_named_clients(first: str, last: str) -> Leaf:
    """A network whose first and last client are given as parameters of those names."""
    kind = MESSAGE.c.client_address.type
    ends = bindparam(first, type_=kind), bindparam(last, type_=kind)
    return Leaf(MESSAGE, lambda c: c.client_address.between(*ends), 0, is_windowed=True)


def of_named_array(source: FromClause, name: str) -> Leaf:
    """Any of the elements that are given as a parameter of that name."""
    return Leaf(
        source, lambda c: c.terms.overlap(bindparam(name, type_=_TERMS.type)), 0, elements=(0,)
    )
