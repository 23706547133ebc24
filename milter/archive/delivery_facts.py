"""What one event line says, as compact octets for one column, and back.

Promises: lossless for any JSON object.  The first octet is the format, so that values written today
stay readable when a better format comes; the phrases of a published format never change.  Addresses
stand as ids of the dictionary before the compressed text: once a person's row is emptied nothing in
it names them but what a text quotes, which erasure replaces.

Format 1: number of addresses (one octet, or 255 and four), their ids (eight octets each), the time
of the first fact (microseconds since 1970, eight octets), then raw deflate with PHRASES of a JSON
list of the facts, and, where the line says more than facts, an object of that at the end.  A fact
is a list: number of its form, microseconds since the first, its values without those at the end
that are absent, and an object of what the form has no place for.  An address is the number of its
id, or that and its spelling.

Raises: ValueError from `unpack` for an unknown format or damaged octets.

Does not: know which record the facts are of, or ask dictionaries.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from carbonseal.milter.archive import record, retrieve, rows, terms

Fact = Mapping[str, Any]

_FORMAT_1 = 1
_MANY = 255
_BASE = struct.Struct(">q")
_COUNT = struct.Struct(">I")
_LEVEL, _WINDOW, _MEMORY = 6, -12, 6
_MOST = 1 << 26  # octets of text: lines of logs are shorter by far
PHRASES = (
    b'"requeued""expired""deleted""rejected""discarded","reply":"milter-reject: END-OF-MESSAGE '
    b'from unknown[: 5.7.1 "postsuper""notified",{"kind":"queue_id":"","reply":"sender delay '
    b'status notification""sender non-delivery notification""orig_queue_id":""pickup""error""pipe"'
    b'"discard","none","4.7.0","4.7.1","4.3.0","4.2.2","4.2.0","5.0.0","5.1.0","5.1.2","5.2.2",'
    b'"5.4.4","5.4.6","5.7.1""bounced""host or domain name not found. Name service error for name='
    b' type=AAAA: Host not found, try again mail for  loops back to myself unknown user: \\"\\"'
    b" (in reply to end of DATA command (in reply to MAIL FROM command (in reply to RCPT TO command"
    b" said: 550 5.1.1 <: Recipient address rejected: User unknown in  virtual mailbox table local "
    b"recipient table relay recipient table said: 450 4.2.0 Greylisted, please try again later 451 "
    b"4.7.1 554 5.7.1 Message rejected 552 5.2.2 Mailbox full over quota Service unavailable "
    b'"delivery temporarily suspended: connect to "connect to :25: Connection timed out Connection '
    b"refused Network is unreachable No route to host lost connection with  while sending  "
    b"receiving the initial server greeting TLS is required, but was not offered by host "
    b'conversation with  timed out while "deferred","4.4.1","4.4.2","expired, returned to '
    b'sender""local","virtual",'
    b'"local","sent","2.0.0","delivered to mailbox","delivered to maildir","delivered to command: '
    b'","delivered to file: ","forwarded as "lmtp",127.0.0.1[127.0.0.1]:10024[private/dovecot-lmtp]'
    b'"250 2.0.0 Message accepted for delivery"250 2.1.5 Ok Saved"250 2.6.0 Queued mail for '
    b'delivery"250 ok "250 OK id="250 2.0.0 OK  - gsmtp"250 2.0.0 Ok: queued as "]:25","]:24"'
    b',"]:587",".mail.protection.outlook.com[.google.com[mx1.mx.mail.[10.[192.168.'
    b'[[1,0,"smtpd","localhost[127.0.0.1]"unknown[","],[1,"cleanup",null,null,"@mail.",null,0,'
    b'],[1,"qmgr",null,null,null,1],[0,"smtp",0,null,".example.com[","sent","2.0.0",[0.01,0,0.02,'
    b'0.03,0.05,0.1],"250 2.0.0 Ok: queued as 4"],[2,"removed"]]'
)
_PACKER = zlib.compressobj(level=_LEVEL, wbits=_WINDOW, memLevel=_MEMORY, zdict=PHRASES)


class _Form(NamedTuple):
    """Facts of one kind."""

    kind: str | None  # null: the first of the values
    names: tuple[str, ...]
    addresses: tuple[int, ...]  # places of those among the names
    beside: int  # keys of a usual fact that are not among the names


# Their order is stored.
_FORMS = (
    _Form(
        "attempt",
        tuple("service to orig_to next_hop status dsn delays reply".split()),
        (1, 2),
        2,
    ),
    _Form(
        "queued",
        tuple("service client login message_id reverse_path size recipients".split()),
        (4,),
        2,
    ),
    _Form(None, ("kind", "reply", "queue_id"), (), 1),
)
_BY_KIND = {form.kind: number for number, form in enumerate(_FORMS)}
_OTHER = 2


def addresses(facts: Iterable[Fact]) -> Iterator[str]:
    """The addresses that are packed as ids, as they are spelled."""
    for fact in facts:
        kind = fact.get("kind")
        if kind in {"attempt", "queued"}:
            form = _FORMS[_BY_KIND[kind]]
            for place in form.addresses:
                text = fact.get(form.names[place])
                if text and isinstance(text, str):
                    yield text


def pack(facts: Sequence[Fact], rest: Mapping[str, Any], ids: Mapping[str, int]) -> bytes:
    """The stored form; `ids`: those of `terms.mailbox` of every address."""
    slots: dict[int, int] = {}
    base = _base(facts)
    packed: list[Any] = [_packed(one, base, ids, slots) for one in facts]
    if rest:
        packed.append(rest)
    packer = _PACKER.copy()
    text = packer.compress(record.ascii_json(packed)) + packer.flush()
    count = len(slots)
    head = bytes((_FORMAT_1, count)) if count < _MANY else b"\1\xff" + _COUNT.pack(count)
    return head + struct.pack(f">{count}q", *slots) + _BASE.pack(base) + text


def _base(facts: Sequence[Fact]) -> int:
    for one in facts:
        found = microseconds(one.get("at"))
        if found is not None:
            return found
    return 0


def microseconds(at: Any) -> int | None:
    """A time as facts carry it, since 1970; None where it is not as ours are."""
    if not isinstance(at, str):
        return None
    try:
        found, is_usual = rows.microseconds(at)
    except ValueError:
        return None
    return found if is_usual else None


def _packed(fact: Fact, base: int, ids: Mapping[str, int], slots: dict[int, int]) -> list[Any]:
    number = _BY_KIND.get(fact.get("kind"), _OTHER)
    form = _FORMS[number]
    at = microseconds(fact.get("at"))
    values = [fact.get(name) for name in form.names]
    left: dict[str, Any] = {}
    there = len(values) - values.count(None)
    if at is None or len(fact) != there + form.beside or dict in map(type, values):
        left = _left(fact, form, has_time=at is not None)
        values = [None if name in left else fact.get(name) for name in form.names]
    for place in form.addresses:
        if values[place] is not None:
            values[place] = _address(values[place], ids, slots, left, form.names[place])
    while values and values[-1] is None:
        values.pop()
    if left:
        values.append(left)
    return [number, None if at is None else at - base, *values]


def _left(fact: Fact, form: _Form, *, has_time: bool) -> dict[str, Any]:
    """What the form has no place for.  What is there and null is not absent."""
    left = {
        name: value
        for name, value in fact.items()
        if name not in form.names or value is None or isinstance(value, dict)
    }
    if form.kind is not None:
        left.pop("kind", None)
    if has_time:
        left.pop("at", None)
    return left


def _address(
    value: Any, ids: Mapping[str, int], slots: dict[int, int], left: dict[str, Any], name: str
) -> Any:
    if not isinstance(value, str):
        left[name] = value
        return None
    if not value:
        return value
    mailbox = terms.mailbox(value)
    slot = slots.setdefault(ids[mailbox], len(slots))
    return slot if mailbox == value else [slot, value]


class Packed(NamedTuple):
    """A stored value before its addresses are looked up."""

    address_ids: tuple[int, ...]
    base: int
    facts: list[Any]
    rest: dict[str, Any]


def unpack(stored: bytes) -> Packed:
    """A stored value taken apart.  Raises: ValueError."""
    try:
        if stored[0] != _FORMAT_1:
            raise ValueError(f"stored facts are of unknown format {stored[0]}")
        count, at = stored[1], 2
        if count == _MANY:
            (count,) = _COUNT.unpack_from(stored, at)
            at += _COUNT.size
        ids = struct.unpack_from(f">{count}q", stored, at)
        at += 8 * count
        (base,) = _BASE.unpack_from(stored, at)
        expander = zlib.decompressobj(wbits=-15, zdict=PHRASES)
        text = expander.decompress(stored[at + _BASE.size :], _MOST)
        if not expander.eof:
            raise ValueError("they end too early, or are too long")
        found = json.loads(text)
        rest = found.pop() if found and isinstance(found[-1], dict) else {}
    except (IndexError, struct.error, zlib.error, ValueError, AttributeError) as fault:
        raise ValueError(f"stored facts are damaged: {fault}") from None
    return Packed(ids, base, found, rest)


def facts(packed: Packed, mailboxes: Mapping[int, str]) -> list[dict[str, Any]]:
    """The facts as the line had them; `mailboxes`: the dictionary's addresses by id.

    Raises: ValueError.
    """
    try:
        return [_fact(one, packed, mailboxes) for one in packed.facts]
    except (IndexError, TypeError, KeyError, OverflowError) as fault:
        raise ValueError(f"stored facts are damaged: {fault}") from None


def _fact(values: list[Any], packed: Packed, mailboxes: Mapping[int, str]) -> dict[str, Any]:
    form = _FORMS[values[0]]
    made: dict[str, Any] = {} if form.kind is None else {"kind": form.kind}
    if values[1] is not None:
        made["at"] = rows.moment_text(packed.base + values[1])
    left = values[-1] if len(values) > 2 and isinstance(values[-1], dict) else {}
    for place, (name, value) in enumerate(zip(form.names, values[2:], strict=False)):
        if value is None or value is left:
            continue
        if place in form.addresses and value != "":
            made[name] = _spelled(value, packed.address_ids, mailboxes)
        else:
            made[name] = value
    return made | left


def _spelled(value: Any, address_ids: Sequence[int], mailboxes: Mapping[int, str]) -> str:
    if isinstance(value, int):
        return mailboxes.get(address_ids[value], retrieve.ERASED)
    spelled: str = value[1]
    return spelled
