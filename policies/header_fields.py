"""What header fields say: authors, recipients, identifier, text, date.

Promises: reads raw values as the MTA hands them over (leading space, LF or CRLF folding, bytes in
any charset), never raises, and takes linear time.  `authors` decides who may be signed for: its
state is ONE only where no mail reader can show another author (see `address_list`).  Everything
else is lenient, because it serves people and search.

Does not: know our domains, or look at the rest of the header section.

See also: `header_text`, whose `decode_text` and `date` are reachable from here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from carbonseal.policies import address_list, domains, header_text
from carbonseal.policies.address import Address

_SHORT = 256
_FOLDING = re.compile(r"\r?\n[ \t]+")
_OPENING = re.compile(r"[<(]")
# What nearly all mail writes, where no reading can differ from another.  It is six times as quick
# as cutting into tokens, and it is paid for each message by the milter and by the writer.
# Each branch begins with signs of its own, so nothing is tried twice.  The group is not possessive:
# Python 3.11.2 forgets to step back from a branch that fails in the middle.
_PHRASE = r"""(?:[!#-'*+\-./0-9=?A-Z^_`a-z{|}~]++|[ \t]++|"[ !#-\[\]-~]*+")*"""
_ADDR_SPEC = r"[!#-'*+\-./0-9A-Z^_`a-z{|}~]{1,64}+@[A-Za-z0-9_.-]*[A-Za-z0-9_]"
_PLAIN = re.compile(rf"(?:{_PHRASE}<({_ADDR_SPEC})>|[ \t]*+({_ADDR_SPEC}))[ \t]*+(?:,(?=.)|\Z)")
_PLAIN_IDENTIFIER = re.compile(rb"[ \t]*+<([!-;=?-~]++)>[ \t\r\n]*+")

decode_text = header_text.decode_text
date = header_text.date


class AuthorState(StrEnum):
    """How many authors the From fields name (RFC 5322, section 3.6.2)."""

    ONE = "one"  # exactly one mailbox in exactly one field
    NONE = "none"  # no From field
    SEVERAL_FIELDS = "several-fields"
    SEVERAL_MAILBOXES = "several-mailboxes"
    GROUP = "group"  # RFC 6854, with or without members
    UNPARSABLE = "unparsable"  # no mailbox, or doubt about it


@dataclass(frozen=True, slots=True)
class Authors:
    """The reading of all From fields."""

    state: AuthorState
    mailboxes: tuple[Address, ...]  # the author if ONE; otherwise claims, good for search only


def authors(values: Sequence[bytes]) -> Authors:
    """The author of a message, from the values of all its From fields."""
    if not values:
        return Authors(AuthorState.NONE, ())
    if len(values) > 1:
        claims = tuple(mailbox for value in values for mailbox in mailboxes(value))
        return Authors(AuthorState.SEVERAL_FIELDS, claims)
    if len(values[0]) > _SHORT:
        return _authors.__wrapped__(values[0])
    return _authors(values[0])


# The same authors write again and again.  Long values are read anew each time, so that strangers
# cannot fill the memory.
@lru_cache(maxsize=2048)
def _authors(value: bytes) -> Authors:
    text = address_list.unfold(value)
    plain = _plain(text)
    if plain:
        is_one = len(plain) == 1
        return Authors(AuthorState.ONE if is_one else AuthorState.SEVERAL_MAILBOXES, plain)
    reading = address_list.read_strictly(text)
    if reading is None:
        return Authors(AuthorState.UNPARSABLE, mailboxes(value))
    if reading.has_group:
        return Authors(AuthorState.GROUP, reading.mailboxes)
    is_one = len(reading.mailboxes) == 1
    state = AuthorState.ONE if is_one else AuthorState.SEVERAL_MAILBOXES
    return Authors(state, reading.mailboxes)


def mailboxes(value: bytes) -> tuple[Address, ...]:
    """The mailboxes of To, Cc, Sender or Reply-To in order, members of groups included.

    A single word without a domain is an unqualified address, as in 'To: root'.
    """
    text = address_list.unfold(value)
    return _plain(text) or tuple(address_list.read_leniently(text))


def _plain(text: str) -> tuple[Address, ...]:
    """The mailboxes of an unfolded list that holds nothing unusual; () for any other.

    Narrower than either reading of `address_list`, and where it answers it answers the same.
    """
    found, position = [], 0
    while position < len(text):
        element = _PLAIN.match(text, position)
        if element is None:
            return ()
        local_part, _, typed = (element[1] or element[2]).partition("@")
        domain = domains.a_labels(typed)
        if domain is None:
            return ()
        found.append(Address(local_part, domain))
        position = element.end()
    return tuple(found)


def message_id(value: bytes) -> str:
    """The identifier of a Message-ID field without <>, exactly as other systems will quote it.

    Folding inside it is removed together with its white space; comments outside <> are removed.
    '' when there is none; a value without <> is taken whole.  Undecodable bytes are surrogates.
    """
    plain = _PLAIN_IDENTIFIER.fullmatch(value)
    if plain is not None:
        return plain[1].decode("ascii")
    text = _FOLDING.sub("", value.decode("utf-8", "surrogateescape").strip(" \t\r\n"))
    kept, position = [], 0
    while opening := _OPENING.search(text, position):
        kept.append(text[position : opening.start()])
        end = address_list.comment_end(text, opening.end()) if opening[0] == "(" else -1
        if end < 0:
            break
        position = end
    else:
        return "".join((*kept, text[position:])).strip(" \t")
    rest = text[opening.start() :]
    _, angle, identifier = rest.partition("<")
    if not angle:
        return "".join((*kept, rest)).strip(" \t")  # a parenthesis without an end
    return identifier.partition(">")[0].strip(" \t")
