"""Queries as people type them: `from:alice@example.com to:@partner.org after:2026-01-01 report`.

Promises: the syntax is Lucene's (luqum reads it): `field:value`, `field:(a OR b)`, `"..."`, AND,
OR, XX
Raises: DataError.

Does not: search, or read a clock: `now` is what "7d" is counted from.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

from luqum import tree
from luqum.exceptions import ParseError
from luqum.thread import parse as luqum_parse

from carbonseal.milter.archive.search import fields, period
from carbonseal.milter.archive.search import wanted as wanted_
from carbonseal.milter.archive.search.wanted import All, Condition, Either, Is, Not, Search
from carbonseal.policies.errors import DataError

MAX_LENGTH = 40_000  # characters
_MARK = "\ue000"  # private: stands in for a value that luqum would take apart
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"?|[()]|[^\s()"]+', re.DOTALL)
# A value that ends where white space or a parenthesis does; the prefix may exclude or demand it.
_FIELD_VALUE = re.compile(r"([-+!]?)([A-Za-z][A-Za-z0-9.-]*|header\.[!-9;-~]+):([^\s()\"]+)")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ue000]")
_LOWER_OPERATORS = frozenset(("and", "or", "not"))
_SIGNS = frozenset(("&&", "||", "&", "|", "!"))


def parse(text: str, *, now: datetime) -> Search:
    """The Search that `text` asks for.  Raises: DataError."""
    return period_apart(Search(where=condition(text, now=now)))


def condition(text: str, *, now: datetime) -> Condition | None:
    """What `text` demands; None when it says nothing.  Raises: DataError."""
    if not text.strip():
        return None
    if len(text) > MAX_LENGTH:
        raise DataError(f"the query has more than {MAX_LENGTH} characters; make several of it")
    if found := _CONTROL.search(text):
        raise DataError(
            f"the query holds the control character U+{ord(found[0]):04X}; leave it out"
        )
    prepared, values = _prepared(text)
    try:
        parsed = luqum_parse(prepared)
    except ParseError:
        raise DataError(f"the query {_shown(text)} cannot be read; {_remedy(text)}") from None
    return _Reader(values, now).read(parsed, None)


def period_apart(wanted: Search) -> Search:
    """The same, with after: and before: that all records must meet as its period."""
    rest: list[Condition] = []
    first, last = wanted.since, wanted.until
    parts = wanted.where.of if isinstance(wanted.where, All) else (wanted.where,)
    for one in parts:
        if isinstance(one, Is) and one.field in ("after", "before"):
            moment = datetime.fromisoformat(one.value)
            if one.field == "after":
                first = moment if first is None else max(first, moment)
            else:
                last = moment if last is None else min(last, moment)
        elif one is not None:
            rest.append(one)
    return replace(wanted, where=wanted_.both(*rest), since=first, until=last)


def _prepared(text: str) -> tuple[str, list[str]]:
    """The text with simple values taken out, and those values; bounded before it is parsed."""
    pieces, depth = [], 0
    values: list[str] = []
    for found in _PIECE.finditer(text):
        piece = found[0]
        if piece in "()":
            depth += 1 if piece == "(" else -1
            if depth > wanted_.DEPTH:
                raise DataError(
                    f"the query has parentheses {depth} deep; {wanted_.DEPTH} are the most"
                )
        elif piece.startswith('"') and (len(piece) < 2 or not piece.endswith('"')):
            raise DataError(f"the query {_shown(text)} opens a quote that is not closed; close it")
        pieces.append(found)
        if len(pieces) > 6 * wanted_.MOST:
            raise _too_many()
    if depth:
        raise DataError(f"the query {_shown(text)} has a parenthesis without its other half")
    return _values_out(text, values), values


def _values_out(text: str, values: list[str]) -> str:
    """`client:2001:db8::/32` and `message-id:<a@b>` are no Lucene, and people type them."""

    def take(found: re.Match[str]) -> str:
        prefix, name, value = found.groups()
        # [1M TO 5M] is left to luqum; a literal like [192.0.2.1] is a value.
        if value[0] in "[{" and not value.endswith(("]", "}")):
            return found[0]
        values.append(value)
        return f"{prefix}{name}:{_MARK}{len(values) - 1}"

    pieces = []
    end = 0
    for quoted in re.finditer(r'"(?:[^"\\]|\\.)*"', text, re.DOTALL):
        pieces += [_FIELD_VALUE.sub(take, text[end : quoted.start()]), quoted[0]]
        end = quoted.end()
    return "".join([*pieces, _FIELD_VALUE.sub(take, text[end:])])


class _Reader:
    """luqum's tree into conditions."""

    def __init__(self, values: list[str], now: datetime) -> None:
        self._values = values
        self._now = now
        self._count = 0
        self._depth = 0

    def read(self, node: tree.Item, field: str | None) -> Condition:
        """The condition that `node` is; `field` is that of the group it stands in."""
        self._depth += 1
        if self._depth > 4 * wanted_.DEPTH:  # a parenthesis in a field's group is three of these
            raise DataError(
                "the query has conditions inside conditions inside conditions; too deep"
            )
        try:
            return self._read(node, field)
        finally:
            self._depth -= 1

    def _read(self, node: tree.Item, field: str | None) -> Condition:
        if isinstance(node, tree.SearchField):
            if field is not None:
                raise DataError(f"{field}: and {node.name}: stand inside each other; separate them")
            return self.read(node.expr, fields.name_of(node.name) if node.name != "on" else "on")
        if isinstance(node, (tree.Group, tree.FieldGroup)):
            return self.read(node.expr, field)
        if isinstance(node, (tree.Not, tree.Prohibit)):
            inner = self.read(node.a, field)
            return inner.of if isinstance(inner, Not) else Not(inner)
        if isinstance(node, tree.Plus):
            return self.read(node.a, field)
        if isinstance(node, tree.BaseOperation):
            return self._operation(node, field)
        return self._value(node, field)

    def _operation(self, node: tree.BaseOperation, field: str | None) -> Condition:
        children = node.children
        if isinstance(node, tree.UnknownOperation) and any(
            isinstance(one, tree.BaseOperation) for one in children
        ):
            raise DataError(
                "the query mixes AND or OR with conditions side by side; write AND between all "
                "conditions, or parentheses around what belongs together"
            )
        of = tuple(dict.fromkeys(self.read(one, field) for one in children))
        if len(of) == 1:
            return of[0]
        if isinstance(node, tree.OrOperation):
            return Either(of)
        found = wanted_.both(*of)
        assert found is not None
        return found

    def _value(self, node: tree.Item, field: str | None) -> Condition:
        self._count += 1
        if self._count > wanted_.MOST:
            raise _too_many()
        if isinstance(node, tree.Range):
            return self._range(node, field)
        if isinstance(node, (tree.From, tree.To)):
            sign = (">" if isinstance(node, tree.From) else "<") + ("=" if node.include else "")
            return self._is(field, sign + str(node.a).strip(), is_quoted=False)
        if isinstance(node, tree.Phrase):
            return self._is(field, _unescaped(str(node.value)[1:-1]), is_quoted=True)
        if isinstance(node, tree.Word):
            return self._word(str(node.value), field)
        raise DataError(
            f"{str(node).strip()[:80]!r} asks for what is alike (~), weighted (^) or a pattern "
            "(/.../), and nothing is found by likeness here; write words, or quote it"
        )

    def _word(self, text: str, field: str | None) -> Condition:
        if text.startswith(_MARK):
            text = self._values[int(text[1:])]
        else:
            text = _unescaped(text)
            if text.lower() in _LOWER_OPERATORS and text.islower():
                raise DataError(
                    f"write {text.upper()} in capitals to combine conditions, "
                    f'or "{text}" in quotes for the word'
                )
            if text in _SIGNS or text.startswith("!"):
                raise DataError(f"{text[:80]!r} is not known; write AND, OR or NOT")
        return self._is(field, text, is_quoted=False)

    def _is(self, field: str | None, text: str, *, is_quoted: bool) -> Condition:
        if field is None:
            field = "participant" if "@" in text and not is_quoted else "subject"
        if not is_quoted:
            _check_wildcards(field, text)
        if field == "on":
            first, last = period.period("on:", text, self._now)
            return All((self._moment("after", first), self._moment("before", last)))
        if field in ("after", "before"):
            return self._moment(field, period.moment(field, text, self._now))
        return Is(field, fields.typed(field, text))

    def _moment(self, field: str, moment: datetime) -> Is:
        return Is(field, fields.moment_text(moment))

    def _range(self, node: tree.Range, field: str | None) -> Condition:
        first, last = (self._plain(one) for one in (node.low, node.high))
        if field == "size" and "*" not in (first, last):
            return Is("size", fields.typed("size", f"{first}..{last}"))
        if field in ("after", "before", "on"):
            since = period.moment("on", first, self._now)
            until = period.period("on:", last, self._now)[1]
            if since >= until:
                raise DataError(f"{str(node)[:80]!r} ends before it begins; exchange them")
            return All((self._moment("after", since), self._moment("before", until)))
        raise DataError(
            f"a range like {str(node).strip()[:80]!r} is known for size: and on: only; "
            "write size:[1M TO 5M] or on:[2026-01-01 TO 2026-03-31]"
        )

    def _plain(self, node: tree.Item) -> str:
        text = str(node).strip()
        return self._values[int(text[1:])] if text.startswith(_MARK) else text.strip('"')


def _check_wildcards(field: str, text: str) -> None:
    """Refuse wildcards that no index answers: silence about them would be a wrong answer."""
    is_address = bool(fields.FIELDS[field].roles) if field in fields.FIELDS else False
    if is_address and field != "domain":
        rest = text.removeprefix("*") if text.startswith("*@") else text.replace("+*@", "@", 1)
        how = "write bob+*@example.com for his extensions, @example.com for a domain"
    elif field == "domain":
        rest, how = text.removeprefix("*."), "write .example.com for a domain and all below it"
    elif field == "queue-id" or field.startswith(fields.HEADER):
        rest, how = text.rstrip("*"), "only the end may be left open, as in 4XY*"
    else:
        rest, how = text, "write whole words; what stands in quotes is taken as it is"
    wild = next((sign for sign in "*?" if sign in rest), None)
    if wild or not text.strip("*?"):
        raise DataError(f"{field}: cannot be searched by the wildcard in {text[:80]!r}; {how}")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _remedy(text: str) -> str:
    for name, _ in re.findall(r"([\w.-]+):(\s|$)", text):
        return f"{name}: is followed by nothing; write its value right after the colon"
    if re.search(r"(?:^|\()\s*(?:AND|OR)\b|\b(?:AND|OR|NOT)\s*(?:\)|$)", text):
        return "AND, OR and NOT need a condition on each side that they combine"
    return "quote values with signs in them, as in subject:\"what: a 'report'\""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _too_many() -> DataError:
    return DataError(f"the query has more than {wanted_.MOST} conditions; make several of it")
