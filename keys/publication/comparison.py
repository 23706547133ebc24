"""What one server said at one link of a chain of aliases, and how it compares with the others.

Promises: pure.  A server that differs from the one with the newest serial and has an older one is
behind it (`stale-server`); one that lacks what others with the same serial have is `inconsistent`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import dns.name

from carbonseal.keys.publication import faults, judgement, servers
from carbonseal.keys.publication.reading import Content, Start
from carbonseal.keys.publication.servers import Server
from carbonseal.policies.key_life import ServerState, ServerView

MAX_LINKS: Final = 8  # CNAMEs one after the other
_MAX_TEXT: Final = 2048  # characters of a value that are kept


@dataclass(frozen=True, slots=True)
class Reply:
    """What one server said at one link of the chain."""

    server: Server
    at: datetime
    state: ServerState
    fault: str = ""
    about: str = ""  # of the fault
    note: str = ""
    bits: int = 0
    content: Content = field(default_factory=Content)
    start: Start | None = None


def view_of(name: dns.name.Name, reply: Reply) -> ServerView:
    """The reply as it is kept and shown, its fault in a sentence."""
    server = reply.server
    address = str(server.address) if server.address is not None else ""
    about = reply.about
    if reply.fault and server.address is not None:
        shown = f"{server.name} ({address})" if server.name else address
        about = faults.sentence(
            reply.fault, place=f"{servers.text(name)} at {shown}", about=reply.about
        )
    first = judgement.joined(reply.content.texts[0]) if reply.content.texts else ""
    return ServerView(
        server=server.name,
        address=address,
        state=reply.state,
        at=reply.at,
        text=first[:_MAX_TEXT],
        fault=reply.fault,
        about=about,
        ttl=reply.content.ttl,
        serial=reply.start.serial if reply.start is not None else None,
    )


def dangling(reply: Reply, path: tuple[dns.name.Name, ...]) -> Reply:
    """A reply at the end of `path`; what is missing there is an alias that leads to nothing."""
    if reply.fault != "missing" or len(path) == 1:
        return reply
    return dataclasses.replace(reply, fault="cname-broken", about=servers.text(path[-2]))


def looped(reply: Reply) -> Reply:
    """A reply whose alias is followed no further."""
    return dataclasses.replace(
        reply, state=ServerState.OTHER, fault="cname-loop", about=str(MAX_LINKS)
    )


def compared(replies: list[Reply]) -> list[Reply]:
    """The replies, those marked that are behind the newest or differ from their equals."""
    known = [reply for reply in replies if reply.start is not None]
    if len({_outcome(reply) for reply in known}) < 2:
        return replies
    newest = _newest(known)
    return [_beside(reply, newest, known) if reply in known else reply for reply in replies]


def _beside(reply: Reply, newest: Reply, known: list[Reply]) -> Reply:
    assert reply.start is not None
    assert newest.start is not None
    if _outcome(reply) != _outcome(newest) and _is_before(reply.start, newest.start):
        about = f"serial {reply.start.serial}, {_who(newest)} has {newest.start.serial}"
        return dataclasses.replace(reply, fault="stale-server", about=about)
    others = [one for one in known if one.state is not ServerState.ABSENT]
    if reply.fault == "missing" and reply.start == newest.start and others:
        about = f"serial {reply.start.serial} as {_who(others[0])}"
        return dataclasses.replace(reply, fault="inconsistent", about=about)
    return reply


def _who(reply: Reply) -> str:
    return reply.server.name or str(reply.server.address)


def _outcome(reply: Reply) -> tuple[ServerState, dns.name.Name | None, frozenset[object]]:
    # The same key may be written in two ways.
    texts = () if reply.state is ServerState.SHOWN else reply.content.texts
    return reply.state, reply.content.alias, frozenset(texts)


def _newest(known: Iterable[Reply]) -> Reply:
    newest: Reply | None = None
    for reply in known:
        if newest is None or _is_before(newest.start, reply.start):
            newest = reply
    assert newest is not None
    return newest


def _is_before(first: Start | None, second: Start | None) -> bool:
    """Serial number arithmetic, RFC 1982: serials go round."""
    if first is None or second is None:
        return False
    return 0 < (second.serial - first.serial) % 2**32 < 2**31
